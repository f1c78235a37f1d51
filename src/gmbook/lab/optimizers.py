"""Optimizers beside Adam, for `train(optimizer=...)`: Muon for a transformer's matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class Together(Optimizer):
    """Several optimizers, each with its own parameters, that step as one.

    Their parameter groups stand in one list so that a training loop sees one optimizer. `state` is what was loaded.
    """

    def __init__(self, *parts: Optimizer):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state = defaultdict(dict, {p: moments for part in self.parts for p, moments in part.state.items()})

    def step(self, closure: Any = None) -> None:
        """A step of each. A closure is not supported, since each would call it anew."""
        if closure is not None:
            raise ValueError("optimizers that step together take no closure: compute the gradients first")
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The parts' states, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()  # loading has made new groups


def muon(
    tables: float = 0.1, least: int = 64, betas: tuple[float, float] = (0.9, 0.999)
) -> Callable[[list[nn.Parameter]], Optimizer]:
    """Muon for matrices, AdamW for the rest, both without weight decay: arXiv:2502.16982 and Jordan et al. 2024.

    Muon takes W ← W − η √max(1, rows/columns) UVᵀ with USVᵀ the momentum of the gradient, the orthogonal factor by five
    Newton-Schulz iterations: all directions move alike, however little gradient they had. It is meant for the matrices
    between layers. Vectors, convolutions and the tables of letters, known by a side shorter than `least`, take AdamW at
    `tables` times the rate.

    Args:
        tables: AdamW's rate over Muon's.
        least: the shortest side that makes a matrix Muon's.
        betas: of AdamW.
    """

    def make(parameters: list[nn.Parameter]) -> Optimizer:
        matrices = [p for p in parameters if p.ndim == 2 and min(p.shape) >= least]
        chosen = {id(p) for p in matrices}
        rest = [p for p in parameters if id(p) not in chosen]
        adam = AdamW([{"params": rest, "times": tables}], betas=betas, weight_decay=0.0, fused=True)
        return Together(Muon([{"params": matrices}], weight_decay=0.0), adam) if matrices else adam

    return make
