"""Optimizers for `train`: Adam, and Muon for a transformer's matrices. They are records that say what they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

OptimizerFactory = Callable[[list[nn.Parameter]], Optimizer]  # makes an optimizer of these parameters


@dataclass(frozen=True)
class Adam:
    """AdamW in its fused form: one kernel for all parameters, a tenth faster on small networks."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    def __call__(self, parameters: list[nn.Parameter]) -> Optimizer:
        return AdamW(parameters, betas=self.betas, weight_decay=self.weight_decay, fused=True)


class Together(Optimizer):
    """Several optimizers, each with its own parameters, that step as one: their groups and states are its own."""

    def __init__(self, *parts: Optimizer):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def step(self, closure: Any = None) -> None:
        """A step of each. A closure is not supported, since each would call it anew."""
        if closure is not None:
            raise ValueError("optimizers that step together take no closure: compute the gradients first")
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state_dict)
        self._share()  # loading has made new groups and a new state


@dataclass(frozen=True)
class MuonAndAdam:
    """Muon for matrices, Adam for the rest: Jordan et al. 2024, without the weight decay of arXiv:2502.16982.

    Muon takes W ← W − η √max(1, rows/columns) UVᵀ with USVᵀ the momentum of the gradient, the orthogonal factor by five
    Newton-Schulz iterations: all directions move alike, however little gradient they had. It is meant for the matrices
    between layers. Vectors, convolutions and the tables of letters, known by a side shorter than `least`, take Adam at
    `tables` times the rate.

    Attributes:
        tables: Adam's rate over Muon's.
        least: the shortest side that makes a matrix Muon's.
        betas: of Adam.
    """

    tables: float = 0.1
    least: int = 64
    betas: tuple[float, float] = (0.9, 0.999)

    def __call__(self, parameters: list[nn.Parameter]) -> Optimizer:
        matrices = [p for p in parameters if p.ndim == 2 and min(p.shape) >= self.least]
        chosen = {id(p) for p in matrices}
        rest = [p for p in parameters if id(p) not in chosen]
        others = AdamW([{"params": rest, "times": self.tables}], betas=self.betas, weight_decay=0.0, fused=True)
        return Together(Muon(matrices, weight_decay=0.0), others) if matrices else others
