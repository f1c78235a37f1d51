"""What is known exactly of flow matching: the conditional field, and the floor of the loss on Gaussian data."""

from __future__ import annotations

from torch import Tensor

from gmbook.core.paths import GaussianPath


def conditional_velocity(path: GaussianPath, xt: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """u_t(x | x_0) = σ'/σ (x − αx_0) + α'x_0, Theorem 3 (fm-conditional): (B, *S). On the two paths of the paper
    (fm-ot-field, fm-vp-field).

    It generates N(αx_0, σ²I). Its mean over p(x_0 | x_t) is the marginal field u_t(x) of Theorem 1 (fm-marginal), which
    `Truth(law, path, "velocity")` gives for a known law. At σ = 0
    x says nothing of ε, and ε's mean stands for it, 0.
    """
    return path.convert(x0, xt, t, "x0", "velocity")


def gaussian_floor(std: float, path: GaussianPath, t: Tensor) -> Tensor:
    """C_t = s²(ασ' − σα')²/(α²s² + σ²), like t (fm-gaussian-floor): the least L_CFM per dimension at time t for data
    N(m, s²I).

    On the linear path with σ_min = 0 the numerator is s², and C = ∫_0^1 C_t dt = πs/2.
    """
    alpha, sigma = path.alpha(t), path.sigma(t)
    d_alpha, d_sigma = path.rates(t)
    return std**2 * (alpha * d_sigma - sigma * d_alpha) ** 2 / (alpha**2 * std**2 + sigma**2)
