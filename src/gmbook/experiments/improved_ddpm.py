"""Improved DDPM on points in the plane."""

from __future__ import annotations

from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.papers.improved_ddpm import ImprovedDDPM

EXPERIMENTS = (points("improved_ddpm", GAUSSIANS, lambda: ImprovedDDPM(net(4), (2,), 200), 8000),)
