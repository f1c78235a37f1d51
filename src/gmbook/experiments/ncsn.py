"""NCSN on points in the plane and on MNIST.

The paper, on MNIST and CIFAR-10: a RefineNet with dilated convolutions, L = 10 levels from 1 to 0.01 for pixels in
[0, 1], T = 100 steps a level with ε = 2e-5, Adam 1e-3, batch 128, 200,000 steps, no average of the weights. Ours has
NCSNv2's levels instead: as far up as two digits are apart, so near each other that a level covers half of the next.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gmbook import data
from gmbook.core.model import Model
from gmbook.experiments import classifier
from gmbook.experiments.base import Experiment
from gmbook.experiments.images import CLASSES, balanced, guided, image_batches, live_net
from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.metrics.images import measure_digits
from gmbook.metrics.metric import Metric
from gmbook.networks.unet import UNet
from gmbook.papers.ncsn import NCSN, best_step
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Song & Ermon 2019, MNIST and CIFAR-10: RefineNet, 10 levels from 1 to 0.01 for pixels in [0, 1], Adam 1e-3, "
    "batch 128, 200,000 steps, no EMA; T = 100 steps a level, step 2e-5"
)
SAMPLING = "annealed Langevin dynamics, 2 steps at each of 96 levels, a denoising step, guidance s = 3, no selection"
SIGMA_MAX, SIGMA_MIN, LEVELS, PER_LEVEL = 32.0, 0.02, 96, 2


class Scaled(nn.Module):
    """A network that sees x/√(1 + σ²), numbers of order 1 at every level: x alone is up to 32 times as large.

    Args:
        net: net(x (B, *S), t (B,), y).
        sigma_max, sigma_min: σ at t = 1 and at t = 0, geometric between them.
    """

    def __init__(self, net: nn.Module, sigma_max: float = SIGMA_MAX, sigma_min: float = SIGMA_MIN):
        super().__init__()
        self.net, self.sigma_min, self.log_ratio = net, sigma_min, math.log(sigma_max / sigma_min)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        sigma = self.sigma_min * torch.exp(self.log_ratio * t)
        return self.net(x / (1 + sigma**2).sqrt().reshape(-1, *[1] * (x.ndim - 1)), t, y)


def on_images(unet: UNet, shape: tuple[int, ...]) -> NCSN:
    """NCSN of images in [−1, 1] with levels and step by NCSNv2's rules."""
    ratio = (SIGMA_MAX / SIGMA_MIN) ** (1 / (LEVELS - 1))
    step = 2 * best_step(
        SIGMA_MIN, ratio, PER_LEVEL
    )  # the rule's ε is that of the authors' code, half of Algorithm 1's
    return NCSN(Scaled(unet), shape, SIGMA_MAX, SIGMA_MIN, LEVELS, PER_LEVEL, step)


def mnist_model() -> NCSN:
    """DDPM's network on MNIST, 0.79 M weights, so that the two compare."""
    return on_images(UNet(1, width=32, multipliers=(1, 2), classes=CLASSES, drop=0.1, patch=2), (1, 28, 28))


def mnist_gpu_model() -> NCSN:
    """DDPM's network at this budget, 6 M weights."""
    return on_images(UNet(1, width=64, blocks=2, attention=(1, 2), classes=CLASSES, drop=0.1), (1, 28, 28))


def sample(model: Any, labels: Tensor, scale: float = 3.0) -> Tensor:
    """Class-conditional samples by annealed Langevin dynamics with guidance: labels (n,) -> (n, C, H, W) in [−1, 1].

    Two steps at a level do not settle: at scale 1.5 the classifier reads .88 of 500 as the class asked for, of 100 by
    one ancestral step at every second level .96, and at scale 3 nearly all by either.
    """
    chunks = [guided(model, scale).sample(len(y), y) for y in labels.to(device()).split(250)]
    return torch.cat(chunks).clamp(-1, 1).cpu()


def evaluate(model: Model, n: int) -> list[Metric]:
    """n guided samples before the classifier."""
    labels = balanced(n)
    return measure_digits(sample(model, labels), labels, classifier.recorded(), SAMPLING)


def live(images: data.ImageSet) -> NCSN:
    """A model for some seconds of live training on whatever images are there: 28×28 MNIST or the 8×8 digits."""
    net = live_net(images)
    return on_images(net, images.shape)


EXPERIMENTS = (
    points("ncsn", GAUSSIANS, lambda: NCSN(net(), (2,), 4.0, 0.02, 20, per_level=20, step=4e-5), 8000),
    Experiment(
        "ncsn",
        "mnist",
        "laptop",
        model=mnist_model,
        batches=lambda seed, size: image_batches(data.mnist("train"), seed, size),
        recipe=Recipe(
            steps=3000,  # half of DDPM's run: a quarter of an hour on one core
            batch_size=64,
            lr=1e-3,  # the paper's
            warmup=200,
            decay="cosine",
            clip=1.0,
            ema_decay=0.998,  # the paper has none; NCSNv2 found that samples flicker without
        ),
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
    Experiment(
        "ncsn",
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
)
