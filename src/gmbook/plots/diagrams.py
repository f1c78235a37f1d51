"""Diagrams of a method's moving parts: who feeds whom, what is learned, what is fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from gmbook.plots.style import BASELINE, DATA, GREY, INK, MODEL, NOISE, PAGE, PAPER, canvas, listed, styled


class Box(NamedTuple):
    """A part at (x, y), in units in which a page is 12 wide. `fixed` parts have a dashed frame: nobody trains them."""

    x: float
    y: float
    text: str
    colour: str = GREY
    fixed: bool = False
    width: float = 2.0


class Arrow(NamedTuple):
    """From one part to another, with a word beside it; `back` marks what flows back in training (dashed)."""

    start: str
    end: str
    text: str = ""
    back: bool = False
    bend: float = 0.0
    colour: str = INK


@styled
def diagram(boxes: Mapping[str, Box], arrows: Sequence[Arrow], height: float) -> Figure:
    """Boxes with arrows between them. Frames are whole where something is learned, and dashed where it is fixed.

    Alt: a diagram of the parts, with arrows from each to those that it feeds.

    Args:
        boxes: name -> part; the arrows use the names.
        arrows: drawn behind the boxes.
        height: of the picture in inches; y runs over 12 · height / 7.2 units.
    """
    picture, axes = canvas(panel=(PAGE, height), description=listed([box.text for box in boxes.values()], "Diagram"))
    ax = axes[0, 0]
    ax.set(xlim=(0, 12), ylim=(0, 12 * height / PAGE), aspect="equal")
    ax.axis("off")
    patches = {}
    for name, box in boxes.items():
        patches[name] = FancyBboxPatch(
            (box.x - box.width / 2, box.y - 0.4),
            box.width,
            0.8,
            boxstyle="round,pad=0.08",
            facecolor=PAPER,
            edgecolor=box.colour,
            linewidth=1.8,
            linestyle=(0, (3, 2)) if box.fixed else "-",
            zorder=2,
        )
        ax.add_patch(patches[name])
        ax.text(box.x, box.y, box.text, ha="center", va="center", zorder=3)
    for arrow in arrows:
        ax.add_patch(
            FancyArrowPatch(
                (boxes[arrow.start].x, boxes[arrow.start].y),
                (boxes[arrow.end].x, boxes[arrow.end].y),
                patchA=patches[arrow.start],
                patchB=patches[arrow.end],
                connectionstyle=f"arc3,rad={arrow.bend}",
                arrowstyle="-|>",
                mutation_scale=11,
                linestyle=(0, (2, 2)) if arrow.back else "-",
                color=arrow.colour,
                linewidth=1.2,
                zorder=1,
            )
        )
        a, b = boxes[arrow.start], boxes[arrow.end]
        # on a bent arrow the middle lies half a bend to the right of the straight line
        x, y = (a.x + b.x) / 2 + arrow.bend * (b.y - a.y) / 2, (a.y + b.y) / 2 - arrow.bend * (b.x - a.x) / 2
        ax.text(x, y + 0.22, arrow.text, ha="center", va="center", fontsize=8.5, color=arrow.colour, zorder=4)
    return picture


def two_players() -> Figure:
    """The GAN: two learned networks, and what each of them is told."""
    boxes = {
        "z": Box(1.1, 1.2, "noise $z$", NOISE, True, 1.5),
        "g": Box(3.9, 1.2, "generator $G$", MODEL),
        "x": Box(3.9, 3.4, "data $x$", DATA, True, 1.5),
        "d": Box(7.6, 2.3, "discriminator\n$\\ell(x)$", BASELINE),
        "ld": Box(10.9, 3.4, "$L_D$", BASELINE, True, 1.2),
        "lg": Box(10.9, 1.2, "$L_G$", MODEL, True, 1.2),
    }
    arrows = [
        Arrow("z", "g"),
        Arrow("g", "d", "samples"),
        Arrow("x", "d"),
        Arrow("d", "ld"),
        Arrow("d", "lg"),
        Arrow("ld", "d", "moves D only", True, 0.45, BASELINE),
        Arrow("lg", "g", "through D, moves G only", True, -0.32, MODEL),
    ]
    return diagram(boxes, arrows, 2.8)


def guessed_codes() -> Figure:
    """The VAE: encoder, drawn code, decoder, and the two parts of the bound."""
    boxes = {
        "x": Box(1.0, 2.6, "data $x$", DATA, True, 1.5),
        "q": Box(3.4, 2.6, "encoder\n$\\mu(x),\\ \\sigma(x)$", BASELINE, False, 2.0),
        "z": Box(6.3, 2.6, "$z=\\mu+\\sigma\\odot\\varepsilon$", GREY, True, 2.1),
        "e": Box(6.3, 0.9, "noise $\\varepsilon$", NOISE, True, 1.5),
        "p": Box(9.0, 2.6, "decoder\n$p_\\theta(x|z)$", MODEL, False, 1.9),
        "rate": Box(3.4, 0.9, "rate\nKL to the prior", BASELINE, True, 2.0),
        "dist": Box(9.7, 0.9, "distortion\n$-\\log p_\\theta(x|z)$", MODEL, True, 2.3),
    }
    arrows = [
        Arrow("x", "q"),
        Arrow("q", "z"),
        Arrow("e", "z"),
        Arrow("z", "p"),
        Arrow("p", "dist"),
        Arrow("q", "rate"),
        Arrow("dist", "q", "back through the draw", True, -0.62, MODEL),
    ]
    return diagram(boxes, arrows, 2.9)
