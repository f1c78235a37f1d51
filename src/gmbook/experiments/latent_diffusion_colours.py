"""Latent diffusion on CIFAR-10, on the codes of DC-AE's recorded runs: 32×32 pixels are 4×4 places of 32 numbers.

The first stage has records of its own, and its codes are deterministic. So each picture and its mirror image is encoded
once, and what is trained and kept here is the prior alone. DC-AE's third phase leaves the encoder as it is: the same
prior serves the decoder before it and the one after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gmbook import data
from gmbook.data.batches import Batches
from gmbook.experiments import dc_ae
from gmbook.experiments.base import Experiment
from gmbook.experiments.images import CLASSES, balanced, guided
from gmbook.metrics import efficientnet
from gmbook.metrics.distances import frechet_distance, precision_recall
from gmbook.metrics.images import FEW, nearest, real_images
from gmbook.metrics.metric import Metric, Protocol, of_set, seed
from gmbook.networks.transformer import DiT
from gmbook.papers import ddim
from gmbook.papers.ddpm import DDPM
from gmbook.papers.latent_diffusion import LatentDiffusion, sqrt_linear_betas
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Chen et al. 2025, DiT-XL on f32c32: ImageNet at 512×512, 16×16 places of 32 numbers; the schedule and the "
    "guidance of Rombach et al. 2022"
)
SAMPLING = "DDIM, 50 steps, eta 0, guidance s = 1.5, no selection"
LATENT = (dc_ae.LATENT, 4, 4)
SCALE = 0.2128  # 1/std of the codes of the first 5,000 training pictures, by `LatentDiffusion.measure_scale`
KEYS = (
    "efficientnet_frechet_distance",
    "reconstruction_feature_distance",
    "feature_distance_to_reconstructions",
)
REFINED, FIRST = "cifar10_refined", "cifar10"  # DC-AE's runs, after the third phase and after the first


def prior(width: int = 96, depth: int = 5) -> DDPM:
    """A transformer of the code's sixteen places, told the class, on latent diffusion's schedule. 0.9 M weights.

    It predicts v, not ε as latent diffusion does. After 400 steps of a trial the mean square error of x̂_0 at i = 950 of
    1000 was 0.88 so, and 7.5 with ε, where the codes' variance is 1: σ_t/α_t multiplies the error of ε̂.
    """
    net = DiT(LATENT, 1, width, depth, 4, classes=CLASSES, drop=0.1)
    return DDPM(net, LATENT, betas=sqrt_linear_betas(), predicts="v")


def whole(model: Any, stage: str = REFINED) -> LatentDiffusion:
    """Both stages: a prior of scaled codes, and the recorded autoencoder of the run `stage`."""
    return LatentDiffusion(dc_ae.bare(stage).to(device()), model, SCALE)


@torch.no_grad()
def codes(images: data.ImageSet, stage: str = REFINED) -> Tensor:
    """s E(x) of all pictures, and after them of their mirror images: (2N, 32, 4, 4)."""
    both = whole(DDPM(torch.nn.Identity(), LATENT), stage)
    seen = lambda x: data.scale(x, images.levels).to(device())  # noqa: E731
    return torch.cat([both.encode(seen(part)) for x in (images.x, images.x.flip(3)) for part in x.split(50)])


def batches(images: data.ImageSet, seed: int, size: int) -> Iterable[tuple[Tensor, ...]]:
    """Endless (z, y): scaled codes (B, 32, 4, 4) of pictures or their mirror images, and labels (B,)."""
    return Batches(codes(images), torch.cat([images.y, images.y]), size=size, seed=seed, device=device())


# --------------------------------------------------------------------------------------------------- sampling


def draw(model: Any, labels: Tensor, scale: float = 1.5, steps: int = 50) -> Tensor:
    """Scaled codes for labels (n,) by DDIM (η = 0) with guidance: (n, 32, 4, 4)."""
    told = guided(model, scale)
    return torch.cat([ddim.sample(told, len(y), steps, y=y) for y in labels.to(device()).split(500)])


@torch.no_grad()
def pictures(both: LatentDiffusion, z: Tensor) -> Tensor:
    """What scaled codes are decoded to, cut off at black and white: (n, 32, 4, 4) -> (n, 3, 32, 32), on the CPU."""
    return torch.cat([both.decode(part) for part in z.split(250)]).clamp(-1, 1).cpu()


def sample(model: Any, labels: Tensor) -> Tensor:
    """Pictures of the classes that are asked for: (n,) -> (n, 3, 32, 32) in [−1, 1]."""
    return pictures(whole(model), draw(model, labels))


@torch.no_grad()
def gaussian(z: Tensor, n: int) -> Tensor:
    """n draws from the Gaussian with the mean and the covariance of codes z (N, *S), N > dim S: (n, *S)."""
    flat = z.flatten(1).double()
    law = torch.distributions.MultivariateNormal(flat.mean(0), flat.T.cov())
    return law.sample((n,)).to(z.dtype).unflatten(1, z.shape[1:])


# -------------------------------------------------------------------------------------------------- measuring


def evaluate(model: Any, n: int) -> list[Metric]:
    """n guided samples before EfficientNet-Lite0, and the error split in two.

    Beside them stand samples without guidance, the same codes through the decoder before the third phase, and decoded
    draws of a Gaussian that was fitted to the codes of all training pictures and their mirror images.
    """
    both, labels = whole(model), balanced(n)
    z = draw(model, labels)
    normal = gaussian(codes(data.cifar10("train")), n)
    beside = {
        "gaussian_codes": pictures(both, normal),
        "phase_one": pictures(whole(model, FIRST), z),
        "unguided": pictures(both, draw(model, labels, 1.0)),
    }
    return report(both.autoencoder, pictures(both, z), beside)


@torch.no_grad()
def report(stage: Any, drawn: Tensor, beside: dict[str, Tensor]) -> list[Metric]:
    """What samples measure in EfficientNet-Lite0's features: against real pictures, and against reconstructions.

    Args:
        stage: the autoencoder that decoded them.
        drawn: samples (n, 3, 32, 32) in [−1, 1].
        beside: others, by what they are called as baselines; "gaussian_codes" is among them.

    Returns:
        The Fréchet distance of samples to 5,000 test pictures; that of n reconstructed pictures, which is what the
        first stage alone costs; that of samples to 5,000 reconstructions; precision and recall, and how near the
        nearest training picture is, as in `metrics.images`. Where the network's weights are missing, why.
    """
    test, n = data.cifar10("test"), len(drawn)
    real, other = real_images(test, n)
    card = Protocol(n, of_set(test), len(real), network=efficientnet.NAME, seed=seed())
    sampled = replace(card, sampler=SAMPLING)
    near = nearest(drawn, other, data.cifar10("train"))
    try:
        seen = {name: _features(x) for name, x in {"drawn": drawn, "real": real, "other": other, **beside}.items()}
    except efficientnet.WeightsMissing as missing:
        return [Metric(key, None, protocol=sampled, missing=f"not computed: {missing}") for key in KEYS] + [near]
    rebuilt, again = (_features(dc_ae.reconstruct(stage, x)) for x in (real, other))
    apart = lambda a, b: frechet_distance(a, b).item()  # noqa: E731
    to_real = {name: apart(features, seen["real"]) for name, features in seen.items() if name != "real"}
    normal = {"gaussian_codes": apart(seen["gaussian_codes"], rebuilt)}
    others = {name: to_real[name] for name in beside}
    return [
        Metric(KEYS[0], to_real["drawn"], floor=to_real["other"], baselines=others, protocol=sampled),
        Metric(KEYS[1], apart(again, seen["real"]), floor=to_real["other"], protocol=card),
        Metric(KEYS[2], apart(seen["drawn"], rebuilt), floor=apart(again, rebuilt), baselines=normal, protocol=sampled),
        *_precision_recall(seen, sampled),
        near,
    ]


def _features(x: Tensor) -> Tensor:
    return efficientnet.features(x.to(device())).cpu()


def _precision_recall(seen: dict[str, Tensor], card: Protocol) -> list[Metric]:
    """Both shares of the samples, of other real pictures, and of the decoded Gaussian."""
    pairs = {
        name: precision_recall(seen[name][:FEW], seen["real"][:FEW]) for name in ("drawn", "other", "gaussian_codes")
    }
    few = replace(card, samples=min(len(seen["drawn"]), FEW), examples=min(len(seen["real"]), FEW))
    return [
        Metric(key, value, floor=floor, baselines={"gaussian_codes": normal}, protocol=few)
        for key, value, floor, normal in zip(("precision", "recall"), *pairs.values())
    ]


def _on_codes(budget: str, model: Any, recipe: Recipe, **options: Any) -> Experiment:
    return Experiment(
        "latent_diffusion",
        "cifar10_dcae",
        budget,
        model=model,
        batches=lambda seed, size: batches(data.cifar10("train"), seed, size),
        recipe=recipe,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
        **options,
    )


EXPERIMENTS = (
    _on_codes(
        "laptop",
        prior,
        Recipe(
            steps=6000,  # the codes that MNIST's prior has seen; 0.064 s a step on one core, seven minutes
            batch_size=64,
            lr=1e-3,
            warmup=200,
            decay="cosine",
            clip=1.0,
            ema_decay=0.998,
        ),
    ),
    _on_codes(
        "gpu",
        lambda: prior(384, 8),
        Recipe(steps=100_000, batch_size=256, lr=5e-4, warmup=2000, clip=1.0, bf16=True, ema_decay=0.9995),
        compile=True,
    ),
)
