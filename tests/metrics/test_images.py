"""Metrics of images whose verdict is known: real ones, memorised ones, a Gaussian's, and noise."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gmbook import data
from gmbook.experiments import classifier
from gmbook.metrics import efficientnet, images

DISTANCE = "Fréchet distance of EfficientNet-Lite0 features"


def test_real_images_are_two_disjoint_samples():
    """Of images that are all different, as a one-hot pixel each: 600 distinct ones come out."""
    x = (255 * torch.eye(5600, dtype=torch.uint8)).reshape(5600, 1, 80, 70)
    test = data.ImageSet(x, torch.zeros(5600), "", "test", ())
    real, other = images.real_images(test, 500)
    places = [part.flatten(1).argmax(1).tolist() for part in (real, other)]
    assert (len(real), len(other)) == (5000, 500) and len(set(places[0] + places[1])) == 5500
    assert max(places[0]) > 5500 and min(places[0]) < 100  # from all of the file
    with pytest.raises(ValueError, match="at most 600 samples"):
        images.real_images(test, 601)


def test_real_digits_pass_and_noise_does_not(small_images):
    train, test = data.mnist("train"), data.mnist("test")
    net = classifier.recorded()
    real = images.measure_digits(data.scale(test.x[-300:]), test.y[-300:], net)
    floor = real["the same, real against real"]
    assert real["classifier Fréchet distance"] < 2 * floor and real["precision"] > 0.8 and real["recall"] > 0.8
    assert real["read as the class asked for"] > 0.97
    assert sum(real["class histogram"]) == 300 and min(real["class histogram"]) > 10
    noise = images.measure_digits(torch.rand(300, 1, 28, 28) * 2 - 1, None, net)
    assert noise["classifier Fréchet distance"] > 5 * floor and noise["precision"] < 0.1
    assert "read as the class asked for" not in noise
    copied = images.measure_digits(data.scale(train.x[:200]), None, net)
    assert copied["nearest training image, RMS"] < 1e-3 < 0.1 < copied["the same for test images"]


@pytest.mark.skipif(not efficientnet.installed(), reason="needs the extra `features`")
def test_colour_features_tell_images_from_their_own_gaussian(small_images):
    """Other real images are near the floor; a Gaussian with the right mean and covariance is far above it."""
    valid = data.cifar10("valid")
    report = images.measure_colours(data.scale(valid.x[:150]))
    floor, baseline = report["the same, real against real"], report["the same, Gaussian of the training pixels"]
    assert report[DISTANCE] < 1.2 * floor and baseline > 2 * floor  # most of the floor is the bias of 150 images
    assert report["recall"] > 0.5 > report["recall of the Gaussian"]  # its samples are much alike: the features see it
    assert report["FID"].startswith("not computed")


def test_without_the_network_the_rest_is_still_reported(small_images, monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    efficientnet.network.cache_clear()
    copied = data.scale(data.cifar10("train").x[:50])
    grey = SimpleNamespace(sample=lambda n: torch.randint(100, 156, (n, 3, 32, 32), dtype=torch.uint8))
    report = images.measure_colours(copied, grey)
    efficientnet.network.cache_clear()
    assert report[DISTANCE].startswith("not computed") and "gmbook[features]" in report[DISTANCE]
    assert report["nearest training image, RMS"] < 1e-3 < 0.1 < report["the same for test images"]
