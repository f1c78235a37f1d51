"""What generated images measure, beside the same numbers for real ones: digits in the features of a classifier, images
in colour in those of a network that was trained on ImageNet."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gmbook import data
from gmbook.metrics import efficientnet, fid
from gmbook.metrics.bits import PixelGaussian
from gmbook.metrics.classifier import Classifier
from gmbook.metrics.distances import frechet_distance, precision_recall
from gmbook.metrics.metric import Metric, Protocol, of_set, seed, with_sampler

CLASSIFIER = "the book's classifier of digits, 128 hidden units"
FEW = 1000  # samples and real images between which precision and recall are counted
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


def measure_digits(x: Tensor, labels: Tensor | None, classifier: Classifier, sampler: str = "") -> list[Metric]:
    """Metrics of generated MNIST digits x (n, 1, 28, 28) in [−1, 1], each with its value between real ones.

    Args:
        labels: the classes that were asked for, (n,); None for an unconditional model.
        sampler: how they were drawn, in words.

    Returns:
        The classifier Fréchet distance to the test images and the same between two disjoint real samples of size n;
        precision and recall in the classifier's features; how many of each class; how near the nearest training image
        is, in pixels' root mean square, and how near it is for test images (a generator that memorises comes nearer
        than they do).
    """
    test, train = data.mnist("test"), data.mnist("train")
    real, other = real_images(test, len(x))
    features, real_features = classifier.features(x), classifier.features(real)
    seen = classifier.classify(x).cpu()
    precision, recall = precision_recall(features[:FEW], real_features[:FEW])
    card = Protocol(len(x), of_set(test), len(real), network=CLASSIFIER, seed=seed())
    few = replace(card, samples=min(len(x), FEW), examples=min(len(real), FEW))
    read = Protocol(len(x), network=CLASSIFIER, seed=seed())
    report = [
        Metric(
            "classifier_frechet_distance",
            frechet_distance(features, real_features).item(),
            floor=frechet_distance(classifier.features(other), real_features).item(),
            protocol=card,
        ),
        Metric("precision", precision, protocol=few),
        Metric("recall", recall, protocol=few),
        Metric("class_counts", tuple(torch.bincount(seen, minlength=10).tolist()), protocol=read),
        nearest(x, other, train),
    ]
    if labels is not None:
        right = (seen == labels.cpu()).double().mean().item()
        report.append(Metric("read_as_asked", right, protocol=read))
    return with_sampler(report, sampler)


def measure_colours(
    x: Tensor, gaussian: PixelGaussian | None = None, where: torch.device | None = None, sampler: str = ""
) -> list[Metric]:
    """Metrics of generated CIFAR-10 images x (n, 3, 32, 32) in [−1, 1], beside real images and a Gaussian's samples.

    Args:
        gaussian: the one fitted to the training images' pixels; fitted here if it is not given.
        where: the device of the network; that of x if it is not given.
        sampler: how they were drawn, in words.

    Returns:
        The Fréchet distance of EfficientNet-Lite0's features to test images, with its floor (other real images) and
        its baseline (a Gaussian with the training pixels' mean and covariance), and precision and recall in them; or,
        where the network's weights are not installed, one line that says how to get them. The distance to the nearest
        training image as in `measure_digits`; FID, or why it could not be computed.
    """
    train, test, n = data.cifar10("train"), data.cifar10("test"), len(x)
    real, other = real_images(test, n)
    normal = data.scale((gaussian or PixelGaussian(train.x)).sample(n))
    card = Protocol(n, of_set(test), len(real), network=efficientnet.NAME, seed=seed())
    placed = [images.to(where or x.device) for images in (x, real, other, normal)]
    report = [*_features(placed, card), nearest(x, other, train)]
    found = fid.fid(x, real)
    value, why = (None, found) if isinstance(found, str) else (found, "")
    report.append(Metric("fid", value, protocol=replace(card, network="Inception"), missing=why))
    return with_sampler(report, sampler)


def _features(images: list[Tensor], card: Protocol) -> list[Metric]:
    """Fréchet distances, precision and recall in EfficientNet-Lite0's features, or the reason why there are none.

    Args:
        images: the samples, the reference, other real images, a Gaussian's samples.
        card: how the distance is measured.
    """
    x, real, *others = images
    key = "efficientnet_frechet_distance"
    try:
        real_features = efficientnet.features(real)
    except efficientnet.WeightsMissing as missing:
        return [Metric(key, None, protocol=card, missing=f"not computed: {missing}")]
    parts = [efficientnet.features(part) for part in (x, *others)]
    value, floor, baseline = (frechet_distance(part, real_features).item() for part in parts)
    shares = [precision_recall(part[:FEW], real_features[:FEW]) for part in parts]
    few = replace(card, samples=min(len(x), FEW), examples=min(len(real), FEW))
    return [
        Metric(key, value, floor=floor, baselines={"pixel_gaussian": baseline}, protocol=card),
        *(
            Metric(name, value, floor=floor, baselines={"pixel_gaussian": baseline}, protocol=few)
            for name, (value, floor, baseline) in zip(("precision", "recall"), zip(*shares))
        ),
    ]


def nearest(x: Tensor, other: Tensor, train: data.ImageSet) -> Metric:
    """How near the nearest training image is to samples, and to test images: a generator that memorises is nearer."""
    return Metric(
        "nearest_training_image",
        _nearest(x[:200], train.x),
        floor=_nearest(other[:200], train.x),
        protocol=Protocol(min(len(x), 200), of_set(train), len(train), seed=seed()),
    )


def _nearest(x: Tensor, pixels: Tensor) -> float:
    """The mean over x of the root mean square distance to the nearest of all images."""
    x = x.flatten(1).to(pixels.device)
    parts = [torch.cdist(x, data.scale(part).flatten(1)).min(1).values for part in pixels.split(10_000)]
    return (torch.stack(parts).min(0).values / x.shape[1] ** 0.5).mean().item()
