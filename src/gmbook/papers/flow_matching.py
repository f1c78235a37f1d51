"""Flow Matching for Generative Modeling. Lipman, Chen, Ben-Hamu, Nickel, Le, ICLR 2023, arXiv:2210.02747.

The paper's time runs from noise to data, the book's from data to noise: t_paper = 1 − t. The paper's x_1 is our x_0,
its x_0 our ε. Every velocity changes its sign: ours is dx_t/dt = α'x_0 + σ'ε, it points to the noise, and sampling
follows it from t = 1 down to 0. On the linear path it is (1 − σ_min)ε − x_0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_count, check_event
from gmbook.core.denoiser import Denoiser
from gmbook.core.model import sampling
from gmbook.core.paths import GaussianPath, LinearPath
from gmbook.core.probability_flow import flow_field, log_likelihood
from gmbook.core.solvers import Solver, dopri5, euler_maruyama, heun, last
from gmbook.core.transport import optimal_pairing

Coupling = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
TimeLaw = Callable[[Tensor], Tensor]


# ---------------------------------------------------------------------------------- which noise belongs to which x_0


def independent(x0: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs as they were drawn, q(x_0)N(ε; 0, I): the paper's coupling."""
    return x0, noise


def optimal_transport(x0: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The pairing of this batch with the least Σ‖x_0 − ε‖² (fm-coupling): x0 and noise (B, *S), the noise permuted.

    Tong et al. 2024, arXiv:2302.00482, with an assignment: every point is used exactly once, so both marginals stay as
    they were. (Their code draws B pairs from the plan with replacement.) Only the noise is moved: labels stay with
    their x_0. By `core.transport.optimal_pairing`: 6 ms at B = 256, which is a small network's step.
    """
    a, b = (z.detach().flatten(1).double() for z in (x0, noise))  # near ties need the digits
    return x0, noise[optimal_pairing(torch.cdist(a, b).square())]


# ------------------------------------------------------------------------------------------- at which t to train


def uniform(u: Tensor) -> Tensor:
    """t ~ U[0, 1], the paper's."""
    return u


def logit_normal(mean: float = 0.0, std: float = 1.0) -> TimeLaw:
    """t = sigmoid(m + s z), z ~ N(0, 1): more of the middle, where the regression is hardest (fm-logit-normal).

    Density exp(−(logit t − m)²/(2s²)) / (s√(2π) t(1 − t)). Esser et al. 2024, arXiv:2403.03206, whose t is the book's.
    A map u -> t of u ~ U[0, 1].
    """
    return functools.partial(_logit_normal, mean=mean, std=std)


def _logit_normal(u: Tensor, mean: float, std: float) -> Tensor:
    return torch.sigmoid(mean + std * torch.special.ndtri(u))


# ------------------------------------------------------------------------------------------------------ the model


class FlowMatching(Denoiser):
    """A velocity field, learned by regression without simulation, and the flow that follows it.

    With `networks.guided.Guided` around the network both run under classifier-free guidance (fm-guidance). As a
    `Denoiser` it is read as a score or as both ends of its segment (fm-score, fm-endpoints), and runs in all samplers
    of `ddim` and `score_sde` too.

    Args:
        net: net(x_t (B, *S), t (B,), y) -> the velocity, (B, *S).
        shape: the event shape S.
        path: LinearPath(σ_min) is the paper's OT path, VPPath its diffusion path. None: LinearPath().
        coupling: which noise goes with which x_0, (x0, noise) -> (x0, noise): `independent`, `optimal_transport`. It
            may move the noise only, or labels lose their x_0.
        time_law: maps u ~ U[0, 1] to the times of the loss: `uniform`, `logit_normal()`.
    """

    def __init__(
        self,
        net: nn.Module,
        shape: tuple[int, ...],
        path: GaussianPath | None = None,
        coupling: Coupling = independent,
        time_law: TimeLaw = uniform,
    ):
        super().__init__(net, LinearPath() if path is None else path, "velocity", shape)
        self.coupling, self.time_law = coupling, time_law

    # ------------------------------------------------------------------------------------------------ training

    def loss(self, x0: Tensor, y: Tensor | None = None) -> Tensor:
        """L_CFM = E ‖v_θ(x_t, t) − u_t(x_t | x_0)‖², mean over dimensions (fm-cfm): the loss that can be computed.

        Its gradient is that of `marginal_loss`, Theorem 2 (fm-equal-gradients), but its least value is not 0: it is
        C = E tr Cov[u_t(x_t | x_0) | x_t]/D (fm-floor, fm-plateau). Against noise prediction at the same x_t it has the
        weight (σ' − σα'/α)² (fm-weight).
        """
        check_event(x0, self.shape)
        return self.pair_loss(*self.coupling(x0, torch.randn_like(x0)), y)

    def pair_loss(self, x0: Tensor, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """The same regression on pairs that somebody else made, x0 and noise (B, *S): (), mean over dimensions.

        Eq. 23 on the OT path. The target is written in x_0 and ε, not in x_t: nothing is divided by σ_t.
        """
        t = self.draw_times(x0)
        xt = self.path.interpolate(x0, noise, t)
        return (self(xt, t, y) - self.path.target("velocity", x0, noise, t)).square().mean()

    def marginal_loss(self, x0: Tensor, field: nn.Module, y: Tensor | None = None) -> Tensor:
        """L_FM = E ‖v_θ(x_t, t) − u_t(x_t)‖², mean over dimensions (fm-loss): for laws whose u_t is known.

        Args:
            field: u_t as net(x_t, t, y), for example `Truth(law, path, "velocity")` of the data's law.
        """
        check_event(x0, self.shape)
        x0, noise = self.coupling(x0, torch.randn_like(x0))
        t = self.draw_times(x0)
        xt = self.path.interpolate(x0, noise, t)
        return (self(xt, t, y) - field(xt, t, y)).square().mean()

    def draw_times(self, x0: Tensor) -> Tensor:
        """Training times for a batch, (B,), float64, between the path's flow ends."""
        start, end = self.path.flow_ends
        u = torch.rand(len(x0), dtype=torch.float64, device=x0.device)
        return start + (end - start) * self.time_law(u)

    # ------------------------------------------------------------------------------------------------ the flow

    def times(self, steps: int) -> Tensor:
        """steps + 1 even times from noise to data, (steps + 1,), float64: 1 to 0 on the linear path."""
        check_count("steps", steps)
        start, end = self.path.flow_ends
        return torch.linspace(end, start, steps + 1, dtype=torch.float64, device=self.device)

    @sampling
    def trajectory(self, x: Tensor, ts: Tensor, solver: Solver = heun, y: Tensor | None = None) -> Iterator[Tensor]:
        """dx/dt = v_θ(x, t) from x at ts[0]: yields x at ts[1:]. Falling times sample, rising ones encode (fm-flow).

        The marginal field carries p_t (fm-continuity); the end point's error falls with the solver's order (fm-order).

        Unlike `score_sde.flow_trajectory` it adds no x_0 reading at the end: the linear path's flow arrives at t = 0.
        """
        check_event(x, self.shape)
        yield from solver(flow_field(self, y), x, ts)

    @sampling
    def sde_trajectory(
        self, x: Tensor, ts: Tensor, spread: Callable[[Tensor], Tensor], y: Tensor | None = None
    ) -> Iterator[Tensor]:
        """dx = (v_θ − w²/2 ∇log p_t) dt + w dw̄ from x at ts[0] along falling times: yields x at ts[1:] (fm-sde).

        The score is the same network's (fm-score). For the exact field every w has the flow's laws p_t; w = 0 is the
        flow by Euler's method.

        Args:
            spread: w(t), for t (). On the linear path √(2ct) keeps w²∇log p_t bounded at the data.
        """
        check_event(x, self.shape)

        def drift(x: Tensor, t: Tensor) -> Tensor:
            velocity, score = self.readings(self(x, t, y), x, t, "velocity", "score")
            return velocity - spread(t) ** 2 / 2 * score

        yield from euler_maruyama(drift, spread, x, ts)

    def prior(self, n: int) -> Tensor:
        """n draws of the noise where the flow starts, N(0, σ(1)² I): (n, *S)."""
        end = torch.tensor(self.path.flow_ends[1], dtype=torch.float64, device=self.device)
        return self.path.sigma(end).to(self.dtype) * self.noise(n)

    def sample(self, n: int, y: Tensor | None = None, steps: int = 50, solver: Solver = heun) -> Tensor:
        """n samples by any ODE solver: (n, *S). For dopri5 take steps = 1, it chooses its own."""
        return self.decode(self.prior(n), y, steps, solver)

    def decode(self, noise: Tensor, y: Tensor | None = None, steps: int = 50, solver: Solver = heun) -> Tensor:
        """The data that the flow makes of given noise: (B, *S) -> (B, *S). m + sε for N(m, s²) (fm-gaussian-flow)."""
        return last(self.trajectory(noise, self.times(steps), solver, y))

    def encode(self, x0: Tensor, y: Tensor | None = None, steps: int = 50, solver: Solver = heun) -> Tensor:
        """The noise that the flow makes of given data, the inverse of `decode` up to the solver's error."""
        return last(self.trajectory(x0, self.times(steps).flip(0), solver, y))

    def log_prob(
        self,
        x: Tensor,
        y: Tensor | None = None,
        probe: Tensor | None = None,
        steps: int = 1,
        solver: Solver = dopri5,
    ) -> Tensor:
        """log p(x) = log N(x(1); 0, σ(1)² I) + ∫_0^1 ∇·v_θ dt along the flow (ode-likelihood): (B, *S) -> (B,), nats.

        The paper subtracts the integral, because its time runs the other way. Exact up to the solver's error; with a
        probe (B, *S) Hutchinson's unbiased estimate of it.
        """
        return log_likelihood(self, x, self.times(steps).flip(0), probe, solver, y)
