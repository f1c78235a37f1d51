"""What the book asks of a law of data or noise: draws; its density too; the law of its blurs as well."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Source(Protocol):
    """What can be drawn from."""

    def sample(self, n: int) -> Tensor:
        """n draws: (n, *S)."""
        ...


class Density(Source, Protocol):
    """A law whose density is known."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), nats: (B, *S) -> (B,)."""
        ...


class Law(Density, Protocol):
    """A law that is known in closed form, together with all its Gaussian blurs."""

    shape: tuple[int, ...]

    def score(self, x: Tensor) -> Tensor:
        """∇ log p(x): (B, *S) -> (B, *S)."""
        ...

    def diffused(self, alpha: Tensor, sigma: Tensor) -> Law:
        """The law of αx + σε, for scalars α and σ: (), ()."""
        ...

    def posterior_mean(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x | αx + σε = x_t], for α and σ () or (B,): (B, *S) -> (B, *S)."""
        ...
