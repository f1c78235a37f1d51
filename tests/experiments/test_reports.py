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
from gmbook.networks.unet import UNet
from gmbook.papers.ddpm import DDPM
from gmbook.papers.flow_matching import FlowMatching

DISTANCE = "Fréchet distance of EfficientNet-Lite0 features"


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
    report = flow_matching.evaluate_cifar10(model, 12)
    value = report["bits/dim given the label, 12 test images, one probe"]
    mean_square = x.square().mean().item()  # −log N(x; 0, I) = D (log 2π + x²)/2, and pixels of width 2/256
    expected = (math.log(2 * math.pi) + mean_square) / 2 / math.log(2) + 7
    assert value == pytest.approx(expected, abs=0.01)
    assert report["bits/dim of a full-covariance Gaussian of the pixels, same images"] == 4
    assert report[DISTANCE] > report["the same, real against real"] > 0
    assert "guidance s = 1.5" in report["sampling"] and report["samples"] == 12


def test_realnvp_on_cifar10_is_reported_whole(cheap):
    torch.manual_seed(0)
    model = realnvp.model((3, 32, 32), width=4, blocks=0, scales=1).eval()
    report = realnvp.evaluate_cifar10(model, 10)
    after, plain = (
        report[f"bits/dim of a full-covariance Gaussian {where}, same images"]
        for where in ("after the same preprocessing", "of the pixels")
    )
    assert (after, plain) == (pytest.approx(3.05), 4)
    assert 4 < report["bits/dim, bound, 10 test images, alpha = 0.05"] < 9  # an untrained flow knows nothing
    assert report["samples"] == 10 and report[DISTANCE] > report["the same, real against real"]


def test_gan_on_mnist_is_reported_whole(small_images):
    torch.manual_seed(0)
    report = gan.evaluate(gan.model((1, 28, 28), 4).eval(), 50)
    assert report["classifier Fréchet distance"] > 2 * report["the same, real against real"]
    assert sum(report["class histogram"]) == 50 and report["precision"] < 0.2


def test_vae_on_cifar10_is_reported_whole(cheap):
    """A decoder that says 0 whatever the code, and an encoder that says the prior: one known Gaussian."""
    model = vae.colour_model(4, 8).eval()
    for layer in (model.encoder.last, model.decoder.body.rest[-1]):
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    model.likelihood.log_std.data.fill_(math.log(0.5))
    report = vae.evaluate_cifar10(model, 12)
    mean_square = centred(data.cifar10("test").x[:12]).square().mean().item()
    expected = (math.log(2 * math.pi * 0.25) + mean_square / 0.25) / 2 / math.log(2) + 7
    assert report["bits/dim, bound, 12 test images, 10 draws"] == pytest.approx(expected, abs=0.01)
    assert report["bits/dim, IWAE bound, k = 100, 12 test images"] == pytest.approx(expected, abs=0.01)
    assert report["active units"] == 0 and report["samples"] == 12
    assert report["bits/dim of a full-covariance Gaussian of the pixels, same images"] == 4
    assert vae.sample_colours(model, torch.zeros(3)).unique().tolist() == pytest.approx(
        [1 / 255], abs=1e-6
    )  # the level of 0


def test_gan_on_cifar10_is_reported_whole(cheap):
    torch.manual_seed(0)
    report = gan.evaluate_cifar10(gan.model((3, 32, 32), 4).eval(), 12)
    assert report["samples"] == 12 and report[DISTANCE] > report["the same, real against real"] > 0


def test_ddpm_on_cifar10_is_reported_whole(cheap):
    torch.manual_seed(0)
    net = UNet(3, width=8, multipliers=(1,), classes=CLASSES, drop=0.1, patch=8)
    model = DDPM(net, (3, 32, 32), steps=60, clip=1.0, levels=256).eval()
    report = ddpm.evaluate_cifar10(model, 12)
    assert report["bits/dim, bound given the label, 12 test images"] > 8  # it predicts no noise: worse than uniform
    assert report[DISTANCE] > report["the same, real against real"] and "guidance s = 1.5" in report["sampling"]
