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
from typing import Protocol

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_event
from gmbook.core.control import Hook
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
    denoiser: Denoiser,
    x: Tensor,
    ts: Tensor,
    solver: Solver = heun,
    y: Tensor | None = None,
    guide: Hook | None = None,
    project: Hook | None = None,
) -> Iterator[Tensor]:
    """The probability flow from x at ts[0]: yields x at ts[1:], and last the x_0 reading.

    `guide` and `project` as in `predictor_corrector`.
    """
    field = flow_field(denoiser, y) if guide is None else reverse_drift(denoiser, 0.0, y, guide)
    if project is None:
        states = solver(field, x, ts)
    else:  # a step at a time: what an adaptive solver remembers of the field ends where the state is moved
        states = _walk(lambda x, pair: last(solver(field, x, pair)), x, ts, project)
    yield from _finish(denoiser, states, ts[-1], y)


@sampling
def sde_trajectory(
    denoiser: Denoiser,
    x: Tensor,
    ts: Tensor,
    noise: float = 1.0,
    y: Tensor | None = None,
    guide: Hook | None = None,
    project: Hook | None = None,
) -> Iterator[Tensor]:
    """The reverse SDE with noise λg by Euler–Maruyama from x at ts[0]: yields x at ts[1:], and last the x_0 reading.

    `guide` and `project` as in `predictor_corrector`.
    """
    drift = reverse_drift(denoiser, noise, y, guide)
    diffusion = lambda t: noise * denoiser.path.noise_rate(t).sqrt()  # noqa: E731
    step = lambda x, pair: last(euler_maruyama(drift, diffusion, x, pair))  # noqa: E731
    yield from _finish(denoiser, _walk(step, x, ts, project), ts[-1], y)


def _walk(step: Callable[[Tensor, Tensor], Tensor], x: Tensor, ts: Tensor, project: Hook | None) -> Iterator[Tensor]:
    """From time to time by step(x, the two times (2,)), each followed by `project`."""
    for t, s in itertools.pairwise(ts):
        x = step(x, torch.stack([t, s]))
        if project is not None:
            x = project(x, s)
        yield x


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


# ------------------------------------------------------------------------------------------ predictor, corrector


class Predictor(Protocol):
    """One step of sampling from t to s < t: (denoiser, x (B, *S), t, s, score) -> (B, *S)."""

    def __call__(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, score: Hook) -> Tensor: ...


def euler_maruyama_predictor(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, score: Hook) -> Tensor:
    """x − h[f x − g² score] + g√h z, h = t − s, the coefficients at t."""
    path, h = denoiser.path, t - s
    rate, g2 = path.rates(t)[0] / path.alpha(t), path.noise_rate(t)
    mean = x - broadcast(h * rate, x) * x + broadcast(h * g2, x) * score(x, t)
    return mean + broadcast((h * g2).sqrt(), x) * torch.randn_like(x)


def reverse_diffusion(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, score: Hook) -> Tensor:
    """x − (r − 1)x + η² score + ηz, for the exact forward step q(x_t | x_s) = N(r x_s, η²). Eq. 46.

    It discretises the way back as the way out is: on VE η² = σ_t² − σ_s², however long the step.
    """
    bridge = denoiser.path.bridge(t, s)
    ratio, eta = denoiser.path.alpha(t) / bridge.alpha, broadcast(bridge.forward_std, x)
    return broadcast(2 - ratio, x) * x + eta**2 * score(x, t) + eta * torch.randn_like(x)


def ancestral(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, score: Hook) -> Tensor:
    """N((x + η² score)/r, the variance of q(x_s | x_t, x_0)): on VE the paper's Eq. 47, on VP DDPM's step with β̃.

    (The paper's own for VP has β for β̃.) With the score of x̂_0 the mean is that of q(x_s | x_t, x̂_0).
    """
    bridge = denoiser.path.bridge(t, s)
    ratio = denoiser.path.alpha(t) / bridge.alpha
    mean = (x + broadcast(bridge.forward_std**2, x) * score(x, t)) / broadcast(ratio, x)
    return mean + broadcast(bridge.std, x) * torch.randn_like(x)


def no_predictor(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, score: Hook) -> Tensor:
    """x itself: the corrector works alone, which is annealed Langevin dynamics."""
    return x


@sampling
def corrected_trajectory(
    denoiser: Denoiser,
    x: Tensor,
    ts: Tensor,
    predictor: Predictor = reverse_diffusion,
    corrections: int = 1,
    snr: float = 0.16,
    y: Tensor | None = None,
    guide: Hook | None = None,
    project: Hook | None = None,
) -> Iterator[Tensor]:
    """Algorithms 2–5 from x at ts[0]: yields x at ts[1:], each after its corrections, and last the x_0 reading.

    The corrector's step is ε = 2α_t²(r ‖z‖/‖s‖)², norms averaged over the batch, r the signal-to-noise ratio. (Its α_t
    is the paper's: 1 − β_t on VP, 1 on VE. On continuous paths that factor tends to 1, and is left out.)

    Args:
        predictor: `reverse_diffusion`, `ancestral`, `euler_maruyama_predictor` or `no_predictor`.
        corrections: how many Langevin steps follow at the new time.
        snr: r.
        guide: ∇_x log p_t(y | x), added to the score, Eq. 14.
        project: moves the state after each step and each correction, as `core.control.replace_known` does.
    """

    def score(x: Tensor, t: Tensor) -> Tensor:
        value = denoiser.predict("score", x, t, y)
        return value if guide is None else value + guide(x, t)

    def step(x: Tensor, pair: Tensor) -> Tensor:
        t, s = pair
        x = predictor(denoiser, x, t, s, score)
        for _ in range(corrections):
            x = x if project is None else project(x, s)
            slope = score(x, s)
            ratio = torch.randn_like(x).flatten(1).norm(dim=1).mean() / slope.flatten(1).norm(dim=1).mean()
            size = 4 * (snr * ratio).square().item()  # def-langevin's ε is twice the paper's
            x = x + size / 2 * slope + size**0.5 * torch.randn_like(x)  # one Langevin step
        return x

    yield from _finish(denoiser, _walk(step, x, ts, project), ts[-1], y)


def predictor_corrector(
    denoiser: Denoiser,
    n: int,
    steps: int = 500,
    corrections: int = 1,
    snr: float = 0.16,
    power: float = 1.0,
    y: Tensor | None = None,
    predictor: Predictor = reverse_diffusion,
    guide: Hook | None = None,
    project: Hook | None = None,
) -> Tensor:
    """n samples by `corrected_trajectory` at evenly spaced times, as the paper's: (n, *S)."""
    x, ts = denoiser.prior(n), denoiser.path.times(steps, power)
    return last(corrected_trajectory(denoiser, x, ts, predictor, corrections, snr, y, guide, project))
