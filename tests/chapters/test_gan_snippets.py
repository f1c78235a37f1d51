"""The five snippets at the end of the GAN chapter run as they stand, one after the other, and do what they say."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.spatial.distance import jensenshannon

TEXT = Path(__file__).resolve().parents[2] / "chapters" / "02_gan" / "gan.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", TEXT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def after() -> dict[str, Any]:
    """What is known after the snippets: a reader runs them in order, in one session."""
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for snippet in SNIPPETS:
        exec(snippet, names)
    return names


def test_as_many_as_the_card_promises_of_at_most_ten_lines():
    promised = re.findall(r"^\d\. ", TEXT.read_text(encoding="utf-8").split("\n## ")[0], re.MULTILINE)
    assert len(SNIPPETS) == len(promised) == 5
    for snippet in SNIPPETS:
        assert len([line for line in snippet.splitlines() if line.strip()]) <= 10


def test_1_the_value_is_that_of_the_divergence(after):
    jsd = jensenshannon(after["p"].numpy(), after["q"].numpy()) ** 2  # scipy's is the square root
    assert after["value"].item() == pytest.approx(2 * jsd - math.log(4), abs=1e-6)


def test_2_the_saturating_generator_does_not_hear_what_is_caught(after):
    saturating, other = after["pull"]["saturating"], after["pull"]["non-saturating"]
    assert saturating[0] < 0.01 < 0.99 < other[0]
    torch.testing.assert_close(saturating + other, torch.ones(2))  # the two pulls add to one


def test_3_the_eigenvalues_are_those_of_the_quadratic_equation(after):
    found = sorted(after["eigenvalues"].tolist(), key=lambda z: z.imag)
    expected = [complex(-0.25, sign * math.sqrt(1 / 4 - 1 / 16)) for sign in (-1, 1)]
    assert found == pytest.approx(expected, abs=1e-9)


def test_4_the_modes_are_covered(after):
    assert after["found"] >= 6 and after["quality"] > 0.2


def test_5_the_average_has_the_better_window(after):
    assert after["gain"] > 0
