"""Curves, bars, histograms, bundles of one-dimensional paths, and matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from gmbook.core.law import Law
from gmbook.plots.style import (
    CYCLE,
    DATA,
    DENSITY,
    DIFFERENCE,
    GREY,
    INK,
    MODEL,
    NOISE,
    PAGE,
    SHADE,
    array,
    canvas,
    listed,
    luminance,
    picture_of,
    same_length,
    single,
    styled,
)


def smoothed(y: NDArray[Any], window: int) -> NDArray[Any]:
    """The running mean over the last `window` values, of fewer at the start, so that the first value is y's
    own."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    last = np.arange(1, len(y) + 1)
    first = np.maximum(last - window, 0)
    return (total[last] - total[first]) / (last - first)


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """The nearest positions (least squares) in the same order, `gap` apart, inside [0, 1] where there is
    room.

    Less the gaps, i·gap, the i-th smallest position must be monotone in i: that is isotonic regression.
    """
    from scipy.optimize import isotonic_regression  # here: half a second that only a picture needs

    order = np.argsort(positions, kind="stable")
    shifts = gap * np.arange(len(order))
    fitted = isotonic_regression(np.asarray(positions, dtype=float)[order] - shifts).x
    result = np.empty(len(order))
    result[order] = np.clip(fitted, 0, max(1 - shifts[-1], 0)) + shifts
    return result.tolist()


def label_ends(ax: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write (name, height in data units, colour) to the right of the axes without overlaps: no legend."""
    ends = [end for end in ends if end[0]]
    if not ends:
        return
    at = ax.transData.transform([(ax.get_xlim()[1], height) for _, height, _ in ends])
    fractions = np.clip(ax.transAxes.inverted().transform(at)[:, 1], 0, 1)
    layout = ax.get_gridspec()
    rows = layout.nrows if layout else 1
    inches = 0.78 * picture_of(ax).get_figheight() / rows  # of the axes
    for (name, _, colour), height in zip(ends, spread(fractions.tolist(), 0.17 / inches)):
        colour = colour if luminance(colour) < 0.3 else INK
        ax.annotate(name, (1, height), (5, 0), "axes fraction", "offset points", color=colour, va="center")


Series = Tensor | tuple[Tensor, Tensor]


@styled
def curves(
    series: Mapping[str, Series],
    *,
    x: Tensor | None = None,
    floors: Mapping[str, float] | None = None,
    smooth: int = 1,
    xlabel: str = "step",
    ylabel: str = "loss",
    title: str = "",
    logx: bool = False,
    logy: bool = False,
    markers: bool = False,
    colours: Mapping[str, str] | None = None,
    ylim: tuple[float, float] | None = None,
    xticks: Sequence[float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Losses or metrics against steps or a knob, named at their ends, with exact floors as dashed grey lines.

    Alt: curves against the x axis, each named at its right end; dashed lines are exact values.

    Args:
        series: name -> y, (N,), or (R, N) for R runs (their mean with a band of one standard deviation), or
            a pair (x, y). A single unnamed curve is {"": y}.
        x: the (N,) abscissae of every y that brings none; 1, 2, … by default.
        floors: name -> exact value.
        smooth: running mean over so many values: the raw curve faint, the mean strong.
        colours: name -> colour; by default the model's, the baseline's, the third, … in this order.
        ylim: the range of y where the first steps of a loss would hide the rest.
        xticks: where the x axis is numbered, in plain numbers: for a logarithmic axis over less than a decade or two.

    Raises:
        ValueError: a y is not (N,) or (R, N), or x and y differ in length.
    """
    ax = single(ax, (5.4, 3.0), listed([title or ylabel, *series, *(floors or {})], "Curves"))
    ends: list[tuple[str, float, str]] = []
    for (name, values), default in zip(series.items(), CYCLE * 4):
        colour = (colours or {}).get(name, default)
        at, runs = abscissae(values, x)
        mean = smoothed(runs.mean(0), smooth)
        if len(runs) > 1:
            wide = runs.std(0, ddof=1)
            ax.fill_between(at, mean - wide, mean + wide, color=colour, alpha=0.2, linewidth=0)
        elif smooth > 1:
            ax.plot(at, runs[0], color=colour, alpha=0.22, linewidth=0.7)
        ax.plot(at, mean, color=colour, marker="o" if markers else "", markersize=4)
        ends.append((name, rightmost(at, mean), colour))
    for name, value in (floors or {}).items():
        ax.axhline(value, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        ends.append((name, value, GREY))
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if logx:
        ax.set_xscale("log")
    if logy:
        ax.set_yscale("log")
    if ylim:
        ax.set_ylim(*ylim)
    if xticks is not None:
        ax.set_xticks(xticks, [f"{tick:g}" for tick in xticks])
        ax.set_xticks([], minor=True)
    ax.grid(axis="y", color="#E3E3E3", linewidth=0.6)
    ax.set_axisbelow(True)
    label_ends(ax, ends)
    return picture_of(ax)


def rightmost(x: NDArray[Any], y: NDArray[Any]) -> float:
    """The finite y (N,) at the greatest x (N,), in whatever order they come; 0 if none is finite."""
    finite = np.isfinite(y)
    return float(y[finite][np.argmax(x[finite])]) if finite.any() else 0.0


def abscissae(values: Series, x: Tensor | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """x (N,) and y (R, N) of one series."""
    pair = values if isinstance(values, tuple) else (x, values)
    runs = np.atleast_2d(array(pair[1]))
    at = np.arange(1, runs.shape[-1] + 1) if pair[0] is None else array(pair[0])
    if runs.ndim != 2 or at.shape != (runs.shape[1],):
        raise ValueError(f"need x (N,) and y (N,) or (R, N), got {at.shape} and {runs.shape}")
    return at, runs


@styled
def bars(
    groups: Mapping[str, Tensor],
    labels: Sequence[str] | None = None,
    *,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    logy: bool = False,
    floors: Mapping[str, float] | None = None,
    colours: Mapping[str, str] | None = None,
    first: int = 1,
    ax: Axes | None = None,
) -> Figure:
    """Bars, one group of them per position: bits per step, metrics per method. Alt: bar chart, one colour
    per name. Where a height is NaN there is no bar, and the others of its position stand in the middle.

    Args:
        groups: name -> heights (N,). A single unnamed group is {"": heights}. Long ones (N > 50) become one
            stair.
        labels: one per position; without them positions are numbered from `first`.

    Raises:
        ValueError: the groups, or the labels, differ in length.
    """
    lists: dict[str, Any] = {**groups, "labels": labels}
    same_length(**lists)
    ax = single(ax, (5.4, 2.8), listed([title or ylabel, *groups], "Bars"))
    there = ~np.isnan(np.stack([array(heights) for heights in groups.values()]))
    place = there.cumsum(0) - (there.sum(0) + 1) / 2  # of each bar, in widths from the middle of its group
    count = there.shape[1]
    position = np.arange(count) + first
    width = 0.82 / len(groups)
    ends: list[tuple[str, float, str]] = []
    for i, ((name, heights), default) in enumerate(zip(groups.items(), CYCLE * 4)):
        colour = (colours or {}).get(name, default)
        if count > 50:
            edges = np.arange(count + 1) + first - 0.5
            ax.stairs(array(heights), edges, fill=len(groups) == 1, color=colour, linewidth=1.3, label=name)
        else:
            ax.bar(position + place[i] * width, array(heights), width * 0.94, color=colour, label=name)
    for name, value in (floors or {}).items():
        ax.axhline(value, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)))
        ends.append((name, value, GREY))
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, xlim=(first - 0.6, first + count - 0.4))
    if labels:
        ax.set_xticks(position, labels)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if logy:
        ax.set_yscale("log")
    if named(ax)[1]:
        ax.legend(*named(ax), frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    label_ends(ax, ends)
    return picture_of(ax)


@styled
def histogram(
    values: Mapping[str, Tensor],
    pdf: Callable[[Tensor], Tensor] | None = None,
    *,
    bins: int = 60,
    limits: tuple[float, float] | None = None,
    xlabel: str = "x",
    title: str = "",
    colours: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Histograms on a density scale, with the exact density as a black line. Alt: filled histogram under a
    curve.

    Args:
        values: name -> numbers (N,). A single unnamed set is {"": values}. What lies outside `limits` counts
            in the normalisation, so that bars are comparable with the density.
        pdf: the exact density, (M,) -> (M,): lambda x: law.log_prob(x[:, None]).exp().
        limits: of x; the range of the values by default.

    Raises:
        ValueError: a set of values is empty.
    """
    ax = single(ax, (4.8, 2.8), listed([title, *values], "Histogram"))
    sets = {name: array(v).ravel() for name, v in values.items()}
    if not all(len(v) for v in sets.values()):
        raise ValueError("a histogram needs at least one value per set")
    low, high = limits or (min(v.min() for v in sets.values()), max(v.max() for v in sets.values()))
    edges = np.linspace(low, high, bins + 1)
    for (name, numbers), default in zip(sets.items(), CYCLE * 4):
        colour = (colours or {}).get(name, default)
        heights = np.histogram(numbers, edges)[0] / (len(numbers) * np.diff(edges))
        ax.stairs(heights, edges, fill=True, color=colour, alpha=0.35)
        ax.stairs(heights, edges, color=colour, linewidth=1.1, label=name)
    if pdf is not None:
        x = torch.linspace(low, high, 400)
        ax.plot(array(x), array(pdf(x)), color=DATA, linewidth=1.5, label="exact")
    ax.set(xlabel=xlabel, ylabel="density", title=title, xlim=(low, high), ylim=(0, None))
    if named(ax)[1]:
        ax.legend(*named(ax), frameon=False)
    return picture_of(ax)


def named(ax: Axes) -> tuple[list[Any], list[str]]:
    """The handles and labels of what has a name: a single unnamed set wants no legend of its own."""
    pairs = [(handle, label) for handle, label in zip(*ax.get_legend_handles_labels()) if label]
    return [handle for handle, _ in pairs], [label for _, label in pairs]


@styled
def paths_1d(
    ts: Tensor,
    paths: Sequence[Tensor],
    law_at: Callable[[Tensor], Law] | None = None,
    titles: Sequence[str] | None = None,
    *,
    limits: tuple[float, float] = (-3.2, 3.2),
    most: int = 25,
) -> Figure:
    """One-dimensional paths x_t against t, over the exact marginal density: ODE and SDE bundles side by side.

    The grey level is p_t(x) / max_x p_t(x): every column is scaled by itself, because densities near t = 0
    are far higher than near t = 1. Time runs to the right, 0 is data. Alt: curves from left (data) to right
    (noise).

    Args:
        ts: (T,), in any order.
        paths: one bundle (T, B) per panel, x at those times.
        law_at: t () -> the law of x_t, with event shape (1,).
        most: draw the first so many paths.

    Raises:
        ValueError: a bundle is not (T, B), or the lists differ in length.
    """
    same_length(paths=paths, titles=titles)
    picture, axes = canvas(1, len(paths), panel=(min(5.0, PAGE / len(paths)), 2.9), sharey=True)
    times = torch.linspace(float(ts.min()), float(ts.max()), 121)
    for ax, bundle, title in zip(axes[0], paths, titles or [""] * len(paths)):
        if bundle.ndim != 2 or len(bundle) != len(ts):
            raise ValueError(f"paths must be a list of bundles (T, B) with T = {len(ts)}, got {tuple(bundle.shape)}")
        if law_at is not None:
            x = torch.linspace(*limits, 201)[:, None]
            columns = torch.stack([law_at(t).log_prob(x) for t in times], 1)  # (201, 121)
            relative = array((columns - columns.amax(0)).exp())
            ax.pcolormesh(array(times), array(x[:, 0]), relative, cmap=SHADE, shading="nearest", rasterized=True)
        walk = array(bundle[:, :most])
        start, end = (0, -1) if ts[0] > ts[-1] else (-1, 0)  # the noisy end, the clean end
        ax.plot(array(ts), walk, color=MODEL, linewidth=0.7, alpha=0.75)
        ax.plot(
            np.full(walk.shape[1], float(ts[start])),
            walk[start],
            ".",
            color=NOISE,
            markersize=5,
            clip_on=False,
        )
        ax.plot(np.full(walk.shape[1], float(ts[end])), walk[end], ".", color=MODEL, markersize=5, clip_on=False)
        ax.set(xlabel="t  (0 data, 1 noise)", title=title, ylim=limits, xlim=(times[0].item(), times[-1].item()))
    axes[0, 0].set_ylabel("$x_t$")
    picture.description = listed(titles or [], "Paths against time over the exact marginal density")
    return picture


@styled
def heatmaps(
    matrices: Sequence[Tensor],
    titles: Sequence[str] | None = None,
    *,
    difference: bool = False,
    xlabel: str = "column",
    ylabel: str = "row",
    label: str = "",
    origin: Literal["upper", "lower"] = "upper",
    limits: tuple[float, float] | None = None,
    annotate: bool = False,
    columns: int | None = None,
) -> Figure:
    """Matrices as images on one scale: transition matrices, probability tables, their differences.

    Row i is drawn i-th from the top (`origin="upper"`) or the bottom. Alt: a grid of cells, brighter for
    larger values.

    Args:
        matrices: (R, C) each.
        difference: the diverging map, centred at 0.
        label: of the colour bar, e.g. "probability".
        limits: of the colours; from 0 (or the least value, if negative) to the greatest by default.
        annotate: write the values into the cells.
        columns: matrices per row, by default as many as fit, four at most.

    Raises:
        ValueError: a matrix is not (R, C), or the lists differ in length.
    """
    same_length(matrices=matrices, titles=titles)
    values = [array(matrix) for matrix in matrices]
    if any(v.ndim != 2 for v in values):
        raise ValueError(f"heatmaps draws matrices (R, C), got {[v.shape for v in values]}")
    high = max(float(np.abs(v).max() if difference else v.max()) for v in values) or 1.0
    low = -high if difference else min(0.0, *(float(v.min()) for v in values))
    low, high = limits or (low, high)
    columns = columns or min(len(values), 4)
    picture, axes = canvas(-(-len(values) // columns), columns, panel=(2.6, 2.6), layout="compressed")
    for i, ax in enumerate(axes.flat):
        if i >= len(values):
            ax.remove()
            continue
        image = ax.imshow(values[i], DIFFERENCE if difference else DENSITY, vmin=low, vmax=high, origin=origin)
        ax.set(title=titles[i] if titles else "", xlabel=xlabel, ylabel=ylabel if i % columns == 0 else "")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.spines[:].set_visible(False)
        if annotate:
            write_cells(ax, values[i], image)
    used = [ax for ax in axes.flat if ax.figure is not None]
    picture.colorbar(image, ax=used, label=label, aspect=30).outline.set_visible(False)
    picture.description = listed(titles or [], "Matrices as images")
    return picture


def write_cells(ax: Axes, values: NDArray[Any], image: Any) -> None:
    """Two digits in every cell, black or white, whichever reads on the cell's colour."""
    for (row, column), value in np.ndenumerate(values):
        shown = image.cmap(image.norm(value))[:3]
        colour = "white" if float(np.dot((0.2126, 0.7152, 0.0722), np.power(shown, 2.2))) < 0.25 else INK
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
