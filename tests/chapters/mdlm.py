"""What the blocks on the card of MDLM's chapter do: each runs alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

ALONE = True  # each in a namespace of its own


def snippet_1_masking_and_the_law_one_step_back(names: dict[str, Any], printed: str) -> None:
    xt, back = names["xt"], names["back"]
    assert abs((xt == 27).double().mean() - 0.6) < 0.15
    torch.testing.assert_close(back.sum(-1), torch.ones(4, 64, dtype=torch.float64))
    # a mask was a letter already with probability (0.7 − 0.4)/(1 − 0.4)
    torch.testing.assert_close(back[xt == 27][:, 27], torch.full(((xt == 27).sum(),), 0.5, dtype=torch.float64))


def snippet_2_training_lowers_the_loss(names: dict[str, Any], printed: str) -> None:
    losses = torch.stack(names["losses"])
    assert len(losses) == 30 and losses[-8:].mean() < losses[:3].mean() - 0.2


def snippet_3_a_bound_and_an_exact_number_of_models_that_know_nothing(names: dict[str, Any], printed: str) -> None:
    assert names["at_most"].item() == pytest.approx(math.log2(27), abs=1e-4)
    assert names["is_exactly"].item() == pytest.approx(math.log2(27), abs=1e-4)


def snippet_4_sampling_and_filling_gaps(names: dict[str, Any], printed: str) -> None:
    assert names["quick"].shape == names["exact"].shape == (2, 32) and names["quick"].max() < 27
    assert names["data"].decode(names["filled"][0, 10:22]) == "the language"


def snippet_5_a_sampler_on_a_law_that_is_known(names: dict[str, Any], printed: str) -> None:
    law, metrics = names["law"], names["metrics"]
    floor = metrics.noise_floor(lambda a, b: metrics.tv(law.histogram(a), law.pmf), law.sample, 5000)
    assert names["distance"] < 1.25 * floor.mean
