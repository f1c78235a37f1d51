"""DC-AE on the 8×8 digits, and on CIFAR-10 at f = 8: with shortcuts; `plain`, without; `refined`, the third phase.

The paper: ImageNet and others, 256×256 to 1024×1024, f = 32 to 128, L1 and LPIPS, 323 to 1,121 M weights. Here f = 8
makes 4×4 places of 32 channels of a picture of 32×32, a sixth of its numbers, and the loss is L1 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gmbook import data
from gmbook.core.model import Objective
from gmbook.data.batches import Batches
from gmbook.experiments.base import Experiment, find
from gmbook.experiments.images import image_batches
from gmbook.experiments.results import load_pretrained
from gmbook.metrics import efficientnet
from gmbook.metrics.distances import frechet_distance
from gmbook.metrics.images import real_images
from gmbook.metrics.metric import Metric, Protocol, by_key, of_set, seed
from gmbook.networks.conv import PatchGAN
from gmbook.papers.dc_ae import DCAE
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = "Chen et al. 2025: ImageNet at 256×256 to 1024×1024, f32 to f128, L1 + LPIPS, then two more phases"
SHAPE = (3, 32, 32)
Report = Callable[[Any, int], list[Metric]]
LATENT = 32


# --------------------------------------------------------------------------------------------------------- digits


@torch.no_grad()
def reconstruction(model: Any, n: int) -> list[Metric]:
    """The error of decoded latents on test digits, beside that of the mean image: root mean squares in [−1, 1]."""
    test = data.digits("test")
    x = data.scale(test.x[:n], test.levels)
    how = Protocol(data=of_set(test), examples=len(x))
    error, simple = _root(model.decode(model.encode(x)) - x), _root(x - x.mean(0))
    return [Metric("reconstruction_error", error, baselines={"mean_image": simple}, protocol=how)]


def model() -> DCAE:
    """8×8 digits to eight channels at 2×2: half the numbers."""
    return DCAE((1, 8, 8), 8, (16, 32, 64), (1, 1, 1), attention=2, head=16)


# -------------------------------------------------------------------------------------------------------- colours


def colour_model(shortcut: bool = True, **options: Any) -> DCAE:
    """f = 8: 3×32×32 pixels to 32 channels at 4×4. 0.75 M weights; as in the paper's models, no stage at full size."""
    depths = (0, 1, 1, 2)
    return DCAE(SHAPE, LATENT, (16, 32, 64, 64), depths, attention=3, head=32, shortcut=shortcut, **options)


def large_colour_model(shortcut: bool = True) -> DCAE:
    """The same, with the paper's widths of its first stages: 56 M weights."""
    widths, depths = (128, 256, 512, 512), (0, 2, 2, 2)
    return DCAE(SHAPE, LATENT, widths, depths, attention=3, head=32, shortcut=shortcut)


class Refined(DCAE):
    """A DC-AE whose training is the third phase."""

    def objectives(self) -> dict[str, Objective]:
        return self.local_refinement()


def recorded() -> Any:
    """The recorded first phase with shortcuts; `results.NoRecord` if it is not there."""
    return load_pretrained(find(EXPERIMENTS, "dc_ae", "cifar10", "laptop"))


def bare(dataset: str) -> DCAE:
    """A recorded laptop run's autoencoder, frozen and without a discriminator: the first stage of latent diffusion."""
    weights = load_pretrained(find(EXPERIMENTS, "dc_ae", dataset, "laptop")).state_dict()
    model = colour_model()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.requires_grad_(False)


def refined(width: int = 16) -> Refined:
    """The recorded first phase, and a discriminator of patches of 34 pixels a side beside it.

    Args:
        width: of the discriminator.
    """
    widths, depths = (16, 32, 64, 64), (0, 1, 1, 2)
    model = Refined(SHAPE, LATENT, widths, depths, attention=3, head=32, discriminator=PatchGAN(3, width, 2))
    begin = recorded()
    model.encoder.load_state_dict(begin.encoder.state_dict())
    model.decoder.load_state_dict(begin.decoder.state_dict())
    return model


def contrast(x: Tensor) -> float:
    """The root mean square difference between neighbours, along rows and columns: images (B, C, H, W)."""
    return (x.diff(dim=2).square().mean() + x.diff(dim=3).square().mean()).sqrt().item()


def reconstruct(model: Any, x: Tensor) -> Tensor:
    """Images through the autoencoder and back, in parts, clamped to [−1, 1], on the CPU: (n, *S) -> (n, *S)."""
    return torch.cat([model.reconstruct(part.to(device())).clamp(-1, 1).cpu() for part in x.split(500)])


@torch.no_grad()
def evaluate(model: Any, n: int) -> list[Metric]:
    """Reconstructions of n test images: error, contrast, and the distance of their features to 5,000 other images'."""
    test = data.cifar10("test")
    real, other = real_images(test, n)
    output, mean = reconstruct(model, other), real.mean(0)
    how = Protocol(data=of_set(test), examples=n, seed=seed())
    return [
        Metric(
            "reconstruction_error", _root(output - other), baselines={"mean_image": _root(other - mean)}, protocol=how
        ),
        Metric("contrast_kept", contrast(output) / contrast(other), protocol=how),
        _feature_distance(output, other, real, Protocol(n, of_set(test), len(real), network=efficientnet.NAME)),
    ]


def evaluate_refined(model: Any, n: int) -> list[Metric]:
    """The same beside the numbers of the phase that it began from."""
    before = by_key(evaluate(recorded(), n))
    beside = {key: {"phase_one": m.value} for key, m in before.items() if isinstance(m.value, float)}
    return [replace(m, baselines=m.baselines | beside.get(m.key, {})) for m in evaluate(model, n)]


def _feature_distance(output: Tensor, other: Tensor, real: Tensor, card: Protocol) -> Metric:
    """The Fréchet distance of EfficientNet-Lite0's features, or the reason why there is none."""
    key = "reconstruction_feature_distance"
    try:
        features = efficientnet.features(real.to(device()))
    except efficientnet.WeightsMissing as missing:
        return Metric(key, None, protocol=card, missing=f"not computed: {missing}")
    value, floor = (frechet_distance(efficientnet.features(x.to(device())), features).item() for x in (output, other))
    return Metric(key, value, floor=floor, protocol=card)


def _root(error: Tensor) -> float:
    return error.square().mean().sqrt().item()


def reconstructions(model: Any, labels: Tensor) -> Tensor:
    """Test images through the autoencoder and back, the next one of each label that is asked for: (n, 3, 32, 32)."""
    test = data.cifar10("test")
    rows = [iter((test.y == c).nonzero()[:, 0]) for c in range(10)]
    return reconstruct(model, data.scale(test.x[torch.stack([next(rows[c]) for c in labels.tolist()])]))


def _colours(dataset: str, shortcut: bool) -> Iterator[Experiment]:
    """CIFAR-10 at both budgets, with or without shortcuts and alike in everything else."""
    laptop = Recipe(
        steps=4000,  # nearly three epochs; 0.06 s a step on one core, four minutes
        batch_size=32,
        lr=2e-3,
        warmup=100,
        decay="cosine",
        clip=1000.0,  # the loss is a sum over 3,072 pixels: so are gradients
    )
    gpu = Recipe(
        steps=100_000,  # 256 epochs
        batch_size=128,
        lr=2e-4,
        warmup=1000,
        decay="cosine",
        clip=1000.0,
        bf16=True,
    )
    for budget, recipe in (("laptop", laptop), ("gpu", gpu)):
        make = colour_model if budget == "laptop" else large_colour_model
        yield _on_cifar10(dataset, budget, partial(make, shortcut), recipe, evaluate)


def _on_cifar10(dataset: str, budget: str, model: Callable[[], DCAE], recipe: Recipe, evaluate: Report) -> Experiment:
    """A run on CIFAR-10's training images, flipped at random."""
    return Experiment(
        *("dc_ae", dataset, budget),
        model=model,
        batches=lambda seed, size: image_batches(data.cifar10("train"), seed, size, flip=True),
        recipe=recipe,
        reference=REFERENCE,
        sample=reconstructions,
        evaluate=evaluate,
        compile=budget == "gpu",
        channels_last=budget == "gpu",
    )


def _refined(budget: str, width: int, recipe: Recipe) -> Experiment:
    """The third phase of the recorded laptop run."""
    return _on_cifar10("cifar10_refined", budget, partial(refined, width), recipe, evaluate_refined)


third = partial(Recipe, lr={"autoencoder": 1e-3, "discriminator": 1e-3}, clip=1000.0)

EXPERIMENTS = (
    Experiment(
        "dc_ae",
        "digits",
        "laptop",
        model=model,
        batches=lambda seed, size: Batches(
            data.digits("train").x, size=size, seed=seed, transform=lambda x: data.scale(x, 17)
        ),
        recipe=Recipe(steps=1500, batch_size=64, lr=2e-3, decay="cosine"),
        reference="Chen et al. 2025: ImageNet at 256×256 to 1024×1024, f32 to f128",
        sample=None,
        evaluate=reconstruction,
        toy=True,
    ),
    *_colours("cifar10", shortcut=True),
    *_colours("cifar10_plain", shortcut=False),
    _refined("laptop", 16, third(steps=1000, batch_size=32, decay="cosine")),
    _refined("gpu", 64, third(steps=20_000, batch_size=128, decay="cosine", bf16=True)),
)
