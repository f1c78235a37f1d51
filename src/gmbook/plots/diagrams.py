"""Diagrams of mechanisms: boxes for what there is, arrows for who feeds whom, dashed where something is learned."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from gmbook.plots.style import INK, MODEL, PAPER, canvas, styled

Box = tuple[float, float, str]  # x, y, in units of a box's width and height, and what it says
Arrow = tuple[str, str, str]  # from, to, and what stands beside it; "~" before it for a learned one


@styled
def mechanism(
    boxes: Mapping[str, Box], arrows: Sequence[Arrow], colours: Mapping[str, str] | None = None, height: float = 0.75
) -> Figure:
    """Boxes joined by arrows. Alt: boxes with words, joined by arrows; learned arrows are dashed and vermilion.

    Args:
        boxes: by name: its centre on a grid (x to the right, y upwards), and its words.
        arrows: (from, to, words); words that begin with ~ belong to something learned.
        colours: the border of a box; ink by default.
        height: inches of a row of the grid.

    Raises:
        ValueError: an arrow joins a box that there is not.
    """
    missing = {name for arrow in arrows for name in arrow[:2]} - set(boxes)
    if missing:
        raise ValueError(f"arrows need boxes: {', '.join(sorted(missing))} are not among {', '.join(boxes)}")
    xs, ys = [box[0] for box in boxes.values()], [box[1] for box in boxes.values()]
    picture, axes = canvas(1, 1, panel=(7.2, height * (max(ys) - min(ys) + 1)))
    ax = axes[0, 0]
    ax.set(xlim=(min(xs) - 0.5, max(xs) + 0.5), ylim=(min(ys) - 0.5, max(ys) + 0.5))
    ax.axis("off")
    drawn = {}
    for name, (x, y, words) in boxes.items():
        border = (colours or {}).get(name, INK)
        style = {"boxstyle": "round,pad=0.4", "facecolor": PAPER, "edgecolor": border, "linewidth": 1.2}
        drawn[name] = ax.text(x, y, words, ha="center", va="center", color=INK, bbox=style, zorder=3)
    picture.canvas.draw()  # the boxes' sizes are known only now
    for start, end, words in arrows:
        learned = words.startswith("~")
        colour = MODEL if learned else INK
        (x0, y0, _), (x1, y1, _) = boxes[start], boxes[end]
        ax.annotate(
            "",
            (x1, y1),
            (x0, y0),
            arrowprops={
                "arrowstyle": "-|>",
                "color": colour,
                "linestyle": "--" if learned else "-",
                "patchA": drawn[start].get_bbox_patch(),
                "patchB": drawn[end].get_bbox_patch(),
                "shrinkA": 2,
                "shrinkB": 2,
            },
        )
        level, left = y0 == y1, y1 > y0  # beside an arrow, on the outer side of a loop
        ax.annotate(
            words.removeprefix("~"),
            ((x0 + x1) / 2, (y0 + y1) / 2),
            (0, 7) if level else (-7 if left else 7, 6 if x1 > x0 else 0),  # above an arrow to the right
            textcoords="offset points",
            ha="center" if level else "right" if left else "left",
            va="bottom" if level else "center",
            color=colour,
            fontsize=8.5,
        )
    told = "; ".join(
        f"{start} to {end}{': ' if words else ''}{words.removeprefix('~')}" for start, end, words in arrows
    )
    picture.description = textwrap.shorten(f"A diagram with arrows from {told}.".replace("\n", " "), 600)
    return picture
