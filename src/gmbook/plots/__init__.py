"""The figures of the book, in one style, so that a chapter's cell is one call.

Every function takes tensors or laws and returns a figure that a notebook shows when it is the last line of
its cell. Nothing touches pyplot's state. Colours carry meanings, and the meanings have names: DATA, MODEL,
BASELINE, NOISE, THIRD, HIGHLIGHT. A docstring's sentence after "Alt:" says what a reader who cannot see the
figure should be told.
"""

from gmbook.plots.animation import Animation, animate
from gmbook.plots.lines import bars, curves, heatmaps, histogram, paths_1d
from gmbook.plots.motion import field_error, fields, trajectories, warped_grid
from gmbook.plots.planes import densities, density, density_difference, ellipses, samples
from gmbook.plots.sheets import image_rows, images, text
from gmbook.plots.style import (
    BASELINE,
    DATA,
    DENSITY,
    DIFFERENCE,
    GREY,
    HIGHLIGHT,
    MODEL,
    NOISE,
    THIRD,
    Picture,
    panels,
    styled,
)

__all__ = [
    "BASELINE",
    "DATA",
    "DENSITY",
    "DIFFERENCE",
    "GREY",
    "HIGHLIGHT",
    "MODEL",
    "NOISE",
    "THIRD",
    "Animation",
    "Picture",
    "animate",
    "bars",
    "curves",
    "densities",
    "density",
    "density_difference",
    "ellipses",
    "field_error",
    "fields",
    "heatmaps",
    "histogram",
    "image_rows",
    "images",
    "panels",
    "paths_1d",
    "samples",
    "styled",
    "text",
    "trajectories",
    "warped_grid",
]
