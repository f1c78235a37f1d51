"""Laws and points in the plane. Axes are equal in scale and share their limits in a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Ellipse
from numpy.typing import NDArray
from torch import Tensor

from gmbook.core.law import Law
from gmbook.plots.style import (
    DENSITY,
    DIFFERENCE,
    INK,
    LIMITS,
    MODEL,
    SHADE,
    Picture,
    array,
    canvas,
    listed,
    picture_of,
    same_length,
    single,
    styled,
)

Limits = tuple[float, float]


def lattice(limits: Limits = LIMITS, cells: int = 160) -> Tensor:
    """Centres of cells × cells equal squares on [low, high]², (cells·cells, 2); the first coordinate runs
    fastest."""
    low, high = limits
    centres = low + (high - low) * (torch.arange(cells) + 0.5) / cells
    second, first = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([first, second], -1).reshape(-1, 2)


def density_values(law: Law, limits: Limits = LIMITS, cells: int = 160) -> Tensor:
    """p at the centres of the squares of `lattice`: (cells, cells), rows along the second coordinate, from low
    to high."""
    return law.log_prob(lattice(limits, cells)).exp().reshape(cells, cells).detach()


def frame(ax: Axes, limits: Limits, title: str = "", left: bool = True, bottom: bool = True) -> None:
    """Equal axes on [low, high]², named x₁ and x₂; inner panels of a grid leave out the names."""
    ax.set(xlim=limits, ylim=limits, aspect="equal", title=title)
    ticks = [tick for tick in (-4, -2, 0, 2, 4) if limits[0] <= tick <= limits[1]]
    if len(ticks) > 1:
        ax.set(xticks=ticks, yticks=ticks)
    ax.set_xlabel("$x_1$" if bottom else "", labelpad=1)
    ax.set_ylabel("$x_2$" if left else "", labelpad=0)
    ax.tick_params(labelleft=left, labelbottom=bottom, length=2.5)
    ax.spines[:].set_visible(True)


def shade(ax: Axes, law: Law | None, limits: Limits) -> None:
    """Draw a law's density in grey, behind what comes next; nothing for None."""
    if law is not None:
        heat(ax, array(density_values(law, limits)), limits, SHADE, 0.0, None)


def heat(
    ax: Axes, values: NDArray[Any], limits: Limits, cmap: str | Colormap, vmin: float, vmax: float | None
) -> AxesImage:
    """Draw the values (rows, columns) of a square grid of cells on [low, high]²."""
    extent = (*limits, *limits)
    return ax.imshow(values, cmap, origin="lower", extent=extent, vmin=vmin, vmax=vmax, interpolation="nearest")


def grid(rows: int, columns: int, width: float = 2.4) -> tuple[Picture, NDArray[Any]]:
    """rows × columns square panels: at most `width` inches each, and together at most a page wide."""
    return canvas(rows, columns, panel=(width, width), layout="compressed", sharex=True, sharey=True)


def wrapped(count: int, width: float = 2.4) -> tuple[Picture, list[Axes], int]:
    """`count` square panels in rows of at most four; the picture, the axes used, and the number of
    columns."""
    columns = min(count, 3 if count in (3, 5, 6, 9) else 4)
    picture, axes = grid(-(-count // columns), columns, width)
    for ax in axes.flat[count:]:
        ax.remove()
    return picture, list(axes.flat[:count]), columns


def place(ax: Axes, index: int, columns: int, count: int, limits: Limits, title: str) -> None:
    """`frame` for panel `index` of a wrapped row."""
    frame(ax, limits, title, left=index % columns == 0, bottom=index + columns >= count)
    if index // columns < (count - 1) // columns:
        ax.set_xlabel("")  # the last row names the axis; a panel above a gap still shows its numbers


@styled
def density(law: Law, *, limits: Limits = LIMITS, title: str = "", ax: Axes | None = None) -> Figure:
    """The density of one law in the plane, with its scale. Alt: heat map of p(x), brighter where likelier."""
    ax = single(ax, (3.6, 3.0), listed([title], "Density in the plane"))
    image = heat(ax, array(density_values(law, limits)), limits, DENSITY, 0.0, None)
    frame(ax, limits, title)
    picture_of(ax).colorbar(image, ax=ax, label="p(x)", shrink=0.9).outline.set_visible(False)
    return picture_of(ax)


@styled
def densities(
    laws: Sequence[Law],
    titles: Sequence[str] | None = None,
    *,
    shared: bool = True,
    decades: float | None = None,
    limits: Limits = LIMITS,
) -> Figure:
    """The densities of several laws side by side. Alt: heat maps in a row, brighter where likelier.

    Args:
        shared: one colour scale for all, so that heights compare; False scales each by its own maximum, so
            that a flat law beside a peaked one still shows its shape.
        decades: show log₁₀ of the density over its maximum instead, down to so many decades below: what is faint
            becomes visible. All that is lower, 0 too, has the darkest colour.

    Raises:
        ValueError: as many titles as laws are needed.
    """
    same_length(laws=laws, titles=titles)
    values = [array(density_values(law, limits)) for law in laws]
    peaks = [float(value.max()) for value in values]
    if shared and decades is not None:
        peaks = [max(peaks)] * len(peaks)
    low, high, label = 0.0, max(peaks), "p(x)"
    if decades is not None or not shared:
        values, high, label = [value / peak for value, peak in zip(values, peaks)], 1.0, "p(x) / max p"
    if decades is not None:
        values = [np.log10(np.maximum(value, 10.0**-decades)) for value in values]
        low, high, label = -decades, 0.0, "log₁₀ p(x) / max p"
    picture, axes, columns = wrapped(len(laws))
    for i, (ax, value) in enumerate(zip(axes, values)):
        image = heat(ax, value, limits, DENSITY, low, high)
        place(ax, i, columns, len(laws), limits, titles[i] if titles else "")
    bar = picture.colorbar(image, ax=axes, label=label, aspect=30)
    bar.outline.set_visible(False)
    scale = "on one colour scale" if shared else "each on its own colour scale"
    scale += ", logarithmic" if decades is not None else ""
    picture.description = listed(titles or [], f"Densities in the plane, {scale}")
    return picture


@styled
def samples(
    points: Sequence[Tensor],
    law: Law | Sequence[Law] | None = None,
    titles: Sequence[str] | None = None,
    *,
    colours: Sequence[str] | None = None,
    limits: Limits = LIMITS,
    size: float | None = None,
) -> Figure:
    """Points over the grey density of the law that they should follow. Alt: scatter plots over a grey
    density.

    Args:
        points: one (N, 2) cloud per panel: [samples], [early, late], …
        law: the law behind every panel, or one law per panel.
        titles: one per panel.
        colours: one per panel; the model's by default. Data are `DATA`, noise is `NOISE`.
        size: of a point, in square points; by default smaller for larger clouds.

    Raises:
        ValueError: the lists differ in length, or a cloud is not (N, 2).
    """
    count = len(points)
    laws = list(law) if isinstance(law, Sequence) else [law] * count
    same_length(points=points, laws=laws, titles=titles, colours=colours)
    picture, axes, columns = wrapped(count, 3.0 if count == 1 else 2.4)
    for i, (ax, cloud) in enumerate(zip(axes, points)):
        if cloud.ndim != 2 or cloud.shape[1] != 2:
            raise ValueError(f"points must be a list of clouds (N, 2), got one of {tuple(cloud.shape)}")
        shade(ax, laws[i], limits)
        area = size or float(np.clip(2500 / max(len(cloud), 1), 1.0, 8.0))
        colour = colours[i] if colours else MODEL
        ax.scatter(
            array(cloud)[:, 0],
            array(cloud)[:, 1],
            s=area,
            color=colour,
            linewidths=0,
            alpha=0.75,
            rasterized=True,
        )
        place(ax, i, columns, count, limits, titles[i] if titles else "")
    picture.description = listed(titles or [], "Samples over the exact density")
    return picture


@styled
def density_difference(
    laws: Sequence[Law], reference: Law, titles: Sequence[str] | None = None, *, limits: Limits = LIMITS
) -> Figure:
    """p − reference for several laws, in one diverging map centred at 0. Alt: red where p is too high, blue
    too low.

    Raises:
        ValueError: as many titles as laws are needed.
    """
    same_length(laws=laws, titles=titles)
    base = density_values(reference, limits)
    values = [array(density_values(law, limits) - base) for law in laws]
    top = max(float(np.abs(value).max()) for value in values) or 1.0
    picture, axes, columns = wrapped(len(laws))
    for i, (ax, value) in enumerate(zip(axes, values)):
        image = heat(ax, value, limits, DIFFERENCE, -top, top)
        place(ax, i, columns, len(laws), limits, titles[i] if titles else "")
    picture.colorbar(image, ax=axes, label="difference of densities", aspect=30).outline.set_visible(False)
    picture.description = listed(titles or [], "Differences of densities, red where too high and blue where too low")
    return picture


@styled
def ellipses(
    means: Tensor,
    covariances: Tensor,
    *,
    law: Law | None = None,
    colour: str = MODEL,
    radii: Sequence[float] = (1.0, 2.0),
    labels: Sequence[str] | None = None,
    title: str = "",
    limits: Limits = LIMITS,
    ax: Axes | None = None,
) -> Figure:
    """Gaussians in the plane as the ellipses (x − m)ᵀC⁻¹(x − m) = r². Alt: nested ellipses around their
    centres.

    Args:
        means: (K, 2).
        covariances: (K, 2, 2), symmetric and positive.
        radii: the r, in standard deviations; larger ones are fainter.
        labels: text at each centre.

    Raises:
        ValueError: the shapes disagree.
    """
    if means.shape[1:] != (2,) or covariances.shape != (len(means), 2, 2):
        raise ValueError(f"need (K, 2) and (K, 2, 2), got {tuple(means.shape)} and {tuple(covariances.shape)}")
    ax = single(ax, (3.2, 3.2), listed([title], f"{len(means)} Gaussians as ellipses"))
    shade(ax, law, limits)
    variances, axes = np.linalg.eigh(array(covariances))
    for k, centre in enumerate(array(means)):
        angle = float(np.degrees(np.arctan2(axes[k, 1, 1], axes[k, 0, 1])))
        width, height = 2 * np.sqrt(variances[k, ::-1])
        for i, radius in enumerate(sorted(radii)):
            style = dict(fill=False, edgecolor=colour, linewidth=1.6 if i == 0 else 0.9, alpha=1.0 / (1 + 0.6 * i))
            ax.add_patch(Ellipse(centre, radius * width, radius * height, angle=angle, **style))
        ax.plot(*centre, ".", color=colour, markersize=5)
        if labels:
            ax.annotate(labels[k], centre, (4, 4), textcoords="offset points", color=INK)
    frame(ax, limits, title)
    return picture_of(ax)
