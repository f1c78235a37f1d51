"""Looks at what an answer drew or learned: statistics of draws, densities, and whether something was learned at all.

The tolerance of each comparison is made of the spread that the *right* law has: measured on the answer itself, one huge
draw would let it choose its own bar. And points that serve different ends are asked about together, in random order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmbook.course.kit import Wrong, hold, samples
from gmbook.laws.plane import PlaneLaw

SIGMAS = 6.0  # a right answer fails one comparison in 500 million
FARTHEST = 3.3  # of √n sup|F_n − F|, Kolmogorov's distance: exceeded once in a billion


def mean_is(draws: Tensor, want: Tensor | float, what: str, std: Tensor | float) -> None:
    """The mean over the first axis is `want`, within six standard errors of draws that have this `std`.

    Args:
        std: of one draw, by the right law, or an upper bound of it; for each entry or for all.

    Raises:
        Wrong: some entry is not.
    """
    want, std = (torch.as_tensor(value, dtype=draws.dtype).detach() for value in (want, std))
    got, luck = draws.detach().mean(0), SIGMAS * std / math.sqrt(max(1, len(draws))) + 1e-9 * (1 + want.abs())
    if not bool(((got - want).abs() <= luck).all()):  # also where there are no draws
        flipped = bool(((got + want).abs() <= luck).all()) and bool((want.abs() > luck).any())
        raise Wrong(f"{what}: the mean is not right{': look at its sign.' if flipped else '.'}")


def chance_std(chance: Tensor | float) -> Tensor:
    """The standard deviation of a truth value that holds with this chance."""
    chance = torch.as_tensor(chance)
    return (chance * (1 - chance)).sqrt()


def uncorrelated(unit: Tensor, what: str) -> None:
    """The coordinates of draws (B, D) have no correlation, within six standard errors.

    Args:
        unit: with mean 0 and variance 1 by the right law.

    Raises:
        Wrong: some pair has: the same noise, perhaps, was used for both.
    """
    off = (unit.T @ unit / len(unit)).fill_diagonal_(0.0).abs().max()
    hold(off <= SIGMAS / math.sqrt(len(unit)), f"{what}: coordinates are correlated. Does each get its own noise?")


def normal_is(draws: Tensor, mean: Tensor | float, std: Tensor | float, what: str) -> None:
    """The draws (B, D) are independent and N(mean, std²): mean, variance, correlations, and the law's whole shape.

    Args:
        mean, std: for each coordinate or for all; at std 0 nothing is random.

    Raises:
        Wrong: one of them is not right.
    """
    mean, std = (torch.as_tensor(value, dtype=draws.dtype).detach().expand(draws.shape[1]) for value in (mean, std))
    mean_is(draws, mean, what, std)
    count, least = len(draws), 1e-9 * (1 + mean.abs())  # below it is rounding, not noise
    got, want = (draws.detach() - mean).square().mean(0), std.square()
    luck = SIGMAS * want * math.sqrt(2 / count) + least**2
    if not bool(((got - want).abs() <= luck).all()):
        few, many = bool((got < want - luck).any()), bool((got > want + luck).any())
        raise Wrong(f"{what}: the variance {'differs' if few and many else 'is too small' if few else 'is too large'}.")
    if bool((std > least).all()):
        from scipy.stats import kstest  # here: half a second that not every sheet needs

        unit = (draws.detach() - mean) / std
        uncorrelated(unit, what)
        apart = max(kstest(column, "norm", method="asymp").statistic for column in unit.T.numpy())
        hold(apart <= FARTHEST / math.sqrt(count), f"{what}: mean and variance are right, but the law is not normal.")


def learned(error: Tensor | float, least: float) -> None:
    """An experiment's answer was learned from samples: its error is not below what only the law itself reaches.

    Raises:
        Wrong: it is.
    """
    hold(error > least, "It is the exact law, not something learned: no training on samples comes so near.")


def at_once(answer: Any, parts: Sequence[Tensor], what: str) -> list[Tensor]:
    """One number for each point of several sets (N_i, D), asked about in random order, so that no set can be told.

    Raises:
        Wrong: see `samples`.
    """
    points = torch.cat(list(parts))
    order = torch.randperm(len(points))
    values = torch.cat([samples(answer(some), (len(some),), what) for some in points[order].split(5000)]).detach()
    return list(torch.empty_like(values).index_copy(0, order, values).split([len(part) for part in parts]))


def over_the_square(low: float, high: float, cells: int) -> tuple[Tensor, float]:
    """Points (2 cells², 2) for an integral over a square, and the area that each stands for.

    In each cell two, drawn afresh, opposite each other about its centre: a lattice could be told from samples.
    """
    side = (high - low) / cells
    places = low + side * (torch.arange(cells) + 0.5)
    shift = side * (torch.rand(cells**2, 2) - 0.5)
    centres = torch.cartesian_prod(places, places)
    return torch.cat([centres + shift, centres - shift]), side**2 / 2


def learned_density(answer: Any, law: PlaneLaw, n: int, half: float, cells: int, surplus: float, bar: float) -> None:
    """Refuse a log-density, (B, 2) -> (B,), that is none, or whose KL divergence from the law is not below the bar.

    Looked at on n points of the law, whose density is known, and by an integral over the square [−half, half]², which
    must be 1 within the surplus.
    """
    square, area = over_the_square(-half, half, cells)
    x = law.sample(n)
    logs, found = at_once(answer, (square, x), "log p")
    mass = logs.exp().sum().item() * area
    hold(mass < 1 + surplus, f"Your density integrates to {mass:.3g}: it is none. Where does the surplus come from?")
    where = f"[−{half:g}, {half:g}]²"
    hold(
        mass > 1 - surplus,
        f"Over {where} your density integrates to {mass:.3g} only: it loses mass, or puts it far away.",
    )
    gaps = law.log_prob(x).double() - found
    hold(gaps.mean() < bar, f"The loss is {gaps.mean().item():.3f} nats above the entropy, not below {bar}.")
    learned(gaps.abs().mean(), 0.01)
