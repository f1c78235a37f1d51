"""What is known exactly of score SDEs: Fokker–Planck on a grid; the reverse family behind a score that is wrong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from gmbook.core.paths import GaussianPath
from gmbook.core.solvers import last, rk4


def fokker_planck(path: GaussianPath, density: Tensor, x: Tensor, ts: Tensor) -> Iterator[Tensor]:
    """∂_t p = −∂_x(f x p) + ½g² ∂_x² p on a line: yields p at ts[1:], each (N,), from `density` at ts[0]
    (sde-fokker-planck).

    Finite volumes with central fluxes, and no flux through the ends, so that the mass stays what it is; Crank–Nicolson
    in time, of second order in both. It knows f and g², and no solution.

    Args:
        density: (N,) at the cells' centres.
        x: (N,) centres, evenly spaced, where the law has no mass left at the ends.
        ts: rising times.
    """
    width, unit = x[1] - x[0], torch.eye(len(x), dtype=x.dtype)
    edges = (x[1:] + x[:-1]) / 2
    for t, s in itertools.pairwise(ts):
        middle = (t + s) / 2
        drift, half = path.rates(middle)[0] / path.alpha(middle) * edges, path.noise_rate(middle) / 2
        flux = torch.zeros(len(x) + 1, len(x), dtype=x.dtype)  # through each edge, as a matrix that acts on p
        inner = torch.arange(len(x) - 1)
        flux[inner + 1, inner] = drift / 2 + half / width
        flux[inner + 1, inner + 1] = drift / 2 - half / width
        rate = (flux[:-1] - flux[1:]) / width
        step = (s - t) / 2 * rate
        density = torch.linalg.solve(unit - step, density + step @ density)
        yield density


def reverse_variance(path: GaussianPath, std: Tensor, factor: Tensor, noise: float, steps: int = 2000) -> Tensor:
    """The variance at t_min of the reverse family with λ = `noise`, for data N(0, std²) and the score times `factor`.

    From N(0, σ_max²) at t_max. The score is −c x/v_t with v_t = α_t²std² + σ_t², so the drift is a(t)x with
    a = f + (1 + λ²)/2 · g²c/v_t, and going down in time dV/dt = 2aV − λ²g² (sde-reverse-family). Each like std.
    """
    least, most = path.noise_ratio(torch.tensor([path.t_min, path.t_max], dtype=torch.float64)).log().tolist()
    ts = path.time_at(torch.linspace(most, least, steps + 1, dtype=torch.float64).exp())

    def rate(variance: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = path.alpha_sigma(t)
        g2, total = path.noise_rate(t), (alpha * std) ** 2 + sigma**2
        slope = path.rates(t)[0] / alpha + (1 + noise**2) / 2 * g2 * factor / total
        return 2 * slope * variance - noise**2 * g2

    return last(rk4(rate, path.sigma(ts[0]) ** 2 * torch.ones_like(std * factor), ts))


def kl_bound(path: GaussianPath, std: Tensor, factor: Tensor, steps: int = 4000) -> Tensor:
    """½∫ g² E‖s − ∇log p_t‖² dt + KL(p_{t_max} ‖ N(0, σ_max²)) for data N(0, std²) and the score times `factor`.

    Theorem 1 of arXiv:2101.09258, per dimension, nats (sde-kl-bound): E‖s − ∇log p_t‖² = (c − 1)²/v_t.
    """
    least, most = path.noise_ratio(torch.tensor([path.t_min, path.t_max], dtype=torch.float64)).log().tolist()
    ts = path.time_at(torch.linspace(least, most, steps + 1, dtype=torch.float64).exp())
    (alpha, sigma), g2 = path.alpha_sigma(ts), path.noise_rate(ts)
    total = (alpha * std[..., None]) ** 2 + sigma**2
    error = torch.trapezoid(g2 / total, ts) * (factor - 1) ** 2 / 2
    ratio = total[..., -1] / sigma[-1] ** 2
    return error + (ratio - 1 - ratio.log()) / 2
