"""DDPM on images: 8×8 digits, MNIST, CIFAR-10.

The paper, on CIFAR-10: UNet of 35.7 M weights (width 128, multipliers 1, 2, 2, 2, two blocks, attention at 16×16), T =
1000, β from 1e-4 to 0.02, Adam 2e-4 with 5,000 steps of warm-up, batch 128, clip 1, EMA 0.9999, dropout 0.1, flips,
800,000 steps. All of ours learn labels too, dropped one time in ten, so that the same weights sample with and without
guidance.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gmbook import data, metrics
from gmbook.core.model import Model
from gmbook.experiments import classifier
from gmbook.experiments.base import Experiment
from gmbook.experiments.images import CLASSES, balanced, cifar10_gpu_net, cifar10_net, image_batches, live_net
from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.metrics.images import measure_colours, measure_digits
from gmbook.metrics.metric import Metric, Protocol, mean, of_set, seed
from gmbook.networks.guided import Guided
from gmbook.networks.unet import UNet
from gmbook.papers import ddim
from gmbook.papers.ddpm import DDPM
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Ho et al. 2020, CIFAR-10: UNet 35.7 M, T = 1000, Adam 2e-4, warm-up 5,000, batch 128, clip 1, EMA 0.9999, "
    "dropout 0.1, 800,000 steps"
)
SETTING = "given the label; the decoder's variance is that of i = 2, as in the authors' code"
SAMPLING = "DDIM, 50 steps, eta 0, guidance s = 1.5, no selection"


def guided(model: Any, scale: float) -> DDPM:
    """The same model with its network under classifier-free guidance of scale s; shares the weights."""
    return DDPM(Guided(model.net, scale, CLASSES), model.shape, clip=1.0, levels=model.levels).to(model.device)


def sample(model: Model, labels: Tensor, scale: float = 1.5, steps: int = 50) -> Tensor:
    """Class-conditional samples by DDIM (η = 0) with guidance: labels (n,) -> (n, C, H, W) in [−1, 1]."""
    chunks = [ddim.sample(guided(model, scale), len(y), steps, y=y) for y in labels.to(device()).split(250)]
    return torch.cat(chunks).clamp(-1, 1).cpu()


def bound(model: DDPM, test: data.ImageSet, n: int = 64) -> Metric:
    """The variational bound of n test images given their labels, at one draw of each x_i; L_0 at the variance β̃_2."""
    nats = model.nelbo(data.scale(test.x[:n]).to(device()), test.y[:n].to(device()))
    bits = metrics.bits_per_dim(nats, math.prod(model.shape))
    how = Protocol(data=of_set(test), examples=len(bits), draws=1, seed=seed(), setting=SETTING)
    return mean("bits_per_dim_bound", bits, unit="bits/dim", protocol=how)


def evaluate(model: Any, n: int) -> list[Metric]:
    """n guided samples before the classifier, and the variational bound of test digits."""
    labels = balanced(n)
    found = measure_digits(sample(model, labels), labels, classifier.recorded(), SAMPLING)
    return [*found, bound(model, data.mnist("test"))]


def evaluate_cifar10(model: Any, n: int) -> list[Metric]:
    """n guided samples before EfficientNet-Lite0, and the variational bound of test images."""
    found = measure_colours(sample(model, balanced(n)), where=device(), sampler=SAMPLING)
    return [*found, bound(model, data.cifar10("test"), min(n, 64))]


def digits_model() -> DDPM:
    """8×8: a UNet of 0.2 M weights with two levels, 8 and 4 pixels."""
    net = UNet(1, width=24, multipliers=(1, 2), classes=CLASSES, drop=0.1)
    return DDPM(net, (1, 8, 8), clip=1.0, levels=17)


def mnist_model() -> DDPM:
    """28×28 seen as 14×14 patches of 2×2 pixels: a UNet at full resolution costs four times as much a step and, in the
    same time, makes worse digits. 0.79 M weights, so that the recorded half-precision file stays below 2 MB."""
    net = UNet(1, width=32, multipliers=(1, 2), classes=CLASSES, drop=0.1, patch=2)
    return DDPM(net, (1, 28, 28), clip=1.0, levels=256)


def mnist_gpu_model() -> DDPM:
    """28×28 at full resolution: width 64, three levels, 6 M weights."""
    net = UNet(1, width=64, blocks=2, attention=(1, 2), classes=CLASSES, drop=0.1)
    return DDPM(net, (1, 28, 28), clip=1.0, levels=256)


def live(images: data.ImageSet) -> DDPM:
    """A model for some seconds of live training on whatever images are there: 28×28 MNIST or the 8×8 digits."""
    net = live_net(images)
    return DDPM(net, images.shape, clip=1.0, levels=images.levels)


EXPERIMENTS = (
    points("ddpm", GAUSSIANS, lambda: DDPM(net(), (2,), 200), 8000),
    Experiment(
        "ddpm",
        "digits",
        "laptop",
        model=digits_model,
        batches=lambda seed, size: image_batches(data.digits("train"), seed, size),
        recipe=Recipe(
            steps=3000,  # 190 epochs of so small a set; beyond it the validation loss rises
            batch_size=64,
            lr=1e-3,
            warmup=100,
            decay="cosine",
            clip=1.0,
            ema_decay=0.999,  # averages the last thousand steps, a third of the run
        ),
        reference=REFERENCE,
        sample=sample,
    ),
    Experiment(
        "ddpm",
        "digits",
        "gpu",
        model=digits_model,
        batches=lambda seed, size: image_batches(data.digits("train"), seed, size),
        recipe=Recipe(steps=10_000, batch_size=64, lr=1e-3, warmup=100, decay="cosine", clip=1.0, ema_decay=0.999),
        reference=REFERENCE,
        sample=sample,
    ),
    Experiment(
        "ddpm",
        "mnist",
        "laptop",
        model=mnist_model,
        batches=lambda seed, size: image_batches(data.mnist("train"), seed, size),
        recipe=Recipe(
            steps=6000,  # seven epochs, about half an hour on two cores
            batch_size=64,  # half the paper's: at seven epochs, more steps are worth more than larger ones
            lr=1e-3,  # five times the paper's rate: a small net
            warmup=200,
            decay="cosine",
            clip=1.0,
            ema_decay=0.998,
        ),
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
    Experiment(
        "ddpm",
        "mnist",
        "gpu",
        model=mnist_gpu_model,
        batches=lambda seed, size: image_batches(data.mnist("train"), seed, size),
        recipe=Recipe(steps=100_000, batch_size=128, lr=2e-4, warmup=5000, clip=1.0, bf16=True, ema_decay=0.9999),
        compile=True,
        channels_last=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
    Experiment(
        "ddpm",
        "cifar10",
        "laptop",
        model=lambda: DDPM(cifar10_net(), (3, 32, 32), clip=1.0, levels=256),
        batches=lambda seed, size: image_batches(data.cifar10("train"), seed, size, flip=True),
        recipe=Recipe(
            steps=18_000,  # flow matching's run, so that the two compare: 23 epochs
            batch_size=64,
            lr=1e-3,
            warmup=200,
            decay="cosine",
            clip=1.0,
            ema_decay=0.998,
        ),
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate_cifar10,
    ),
    Experiment(
        "ddpm",
        "cifar10",
        "gpu",
        model=lambda: DDPM(cifar10_gpu_net(), (3, 32, 32), clip=1.0, levels=256),
        batches=lambda seed, size: image_batches(data.cifar10("train"), seed, size, flip=True),
        recipe=Recipe(
            steps=400_000,  # half of the paper's, as flow matching's run: hours of one GPU instead of a day
            batch_size=128,
            lr=2e-4,
            warmup=5000,
            clip=1.0,
            bf16=True,
            ema_decay=0.9999,
        ),
        compile=True,
        channels_last=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate_cifar10,
    ),
)
