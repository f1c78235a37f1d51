"""The VAE on images: 8×8 digits, MNIST, CIFAR-10.

The paper, on MNIST: tanh MLPs with 500 hidden units, Adagrad with rate 0.01, 0.02 or 0.1, minibatches of 100, one draw
of z, weights initialised from N(0, 0.01), latent dimensions from 3 to 200. Bernoulli pixels; ours are binarised anew at
each visit. The paper has no CIFAR-10; its other data, the grey Frey faces, get a Gaussian decoder and 200 hidden units.
Colours get one here too, whose σ follows the error: with σ fixed at 1, pixels say next to nothing and most
of the code would stay unused. Pixels are dequantised, so that the bound is one of bits per dimension.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gmbook import data, metrics
from gmbook.core.model import Model
from gmbook.data.batches import Batches, mirror
from gmbook.experiments import classifier
from gmbook.experiments.base import Experiment
from gmbook.experiments.images import centred, pixels
from gmbook.experiments.toys import GAUSSIANS, points
from gmbook.metrics import PixelGaussian
from gmbook.metrics.images import measure_colours, measure_digits
from gmbook.metrics.metric import Metric, Protocol, mean, of_set, seed
from gmbook.networks.conv import Decoder, Encoder
from gmbook.networks.mlp import MLP
from gmbook.papers.vae import VAE, Gaussian, OptimalGaussian
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = "Kingma & Welling 2014, MNIST: tanh MLP with 500 hidden units, Adagrad, batch 100, one draw of z"

COLOURS = (
    "Kingma & Welling 2014 has no CIFAR-10; Frey Face: tanh MLP with 200 hidden units, Gaussian decoder, Adagrad, "
    "batch 100, one draw of z"
)


def model(shape: tuple[int, ...], width: int, latent: int, depth: int = 1) -> VAE:
    """Encoder and decoder with `depth` hidden layers of `width` SiLU units, Bernoulli pixels."""
    pixels = torch.Size(shape).numel()
    encoder = nn.Sequential(nn.Flatten(), MLP(pixels, 2 * latent, width, depth))
    decoder = nn.Sequential(MLP(latent, pixels, width, depth), nn.Unflatten(1, shape))
    return VAE(encoder, decoder, latent, shape)


def colour_model(width: int, latent: int) -> VAE:
    """Convolutional encoder and decoder of 32×32 images in (−1, 1), and one σ for all pixels that follows the error."""
    shape = (3, 32, 32)
    encoder, decoder = Encoder(shape, 2 * latent, width), Decoder(latent, shape, width)
    return VAE(encoder, decoder, latent, shape, OptimalGaussian())


def batches(images: data.ImageSet, seed: int, size: int) -> Batches:
    """Endless (x,) with pixels in {0, 1}, each drawn with its grey level as probability."""
    binary = lambda x: data.binarise(x, images.levels)  # noqa: E731
    return Batches(images.x, size=size, seed=seed, device=device(), transform=binary)


def colour_batches(images: data.ImageSet, seed: int, size: int) -> Batches:
    """Endless (x,): dequantised pixels in (−1, 1), half of the images mirrored."""
    return Batches(images.x, size=size, seed=seed, device=device(), transform=centred, augment=mirror)


def sample(model: Model, labels: Tensor) -> Tensor:
    """As many samples as labels, which the model does not know: pixel means, in [−1, 1]."""
    return 2 * model.sample(len(labels)).cpu() - 1


def evaluate(model: Any, n: int) -> list[Metric]:
    """Bounds on binarised test digits, in nats, and n samples before the classifier."""
    torch.manual_seed(0)
    test = data.mnist("test")
    x = data.binarise(test.x[:2000]).to(device())
    with torch.no_grad():
        elbo = torch.stack([model.elbo(x) for _ in range(10)]).mean().item()
        iwae = torch.cat([model.iwae(part, 500) for part in x[:500].split(50)]).mean().item()
    drawn = sample(model, torch.zeros(n))
    how = Protocol(data=of_set(test), examples=len(x), draws=10, seed=seed(), setting="binarised anew")
    return [
        Metric("negative_elbo", -elbo, unit="nats", protocol=how),
        Metric("negative_iwae", -iwae, unit="nats", protocol=replace(how, examples=len(x[:500]), draws=500)),
        Metric("active_units", int(model.active_units(x).sum()), protocol=replace(how, draws=None)),
        *measure_digits(drawn, None, classifier.recorded()),
    ]


def sample_colours(model: Model, labels: Tensor) -> Tensor:
    """As many samples as labels, which the model does not know: pixel means, rounded to grey levels, in [−1, 1]."""
    return torch.cat([pixels(model.sample(len(part)).cpu()) for part in labels.split(500)])


@torch.no_grad()
def evaluate_cifar10(model: Any, n: int) -> list[Metric]:
    """Bounds on dequantised test images, in bits per dimension beside a Gaussian's, and n samples before
    EfficientNet-Lite0."""
    torch.manual_seed(0)
    test, gaussian = data.cifar10("test"), PixelGaussian(data.cifar10("train").x)
    x = centred(test.x[:n]).to(device())
    elbo = torch.stack([torch.cat([model.elbo(part) for part in x.split(500)]) for _ in range(10)]).mean(0)
    iwae = torch.cat([model.iwae(part, 100) for part in x[:100].split(10)])
    bits, tighter = (metrics.bits_per_dim(-nats, math.prod(model.shape), offset=7) for nats in (elbo, iwae))
    how = Protocol(data=of_set(test), examples=len(x), draws=10, seed=seed())
    tight = replace(how, examples=len(tighter), draws=100)
    beside = {"pixel_gaussian": gaussian.bits(test.x[:n]).mean().item()}
    return [
        mean("bits_per_dim_bound", bits, baselines=beside, unit="bits/dim", protocol=how),
        Metric("bits_per_dim_iwae", tighter.mean().item(), unit="bits/dim", protocol=tight),
        Metric("active_units", int(model.active_units(x).sum()), protocol=replace(how, draws=None)),
        *measure_colours(sample_colours(model, torch.zeros(n)), gaussian, where=device()),
    ]


def _digits(budget: str, steps: int) -> Experiment:
    return Experiment(
        "vae",
        "digits",
        budget,
        model=lambda: model((1, 8, 8), 128, 8),
        batches=lambda seed, size: batches(data.digits("train"), seed, size),
        recipe=Recipe(steps=steps, batch_size=64, lr=1e-3),
        reference=REFERENCE,
        sample=sample,
    )


EXPERIMENTS = (
    points("vae", GAUSSIANS, lambda: VAE(MLP(2, 4), MLP(2, 2), 2, (2,), Gaussian(0.2)), 4000, lr=5e-3),
    _digits("laptop", 3000),
    _digits("gpu", 20_000),
    Experiment(
        "vae",
        "mnist",
        "laptop",
        model=lambda: model((1, 28, 28), 400, 20),  # 0.65 M weights: the usual small VAE, near the paper's 500 units
        batches=lambda seed, size: batches(data.mnist("train"), seed, size),
        recipe=Recipe(
            steps=9000,  # twenty epochs
            batch_size=128,
            lr=1e-3,
            decay="cosine",
        ),
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
    Experiment(
        "vae",
        "mnist",
        "gpu",
        model=lambda: model((1, 28, 28), 500, 50, depth=2),
        batches=lambda seed, size: batches(data.mnist("train"), seed, size),
        recipe=Recipe(
            steps=200_000,  # on a GPU minutes; the bound still falls slowly
            batch_size=128,
            lr=1e-3,
            decay="cosine",
            bf16=True,
        ),
        compile=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
    Experiment(
        "vae",
        "cifar10",
        "laptop",
        model=lambda: colour_model(16, 64),  # 0.95 M weights, 1.9 MB in half precision
        batches=lambda seed, size: colour_batches(data.cifar10("train"), seed, size),
        recipe=Recipe(
            steps=8000,  # ten epochs; 0.10 s a step on one core, a quarter of an hour
            batch_size=64,
            lr=1e-3,
            decay="cosine",
            clip=1000.0,
            # the loss is a sum over 3,072 pixels: so are gradients
        ),
        reference=COLOURS,
        sample=sample_colours,
        evaluate=evaluate_cifar10,
    ),
    Experiment(
        "vae",
        "cifar10",
        "gpu",
        model=lambda: colour_model(64, 256),  # 15 M weights; four times the width and the code
        batches=lambda seed, size: colour_batches(data.cifar10("train"), seed, size),
        recipe=Recipe(
            steps=200_000,  # 512 epochs
            batch_size=128,
            lr=5e-4,
            decay="cosine",
            clip=1000.0,
            bf16=True,
        ),
        compile=True,
        channels_last=True,
        reference=COLOURS,
        sample=sample_colours,
        evaluate=evaluate_cifar10,
    ),
)
