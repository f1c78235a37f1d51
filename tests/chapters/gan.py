"""What the snippets of the GAN's chapter do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.spatial.distance import jensenshannon


def snippet_1_the_value_is_that_of_the_divergence(names: dict[str, Any], printed: str) -> None:
    jsd = jensenshannon(names["p"].numpy(), names["q"].numpy()) ** 2  # scipy's is the square root
    assert names["value"].item() == pytest.approx(2 * jsd - math.log(4), abs=1e-6)


def snippet_2_the_saturating_generator_does_not_hear_what_is_caught(names: dict[str, Any], printed: str) -> None:
    saturating, other = names["pull"]["saturating"], names["pull"]["non-saturating"]
    assert saturating[0] < 0.01 < 0.99 < other[0]
    torch.testing.assert_close(saturating + other, torch.ones(2))  # the two pulls add to one


def snippet_3_the_eigenvalues_are_those_of_the_quadratic_equation(names: dict[str, Any], printed: str) -> None:
    found = sorted(names["eigenvalues"].tolist(), key=lambda z: z.imag)
    expected = [complex(-0.25, sign * math.sqrt(1 / 4 - 1 / 16)) for sign in (-1, 1)]
    assert found == pytest.approx(expected, abs=1e-9)


def snippet_4_the_modes_are_covered(names: dict[str, Any], printed: str) -> None:
    assert names["found"] >= 6 and names["quality"] > 0.2


def snippet_5_the_average_has_the_better_window(names: dict[str, Any], printed: str) -> None:
    assert names["gain"] > 0
