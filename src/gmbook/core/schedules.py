"""Noise schedules of token chains: the probability ᾱ(t) that a token has not jumped yet, and its rate.

Time runs from data (t = 0) to noise (t = 1). A schedule writes ᾱ, 1 − ᾱ (apart, since the difference cancels near
t = 0) and ᾱ'; all else follows. SEDD's σ̄(t) is −log ᾱ(t), its σ(t) the rate of that; MDLM's α_t is ᾱ(t); D3PM's β_i
is 1 − ᾱ(i/T)/ᾱ((i − 1)/T). Here ᾱ is a probability, in no need of a square root, unlike `core.paths`' α.

Give times in float64: 1 − t in float32 is off by 6e-8, which 1/t and 1/(1 − t) blow up at the ends.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Schedule(nn.Module, ABC):
    """ᾱ(t), decreasing on [0, 1]: the probability that a token has not jumped by time t."""

    @abstractmethod
    def alpha_bar(self, t: Tensor) -> Tensor:
        """ᾱ(t): () or (B,) -> same."""

    @abstractmethod
    def moved(self, t: Tensor) -> Tensor:
        """1 − ᾱ(t) without cancellation: () or (B,) -> same."""

    @abstractmethod
    def alpha_bar_rate(self, t: Tensor) -> Tensor:
        """dᾱ/dt, negative: () or (B,) -> same."""

    def total_noise(self, t: Tensor) -> Tensor:
        """σ̄(t) = −log ᾱ(t), the expected number of jumps by time t (def-sedd-total-noise): like t."""
        alpha_bar, moved = self.alpha_bar(t), self.moved(t)
        return torch.where(alpha_bar > 0.5, -torch.log1p(-moved.clamp(max=0.9)), -alpha_bar.log())

    def noise_rate(self, t: Tensor) -> Tensor:
        """σ(t) = dσ̄/dt = −ᾱ'/ᾱ, the rate of the continuous-time chain (def-sedd-total-noise): like t."""
        return -self.alpha_bar_rate(t) / self.alpha_bar(t)

    def reveal_rate(self, t: Tensor) -> Tensor:
        """−ᾱ'/(1 − ᾱ) = σ/(e^σ̄ − 1): the rate at which a masked token is revealed in reverse time, like t.

        It is MDLM's weight (arXiv:2406.07524, Section 3.4); 1/t for every linear ᾱ.
        """
        return -self.alpha_bar_rate(t) / self.moved(t)

    def time(self, moved: Tensor) -> Tensor:
        """The t with 1 − ᾱ(t) = moved, by bisection to 2⁻⁵³: like moved, float64, clipped to [0, 1]."""
        low = torch.zeros_like(moved, dtype=torch.float64)
        high = torch.ones_like(low)
        for _ in range(53):
            middle = (low + high) / 2
            below = self.moved(middle) < moved
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high


class LinearSchedule(Schedule):
    """ᾱ = 1 − (1 − end) t. With end = 0 it is MDLM's linear schedule and, at t = i/T, D3PM's mutual-information
    schedule β_i = 1/(T − i + 1) (d3pm-mutual-information); with end = 1e-3 it is SEDD's log-linear noise
    σ̄ = −log(1 − (1 − 10⁻³)t).

    Raises:
        ValueError: end lies outside [0, 1).
    """

    def __init__(self, end: float = 0.0):
        super().__init__()
        if not 0 <= end < 1:
            raise ValueError(f"end, the probability of having kept the token at t = 1, must lie in [0, 1), got {end}")
        self.end = end

    def alpha_bar(self, t: Tensor) -> Tensor:
        return (1 - t) + self.end * t  # in this order exact at both ends

    def moved(self, t: Tensor) -> Tensor:
        return (1 - self.end) * t

    def alpha_bar_rate(self, t: Tensor) -> Tensor:
        return (self.end - 1) * torch.ones_like(t)


class CosineSchedule(Schedule):
    """ᾱ = cos θ(t)/cos θ(0), θ = (t + s)/(1 + s) · π/2. s = 0.008: Hoogeboom et al. 2021 and D3PM; s = 0: MDLM."""

    def __init__(self, s: float = 0.008):
        super().__init__()
        self.s = s
        self.start = s / (1 + s) * math.pi / 2

    def alpha_bar(self, t: Tensor) -> Tensor:
        return torch.sin((1 - t) / (1 + self.s) * math.pi / 2) / math.cos(self.start)  # cos θ = sin(π/2 − θ)

    def moved(self, t: Tensor) -> Tensor:
        half = t / (1 + self.s) * math.pi / 4  # cos a − cos b = 2 sin((a + b)/2) sin((b − a)/2)
        return 2 * torch.sin(self.start + half) * torch.sin(half) / math.cos(self.start)

    def alpha_bar_rate(self, t: Tensor) -> Tensor:
        rate = math.pi / 2 / (1 + self.s)
        return -rate * torch.sin(self.start + rate * t) / math.cos(self.start)


class GeometricSchedule(Schedule):
    """σ̄ = σ_min^{1−t} σ_max^t, SEDD's noise for the uniform chain, 1e-4 to 20. Note ᾱ(0) = e^{−σ_min} < 1.

    Raises:
        ValueError: not 0 < σ_min < σ_max.
    """

    def __init__(self, noise_min: float = 1e-4, noise_max: float = 20.0):
        super().__init__()
        if not 0 < noise_min < noise_max:
            raise ValueError(f"need 0 < noise_min < noise_max, got {noise_min} and {noise_max}")
        self.noise_min, self.log_ratio = noise_min, math.log(noise_max / noise_min)

    def total_noise(self, t: Tensor) -> Tensor:
        return self.noise_min * torch.exp(self.log_ratio * t)

    def noise_rate(self, t: Tensor) -> Tensor:
        return self.log_ratio * self.total_noise(t)

    def alpha_bar(self, t: Tensor) -> Tensor:
        return torch.exp(-self.total_noise(t))

    def moved(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.total_noise(t))

    def alpha_bar_rate(self, t: Tensor) -> Tensor:
        return -self.noise_rate(t) * self.alpha_bar(t)


class TableSchedule(Schedule):
    """A table β_1..β_T of jump probabilities: ᾱ_i = ∏_{j≤i}(1 − β_j) at t = i/T, ᾱ linear in between.

    Raises:
        ValueError: betas is no vector, or some β lies outside (0, 1].
    """

    moves: Tensor  # (T + 1,), 1 − ᾱ at i/T, float64
    alpha_bars: Tensor  # (T + 1,), ᾱ at i/T, float64

    def __init__(self, betas: Tensor):
        super().__init__()
        if betas.ndim != 1 or not bool(((betas > 0) & (betas <= 1)).all()):
            raise ValueError("betas must be a vector (T,) with entries in (0, 1]")
        log_alpha_bars = torch.cat([betas.new_zeros(1).double(), torch.log1p(-betas.double()).cumsum(0)])
        self.register_buffer("alpha_bars", log_alpha_bars.exp(), persistent=False)
        self.register_buffer("moves", -torch.expm1(log_alpha_bars), persistent=False)

    def _cell(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The entry before t, and where t lies between it and the next.

        Entries are read by `take`: a table indexed by one number () would wait for the device to tell it.
        """
        position = t.double() * (len(self.alpha_bars) - 1)
        left = (position - 1e-4).ceil().long().clamp(1, len(self.alpha_bars) - 1) - 1  # t = i/T belongs to β_i
        return left, position - left

    def alpha_bar(self, t: Tensor) -> Tensor:
        left, weight = self._cell(t)
        return torch.lerp(self.alpha_bars.take(left), self.alpha_bars.take(left + 1), weight).to(t.dtype)

    def moved(self, t: Tensor) -> Tensor:
        left, weight = self._cell(t)
        return torch.lerp(self.moves.take(left), self.moves.take(left + 1), weight).to(t.dtype)

    def alpha_bar_rate(self, t: Tensor) -> Tensor:
        left, _ = self._cell(t)
        return ((self.moves.take(left) - self.moves.take(left + 1)) * (len(self.alpha_bars) - 1)).to(t.dtype)


def mutual_information_betas(steps: int) -> Tensor:
    """β_i = 1/(T − i + 1), i = 1..T, for which ᾱ_i = 1 − i/T (d3pm-mutual-information): (T,), float64.

    arXiv:2107.03006, Section 3.2 and Appendix A.7. `LinearSchedule` is its continuous-time form.
    """
    return 1 / torch.arange(steps, 0, -1, dtype=torch.float64)
