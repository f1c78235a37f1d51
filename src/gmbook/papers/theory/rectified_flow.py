"""How straight a flow is, and what its coupling costs."""

from __future__ import annotations

import torch
from torch import Tensor

from gmbook.core.model import sampling
from gmbook.core.probability_flow import flow_field
from gmbook.core.solvers import Solver, last, rk4
from gmbook.papers.flow_matching import FlowMatching


@sampling
def straightness(
    flow: FlowMatching, noise: Tensor, y: Tensor | None = None, steps: int = 100, solver: Solver = rk4
) -> Tensor:
    """S = ∫_0^1 ‖(Z_1 − Z_0) − dZ_t/dt‖² dt of each path that starts at `noise` (rf-straightness): (B, *S) -> (B,).

    The mean of the velocity along a path is Z_1 − Z_0, so S is its variance, ∫ ‖dZ_t/dt‖² dt − ‖Z_1 − Z_0‖², and the
    action is integrated together with the path. S = 0 if and only if the path is straight at constant speed; then one
    Euler step is exact. Works for every `FlowMatching`, on every path and coupling.
    """
    field, ts = flow_field(flow, y), flow.times(steps)

    def augmented(state: Tensor, t: Tensor) -> Tensor:
        velocity = field(state[:, :-1].view_as(noise), t).flatten(1)
        return torch.cat([velocity, velocity.square().sum(1, keepdim=True)], 1)

    start = torch.cat([noise.flatten(1), noise.new_zeros(len(noise), 1)], 1)
    change = last(solver(augmented, start, ts)) - start
    span = ts[-1] - ts[0]  # negative, as the action then is
    return (change[:, -1] - change[:, :-1].square().sum(1) / span) * span.sign()


def transport_cost(x0: Tensor, noise: Tensor, power: float = 2.0) -> Tensor:
    """E ‖x_0 − noise‖^p of a coupling (def-rf-cost), (). For every p ≥ 1 it does not grow from one rectification to
    the next (rf-convex-costs); for p = 2 the decrease is S + V, V the least value of D · loss (rf-decomposition), and
    the decreases of all rectifications add up (rf-many-reflows).
    """
    return (x0 - noise).flatten(1).norm(dim=1).pow(power).mean()
