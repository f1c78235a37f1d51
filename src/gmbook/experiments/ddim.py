"""DDIM on points in the plane: DDPM's model, sampled without noise."""

from __future__ import annotations

from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.papers import ddim
from gmbook.papers.ddpm import DDPM


def model() -> DDPM:
    """Of v: an ε̂ would be divided by α_1 ≈ 0.006, and without later noise its error stays."""
    return DDPM(net(), (2,), 200, predicts="v")


EXPERIMENTS = (points("ddim", GAUSSIANS, model, 8000, lambda m, n: ddim.sample(m, n, 50)),)
