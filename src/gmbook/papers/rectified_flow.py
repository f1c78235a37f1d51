"""Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow. Liu, Gong, Liu, ICLR 2023,
arXiv:2209.03003; theory in arXiv:2209.14577.

The paper's time runs from noise to data, the book's from data to noise: t_paper = 1 − t. The paper's X_0 ~ π_0 is our
noise, which may come from any law, its X_1 ~ π_1 our x_0; so X_1 − X_0 is x_0 − noise, and our velocity is the other
way round, noise − x_0 on average. Straightness and transport costs do not care about the direction.

k-rectified flow (the paper's Reflow), with `gmbook.train` and `gmbook.data.batches`:

    list(train(flow, batches, steps=n))  # 1-rectified: batches (x0,), each with fresh noise
    for k in 2, 3:  # k-rectified: batches (z0, noise), as the flow has joined them
        list(train(flow, Batches(*flow.pairs(50_000), size=256), steps=n))
    pairs = Batches(*flow.pairs(50_000), size=256)
    list(train(flow, pairs, steps=n, objectives=flow.distillation()))  # now one step is enough
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_event
from gmbook.core.model import Objective
from gmbook.core.solvers import Solver, rk4
from gmbook.papers.flow_matching import FlowMatching, TimeLaw, uniform


class RectifiedFlow(FlowMatching):
    """Flow matching on straight lines x_t = (1 − t)x_0 + t·noise between the two ends of a given coupling.

    Args:
        net: net(x_t (B, *S), t (B,), y) -> the velocity, (B, *S).
        shape: the event shape S.
        time_law: as of `FlowMatching`.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, ...], time_law: TimeLaw = uniform):
        super().__init__(net, shape, time_law=time_law)

    # ------------------------------------------------------------------------------------------------ training

    def loss(self, x0: Tensor, noise: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """E ∫_0^1 ‖(noise − x_0) − v_θ(x_t, t)‖² dt on a coupling, mean over dimensions (rf-loss).

        Its optimum is v(x, t) = E[noise − x_0 | x_t = x] (rf-velocity): where lines of the coupling cross, their mean.

        Args:
            x0: (B, *S).
            noise: its partners, (B, *S), from `pairs` or from any second law; None for fresh Gaussian noise.
            y: labels, (B,).

        Raises:
            ValueError: noise has not the shape of x0.
        """
        check_event(x0, self.shape)
        noise = torch.randn_like(x0) if noise is None else noise
        if noise.shape != x0.shape:
            raise ValueError(
                f"expected noise of x0's shape {tuple(x0.shape)}, got {tuple(noise.shape)}: a batch is (x0,), "
                "(x0, noise) or (x0, noise, y), labels come third"
            )
        return self.pair_loss(x0, noise, y)

    def distillation_loss(self, x0: Tensor, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """E ‖(noise − x_0) − v_θ(noise, 1)‖², mean over dimensions (rf-distillation): only the first step is trained.

        For pairs of a flow; afterwards one Euler step, `sample(n, steps=1, solver=euler)`, is the sampler. On pairs
        that no map has made it learns E[x_0 | noise], like any regression.
        """
        check_event(x0, self.shape)
        first = self(noise, torch.ones((), dtype=torch.float64, device=noise.device), y)
        return (first - (noise - x0)).square().mean()

    def distillation(self) -> dict[str, Objective]:
        """The player that minimises `distillation_loss`: pass it to `train` as its objectives."""
        return {"distillation": Objective(self.distillation_loss, self.objectives()["loss"].parameters)}

    # ------------------------------------------------------------------------------------------------- reflow

    def pairs(
        self, n: int, y: Tensor | None = None, steps: int = 100, solver: Solver = rk4, size: int = 10_000
    ) -> tuple[Tensor, Tensor]:
        """n pairs (Z_0, noise), Z_0 where the flow arrives from fresh noise: the rectified coupling, 2 × (n, *S).

        Both marginals are those of the coupling that the flow was trained on (rf-marginals), no convex cost of it is
        larger (rf-convex-costs). Solve accurately: what the solver misses, the next flow learns. For another source
        law write (flow.decode(x), x).

        Args:
            size: how many are solved at a time.
        """
        noise = self.prior(n)
        labels = [None] * n if y is None else y.split(size)
        return torch.cat([self.decode(z, c, steps, solver) for z, c in zip(noise.split(size), labels)]), noise
