"""The judges on images whose verdict is known: real ones, memorised ones, a Gaussian's, and noise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gmbook.experiments import classifier, flow_matching, gan, judge, realnvp
from gmbook.experiments.ddpm import CLASSES, balanced
from gmbook.lab import data, efficientnet
from gmbook.networks.unet import UNet
from gmbook.papers.flow_matching import FlowMatching

DISTANCE = "Fréchet distance of EfficientNet-Lite0 features"


@pytest.fixture
def small(monkeypatch, data_home):
    """A reference of 400 images, so that a test takes seconds."""
    monkeypatch.setattr(judge, "REFERENCE", 400)


@pytest.fixture
def cheap(monkeypatch, small):
    """Pixels shrunk to 4×4 in the place of the network's features."""
    monkeypatch.setattr(efficientnet, "features", lambda x: F.adaptive_avg_pool2d(x, 4).flatten(1))


def test_real_images_are_two_disjoint_samples(data_home):
    test = data.mnist("test")
    order = test.x.flatten(1).float() @ torch.rand(784)  # a number for each image
    real, other = judge.real_images(data.ImageSet(test.x, test.y, "", "test", ()), 500)
    assert (len(real), len(other)) == (5000, 500)
    seen = [set(((part + 1) * 127.5).round().flatten(1).sum(1).tolist()) for part in (real, other)]
    assert len(seen[0]) > 4000 and order.unique().numel() > 9900
    with pytest.raises(ValueError, match="at most 5,000 samples"):
        judge.real_images(test, 5001)


def test_real_digits_pass_and_noise_does_not(small):
    train, test = data.mnist("train"), data.mnist("test")
    net = classifier.recorded()
    real = judge.judge_digits(data.scale(test.x[-500:]), test.y[-500:], net)
    floor = real["the same, real against real"]
    assert real["classifier Fréchet distance"] < 2 * floor and real["precision"] > 0.8 and real["recall"] > 0.8
    assert real["read as the class asked for"] > 0.97
    assert sum(real["class histogram"]) == 500 and min(real["class histogram"]) > 20
    noise = judge.judge_digits(torch.rand(500, 1, 28, 28) * 2 - 1, None, net)
    assert noise["classifier Fréchet distance"] > 5 * floor and noise["precision"] < 0.1
    assert "read as the class asked for" not in noise
    copied = judge.judge_digits(data.scale(train.x[:200]), None, net)
    assert copied["nearest training image, RMS"] < 1e-3 < 0.1 < copied["the same for test images"]


@pytest.mark.skipif(not efficientnet.installed(), reason="needs the extra `features`")
def test_colour_features_tell_images_from_their_own_gaussian(small):
    """Other real images are near the floor; a Gaussian with the right mean and covariance is far above it."""
    images = data.cifar10("valid")
    report = judge.judge_colours(data.scale(images.x[:300]))
    floor, baseline = report["the same, real against real"], report["the same, Gaussian of the training pixels"]
    assert report[DISTANCE] < 1.3 * floor and baseline > 3 * floor
    assert report["precision"] > 0.5 > report["precision of the Gaussian"]
    assert report["FID"].startswith("not computed")


def test_without_the_network_the_rest_is_still_reported(small, monkeypatch):
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
    expected = (torch.tensor(2 * torch.pi).log().item() + mean_square) / 2 / torch.tensor(2.0).log().item() + 7
    assert value == pytest.approx(expected, abs=0.01)
    assert 3 < report["bits/dim of a full-covariance Gaussian of the pixels, same images"] < 6 < value
    assert report[DISTANCE] > 5 * report["the same, Gaussian of the training pixels"] > 0
    assert "guidance s = 1.5" in report["sampling"] and report["samples"] == 12


def test_realnvp_on_cifar10_is_reported_whole(cheap):
    torch.manual_seed(0)
    model = realnvp.model((3, 32, 32), width=4, blocks=0, scales=1).eval()
    report = realnvp.evaluate_cifar10(model, 10)
    after, plain = (
        report[f"bits/dim of a full-covariance Gaussian {where}, same images"]
        for where in ("after the same preprocessing", "of the pixels")
    )
    assert 3.5 < after < 6 and 3.5 < plain < 6 and after != plain
    assert report["bits/dim, bound, 10 test images, alpha = 0.05"] > after  # an untrained flow knows less
    assert report["samples"] == 10 and report[DISTANCE] > 0


def test_gan_on_mnist_is_reported_whole(small):
    torch.manual_seed(0)
    report = gan.evaluate(gan.model((1, 28, 28), 4).eval(), 50)
    assert report["classifier Fréchet distance"] > 2 * report["the same, real against real"]
    assert sum(report["class histogram"]) == 50 and report["precision"] < 0.2
