"""What the snippets of DDIM's chapter do: each runs alone."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

ALONE = True  # each in a namespace of its own


def snippet_1_digits_in_twenty_calls(names: dict[str, Any], printed: str) -> None:
    digits = names["digits"]
    assert digits.shape == (10, 1, 28, 28) and digits.abs().max() < 2
    ink = (digits > 0).double().mean().item()
    assert 0.05 < ink < 0.3  # of MNIST: 0.13


def snippet_2_three_amounts_of_noise(names: dict[str, Any], printed: str) -> None:
    distances = [float(value) for value in re.findall(r"tensor\(([\d.]+)", printed)]
    assert len(distances) == 3 and all(0 < distance < 0.3 for distance in distances)


def snippet_3_errors_are_predicted_without_samples(names: dict[str, Any], printed: str) -> None:
    found = re.findall(r"tensor\(\[([^\]]+)\]", printed)
    rows = torch.tensor([[float(value) for value in row.split(",")] for row in found])
    assert rows.shape == (3, 2) and bool((rows[1:].abs() < rows[:-1].abs()).all())
    # for N(0, 1) samples are too narrow, and twice the steps halve the error (ddim-cosine-law)
    assert -0.3 < rows[0, 0].item() < 0 and rows[2, 0].item() == pytest.approx(rows[1, 0].item() / 2, rel=0.15)


def snippet_4_a_round_trip_comes_back(names: dict[str, Any], printed: str) -> None:
    assert (names["back"] - names["x"]).norm(dim=1).mean() < 0.1
    assert names["latent"].std().item() == pytest.approx(1, abs=0.15)


def snippet_5_a_walk_between_two_samples(names: dict[str, Any], printed: str) -> None:
    assert names["images"].shape == (6, 1, 28, 28)
    norms = names["latents"].flatten(1).norm(dim=1)
    assert bool((norms / math.sqrt(28 * 28) - 1).abs().max() < 0.15)
