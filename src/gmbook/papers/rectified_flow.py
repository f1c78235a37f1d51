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

Transfer between two laws of data is the same with `source`, the law at t = 1; then "noise" below is a draw of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_count, check_event
from gmbook.core.model import Objective
from gmbook.core.solvers import Solver, heun
from gmbook.papers.flow_matching import FlowMatching, TimeLaw, uniform

Source = Callable[[int], Tensor]


class RectifiedFlow(FlowMatching):
    """Flow matching on straight lines x_t = (1 − t)x_0 + t·noise between the two ends of a given coupling.

    Args:
        net: net(x_t (B, *S), t (B,), y) -> the velocity, (B, *S).
        shape: the event shape S.
        time_law: as of `FlowMatching`.
        source: the law at t = 1, the paper's π_0: n -> n draws of it, (n, *S). None: N(0, I). The readings of a
            `Denoiser` as a score or a guess of ε, and `log_prob`, are those of N(0, I) and mean nothing for another.
    """

    def __init__(
        self, net: nn.Module, shape: tuple[int, ...], time_law: TimeLaw = uniform, source: Source | None = None
    ):
        super().__init__(net, shape, time_law=time_law)
        self.source = source

    # ------------------------------------------------------------------------------------------------ training

    def loss(self, x0: Tensor, noise: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """E ∫_0^1 ‖(noise − x_0) − v_θ(x_t, t)‖² dt on a coupling, mean over dimensions (rf-loss).

        Its optimum is v(x, t) = E[noise − x_0 | x_t = x] (rf-velocity): where lines of the coupling cross, their mean.

        Args:
            x0: (B, *S).
            noise: its partners, (B, *S), from `pairs` or from any joint law; None for fresh draws of the source.
            y: labels, (B,).

        Raises:
            ValueError: noise has not the shape of x0.
        """
        check_event(x0, self.shape)
        noise = self.prior(len(x0)).to(x0) if noise is None else noise
        if noise.shape != x0.shape:
            raise ValueError(
                f"expected noise of x0's shape {tuple(x0.shape)}, got {tuple(noise.shape)}: a batch is (x0,), "
                "(x0, noise) or (x0, noise, y), labels come third"
            )
        return self.pair_loss(x0, noise, y)

    def distillation_loss(self, x0: Tensor, noise: Tensor, y: Tensor | None = None, steps: int = 1) -> Tensor:
        """E ‖(noise − x_0) − v_θ(x_t, t)‖² at t ∈ {1, 1 − 1/k, …, 1/k}, mean over dimensions (rf-distillation).

        Only where the k steps of Euler's method begin is the field trained, and there on the chord of the whole path;
        at k = 1 that is t = 1, x_t = noise. For pairs of a flow; afterwards `sample(n, steps=k, solver=euler)` is the
        sampler. On pairs that no map has made it learns E[x_0 | x_t], like any regression. The authors' code does the
        same (reflow_t_schedule, "t0" or k).

        Args:
            steps: k.

        Raises:
            ValueError: k < 1.
        """
        check_event(x0, self.shape)
        check_count("steps", steps)
        t = 1 - torch.randint(steps, (len(x0),), device=x0.device).double() / steps
        return self._chord_error(x0, noise, t, y)

    def encoding_loss(self, x0: Tensor, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """E ‖(noise − x_0) − v_θ(x_0, 0)‖², mean over dimensions (rf-encoding): distillation of the way back.

        Afterwards one Euler step from data, `encode(x0, steps=1, solver=euler)`, gives the noise. The authors' code
        has it as reflow_t_schedule "t1".
        """
        check_event(x0, self.shape)
        return self._chord_error(x0, noise, torch.zeros(len(x0), dtype=torch.float64, device=x0.device), y)

    def _chord_error(self, x0: Tensor, noise: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return (self(self.path.interpolate(x0, noise, t), t, y) - (noise - x0)).square().mean()

    def distillation(self, steps: int = 1, encode: bool = False) -> dict[str, Objective]:
        """The player that minimises `distillation_loss` in k steps, or with `encode` the `encoding_loss`: pass it to
        `train` as its objectives."""
        loss = self.encoding_loss if encode else functools.partial(self.distillation_loss, steps=steps)
        return {"distillation": Objective(loss, self.objectives()["loss"].parameters)}

    # ------------------------------------------------------------------------------------------------- reflow

    def pairs(
        self, n: int, y: Tensor | None = None, steps: int = 20, solver: Solver = heun, size: int = 10_000
    ) -> tuple[Tensor, Tensor]:
        """n pairs (Z_0, noise), Z_0 where the flow arrives from a fresh draw of the source: the rectified coupling.

        Returns two tensors (n, *S).

        Both marginals are those of the coupling that the flow was trained on (rf-marginals), no convex cost of it is
        larger (rf-convex-costs). What the solver misses, the next flow learns: Heun's 20 steps are 40 calls of the
        network a pair, and leave an error far below that of a learned field (rf-solver-error).

        Args:
            size: how many are solved at a time.
        """
        noise = self.prior(n)
        labels = [None] * n if y is None else y.split(size)
        return torch.cat([self.decode(z, c, steps, solver) for z, c in zip(noise.split(size), labels)]), noise

    def prior(self, n: int) -> Tensor:
        """n draws of the law at t = 1: (n, *S)."""
        return super().prior(n) if self.source is None else self.source(n).to(self.device, self.dtype)
