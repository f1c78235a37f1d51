"""The first stage of latent diffusion on MNIST: an autoencoder with a KL term, 28×28 pixels to 7×7 places of 4 numbers.

The paper's, for f = 4 and 8: L1 and LPIPS, KL with weight 1e-6, a patch discriminator from step 50,000 on, images of
256×256, 55 M and 84 M weights. Ours has no discriminator: that part is played live, in chapter 11.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmbook import data
from gmbook.experiments import classifier
from gmbook.experiments.base import Experiment
from gmbook.experiments.images import image_batches
from gmbook.experiments.results import load_pretrained
from gmbook.metrics.distances import frechet_distance
from gmbook.metrics.images import CLASSIFIER, real_images
from gmbook.metrics.metric import Metric, Protocol, of_set, seed
from gmbook.networks.conv import MapDecoder, MapEncoder
from gmbook.papers.latent_diffusion import KLAutoencoder
from gmbook.papers.vqgan import FeatureDistance, Perceptual
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Rombach et al. 2022, KL-f4 to KL-f8: OpenImages at 256×256, L1 + LPIPS, KL 1e-6, patch GAN from step 50,000"
)
CHANNELS = 4
SHAPE = (1, 28, 28)


def digit_distance() -> FeatureDistance:
    """The perceptual loss of digits: the features of the book's recorded classifier, its first three convolutions."""
    body = classifier.recorded().body
    return FeatureDistance(body[:2], body[2:4], body[4:6])


def model(shape: tuple[int, int, int] = SHAPE, width: int = 24, perceptual: Perceptual | None = None) -> KLAutoencoder:
    """f = 4: 28×28 pixels to 4 channels at 7×7, a quarter of the numbers. 0.2 M weights at width 24.

    The KL's weight is 1e-3, not 1e-6: a digit has 784 pixels where the paper's images have 196,608, and the error that
    the KL is weighed against is a sum over pixels.
    """
    encoder, decoder = MapEncoder(shape, 2 * CHANNELS, width), MapDecoder(CHANNELS, shape, width)
    return KLAutoencoder(encoder, decoder, shape, 1e-3, perceptual=perceptual)


def trained() -> KLAutoencoder:
    """The model of the runs on MNIST, with the classifier's features as the perceptual loss."""
    return model(perceptual=digit_distance())


@torch.no_grad()
def evaluate(model: Any, n: int) -> list[Metric]:
    """Reconstructions of test digits: root mean square error, distance in features, and the rate of the posterior."""
    test = data.mnist("test")
    real, other = real_images(test, n)
    other = other.to(device())
    output = torch.cat([model.reconstruct(part) for part in other.split(500)])
    judge = classifier.recorded()
    mean = data.scale(data.mnist("train").x).mean(0).to(device())
    root = lambda e: e.square().mean().sqrt().item()  # noqa: E731
    features = judge.features(real)
    how = Protocol(data=of_set(test), examples=n, seed=seed())
    card = Protocol(n, of_set(test), len(real), network=CLASSIFIER, seed=seed())
    rate = torch.cat([model(part)[1] / model.weight for part in other.split(500)]).mean().item()
    return [
        Metric(
            "reconstruction_error", root(output - other), baselines={"mean_image": root(other - mean)}, protocol=how
        ),
        Metric(
            "reconstruction_frechet_distance",
            frechet_distance(judge.features(output), features).item(),
            floor=frechet_distance(judge.features(other), features).item(),
            protocol=card,
        ),
        Metric("rate", rate, unit="nats", protocol=how),
    ]


def reconstructions(model: Any, labels: Tensor) -> Tensor:
    """Test digits through the autoencoder and back, as many of each label as are asked for: (n, 1, 28, 28)."""
    test = data.mnist("test")
    rows = [(test.y == c).nonzero()[:, 0] for c in range(10)]
    taken = [0] * 10
    chosen = []
    for label in labels.tolist():
        chosen.append(rows[label][taken[label]])
        taken[label] += 1
    return model.reconstruct(data.scale(test.x[torch.stack(chosen)]).to(device())).clamp(-1, 1).cpu()


def _mnist(budget: str, make: Any, recipe: Recipe, **options: Any) -> Experiment:
    return Experiment(
        "autoencoder",
        "mnist",
        budget,
        model=make,
        batches=lambda seed, size: image_batches(data.mnist("train"), seed, size),
        recipe=recipe,
        reference=REFERENCE,
        sample=reconstructions,
        evaluate=evaluate,
        **options,
    )


EXPERIMENTS = (
    _mnist(
        "laptop",
        trained,
        Recipe(
            steps=3000,  # three and a half epochs
            batch_size=64,
            lr=2e-3,
            warmup=100,
            decay="cosine",
            clip=1000.0,  # the loss is a sum over 784 pixels: so are gradients
            ema_decay=0.998,
        ),
    ),
    _mnist(
        "gpu",
        lambda: model(width=64, perceptual=digit_distance()),
        Recipe(
            steps=50_000, batch_size=128, lr=1e-3, warmup=500, decay="cosine", clip=1000.0, bf16=True, ema_decay=0.999
        ),
        compile=True,
        channels_last=True,
    ),
)


def recorded() -> Any:
    """The recorded autoencoder, from data/pretrained/; `results.NoRecord` if it is not there."""
    return load_pretrained(EXPERIMENTS[0])
