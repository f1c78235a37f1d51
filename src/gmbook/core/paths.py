"""Gaussian paths x_t = α_t x_0 + σ_t ε, and the conversion between everything a network may predict.

Time runs from data (t = 0) to noise (t = 1). α_t and σ_t are *standard deviations* of signal and noise: DDPM's ᾱ_t
is α_t². A path writes α, σ and their rates; all else follows from these four.

Times may be float64 whatever the data's dtype: coefficients are computed in t's dtype and cast when they meet x.
"""

from __future__ import annotations

import math
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

    def coefficients(self, quantity: Quantity, t: Tensor) -> tuple[Tensor, Tensor]:
        """The (a, b) for which quantity = a x_0 + b ε, each like t.

        "x0": (1, 0), "eps": (0, 1), "v" of progressive distillation: (−σ, α), "velocity" dx/dt: (α', σ'),
        "score" of the conditional law: (0, −1/σ). Where α² + σ² = 1, velocity = (σ'/α) v (fm-angle).
        """
        return self._coefficients(quantity, t, *self.alpha_sigma(t))

    def _coefficients(self, quantity: Quantity, t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """`coefficients`, for α and σ that are computed already."""
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        match quantity:
            case "x0":
                return one, zero
            case "eps":
                return zero, one
            case "v":
                return -sigma, alpha
            case "score":
                return zero, -1 / sigma
            case "velocity":
                return self.rates(t)
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
        a, b = self._coefficients(source, t, alpha, sigma)
        determinant = alpha * b - sigma * a
        found = []
        for to in wanted:
            c, d = self._coefficients(to, t, alpha, sigma)
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
        return _bridge(late, early, forward)

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


def _bridge(late: tuple[Tensor, Tensor], early: tuple[Tensor, Tensor], forward: Tensor) -> Bridge:
    """The bridge between two moments (α, σ), given the variance of q(x_t | x_s)."""
    (alpha_t, sigma_t), (alpha, sigma) = late, early
    forward = forward.clamp(min=0)  # for s > t, where deterministic samplers walk back to noise, there is no such law
    share, std = sigma / sigma_t, forward.sqrt()
    return Bridge(alpha, sigma, alpha * forward / sigma_t**2, alpha_t / alpha * share**2, share * std, std)


def _from_integrated_beta(b: Tensor) -> tuple[Tensor, Tensor]:
    """(α, σ) = (e^{−B/2}, √(1 − e^{−B}))."""
    return torch.exp(-b / 2), torch.sqrt(-torch.expm1(-b))


class LinearPath(GaussianPath):
    """α = 1 − t, σ = σ_min + (1 − σ_min)t: flow matching's optimal-transport path, arXiv:2210.02747, Eq. 20, in this
    book's time. With σ_min = 0 it is rectified flow's.

    Args:
        sigma_min: the noise that is left at t = 0, where the law is the data's blurred by σ_min.

    Raises:
        ValueError: sigma_min lies outside [0, 1).
    """

    t_max = 0.999  # g² = 2t/(1 − t) is infinite at 1

    def __init__(self, sigma_min: float = 0.0):
        super().__init__()
        if not 0 <= sigma_min < 1:
            raise ValueError(f"sigma_min is the noise left at the data, in [0, 1), got {sigma_min}")
        self.sigma_min = sigma_min

    @property
    def flow_ends(self) -> tuple[float, float]:
        return 0.0, 1.0  # the velocity is (1 − σ_min)ε − x_0, at every t

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min + (1 - self.sigma_min) * t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return -one, (1 - self.sigma_min) * one


class VariancePreservingPath(GaussianPath, ABC):
    """α² + σ² = 1, written by B(t) = −log α² and its rate β(t) = B'(t): dx = −½β x dt + √β dw."""

    @abstractmethod
    def integrated_beta(self, t: Tensor) -> Tensor:
        """B(t) = ∫_0^t β, like t."""

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """β(t) = B'(t), like t."""

    def alpha(self, t: Tensor) -> Tensor:
        return self.alpha_sigma(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return self.alpha_sigma(t)[1]

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return _from_integrated_beta(self.integrated_beta(t))

    def bridge(self, t: Tensor, s: Tensor) -> Bridge:
        late, early = self.integrated_beta(t), self.integrated_beta(s)
        forward = -torch.expm1(early - late)  # 1 − ᾱ_t/ᾱ_s, without the rounding of a difference of two squares
        return _bridge(_from_integrated_beta(late), _from_integrated_beta(early), forward)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (alpha, sigma), beta = self.alpha_sigma(t), self.beta(t)
        return -beta * alpha / 2, beta * alpha**2 / (2 * sigma)

    def noise_rate(self, t: Tensor) -> Tensor:
        return self.beta(t)


class VPPath(VariancePreservingPath):
    """Score SDE's VP: β(t) = β_min + t(β_max − β_min). arXiv:2011.13456, Eq. 32.

    Args:
        t_min: where time starts. The paper trains and measures likelihoods from 1e-5, and samples down to 1e-3.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3):
        super().__init__()
        self.beta_min, self.beta_max, self.t_min = beta_min, beta_max, t_min

    def integrated_beta(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t


class CosinePath(VariancePreservingPath):
    """α_t = cos((t + s)/(1 + s) · π/2) / cos(s/(1 + s) · π/2). arXiv:2102.09672, in continuous time.

    β(t) has a pole at t = 1; the paper clips its β_t at 0.999, which is `TablePath` with that table.
    """

    t_max = 0.999

    def __init__(self, s: float = 0.008):
        super().__init__()
        self.s = s

    def _angle(self, t: Tensor) -> Tensor:
        return (t + self.s) / (1 + self.s) * math.pi / 2

    def integrated_beta(self, t: Tensor) -> Tensor:
        ratio = torch.cos(self._angle(t)).clamp(min=1e-12) / torch.cos(self._angle(torch.zeros_like(t)))
        return (-2 * ratio.log()).clamp(min=0)  # rounding must not make it negative at t = 0

    def beta(self, t: Tensor) -> Tensor:
        return torch.tan(self._angle(t)) * math.pi / (1 + self.s)


class SubVPPath(GaussianPath):
    """Score SDE's sub-VP: α as VP, σ = 1 − e^{−B}. arXiv:2011.13456, Eq. 29. `t_min` as for `VPPath`."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3):
        super().__init__()
        self.vp, self.t_min = VPPath(beta_min, beta_max, t_min), t_min

    def alpha(self, t: Tensor) -> Tensor:
        return self.vp.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.vp.integrated_beta(t))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        beta, alpha = self.vp.beta(t), self.alpha(t)
        return -beta * alpha / 2, beta * alpha**2


class VEPath(GaussianPath):
    """α = 1, σ = σ_min (σ_max/σ_min)^t: NCSN's geometric levels in continuous time. arXiv:2011.13456, Eq. 30."""

    t_min = 0.0  # σ(0) = σ_min > 0

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        super().__init__()
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.log_ratio = sigma_min, math.log(sigma_max / sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self.log_ratio * t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), self.log_ratio * self.sigma(t)


class TablePath(VariancePreservingPath):
    """A table β_1..β_T: exact at t = i/T, where α² = ᾱ_i = ∏_{j≤i}(1 − β_j), and ᾱ_0 = 1.

    Between the entries B = −log ᾱ is a monotone cubic whose slope at a node is the harmonic mean of its neighbours'
    (Fritsch & Butland 1984), so that β(t) is continuous and adaptive solvers see a smooth field.

    Raises:
        ValueError: some β lies outside (0, 1).
    """

    cubics: Tensor  # (T, 4), float64: B in cell k is Σ_j cubics[k, j] u^j, u in [0, 1]

    def __init__(self, betas: Tensor):
        super().__init__()
        if betas.ndim != 1 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError("betas must be a vector (T,) with entries in (0, 1)")
        rises = -torch.log1p(-betas.double())  # of B, in each cell
        inner = 2 / (1 / rises[:-1] + 1 / rises[1:])
        slopes = torch.cat([rises[:1], inner, rises[-1:]])  # dB/di at the nodes
        left, right = slopes[:-1], slopes[1:]
        starts, bends, twists = rises.cumsum(0) - rises, 3 * rises - 2 * left - right, left + right - 2 * rises
        self.register_buffer("cubics", torch.stack([starts, left, bends, twists], 1), persistent=False)
        self.t_min = 1 / len(betas)

    @property
    def steps(self) -> int:
        """T, the number of entries of the table."""
        return len(self.cubics)

    def _cell(self, t: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Where t lies in its cell, u in [0, 1], and the coefficients of that cell."""
        position = t.double() * self.steps
        cell = position.detach().long().clamp(0, self.steps - 1)
        return position - cell, self.cubics[cell].unbind(-1)

    def integrated_beta(self, t: Tensor) -> Tensor:
        u, (start, slope, bend, twist) = self._cell(t)
        return (start + u * (slope + u * (bend + u * twist))).to(t.dtype)

    def beta(self, t: Tensor) -> Tensor:
        u, (_, slope, bend, twist) = self._cell(t)
        return (self.steps * (slope + u * (2 * bend + 3 * u * twist))).to(t.dtype)

    def times(self, steps: int, power: float = 1.0) -> Tensor:
        """As `GaussianPath.times`, rounded to the table's grid i/T, where the network was trained."""
        return (super().times(steps, power) * self.steps).round() / self.steps

    def karras_times(self, steps: int, rho: float = 7.0) -> Tensor:
        """As `GaussianPath.karras_times`, rounded to the table's grid i/T, where the network was trained."""
        return (super().karras_times(steps, rho) * self.steps).round() / self.steps
