"""Latent diffusion on points in the plane, and on MNIST: captions of three words, and a prior of 7×7×4 latents.

The paper's class-conditional LDM-4-G: ImageNet at 256×256, VQ-f4 with 3 channels at 64×64, UNet of 395 M weights, T =
1000, β from 0.0015 to 0.0195 linear in √β, 178,000 steps of 1200, labels through one token of cross-attention.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gmbook import data
from gmbook.data.batches import Batches
from gmbook.experiments import autoencoder, classifier
from gmbook.experiments.base import Experiment
from gmbook.experiments.images import CLASSES, balanced
from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.metrics import strokes
from gmbook.metrics.distances import frechet_distance
from gmbook.metrics.images import CLASSIFIER, REFERENCE, measure_digits, real_images
from gmbook.metrics.metric import Metric, Protocol, of_set, seed
from gmbook.networks.embed import Words
from gmbook.networks.guided import Guided
from gmbook.networks.transformer import DiT
from gmbook.papers import ddim
from gmbook.papers.ddpm import DDPM
from gmbook.papers.latent_diffusion import Conditioned, KLAutoencoder, LatentDiffusion, sqrt_linear_betas
from gmbook.papers.vqgan import Autoencoder
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

PAPER = (
    "Rombach et al. 2022, LDM-4-G: ImageNet 256×256, VQ-f4, UNet 395 M, T = 1000, β linear in its root, 178,000 steps "
    "of 1200"
)
SAMPLING = "DDIM, 50 steps, eta 0, guidance s = 1.5, no selection"
LATENT = (autoencoder.CHANNELS, 7, 7)

# ----------------------------------------------------------------------------------------------------- captions

# terciles of MNIST's training digits, by `metrics.strokes`
SLANTS, THICKNESSES = (-0.013, 0.221), (2.130, 2.629)
VOCABULARY = (*"0123456789", "leaning left", "upright", "leaning right", "thin", "medium", "bold")
BLANK = len(VOCABULARY)


def caption(labels: Tensor, slants: Tensor | None = None, thicknesses: Tensor | None = None) -> Tensor:
    """Three words, (n, 3): the class, the third of slants, the third of thicknesses; what is None is not said.

    Args:
        labels: (n,) in 0..9.
        slants, thicknesses: (n,) in 0..2.
    """
    blank = torch.full_like(labels, BLANK)
    slant_words = blank if slants is None else CLASSES + slants
    return torch.stack([labels, slant_words, blank if thicknesses is None else CLASSES + 3 + thicknesses], 1)


def describe(x: Tensor, labels: Tensor) -> Tensor:
    """The caption of digits, by measuring them: (n, 1, 28, 28) in [−1, 1], (n,) -> (n, 3)."""
    thirds = lambda values, cuts: torch.bucketize(values, torch.tensor(cuts, device=values.device))  # noqa: E731
    return caption(labels, thirds(strokes.slant(x), SLANTS), thirds(strokes.thickness(x), THICKNESSES))


def batches(images: data.ImageSet, seed: int, size: int) -> Batches:
    """Endless (x, y): x (B, C, H, W) in [−1, 1], y (B, 3) captions."""
    parts = zip(images.x.split(5000), images.y.split(5000))
    captions = torch.cat([describe(data.scale(x, images.levels), y) for x, y in parts])
    seen = lambda x: data.scale(x, images.levels)  # noqa: E731
    return Batches(images.x, captions, size=size, seed=seed, device=device(), transform=seen)


# -------------------------------------------------------------------------------------------------------- models


def plane_model() -> LatentDiffusion:
    """A rotation by 45 degrees, shrunk by five, for a first stage: what it costs the second is then plain to see."""
    c = math.cos(math.pi / 4)
    turn = torch.tensor([[c, -c], [c, c]])
    encoder, decoder = nn.Linear(2, 4), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([turn / 5, torch.zeros(2, 2)]))
        encoder.bias.copy_(torch.tensor([0.0, 0.0, -20.0, -20.0]))  # no noise: log-variances of −20
        decoder.weight.copy_(5 * turn.T)
    first = KLAutoencoder(encoder, decoder, (2,))
    return LatentDiffusion(first.requires_grad_(False), DDPM(net(), (2,), steps=200), scale=5.0)


def prior(width: int, depth: int, heads: int = 4, latent: tuple[int, int, int] = LATENT) -> DDPM:
    """A transformer of the latent's places, told a caption by cross-attention, on the authors' schedule."""
    dit = DiT(latent, 1, width, depth, heads, context=32)
    told = Conditioned(dit, Words(BLANK, 32, drop=0.15, drop_all=0.1))
    return DDPM(told, latent, betas=sqrt_linear_betas())


def first_stage() -> Autoencoder:
    """The recorded autoencoder, frozen and without the perceptual network, which only its training needs."""
    bare = autoencoder.model()
    weights = autoencoder.recorded().state_dict()
    bare.load_state_dict({name: weights[name] for name in bare.state_dict()})
    return bare.requires_grad_(False)


def mnist_model(width: int = 88, depth: int = 4) -> LatentDiffusion:
    """The recorded autoencoder, its scale measured on 5,000 digits, and a prior: 0.85 M weights in all."""
    model = LatentDiffusion(first_stage(), prior(width, depth))
    try:
        with torch.random.fork_rng(devices=[]):  # the weights of the prior must not depend on whether data are there
            model.measure_scale(data.scale(data.mnist("train").x[:5000]))
    except FileNotFoundError:
        pass  # recorded weights bring their scale along
    return model


# --------------------------------------------------------------------------------------------------- sampling


def guided(model: Any, scale: float) -> LatentDiffusion:
    """The same model with its prior under guidance of scale s, away from the caption without words."""
    null = torch.full((3,), BLANK)
    inner = model.prior.with_network(Guided(model.prior.net, scale, null))
    return LatentDiffusion(model.autoencoder, inner, model.scale)


def draw(model: Any, captions: Tensor, scale: float = 1.5, steps: int = 50) -> Tensor:
    """Digits for captions (n, 3) by DDIM (η = 0) with guidance: (n, 1, 28, 28) in [−1, 1]."""
    told = guided(model, scale)
    parts = [ddim.sample(told.prior, len(y), steps, y=y) for y in captions.to(device()).split(500)]
    return torch.cat([told.decode(z) for z in parts]).clamp(-1, 1).cpu()


def sample(model: Any, labels: Tensor) -> Tensor:
    """Digits of which only the class is said."""
    return draw(model, caption(labels))


def obedience(asked: Tensor, x: Tensor) -> Tensor:
    """The shares of digits x that are in the third of slants, and of thicknesses, that was asked for: (2,)."""
    return (describe(x, asked[:, 0])[:, 1:] == asked[:, 1:]).double().mean(0)


@torch.no_grad()
def evaluate(model: Any, n: int) -> list[Metric]:
    """n guided samples before the classifier, the error split in two, and obedience to captions, by measuring."""
    labels, judge, test = balanced(n), classifier.recorded(), data.mnist("test")
    drawn = sample(model, labels)
    real, other = real_images(test, n)
    rebuilt = torch.cat([model.autoencoder.reconstruct(part.to(device())) for part in (*real.split(500), other)])
    rebuilt, others = judge.features(rebuilt).split([len(real), n])
    card = Protocol(n, of_set(test), REFERENCE, network=CLASSIFIER, seed=seed())
    apart = lambda a, b: frechet_distance(a, b).item()  # noqa: E731
    g = torch.Generator().manual_seed(0)
    asked = caption(labels, torch.randint(3, (n,), generator=g), torch.randint(3, (n,), generator=g))
    told, untold = obedience(asked, draw(model, asked)), obedience(asked, drawn)
    how = Protocol(n, sampler=SAMPLING, seed=seed())
    return [
        *measure_digits(drawn, labels, judge, SAMPLING),
        Metric("reconstruction_frechet_distance", apart(others, judge.features(real)), protocol=card),
        Metric(
            "frechet_distance_to_reconstructions",
            apart(judge.features(drawn), rebuilt),
            floor=apart(others, rebuilt),
            protocol=card,
        ),
        *(
            Metric(key, share, baselines={"not_told": alone}, protocol=how)
            for key, share, alone in zip(("leans_as_asked", "thick_as_asked"), told.tolist(), untold.tolist())
        ),
    ]


def _mnist(budget: str, model: Any, recipe: Recipe, **options: Any) -> Experiment:
    return Experiment(
        "latent_diffusion",
        "mnist",
        budget,
        model=model,
        batches=lambda seed, size: batches(data.mnist("train"), seed, size),
        recipe=recipe,
        reference=PAPER,
        sample=sample,
        evaluate=evaluate,
        **options,
    )


EXPERIMENTS = (
    points("latent_diffusion", GAUSSIANS, plane_model, 8000),
    _mnist(
        "laptop",
        mnist_model,
        Recipe(
            steps=6000,  # the digits that chapter 06's run on pixels has seen
            batch_size=64,
            lr=1e-3,
            warmup=200,
            decay="cosine",
            clip=1.0,
            ema_decay=0.998,
        ),
    ),
    _mnist(
        "gpu",
        lambda: mnist_model(256, 8),
        Recipe(steps=100_000, batch_size=256, lr=5e-4, warmup=2000, clip=1.0, bf16=True, ema_decay=0.9995),
        compile=True,
        channels_last=True,
    ),
)
