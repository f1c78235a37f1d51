"""Optimal pairing of two equally large samples."""

from __future__ import annotations

import torch
from torch import Tensor


def optimal_pairing(cost: Tensor) -> Tensor:
    """The permutation π with the least Σ_i cost[i, π(i)]: (N, N) -> (N,) int64, on the cost's device.

    POT's network simplex with one unit of mass at each point: the best plan is then a permutation. It runs on the CPU
    in float64, where near ties keep their digits: 6 ms at N = 256, 0.1 s at N = 1,024, two thirds of a second at 2,000.

    Raises:
        ValueError: the costs are not a square table of finite numbers.
    """
    from ot import emd  # not at the top: importing it takes a second, and few need it

    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or not bool(cost.isfinite().all()):
        raise ValueError(f"a pairing needs a square table (N, N) of finite costs, got {tuple(cost.shape)}")
    mass = torch.ones(len(cost), dtype=torch.float64).numpy()
    plan = emd(mass, mass, cost.detach().double().cpu().numpy(), numItermax=10**9)
    return torch.from_numpy(plan.argmax(1)).to(cost.device)
