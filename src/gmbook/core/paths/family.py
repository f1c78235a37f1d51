"""The paths of the papers: straight, variance preserving (linear, cosine, by table), sub-VP, variance exploding."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from gmbook.core.paths.base import Bridge, GaussianPath, gaussian_bridge


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
        return gaussian_bridge(_from_integrated_beta(late), _from_integrated_beta(early), forward)

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
        """Where t lies in its cell, u in [0, 1], and the coefficients of that cell.

        The cell is looked up as a word is: `cubics[cell]` with one cell () would wait for the device to tell it.
        """
        position = t.double() * self.steps
        cell = position.detach().long().clamp(0, self.steps - 1)
        return position - cell, F.embedding(cell, self.cubics).unbind(-1)

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
