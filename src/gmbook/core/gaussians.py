"""Gaussians: densities, divergences, the discretised density, and mixtures with all their diffused marginals."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_event


def log_normal(x: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """log N(x; mean, diag std²), summed over the event axes: (B, *S) -> (B,), nats. `std` is a standard deviation."""
    std = torch.as_tensor(std, dtype=x.dtype, device=x.device)
    terms = ((x - mean) / std).square() + 2 * std.log() + math.log(2 * math.pi)
    return -terms.expand_as(x).flatten(1).sum(1) / 2


def kl_normal(mean_q: Tensor, std_q: Tensor, mean_p: Tensor | float = 0.0, std_p: Tensor | float = 1.0) -> Tensor:
    """KL(N(m_q, diag s_q²) ‖ N(m_p, diag s_p²)) per coordinate, elementwise in nats, unsummed (gaussian-kl, vae-kl).

    ½[(s_q² + (m_q − m_p)²)/s_p² − 1 − log(s_q²/s_p²)]; sum it over the event axes.
    """
    std_p = torch.as_tensor(std_p, dtype=std_q.dtype, device=std_q.device)
    ratio = (std_q / std_p).square()
    return (ratio + ((mean_q - mean_p) / std_p).square() - 1 - ratio.log()) / 2


def kl_normal_full(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor) -> Tensor:
    """KL(N(m_q, C_q) ‖ N(m_p, C_p)) for full covariances: means (..., D), covariances (..., D, D) -> (...), nats.

    ½[tr C_p⁻¹C_q + (m_q − m_p)ᵀC_p⁻¹(m_q − m_p) − D − log det C_q + log det C_p] (vae-kl-full).
    """
    lower_p, lower_q = torch.linalg.cholesky(cov_p), torch.linalg.cholesky(cov_q)
    whitened = torch.linalg.solve_triangular(lower_p, lower_q, upper=False)
    shift = torch.linalg.solve_triangular(lower_p, (mean_q - mean_p)[..., None], upper=False)
    log_det = 2 * whitened.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (whitened.square().sum((-2, -1)) + shift.square().sum((-2, -1)) - mean_q.shape[-1] - log_det) / 2


def log_discretised_normal(x: Tensor, mean: Tensor, std: Tensor, levels: int = 256) -> Tensor:
    """log of the mass that N(mean, std²) puts on x's bin, elementwise, nats. arXiv:2006.11239, Eq. 13.

    x lies on the grid −1 + 2k/(levels − 1), k = 0..levels − 1; a bin reaches 1/(levels − 1) to each side, and the
    first and last reach to ∓∞, so that the bins' masses sum to 1. Evaluated as log Φ differences, stable in the tails.
    """
    half = 1 / (levels - 1)
    upper, lower = (x + half - mean) / std, (x - half - mean) / std
    first, last = x < -1 + half, x > 1 - half
    sign = torch.where(lower + upper > 0, -1.0, 1.0).to(x.dtype)  # work in the left tail, by symmetry
    high, low = torch.where(sign > 0, upper, -lower), torch.where(sign > 0, lower, -upper)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    inside = log_high + torch.log(-torch.expm1((log_low - log_high).clamp(max=-1e-12)))
    at_first, at_last = torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower)
    return torch.where(first, at_first, torch.where(last, at_last, inside))


def geometric_mixture(s: float, mean_p: float, var_p: float, mean_q: float, var_q: float) -> tuple[float, float]:
    """Mean and *variance* of p^s q^{1−s}, normalised, for Gaussians p and q on the line (guidance-tilt).

    With p = p_t(x | c) and q = p_t(x) it is the law whose score classifier-free guidance of scale s follows at that t.
    It is not what guided sampling draws: such laws at different t are not blurs of one another.

    Raises:
        ValueError: the product cannot be normalised: s ≥ v_p/(v_p − v_q), where v_p > v_q.
    """
    precision = s / var_p + (1 - s) / var_q
    if precision <= 0:
        raise ValueError(
            f"p^s q^(1-s) has no variance at s = {s}: it needs s < v_p/(v_p - v_q) = {var_p / (var_p - var_q):g}"
        )
    return (s * mean_p / var_p + (1 - s) * mean_q / var_q) / precision, 1 / precision


class GaussianMixture(nn.Module):
    """Σ_k w_k N(m_k, C_k), exactly: density, score, samples, posterior, and its law after any Gaussian blur.

    A mixture stays a mixture when it is scaled and blurred: α x + σ ε has components N(αm_k, α²C_k + σ²I)
    (mixture-diffused). So with a mixture as data the truth is known at every noise level of every path.

    Args:
        weights: (K,), positive; normalised here.
        means: (K, *S).
        variances: the eigenvalues of C_k: (K,) for C_k = v_k I, or (K, D) with D = dim S.
        axes: (K, D, D), columns the eigenvectors of C_k; None means the coordinate axes.

    Raises:
        ValueError: shapes disagree, or a weight or variance is not positive.
    """

    weights: Tensor  # (K,)
    means: Tensor  # (K, D)
    variances: Tensor  # (K, 1) if C_k = v_k I, else (K, D)
    axes: Tensor | None  # (K, D, D)

    def __init__(self, weights: Tensor, means: Tensor, variances: Tensor, axes: Tensor | None = None):
        super().__init__()
        components = len(weights)
        if weights.ndim != 1 or len(means) != components or len(variances) != components:
            raise ValueError(
                f"weights (K,), means (K, *S) and variances (K,) or (K, D) must share K, got "
                f"{tuple(weights.shape)}, {tuple(means.shape)}, {tuple(variances.shape)}"
            )
        if not (bool((weights > 0).all()) and bool((variances > 0).all())):
            raise ValueError("weights and variances must be positive")
        self.shape = tuple(means.shape[1:])
        means, variances = means.flatten(1), variances.reshape(components, -1)
        if variances.shape[1] not in (1, means.shape[1]):
            raise ValueError(f"variances must be (K,) or (K, {means.shape[1]}), got {tuple(variances.shape)}")
        self.register_buffer("weights", weights / weights.sum())
        self.register_buffer("means", means)
        self.register_buffer("variances", variances.contiguous())
        self.register_buffer("axes", axes)

    @classmethod
    def full(cls, weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
        """From full covariances (K, D, D)."""
        variances, axes = torch.linalg.eigh(covariances)
        return cls(weights, means, variances, axes)

    def extra_repr(self) -> str:
        return f"components={len(self.weights)}, shape={self.shape}"

    def _rotate(self, x: Tensor, inverse: bool = False) -> Tensor:
        """(B, D, K) into the components' eigenbases, or back."""
        if self.axes is None:
            return x
        return torch.einsum("bdk,ked->bek" if inverse else "bdk,kde->bek", x, self.axes.to(x.dtype))

    def _components(self, xt: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Residuals (B, D, K) in the eigenbases, their variances (1 or B, 1 or D, K), and log w_k N_k(x_t), (B, K).

        K is the last axis because it is the long one; distances are differences squared, not expanded into a
        matrix product, because narrow components would lose their digits in float32.
        """
        check_event(xt, self.shape)
        alpha, sigma = (torch.as_tensor(c).to(xt).reshape(-1, 1, 1) for c in (alpha, sigma))
        residual = self._rotate(xt.flatten(1)[..., None] - alpha * self.means.to(xt).T.contiguous())
        variance = alpha.square() * self.variances.to(xt).T.contiguous() + sigma.square()
        log_det = variance.log().sum(1) * (residual.shape[1] // variance.shape[1])
        distance = (residual.square() / variance).sum(1)
        constant = self.weights.to(xt).log() - residual.shape[1] * math.log(2 * math.pi) / 2
        return residual, variance, constant - (distance + log_det) / 2

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), nats: (B, *S) -> (B,)."""
        return self._components(x, 1.0, 0.0)[2].logsumexp(1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(component k | x): (B, *S) -> (B, K)."""
        return self._components(x, 1.0, 0.0)[2].softmax(1)

    def score(self, x: Tensor) -> Tensor:
        """∇ log p(x) = −Σ_k p(k | x) C_k⁻¹(x − m_k) (mixture-score): (B, *S) -> (B, *S)."""
        residual, variance, log_joint = self._components(x, 1.0, 0.0)
        pull = self._rotate(-residual / variance, inverse=True)
        return torch.einsum("bk,bdk->bd", log_joint.softmax(1), pull).reshape(x.shape)

    def posterior_mean(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x | αx + σε = x_t] for α, σ () or (B,): (B, *S) -> (B, *S) (mixture-posterior-mean).

        Σ_k p(k | x_t) [m_k + αC_k(α²C_k + σ²I)⁻¹(x_t − αm_k)]: no division by α or σ, so exact at both ends.
        """
        residual, variance, log_joint = self._components(xt, alpha, sigma)
        gain = torch.as_tensor(alpha).to(xt).reshape(-1, 1, 1) * self.variances.to(xt).T.contiguous() / variance
        means = self.means.to(xt).T.contiguous() + self._rotate(gain * residual, inverse=True)
        return torch.einsum("bk,bdk->bd", log_joint.softmax(1), means).reshape(xt.shape)

    def diffused(self, alpha: Tensor, sigma: Tensor) -> GaussianMixture:
        """The law of αx + σε, for scalars: again a mixture (mixture-diffused)."""
        alpha, sigma = (torch.as_tensor(c).to(self.means) for c in (alpha, sigma))
        means = (alpha * self.means).reshape(-1, *self.shape)
        return GaussianMixture(self.weights, means, alpha.square() * self.variances + sigma.square(), self.axes)

    def sample(self, n: int) -> Tensor:
        """n draws: (n, *S)."""
        return self.sample_with_labels(n)[0]

    def sample_with_labels(self, n: int) -> tuple[Tensor, Tensor]:
        """n draws with the components they came from: (n, *S), (n,) int64."""
        k = torch.multinomial(self.weights, n, replacement=True)
        noise = torch.randn(n, self.means.shape[1], device=k.device, dtype=self.means.dtype)
        noise = noise * self.variances[k].sqrt()
        if self.axes is not None:
            noise = torch.einsum("bd,bed->be", noise, self.axes[k])
        return (self.means[k] + noise).reshape(n, *self.shape), k

    def mean(self) -> Tensor:
        """E x: S."""
        return (self.weights @ self.means).reshape(self.shape)

    def covariance(self) -> Tensor:
        """Cov x of the flattened event: (D, D)."""
        centred = self.means - self.weights @ self.means
        if self.axes is None:
            inner = torch.diag((self.weights @ self.variances).expand(self.means.shape[1]))
        else:
            variances = self.variances.expand_as(self.means)
            inner = torch.einsum("k,kde,ke,kfe->df", self.weights, self.axes, variances, self.axes)
        return inner + torch.einsum("k,kd,ke->de", self.weights, centred, centred)
