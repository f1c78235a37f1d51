"""What the blocks on the card of D3PM's chapter do: each runs alone."""

from __future__ import annotations

import math
from typing import Any

import torch

ALONE = True  # each in a namespace of its own


def snippet_1_a_chain_and_twenty_steps_at_once(names: dict[str, Any], printed: str) -> None:
    chain, law = names["chain"], names["law"]
    twenty = torch.linalg.multi_dot(list(chain.matrices))
    torch.testing.assert_close(law, twenty[names["x"]])
    assert (law - 1 / 8).abs().max() < 0.03  # nearly uniform


def snippet_2_one_step_back_when_the_clean_token_is_known(names: dict[str, Any], printed: str) -> None:
    x, xt, back = names["x"], names["xt"], names["back"]
    q_s, q_ts = (k * torch.eye(8).double() + (1 - k) / 8 for k in (0.7, 0.4 / 0.7))
    joint = q_s[x][..., None] * q_ts  # (5, 3, x_s, x_t)
    picked = joint.gather(-1, xt[..., None, None].expand(5, 3, 8, 1))[..., 0]
    torch.testing.assert_close(back, picked / picked.sum(-1, keepdim=True))


def snippet_3_training_lowers_the_bound(names: dict[str, Any], printed: str) -> None:
    losses = torch.stack(names["losses"])
    assert len(losses) == 30 and losses[:3].mean() < 1.5 * math.log(32) and losses[-8:].mean() < losses[:3].mean()
    assert names["pays"].shape == (4,) and (names["pays"] > 0).all()


def snippet_4_the_right_guess_and_the_wrong_one(names: dict[str, Any], printed: str) -> None:
    right, wrong = names["off"]
    assert right < 0.13 and wrong > 0.3  # 4,000 pairs of the law itself are 0.07 away


def snippet_5_four_matrices(names: dict[str, Any], printed: str) -> None:
    assert names["anything"].states == names["a_near_level"].states == names["a_near_word"].states == 27
    assert names["a_mask"].states == 28
    for chain in (names["a_near_level"], names["a_near_word"]):
        torch.testing.assert_close(chain.cumulative[-1].sum(0), torch.ones(27).double())
