"""Denoising Diffusion Implicit Models. Song, Meng, Ermon, ICLR 2021, arXiv:2010.02502.

A sampler over somebody else's network: it runs any `Denoiser`, on any Gaussian path. The paper's α_t is DDPM's ᾱ_t and
our α_t². Its formulas are for α² + σ² = 1; those below hold on every path and reduce to the paper's there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from gmbook.core.checks import as_time, check_count
from gmbook.core.denoiser import Denoiser
from gmbook.core.model import sampling
from gmbook.core.paths import Bridge, GaussianPath
from gmbook.core.solvers import last


def coefficients(bridge: Bridge, eta: float = 0.0, hat: bool = False) -> tuple[Tensor, Tensor]:
    """The factors of ε̂ and of z in the step across a bridge, each like its times (ddim-marginal).

    The noise is ς = η · bridge.std, Eq. 16 (ddim-sigma), and the direction is √(σ_s² − ς²): the squares add to σ_s²,
    which keeps q(x_s | x_0) for every η, Lemma 1. Forwards, x_t given x_s and x_0 has the slope σ_t · direction/σ_s²
    and the std σ_tς/σ_s (ddim-forward). `hat` keeps the direction of η = 1 and takes the noise σ̂ = bridge.forward_std,
    which is √(1 − ᾱ_t/ᾱ_s) on VP and larger than Lemma 1 allows: the paper's σ̂ rows, DDPM's σ² = β (App. D.3).

    Raises:
        ValueError: eta lies outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(
            f"eta must lie in [0, 1] (0 deterministic, 1 DDPM), got {eta}; for the paper's σ̂ pass hat=True"
        )
    noise = (1.0 if hat else eta) * bridge.std
    direction = (bridge.sigma**2 - noise**2).clamp(min=0).sqrt()
    return direction, bridge.forward_std if hat else noise


def step(
    denoiser: Denoiser,
    xt: Tensor,
    t: Tensor,
    s: Tensor,
    eta: float = 0.0,
    hat: bool = False,
    y: Tensor | None = None,
) -> Tensor:
    """From x_t to x_s, Eq. 12 (ddim-step): x_s = α_s x̂_0 + √(σ_s² − ς²) ε̂ + ς z, with `coefficients`.

    η = 0 is deterministic: an Euler step in σ/α (ddim-euler), on VP paths a rotation of (x, v) (ddim-rotation), on the
    linear path Euler's step along the velocity (fm-ddim). η = 1 is DDPM's ancestral step; `hat` is DDPM's with σ² = β,
    whatever η. One network call.
    """
    t, s = as_time(t, xt), as_time(s, xt)
    x0, eps = denoiser.readings(denoiser(xt, t, y), xt, t, "x0", "eps")
    bridge = denoiser.path.bridge(t, s)
    direction, noise = coefficients(bridge, eta, hat)
    x = bridge.alpha * x0 + direction * eps
    return x + noise * torch.randn_like(x) if hat or eta > 0 else x


@sampling
def trajectory(
    denoiser: Denoiser,
    x: Tensor,
    ts: Tensor,
    eta: float = 0.0,
    hat: bool = False,
    y: Tensor | None = None,
) -> Iterator[Tensor]:
    """From x at ts[0] along the falling times ts, (S,): yields x at ts[1:], and last the x_0 reading at ts[-1].

    S network calls in all. The last one is Eq. 12's step to α = 1, σ = 0. At η = 0 these are Euler's steps for the
    probability flow (ddim-flow): more of them follow the same path from the same x more closely.
    """
    for t, s in itertools.pairwise(ts):
        x = step(denoiser, x, t, s, eta, hat, y)
        yield x
    yield denoiser.predict("x0", x, ts[-1], y)


def sub_sequence(path: GaussianPath, steps: int, power: float = 1.0) -> Tensor:
    """τ_S, …, τ_1 as times, (S,): `power` 1 is the paper's linear choice, 2 its quadratic one (App. D.2)."""
    check_count("steps", steps)
    if steps == 1:
        return path.times(1)[:1]
    return path.times(steps - 1, power)


def sample(
    denoiser: Denoiser,
    n: int,
    steps: int = 50,
    eta: float = 0.0,
    hat: bool = False,
    power: float = 1.0,
    y: Tensor | None = None,
) -> Tensor:
    """n samples in `steps` network calls: (n, *S)."""
    ts = sub_sequence(denoiser.path, steps, power)
    return last(trajectory(denoiser, denoiser.prior(n), ts, eta, hat, y))


@sampling
def invert(denoiser: Denoiser, x0: Tensor, steps: int = 50, power: float = 1.0, y: Tensor | None = None) -> Tensor:
    """The latent x(t_max) that the deterministic sampler carries to x0: (B, *S). Eq. 14 run backwards (ddim-inversion).

    The same step from low to high noise, with ε̂ read where the step starts; the error falls as 1/steps.
    """
    ts = sub_sequence(denoiser.path, steps, power).flip(0)
    x = denoiser.path.alpha(ts[0]) * x0  # the mean of q(x_t | x_0): at t_min the image hides almost no noise
    for t, s in itertools.pairwise(ts):
        x = step(denoiser, x, t, s, y=y)
    return x


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Spherical interpolation of latents, App. D.5 (ddim-slerp): a, b (B, *S), weight (W,) in [0, 1] -> (W, B, *S).

    sin((1 − w)θ)/sin θ a + sin(wθ)/sin θ b, with θ the angle between a and b: keeps the norm of Gaussian latents.
    """
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=1).clamp(-1 + 1e-6, 1 - 1e-6)
    theta, w = cosine.acos(), weight[:, None]  # (B,), (W, 1)
    pieces = torch.sin((1 - w) * theta)[..., None] * flat_a + torch.sin(w * theta)[..., None] * flat_b
    return (pieces / theta.sin()[:, None]).reshape(len(weight), *a.shape)
