"""DDPM on images: 8×8 digits, MNIST, CIFAR-10.

The paper, on CIFAR-10: UNet of 35.7 M weights (width 128, multipliers 1, 2, 2, 2, two blocks, attention at 16×16), T =
1000, β from 1e-4 to 0.02, Adam 2e-4 with 5,000 steps of warm-up, batch 128, clip 1, EMA 0.9999, dropout 0.1, flips,
800,000 steps. All of ours learn labels too, dropped one time in ten, so that the same weights sample with and without
guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from gmbook import data, metrics
from gmbook.core.model import Model
from gmbook.data.batches import Batches, mirror
from gmbook.experiments import classifier
from gmbook.experiments.base import Experiment, device
from gmbook.experiments.judge import judge_colours, judge_digits
from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.networks.guided import Guided
from gmbook.networks.unet import UNet
from gmbook.papers import ddim
from gmbook.papers.ddpm import DDPM

REFERENCE = (
    "Ho et al. 2020, CIFAR-10: UNet 35.7 M, T = 1000, Adam 2e-4, warm-up 5,000, batch 128, clip 1, EMA 0.9999, "
    "dropout 0.1, 800,000 steps"
)
CLASSES = 10


def image_batches(
    images: data.ImageSet,
    seed: int,
    size: int,
    flip: bool = False,
    transform: Callable[[Tensor, int], Tensor] = data.scale,
) -> Iterable[tuple[Tensor, ...]]:
    """Endless (x, y): x (B, C, H, W) in [−1, 1], y (B,). `flip` mirrors half of the images; `transform` maps (pixels,
    levels) to what the model sees."""
    seen = lambda x: transform(x, images.levels)  # noqa: E731
    return Batches(
        images.x, images.y, size=size, seed=seed, device=device(), transform=seen, augment=mirror if flip else None
    )


def guided(model: Any, scale: float) -> DDPM:
    """The same model with its network under classifier-free guidance of scale s; shares the weights."""
    return DDPM(Guided(model.net, scale, CLASSES), model.shape, clip=1.0, levels=model.levels).to(model.device)


def sample(model: Model, labels: Tensor, scale: float = 1.5, steps: int = 50) -> Tensor:
    """Class-conditional samples by DDIM (η = 0) with guidance: labels (n,) -> (n, C, H, W) in [−1, 1]."""
    chunks = [ddim.sample(guided(model, scale), len(y), steps, y=y) for y in labels.to(device()).split(250)]
    return torch.cat(chunks).clamp(-1, 1).cpu()


def balanced(n: int) -> Tensor:
    """n labels in order, as many of each class as of any other, up to one."""
    return (torch.arange(n) * CLASSES).div(n, rounding_mode="floor")


def bound(model: DDPM, test: data.ImageSet, n: int = 64) -> dict[str, Any]:
    """How samples are drawn, and the variational bound of n test images given their labels, at one draw of each x_i."""
    nats = model.nelbo(data.scale(test.x[:n]).to(device()), test.y[:n].to(device()))
    bits = metrics.bits_per_dim(nats, math.prod(model.shape))
    return {
        "sampling": "DDIM, 50 steps, eta 0, guidance s = 1.5, no selection",
        f"bits/dim, bound given the label, {n} test images": bits.mean().item(),
        "its standard error": (bits.std() / len(bits) ** 0.5).item(),
    }


def evaluate(model: Any, n: int) -> dict[str, Any]:
    """n guided samples before the classifier, and the variational bound of test digits."""
    labels = balanced(n)
    report = judge_digits(sample(model, labels), labels, classifier.recorded())
    return report | bound(model, data.mnist("test"))


def evaluate_cifar10(model: Any, n: int) -> dict[str, Any]:
    """n guided samples before EfficientNet-Lite0, and the variational bound of test images."""
    return judge_colours(sample(model, balanced(n))) | bound(model, data.cifar10("test"), min(n, 64))


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


def cifar10_net() -> UNet:
    """32×32 in colour seen as 16×16 patches: MNIST's small network with three channels, 0.79 M weights. A try-out."""
    return UNet(3, width=32, multipliers=(1, 2), classes=CLASSES, drop=0.1, patch=2)


def cifar10_gpu_net() -> UNet:
    """32×32: the paper's width 128, multipliers 1, 2, 2, 2, two blocks, attention at 16×16 and dropout 0.1, and labels:
    38 M weights."""
    multipliers = (1, 2, 2, 2)
    return UNet(3, width=128, multipliers=multipliers, blocks=2, attention=(1,), classes=CLASSES, drop=0.1, dropout=0.1)


def live(images: data.ImageSet) -> DDPM:
    """A model for some seconds of live training on whatever images are there: 28×28 MNIST or the 8×8 digits."""
    net = UNet(images.shape[0], width=16, multipliers=(1, 2), classes=CLASSES, patch=max(1, images.shape[1] // 14))
    return DDPM(net, images.shape, clip=1.0, levels=images.levels)


EXPERIMENTS = (
    points("ddpm", GAUSSIANS, lambda: DDPM(net(), (2,), 200), 8000),
    Experiment(
        "ddpm",
        "digits",
        "laptop",
        model=digits_model,
        batches=lambda seed, size: image_batches(data.digits("train"), seed, size),
        steps=3000,  # 190 epochs of so small a set; beyond it the validation loss rises
        size=64,
        options={"lr": 1e-3, "warmup": 100, "decay": "cosine", "clip": 1.0},
        ema=0.999,  # averages the last thousand steps, a third of the run
        reference=REFERENCE,
        sample=sample,
    ),
    Experiment(
        "ddpm",
        "digits",
        "gpu",
        model=digits_model,
        batches=lambda seed, size: image_batches(data.digits("train"), seed, size),
        steps=10_000,
        size=64,
        options={"lr": 1e-3, "warmup": 100, "decay": "cosine", "clip": 1.0},
        ema=0.999,
        reference=REFERENCE,
        sample=sample,
    ),
    Experiment(
        "ddpm",
        "mnist",
        "laptop",
        model=mnist_model,
        batches=lambda seed, size: image_batches(data.mnist("train"), seed, size),
        steps=6000,  # seven epochs, about half an hour on two cores
        size=64,  # half the paper's: at seven epochs, more steps are worth more than larger ones
        options={"lr": 1e-3, "warmup": 200, "decay": "cosine", "clip": 1.0},  # five times the paper's rate: a small net
        ema=0.998,
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
        steps=100_000,
        size=128,
        options={"lr": 2e-4, "warmup": 5000, "clip": 1.0, "bf16": True},
        ema=0.9999,
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
        steps=18_000,  # flow matching's run, so that the two compare: 23 epochs
        size=64,
        options={"lr": 1e-3, "warmup": 200, "decay": "cosine", "clip": 1.0},
        ema=0.998,
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
        steps=400_000,  # half of the paper's, as flow matching's run: hours of one GPU instead of a day
        size=128,
        options={"lr": 2e-4, "warmup": 5000, "clip": 1.0, "bf16": True},
        ema=0.9999,
        compile=True,
        channels_last=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate_cifar10,
    ),
)
