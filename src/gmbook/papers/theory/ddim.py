"""What is known exactly of DDIM: the weights of its bound, and its error on Gaussian data."""

from __future__ import annotations

import torch
from torch import Tensor

from gmbook.core.paths import GaussianPath
from gmbook.papers.ddim import coefficients


def bound_weight(path: GaussianPath, t: Tensor, s: Tensor, eta: float) -> Tensor:
    """The factor γ of E‖ε − ε_θ‖² in the bound J_σ for the step from t to s, like t: Theorem 1 (ddim-objective).

    w²σ_t²/(2α_t²ς²), where w = α_s − √(σ_s² − ς²) α_t/σ_t is the factor of x_0 in the mean of q(x_s | x_t, x_0). The
    paper's proof prints 1/(2dς²α_t²), without w² and σ_t²; the theorem needs only that γ > 0. Infinite at η = 0.
    """
    bridge, (alpha_t, sigma_t) = path.bridge(t, s), path.alpha_sigma(t)
    direction, noise = coefficients(bridge, eta)
    return ((bridge.alpha * sigma_t / alpha_t - direction) / noise) ** 2 / 2


def gaussian_std(path: GaussianPath, std: Tensor, ts: Tensor, eta: float = 0.0, hat: bool = False) -> Tensor:
    """The std of what `trajectory` returns for data N(0, std²) and the ideal network, like std (ddim-variance).

    Everything is linear there: x̂_0 = α_t std²/v_t x and ε̂ = σ_t/v_t x with v_t = α_t²std² + σ_t². So a step multiplies
    x by a number and adds noise, and variances obey a recursion: the sampler's error in closed form, without a sample.
    For η = 0, std = 1 and equal angles it is a power of a cosine (ddim-cosine-law); for many steps at η = 0 it tends to
    the flow's map x_0 = x_T std/√v_T (ddim-gaussian-map).
    """
    alpha, sigma = path.alpha_sigma(ts)
    direction, noise = coefficients(path.bridge(ts[:-1], ts[1:]), eta, hat)  # (S − 1,)

    def gains(k: int) -> tuple[Tensor, Tensor]:
        total = (alpha[k] * std) ** 2 + sigma[k] ** 2
        return alpha[k] * std**2 / total, sigma[k] / total

    variance = sigma[0] ** 2 * torch.ones_like(std)
    for k in range(len(ts) - 1):
        x0, eps = gains(k)
        variance = (alpha[k + 1] * x0 + direction[k] * eps) ** 2 * variance + noise[k] ** 2
    return gains(-1)[0] * variance.sqrt()
