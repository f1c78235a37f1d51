"""Fields, paths and maps in the plane: arrows, their errors, what particles and grids do in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor

from gmbook.core.law import Law
from gmbook.plots.planes import Limits, density_values, frame, grid, heat, lattice, place, shade, wrapped
from gmbook.plots.style import DATA, GREY, LIMITS, MODEL, NOISE, PAPER, TIME, array, listed, same_length, styled

Field = Callable[[Tensor, Tensor], Tensor]  # x (N, 2), t () -> (N, 2)


def arrows(values: NDArray[Any], scale: float, length: float) -> NDArray[Any]:
    """Arrows (N, 2) in data units: right directions, lengths length · tanh(|v| / scale), so that none runs
    away."""
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return values * (length * np.tanh(norm / scale) / np.maximum(norm, 1e-30))


@styled
def fields(
    fields: Sequence[Field],
    laws: Sequence[Law],
    times: Sequence[float],
    titles: Sequence[str],
    *,
    error: bool = False,
    limits: Limits = LIMITS,
    cells: int = 15,
) -> Figure:
    """Vector fields as arrows over the grey density: one row per time, one column per field (learned beside
    exact).

    Directions are the fields' own; lengths grow like tanh(|v| / scale), where scale is the 80 % quantile of
    the first field's |v| weighted by the density of the row, the same for all columns. So arrows are
    comparable along a row, and a field that is wildly too long where there is no data cannot hide the rest.
    Alt: arrows on a grid over a grey density, one row per time.

    Args:
        fields: functions (x (N, 2), t ()) -> (N, 2), the first one exact.
        laws: the law of x_t, one per time.
        error: add a column with |second − first|, in units of the row's scale.

    Raises:
        ValueError: the lists do not fit together.
    """
    same_length(laws=laws, times=times)
    same_length(fields=fields, titles=titles)
    if error and len(fields) < 2:
        raise ValueError("error=True compares the second field with the first: give two fields")
    columns = len(fields) + error
    picture, axes = grid(len(times), columns)
    points, colour = lattice(limits, cells), [DATA, MODEL, *[GREY] * len(fields)]
    for row, (law, time) in enumerate(zip(laws, times)):
        t = torch.tensor(float(time))
        values = [array(field(points, t)) for field in fields]
        scale = typical_norm(values[0], array(law.log_prob(points).exp()))
        bottom = row == len(times) - 1
        for column, value in enumerate(values):
            ax = axes[row, column]
            shade(ax, law, limits)
            drawn = arrows(value, scale, 0.95 * (limits[1] - limits[0]) / cells)
            ax.quiver(
                *array(points).T,
                *drawn.T,
                color=colour[column],
                angles="xy",
                scale_units="xy",
                scale=1,
                width=0.007,
                headwidth=4,
                headlength=4,
                headaxislength=3.6,
                pivot="mid",
            )
            frame(ax, limits, titles[column] if row == 0 else "", column == 0, bottom)
        if error:
            image = error_heat(axes[row, -1], fields[:2], law, t, limits, scale, 1.0)
            frame(axes[row, -1], limits, "error / scale" if row == 0 else "", False, bottom)
        axes[row, 0].set_ylabel(f"t = {time:g}\n$x_2$", labelpad=0)
    if error:
        picture.colorbar(image, ax=axes[:, -1], aspect=30, extend="max").outline.set_visible(False)
    picture.description = listed([*titles, f"rows are t = {', '.join(f'{t:g}' for t in times)}"], "Vector fields")
    return picture


def typical_norm(values: NDArray[Any], weights: NDArray[Any]) -> float:
    """The 80 % quantile of |v|, points weighted by the density there."""
    norm = np.linalg.norm(values, axis=1)
    order = np.argsort(norm)
    cumulative = np.cumsum(weights[order])
    if not cumulative[-1] > 0:
        return float(np.quantile(norm, 0.8)) or 1.0
    return float(norm[order][np.searchsorted(cumulative, 0.8 * cumulative[-1])]) or 1.0


def error_heat(
    ax: Axes, fields: Sequence[Field], law: Law, t: Tensor, limits: Limits, scale: float, vmax: float | None
) -> AxesImage:
    """|second − first| / scale as an image, under contours of the law that hold 50 % and 95 % of its mass."""
    cells = 80
    points = lattice(limits, cells)
    values = [array(field(points, t)) for field in fields]
    norm = np.linalg.norm(values[1] - values[0], axis=1).reshape(cells, cells) / scale
    image = heat(ax, norm, limits, "viridis", 0.0, vmax)
    mass = array(law.log_prob(points).exp()).reshape(cells, cells)
    ax.contour(mass, mass_levels(mass, (0.95, 0.5)), colors="white", linewidths=0.8, extent=(*limits, *limits))
    return image


def mass_levels(density: NDArray[Any], masses: Sequence[float]) -> list[float]:
    """The density levels whose superlevel sets hold these fractions of the mass, in rising order."""
    ordered = np.sort(density.ravel())[::-1]
    share = np.cumsum(ordered) / ordered.sum()
    levels = {float(ordered[min(int(np.searchsorted(share, mass)), ordered.size - 1)]) for mass in masses}
    return sorted(levels)


@styled
def field_error(
    exact: Field, learned: Field, laws: Sequence[Law], times: Sequence[float], *, limits: Limits = LIMITS
) -> Figure:
    """|learned − exact| per time, on one scale, with the contours that hold 50 % and 95 % of the law's mass.

    Colours saturate at the 99 % quantile of the error within the 95 % contours: corners without data do not
    matter.
    Alt: heat maps of the error, one per time, with two contours of the density.

    Raises:
        ValueError: as many laws as times are needed.
    """
    same_length(laws=laws, times=times)
    picture, axes, columns = wrapped(len(times))
    images, inside = [], []
    for i, (ax, law, time) in enumerate(zip(axes, laws, times)):
        images.append(error_heat(ax, (exact, learned), law, torch.tensor(float(time)), limits, 1.0, None))
        mass = array(density_values(law, limits, 80))
        inside.append(np.asarray(images[-1].get_array())[mass >= mass_levels(mass, (0.95,))[0]])
        place(ax, i, columns, len(times), limits, f"t = {time:g}")
    top = float(np.quantile(np.concatenate(inside), 0.99)) or 1.0
    for image in images:
        image.set_clim(0, top)
    bar = picture.colorbar(images[-1], ax=axes, label="|learned − exact|", aspect=30, extend="max")
    bar.outline.set_visible(False)
    picture.description = listed([f"t = {time:g}" for time in times], "Error of the learned field")
    return picture


@styled
def trajectories(
    paths: Sequence[Tensor],
    law: Law | None = None,
    titles: Sequence[str] | None = None,
    *,
    limits: Limits = LIMITS,
    most: int = 60,
) -> Figure:
    """Particles' paths coloured by progress, from noise (sky blue, open circles) to sample (vermilion, dots).

    Alt: curves that start at open circles and end at dots over a grey density.

    Args:
        paths: one (T, B, 2) bundle per panel, in the order in which the sampler walked.
        law: the law of the end points, drawn in grey.
        most: draw the first so many particles.

    Raises:
        ValueError: a bundle is not (T, B, 2), or the lists differ in length.
    """
    same_length(paths=paths, titles=titles)
    picture, axes, columns = wrapped(len(paths), 3.4 if len(paths) == 1 else 2.9)
    for i, (ax, bundle) in enumerate(zip(axes, paths)):
        if bundle.ndim != 3 or bundle.shape[2] != 2 or len(bundle) < 2:
            raise ValueError(f"paths must be a list of bundles (T, B, 2) with T > 1, got {tuple(bundle.shape)}")
        walk = array(bundle[:, :most]).swapaxes(0, 1)  # (B, T, 2)
        shade(ax, law, limits)
        pieces = np.stack([walk[:, :-1], walk[:, 1:]], 2)  # (B, T − 1, 2, 2)
        progress = np.tile(np.arange(walk.shape[1] - 1) / max(walk.shape[1] - 2, 1), len(walk))
        lines = LineCollection(list(pieces.reshape(-1, 2, 2)), cmap=TIME, array=progress, linewidths=0.9)
        lines.set_clim(0, 1)
        ax.add_collection(lines)
        first, last = walk[:, 0], walk[:, -1]
        ax.scatter(first[:, 0], first[:, 1], s=14, facecolors=PAPER, edgecolors=NOISE, linewidths=1.0, zorder=3)
        ax.scatter(last[:, 0], last[:, 1], s=12, color=MODEL, linewidths=0.4, edgecolors=PAPER, zorder=4)
        place(ax, i, columns, len(paths), limits, titles[i] if titles else "")
    bar = picture.colorbar(lines, ax=axes, ticks=[0, 1], aspect=30)
    bar.ax.set_yticklabels(["start", "end"])
    bar.outline.set_visible(False)
    picture.description = listed(titles or [], "Paths of particles from noise to sample")
    return picture


@styled
def warped_grid(
    maps: Sequence[Callable[[Tensor], Tensor]],
    law: Law | None = None,
    titles: Sequence[str] | None = None,
    *,
    limits: Limits = LIMITS,
    lines: int = 21,
) -> Figure:
    """A regular grid, and its images under maps z (N, 2) -> x (N, 2): what a flow does to space.

    Alt: a square grid in sky blue, then the same grid bent by each map in vermilion.

    Args:
        maps: the maps, one panel each.
        law: the law of x, drawn in grey behind the images.
        lines: grid lines in each direction; the two through the centre are thick.

    Raises:
        ValueError: as many titles as maps are needed.
    """
    same_length(maps=maps, titles=titles)
    at, along = torch.linspace(*limits, lines), torch.linspace(*limits, 241)
    held, running = torch.meshgrid(at, along, indexing="ij")
    family = torch.stack([held, running], -1)  # (lines, 241, 2), vertical lines
    grid_lines = torch.cat([family, family.flip(-1)])  # (2 lines, 241, 2)
    widths = np.where(np.arange(2 * lines) % lines == lines // 2, 1.8, 0.7)
    picture, axes, columns = wrapped(len(maps) + 1)
    names = ["z, a regular grid", *(titles or ["x"] * len(maps))]
    for i, ax in enumerate(axes):
        image = grid_lines if i == 0 else maps[i - 1](grid_lines.reshape(-1, 2)).reshape(grid_lines.shape)
        if i > 0:
            shade(ax, law, limits)
        colour = NOISE if i == 0 else MODEL
        ax.add_collection(LineCollection(list(array(image)), colors=colour, linewidths=widths))
        place(ax, i, columns, len(axes), limits, names[i])
    axes[0].set_ylabel("$z_2$")  # the first panel is the space of z, the others are that of x
    if axes[0].get_xlabel():
        axes[0].set_xlabel("$z_1$")
    picture.description = listed(names[1:], "A regular grid and its images under maps of the plane")
    return picture
