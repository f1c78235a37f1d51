"""What the snippets of rectified flow's chapter do: each runs alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gmbook import metrics
from gmbook.laws import plane

ALONE = True  # each in a namespace of its own


def ring_share(x: Any) -> float:
    """The share of points within three standard deviations of one of eight modes; of true samples 0.99."""
    return metrics.mode_coverage(x, plane.eight_gaussians()).quality


def snippet_1_reflow(names: dict[str, Any], printed: str) -> None:
    assert len(names["history"]) == 500 and names["x"].shape == (1000, 2)
    assert names["x"].std().item() == pytest.approx(plane.eight_gaussians().sample(5000).std().item(), rel=0.15)
    assert ring_share(names["x"]) > 0.5  # one step; without reflow 0


def snippet_2_straightness(names: dict[str, Any], printed: str) -> None:
    bent = float(printed.strip().removeprefix("tensor(").removesuffix(")"))
    assert 0.7 < bent < 1.1 and not math.isnan(bent)


def snippet_3_transfer(names: dict[str, Any], printed: str) -> None:
    assert names["carried"].shape == (1000, 2) and ring_share(names["carried"]) > 0.6
