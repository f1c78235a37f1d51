"""Metrics of images whose verdict is known: real ones, memorised ones, a Gaussian's, and noise."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gmbook import data
from gmbook.experiments import classifier
from gmbook.metrics import efficientnet, images
from gmbook.metrics.metric import Protocol, by_key

DISTANCE = "efficientnet_frechet_distance"


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
    torch.manual_seed(7)
    real = by_key(images.measure_digits(data.scale(test.x[-300:]), test.y[-300:], net, "by hand"))
    distance = real["classifier_frechet_distance"]
    assert distance.value < 2 * distance.floor and real["precision"].value > 0.8 and real["recall"].value > 0.8
    assert real["read_as_asked"].value > 0.97
    counts = real["class_counts"].value
    assert sum(counts) == 300 and min(counts) > 10
    card = {"samples": 300, "data": "MNIST, test", "examples": 300, "network": images.CLASSIFIER, "seed": 7}
    assert distance.protocol == Protocol(**card, sampler="by hand")
    noise = by_key(images.measure_digits(torch.rand(300, 1, 28, 28) * 2 - 1, None, net))
    assert noise["classifier_frechet_distance"].value > 5 * distance.floor and noise["precision"].value < 0.1
    assert "read_as_asked" not in noise
    copied = by_key(images.measure_digits(data.scale(train.x[:200]), None, net))["nearest_training_image"]
    assert copied.value < 1e-3 < 0.1 < copied.floor


@pytest.mark.skipif(not efficientnet.installed(), reason="needs the extra `features`")
def test_colour_features_tell_images_from_their_own_gaussian(small_images):
    """Other real images are near the floor; a Gaussian with the right mean and covariance is far above it."""
    valid = data.cifar10("valid")
    report = by_key(images.measure_colours(data.scale(valid.x[:150])))
    distance, recall = report[DISTANCE], report["recall"]
    floor, baseline = distance.floor, distance.baselines["pixel_gaussian"]
    assert distance.value < 1.2 * floor and baseline > 2 * floor  # most of the floor is the bias of 150 images
    assert recall.value > 0.5 > recall.baselines["pixel_gaussian"]  # its samples are much alike: the features see it
    assert report["fid"].value is None and report["fid"].missing.startswith("not computed")


def test_without_the_network_the_rest_is_still_reported(small_images, monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    efficientnet.network.cache_clear()
    copied = data.scale(data.cifar10("train").x[:50])
    grey = SimpleNamespace(sample=lambda n: torch.randint(100, 156, (n, 3, 32, 32), dtype=torch.uint8))
    report = by_key(images.measure_colours(copied, grey))
    efficientnet.network.cache_clear()
    missing = report[DISTANCE].missing
    assert report[DISTANCE].value is None and missing.startswith("not computed") and "gmbook[features]" in missing
    near = report["nearest_training_image"]
    assert near.value < 1e-3 < 0.1 < near.floor
