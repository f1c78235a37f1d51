"""What the snippets of rectified flow's chapter do: each runs alone."""

from __future__ import annotations

from typing import Any

import pytest

from gmbook import metrics
from gmbook.laws import plane

ALONE = True  # each in a namespace of its own


def near_a_mode(x: Any) -> float:
    """The share of points within three standard deviations of one of eight modes; of true samples 0.99."""
    return metrics.mode_coverage(x, plane.eight_gaussians()).quality


def numbers(printed: str) -> list[float]:
    return [float(word) for word in printed.strip().strip("[]").replace(",", " ").split()]


def snippet_1_costs_fall(names: dict[str, Any], printed: str) -> None:
    ratios = numbers(printed)
    assert len(ratios) == 3 and all(ratio < 0.5 for ratio in ratios)  # a convex cost never rises


def snippet_2_straightness(names: dict[str, Any], printed: str) -> None:
    assert 0.7 < numbers(printed)[0] < 1.1


def snippet_3_straight_is_not_optimal(names: dict[str, Any], printed: str) -> None:
    bent, cost = numbers(printed)
    assert abs(bent) < 1e-4 and cost == pytest.approx(4, rel=0.1)


def snippet_4_one_step(names: dict[str, Any], printed: str) -> None:
    assert len(names["history"]) == 500 and names["x"].shape == (1000, 2)
    assert near_a_mode(names["x"]) > 0.5  # without reflow 0


def snippet_5_transfer(names: dict[str, Any], printed: str) -> None:
    assert names["carried"].shape == (1000, 2) and near_a_mode(names["carried"]) > 0.6


def snippet_6_pairs_are_near(names: dict[str, Any], printed: str) -> None:
    paired, strangers = numbers(printed)
    assert paired < strangers / 3
