"""FFJORD's experiments: digits halved, what is reported of a flow that is known, and which run is penalised."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gmbook import data, experiments
from gmbook.data import ImageSet
from gmbook.experiments import ffjord
from gmbook.papers.ffjord import FFJORD


class Shrink(nn.Module):
    """f = −2z everywhere, with a weight that is trained by nobody."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(2.0))

    def forward(self, z, t, y=None):
        return -self.rate * z


@pytest.fixture(scope="module")
def digits():
    images, test = data.digits("train"), data.digits("test")
    return [ImageSet(i.x * 15, i.y, i.name, i.split, i.classes) for i in (images, test)]


def test_halving_takes_the_mean_of_its_own_four_pixels(digits):
    images, _ = digits
    small = ffjord.halved(images)
    assert small.x.shape == (len(images), 1, 4, 4) and small.x.dtype == torch.uint8
    assert small.name == f"{images.name} at 4×4" and small.levels == 256
    four = [int(v) for v in images.x[5, 0, 2:4, 6:8].flatten()]
    assert int(small.x[5, 0, 1, 3]) == round(sum(four) / 4)
    assert torch.equal(small.y, images.y)


def test_the_report_of_a_known_flow(digits):
    """f = −2z on 4×4 pixels: its density, its energies and its evaluations are known."""
    train, test = (ffjord.halved(part) for part in digits)
    model = FFJORD(Shrink(), (1, 4, 4), ffjord.ALPHA, rtol=1e-3, atol=1e-3)
    found = {m.key: m for m in ffjord.report(model, train, test, most=60)}
    torch.manual_seed(0)
    p = ffjord.ALPHA + (1 - 2 * ffjord.ALPHA) * ((test.x[:60] + torch.rand(60, 1, 4, 4)) / 256).double()
    z, stretch = (p / (1 - p)).log(), (0.9 / (p * (1 - p))).log()
    square = z.square().flatten(1).sum(1)
    nats = (square * math.exp(-4) + 16 * math.log(2 * math.pi)) / 2 + 32 - stretch.flatten(1).sum(1)
    bits = (nats / 16 / math.log(2) + 8).mean().item()
    assert found["bits_per_dim_bound"].value == pytest.approx(bits, abs=1e-4)
    assert abs(found["bits_per_dim_more_when_solved_coarsely"].value) < 1e-3
    kinetic = (square * 2 * (1 - math.exp(-4)) / 2 / 16).mean().item()
    assert found["kinetic_energy_per_pixel"].value == pytest.approx(kinetic, rel=1e-4)
    assert found["jacobian_energy_per_pixel"].value == pytest.approx(4.0, rel=1e-4)
    coarse, fine = (found[f"evaluations_solved_{how}"].value for how in ("coarsely", "finely"))
    assert 8 <= coarse < fine < 80
    assert set(found["bits_per_dim_bound"].baselines) == {"histogram", "gaussian_after_logit", "pixel_gaussian"}


def test_one_run_is_penalised_and_the_other_is_not():
    plain, calm = (experiments.find("ffjord", name, "laptop") for name in ffjord.WEIGHTS)
    assert plain.recipe == calm.recipe
    for experiment, weight in ((plain, 0.0), (calm, 5.0)):
        model = experiment.model()
        assert (model.kinetic, model.jacobian, model.cnf.with_jacobian) == (weight, weight, weight > 0)
        assert model.shape == (1, 14, 14) and model.levels == 256


def test_a_live_model_fits_the_images_that_are_there():
    small = ffjord.halved(data.digits("train"))
    model = ffjord.live(small)
    assert (model.shape, model.levels) == ((1, 4, 4), 17) and model.loss(small.x[:8]).isfinite()


def test_samples_are_solved_finely_and_scaled():
    torch.manual_seed(1)
    drawn = ffjord.sample(ffjord.digits(0.0, 4, (1, 4, 4)), torch.zeros(7))
    assert drawn.shape == (7, 1, 4, 4) and drawn.min() >= -1 and drawn.max() <= 1 and drawn.std() > 0.1
