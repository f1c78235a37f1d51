"""What the blocks on the card of MAR's chapter do: each runs alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

ALONE = True  # each in a namespace of its own


def snippet_1_an_image_as_49_tokens(names: dict[str, Any], printed: str) -> None:
    model, x = names["model"], torch.rand(2, 1, 28, 28)
    tokens = model.tokenise(x)
    assert tokens.shape == (2, 49, 16)
    torch.testing.assert_close(tokens[0, 8], x[0, 0, 4:8, 4:8].flatten())  # second row, second column
    assert model.sample(1, torch.tensor([3]), steps=4).shape == (1, 1, 28, 28)


def snippet_2_three_heads_draw_what_they_can(names: dict[str, Any], printed: str) -> None:
    assert names["mean"].shape == names["mixed"].shape == names["word"].shape == (5, 1)
    assert set(names["word"].flatten().tolist()) <= {-1.0, 0.0, 1.0}


def snippet_3_steps_and_what_is_known_after_each(names: dict[str, Any], printed: str) -> None:
    assert names["both_at_once"].shape == names["one_by_one"].shape == (100, 2)
    assert (names["halfway"].isnan().sum(1) == 1).all() and names["done"].isfinite().all()


def snippet_4_fewer_steps_cost_more(names: dict[str, Any], printed: str) -> None:
    prices = [price.item() for price in names["prices"]]
    assert prices[0] == pytest.approx(0, abs=1e-9) and prices == sorted(prices)
    assert prices[-1] == pytest.approx(-(48 * math.log(0.5) + math.log(1 + 48 * 0.5)) / 2)


def snippet_5_temperature_and_guidance(names: dict[str, Any], printed: str) -> None:
    assert names["cool"].shape == (6, 4) and names["cool"].isfinite().all()
