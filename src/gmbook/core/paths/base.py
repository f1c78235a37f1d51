"""Gaussian paths x_t = α_t x_0 + σ_t ε, and the conversion between everything a network may predict.

Time runs from data (t = 0) to noise (t = 1). α_t and σ_t are *standard deviations* of signal and noise: DDPM's ᾱ_t
is α_t². A path writes α, σ and their rates; all else follows from these four.

Times may be float64 whatever the data's dtype: coefficients are computed in t's dtype and cast when they meet x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from gmbook.core.checks import as_time, check_count, readable

Quantity = Literal["x0", "eps", "v", "score", "velocity"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)


def broadcast(t: Tensor, x: Tensor) -> Tensor:
    """Append axes to t, () or (B,), and cast it, until it multiplies x, (B, *S)."""
    return t.to(x.dtype).reshape(t.shape + (1,) * (x.ndim - t.ndim))


class Bridge(NamedTuple):
    """The Gaussian laws that tie x_s, x_t and x_0 together for s < t, each entry like t; see `GaussianPath.bridge`."""

    alpha: Tensor  # α_s
    sigma: Tensor  # σ_s
    weight_x0: Tensor  # of the mean of q(x_s | x_t, x_0)
    weight_xt: Tensor
    std: Tensor  # of q(x_s | x_t, x_0)
    forward_std: Tensor  # of q(x_t | x_s)


class GaussianPath(nn.Module, ABC):
    """A Gaussian path x_t = α_t x_0 + σ_t ε, with ε ~ N(0, I).

    Attributes:
        t_min, t_max: the interval on which samplers run. At the ends some readings are 0/0 (the score at σ = 0,
            ε's x_0 at α = 0), so sampling starts at t_max, where x ~ N(0, σ(t_max)² I) to good accuracy, and ends
            with the x_0 reading at t_min.
    """

    t_min: float = 1e-3
    t_max: float = 1.0
    here: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("here", torch.empty(0), persistent=False)  # moves with the model, and so knows where it is

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """α_t, the standard deviation of the signal's factor: () or (B,) -> same."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """σ_t, the standard deviation of the noise: () or (B,) -> same."""

    @abstractmethod
    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(dα/dt, dσ/dt), each like t."""

    def noise_rate(self, t: Tensor) -> Tensor:
        """g(t)² of the SDE dx = f x dt + g dw with these marginals: dσ²/dt − 2fσ², f = α'/α (def-path-sde)."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        d_alpha, d_sigma = self.rates(t)
        return 2 * sigma * (d_sigma - d_alpha / alpha * sigma)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(α_t²/σ_t²), like t."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def coefficients(
        self, quantity: Quantity, t: Tensor, alpha_sigma: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The (a, b) for which quantity = a x_0 + b ε, each like t.

        "x0": (1, 0), "eps": (0, 1), "v" of progressive distillation: (−σ, α), "velocity" dx/dt: (α', σ'),
        "score" of the conditional law: (0, −1/σ). Where α² + σ² = 1, velocity = (σ'/α) v (fm-angle).

        Args:
            alpha_sigma: those of t, where they are computed already; else they are when they are needed.
        """
        match quantity:
            case "x0":
                return torch.ones_like(t), torch.zeros_like(t)
            case "eps":
                return torch.zeros_like(t), torch.ones_like(t)
            case "velocity":
                return self.rates(t)
        alpha, sigma = self.alpha_sigma(t) if alpha_sigma is None else alpha_sigma
        match quantity:
            case "v":
                return -sigma, alpha
            case "score":
                return torch.zeros_like(t), -1 / sigma
        raise ValueError(f"unknown quantity {quantity!r}: one of {', '.join(QUANTITIES)}")

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α_t, σ_t), each like t. A path that gets them from one number computes it once."""
        return self.alpha(t), self.sigma(t)

    def interpolate(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = α_t x_0 + σ_t ε: (B, *S), for t () or (B,), or what `as_time` takes for it."""
        t = as_time(t, x0)
        alpha, sigma = self.alpha_sigma(t)
        return broadcast(alpha, x0) * x0 + broadcast(sigma, x0) * eps

    def target(self, quantity: Quantity, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What a network that predicts `quantity` is trained towards, given the x_0 and ε that made x_t: (B, *S)."""
        t = as_time(t, x0)
        a, b = self.coefficients(quantity, t)
        return broadcast(a, x0) * x0 + broadcast(b, x0) * eps

    def readings(self, source: Quantity, t: Tensor, *wanted: Quantity) -> list[tuple[Tensor, Tensor]]:
        """The (p, q) for which a wanted quantity = p x_t + q `source`, each like t, for every one (path-conversion).

        x_t = αx_0 + σε and source = ax_0 + bε are two equations for (x_0, ε); Cramer's rule solves them, and the
        solution is read in the coefficients (c, d) of what is wanted. Where that is 0/0, at σ = 0 or α = 0, it is the
        limit. α and σ are computed once.

        Raises:
            ValueError: there is no limit, as for the score from x_0 at σ = 0. (On a GPU the result is NaN or infinite.)
        """
        alpha, sigma = self.alpha_sigma(t)
        a, b = self.coefficients(source, t, (alpha, sigma))
        determinant = alpha * b - sigma * a
        found = []
        for to in wanted:
            c, d = self.coefficients(to, t, (alpha, sigma))
            pair = (c * b - d * a) / determinant, (alpha * d - sigma * c) / determinant
            whole = torch.isfinite(pair[0]) & torch.isfinite(pair[1])
            found.append(pair if readable(whole) and bool(whole.all()) else self._completed(source, to, t, pair, whole))
        return found

    def _completed(
        self, source: Quantity, to: Quantity, t: Tensor, pair: tuple[Tensor, Tensor], whole: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A reading with its limits where it is not `whole`."""
        p, q = (torch.where(whole, here, limit) for here, limit in zip(pair, self._limit(source, to, t)))
        if readable(p) and not bool(torch.isfinite(p + q).all()):
            raise ValueError(
                f"at t = {t[~whole].flatten()[0].item():g} nothing follows from {source!r} for {to!r}: it is 0/0 where "
                f"sigma = 0 or alpha = 0; begin and end at the path's t_max and t_min"
            )
        return p, q

    def _limit(self, source: Quantity, to: Quantity, t: Tensor) -> tuple[Tensor, Tensor]:
        """The limit of a reading as σ or α tends to 0, for sources that are conditional expectations; else not finite.

        At the data E[ε | x_t] = −σ · score tends to 0, so that ε has no part in what it enters with a bounded factor.
        """
        (alpha, sigma), (a_to, b_to) = self.alpha_sigma(t), self.coefficients(to, t)
        zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
        if source == "score" and to == "velocity":
            return self.rates(t)[0] / alpha, -self.noise_rate(t) / 2
        if source == "velocity" and to == "score":
            return 2 * self.rates(t)[0] / (alpha * self.noise_rate(t)), -2 / self.noise_rate(t)
        x0, eps = {  # as (p, q) each
            "x0": ((zero, one), (zero, zero)),
            "eps": ((1 / alpha, -sigma / alpha), (zero, one)),
            "score": ((1 / alpha, sigma**2 / alpha), (zero, -sigma)),
            "velocity": ((1 / alpha, zero), (zero, zero)),
            "v": ((alpha, -sigma), (sigma, alpha)),
        }[source]
        parts = [(a_to, x0)] if to == "x0" else [(b_to, eps)] if to in ("eps", "score") else [(a_to, x0), (b_to, eps)]
        return sum(w * r[0] for w, r in parts), sum(w * r[1] for w, r in parts)  # type: ignore[return-value]

    def convert(self, value: Tensor, xt: Tensor, t: Tensor, source: Quantity, to: Quantity) -> Tensor:
        """Read the quantity `source`, whose value at (x_t, t) is given, as the quantity `to`: (B, *S).

        Linear in `value`, hence right for conditional expectations too: E[ε | x_t] becomes E[x_0 | x_t], and so on.
        """
        if source == to:
            return value
        t = as_time(t, xt)
        ((p, q),) = self.readings(source, t, to)
        return broadcast(p, xt) * xt + broadcast(q, xt) * value

    def bridge(self, t: Tensor, s: Tensor) -> Bridge:
        """q(x_t | x_s) and q(x_s | x_t, x_0) for s < t, from (α, σ) at both times (ddpm-posterior, ddim-sigma).

        q(x_t | x_s) = N(r x_s, η² I) with r = α_t/α_s and η² = σ_t² − r²σ_s²; by Bayes' rule q(x_s | x_t, x_0) is
        Gaussian with mean (α_s η²/σ_t²) x_0 + (r σ_s²/σ_t²) x_t and standard deviation η σ_s/σ_t. DDPM's μ̃ and β̃ are
        these at neighbouring steps.
        """
        late, early = self.alpha_sigma(t), self.alpha_sigma(s)
        forward = late[1] ** 2 - (late[0] / early[0] * early[1]) ** 2
        return gaussian_bridge(late, early, forward)

    @property
    def flow_ends(self) -> tuple[float, float]:
        """The interval on which the velocity α'x_0 + σ'ε is bounded, so that it can be learned and run as it is.

        On the variance-preserving paths σ' ~ 1/√t at the data, and they stop at t_min.
        """
        return self.t_min, self.t_max

    def times(self, steps: int, power: float = 1.0) -> Tensor:
        """steps + 1 times from t_max down to t_min, (steps + 1,), float64, on the path's device.

        t_i = t_min + (t_max − t_min) u_i^power with u from 1 to 0: power 1 is uniform, 2 quadratic (finer near data).
        """
        check_count("steps", steps)
        u = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=self.here.device)
        return self.t_min + (self.t_max - self.t_min) * u**power

    def noise_ratio(self, t: Tensor) -> Tensor:
        """σ̄ = σ_t/α_t, which grows with t, like t. On a VE path it is σ_t."""
        alpha, sigma = self.alpha_sigma(t)
        return sigma / alpha

    def time_at(self, ratio: Tensor) -> Tensor:
        """The t at which `noise_ratio` is `ratio`, by bisection, float64, kept in [t_min, t_max]: like ratio."""
        low = torch.full_like(ratio, self.t_min, dtype=torch.float64)
        high = torch.full_like(ratio, self.t_max, dtype=torch.float64)
        ends = low.clone(), high.clone()
        for _ in range(53):
            middle = (low + high) / 2
            below = self.noise_ratio(middle) < ratio
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        middle = (low + high) / 2
        below, above = ratio <= self.noise_ratio(ends[0]), ratio >= self.noise_ratio(ends[1])
        return torch.where(below, ends[0], torch.where(above, ends[1], middle))

    def karras_times(self, steps: int, rho: float = 7.0) -> Tensor:
        """`steps` times from t_max down to t_min at which σ̄^(1/ρ) is evenly spaced: (steps,), float64 (def-edm-grid).

        σ̄_i = (σ̄_max^(1/ρ) + i/(N − 1) (σ̄_min^(1/ρ) − σ̄_max^(1/ρ)))^ρ, i = 0..N − 1. arXiv:2206.00364, Eq. 5, where the
        N-th is 0: samplers go there by the x_0 reading. The larger ρ, the finer near the data; one step is t_max alone.
        """
        check_count("steps", steps)
        ends = torch.tensor([self.t_max, self.t_min], dtype=torch.float64, device=self.here.device)
        most, least = self.noise_ratio(ends) ** (1 / rho)
        u = torch.linspace(0, 1, steps, dtype=torch.float64, device=self.here.device)
        return self.time_at((most + u * (least - most)) ** rho)


def gaussian_bridge(late: tuple[Tensor, Tensor], early: tuple[Tensor, Tensor], forward: Tensor) -> Bridge:
    """The bridge between two moments (α, σ), given the variance of q(x_t | x_s)."""
    (alpha_t, sigma_t), (alpha, sigma) = late, early
    forward = forward.clamp(min=0)  # for s > t, where deterministic samplers walk back to noise, there is no such law
    share, std = sigma / sigma_t, forward.sqrt()
    return Bridge(alpha, sigma, alpha * forward / sigma_t**2, alpha_t / alpha * share**2, share * std, std)
