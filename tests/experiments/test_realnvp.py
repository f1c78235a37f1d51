"""RealNVP's experiments: what is trained on, what is reported, and the numbers that the reference names."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gmbook import data, experiments
from gmbook.core.flows.density import Flow, StandardLogistic
from gmbook.core.flows.pixels import Logit
from gmbook.data import ImageSet
from gmbook.experiments import realnvp
from gmbook.train import train


@pytest.fixture(scope="module")
def digits():
    return data.digits("train"), data.digits("test")


def test_the_gpu_model_for_cifar10_has_the_papers_numbers():
    """Two scales: 3 + 3 couplings, then 4; eight residual blocks of 64 maps in each; α = 0.05."""
    logit, flow = experiments.find("realnvp", "cifar10", "gpu").model().bijection.layers
    assert logit.alpha == 0.05
    couplings = [m for m in flow.modules() if type(m).__name__ == "AffineCoupling"]
    assert len(couplings) == 10 and [c.mask.shape[0] for c in couplings] == [1] * 3 + [12] * 3 + [1] * 4
    for coupling in couplings:
        blocks = [m for m in coupling.net if type(m).__name__ == "Residual"]
        assert len(blocks) == 8 and all(b.body[1].weight.shape == (64, 64, 3, 3) for b in blocks)


@pytest.mark.parametrize(
    ("dataset", "blocks", "squeezed"), [("mnist", 2, {4, 8}), ("cifar10", 1, {12})], ids=["mnist", "cifar10"]
)
def test_the_recorded_models_have_the_blocks_and_downscalings_of_the_chapters_table(dataset, blocks, squeezed):
    """Networks of 32 maps; MNIST 2 blocks and two downscalings, CIFAR-10 1 block and one (section 9 of chapter 03)."""
    logit, flow = experiments.find("realnvp", dataset, "laptop").model().bijection.layers
    couplings = [m for m in flow.modules() if type(m).__name__ == "AffineCoupling"]
    assert {c.mask.shape[0] for c in couplings} == {
        1
    } | squeezed  # a checkerboard has one channel; between two squeezes half are finished
    for coupling in couplings:
        found = [m for m in coupling.net if type(m).__name__ == "Residual"]
        assert len(found) == blocks and all(b.body[1].weight.shape == (32, 32, 3, 3) for b in found)


def test_batches_are_integers_and_flips_mirror_half(digits):
    images, _ = digits
    (x,) = next(realnvp.batches(images, 0, 64))
    assert x.dtype == torch.uint8 and x.shape == (64, 1, 8, 8)
    stripes = torch.arange(8, dtype=torch.uint8).expand(512, 1, 8, 8)
    (x,) = next(realnvp.batches(ImageSet(stripes, torch.zeros(512), "", "train", ()), 0, 512, flip=True))
    mirrored = (x[:, 0, 0, 0] == 7).double().mean()
    assert 0.4 < mirrored < 0.6 and set(x[:, 0, 0, 0].tolist()) == {0, 7}


def test_the_report_of_a_law_whose_bits_are_known(digits):
    """A logistic base behind the logit costs log₂ 17 − log₂ 0.9 bits whatever the image and the noise."""
    images, test = digits
    flow = Flow(Logit(realnvp.ALPHA), (1, 8, 8), base=StandardLogistic((1, 8, 8)), levels=17)
    report = realnvp.report(flow, images, test, most=300)
    found, spread = report
    bits, error, beside = found.value, found.error, found.baselines
    assert math.isclose(bits, math.log2(17) - math.log2(0.9), abs_tol=1e-5)
    assert error < 1e-5 and spread.value < 1e-5
    assert 2.0 < beside["histogram"] < math.log2(17)
    assert 2.0 < beside["gaussian_after_logit"] < beside["pixel_gaussian"] < bits


def test_bits_draw_anew_and_average_to_the_bound(digits):
    """Each draw of u gives another number; a Gaussian base makes them differ, a logistic one does not."""
    _, test = digits
    flow = Flow(Logit(realnvp.ALPHA), (1, 8, 8), levels=17)
    values = realnvp.bits(flow, test.x[:20], draws=3)
    assert values.shape == (3, 20) and (values.std(0) > 1e-4).all()


def test_samples_are_scaled_and_clipped():
    class Stub(nn.Module):
        def sample(self, n):
            return torch.tensor([-1.0, 0.0, 0.25, 1.0, 9.0]).reshape(1, 1, 1, 5).expand(n, 1, 1, 5)

    drawn = realnvp.sample(Stub(), torch.zeros(501))
    assert drawn.shape == (501, 1, 1, 5)
    assert drawn[0].flatten().tolist() == [-1.0, -1.0, -0.5, 1.0, 1.0]


def test_a_live_model_learns(digits):
    """Thirty steps on the digits: below the bits of its own start by a wide margin, in evaluation mode."""
    images, test = digits
    torch.manual_seed(0)
    flow = realnvp.live(images)
    before = realnvp.bits(flow.eval(), test.x[:100], draws=1).mean()
    _ = list(train(flow, realnvp.batches(images, 0, 32), steps=30, lr=3e-3, decay="cosine"))
    after = realnvp.bits(flow.eval(), test.x[:100], draws=1).mean()
    assert before - after > 0.5
