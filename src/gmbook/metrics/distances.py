"""How far samples are from the truth. Every metric stands beside its noise floor: the same between two true samples.

Metrics of samples take x (N, *S) and y (M, *S), flattened; metrics of tables take probabilities. None of them draws
from torch's default generator, so that measuring does not change what is measured next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gmbook.core.transport import optimal_pairing
from gmbook.laws.plane import PlaneLaw

Metric = Callable[[Tensor, Tensor], Tensor]
ROWS = 128  # of a table of pairs at a time


def _flat(x: Tensor, y: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """Both flat, in float64, on x's device: a sample from a GPU is compared with data where they lie.

    Args:
        least: how many points the metric needs in each.
    """
    if min(len(x), len(y)) < least or x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"need two samples of at least {least} of one event shape, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return x.detach().flatten(1).double(), y.detach().to(x.device).flatten(1).double()


# --------------------------------------------------------------------------------------------- between samples


def sliced_w2(x: Tensor, y: Tensor, projections: int = 128, seed: int = 0) -> Tensor:
    """Sliced 2-Wasserstein *distance*, (): √ of the mean of W_2² over directions θ uniform on the sphere (sliced-w2).

    In one dimension the optimal coupling sorts: W_2² = ∫ |F⁻¹(u) − G⁻¹(u)|² du, exact for any two sample sizes.
    Bonneel et al. 2015 (J. Math. Imaging Vis. 51, §3). For two Gaussians N(a, s²I), N(b, s²I) in d dimensions it is
    ‖a − b‖/√d.

    Args:
        projections: how many directions; fixed by the seed, and drawn as orthonormal bases, which spread more evenly
            than independent ones: for a multiple of d a shift is measured exactly.
    """
    x, y = _flat(x, y)
    theta = _directions(x.shape[1], projections, seed).to(x.device)
    a, b = (x @ theta).sort(0).values, (y @ theta).sort(0).values
    if len(a) == len(b):
        return (a - b).square().mean().sqrt()
    n, m = len(a), len(b)
    edges = torch.cat([torch.arange(1, k + 1, device=a.device).double() / k for k in (n, m)]).unique()
    widths = edges.diff(prepend=edges.new_zeros(1))
    middle = edges - widths / 2
    i, j = (middle * n).floor().long().clamp(max=n - 1), (middle * m).floor().long().clamp(max=m - 1)
    return ((a[i] - b[j]).square() * widths[:, None].to(a)).sum(0).mean().sqrt()


def _directions(dims: int, count: int, seed: int) -> Tensor:
    """Unit vectors, each uniform on the sphere, orthonormal in runs of `dims`: (dims, count), float64."""
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(-(-count // dims), dims, min(dims, count), generator=generator, dtype=torch.float64)
    bases = torch.linalg.qr(gaussian).Q  # (runs, dims, run)
    return bases.transpose(0, 1).reshape(dims, -1)[:, :count]


def w2(x: Tensor, y: Tensor) -> Tensor:
    """Exact 2-Wasserstein distance of two samples of equal size, (): √ min over pairings of the mean squared distance.

    By `core.transport.optimal_pairing`: two thirds of a second at N = 2,000, some seconds at 5,000.

    Raises:
        ValueError: the sizes differ.
    """
    x, y = _flat(x, y)
    if len(x) != len(y):
        raise ValueError(f"exact W2 pairs points one to one: sizes must be equal, got {len(x)} and {len(y)}")
    cost = torch.cdist(x, y).square()
    return cost.gather(1, optimal_pairing(cost)[:, None]).mean().sqrt()


def mmd2(x: Tensor, y: Tensor, bandwidths: tuple[float, ...] | None = None) -> Tensor:
    """Unbiased squared maximum mean discrepancy, (), with a sum of Gaussian kernels. Gretton et al. 2012, Eq. 3.

    Σ_h k_h, k_h(a, b) = exp(−‖a − b‖²/(2h²)). Unbiased, so it is 0 on average for equal laws, and may be negative.

    Args:
        bandwidths: h; by default the median distance within y, times ½, 1 and 2.
    """
    x, y = _flat(x, y, 2)
    if bandwidths is None:
        middle = torch.pdist(y[:1000]).median().item()
        bandwidths = (middle / 2, middle, 2 * middle)

    middle_point = y.mean(0)
    n, m, peak = len(x), len(y), len(bandwidths)  # k(a, a) = number of kernels
    of_x, of_y = _factors(x - middle_point), _factors(y - middle_point)
    within_x = (_kernels_within(of_x, bandwidths) - n * peak) / (n * (n - 1))
    within_y = (_kernels_within(of_y, bandwidths) - m * peak) / (m * (m - 1))
    return within_x + within_y - 2 * _kernels(of_x[0], of_y[1], bandwidths) / (n * m)


def _factors(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two tables (N, D + 2), left and right: ‖a − b‖² = left(a)·right(b), and no root is taken to be squared again."""
    norms, ones = x.square().sum(1, keepdim=True), x.new_ones(len(x), 1)
    return torch.cat([-2 * x, norms, ones], 1), torch.cat([x, ones, norms], 1)


def _kernels(left: Tensor, right: Tensor, bandwidths: tuple[float, ...]) -> Tensor:
    """Σ of all kernels over all pairs, some rows at a time, so that a table stays in the processor's cache."""
    found = left.new_zeros(())
    for rows in left.split(ROWS):
        squared = rows @ right.T
        kernel = torch.empty_like(squared)
        for h in bandwidths:
            found += torch.mul(squared, -0.5 / h**2, out=kernel).exp_().sum()
    return found


def _kernels_within(factors: tuple[Tensor, Tensor], bandwidths: tuple[float, ...]) -> Tensor:
    """The same for the pairs of one sample: those of two blocks of rows are counted once, and doubled."""
    (left, right), found = factors, factors[0].new_zeros(())
    for start in range(0, len(left), ROWS):
        rows, end = left[start : start + ROWS], start + ROWS
        found += _kernels(rows, right[start:end], bandwidths) + 2 * _kernels(rows, right[end:], bandwidths)
    return found


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖, unbiased, (). Székely & Rizzo 2013. It is 0 iff the laws are equal."""
    x, y = _flat(x, y, 2)
    n, m = len(x), len(y)
    within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (m * (m - 1))
    return 2 * torch.cdist(x, y).mean() - within


class Coverage(NamedTuple):
    """`found` modes, of all, and the share of samples that lie near some mode."""

    found: int
    quality: float


def mode_coverage(x: Tensor, law: PlaneLaw, radius: float = 3.0, least: int = 20) -> Coverage:
    """Modes with at least `least` samples within `radius` standard deviations, and the share of samples that near.

    For x (N, D), and a law with `modes` (M, D) and `mode_std`, as the mixtures of laws.plane. In two dimensions 98.9 %
    of a round Gaussian lies within 3 standard deviations.

    Raises:
        ValueError: the law has no modes to count.
    """
    if law.modes is None or law.mode_std is None:
        raise ValueError(f"{law.name} has no modes to count")
    distance, nearest = torch.cdist(x.detach().to(law.modes), law.modes).min(1)
    near = distance < radius * law.mode_std
    counts = torch.bincount(nearest[near], minlength=len(law.modes))
    return Coverage(int((counts >= least).sum()), near.double().mean().item())


def precision_recall(x: Tensor, y: Tensor, k: int = 3) -> tuple[float, float]:
    """(precision, recall) of generated x (N, F) for real y (M, F), arXiv:1904.06991, Eqs. 1–2.

    A point is covered by a set if it lies within the distance of some member to that member's k-th neighbour in it.
    precision: share of x covered by y. recall: share of y covered by x.
    """
    x, y = _flat(x, y, k + 1)

    def covered(points: Tensor, by: Tensor) -> float:
        radius = torch.cdist(by, by).kthvalue(k + 1, dim=1).values  # the nearest is the point itself
        return (torch.cdist(points, by) <= radius).any(1).double().mean().item()

    return covered(x, y), covered(y, x)


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """‖m_x − m_y‖² + tr(C_x + C_y − 2(C_xC_y)^½) of features x (N, F), y (M, F), (): a *squared* distance
    (frechet-distance).

    The W_2² of the Gaussians with the features' moments. With Inception features, and only then, it is called FID.
    tr (C_xC_y)^½ is the sum of the singular values of A_xA_yᵀ/√((N − 1)(M − 1)) for centred samples A, which stays
    real when C is singular.
    """
    x, y = _flat(x, y, 2)
    mean = (x.mean(0) - y.mean(0)).square().sum()
    a, b = (z - z.mean(0) for z in (x, y))
    a, b = a / (len(a) - 1) ** 0.5, b / (len(b) - 1) ** 0.5
    # singular values of A Bᵀ (N × M) through the F × F triangular factors
    cross = torch.linalg.svdvals(torch.linalg.qr(a, "r")[1] @ torch.linalg.qr(b, "r")[1].T).sum()
    return mean + a.square().sum() + b.square().sum() - 2 * cross


# ----------------------------------------------------------------------------------------------- between tables


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p log(p/q), nats, () for two probability tables of one shape; ∞ where q = 0 < p."""
    q = q.to(p.device)
    _tables(p, q)
    return torch.where(p > 0, p * (p.log() - q.log()), torch.zeros_like(p)).sum()


def tv(p: Tensor, q: Tensor) -> Tensor:
    """Total variation ½ Σ |p − q|, in [0, 1], ()."""
    q = q.to(p.device)
    _tables(p, q)
    return (p - q).abs().sum() / 2


def _tables(*tables: Tensor) -> None:
    for table in tables:
        if table.shape != tables[0].shape or bool((table < 0).any()) or abs(table.sum().item() - 1) > 1e-4:
            raise ValueError("need probability tables of one shape, non-negative, with sum 1")


# ------------------------------------------------------------------------------------------------- units, floors


class Floor(NamedTuple):
    """A metric between two true samples: its mean over repeats, its standard deviation, and the largest value."""

    mean: float
    std: float
    max: float


def noise_floor(metric: Metric, draw: Callable[[int], Tensor], n: int, repeats: int = 10) -> Floor:
    """The metric between two independent true samples of size n: what no model can be asked to beat.

    Args:
        metric: (x, y) -> ().
        draw: n -> n true samples; a law's `sample`, or a function that picks from a data set. Torch's default
            generator is put back afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        values = torch.stack([torch.as_tensor(metric(draw(n), draw(n))).double() for _ in range(repeats)])
    return Floor(values.mean().item(), values.std().item(), values.max().item())
