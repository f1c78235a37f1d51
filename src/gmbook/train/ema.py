"""The running average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """An exponential moving average of the weights, θ̄ ← d θ̄ + (1 − d) θ: what diffusion models sample from.

    The decay warms up, d_n = min(decay, (1 + n)/(10 + n)) at update n = 0, 1, …, so that the random start is forgotten
    early. Parameters are averaged; buffers, which are tables and statistics, are copied.

    Args:
        model: the weights to start from.
        decay: the final d, in [0, 1). The average looks back over about 1/(1 − d) steps.
        warmup: False keeps d = decay from the first update.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, warmup: bool = True):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.buffers = {name: b.detach().clone() for name, b in model.named_buffers()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the model's present weights."""
        n = self.updates
        decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
        live = [p.detach() for _, p in model.named_parameters()]
        torch._foreach_lerp_(list(self.weights.values()), live, 1 - decay)
        for mine, theirs in zip(self.buffers.values(), model.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights and buffers with the average."""
        for mine, theirs in zip(self.tensors(), tensors(model), strict=True):
            theirs.copy_(mine)

    @contextlib.contextmanager
    def swapped(self, model: nn.Module) -> Iterator[nn.Module]:
        """`with ema.swapped(model):` the model has the averaged weights, afterwards its own again."""
        own = [tensor.detach().clone() for tensor in tensors(model)]
        self.copy_to(model)
        try:
            yield model
        finally:
            with torch.no_grad():
                for mine, theirs in zip(own, tensors(model), strict=True):
                    theirs.copy_(mine)

    def tensors(self) -> list[Tensor]:
        """The averaged weights, then the buffers."""
        return [*self.weights.values(), *self.buffers.values()]

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self.weights, "buffers": self.buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Buffers that it lacks, such as tables that came later, stay as the model made them.

        Raises:
            KeyError: it lacks a weight.
        """
        self.updates = state["updates"]
        for name, tensor in self.weights.items():
            tensor.copy_(state["weights"][name])
        for name in self.buffers.keys() & state["buffers"].keys():
            self.buffers[name].copy_(state["buffers"][name])


def tensors(model: nn.Module) -> list[Tensor]:
    """All that a model holds: its parameters, then its buffers."""
    return [*model.parameters(), *model.buffers()]
