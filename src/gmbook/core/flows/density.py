"""The law that a bijection makes of noise: its density, its samples, and how steep it must be."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.core.checks import check_count
from gmbook.core.flows.base import Bijection
from gmbook.core.flows.pixels import bits_per_dim, dequantise
from gmbook.core.gaussians import log_normal
from gmbook.core.law import Density
from gmbook.core.model import Model, sampling


class _Standard(nn.Module):
    zero: Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("zero", torch.zeros(shape), persistent=False)  # knows shape, device and dtype


class StandardNormal(_Standard):
    """N(0, I) in the event shape."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z; 0, I), nats: (B, *S) -> (B,)."""
        return log_normal(z, 0.0, 1.0)

    def sample(self, n: int) -> Tensor:
        """n draws: (n, *S)."""
        return torch.randn(n, *self.zero.shape, device=self.zero.device, dtype=self.zero.dtype)


class StandardLogistic(_Standard):
    """Independent logistic coordinates, NICE's prior: log p(z) = −Σ softplus(z) + softplus(−z) (nice-logistic)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), nats: (B, *S) -> (B,)."""
        return -(F.softplus(z) + F.softplus(-z)).flatten(1).sum(1)

    def sample(self, n: int) -> Tensor:
        """n draws: (n, *S)."""
        u = torch.rand(n, *self.zero.shape, device=self.zero.device, dtype=self.zero.dtype)
        return torch.logit(u, eps=torch.finfo(u.dtype).tiny)


class Flow(Model):
    """log p(x) = log p(f(x)) + log|det df/dx|, and x = f⁻¹(z) with z from the base (change-of-variables).

    Args:
        bijection: f, from data to noise.
        shape: the event shape S.
        base: the law of z; None means N(0, I).
        levels: for images of integers 0..levels − 1: `loss` and `bits_per_dim` then take the integers and
            dequantise them, and f takes [0, 1). None: `loss` takes real numbers.
    """

    bijection: Bijection

    def __init__(
        self, bijection: Bijection, shape: tuple[int, ...], base: Density | None = None, levels: int | None = None
    ):
        super().__init__()
        self.bijection, self.shape, self.levels = bijection, tuple(shape), levels
        self.base = StandardNormal(self.shape) if base is None else base

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x), nats: (B, *S) -> (B,); for images x lies in [0, 1) and this is a density there. Labels play no
        part, here and below, unless a subclass says so."""
        self.check(x)
        z, log_det = self.bijection(x)
        return self.base.log_prob(z) + log_det

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−E log p(x): (B, *S) -> (), nats, at least the entropy of the data, by KL(data ‖ model) (realnvp-floor).

        Images are integers, and are dequantised.
        """
        return -self.log_prob(x if self.levels is None else self.prepare(x), y).mean()

    def prepare(self, k: Tensor) -> Tensor:
        """Integers (B, *S) to [0, 1), with fresh noise."""
        return dequantise(k, self.levels or 256, look=self.watch).to(self.dtype)

    def bits_per_dim(self, k: Tensor, y: Tensor | None = None) -> Tensor:
        """An upper bound of the negative log-likelihood of integers (B, *S), in bits per coordinate, (B,).

        `bits_per_dim(−log p(x), D, offset=log₂ levels)` with x = (k + u)/levels, one draw of u: log p holds every
        preprocessing Jacobian, and the offset is the size of a cell.

        Raises:
            ValueError: the flow was not made for integers.
        """
        if self.levels is None:
            raise ValueError("bits/dim is defined for integers: build the flow with levels=256")
        nats = -self.log_prob(self.prepare(k), y)
        return bits_per_dim(nats, math.prod(self.shape), offset=math.log2(self.levels))

    @sampling
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """n samples x = f⁻¹(z), (n, *S), real numbers (images: near [0, 1))."""
        check_count("n", n)
        return self.bijection.inverse(self.base.sample(n))


def least_stretch(gap: float, left: Tensor, right: Tensor) -> Tensor:
    """The least Lipschitz constant of a map that takes N(0, I) to given masses on two sets, elementwise.

    If x = g(z) lies in A with probability `left` and in B with probability `right`, and A and B are `gap` apart, then
    Lip(g) ≥ gap/(−Φ⁻¹(left) − Φ⁻¹(right)) (realnvp-stretch): the preimages are at least gap/Lip(g) apart, and the
    Gaussian isoperimetric inequality (Sudakov & Tsirelson 1974, Borell 1975) says how much mass lies between them. So
    no flow of bounded slope empties the space between two modes.

    Raises:
        ValueError: the masses are not positive, or leave nothing between the sets.
    """
    if bool((left <= 0).any()) or bool((right <= 0).any()) or bool((left + right >= 1).any()):
        raise ValueError(
            "both masses must be positive and their sum below 1: with nothing between them no slope will do"
        )
    return gap / -(torch.special.ndtri(left) + torch.special.ndtri(right))
