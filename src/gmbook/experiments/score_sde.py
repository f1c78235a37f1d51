"""Score SDE on points in the plane."""

from __future__ import annotations

from gmbook.core.paths import VPPath
from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.papers.score_sde import ScoreSDE, reverse_sde

EXPERIMENTS = (
    points("score_sde", GAUSSIANS, lambda: ScoreSDE(net(), VPPath(), (2,)), 8000, lambda m, n: reverse_sde(m, n, 200)),
)
