"""The VAE on images: 8×8 digits and MNIST.

The paper, on MNIST: tanh MLPs with 500 hidden units, Adagrad with rate 0.01, 0.02 or 0.1, minibatches of 100, one draw
of z, weights initialised from N(0, 0.01), latent dimensions from 3 to 200. Bernoulli pixels; ours are binarised anew at
each visit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gmbook.core.model import Model
from gmbook.experiments import classifier
from gmbook.experiments.base import Experiment, device
from gmbook.experiments.judge import judge_digits
from gmbook.lab import data
from gmbook.lab.batches import Batches
from gmbook.networks.mlp import MLP
from gmbook.papers.vae import VAE

REFERENCE = "Kingma & Welling 2014, MNIST: tanh MLP with 500 hidden units, Adagrad, batch 100, one draw of z"


def model(shape: tuple[int, ...], width: int, latent: int, depth: int = 1) -> VAE:
    """Encoder and decoder with `depth` hidden layers of `width` SiLU units, Bernoulli pixels."""
    pixels = torch.Size(shape).numel()
    encoder = nn.Sequential(nn.Flatten(), MLP(pixels, 2 * latent, width, depth))
    decoder = nn.Sequential(MLP(latent, pixels, width, depth), nn.Unflatten(1, shape))
    return VAE(encoder, decoder, latent, shape)


def batches(images: data.ImageSet, seed: int, size: int) -> Batches:
    """Endless (x,) with pixels in {0, 1}, each drawn with its grey level as probability."""
    binary = lambda x: data.binarise(x, images.levels)  # noqa: E731
    return Batches(images.x, size=size, seed=seed, device=device(), transform=binary)


def sample(model: Model, labels: Tensor) -> Tensor:
    """As many samples as labels, which the model does not know: pixel means, in [−1, 1]."""
    return 2 * model.sample(len(labels)).cpu() - 1


def evaluate(model: Any, n: int) -> dict[str, Any]:
    """Bounds on binarised test digits, in nats, and n samples before the classifier."""
    torch.manual_seed(0)
    x = data.binarise(data.mnist("test").x[:2000]).to(device())
    with torch.no_grad():
        elbo = torch.stack([model.elbo(x) for _ in range(10)]).mean().item()
        iwae = torch.cat([model.iwae(part, 500) for part in x[:500].split(50)]).mean().item()
    drawn = sample(model, torch.zeros(n))
    return {
        "negative ELBO, nats, 2,000 test digits": -elbo,
        "negative IWAE bound, k = 500, nats, 500 test digits": -iwae,
        "active units": int(model.active_units(x).sum()),
        **judge_digits(drawn, None, classifier.recorded()),
    }


def _digits(budget: str, steps: int) -> Experiment:
    return Experiment(
        "vae",
        "digits",
        budget,
        model=lambda: model((1, 8, 8), 128, 8),
        batches=lambda seed, size: batches(data.digits("train"), seed, size),
        steps=steps,
        size=64,
        options={"lr": 1e-3},
        reference=REFERENCE,
        sample=sample,
    )


EXPERIMENTS = (
    _digits("laptop", 3000),
    _digits("gpu", 20_000),
    Experiment(
        "vae",
        "mnist",
        "laptop",
        model=lambda: model((1, 28, 28), 400, 20),  # 0.65 M weights: the usual small VAE, near the paper's 500 units
        batches=lambda seed, size: batches(data.mnist("train"), seed, size),
        steps=9000,  # twenty epochs
        size=128,
        options={"lr": 1e-3, "decay": "cosine"},
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
        steps=200_000,  # on a GPU minutes; the bound still falls slowly
        size=128,
        options={"lr": 1e-3, "decay": "cosine", "bf16": True},
        compile=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
)
