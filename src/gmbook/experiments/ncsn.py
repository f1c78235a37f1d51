"""NCSN on points in the plane."""

from __future__ import annotations

from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.papers.ncsn import NCSN

EXPERIMENTS = (points("ncsn", GAUSSIANS, lambda: NCSN(net(), (2,), 4.0, 0.02, 20, per_level=20, step=4e-5), 8000),)
