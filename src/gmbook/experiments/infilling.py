"""Infilling: the middle of a window is hidden and drawn given both ends, and compared with what stood there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmbook.data import TextSet
from gmbook.metrics.metric import Metric, Protocol, mean, of_set, seed
from gmbook.train.device import device

Fill = Callable[[Any, Tensor], Tensor]  # a model, known (n, L) with -1 for what is sought -> (n, L)
SHOWN, BESIDE = 3, 24  # gaps that a record shows, and the letters to either side of them


def gap(length: int) -> slice:
    """The middle quarter of a window."""
    return slice(length // 2 - length // 8, length // 2 + length // 8)


def with_gap(windows: Tensor) -> Tensor:
    """Windows (n, L) with -1 for the letters of the gap."""
    known = windows.clone()
    known[:, gap(windows.shape[1])] = -1
    return known


def bracketed(text: TextSet, line: Tensor) -> str:
    """One window (L,), its gap in brackets, and the letters beside it."""
    hole = gap(len(line))
    parts = line[: hole.start][-BESIDE:], line[hole], line[hole.stop :][:BESIDE]
    return "{}[{}]{}".format(*map(text.decode, parts))


def guessing(train: TextSet, truth: Tensor) -> float:
    """The share of letters (n, M) that letters drawn at the text's frequencies are expected to hit: Σ_v p_v f_v."""
    shares = (torch.bincount(x.flatten().long().cpu(), minlength=len(train.alphabet)) for x in (train.tokens, truth))
    p, f = (counts.double() / counts.sum() for counts in shares)
    return float(p @ f)


@torch.no_grad()
def infilled(model: Any, fill: Fill, windows: Tensor, test: TextSet, train: TextSet, blocks: int) -> Metric:
    """The share of a gap's letters that one draw has right, over windows (n, L); lines in pairs, true and drawn."""
    drawn, hole = fill(model, with_gap(windows).to(device())).cpu(), gap(windows.shape[1])
    right = (drawn == windows)[:, hole].double().mean(1)
    setting = f"{hole.stop - hole.start} letters in the middle of {windows.shape[1]}, one draw given both ends"
    return mean(
        "infilled_letters",
        right,
        blocks,
        baselines={"letter_frequencies": guessing(train, windows[:, hole])},
        protocol=Protocol(len(drawn), of_set(test), len(windows), seed=seed(), setting=setting),
        lines=tuple(bracketed(test, x[k]) for k in range(min(SHOWN, len(drawn))) for x in (windows, drawn)),
    )
