"""MAR on points in the plane."""

from __future__ import annotations

from gmbook.experiments.toys import GAUSSIANS, points
from gmbook.networks.mlp import AdaMLP
from gmbook.networks.transformer import MaskedTransformer
from gmbook.papers.ddpm import DDPM
from gmbook.papers.mar import MAR, DiffusionHead


def model() -> MAR:
    """A point is two tokens of one number each; either may be drawn first."""
    head = DiffusionHead(DDPM(AdaMLP(1, 64, 96, 2), (1,), steps=100))
    return MAR(MaskedTransformer(2, 1, 64, (1, 1), 4), head, (2,), ratio=(0.0, 0.5))


EXPERIMENTS = (points("mar", GAUSSIANS, model, 2000, size=128),)
