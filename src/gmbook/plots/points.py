"""Points of one quantity against another, with the line where the two are equal."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gmbook.plots.style import GREY, MODEL, array, picture_of, single, styled


@styled
def against(
    x: Tensor, y: Tensor, *, xlabel: str = "", ylabel: str = "", equal: str = "equal", ax: Axes | None = None
) -> Figure:
    """y against x, as points, with the diagonal y = x dashed. Alt: points in a square, and its diagonal.

    Args:
        x, y: (N,) each.
        equal: what stands beside the diagonal.

    Raises:
        ValueError: x and y differ in length.
    """
    across, up = array(x).ravel(), array(y).ravel()
    if len(across) != len(up):
        raise ValueError(f"x and y must be as long as each other, got {len(across)} and {len(up)}")
    ax = single(ax, (3.6, 3.4), f"Points: {ylabel} against {xlabel}")
    low, high = min(across.min(), up.min()), max(across.max(), up.max())
    edge = 0.04 * (high - low) or 1.0
    limits = (low - edge, high + edge)
    ax.plot(limits, limits, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)))
    ax.scatter(across, up, s=16, color=MODEL, alpha=0.75, linewidths=0)
    ax.annotate(equal, (high, high), (-6, -16), textcoords="offset points", color=GREY, fontsize=8.5, ha="left")
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=limits, ylim=limits, aspect="equal")
    return picture_of(ax)
