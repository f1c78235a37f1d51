"""Somebody else's time, scale and sign for a Gaussian path, and a network of theirs as a `Denoiser` of the book.

Papers differ in three things: which way time runs and in which unit, by what x_t is divided, and what the network
answers, with which sign. `Convention` names the three, and `adopt` makes a model that every sampler here can run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gmbook.core.denoiser import Denoiser
from gmbook.core.paths import GaussianPath, Quantity, broadcast


@dataclass(frozen=True)
class Convention:
    """How somebody writes a path: x' = c(t) x_t at the time t'(t), with a network that answers ± a quantity.

    Attributes:
        path: the book's path with these marginals, x_t = α_t x_0 + σ_t ε, data at t = 0.
        time: t'(t): the book's times, () or (B,), to theirs.
        predicts: what their network's output stands for, up to the sign.
        sign: +1, or −1 where their output is minus the book's quantity, as for a velocity that points to the data.
        scale: c(t); 1 by default.
    """

    path: GaussianPath
    time: Callable[[Tensor], Tensor]
    predicts: Quantity
    sign: float = 1.0
    scale: Callable[[Tensor], Tensor] = torch.ones_like

    def to_theirs(self, xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x', t') for x_t (B, *S) at t () or (B,)."""
        return broadcast(self.scale(t), xt) * xt, self.time(t)

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What their network is trained towards, given the x_0 and ε that made x_t: (B, *S)."""
        return self.sign * self.path.target(self.predicts, x0, eps, t)


class Adopted(nn.Module):
    """A network in somebody's convention, called as the book calls its own: net(x', t', y) -> (B, *S)."""

    def __init__(self, net: nn.Module, convention: Convention):
        super().__init__()
        self.net, self.convention = net, convention

    def forward(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The book's quantity for x_t (B, *S), t (B,), y (B,) or None: (B, *S)."""
        return self.convention.sign * self.net(*self.convention.to_theirs(xt, t), y)


def adopt(net: nn.Module, convention: Convention, shape: tuple[int, ...]) -> Denoiser:
    """A model of the book from a network that was trained elsewhere, for event shape S.

    The network is called as net(x' (B, *S), t' (B,), y (B,) or None) -> (B, *S). Any sampler of the book then runs it.
    """
    return Denoiser(Adopted(net, convention), convention.path, convention.predicts, shape)
