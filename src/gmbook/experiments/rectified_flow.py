"""Rectified flow on points in the plane."""

from __future__ import annotations

from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.papers.rectified_flow import RectifiedFlow

EXPERIMENTS = (points("rectified_flow", GAUSSIANS, lambda: RectifiedFlow(net(), (2,)), 8000),)
