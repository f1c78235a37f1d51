"""Score-Based Generative Modeling through SDEs. Song et al., ICLR 2021, arXiv:2011.13456.

dx = f(t) x dt + g(t) dw on any of the book's Gaussian paths (VE, VP, sub-VP are the paper's); f = α'/α and g² is the
path's `noise_rate`.

All samplers below run any `Denoiser`, whatever its network predicts and however it was trained. They start at t_max,
stop at t_min, and finish with the x_0 reading: the denoising step without which samples keep σ(t_min) of noise. The
likelihood along the flow, Eq. 39, is `core.probability_flow.log_likelihood`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_event
from gmbook.core.denoiser import Denoiser
from gmbook.core.model import sampling
from gmbook.core.paths import GaussianPath, broadcast
from gmbook.core.probability_flow import flow_field
from gmbook.core.solvers import Field, Solver, euler_maruyama, heun, last


class ScoreSDE(Denoiser):
    """A score network trained at all times by denoising score matching, Eq. 7 (sde-dsm).

    Args:
        net: predicts −σ_t · score, which is ε: its targets have unit variance at every t.
        likelihood_weighting: weigh ‖score error‖² by g(t)² instead of σ_t²; then the loss bounds the likelihood
            (arXiv:2101.09258).
    """

    def __init__(self, net: nn.Module, path: GaussianPath, shape: tuple[int, ...], likelihood_weighting: bool = False):
        super().__init__(net, path, "eps", shape)
        self.likelihood_weighting = likelihood_weighting

    def loss(self, x0: Tensor, y: Tensor | None = None) -> Tensor:
        """E_t λ(t) ‖s_θ(x_t, t) − ∇ log p(x_t | x_0)‖², mean over dimensions, with t ~ U[t_min, t_max].

        λ = σ² makes it ‖ε_θ − ε‖²; λ = g² multiplies that by g²/σ².
        """
        check_event(x0, self.shape)
        path = self.path
        u = torch.rand(len(x0), dtype=torch.float64, device=x0.device)
        t = path.t_min + (path.t_max - path.t_min) * u
        eps = torch.randn_like(x0)
        squared = (self(path.interpolate(x0, eps, t), t, y) - eps).square()
        if self.likelihood_weighting:
            squared = squared * broadcast(path.noise_rate(t) / path.sigma(t) ** 2, x0)
        return squared.mean()

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """n samples by the predictor–corrector method with 500 steps: (n, *S)."""
        return predictor_corrector(self, n, 500, y=y)


# ----------------------------------------------------------------------------------------------------- samplers


def reverse_drift(
    denoiser: Denoiser,
    noise: float,
    y: Tensor | None = None,
    guide: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Field:
    """Drift of the reverse family f x − (1 + λ²)/2 g² ∇log p_t, whose noise is λg (sde-reverse-family).

    λ = 1 is Eq. 6, λ = 0 is Eq. 13.

    Args:
        noise: λ.
        guide: ∇_x log p_t(y | x), added to the score for conditional sampling, Eq. 14: (x, t) -> (B, *S).
    """
    path = denoiser.path

    def drift(x: Tensor, t: Tensor) -> Tensor:
        output = denoiser(x, t, y)
        score, velocity = denoiser.readings(output, x, t, "score", "velocity")
        slope = velocity - noise**2 / 2 * path.noise_rate(t) * score
        if guide is not None:
            slope = slope - (1 + noise**2) / 2 * path.noise_rate(t) * guide(x, t)
        return slope

    return drift


def _finish(denoiser: Denoiser, states: Iterator[Tensor], t: Tensor, y: Tensor | None) -> Iterator[Tensor]:
    for x in states:
        yield x
    yield denoiser.predict("x0", x, t, y)


@sampling
def flow_trajectory(
    denoiser: Denoiser, x: Tensor, ts: Tensor, solver: Solver = heun, y: Tensor | None = None
) -> Iterator[Tensor]:
    """The probability flow from x at ts[0]: yields x at ts[1:], and last the x_0 reading."""
    yield from _finish(denoiser, solver(flow_field(denoiser, y), x, ts), ts[-1], y)


@sampling
def sde_trajectory(
    denoiser: Denoiser,
    x: Tensor,
    ts: Tensor,
    noise: float = 1.0,
    y: Tensor | None = None,
    guide: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Iterator[Tensor]:
    """The reverse SDE with noise λg by Euler–Maruyama from x at ts[0]: yields x at ts[1:], and last the x_0 reading."""
    drift = reverse_drift(denoiser, noise, y, guide)
    states = euler_maruyama(drift, lambda t: noise * denoiser.path.noise_rate(t).sqrt(), x, ts)
    yield from _finish(denoiser, states, ts[-1], y)


def probability_flow(
    denoiser: Denoiser,
    n: int,
    steps: int = 50,
    solver: Solver = heun,
    power: float = 2.0,
    y: Tensor | None = None,
) -> Tensor:
    """n samples by the probability-flow ODE: (n, *S). Times are spaced quadratically by default, finer near the
    data."""
    ts = denoiser.path.times(steps, power)
    return last(flow_trajectory(denoiser, denoiser.prior(n), ts, solver, y))


def reverse_sde(
    denoiser: Denoiser,
    n: int,
    steps: int = 500,
    noise: float = 1.0,
    power: float = 2.0,
    y: Tensor | None = None,
) -> Tensor:
    """n samples by the reverse SDE, Eq. 6: (n, *S). `noise` is λ: 1 is the paper's SDE, 0 its ODE by Euler steps."""
    ts = denoiser.path.times(steps, power)
    return last(sde_trajectory(denoiser, denoiser.prior(n), ts, noise, y))


@sampling
def predictor_corrector(
    denoiser: Denoiser,
    n: int,
    steps: int = 500,
    corrections: int = 1,
    snr: float = 0.16,
    power: float = 2.0,
    y: Tensor | None = None,
) -> Tensor:
    """Algorithms 2–5: a reverse-SDE step, then Langevin steps at the new time: (n, *S).

    The corrector's step is ε = 2α_t²(r ‖z‖/‖s‖)², norms averaged over the batch, r the signal-to-noise ratio. (Its α_t
    is the paper's: 1 − β_t on VP, 1 on VE. On continuous paths that factor tends to 1, and is left out.)
    """
    path, x = denoiser.path, denoiser.prior(n)
    ts = path.times(steps, power)
    drift = reverse_drift(denoiser, 1.0, y)
    for t, s in itertools.pairwise(ts):
        x = last(euler_maruyama(drift, lambda u: path.noise_rate(u).sqrt(), x, torch.stack([t, s])))
        for _ in range(corrections):
            score = denoiser.predict("score", x, s, y)
            ratio = torch.randn_like(x).flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()
            step = 4 * (snr * ratio).square().item()  # def-langevin's ε is twice the paper's
            x = x + step / 2 * score + step**0.5 * torch.randn_like(x)  # one Langevin step
    return denoiser.predict("x0", x, ts[-1], y)
