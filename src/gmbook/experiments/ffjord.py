"""FFJORD on points in the plane."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmbook.core.solvers import rk4
from gmbook.experiments.toys import GAUSSIANS, in_nats, points
from gmbook.laws import plane
from gmbook.papers.ffjord import FFJORD


class SmoothField(nn.Module):
    """f(z, t) of three tanh layers.

    Eight Runge–Kutta steps follow it. They do not follow a field with Fourier features: the likelihood that is
    maximised is then not that of the flow.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        hidden = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.Tanh())]
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Tanh(), *hidden, nn.Linear(width, 2))

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.layers(torch.cat([z, t[:, None]], 1))


def model() -> FFJORD:
    """Solved by eight Runge–Kutta steps and differentiated through; in the plane the exact trace is cheap."""
    return FFJORD(SmoothField(), (2,), solver=rk4, times=torch.linspace(0, 1, 9), use_adjoint=False, probe=None)


EXPERIMENTS = (
    points("ffjord", GAUSSIANS, model, 600, size=256, lr=5e-3, clip=1.0),
    points("ffjord", plane.moons, model, 600, size=256, lr=5e-3, clip=1.0, evaluate=in_nats(plane.moons())),
)
