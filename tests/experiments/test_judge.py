"""The judges on images whose verdict is known: real ones, memorised ones, a Gaussian's, and noise."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gmbook import data
from gmbook.experiments import classifier, ddpm, flow_matching, gan, judge, realnvp, vae
from gmbook.experiments.ddpm import CLASSES, balanced
from gmbook.metrics import efficientnet
from gmbook.networks.unet import UNet
from gmbook.papers.ddpm import DDPM
from gmbook.papers.flow_matching import FlowMatching

DISTANCE = "Fréchet distance of EfficientNet-Lite0 features"


def part(images: data.ImageSet) -> data.ImageSet:
    """The first 3,200 images: a few more than CIFAR-10's pixels, so that a covariance can be fitted."""
    return replace(images, x=images.x[:3200], y=images.y[:3200])


@pytest.fixture
def small(monkeypatch, data_home):
    """A reference of 300 images and a training set of 3,200, so that a test takes seconds."""
    mnist, cifar10 = data.mnist, data.cifar10
    monkeypatch.setattr(judge, "REFERENCE", 300)
    monkeypatch.setattr(data, "mnist", lambda split: part(mnist(split)))
    monkeypatch.setattr(data, "cifar10", lambda split: part(cifar10(split)))


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
def cheap(monkeypatch, small):
    """Pixels shrunk to 4×4 in the place of the network's features, and no Gaussian fitted to 3,072 pixels."""
    monkeypatch.setattr(efficientnet, "features", lambda x: F.adaptive_avg_pool2d(x, 4).flatten(1))
    for module in (judge, flow_matching, realnvp, vae):
        monkeypatch.setattr(module, "PixelGaussian", Gaussian)


def test_real_images_are_two_disjoint_samples():
    """Of images that are all different, as a one-hot pixel each: 600 distinct ones come out."""
    x = (255 * torch.eye(5600, dtype=torch.uint8)).reshape(5600, 1, 80, 70)
    test = data.ImageSet(x, torch.zeros(5600), "", "test", ())
    real, other = judge.real_images(test, 500)
    places = [part.flatten(1).argmax(1).tolist() for part in (real, other)]
    assert (len(real), len(other)) == (5000, 500) and len(set(places[0] + places[1])) == 5500
    assert max(places[0]) > 5500 and min(places[0]) < 100  # from all of the file
    with pytest.raises(ValueError, match="at most 600 samples"):
        judge.real_images(test, 601)


def test_real_digits_pass_and_noise_does_not(small):
    train, test = data.mnist("train"), data.mnist("test")
    net = classifier.recorded()
    real = judge.judge_digits(data.scale(test.x[-300:]), test.y[-300:], net)
    floor = real["the same, real against real"]
    assert real["classifier Fréchet distance"] < 2 * floor and real["precision"] > 0.8 and real["recall"] > 0.8
    assert real["read as the class asked for"] > 0.97
    assert sum(real["class histogram"]) == 300 and min(real["class histogram"]) > 10
    noise = judge.judge_digits(torch.rand(300, 1, 28, 28) * 2 - 1, None, net)
    assert noise["classifier Fréchet distance"] > 5 * floor and noise["precision"] < 0.1
    assert "read as the class asked for" not in noise
    copied = judge.judge_digits(data.scale(train.x[:200]), None, net)
    assert copied["nearest training image, RMS"] < 1e-3 < 0.1 < copied["the same for test images"]


@pytest.mark.skipif(not efficientnet.installed(), reason="needs the extra `features`")
def test_colour_features_tell_images_from_their_own_gaussian(small):
    """Other real images are near the floor; a Gaussian with the right mean and covariance is far above it."""
    images = data.cifar10("valid")
    report = judge.judge_colours(data.scale(images.x[:150]))
    floor, baseline = report["the same, real against real"], report["the same, Gaussian of the training pixels"]
    assert report[DISTANCE] < 1.2 * floor and baseline > 2 * floor  # most of the floor is the bias of 150 images
    assert report["recall"] > 0.5 > report["recall of the Gaussian"]  # its samples are much alike: the features see it
    assert report["FID"].startswith("not computed")


def test_without_the_network_the_rest_is_still_reported(small, monkeypatch):
    monkeypatch.setattr(judge, "PixelGaussian", Gaussian)
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    efficientnet.network.cache_clear()
    copied = data.scale(data.cifar10("train").x[:50])
    report = judge.judge_colours(copied)
    efficientnet.network.cache_clear()
    assert report[DISTANCE].startswith("not computed") and "gmbook[features]" in report[DISTANCE]
    assert report["nearest training image, RMS"] < 1e-3 < 0.1 < report["the same for test images"]


def test_balanced_labels():
    assert balanced(20).tolist() == [label for label in range(10) for _ in range(2)]
    assert torch.bincount(balanced(1003), minlength=10).tolist().count(100) == 7


def test_flow_matching_on_cifar10_is_reported_whole(cheap):
    """An untrained network predicts velocity 0: noise stays noise, whose bits/dim are known in closed form."""
    net = UNet(3, width=8, multipliers=(1,), classes=CLASSES, drop=0.1, patch=8)
    model = FlowMatching(net, (3, 32, 32)).eval()
    x = flow_matching.centred(data.cifar10("test").x[:12])
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


def test_gan_on_mnist_is_reported_whole(small):
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
    mean_square = vae.centred(data.cifar10("test").x[:12]).square().mean().item()
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
