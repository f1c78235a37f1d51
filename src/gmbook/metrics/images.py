"""What generated images measure, beside the same numbers for real ones: digits in the features of a classifier, images
in colour in those of a network that was trained on ImageNet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmbook import data
from gmbook.metrics import efficientnet, fid
from gmbook.metrics.bits import PixelGaussian
from gmbook.metrics.classifier import Classifier
from gmbook.metrics.distances import frechet_distance, precision_recall

REFERENCE = 5000  # real images that samples are compared with; as many are left to be compared with them


def real_images(test: data.ImageSet, n: int) -> tuple[Tensor, Tensor]:
    """Two disjoint samples of a test set, drawn from all of it, in [−1, 1]: the reference of 5,000, and n others.

    MNIST's two halves are by different writers, and differ: so both are drawn from all images.

    Raises:
        ValueError: there are no n others.
    """
    left = len(test) - REFERENCE
    if n > left:
        raise ValueError(f"at most {left:,} samples, since as many real ones are measured beside them: got {n:,}")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    real, other = (data.scale(test.x[part], test.levels) for part in (order[:REFERENCE], order[REFERENCE:][:n]))
    return real, other


def measure_digits(x: Tensor, labels: Tensor | None, classifier: Classifier) -> dict[str, Any]:
    """Metrics of generated MNIST digits x (n, 1, 28, 28) in [−1, 1], each with its value between real ones.

    Args:
        labels: the classes that were asked for, (n,); None for an unconditional model.

    Returns:
        The classifier Fréchet distance to the test images and the same between two disjoint real samples of size n;
        precision and recall in the classifier's features; how many of each class; how near the nearest training image
        is, in pixels' root mean square, and how near it is for test images (a generator that memorises comes nearer
        than they do).
    """
    real, other = real_images(data.mnist("test"), len(x))
    features, real_features = classifier.features(x), classifier.features(real)
    seen = classifier.classify(x).cpu()
    precision, recall = precision_recall(features[:1000], real_features[:1000])
    report: dict[str, Any] = {
        "samples": len(x),
        "classifier Fréchet distance": frechet_distance(features, real_features).item(),
        "the same, real against real": frechet_distance(classifier.features(other), real_features).item(),
        "precision": precision,
        "recall": recall,
        "class histogram": torch.bincount(seen, minlength=10).tolist(),
        **_memory(x, other, data.mnist("train").x),
    }
    if labels is not None:
        report["read as the class asked for"] = (seen == labels.cpu()).double().mean().item()
    return report


def measure_colours(
    x: Tensor, gaussian: PixelGaussian | None = None, where: torch.device | None = None
) -> dict[str, Any]:
    """Metrics of generated CIFAR-10 images x (n, 3, 32, 32) in [−1, 1], beside real images and a Gaussian's samples.

    Args:
        gaussian: the one fitted to the training images' pixels; fitted here if it is not given.
        where: the device of the network; that of x if it is not given.

    Returns:
        The Fréchet distance of EfficientNet-Lite0's features to test images, with its floor (other real images) and
        its baseline (a Gaussian with the training pixels' mean and covariance), and precision and recall in them; or,
        where the network's weights are not installed, one line that says how to get them. The distance to the nearest
        training image as in `measure_digits`; FID, or why it could not be computed.
    """
    train, n = data.cifar10("train"), len(x)
    real, other = real_images(data.cifar10("test"), n)
    normal = data.scale((gaussian or PixelGaussian(train.x)).sample(n))
    report: dict[str, Any] = {"samples": n, "features": efficientnet.NAME}
    placed = (images.to(where or x.device) for images in (x, real, other, normal))
    return report | _features(*placed) | _memory(x, other, train.x) | {"FID": fid.fid(x, real)}


def _features(x: Tensor, real: Tensor, other: Tensor, gaussian: Tensor) -> dict[str, Any]:
    """Fréchet distances, precision and recall in EfficientNet-Lite0's features, or the reason why there are none."""
    distance = "Fréchet distance of EfficientNet-Lite0 features"
    try:
        real_features = efficientnet.features(real)
    except efficientnet.WeightsMissing as missing:
        return {distance: f"not computed: {missing}"}
    features, floor, baseline = (efficientnet.features(part) for part in (x, other, gaussian))
    report: dict[str, Any] = {
        distance: frechet_distance(features, real_features).item(),
        "the same, real against real": frechet_distance(floor, real_features).item(),
        "the same, Gaussian of the training pixels": frechet_distance(baseline, real_features).item(),
        "reference": f"{len(real):,} test images; every sample has {len(x):,}",
    }
    for name, part in (("", features), (" of real images", floor), (" of the Gaussian", baseline)):
        precision, recall = precision_recall(part[:1000], real_features[:1000])
        report |= {f"precision{name}": precision, f"recall{name}": recall}
    return report


def _memory(x: Tensor, other: Tensor, train: Tensor) -> dict[str, float]:
    """How near the nearest training image is to samples, and to test images: a generator that memorises is nearer."""
    return {
        "nearest training image, RMS": _nearest(x[:200], train),
        "the same for test images": _nearest(other[:200], train),
    }


def _nearest(x: Tensor, pixels: Tensor) -> float:
    """The mean over x of the root mean square distance to the nearest of all images."""
    x = x.flatten(1).to(pixels.device)
    parts = [torch.cdist(x, data.scale(part).flatten(1)).min(1).values for part in pixels.split(10_000)]
    return (torch.stack(parts).min(0).values / x.shape[1] ** 0.5).mean().item()
