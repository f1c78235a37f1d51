"""DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models. Lu, Zhou, Bao, Chen, Li, Zhu,
arXiv:2211.01095. Like every sampler of the book it runs any `Denoiser`.

The paper's λ is log(α/σ), which falls with the book's t; its time also runs from data to noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from gmbook.core.denoiser import Denoiser
from gmbook.core.model import sampling
from gmbook.core.paths import GaussianPath
from gmbook.core.solvers import last
from gmbook.papers.ddim import sub_sequence


def exponential_step(path: GaussianPath, xt: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s = (σ_s/σ_t) x_t + α_s(1 − e^{−h}) x̂_0, h = λ_s − λ_t, Eq. 9 (ddim-exponential): (B, *S).

    The probability flow from t to s where x̂_0 does not change: exact for its linear part. It is DDIM's step at η = 0.
    """
    alpha, sigma = path.alpha_sigma(s)
    shrink = torch.exp(-(path.log_snr(s) - path.log_snr(t)) / 2)
    return sigma / path.sigma(t) * xt - alpha * (shrink - 1) * x0


@sampling
def trajectory(denoiser: Denoiser, x: Tensor, ts: Tensor, y: Tensor | None = None) -> Iterator[Tensor]:
    """DPM-Solver++(2M), Algorithm 2, from x at ts[0] along the falling times ts, (S,): yields x at ts[1:], and last the
    x_0 reading at ts[-1] (ddim-multistep).

    One network call a step, S in all. x̂_0 is extrapolated in λ from its last two values to the middle of the step; the
    first step, which has one value only, is DDIM's.

    Raises:
        ValueError: two times are equal, as on a table with more steps than it has levels where they are wanted.
    """
    if len(ts) > 1 and not bool((ts.diff() < 0).all()):
        raise ValueError("the times must fall: two are equal or rise; take fewer steps, or `times`")
    half_snr = denoiser.path.log_snr(ts) / 2  # λ
    before = denoiser.predict("x0", x, ts[0], y)
    guess = before
    for i, (t, s) in enumerate(itertools.pairwise(ts)):
        if i > 0:
            now = denoiser.predict("x0", x, t, y)
            ratio = (half_snr[i + 1] - half_snr[i]) / (half_snr[i] - half_snr[i - 1])
            guess, before = now + ratio / 2 * (now - before), now
        x = exponential_step(denoiser.path, x, guess, t, s)
        yield x
    yield before if len(ts) == 1 else denoiser.predict("x0", x, ts[-1], y)


def times(path: GaussianPath, steps: int) -> Tensor:
    """Falling times between the path's ends at which λ is evenly spaced, the paper's choice: (steps,), float64."""
    ends = sub_sequence(path, 2)
    ratio = path.noise_ratio(ends).log()
    u = torch.linspace(0, 1, steps, dtype=torch.float64, device=ratio.device)
    return path.time_at((ratio[0] + (ratio[1] - ratio[0]) * u).exp())


def sample(denoiser: Denoiser, n: int, steps: int = 20, y: Tensor | None = None) -> Tensor:
    """n samples in `steps` network calls, at times that are even in λ: (n, *S)."""
    ts = sub_sequence(denoiser.path, 1) if steps == 1 else times(denoiser.path, steps)
    return last(trajectory(denoiser, denoiser.prior(n), ts, y))
