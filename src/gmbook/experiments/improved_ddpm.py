"""Improved DDPM on points in the plane, and on MNIST: DDPM's recorded network, taught a variance.

The paper, on CIFAR-10: 128 channels, three residual blocks, dropout 0.3, T = 4000 with the cosine schedule, Adam 1e-4,
batch 128, 500,000 iterations, L_hybrid with λ = 0.001. At the laptop budget ours begins at the weights of DDPM's record
and keeps its linear schedule, so that what the variance changes can be told from all else.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gmbook import data, metrics
from gmbook.experiments import classifier, ddpm, results
from gmbook.experiments.base import Experiment, find
from gmbook.experiments.images import CLASSES, balanced, image_batches
from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.metrics.images import measure_digits
from gmbook.metrics.metric import Metric, Protocol, mean, of_set, seed
from gmbook.networks.unet import UNet
from gmbook.papers.ddpm import DDPM, linear_betas
from gmbook.papers.improved_ddpm import ImprovedDDPM
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Nichol & Dhariwal 2021, CIFAR-10: UNet of width 128, three blocks, dropout 0.3, T = 4000, cosine, L_hybrid with "
    "lambda 0.001, Adam 1e-4, batch 128, EMA 0.9999, 500,000 steps"
)
KEPT = (1000, 50, 20, 10)  # steps of the sub-sequences at which the bound is measured
JUMPS = 50  # for samples
SAMPLING = f"{JUMPS} of 1000 steps with the learned variance, no guidance, no selection"
SETTING = "given the label; the decoder's variance is at least that of i = 2 of the chain"


def live(images: data.ImageSet) -> ImprovedDDPM:
    """A model for some seconds of live training on whatever images are there: 28×28 MNIST or the 8×8 digits."""
    channels, patch = images.shape[0], max(1, images.shape[1] // 14)
    net = UNet(channels, 2 * channels, width=16, multipliers=(1, 2), classes=CLASSES, patch=patch)
    return ImprovedDDPM(net, images.shape, clip=1.0, levels=images.levels)


def mnist_model() -> ImprovedDDPM:
    """DDPM's network on MNIST with a second output, and its linear β: 0.79 M weights."""
    net = UNet(1, 2, width=32, multipliers=(1, 2), classes=CLASSES, drop=0.1, patch=2)
    return ImprovedDDPM(net, (1, 28, 28), betas=linear_betas(), clip=1.0, levels=256)


def begun() -> ImprovedDDPM:
    """`mnist_model` at the weights of DDPM's record; the new output says r = 0, midway between β̃ and β."""
    model = mnist_model()
    recorded = results.load_pretrained(find(ddpm.EXPERIMENTS, "ddpm", "mnist", "laptop"))
    return widened(model, recorded.state_dict())


def widened(model: ImprovedDDPM, state: dict[str, Tensor]) -> ImprovedDDPM:
    """The model with a DDPM's weights, and zeros where it has more rows than they."""
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if name in state:
                weight.zero_()[: len(state[name])] = state[name]
    return model


def mnist_gpu_model() -> ImprovedDDPM:
    """28×28 at full resolution, with the cosine schedule: DDPM's network at this budget with a second output."""
    net = UNet(1, 2, width=64, blocks=2, attention=(1, 2), classes=CLASSES, drop=0.1)
    return ImprovedDDPM(net, (1, 28, 28), clip=1.0, levels=256)


def sample(model: Any, labels: Tensor, steps: int = JUMPS) -> Tensor:
    """Class-conditional samples of a sub-sequence, by its own variance: labels (n,) -> (n, C, H, W) in [−1, 1]."""
    chain = model.strided(steps).eval()
    return torch.cat([chain.sample(len(y), y) for y in labels.to(device()).split(250)]).clamp(-1, 1).cpu()


def bound(model: ImprovedDDPM, test: data.ImageSet, keep: int, n: int = 64) -> Metric:
    """Bits/dim of n test images by `keep` of the steps, and beside it the same mean with β and with β̃, same draws."""
    chain = model.strided(keep).eval()
    options: dict[str, Any] = {"betas": chain.beta[1:], "clip": model.clip, "levels": model.levels}
    same_mean = {f"{size}_variance": DDPM(chain, model.shape, variance=size, **options) for size in ("large", "small")}
    x0, y, bits = data.scale(test.x[:n]).to(device()), test.y[:n].to(device()), {}
    for name, one in {"learned": chain, **same_mean}.items():
        torch.manual_seed(0)
        bits[name] = metrics.bits_per_dim(one.to(device()).nelbo(x0, y), math.prod(model.shape))
    how = Protocol(data=of_set(test), examples=len(x0), draws=1, seed=seed(), setting=SETTING)
    beside = {name: bits[name].mean().item() for name in same_mean}
    return mean(f"bits_per_dim_bound_{keep}", bits["learned"], baselines=beside, unit="bits/dim", protocol=how)


@torch.no_grad()
def evaluate(model: Any, n: int) -> list[Metric]:
    """n samples by a twentieth of the steps before the classifier, and the bound of test digits at four lengths."""
    labels, test = balanced(n), data.mnist("test")
    found = measure_digits(sample(model, labels), labels, classifier.recorded(), SAMPLING)
    return [*found, *(bound(model, test, keep) for keep in KEPT)]


EXPERIMENTS = (
    points("improved_ddpm", GAUSSIANS, lambda: ImprovedDDPM(net(4), (2,), 200), 8000),
    Experiment(
        "improved_ddpm",
        "mnist",
        "laptop",
        model=begun,
        batches=lambda seed, size: image_batches(data.mnist("train"), seed, size),
        recipe=Recipe(
            steps=1000,  # the mean is learned already; five minutes of one core
            batch_size=64,
            lr=3e-4,  # a third of DDPM's, which ended at 0
            warmup=100,
            decay="cosine",
            clip=1.0,
            ema_decay=0.99,
        ),
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
    Experiment(
        "improved_ddpm",
        "mnist",
        "gpu",
        model=mnist_gpu_model,
        batches=lambda seed, size: image_batches(data.mnist("train"), seed, size),
        recipe=Recipe(steps=100_000, batch_size=128, lr=1e-4, warmup=5000, clip=1.0, bf16=True, ema_decay=0.9999),
        compile=True,
        channels_last=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
)
