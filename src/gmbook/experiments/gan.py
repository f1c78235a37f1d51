"""The GAN on images: 8×8 digits, MNIST, CIFAR-10.

The paper, on MNIST: fully connected networks; 100 uniform numbers, two layers of 1200 rectified units and 784 sigmoids
against two maxout layers of 240 units in five pieces with dropout; SGD from 0.1, divided by 1.000004 at every step,
momentum from 0.5 to 0.7, batch 100, one step of the discriminator for each of the generator. Ours are small
convolutional networks, Adam with little momentum, and R1, which a hard game needs and an easy one does not mind
(chapter 02, section 6.2). On CIFAR-10 the paper shows pictures, of a fully connected network and of one with
a convolutional discriminator and a deconvolutional generator, and gives no number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gmbook import data
from gmbook.core.model import Model
from gmbook.data.batches import Batches, mirror
from gmbook.experiments import classifier
from gmbook.experiments.base import Experiment
from gmbook.experiments.toys import GAUSSIANS, points
from gmbook.metrics.images import measure_colours, measure_digits
from gmbook.metrics.metric import Metric
from gmbook.networks.conv import Decoder, Encoder
from gmbook.networks.mlp import MLP
from gmbook.papers.gan import GAN, r1
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Goodfellow et al. 2014, MNIST: G 100-1200-1200-784, D two maxout layers of 240 units in five pieces with dropout, "
    "SGD 0.1, momentum 0.5 to 0.7, batch 100, k = 1"
)
COLOURS = (
    "Goodfellow et al. 2014, CIFAR-10: pictures only, of fully connected networks, and of a convolutional D against a "
    "deconvolutional G"
)
LATENT = 64
BETAS = (0.5, 0.99)  # DCGAN's 0.5 (arXiv:1511.06434): players that turn about each other overshoot with more momentum


def model(shape: tuple[int, int, int], width: int, gamma: float = 1.0) -> GAN:
    """A decoder with a tanh against an encoder with one output. Group normalisation only, which mixes no samples."""
    generator = nn.Sequential(Decoder(LATENT, shape, width), nn.Tanh())
    return GAN(generator, Encoder(shape, 1, width), shape, LATENT, penalty=r1(gamma))


class Telling(nn.Module):
    """tanh(net(z, y)): a decoder told a label, with pixels in [−1, 1]."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.tanh(self.net(z, y))


def batches(images: data.ImageSet, seed: int, size: int, flip: bool = False) -> Batches:
    """Endless (x,) in [−1, 1]. `flip` mirrors half of the images."""
    scaled = lambda x: data.scale(x, images.levels)  # noqa: E731
    augment = mirror if flip else None
    return Batches(images.x, size=size, seed=seed, device=device(), transform=scaled, augment=augment)


def sample(model: Model, labels: Tensor) -> Tensor:
    """As many samples as labels, which the model does not know, in [−1, 1]."""
    return torch.cat([model.sample(len(part)).cpu() for part in labels.split(500)])


@torch.no_grad()
def evaluate(model: Any, n: int) -> list[Metric]:
    """n samples before the classifier: distance, precision and recall, and how many of each class."""
    return measure_digits(sample(model, torch.zeros(n)), None, classifier.recorded())


@torch.no_grad()
def evaluate_cifar10(model: Any, n: int) -> list[Metric]:
    """n samples before EfficientNet-Lite0: distance, precision and recall."""
    return measure_colours(sample(model, torch.zeros(n)), where=device())


def live(images: data.ImageSet, width: int = 16, gamma: float = 1.0) -> GAN:
    """A conditional model for some seconds of live training, for 8×8 digits: both players are told the label."""
    channels, height, side = images.shape
    shape = (channels, height, side)
    generator = Telling(Decoder(LATENT, shape, width, classes=10))
    return GAN(generator, Encoder(shape, 1, width, classes=10), shape, LATENT, penalty=r1(gamma), classes=10)


def _digits(budget: str, steps: int) -> Experiment:
    return Experiment(
        "gan",
        "digits",
        budget,
        model=lambda: model((1, 8, 8), 24),
        batches=lambda seed, size: batches(data.digits("train"), seed, size),
        recipe=Recipe(
            steps=steps,
            batch_size=64,
            lr=1e-3,  # so small a set has few pixels to get wrong: a larger rate is stable
            betas=BETAS,
            ema_decay=0.998,
        ),
        reference=REFERENCE,
        sample=sample,
    )


EXPERIMENTS = (
    points(
        "gan",
        GAUSSIANS,
        lambda: GAN(MLP(8, 2), MLP(2, 1), (2,), 8, penalty=r1(0.1)),
        4000,
        betas=BETAS,
        lr=1e-3,
    ),
    _digits("laptop", 4000),
    _digits("gpu", 20_000),
    Experiment(
        "gan",
        "mnist",
        "laptop",
        model=lambda: model((1, 28, 28), 16),
        batches=lambda seed, size: batches(data.mnist("train"), seed, size),
        recipe=Recipe(
            steps=5000,  # five epochs; 0.16 s a step on one idle core, a quarter of an hour
            batch_size=64,
            lr=5e-4,
            betas=BETAS,
            ema_decay=0.998,  # the average stands where the two players move about
        ),
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
    Experiment(
        "gan",
        "mnist",
        "gpu",
        model=lambda: model((1, 28, 28), 64),
        batches=lambda seed, size: batches(data.mnist("train"), seed, size),
        recipe=Recipe(steps=100_000, batch_size=128, lr=2e-4, betas=BETAS, bf16=True, ema_decay=0.9995),
        compile=True,
        channels_last=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
    Experiment(
        "gan",
        "cifar10",
        "laptop",
        model=lambda: model((3, 32, 32), 24),  # 0.76 M weights, both players: what two megabytes nearly fill
        batches=lambda seed, size: batches(data.cifar10("train"), seed, size, flip=True),
        recipe=Recipe(
            steps=3000,  # four epochs; a step costs some three times MNIST's
            batch_size=64,
            lr=5e-4,  # MNIST's: at so few steps a larger rate is worth its noise
            betas=BETAS,
            ema_decay=0.998,
        ),
        reference=COLOURS,
        sample=sample,
        evaluate=evaluate_cifar10,
    ),
    Experiment(
        "gan",
        "cifar10",
        "gpu",
        model=lambda: model((3, 32, 32), 64),  # 4 M weights: wide enough for textures, and still a plain DCGAN
        batches=lambda seed, size: batches(data.cifar10("train"), seed, size, flip=True),
        recipe=Recipe(
            steps=200_000,  # 512 epochs: the players go on learning from each other long after MNIST's have settled
            batch_size=128,
            lr=2e-4,
            betas=BETAS,
            bf16=True,
            ema_decay=0.9995,
        ),
        compile=True,
        channels_last=True,
        reference=COLOURS,
        sample=sample,
        evaluate=evaluate_cifar10,
    ),
)
