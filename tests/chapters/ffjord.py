"""What the snippets of FFJORD's chapter do."""

from __future__ import annotations

import math
from typing import Any

ALONE = True


def snippet_1_the_density_of_wider_data(names: dict[str, Any], printed: str) -> None:
    assert abs(float(printed) + math.log(2 * math.pi) + 2) < 1e-3


def snippet_2_four_and_four(names: dict[str, Any], printed: str) -> None:
    mean, variance, formula = map(float, printed.split())
    assert abs(mean - 4) < 0.1 and abs(variance - 4) < 0.1 and formula == 4


def snippet_3_they_agree_at_the_default_tolerance(names: dict[str, Any], printed: str) -> None:
    assert 0 < float(printed) < 1e-2


def snippet_4_two_steps_of_euler_flatter_by_most_of_a_nat(names: dict[str, Any], printed: str) -> None:
    """ż = −3z/2: (1 − 3/4)² x instead of e^{−3/2} x, both with the trace −3; so the base alone decides."""
    want = (math.exp(-3) - 0.25**4) * names["x"].square().sum(1).mean().item() / 2
    assert abs(names["surplus"] - want) < 1e-3 and 0.7 < want < 1.2


def snippet_5_the_energies_are_there_and_the_loss_falls(names: dict[str, Any], printed: str) -> None:
    history = [step["loss"].item() for step in names["history"]]
    assert history[-1] < history[0] and names["kinetic"].shape == (128,) and names["jacobian"].mean() > 0


def snippet_6_order_is_kept(names: dict[str, Any], printed: str) -> None:
    assert printed.strip() == "True"
