"""RealNVP on images: 8×8 digits, MNIST, CIFAR-10.

The paper, on CIFAR-10: two scales (one downscaling) of three checkerboard and three channel couplings and four
checkerboard couplings at the end, residual networks of eight blocks with 64 maps in each coupling, batch normalisation
as a layer of the flow, Adam with its default rate 1e-3, batch 64, an L2 penalty of 5e-5 on the scales of weight
normalisation, α = 0.05. Our networks have no weight normalisation, and so no penalty on it. The paper has no MNIST.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gmbook import data, metrics
from gmbook.core.flows.pixels import Logit
from gmbook.core.model import Model
from gmbook.data.batches import Batches, mirror
from gmbook.experiments import classifier
from gmbook.experiments.base import Experiment
from gmbook.experiments.toys import GAUSSIANS, in_nats, points
from gmbook.laws import plane
from gmbook.metrics import PixelGaussian
from gmbook.metrics.images import measure_colours, measure_digits
from gmbook.metrics.metric import Metric, Protocol, mean, of_set, seed
from gmbook.networks.mlp import MLP
from gmbook.networks.resnet import ResNet
from gmbook.papers.realnvp import RealNVP
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Dinh et al. 2017, CIFAR-10: 2 scales, 3 + 3 couplings each and 4 at the end, ResNets of 8 blocks with 64 maps, "
    "Adam 1e-3, batch 64, L2 5e-5 on weight-norm scales, alpha = 0.05"
)
ALPHA = 0.05  # the logit's α, the paper's: to be said beside every bits/dim


def model(shape: tuple[int, ...], width: int, blocks: int, scales: int, levels: int = 256) -> RealNVP:
    """The multi-scale flow of the paper whose couplings are residual networks, `blocks` of `width` channels."""
    net = partial(ResNet, width=width, blocks=blocks)
    return RealNVP.on_images(shape, net, scales=scales, alpha=ALPHA, levels=levels)


def batches(images: data.ImageSet, seed: int, size: int, flip: bool = False) -> Iterable[tuple[Tensor, ...]]:
    """Endless (x,): integers (B, C, H, W), which the model dequantises itself. `flip` mirrors half of the images."""
    augment = mirror if flip else None
    return Batches(images.x, size=size, seed=seed, device=device(), augment=augment)


def live(images: data.ImageSet) -> RealNVP:
    """A model for some seconds of live training on whatever images are there: 28×28 MNIST or the 8×8 digits."""
    return model(images.shape, width=12, blocks=1, scales=2, levels=images.levels)


@torch.no_grad()
def sample(model: Model, labels: Tensor) -> Tensor:
    """As many samples as labels, which the model does not know: (n, C, H, W) in [−1, 1]."""
    chunks = [model.sample(len(part)) for part in labels.split(250)]
    return (2 * torch.cat(chunks) - 1).clamp(-1, 1).cpu()


@torch.no_grad()
def bits(model: Any, x: Tensor, draws: int = 4) -> Tensor:
    """Bits/dim of integer images (N, C, H, W), once per draw of the dequantisation noise: (draws, N)."""
    parts = [torch.stack([model.bits_per_dim(part) for _ in range(draws)], 1) for part in x.to(device()).split(250)]
    return torch.cat(parts).T.cpu()


def report(model: Any, train: data.ImageSet, test: data.ImageSet, most: int = 2000) -> list[Metric]:
    """Bits/dim of the first `most` test images and the bound's spread, beside the floors: a histogram per pixel, and a
    full-covariance Gaussian after the model's own preprocessing and on plain pixels."""
    torch.manual_seed(0)
    x = test.x[:most]
    values = bits(model, x)
    beside = {"histogram": metrics.histogram_bits(train.x, x).mean().item()}
    for name, space in (("gaussian_after_logit", Logit(ALPHA)), ("pixel_gaussian", None)):
        beside[name] = PixelGaussian(train.x, train.levels, space).bits(x).mean().item()
    how = Protocol(data=of_set(test), examples=len(x), draws=len(values), seed=seed(), setting=f"alpha = {ALPHA}")
    spread = values.mean(1).std().item()
    return [
        mean("bits_per_dim_bound", values.mean(0), baselines=beside, unit="bits/dim", protocol=how),
        Metric("bits_per_dim_spread", spread, unit="bits/dim", protocol=how),
    ]


def evaluate_mnist(model: Any, n: int) -> list[Metric]:
    """Bits/dim of test digits, and n samples before the classifier."""
    drawn = sample(model, torch.zeros(n))
    return [
        *report(model, data.mnist("train"), data.mnist("test")),
        *measure_digits(drawn, None, classifier.recorded()),
    ]


def evaluate_cifar10(model: Any, n: int) -> list[Metric]:
    """Bits/dim of n test images, and as many samples before EfficientNet-Lite0."""
    drawn = sample(model, torch.zeros(n))
    return [
        *report(model, data.cifar10("train"), data.cifar10("test"), n),
        *measure_colours(drawn, where=device()),
    ]


def _digits(budget: str, steps: int) -> Experiment:
    return Experiment(
        "realnvp",
        "digits",
        budget,
        model=lambda: model((1, 8, 8), 24, 1, 2, levels=17),
        batches=lambda seed, size: batches(data.digits("train"), seed, size),
        recipe=Recipe(steps=steps, batch_size=64, lr=1e-3, warmup=100, decay="cosine", clip=50.0),
        reference=REFERENCE,
        sample=sample,
    )


# No averaged weights: the running statistics of batch normalisation belong to the weights of the last step, and the
# density of other weights with them is another. The cosine, which ends at rate 0, does what averaging would.
def in_plane() -> RealNVP:
    """Eight couplings; the last layer of each MLP at 0, so that the flow begins as the identity."""

    def make(inputs: int, outputs: int) -> nn.Module:
        mlp = MLP(inputs, outputs, 64, 2)
        nn.init.zeros_(mlp[-1].get_parameter("weight"))
        return mlp

    return RealNVP.on_vectors(2, make, layers=8)


EXPERIMENTS = (
    points("realnvp", GAUSSIANS, in_plane, 3000),
    points("realnvp", plane.moons, in_plane, 3000, evaluate=in_nats(plane.moons())),
    _digits("laptop", 1500),
    _digits("gpu", 3000),
    Experiment(
        "realnvp",
        "mnist",
        "laptop",
        model=lambda: model((1, 28, 28), 32, 2, 3),  # 28, 14, 7: 0.65 M weights, 1.3 MB in half precision
        batches=lambda seed, size: batches(data.mnist("train"), seed, size),
        recipe=Recipe(
            steps=1800,  # two epochs; 0.63 s a step on one idle core, 19 minutes
            batch_size=64,
            lr=1e-3,
            warmup=200,
            decay="cosine",
            clip=100.0,
        ),
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate_mnist,
    ),
    Experiment(
        "realnvp",
        "mnist",
        "gpu",
        model=lambda: model((1, 28, 28), 64, 4, 3),
        batches=lambda seed, size: batches(data.mnist("train"), seed, size),
        recipe=Recipe(steps=80_000, batch_size=64, lr=1e-3, warmup=500, decay="cosine", clip=100.0, bf16=True),
        compile=True,
        channels_last=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate_mnist,
    ),
    Experiment(
        "realnvp",
        "cifar10",
        "laptop",
        model=lambda: model((3, 32, 32), 32, 1, 2),
        batches=lambda seed, size: batches(data.cifar10("train"), seed, size, flip=True),
        recipe=Recipe(
            steps=1200,  # an epoch and a half; 0.51 s a step on one idle core, ten minutes
            batch_size=64,
            lr=1e-3,
            warmup=200,
            decay="cosine",
            clip=100.0,
        ),
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate_cifar10,
    ),
    Experiment(
        "realnvp",
        "cifar10",
        "gpu",
        model=lambda: model((3, 32, 32), 64, 8, 2),  # the paper's numbers of scales, blocks and maps
        batches=lambda seed, size: batches(data.cifar10("train"), seed, size, flip=True),
        recipe=Recipe(steps=300_000, batch_size=64, lr=1e-3, warmup=1000, decay="cosine", clip=100.0, bf16=True),
        compile=True,
        channels_last=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate_cifar10,
    ),
)
