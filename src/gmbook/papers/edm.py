"""Elucidating the Design Space of Diffusion-Based Generative Models. Karras, Aittala, Aila, Laine, NeurIPS 2022,
arXiv:2206.00364.

The paper divides every path by its α_t: x̄ = x_t/α_t = x_0 + σ̄ε, with σ̄ = σ_t/α_t in place of the time, and so has one
sampler for all of them. Its σ is our σ̄, its D(x; σ) our x_0 reading. Like every sampler of the book, this
one runs any `Denoiser`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gmbook.core.checks import check_count
from gmbook.core.denoiser import Denoiser
from gmbook.core.model import sampling
from gmbook.core.solvers import last


def step(
    denoiser: Denoiser,
    xt: Tensor,
    t: Tensor,
    s: Tensor | None,
    gamma: float = 0.0,
    inflate: float = 1.0,
    y: Tensor | None = None,
) -> Tensor:
    """Lines 4–13 of Algorithm 2, from x_t to x_s: (B, *S) -> (B, *S) (def-edm-step). s None is the last, to σ̄ = 0.

    Noise is added until σ̄ is (1 + γ)σ̄_t, but never more than the path's σ̄(t_max); then comes a step of Heun's method in
    σ̄ along dx̄/dσ̄ = ε̂. Two network calls, the last step one.

    Args:
        gamma: γ.
        inflate: S_noise, the standard deviation of the noise that is added.
    """
    path = denoiser.path
    if gamma > 0:
        raised = path.time_at(path.noise_ratio(t) * (1 + gamma))
        added = (path.noise_ratio(raised) ** 2 - path.noise_ratio(t) ** 2).clamp(min=0).sqrt()
        xt = path.alpha(raised) * (xt / path.alpha(t) + inflate * added * torch.randn_like(xt))
        t = raised
    output = denoiser(xt, t, y)
    if s is None:
        return denoiser.read("x0", output, xt, t)
    slope = denoiser.read("eps", output, xt, t)
    scaled, width = xt / path.alpha(t), path.noise_ratio(s) - path.noise_ratio(t)
    guess = path.alpha(s) * (scaled + width * slope)
    slope = (slope + denoiser.predict("eps", guess, s, y)) / 2
    return path.alpha(s) * (scaled + width * slope)


@sampling
def trajectory(
    denoiser: Denoiser,
    x: Tensor,
    ts: Tensor,
    churn: float = 0.0,
    churn_from: float = 0.0,
    churn_to: float = math.inf,
    inflate: float = 1.0,
    y: Tensor | None = None,
) -> Iterator[Tensor]:
    """Algorithm 2 from x at ts[0] along the falling times ts, (N,): yields x at ts[1:], and last the x_0 at σ̄ = 0.

    Args:
        churn: S_churn; γ is min(S_churn/N, √2 − 1). 0 is Algorithm 1, the probability flow by Heun's method.
        churn_from, churn_to: S_tmin and S_tmax, the σ̄ between which noise is added.
        inflate: S_noise.
    """
    if churn < 0:
        raise ValueError(f"churn is an amount of noise and must not be negative, got {churn}")
    gamma = min(churn / len(ts), math.sqrt(2) - 1)
    for t, s in itertools.pairwise([*ts, None]):
        within = gamma > 0 and churn_from <= denoiser.path.noise_ratio(t).item() <= churn_to
        x = step(denoiser, x, t, s, gamma if within else 0.0, inflate, y)
        yield x


def sample(
    denoiser: Denoiser,
    n: int,
    steps: int = 18,
    churn: float = 0.0,
    rho: float = 7.0,
    y: Tensor | None = None,
    **options: float,
) -> Tensor:
    """n samples in `steps` steps, 2 steps − 1 network calls, on Karras' grid of σ̄ (Eq. 5): (n, *S).

    Args:
        options: churn_from, churn_to and inflate, as of `trajectory`.
    """
    check_count("steps", steps)
    ts = denoiser.path.karras_times(steps, rho)
    return last(trajectory(denoiser, denoiser.prior(n), ts, churn, y=y, **options))
