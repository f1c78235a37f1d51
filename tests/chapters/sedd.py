"""What the blocks on the card of SEDD's chapter do: each runs alone."""

from __future__ import annotations

import math
from typing import Any

import torch

ALONE = True  # each in a namespace of its own


def snippet_1_jumps_in_continuous_time(names: dict[str, Any], printed: str) -> None:
    keep = 1 - 0.999 * 0.5
    assert abs(names["jumps"] + math.log(keep)) < 1e-9
    stays = (names["xt"] == 0).double().mean()  # 15,000 tokens, a standard error of 0.004
    assert abs(stays - (keep + (1 - keep) / 8)) < 0.02


def snippet_2_ratios_and_the_rates_of_the_way_back(names: dict[str, Any], printed: str) -> None:
    ratios = torch.tensor([1, 3 / 4, 2 / 4, 1 / 4], dtype=torch.float64)
    torch.testing.assert_close(names["ratios"][0, 0], ratios, rtol=0, atol=1e-6)
    torch.testing.assert_close(names["rates"], ratios / 4, rtol=0, atol=1e-6)


def snippet_3_training_lowers_the_bound(names: dict[str, Any], printed: str) -> None:
    losses = torch.stack(names["losses"])
    assert len(losses) == 40 and losses[-8:].mean() < losses[:3].mean()
    assert names["pays"].shape == (4,) and names["pays"].isfinite().all()


def snippet_4_two_samplers_and_a_gap_filled(names: dict[str, Any], printed: str) -> None:
    law, model = names["law"], names["model"]
    for drawn in (names["quick"], names["slow"]):
        assert 0.5 * (law.histogram(drawn).sum(1) - law.marginals()[0]).abs().sum() < 0.1
    assert (names["filled"][:, 0] == 24).all() and model.shape == (2,)
    assert 0.5 * (law.histogram(names["filled"])[24] - law.conditional(1)[24]).abs().sum() < 0.1


def snippet_5_ratios_of_a_mask_are_a_guess(names: dict[str, Any], printed: str) -> None:
    torch.testing.assert_close(names["again"], names["guess"], rtol=1e-6, atol=0)
    assert abs(names["ratios"].sum() - (1 - 0.2997) / 0.2997) < 1e-6  # ᾱ/(1 − ᾱ)
