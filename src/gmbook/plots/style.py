"""The one style of the book's figures: colours with a meaning, panels, and pictures that show themselves.

Figures are built on matplotlib's object interface, with no pyplot state: a function returns a `Picture`, a
cell whose last line is that call shows it once, and nothing has to be closed. The page of a picture is an
opaque near-white panel (`PAPER`) with dark text, so that it reads the same on a light and on a dark page and
in print.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

# One colour per meaning (Okabe and Ito's palette, safe for colour-blind readers).
DATA = "#000000"  # data and truth
GREY = "#767676"  # the truth behind something else: floors, references
MODEL = "#D55E00"  # the model
BASELINE = "#0072B2"  # a second model, or the baseline
NOISE = "#56B4E9"
THIRD = "#009E73"
HIGHLIGHT = "#E69F00"
CYCLE = (MODEL, BASELINE, THIRD, HIGHLIGHT, NOISE, DATA)  # for several curves with no meaning of their own

PAPER, INK = "#FCFCFC", "#1A1A1A"
DENSITY = "cividis"  # a density, or a probability, that is the subject of the figure
SHADE = LinearSegmentedColormap.from_list("shade", [PAPER, "#8C8C8C"])  # the density behind points and arrows
DIFFERENCE = "RdBu_r"  # differences, always centred at 0
TIME = LinearSegmentedColormap.from_list("time", [NOISE, "#8E8A94", MODEL])  # from noise (start) to sample (end)

PAGE = 7.2  # inches: a full page's width, shown as 720 CSS pixels
DPI = 200  # twice the 100 CSS pixels of an inch
LIMITS = (-3.2, 3.2)  # both axes of a law in the plane, unless told

RC: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture everywhere
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "figure.titlesize": 10.5,
    "mathtext.fontset": "dejavusans",
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#555555",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "axes.unicode_minus": True,
    "svg.hashsalt": "gmbook",
}
styled = matplotlib.rc_context(RC)  # a decorator: the style holds inside a figure function, and nowhere else


class Picture(Figure):
    """A matplotlib figure that a notebook shows as PNG at twice the screen's resolution, with its
    description.

    Args:
        description: one sentence for those who cannot see the picture; it is the plain-text output.
        crop: cut the margins off when rendering. Sheets of pixels, laid out to the pixel, do not want it.
    """

    def __init__(self, *args: Any, description: str = "", crop: bool = True, **options: Any):
        super().__init__(*args, **options)
        FigureCanvasAgg(self)
        self.description, self.crop = description, crop

    def png(self, dpi: int = DPI) -> bytes:
        """The picture as PNG: the same bytes on every call, with neither date nor version inside."""
        stream = io.BytesIO()
        with matplotlib.rc_context(RC):  # some texts, tick labels for example, are made while drawing
            self.savefig(
                stream,
                format="png",
                dpi=dpi,
                metadata={"Software": None},
                bbox_inches="tight" if self.crop else None,
                pad_inches=0.06,
            )
        return compressed(Image.open(stream).convert("RGB"), 256 if self.crop else None)

    def _ipython_display_(self) -> None:
        """Show the PNG at its size in CSS pixels, whichever backend is active (a formatter that the inline
        backend registers for figures would win over `_repr_png_`)."""
        from IPython.display import display

        png = self.png()
        width, height = (side // 2 for side in png_size(png))
        size = {"width": width, "height": height}
        display({"image/png": png, "text/plain": self.description}, metadata={"image/png": size}, raw=True)


def compressed(image: Image.Image, colours: int | None) -> bytes:
    """PNG with a palette of so many colours, a third of the bytes and no visible loss; None keeps every
    colour."""
    stream = io.BytesIO()
    image = image.quantize(colours, dither=Image.Dither.NONE) if colours else image
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the PNG's header."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def canvas(
    rows: int = 1,
    columns: int = 1,
    *,
    panel: tuple[float, float] = (4.6, 3.0),
    description: str = "",
    **options: Any,
) -> tuple[Picture, NDArray[Any]]:
    """An empty picture of rows × columns panels of `panel` inches, never wider than the page; axes (rows,
    columns)."""
    width, height = panel
    scale = min(1.0, PAGE / (columns * width))
    picture = Picture(
        figsize=(columns * width * scale, rows * height * scale),
        layout=options.pop("layout", "constrained"),
        dpi=100,
        description=description,
    )
    return picture, picture.subplots(rows, columns, squeeze=False, **options)


@styled
def panels(rows: int = 1, columns: int = 1, height: float = 2.8) -> tuple[Picture, NDArray[Any]]:
    """A page-wide picture of empty panels, to be filled by figure functions that take `ax`; axes (rows,
    columns)."""
    return canvas(rows, columns, panel=(PAGE / columns, height))


def picture_of(ax: Axes) -> Picture:
    """The picture that an axes belongs to.

    Raises:
        TypeError: the axes was not made by this package.
    """
    picture = ax.figure
    if not isinstance(picture, Picture):
        raise TypeError("`ax` must come from plots.panels(...), so that the picture has the book's style")
    return picture


def single(ax: Axes | None, panel: tuple[float, float] = (4.6, 3.0), description: str = "") -> Axes:
    """The given axes, or the only one of a new picture. The picture's description grows by `description`."""
    if ax is None:
        ax = canvas(panel=panel)[1][0, 0]
    picture = picture_of(ax)
    picture.description = f"{picture.description} {description}".strip()
    return ax


def array(x: Tensor | Sequence[float] | float) -> NDArray[Any]:
    """A tensor, wherever it lives, as a numpy array; floats in double precision."""
    x = torch.as_tensor(x).detach().cpu()
    return (x.double() if x.is_floating_point() else x).numpy()


def listed(names: Sequence[str], things: str) -> str:
    """'things: a; b', or just 'things', for descriptions."""
    names = [name.replace("\n", " ") for name in names if name]
    return textwrap.shorten(f"{things}: {'; '.join(names)}." if names else f"{things}.", 400)


def same_length(**lists: Sequence[Any] | None) -> None:
    """Refuse lists that should be parallel and are not.

    Raises:
        ValueError: two lists that are not None differ in length.
    """
    lengths = {name: len(values) for name, values in lists.items() if values is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError("give one per panel: " + ", ".join(f"{n} {name}" for name, n in lengths.items()))


def luminance(colour: str) -> float:
    """Relative luminance in [0, 1], for the choice of a readable text colour."""
    return float(np.dot((0.2126, 0.7152, 0.0722), np.asarray(to_rgb(colour)) ** 2.2))
