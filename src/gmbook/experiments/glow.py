"""Glow on points in the plane."""

from __future__ import annotations

from gmbook.experiments.toys import GAUSSIANS, in_nats, points
from gmbook.laws import plane
from gmbook.papers.glow import Glow


def model() -> Glow:
    """Eight steps, each with an MLP of 64 units."""
    return Glow.on_vectors(2, 8, 64)


EXPERIMENTS = (
    points("glow", GAUSSIANS, model, 3000),
    points("glow", plane.moons, model, 3000, evaluate=in_nats(plane.moons())),
)
