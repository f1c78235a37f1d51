"""What the experiments on images report of models whose numbers are known."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from gmbook import data
from gmbook.experiments import ddpm, flow_matching, gan, realnvp, vae
from gmbook.experiments.images import CLASSES, balanced, centred
from gmbook.metrics import efficientnet, images
from gmbook.metrics.metric import Metric, by_key
from gmbook.networks.unet import UNet
from gmbook.papers.ddpm import DDPM
from gmbook.papers.flow_matching import FlowMatching

DISTANCE = "efficientnet_frechet_distance"


def above_the_floor(report: dict[str, Metric], samples: int) -> bool:
    """Whether there is a distance, of so many samples, and it is above that of real images."""
    distance = report[DISTANCE]
    return distance.value > distance.floor > 0 and distance.protocol.samples == samples


class Gaussian:
    """In the place of the fitted one: four bits for everything on the pixels, three after a logit; grey samples."""

    def __init__(self, train, levels=256, space=None):
        assert len(train) == 3200 and levels == 256
        self.value = 4.0 if space is None else 3.0 + space.alpha

    def bits(self, test):
        return torch.full((len(test),), self.value)

    def sample(self, n):
        return torch.randint(100, 156, (n, 3, 32, 32), dtype=torch.uint8)


@pytest.fixture
def cheap(monkeypatch, small_images):
    """Pixels shrunk to 4×4 in the place of the network's features, and no Gaussian fitted to 3,072 pixels."""
    monkeypatch.setattr(efficientnet, "features", lambda x: F.adaptive_avg_pool2d(x, 4).flatten(1))
    for module in (images, flow_matching, realnvp, vae):
        monkeypatch.setattr(module, "PixelGaussian", Gaussian)


def test_balanced_labels():
    assert balanced(20).tolist() == [label for label in range(10) for _ in range(2)]
    assert torch.bincount(balanced(1003), minlength=10).tolist().count(100) == 7


def test_flow_matching_on_cifar10_is_reported_whole(cheap):
    """An untrained network predicts velocity 0: noise stays noise, whose bits/dim are known in closed form."""
    net = UNet(3, width=8, multipliers=(1,), classes=CLASSES, drop=0.1, patch=8)
    model = FlowMatching(net, (3, 32, 32)).eval()
    x = centred(data.cifar10("test").x[:12])
    report = by_key(flow_matching.evaluate_cifar10(model, 12))
    found = report["bits_per_dim"]
    mean_square = x.square().mean().item()  # −log N(x; 0, I) = D (log 2π + x²)/2, and pixels of width 2/256
    expected = (math.log(2 * math.pi) + mean_square) / 2 / math.log(2) + 7
    assert found.value == pytest.approx(expected, abs=0.01)
    assert (found.protocol.data, found.protocol.examples) == ("CIFAR-10, test", 12)
    assert found.baselines == {"pixel_gaussian": 4}
    assert above_the_floor(report, 12) and "guidance s = 1.5" in report[DISTANCE].protocol.sampler


def test_realnvp_on_cifar10_is_reported_whole(cheap):
    torch.manual_seed(0)
    model = realnvp.model((3, 32, 32), width=4, blocks=0, scales=1).eval()
    report = by_key(realnvp.evaluate_cifar10(model, 10))
    found = report["bits_per_dim_bound"]
    after, plain = found.baselines["gaussian_after_logit"], found.baselines["pixel_gaussian"]
    assert (after, plain) == (pytest.approx(3.05), 4)
    assert 4 < found.value < 9  # an untrained flow knows nothing
    assert found.protocol.setting == "alpha = 0.05" and found.protocol.examples == 10
    assert above_the_floor(report, 10)


def test_gan_on_mnist_is_reported_whole(small_images):
    torch.manual_seed(0)
    report = by_key(gan.evaluate(gan.model((1, 28, 28), 4).eval(), 50))
    distance = report["classifier_frechet_distance"]
    assert distance.value > 2 * distance.floor
    assert sum(report["class_counts"].value) == 50 and report["precision"].value < 0.2


def test_vae_on_cifar10_is_reported_whole(cheap):
    """A decoder that says 0 whatever the code, and an encoder that says the prior: one known Gaussian."""
    model = vae.colour_model(4, 8).eval()
    for layer in (model.encoder.last, model.decoder.body.rest[-1]):
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    model.likelihood.log_std.data.fill_(math.log(0.5))
    report = by_key(vae.evaluate_cifar10(model, 12))
    mean_square = centred(data.cifar10("test").x[:12]).square().mean().item()
    expected = (math.log(2 * math.pi * 0.25) + mean_square / 0.25) / 2 / math.log(2) + 7
    bound, tighter = report["bits_per_dim_bound"], report["bits_per_dim_iwae"]
    assert bound.value == pytest.approx(expected, abs=0.01) and tighter.value == pytest.approx(expected, abs=0.01)
    assert (bound.protocol.draws, tighter.protocol.draws) == (10, 100)
    assert (bound.protocol.examples, tighter.protocol.examples) == (12, 12)
    assert report["active_units"].value == 0 and above_the_floor(report, 12)
    assert bound.baselines == {"pixel_gaussian": 4}
    assert vae.sample_colours(model, torch.zeros(3)).unique().tolist() == pytest.approx(
        [1 / 255], abs=1e-6
    )  # the level of 0


def test_gan_on_cifar10_is_reported_whole(cheap):
    torch.manual_seed(0)
    report = by_key(gan.evaluate_cifar10(gan.model((3, 32, 32), 4).eval(), 12))
    assert above_the_floor(report, 12)


def test_ddpm_on_cifar10_is_reported_whole(cheap):
    torch.manual_seed(0)
    net = UNet(3, width=8, multipliers=(1,), classes=CLASSES, drop=0.1, patch=8)
    model = DDPM(net, (3, 32, 32), steps=60, clip=1.0, levels=256).eval()
    report = by_key(ddpm.evaluate_cifar10(model, 12))
    assert report["bits_per_dim_bound"].value > 8  # it predicts no noise: worse than uniform
    assert above_the_floor(report, 12) and "guidance s = 1.5" in report[DISTANCE].protocol.sampler
