"""The best reverse variance, and the posterior variance that a network's Jacobian claims."""

from __future__ import annotations

from torch import Tensor

from gmbook.core.divergence import jacobian_diagonal
from gmbook.core.paths import broadcast
from gmbook.papers.ddpm import DDPM


def optimal_variance(model: DDPM, variance_x0: Tensor, i: Tensor) -> Tensor:
    """The *variance* of p_θ(x_{i−1} | x_i) that minimises the bound when the mean is exact (improved-optimal-variance).

    β̃_i + (√ᾱ_{i−1}β_i/(1 − ᾱ_i))² Var(x_0 | x_i), by the law of total variance. It is β̃_i for a single point and β_i
    for x_0 ~ N(0, I).

    Args:
        variance_x0: Var(x_0 | x_i), per coordinate, (B, *S).
        i: int64, () or (B,).
    """
    gain = broadcast(model.weight_x0[i] ** 2, variance_x0)
    return broadcast(model.beta_tilde[i], variance_x0) + gain * variance_x0


def posterior_variance(model: DDPM, xt: Tensor, i: Tensor) -> Tensor:
    """Var(x_0 | x_i) per coordinate, (B, *S): (σ²/α) ∂x̂_0/∂x_i, Tweedie's formula for the second moment
    (improved-tweedie).

    Exact for the ideal network; for a learned one, what its Jacobian claims. D backward passes.
    """
    t = i.double() / model.steps
    _, slope = jacobian_diagonal(lambda x: model.predict("x0", x, t), xt)
    return broadcast(model.path.sigma(t) ** 2 / model.path.alpha(t), xt) * slope.detach()
