"""Sheets of images, laid out to the pixel; and of letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from gmbook.plots.style import DPI, GREY, INK, PAGE, PAPER, TIME, Picture, array, listed, styled

CELL = 0.62  # inches: the height of one image
LETTER, LINE, NAME = 0.085, 0.2, 0.079  # inches: a letter's width (17 dots), a line's height, a letter of a line's name
SHADES = 12  # colours between a line's first and last letter


def tile(images: NDArray[Any], columns: int, gap: int = 1, background: float = 0.985) -> NDArray[Any]:
    """Images (N, H, W, C) in rows of `columns`, `gap` pixels apart: (rows·(H + gap) − gap, columns·(W + gap)
    − gap, C).

    Image i stands in row i // columns, column i % columns.
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    sheet = np.full(shape, background, dtype=images.dtype)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def pixels(x: Tensor, limits: tuple[float, float]) -> NDArray[Any]:
    """(N, C, H, W) with values in `limits` -> (N, H, W, 3) in [0, 1], clipped; one channel becomes grey.

    Raises:
        ValueError: x is not (N, 1, H, W) or (N, 3, H, W).
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or len(x) == 0:
        raise ValueError(f"images must be (N, 1, H, W) or (N, 3, H, W), got {tuple(x.shape)}")
    scaled = (array(x) - limits[0]) / (limits[1] - limits[0])
    scaled = np.clip(scaled, 0, 1).transpose(0, 2, 3, 1)
    return np.repeat(scaled, 4 - scaled.shape[3], axis=3) if scaled.shape[3] == 1 else scaled


def sheet_picture(
    sheet: NDArray[Any],
    cell: int,
    title: str,
    rows: Sequence[tuple[str, float]],
    columns: Sequence[tuple[str, float]],
) -> Picture:
    """A picture in which every pixel of `sheet` is a square of whole device pixels, with names at the
    margins.

    `cell` is the height of one image, shown at about CELL inches where the page has room; `rows` and
    `columns` are (name, centre in sheet pixels).
    """
    left = 0.08 + max([0.085 * max(map(len, name.split("\n"))) for name, _ in rows], default=0.0)
    top = 0.06 + 0.24 * bool(title) + 0.2 * bool(columns)
    height, width = sheet.shape[:2]
    fitting = min((PAGE - left - 0.08) * DPI / width, 7.5 * DPI / height)
    zoom = max(1, int(min(fitting, CELL * DPI / cell)))
    margin = int(left * DPI), int(top * DPI), int(0.08 * DPI)  # left, top, right and bottom, in device pixels
    whole_width, whole_height = margin[0] + zoom * width + margin[2], margin[1] + zoom * height + margin[2]
    picture = Picture(figsize=(whole_width / DPI, whole_height / DPI), dpi=100, crop=False)
    box = (
        margin[0] / whole_width,
        margin[2] / whole_height,
        zoom * width / whole_width,
        zoom * height / whole_height,
    )
    ax = picture.add_axes(box, facecolor=PAPER)
    ax.imshow(sheet, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    ax.spines[:].set_visible(False)
    ax.set_yticks([at for _, at in rows], [name for name, _ in rows])
    ax.set_xticks([at for _, at in columns], [name for name, _ in columns])
    ax.tick_params(length=0, pad=3, labeltop=True, labelbottom=False)
    if title:
        picture.text(margin[0] / whole_width, 1 - 0.05 * DPI / whole_height, title, va="top", fontsize=10)
    return picture


def pleasant_columns(count: int) -> int:
    """Columns for `count` images: about 1.5 √count, with no gap in the last row where that is possible."""
    choices = range(int(np.ceil(np.sqrt(count))), int(3 * np.sqrt(count)) + 1)
    return min(choices, key=lambda columns: (count % columns != 0, abs(columns - 1.5 * np.sqrt(count))))


@styled
def images(
    x: Tensor,
    columns: int | None = None,
    *,
    limits: tuple[float, float] = (-1.0, 1.0),
    title: str = "",
    gap: int = 1,
) -> Figure:
    """A sheet of images, grey or colour, in reading order. Alt: a grid of images.

    Args:
        x: (N, 1, H, W) or (N, 3, H, W).
        columns: by default somewhat more than rows.
        limits: the values shown as black and white: the book's (−1, 1) by default, (0, 1) for probabilities.
        gap: pixels between images.

    Raises:
        ValueError: x has another shape.
    """
    values = pixels(x, limits)
    columns = columns or pleasant_columns(len(x))
    picture = sheet_picture(tile(values, columns, gap), x.shape[2], title, [], [])
    picture.description = listed([title], f"A sheet of {len(x)} images")
    return picture


@styled
def image_rows(
    rows: Mapping[str, Tensor],
    columns: Sequence[str] | None = None,
    *,
    limits: tuple[float, float] = (-1.0, 1.0),
    title: str = "",
    gap: int = 1,
) -> Figure:
    """Named rows of images: a denoising progression, originals over reconstructions. Alt: rows of images
    with names.

    Args:
        rows: name -> (N, C, H, W), all of one shape.
        columns: N names above the columns, e.g. times.
        limits: the values shown as black and white.

    Raises:
        ValueError: the rows differ in shape, or there are not N names.
    """
    shapes = {tuple(x.shape) for x in rows.values()}
    if len(shapes) != 1:
        raise ValueError(f"all rows must have one shape (N, C, H, W), got {sorted(shapes)}")
    count, _, height, width = shapes.pop()
    if columns is not None and len(columns) != count:
        raise ValueError(f"need one name per column: {count} columns, {len(columns)} names")
    sheet = tile(np.concatenate([pixels(x, limits) for x in rows.values()]), count, gap)
    row_names = [(name, i * (height + gap) + (height - 1) / 2) for i, name in enumerate(rows)]
    column_names = [(name, i * (width + gap) + (width - 1) / 2) for i, name in enumerate(columns or [])]
    picture = sheet_picture(sheet, height, title, row_names, column_names)
    picture.description = listed([title, *rows], "Rows of images")
    return picture


@styled
def text(
    lines: Mapping[str, str] | Sequence[str],
    values: Tensor | None = None,
    *,
    title: str = "",
    wrap: int = 78,
    mask: str = "·",
) -> Figure:
    """Lines of text in letters of one width, each in a colour that says when it came. Alt: lines of text.

    Args:
        lines: name -> text, or texts without names; all of one length where there are values.
        values: in [0, 1], (N, L): from the colour of noise (first) to the model's (last); NaN is black.
        wrap: letters per row; a longer line goes on below.
        mask: the character that stands for what is not known, in grey.

    Raises:
        ValueError: there is no line, or values are not (N, L).
    """
    names = list(lines) if isinstance(lines, Mapping) else [""] * len(lines)
    texts = list(lines.values()) if isinstance(lines, Mapping) else list(lines)
    shape = (len(texts), max(map(len, texts), default=0))
    if not texts or values is not None and tuple(values.shape) != shape:
        raise ValueError(f"need at least one line, and values of shape {shape}, one per letter")
    hues = np.full(shape, np.nan) if values is None else array(values)
    margin = 0.1 + NAME * max(map(len, names)) + 0.1 * any(names)
    wrap = min(wrap, int((PAGE - margin - 0.1) / LETTER), shape[1])
    rows = [(i, start) for i in range(len(texts)) for start in range(0, max(len(texts[i]), 1), wrap)]
    width, height = margin + wrap * LETTER + 0.1, 0.12 + LINE * len(rows) + 0.26 * bool(title)
    picture = Picture(figsize=(width, height), dpi=100, crop=False)
    for row, (i, start) in enumerate(rows):
        y = 1 - (0.06 + 0.26 * bool(title) + LINE * (row + 0.5)) / height
        if start == 0 and names[i]:
            picture.text(0.1 / width, y, names[i], va="center", fontsize=9)
        part = texts[i][start : start + wrap]
        colours = [letter_colour(c, hues[i, start + k], mask) for k, c in enumerate(part)]
        for colour in sorted(set(colours)):  # one text per colour; the letters' width keeps them apart
            shown = "".join(c if own == colour else " " for c, own in zip(part, colours))
            at = (margin / width, y)
            picture.text(*at, shown, va="center", color=colour, family="DejaVu Sans Mono", fontsize=LETTER * 72 / 0.602)
    if title:
        picture.text(0.1 / width, 1 - 0.06 / height, title, va="top", fontsize=10)
    picture.description = listed([title, *(f"{n}: {t}" if n else t for n, t in zip(names, texts))], "Lines of text")
    return picture


def letter_colour(letter: str, value: float, mask: str) -> str:
    """Grey for the mask, black without a value, else the shade of time."""
    if letter == mask:
        return GREY
    return INK if np.isnan(value) else to_hex(TIME(round(float(value) * SHADES) / SHADES))
