"""Where a latent model's error comes from, and what guided sampling samples, in closed form."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gmbook.core.transport import optimal_pairing


class Split(NamedTuple):
    """W2² between data and a latent model's samples, and its two parts; each ()."""

    reconstruction: Tensor
    generation: Tensor
    total: Tensor


def error_split(x: Tensor, samples: Tensor, basis: Tensor) -> Split:
    """W2²(x, y) = E‖x − Px‖² + W2²(Px, y) for samples y = Py in the plane of the decoder (ldm-pythagoras).

    P = QQᵀ projects on the decoder's range, which has the orthonormal basis Q. For every pairing ‖x − y‖² =
    ‖x − Px‖² + ‖Px − y‖², since Px − y lies in the plane and x − Px is orthogonal to it; the first part does not depend
    on the pairing.

    Args:
        x, samples: (n, D), equally many; the distances are exact between them.
        basis: Q (D, d).
    """
    shadow = x @ basis @ basis.T

    def squared(a: Tensor, b: Tensor) -> Tensor:
        cost = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        return cost[torch.arange(len(a)), optimal_pairing(cost)].mean()

    return Split((x - shadow).square().sum(1).mean(), squared(shadow, samples), squared(x, samples))


def guided_gaussian(
    scale: float, mean: float, variance: float, free_mean: float, free_variance: float
) -> tuple[float, float]:
    """Mean and standard deviation of guided samples between Gaussians N(m_c, v_c) and N(m_u, v_u) (guidance-flow).

    The guided probability flow with α = 1, in w = σ², is dx/dw = ½[s(x − m_c)/(v_c + w) + (1 − s)(x − m_u)/(v_u + w)]:
    linear, so that deviations shrink by F(w) = (v_c + w)^{s/2} (v_u + w)^{(1−s)/2}. From w = ∞, where F = √w, to 0:

        std = v_c^{s/2} v_u^{(1−s)/2},   mean = std · ½∫_0^∞ [s m_c/(v_c + w) + (1 − s) m_u/(v_u + w)] / F(w) dw.

    The tilted law p_c^s p_u^{1−s} has precision s/v_c + (1 − s)/v_u instead (`core.gaussians.geometric_mixture`).

    Args:
        scale: s.
    """
    s = scale
    log_f = lambda w: s / 2 * torch.log(variance + w) + (1 - s) / 2 * torch.log(free_variance + w)  # noqa: E731
    u = torch.linspace(-40, 40, 80_001, dtype=torch.float64)  # w = e^u, trapezoids: exponentially exact on the line
    w = u.exp()
    pull = s * mean / (variance + w) + (1 - s) * free_mean / (free_variance + w)
    integral = torch.trapezoid(pull * torch.exp(u - log_f(w)), u).item() / 2
    std = math.exp(log_f(torch.zeros((), dtype=torch.float64)).item())
    return std * integral, std
