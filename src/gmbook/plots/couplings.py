"""Couplings on the line: which noise goes with which datum."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from gmbook.plots.style import DATA, GREY, PAGE, array, canvas, listed, same_length, styled


@styled
def couplings(
    pairs: Sequence[tuple[Tensor, Tensor]],
    titles: Sequence[str],
    curve: tuple[Tensor, Tensor] | None = None,
    *,
    limits: tuple[float, float] = (-3.2, 3.2),
) -> Figure:
    """Pairs (x_0, x_1) of numbers as points, x_1 to the right and x_0 upwards. Alt: scatter plots of pairs.

    Args:
        pairs: one (x_0 (N,), x_1 (N,)) per panel.
        curve: (x_1, x_0), a map drawn behind each panel.

    Raises:
        ValueError: as many titles as panels are needed.
    """
    same_length(pairs=pairs, titles=titles)
    picture, axes = canvas(1, len(pairs), panel=(min(3.0, PAGE / len(pairs)), 2.9), sharey=True)
    for ax, (x0, x1), title in zip(axes[0], pairs, titles):
        if curve is not None:
            ax.plot(*(array(part) for part in curve), color=GREY, linewidth=1.2, zorder=1)
        ax.plot(array(x1), array(x0), ".", color=DATA, markersize=2.5, alpha=0.6)
        ax.set(xlim=limits, ylim=limits, aspect="equal", title=title, xlabel="$x_1$ (noise)")
    axes[0, 0].set_ylabel("$x_0$ (data)")
    picture.description = listed(list(titles), "Pairs of noise and data as points")
    return picture
