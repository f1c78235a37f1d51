"""The contract of everything that trains."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Objective(NamedTuple):
    """One player: what it minimises, what it may move, and how often it plays.

    Attributes:
        loss: maps a batch, `loss(*batch)`, to a scalar (), the mean over the batch.
        parameters: the only parameters that this player's gradient step may change.
        every: the player moves at steps 0, every, 2·every, …
    """

    loss: Callable[..., Tensor]
    parameters: list[nn.Parameter]
    every: int = 1


class Model(nn.Module):
    """Everything that trains: a loss, the players that minimise it, and samples.

    A model has `shape`, the event shape S, so that `sample(n, y=None)` has one signature for vectors, images
    and tokens. Where the paper defines one, a model also has `log_prob(x)` or a bound `elbo(x)`, (B,), in nats.
    """

    shape: tuple[int, ...]

    def loss(self, *batch: Tensor) -> Tensor:
        """The training loss of one batch: (), mean over the batch."""
        raise NotImplementedError(f"{type(self).__name__} has no loss: it cannot be trained")

    def objectives(self) -> dict[str, Objective]:
        """The players, by name. By default a single one that minimises `loss` over all trainable parameters."""
        return {"loss": Objective(self.loss, [p for p in self.parameters() if p.requires_grad])}

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """n samples, (n, *shape), for labels y (n,) where the model is conditional."""
        raise NotImplementedError(f"{type(self).__name__} has no sampler of its own")

    def networks(self) -> list[nn.Module]:
        """The parts that `torch.compile` may take: by default every child that has something to train.

        What is differentiated twice (a critic under a gradient penalty) must be left out.
        """
        return [child for child in self.children() if any(p.requires_grad for p in child.parameters())]

    @property
    def device(self) -> torch.device:
        """Where the model is: the device of its first parameter, of its first buffer if it has none, else the CPU."""
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its first parameter. An ideal model, which has none, has torch's default: its tables are in
        float64, its data are not."""
        return next(self.parameters(), torch.empty(0)).dtype

    def noise(self, n: int) -> Tensor:
        """n draws of standard Gaussian noise in the event shape, (n, *shape), on the model's device."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        return torch.randn(n, *self.shape, device=self.device, dtype=self.dtype)


def check_event(x: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse what is not a floating batch (B, *shape), with a message that says what to do.

    Raises:
        TypeError: x holds integers.
        ValueError: x has another event shape.
    """
    if not x.is_floating_point():
        raise TypeError(
            f"expected floating-point data, got {x.dtype}: scale images to [-1, 1] first, "
            "for example with gmbook.data.scale"
        )
    if x.shape[1:] != shape:
        raise ValueError(f"expected a batch of shape (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
