"""Laws in the plane that are known exactly: density, score, samples, entropy, and every Gaussian blur of them.

The curved ones are finite Gaussian mixtures along a curve, so close-set that the curve is smooth; the checkerboard
is uniform on squares. All have a standard deviation of about 1 per coordinate, and their mass within [-3, 3]².
Parameters are made in torch's default dtype: for laws exact in float64, set it with torch.set_default_dtype first.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from gmbook.core.checks import check_event
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.law import Law


def cell_centres(low: float, high: float, cells: int) -> tuple[Tensor, float]:
    """The centres of a cells × cells partition of [low, high]², (cells, cells, 2), float64, and a cell's area.

    Entry [i, j] is (x_i, y_j): the first index is the first coordinate.
    """
    width = (high - low) / cells
    axis = low + width * (torch.arange(cells, dtype=torch.float64) + 0.5)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1), width**2


def legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss–Legendre rule on [0, 1], (count,) each, float64."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def log_prob_on(law: Law, points: Tensor) -> Tensor:
    """log p at many points (..., 2), in pieces that fit into the processor's cache: (...)."""
    flat = points.reshape(-1, points.shape[-1])
    return torch.cat([law.log_prob(piece) for piece in flat.split(1 << 11)]).reshape(points.shape[:-1])


class PlaneLaw(nn.Module):
    """A law in the plane with a name: everything of the law (core.denoiser.Law), and what a figure needs of it.

    Attributes:
        law: the law itself, an nn.Module, so that it moves and changes its dtype with this one.
        name: what figures call it.
        limits: (low, high) of both axes, for plotting.
        modes: (M, 2), the centres of its modes, or None where the law has none to count.
        mode_std: the standard deviation of a mode about its centre.
    """

    law: Law
    modes: Tensor | None

    def __init__(self, law: Law, name: str, modes: Tensor | None = None, mode_std: float | None = None):
        super().__init__()
        self.law, self.name, self.limits, self.mode_std = law, name, (-3.0, 3.0), mode_std
        self.shape: tuple[int, ...] = (2,)
        self.register_buffer("modes", modes)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), nats: (B, 2) -> (B,)."""
        return self.law.log_prob(x)

    def score(self, x: Tensor) -> Tensor:
        """∇ log p(x): (B, 2) -> (B, 2)."""
        return self.law.score(x)

    def sample(self, n: int) -> Tensor:
        """n draws: (n, 2)."""
        return self.law.sample(n)

    def diffused(self, alpha: Tensor, sigma: Tensor) -> Law:
        """The law of αx + σε, for scalars α and σ."""
        return self.law.diffused(alpha, sigma)

    def posterior_mean(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x | αx + σε = x_t], for α and σ () or (B,): (B, 2) -> (B, 2)."""
        return self.law.posterior_mean(xt, alpha, sigma)

    def entropy(self) -> float:
        """−∫ p log p, nats, by the midpoint rule on [-5.2, 5.2]² in cells of 1/25, computed once.

        Its error is below 1e-5: a cell is a third of the narrowest component's std (where the rule converges faster
        than any power), the mass outside is below 1e-6, and the checkerboard's edges are edges of cells.
        """
        return self._entropy

    @cached_property
    def _entropy(self) -> float:
        points, area = cell_centres(-5.2, 5.2, 260)
        with torch.no_grad():
            return torch.special.entr(log_prob_on(self.law, points).exp()).sum().item() * area


def gaussian() -> PlaneLaw:
    """One Gaussian with correlation 0.8."""
    covariance = torch.tensor([[[1.0, 0.72], [0.72, 0.81]]])
    law = GaussianMixture.full(torch.ones(1), torch.zeros(1, 2), covariance)
    return PlaneLaw(law, "Gaussian")


def two_gaussians() -> PlaneLaw:
    """Two round Gaussians of weights 0.7 and 0.3: what an unequal share does to a model is seen here."""
    centres = torch.tensor([[-0.7, -0.5], [1.65, 1.1]])
    law = GaussianMixture(torch.tensor([0.7, 0.3]), centres, torch.full((2,), 0.35**2))
    return PlaneLaw(law, "two Gaussians", centres, 0.35)


def eight_gaussians() -> PlaneLaw:
    """Eight round Gaussians of equal weight on a circle."""
    angle = torch.arange(8) * (math.pi / 4)
    centres = 1.6 * torch.stack((angle.cos(), angle.sin()), 1)
    law = GaussianMixture(torch.ones(8), centres, torch.full((8,), 0.15**2))
    return PlaneLaw(law, "eight Gaussians", centres, 0.15)


def moons() -> PlaneLaw:
    """Two interleaved half circles."""
    angle = (torch.arange(36, dtype=torch.float64) + 0.5) * (math.pi / 36)
    upper = torch.stack((angle.cos() - 0.5, angle.sin() - 0.25), 1)
    return _along(1.5 * torch.cat((upper, -upper)), 0.12, "moons")


def rings() -> PlaneLaw:
    """Two concentric rings with half of the mass each."""
    inner, outer = _circle(0.8, 36), _circle(2.0, 84)
    weights = torch.cat((torch.full((36,), 1 / 36), torch.full((84,), 1 / 84)))
    return _along(torch.cat((inner, outer)), 0.12, "rings", weights)


def pinwheel() -> PlaneLaw:
    """Five bent arms, densest half way out (after M. J. Johnson et al. 2016, arXiv:1603.06277, Fig. 1)."""
    u = torch.linspace(-2.4, 2.4, 20, dtype=torch.float64)
    radius = 1 + 0.3 * u
    angle = torch.arange(5)[:, None] * (2 * math.pi / 5) + 0.3 * radius.exp()  # (5, 20)
    points = 1.4 * radius[:, None] * torch.stack((angle.cos(), angle.sin()), -1)  # (5, 20, 2)
    return _along(points.reshape(-1, 2), 0.12, "pinwheel", (-u.square() / 2).exp().repeat(5))


def spiral() -> PlaneLaw:
    """One Archimedean arm of one and a half turns, of even density along its length."""
    fraction = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    angle = 3 * math.pi * (0.03 + 0.97 * fraction).sqrt()  # arc length grows like the square of the angle
    points = 2.45 * (angle / (3 * math.pi))[:, None] * torch.stack((angle.cos(), angle.sin()), 1)
    return _along(points, 0.12, "spiral")


def checkerboard() -> PlaneLaw:
    """Uniform on the eight dark squares of a 4×4 board over [-2, 2]²."""
    dark = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0
    return PlaneLaw(Board(torch.arange(-2.0, 3.0), dark.to(torch.get_default_dtype())), "checkerboard")


ALL = (gaussian, two_gaussians, eight_gaussians, moons, rings, pinwheel, spiral, checkerboard)


def _circle(radius: float, count: int) -> Tensor:
    angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    return radius * torch.stack((angle.cos(), angle.sin()), 1)


def _along(points: Tensor, std: float, name: str, weights: Tensor | None = None) -> PlaneLaw:
    """A mixture with equal round components at the points of a curve."""
    dtype = torch.get_default_dtype()
    weights = torch.ones(len(points)) if weights is None else weights
    return PlaneLaw(GaussianMixture(weights.to(dtype), points.to(dtype), torch.full((len(points),), std**2)), name)


class Board(nn.Module):
    """Uniform within each cell of an M×M board: p(x) = w_ij / area_ij for x in cell (i, j).

    The score is 0 inside every cell and is not defined on the edges (0 is returned there too): no score of the
    law itself leads to the dark squares, only those of its blurs do.

    Args:
        edges: (M + 1,), increasing, the edges of the cells on both axes.
        weights: (M, M), the cells' shares, not negative; normalised here. Entry [i, j] is cell i of the first axis.

    Raises:
        ValueError: the shapes disagree, the edges do not increase, or the weights have no mass.
    """

    shape: tuple[int, ...] = (2,)
    edges: Tensor
    weights: Tensor

    def __init__(self, edges: Tensor, weights: Tensor):
        super().__init__()
        if weights.shape != (len(edges) - 1, len(edges) - 1) or not bool((edges.diff() > 0).all()):
            raise ValueError(
                f"expected M + 1 increasing edges and (M, M) weights, got {edges} and {tuple(weights.shape)}"
            )
        if bool((weights < 0).any()) or not bool(weights.sum() > 0):
            raise ValueError("weights must not be negative, and must not all be zero")
        self.register_buffer("edges", edges)
        self.register_buffer("weights", weights / weights.sum())

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), nats, −∞ where the law has no mass: (B, 2) -> (B,)."""
        check_event(x, self.shape)
        edges, size = self.edges.to(x), len(self.weights)
        cell = torch.searchsorted(edges, x.detach().contiguous(), right=True) - 1  # (B, 2)
        inside = ((cell >= 0) & (cell < size)).all(1)
        i, j = cell.clamp(0, size - 1).unbind(1)
        density = self.weights.to(x)[i, j] / (edges.diff()[i] * edges.diff()[j])
        return torch.where(inside, density, 0.0).log() + 0 * x.sum(1)

    def score(self, x: Tensor) -> Tensor:
        """0, inside the cells: (B, 2) -> (B, 2)."""
        check_event(x, self.shape)
        return torch.zeros_like(x)

    def sample(self, n: int) -> Tensor:
        """n draws: (n, 2)."""
        cell = torch.multinomial(self.weights.flatten(), n, replacement=True)
        cell = torch.stack((cell // len(self.weights), cell % len(self.weights)), 1)
        place = torch.rand(n, 2, dtype=self.edges.dtype, device=self.edges.device)
        return self.edges[cell] + self.edges.diff()[cell] * place

    def diffused(self, alpha: Tensor, sigma: Tensor) -> BlurredBoard:
        """The law of αx + σε, for scalars α ≥ 0 and σ > 0."""
        return BlurredBoard(self, alpha, sigma)

    def posterior_mean(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x | αx + σε = x_t] for α ≥ 0, σ ≥ 0, () or (B,): (B, 2) -> (B, 2).

        Within a cell x is a truncated Gaussian; its mean is weighted by the cell's posterior probability.
        At σ = 0 it is x_t/α, drawn to the nearest point of the dark squares where x_t/α lies outside.
        """
        _, share, _, fraction = self.cells(xt, alpha, sigma)
        place = self.edges.to(xt)[:-1] + self.edges.to(xt).diff() * fraction  # (B, 2, M)
        return (share * place).sum(-1)

    def cells(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What x_t = αx + σε tells of the cells: log p(x_t) (B,) and, per axis and interval, (B, 2, M) each:

        the interval's posterior probability; the mean of the noise ε given it; and how far into the interval the
        mean of x lies, in [0, 1].
        """
        check_event(xt, self.shape)
        alpha, sigma = (torch.as_tensor(c).to(xt).reshape(-1, 1, 1) for c in (alpha, sigma))
        sigma = sigma.clamp(min=torch.finfo(xt.dtype).eps)  # σ = 0 as the limit
        edges = self.edges.to(xt)
        # ε = (x_t − αx)/σ runs from `near` down to near − width as x runs through the interval
        near, width = (xt[..., None] - alpha * edges[:-1]) / sigma, alpha * edges.diff() / sigma
        log_density, fraction = truncated_normal(-near, width.expand_as(near))  # of −ε, upwards
        joint = (log_density[:, 0, :, None] + log_density[:, 1, None, :] + self.weights.to(xt).log()).flatten(1)
        share = joint.softmax(1).reshape(-1, *self.weights.shape)  # (B, M, M)
        log_prob = joint.logsumexp(1) - 2 * sigma.log().flatten()
        return log_prob, torch.stack((share.sum(2), share.sum(1)), 1), near - width * fraction, fraction


class BlurredBoard(nn.Module):
    """The law of y = αx + σε for x from a Board: density and score in closed form, by error functions."""

    shape: tuple[int, ...] = (2,)
    alpha: Tensor  # ()
    sigma: Tensor  # ()

    def __init__(self, board: Board, alpha: Tensor, sigma: Tensor):
        super().__init__()
        self.board = board
        self.register_buffer("alpha", torch.as_tensor(alpha).to(board.edges))
        self.register_buffer("sigma", torch.as_tensor(sigma).to(board.edges))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(y), nats: (B, 2) -> (B,)."""
        return self.board.cells(x, self.alpha, self.sigma)[0]

    def score(self, x: Tensor) -> Tensor:
        """∇ log p(y) = −E[ε | y]/σ: (B, 2) -> (B, 2)."""
        _, share, noise, _ = self.board.cells(x, self.alpha, self.sigma)
        return -(share * noise).sum(-1) / self.sigma.to(x)

    def sample(self, n: int) -> Tensor:
        """n draws: (n, 2)."""
        x = self.board.sample(n)
        return self.alpha * x + self.sigma * torch.randn_like(x)

    def diffused(self, alpha: Tensor, sigma: Tensor) -> BlurredBoard:
        """The law of αy + σε': again a blurred board."""
        return BlurredBoard(self.board, alpha * self.alpha, (alpha * self.sigma).hypot(torch.as_tensor(sigma)))

    def posterior_mean(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[y | αy + σε' = x_t], for α and σ () or (B,): (B, 2) -> (B, 2).

        Given x, y is Gaussian, with mean αₓx + gain (x_t − α αₓ x), gain = α σₓ²/(α²σₓ² + σ²); so it needs E[x | x_t].
        """
        alpha, sigma = (torch.as_tensor(c).to(xt).reshape(-1, 1) for c in (alpha, sigma))
        std, scale = self.sigma.to(xt), self.alpha.to(xt)
        total = (alpha * std).hypot(sigma)
        gain = alpha * std.square() / total.square()
        return gain * xt + (1 - gain * alpha) * scale * self.board.posterior_mean(xt, alpha * scale, total)


def truncated_normal(low: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """N(0, 1) on the interval [low, low + width], elementwise, stable in both tails and for every width ≥ 0.

    Returns:
        log of the mean density, log[(Φ(low + width) − Φ(low))/width], which tends to log φ(low) as width -> 0;
        and the mean of the normal truncated to the interval, as a fraction of the way from its low end to its high.
    """
    left = low + width / 2 < 0
    low = torch.where(left, -low - width, low)  # by symmetry the centre is not negative
    log_wide, wide = _truncated_wide(low, width.clamp(min=0.5))
    log_narrow, narrow = _truncated_narrow(low, width.clamp(max=0.5))
    log_density, fraction = (
        torch.where(width < 0.5, log_narrow, log_wide),
        torch.where(width < 0.5, narrow, wide),
    )
    return log_density, torch.where(left, 1 - fraction, fraction)


def _truncated_wide(low: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Closed form for width ≥ ½ and centre ≥ 0: mean (φ(low) − φ(high))/(Φ(high) − Φ(low)).

    With low > 0, both are divided by e^{−low²/2}, which turns error functions into scaled ones.
    """
    tail, high, root = low > 0, low + width, math.sqrt(0.5)
    base = torch.where(tail, low.square() / 2, 0.0)
    fall = torch.where(tail, -width * (low + width / 2), -high.square() / 2).exp()  # e^{base − high²/2}
    in_tail = torch.special.erfcx(low.clamp(min=0) * root) - fall * torch.special.erfcx(high * root)
    at_centre = torch.erf(high * root) - torch.erf(low.clamp(max=0) * root)
    twice_mass = torch.where(tail, in_tail, at_centre)
    start = torch.where(tail, 1.0, (-low.clamp(max=0).square() / 2).exp())
    mean = math.sqrt(2 / math.pi) * (start - fall) / twice_mass
    return (twice_mass / 2).log() - base - width.log(), ((mean - low) / width).clamp(0, 1)


def _truncated_narrow(low: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre for width ≤ ½, where the closed form's differences cancel: exact to rounding."""
    nodes, weights = (c.to(low) for c in legendre(16))
    exponent = -width[..., None] * nodes * (low[..., None] + width[..., None] * nodes / 2)
    density = weights * exponent.exp()  # over φ(low)
    total = density.sum(-1)
    fraction = (density * nodes).sum(-1) / total
    return total.log() - low.square() / 2 - math.log(2 * math.pi) / 2, fraction
