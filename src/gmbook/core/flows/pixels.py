"""Images of integers: dequantisation, the logit in front of a flow, and bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gmbook.core.checks import Watch, check_range
from gmbook.core.flows.base import Bijection


class Logit(Bijection):
    """y = logit(α + (1 − 2α)x) for x in [0, 1]: unbounded support for bounded pixels (realnvp-logit).

    log|dy/dx| = log(1 − 2α) + softplus(y) + softplus(−y), summed. arXiv:1605.08803, Section 4.1, prints α +
    (1 − α)x, which reaches 1 at white; the authors' code uses the symmetric form, as here. With a standard logistic
    base nothing depends on x: log₂ levels − log₂(1 − 2α) bits/dim for every image (realnvp-logistic-bits).

    Args:
        alpha: α in (0, ½), 0.05 in RealNVP. State it: each α gives a valid code length, but models measured at
            different α cannot be compared.

    Raises:
        ValueError: alpha lies outside (0, ½); or, when called, x lies where α + (1 − 2α)x leaves [0, 1]. (Between
            that and [0, 1] it is what `inverse` returns, for some z.)
    """

    def __init__(self, alpha: float = 0.05):
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha must lie in (0, 1/2), got {alpha}")
        self.alpha, self.watch = alpha, Watch()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.watch(x):
            beyond = self.alpha / (1 - 2 * self.alpha)
            check_range(x, 0.0, 1.0, "dequantise integers first, or build the flow with levels", beyond + 1e-6)
        y = torch.logit(self.alpha + (1 - 2 * self.alpha) * x)
        log_slope = math.log1p(-2 * self.alpha) + F.softplus(y) + F.softplus(-y)
        return y, log_slope.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        return (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)


class Shift(Bijection):
    """z = x − c with a constant c: Glow centres pixels with c = ½."""

    def __init__(self, constant: float):
        super().__init__()
        self.constant = constant

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x - self.constant, x.new_zeros(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z + self.constant


def dequantise(k: Tensor, levels: int = 256, look: Callable[[Tensor], bool] = lambda k: not k.is_meta) -> Tensor:
    """(k + u)/levels with u ~ U[0, 1): integers (B, *S) in 0..levels − 1 -> floats in [0, 1), default dtype.

    By Jensen E_u log p(k + u) ≤ log ∫ p(k + u) du = log P(k): the dequantised density bounds the likelihood
    of the integers from below, and the gap is KL(U[0, 1) ‖ p(u | k)) (realnvp-dequantisation).

    Args:
        look: whether to look at the values now, such as a `Watch`; always, by default.

    Raises:
        TypeError: k is not of an integer type.
        ValueError: some k lies outside 0..levels − 1.
    """
    if k.is_floating_point():
        raise TypeError(f"dequantisation needs integers in 0..{levels - 1}, got {k.dtype}: pass the raw pixels")
    if k.numel() and look(k):
        low, high = int(k.min()), int(k.max())  # in Python's integers: 256 overflows uint8
        if low < 0 or high >= levels:
            raise ValueError(f"pixels must lie in 0..{levels - 1}, got values from {low} to {high}")
    u = torch.rand(k.shape, device=k.device)
    return ((k + u) / levels).clamp(max=1 - torch.finfo(u.dtype).eps / 2)  # k + u may round up to k + 1


def bits_per_dim(nats: Tensor, dims: int, offset: float = 0.0) -> Tensor:
    """nats/(D log 2) + offset: nats per event -> bits per dimension, like `nats` (def-realnvp-bits, fm-bits).

    The offset restores the scale of the data, log₂ of how many cells a unit of the model's scale holds: 0 for a
    discretised decoder or raw integers, 8 for integers divided by 256, 7 for integers scaled to [−1, 1].
    """
    return nats / (dims * math.log(2)) + offset
