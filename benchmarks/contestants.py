"""Who takes part in a race: the book's way of doing its work once, and another library's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gmbook.core.model import Model
from gmbook.train import train

Turn = Callable[[], object]


@dataclass
class Contestant:
    """One library's way of doing the race's work once, and its number of parameters."""

    turn: Turn
    parameters: int = 0


def size(*modules: nn.Module) -> int:
    """The number of trainable numbers."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)


def ours(model: Model, batch: Tensor) -> Contestant:
    """A training step through the book's loop."""
    loop = train(model, iter(lambda: (batch,), None), steps=10**9, lr=1e-4)
    return Contestant(lambda: next(loop), size(model))


def theirs(net: nn.Module, loss: Callable[[], Tensor]) -> Contestant:
    """A training step as their documentation writes it, with the same fused Adam."""
    optimiser = torch.optim.Adam(net.parameters(), 1e-4, fused=True)

    def turn() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return Contestant(turn, size(net))
