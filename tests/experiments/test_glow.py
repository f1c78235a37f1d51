"""Glow's experiments: what is trained on, what is reported by label, and the numbers that the reference names."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gmbook import data, experiments
from gmbook.core.flows.couplings import SplitCoupling
from gmbook.core.flows.multiscale import Multiscale
from gmbook.data import ImageSet
from gmbook.experiments import glow
from gmbook.papers.glow import Glow


@pytest.fixture(scope="module")
def digits():
    images, test = data.digits("train"), data.digits("test")
    return [ImageSet(i.x * 15, i.y, i.name, i.split, i.classes) for i in (images, test)]


@pytest.fixture(scope="module")
def flow(digits):
    """A new flow of 8×8 images whose top has another mean for each label."""
    torch.manual_seed(0)
    model = Glow.on_images((1, 8, 8), 2, 1, 8, classes=10).initialise(digits[0].x[:64])
    nn.init.normal_(model.labelled.mean)
    return model.eval()


def test_the_gpu_model_for_cifar10_has_the_papers_numbers():
    """Three levels of 32 steps, coupling networks of 512 channels, 8 bits, no labels."""
    model = experiments.find("glow", "cifar10", "gpu").model()
    couplings = [m for m in model.modules() if isinstance(m, SplitCoupling)]
    assert len(couplings) == 3 * 32 and sum(isinstance(m, Multiscale) for m in model.modules()) == 2
    assert all(c.net.net[1].map.weight.shape == (512, 512, 1, 1) for c in couplings)
    assert model.levels == 256 and model.labelled is None


def test_batches_are_integers_with_their_labels(digits):
    images, _ = digits
    x, y = next(glow.batches(images, 0, 64))
    assert x.dtype == torch.uint8 and x.shape == (64, 1, 8, 8) and y.shape == (64,)
    pairs = {(k.flatten().tolist().__str__(), int(label)) for k, label in zip(images.x, images.y)}
    assert all((k.flatten().tolist().__str__(), int(label)) in pairs for k, label in zip(x, y))


def test_bits_under_every_label_are_those_of_the_model(flow, digits):
    """With one noise for all labels: a column is what the model says when it is given that label."""
    k = digits[1].x[:7]
    torch.manual_seed(3)
    columns = glow.bits(flow, k, draws=2)
    assert columns.shape == (2, 7, 10)
    torch.manual_seed(3)
    noise = [flow.prepare(k) for _ in range(2)]
    for draw, x in enumerate(noise):
        for label in (0, 4, 9):
            nats = -flow.log_prob(x, torch.full((7,), label)).detach()
            torch.testing.assert_close(columns[draw, :, label], nats / (64 * math.log(2)) + 8, rtol=1e-5, atol=1e-5)
    assert (columns.std(2) > 1e-3).all()


def test_the_report_takes_the_right_label(flow, digits):
    images, test = digits
    found = {m.key: m for m in glow.report(flow, images, test, most=60)}
    torch.manual_seed(0)
    columns = glow.bits(flow, test.x[:60]).mean(0)
    right = columns[torch.arange(60), test.y[:60]]
    assert math.isclose(found["bits_per_dim_bound"].value, right.mean().item(), rel_tol=1e-6)
    wrong = torch.stack([row[[c for c in range(10) if c != y]].mean() for row, y in zip(columns, test.y[:60].tolist())])
    nats = (wrong - right).mean().item() * 64 * math.log(2)
    assert math.isclose(found["nats_of_a_wrong_label"].value, nats, rel_tol=1e-3, abs_tol=1e-3)
    share = (columns.argmin(1) == test.y[:60]).double().mean().item()
    assert math.isclose(found["classified_by_bayes"].value, share)
    assert found["bits_per_dim_bound"].baselines["pixel_gaussian"] > 0


def test_without_labels_the_report_is_of_one_column(digits):
    images, test = digits
    torch.manual_seed(1)
    plain = Glow.on_images((1, 8, 8), 1, 1, 8).initialise(images.x[:64]).eval()
    assert [m.key for m in glow.report(plain, images, test, most=20)] == ["bits_per_dim_bound"]


def test_samples_are_scaled_of_their_labels_and_cool(flow):
    labels = torch.tensor([3] * 30 + [7] * 30)
    cold = glow.sample(flow, labels, temperature=0.0)
    assert cold.shape == (60, 1, 8, 8) and cold.min() >= -1 and cold.max() <= 1
    assert (cold[:30] - cold[0]).abs().max() < 1e-4 and (cold[30:] - cold[30]).abs().max() < 1e-4
    assert (cold[0] - cold[30]).abs().max() > 1e-3


class Blown(nn.Module):
    """A flow whose way back leaves the pixels in all the ways there are."""

    device = torch.device("cpu")

    def sample(self, n, y=None, temperature=1.0):
        x = torch.full((n, 1, 4, 4), 0.5)
        if temperature == 1:
            x[:5, 0, 0, 0] = torch.tensor([math.nan, math.inf, -math.inf, 11.0, -9.0])
        return x


def test_exploded_samples_are_counted_and_stay_in_the_sheet():
    """A pixel far out is white or black, one that is no number grey; the sample is not left out, and is counted."""
    warm, cool, share = glow.temperatures(Blown(), torch.zeros(8, dtype=torch.int64))
    assert share.value == 4 / 8 and share.baselines == {"cooled": 0.0}
    assert len(warm) == 8 and warm.isfinite().all() and warm.abs().max() == 1
    assert warm[:5, 0, 0, 0].tolist() == [0, 1, -1, 1, -1]
    assert torch.equal(cool, torch.zeros(8, 1, 4, 4))
