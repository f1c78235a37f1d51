"""Flow matching on images: 8×8 digits, MNIST, CIFAR-10.

The paper, on CIFAR-10: the UNet of ADM (width 256, two blocks, multipliers 1, 2, 2, 2, four heads of 64, attention at
16×16, no dropout), the OT path, Adam 5e-4 with 45,000 steps of warm-up and polynomial decay, batch 256, 391,000 steps,
dopri5 with tolerance 1e-5. Ours are DDPM's networks on the linear path, and learn labels too, so that the same weights
sample with and without guidance. Pixels are dequantised, so that the flow's density is one of bits per dimension;
samples are rounded down to the grey levels again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gmbook import data, metrics
from gmbook.core.model import Model
from gmbook.core.solvers import dopri5, heun
from gmbook.experiments import classifier
from gmbook.experiments.base import Experiment
from gmbook.experiments.images import (
    CLASSES,
    balanced,
    centred,
    cifar10_gpu_net,
    cifar10_net,
    guided,
    image_batches,
    live_net,
    pixels,
)
from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.metrics import PixelGaussian
from gmbook.metrics.images import measure_colours, measure_digits
from gmbook.metrics.metric import Metric, Protocol, mean, of_set, seed
from gmbook.networks.unet import UNet
from gmbook.papers.flow_matching import FlowMatching
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Lipman et al. 2023, CIFAR-10: ADM UNet of width 256, OT path, Adam 5e-4, warm-up 45,000, polynomial decay, "
    "batch 256, 391,000 steps, dopri5 at 1e-5"
)
SAMPLING = "Heun, 25 steps, 50 network calls, guidance s = 1.5, no selection"


def sample(model: Any, labels: Tensor, scale: float = 1.5, steps: int = 25, levels: int = 256) -> Tensor:
    """Class-conditional samples by Heun's method (two network calls a step) with guidance: labels (n,) -> (n, C, H, W)
    in [−1, 1]."""
    chunks = [guided(model, scale).sample(len(y), y, steps, heun) for y in labels.to(device()).split(250)]
    return pixels(torch.cat(chunks), levels).cpu()


def calls(model: FlowMatching, labels: Tensor) -> int:
    """The network calls of one adaptive solve from noise to data, at dopri5's tolerance of 1e-5: the paper's NFE."""
    count = 0

    def note(*_: Any) -> None:
        nonlocal count
        count += 1

    hook = model.net.register_forward_hook(note)
    model.sample(len(labels), labels.to(device()), steps=1, solver=dopri5)
    hook.remove()
    return count


def bits(model: FlowMatching, test: data.ImageSet, gaussian: PixelGaussian, n: int = 64) -> list[Metric]:
    """Bits per dimension of n test images given their labels, one Hutchinson probe and one dequantisation each, beside
    those of the Gaussian of the training pixels, which is the baseline in the model's own space; and the network calls
    of an adaptive solve."""
    x, y = centred(test.x[:n], test.levels).to(device()), test.y[:n].to(device())
    probe = torch.randint_like(x, 2) * 2 - 1
    nats = -model.log_prob(x, y, probe)
    values = metrics.bits_per_dim(nats, math.prod(model.shape), math.log2(test.levels) - 1)
    beside = {"pixel_gaussian": gaussian.bits(test.x[:n]).mean().item()}
    setting = "given the label, one Hutchinson probe, dopri5 at 1e-5"
    how = Protocol(data=of_set(test), examples=len(x), draws=1, seed=seed(), setting=setting)
    solve = Protocol(len(x), seed=seed(), sampler="dopri5 at 1e-5, no guidance")
    return [
        mean("bits_per_dim", values, baselines=beside, unit="bits/dim", protocol=how),
        Metric("network_calls", calls(model, y), protocol=solve),
    ]


def evaluate_mnist(model: Any, n: int) -> list[Metric]:
    """n guided samples before the classifier, bits per dimension, and the calls of an adaptive solve."""
    labels = balanced(n)
    found = measure_digits(sample(model, labels), labels, classifier.recorded(), SAMPLING)
    return [*found, *bits(model, data.mnist("test"), PixelGaussian(data.mnist("train").x), min(n, 64))]


def evaluate_cifar10(model: Any, n: int) -> list[Metric]:
    """n guided samples before EfficientNet-Lite0, bits per dimension, and the calls of an adaptive solve."""
    gaussian = PixelGaussian(data.cifar10("train").x)
    found = measure_colours(sample(model, balanced(n)), gaussian, where=device(), sampler=SAMPLING)
    return [*found, *bits(model, data.cifar10("test"), gaussian, min(n, 64))]


# ------------------------------------------------------------------------------------------------------ models


def digits_model() -> FlowMatching:
    """8×8: DDPM's UNet of 0.2 M weights with two levels, 8 and 4 pixels."""
    return FlowMatching(UNet(1, width=24, multipliers=(1, 2), classes=CLASSES, drop=0.1), (1, 8, 8))


def mnist_model() -> FlowMatching:
    """28×28 seen as 14×14 patches of 2×2 pixels: DDPM's UNet of 0.79 M weights."""
    return FlowMatching(UNet(1, width=32, multipliers=(1, 2), classes=CLASSES, drop=0.1, patch=2), (1, 28, 28))


def mnist_gpu_model() -> FlowMatching:
    """28×28 at full resolution: width 64, three levels, 6 M weights."""
    return FlowMatching(UNet(1, width=64, blocks=2, attention=(1, 2), classes=CLASSES, drop=0.1), (1, 28, 28))


def cifar10_model() -> FlowMatching:
    """32×32 in colour seen as 16×16 patches: DDPM's small UNet of 0.79 M weights."""
    return FlowMatching(cifar10_net(), (3, 32, 32))


def cifar10_gpu_model() -> FlowMatching:
    """32×32: DDPM's UNet of width 128, half of the paper's, with dropout 0.1: the setting of the torchcfm library,
    whose authors report FID 3.5 after 400,000 steps without labels."""
    return FlowMatching(cifar10_gpu_net(), (3, 32, 32))


def live(images: data.ImageSet) -> FlowMatching:
    """A model for some seconds of live training on whatever images are there: 28×28 MNIST or the 8×8 digits."""
    net = live_net(images)
    return FlowMatching(net, images.shape)


# ------------------------------------------------------------------------------------------------- experiments

laptop = partial(Recipe, batch_size=64, lr=1e-3, warmup=200, decay="cosine", clip=1.0)  # DDPM's: the two compare
gpu = partial(Recipe, batch_size=128, lr=2e-4, warmup=5000, clip=1.0, bf16=True, ema_decay=0.9999)


def experiment(
    dataset: str,
    budget: str,
    model: Callable[[], Model],
    images: Callable[[str], data.ImageSet],
    recipe: Recipe,
    levels: int = 256,
    flip: bool = False,
    **rest: Any,
) -> Experiment:
    """A run on dequantised images of a set, judged on samples rounded to its grey levels."""
    return Experiment(
        "flow_matching",
        dataset,
        budget,
        model=model,
        batches=lambda seed, size: image_batches(images("train"), seed, size, flip, centred),
        recipe=recipe,
        reference=REFERENCE,
        sample=lambda m, y: sample(m, y, levels=levels),
        **rest,
    )


EXPERIMENTS = (
    points("flow_matching", GAUSSIANS, lambda: FlowMatching(net(), (2,)), 8000),
    experiment("digits", "laptop", digits_model, data.digits, laptop(steps=3000, ema_decay=0.999), levels=17),
    experiment("digits", "gpu", digits_model, data.digits, laptop(steps=10_000, ema_decay=0.999), levels=17),
    experiment(
        "mnist", "laptop", mnist_model, data.mnist, laptop(steps=6000, ema_decay=0.998), evaluate=evaluate_mnist
    ),
    experiment(
        *("mnist", "gpu", mnist_gpu_model, data.mnist, gpu(steps=100_000)),
        evaluate=evaluate_mnist,
        compile=True,
        channels_last=True,
    ),
    experiment(
        # 23 epochs: 79 minutes of one core; of two, 47 by the dry run
        *("cifar10", "laptop", cifar10_model, data.cifar10, laptop(steps=18_000, ema_decay=0.998)),
        evaluate=evaluate_cifar10,
        flip=True,
        channels_last=True,  # 8 % faster on a CPU too
    ),
    experiment(
        *("cifar10", "gpu", cifar10_gpu_model, data.cifar10, gpu(steps=400_000)),
        evaluate=evaluate_cifar10,
        flip=True,
        compile=True,
        channels_last=True,
    ),
)
