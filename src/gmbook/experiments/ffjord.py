"""FFJORD on points in the plane."""

from __future__ import annotations

import torch

from gmbook.core.solvers import rk4
from gmbook.experiments.toys import GAUSSIANS, in_nats, points
from gmbook.laws import plane
from gmbook.networks.mlp import SmoothField
from gmbook.papers.ffjord import FFJORD


def model() -> FFJORD:
    """Solved by eight Runge–Kutta steps and differentiated through; in the plane the exact trace is cheap."""
    return FFJORD(SmoothField(), (2,), solver=rk4, times=torch.linspace(0, 1, 9), use_adjoint=False, probe=None)


EXPERIMENTS = (
    points("ffjord", GAUSSIANS, model, 600, size=256, lr=5e-3, clip=1.0),
    points("ffjord", plane.moons, model, 600, size=256, lr=5e-3, clip=1.0, evaluate=in_nats(plane.moons())),
)
