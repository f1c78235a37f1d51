"""Glow on points in the plane, and on images: MNIST with a prior for each digit, CIFAR-10 without labels.

The paper, on CIFAR-10: three levels of 32 steps, coupling networks of 512 channels, Adamax 1e-3 after a warm-up of ten
epochs, batch 64 per GPU, 8 bits; pixels minus ½, no logit. Its code tiles MNIST to three channels of 32×32; here MNIST
is 28×28 in grey, which two levels halve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gmbook import data, metrics
from gmbook.core.gaussians import log_normal
from gmbook.data.batches import Batches, mirror
from gmbook.experiments import classifier
from gmbook.experiments.base import Experiment
from gmbook.experiments.images import CLASSES, balanced
from gmbook.experiments.toys import GAUSSIANS, in_nats, points
from gmbook.laws import plane
from gmbook.metrics import PixelGaussian
from gmbook.metrics.images import measure_colours, measure_digits
from gmbook.metrics.metric import Metric, Protocol, mean, of_set, seed
from gmbook.papers.glow import Glow
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Kingma & Dhariwal 2018, CIFAR-10: 3 levels of 32 steps, width 512, Adamax 1e-3, batch 64 per GPU, 8 bits, no logit"
)
COOL = 0.7  # the temperature of the paper's faces


def model() -> Glow:
    """Eight steps, each with an MLP of 64 units."""
    return Glow.on_vectors(2, 8, 64)


def batches(images: data.ImageSet, seed: int, size: int, flip: bool = False) -> Iterable[tuple[Tensor, ...]]:
    """Endless (x, y): integers (B, C, H, W), which the model dequantises itself, and labels. `flip` mirrors half."""
    augment = mirror if flip else None
    return Batches(images.x, images.y, size=size, seed=seed, device=device(), augment=augment)


@torch.no_grad()
def draw(model: Any, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """As many samples as labels, of these labels where the model knows them, as the inverse gives them: (n, C, H, W).

    Pixels lie about [0, 1). Where the inverse explodes they lie anywhere, or are no numbers (see `exploded`).
    """
    parts = [model.sample(len(y), y.to(model.device), temperature) for y in labels.split(250)]
    return torch.cat(parts).cpu()


def shown(x: Tensor) -> Tensor:
    """Pixels of `draw` in [−1, 1]: those beyond are black or white, and those that are no numbers grey."""
    return (2 * x - 1).nan_to_num(0.0).clamp(-1, 1)


def sample(model: Any, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """As many samples as labels, of these labels where the model knows them: (n, C, H, W) in [−1, 1]."""
    return shown(draw(model, labels, temperature))


def exploded(x: Tensor) -> Tensor:
    """Which samples of `draw` have a pixel beyond ±10, or one that is no number: (n, C, H, W) -> (n,) bool.

    A coupling's inverse divides by its scale, which has no lower bound. arXiv:2006.09347 has the cause and the name.
    """
    return ~(x.flatten(1).abs().amax(1) <= 10)  # false for NaN


@torch.no_grad()
def bits(model: Glow, x: Tensor, draws: int = 4) -> Tensor:
    """Bits/dim of integer images (N, C, H, W), a column for each label, or one column without labels: (draws, N, ·).

    Each draw of the dequantisation noise is shared by all labels.
    """
    return torch.stack([torch.cat([_bits(model, part) for part in x.to(device()).split(250)]) for _ in range(draws)])


def _bits(model: Glow, k: Tensor) -> Tensor:
    z, log_det = model.bijection(model.prepare(k))
    if model.labelled is None:
        log_p = model.base.log_prob(z)[:, None]
    else:
        labels = torch.arange(CLASSES, device=z.device)
        mean, std = model.labelled.law(labels)
        log_p = torch.stack([log_normal(z, mean[y], std[y]) for y in labels], 1)
    nats = -(log_p + log_det[:, None])
    return metrics.bits_per_dim(nats, math.prod(model.shape), math.log2(model.levels or 256)).cpu()


def report(model: Glow, train: data.ImageSet, test: data.ImageSet, most: int = 2000) -> list[Metric]:
    """Bits/dim of the first `most` test images, beside a histogram per pixel and a Gaussian of the pixels.

    Where the model knows labels: those of the right label, how many nats a wrong one costs, and how many images Bayes'
    rule, argmax_y log p(x | y), classifies.
    """
    torch.manual_seed(0)
    x, y = test.x[:most], test.y[:most]
    values = bits(model, x)
    right = values[..., 0] if values.shape[2] == 1 else values[:, torch.arange(len(x)), y]
    beside = {"histogram": metrics.histogram_bits(train.x, x).mean().item(),
              "pixel_gaussian": PixelGaussian(train.x, train.levels).bits(x).mean().item()}  # fmt: skip
    how = Protocol(data=of_set(test), examples=len(x), draws=len(values), seed=seed())
    found = [mean("bits_per_dim_bound", right.mean(0), baselines=beside, unit="bits/dim", protocol=how)]
    if values.shape[2] > 1:
        by_label = values.mean(0)
        wrong = (by_label.sum(1) - right.mean(0)) / (by_label.shape[1] - 1)
        cost = (wrong - right.mean(0)) * math.prod(model.shape) * math.log(2)
        found.append(mean("nats_of_a_wrong_label", cost, unit="nats", protocol=how))
        found.append(mean("classified_by_bayes", (by_label.argmin(1) == y).double(), protocol=how))
    return found


def temperatures(model: Any, labels: Tensor) -> tuple[Tensor, Tensor, Metric]:
    """Samples of these labels at temperature 1 and at `COOL`, (n, C, H, W) in [−1, 1], and how many exploded."""
    drawn = []
    for temperature in (1.0, COOL):
        torch.manual_seed(0)
        drawn.append(draw(model, labels, temperature))
    warm, cool = (exploded(x).double().mean().item() for x in drawn)
    how = Protocol(samples=len(labels), sampler="temperature 1", seed=seed())
    share = Metric("exploded", warm, baselines={"cooled": cool}, protocol=how)
    return shown(drawn[0]), shown(drawn[1]), share


def evaluate_mnist(model: Glow, n: int) -> list[Metric]:
    """Bits/dim of test digits, and n samples at each of two temperatures, as many of each digit, before the
    classifier."""
    labels, judge = balanced(n), classifier.recorded()
    warm, cool, share = temperatures(model, labels)
    found = measure_digits(warm, labels, judge, "temperature 1, no selection")
    keys = {"classifier_frechet_distance": "frechet_cooled", "recall": "recall_cooled", "read_as_asked": "read_cooled"}
    cooled = measure_digits(cool, labels, judge, f"temperature {COOL}, no selection")
    found += [replace(m, key=keys[m.key]) for m in cooled if m.key in keys]
    return [*report(model, data.mnist("train"), data.mnist("test")), *found, share]


def evaluate_cifar10(model: Glow, n: int) -> list[Metric]:
    """Bits/dim of n test images, and as many samples before EfficientNet-Lite0."""
    drawn, _, share = temperatures(model, torch.zeros(n, dtype=torch.int64))
    colours = measure_colours(drawn, where=device(), sampler="temperature 1, no selection")
    return [*report(model, data.cifar10("train"), data.cifar10("test"), n), *colours, share]


# No averaged weights: the record keeps those of the last step, as RealNVP's does. The cosine ends at rate 0.
EXPERIMENTS = (
    points("glow", GAUSSIANS, model, 3000),
    points("glow", plane.moons, model, 3000, evaluate=in_nats(plane.moons())),
    Experiment(
        "glow",
        "mnist",
        "laptop",
        model=lambda: Glow.on_images((1, 28, 28), 2, 8, 64, classes=CLASSES),  # 28 → 14 → 7: 0.16 M weights
        batches=lambda seed, size: batches(data.mnist("train"), seed, size),
        recipe=Recipe(
            steps=1500,  # an epoch and three quarters; 0.15 s a step, four minutes of one core
            batch_size=64,
            lr=3e-3,  # 150 steps at 1e-3 ended a bit higher, at 4.96 bits/dim against 3.83
            warmup=200,
            decay="cosine",
            clip=100.0,
        ),
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate_mnist,
    ),
    Experiment(
        "glow",
        "mnist",
        "gpu",
        model=lambda: Glow.on_images((1, 28, 28), 2, 16, 256, classes=CLASSES),
        batches=lambda seed, size: batches(data.mnist("train"), seed, size),
        recipe=Recipe(steps=80_000, batch_size=64, lr=1e-3, warmup=1000, decay="cosine", clip=100.0, bf16=True),
        compile=True,
        channels_last=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate_mnist,
    ),
    Experiment(
        "glow",
        "cifar10",
        "laptop",
        model=lambda: Glow.on_images((3, 32, 32), 3, 8, 64),  # 0.74 M weights, 1.5 MB in half precision
        batches=lambda seed, size: batches(data.cifar10("train"), seed, size, flip=True),
        recipe=Recipe(
            steps=1200,  # as many pictures as RealNVP's record has seen; 0.35 s a step, seven minutes of one core
            batch_size=64,
            lr=2e-3,
            warmup=300,
            decay="cosine",
            clip=100.0,
        ),
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate_cifar10,
    ),
    Experiment(
        "glow",
        "cifar10",
        "gpu",
        model=lambda: Glow.on_images((3, 32, 32)),  # the paper's numbers of levels, steps and channels
        batches=lambda seed, size: batches(data.cifar10("train"), seed, size, flip=True),
        recipe=Recipe(steps=300_000, batch_size=64, lr=1e-3, warmup=8000, decay="cosine", clip=100.0, bf16=True),
        compile=True,
        channels_last=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate_cifar10,
    ),
)
