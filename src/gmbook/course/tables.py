"""A network for the exercises on tokens that answers at random and remembers what it was asked."""

from __future__ import annotations

import torch
from torch import Tensor

from gmbook.course.kit import Wrong


class TableNet:
    """A network without sense: a random number for each place and value, another draw for each x_t.

    Its answers contradict each other, and where a token shows it says anything, as a trained network may.

    Args:
        states: the tokens that it reads, the mask included.
        vocab: V, the values that it answers for.
        length: L.
        size: the numbers are uniform in [−size, size].

    Attributes:
        table: what it answers, (states, …, states, L, V), with a gradient.
        calls: what it was asked, in order.
    """

    def __init__(self, states: int, vocab: int, length: int = 2, size: float = 1.0):
        self.states, self.length = states, length
        self.table = (size * (2 * torch.rand(*[states] * length, length, vocab) - 1)).requires_grad_()
        self.calls: list[Tensor] = []

    def __call__(self, xt: Tensor) -> Tensor:
        """Numbers (B, L, V) for x_t (B, L).

        Raises:
            Wrong: x_t are no tokens that it reads.
        """
        if not isinstance(xt, Tensor) or xt.ndim != 2 or xt.shape[1] != self.length or xt.dtype != torch.int64:
            raise Wrong(f"The network is called as net(xt), with tokens xt (B, {self.length}), int64.")
        if xt.min() < 0 or xt.max() >= self.states:
            raise Wrong(f"The network reads tokens from 0 to {self.states - 1}; it was given others.")
        self.calls.append(xt.detach().clone())
        return self.table[tuple(xt.unbind(1))]

    def nats(self, x: Tensor, xt: Tensor) -> Tensor:
        """Its numbers read as logits: −log of its guess of each token of x (B, L), (B, L)."""
        return -self.table[tuple(xt.unbind(1))].log_softmax(-1).gather(-1, x[..., None])[..., 0]
