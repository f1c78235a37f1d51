"""Figures: the numbers behind the pixels, the colours behind the meanings, and that a kernel shows them
once."""

import base64
import io
import math
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image
from scipy.stats import multivariate_normal, norm

from gmbook import plots
from gmbook.core.gaussians import GaussianMixture
from gmbook.plots.lines import smoothed, spread
from gmbook.plots.motion import mass_levels
from gmbook.plots.planes import lattice
from gmbook.plots.sheets import tile
from gmbook.plots.style import PAGE, png_size

COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 0.4]])
LAW = GaussianMixture.full(torch.ones(1), torch.tensor([[1.0, -0.5]]), COVARIANCE[None])
LINE = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([0.25]))


def image_values(ax):
    return np.asarray(ax.get_images()[0].get_array())


def pull(x, t):
    return -x * (1 + t)


def push(x, t):
    return x * (1 + t)


PLANES = {
    "density": lambda: plots.density(LAW),
    "densities": lambda: plots.densities([LAW, LAW], ["a", "b"]),
    "density_difference": lambda: plots.density_difference([LAW, LAW], LAW),
    "samples": lambda: plots.samples([torch.randn(50, 2)] * 5, LAW),
    "fields": lambda: plots.fields([pull, push], [LAW, LAW], [0.5, 0.1], ["exact", "learned"], error=True),
    "field_error": lambda: plots.field_error(pull, push, [LAW, LAW], [0.5, 0.1]),
    "trajectories": lambda: plots.trajectories([torch.randn(5, 7, 2)] * 2, LAW, ["a", "b"]),
    "warped_grid": lambda: plots.warped_grid([torch.sin], LAW),
    "ellipses": lambda: plots.ellipses(torch.zeros(1, 2), torch.eye(2)[None]),
}
LINES = {
    "curves": lambda: plots.curves({"a": torch.rand(30), "b": torch.rand(4, 30)}, floors={"floor": 0.1}),
    "bars": lambda: plots.bars({"a": torch.rand(3), "b": torch.rand(3)}, list("xyz"), xlabel="k", ylabel="bits"),
    "histogram": lambda: plots.histogram({"": torch.randn(100)}),
    "paths_1d": lambda: plots.paths_1d(torch.linspace(1, 0, 5), [torch.randn(5, 6)] * 2, lambda t: LINE),
    "heatmaps": lambda: plots.heatmaps([torch.eye(4)] * 2, annotate=True),
}


def panels_of(picture):
    return [ax for ax in picture.axes if ax.get_label() != "<colorbar>"]


@pytest.mark.parametrize("make", [*PLANES.values(), *LINES.values()], ids=[*PLANES, *LINES])
def test_style_holds_in_every_figure(make):
    """Named axes on the outer panels, nothing under 9 pt at page width, at most a page wide, and a
    description."""
    torch.manual_seed(0)
    before = dict(matplotlib.rcParams)
    picture = make()
    png = picture.png()
    assert dict(matplotlib.rcParams) == before, "the style must not leak"
    assert png_size(png)[0] <= 2 * 100 * PAGE + 20
    assert picture.description.endswith(".")
    assert any(ax.get_xlabel() for ax in panels_of(picture))
    assert any(ax.get_ylabel() for ax in panels_of(picture))
    texts = [text for text in picture.findobj(matplotlib.text.Text) if text.get_text().strip()]
    assert min(text.get_fontsize() for text in texts) >= 9
    corner = Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0))
    assert min(corner) >= 245, "the panel is opaque and near white"


@pytest.mark.parametrize("make", PLANES.values(), ids=PLANES)
def test_planes_share_their_limits_and_are_equal_in_scale(make):
    axes = panels_of(make())
    assert {(*ax.get_xlim(), *ax.get_ylim()) for ax in axes} == {(-3.2, 3.2, -3.2, 3.2)}
    assert all(ax.get_aspect() == 1 for ax in axes)


@pytest.mark.parametrize("make", [PLANES["samples"], LINES["curves"]], ids=["plane", "lines"])
def test_bytes_are_deterministic(make):
    def drawn():
        torch.manual_seed(3)
        return make().png()

    assert drawn() == drawn()


def test_density_map_shows_the_density_at_the_centres_of_its_pixels():
    values = image_values(plots.density(LAW).axes[0])
    cells = len(values)
    centre = lambda i: -3.2 + 6.4 * (i + 0.5) / cells  # noqa: E731
    exact = multivariate_normal([1.0, -0.5], COVARIANCE.numpy())
    for row, column in ((80, 100), (65, 110), (10, 150)):  # rows run along x₂
        assert values[row, column] == pytest.approx(exact.pdf([centre(column), centre(row)]), rel=1e-4)
    assert values.sum() * (6.4 / cells) ** 2 == pytest.approx(1, abs=2e-3)


def test_densities_share_one_scale_or_not():
    wide = LAW.diffused(torch.tensor(1.0), torch.tensor(1.0))
    together = [ax.get_images()[0] for ax in plots.densities([LAW, wide]).axes[:2]]
    assert together[0].get_clim() == together[1].get_clim()
    apart = [ax.get_images()[0] for ax in plots.densities([LAW, wide], shared=False).axes[:2]]
    assert [np.max(image.get_array()) for image in apart] == [1, 1]


def test_densities_on_a_logarithmic_scale():
    """log₁₀ p against scipy's, over the highest peak of all; what lies below the last decade is cut there."""
    wide = LAW.diffused(torch.tensor(1.0), torch.tensor(1.0))
    picture = plots.densities([LAW, wide], decades=4)
    exact = [multivariate_normal([1, -0.5], COVARIANCE + s * torch.eye(2)).pdf(lattice().numpy()) for s in (0, 1)]
    top = exact[0].max()
    for ax, density in zip(picture.axes, exact):
        expected = np.maximum(np.log10(density / top), -4).reshape(160, 160)
        np.testing.assert_allclose(image_values(ax), expected, atol=1e-4)
        assert ax.get_images()[0].get_clim() == (-4, 0)
    alone = plots.densities([LAW, wide], decades=4, shared=False)
    assert abs(image_values(alone.axes[1]).max()) < 1e-9


def test_differences_are_centred_at_zero():
    wide = LAW.diffused(torch.tensor(1.0), torch.tensor(0.5))
    low, high = plots.density_difference([wide], LAW).axes[0].get_images()[0].get_clim()
    assert low == -high < 0
    image = plots.heatmaps([torch.tensor([[0.0, -3.0], [1.0, 2.0]])], difference=True).axes[0].get_images()[0]
    assert image.get_clim() == (-3, 3) and image.get_cmap().name == plots.DIFFERENCE


def test_colours_carry_their_meanings():
    points = [torch.zeros(4, 2)] * 3
    figure = plots.samples(points, colours=[plots.DATA, plots.MODEL, plots.NOISE])
    shown = [to_hex(ax.collections[0].get_facecolor()[0]) for ax in panels_of(figure)]
    assert shown == ["#000000", "#d55e00", "#56b4e9"]
    fields = panels_of(plots.fields([pull, push], [LAW], [0.5], ["exact", "learned"]))
    assert [to_hex(ax.collections[0].get_facecolor()[0]) for ax in fields] == ["#000000", "#d55e00"]
    (ax,) = plots.curves({"a": torch.rand(5), "b": torch.rand(5)}).axes
    assert [line.get_color() for line in ax.lines] == [plots.MODEL, plots.BASELINE]
    assert [text.get_text() for text in ax.texts] == ["a", "b"]


def test_fields_keep_directions_and_bound_lengths():
    figure = plots.fields([pull, push], [LAW], [0.5], ["exact", "learned"], cells=9)
    arrows = [np.stack([ax.collections[0].U, ax.collections[0].V], 1) for ax in panels_of(figure)]
    points = lattice(cells=9).numpy()
    np.testing.assert_allclose(arrows[0], -arrows[1], atol=1e-6)
    length = np.linalg.norm(arrows[1], axis=1)
    np.testing.assert_allclose(arrows[1] * np.linalg.norm(points, axis=1)[:, None], points * length[:, None], atol=1e-5)
    assert length.max() < 6.4 / 9
    ranks = np.linalg.norm(points, axis=1).argsort(kind="stable")
    assert (np.diff(length[ranks]) > -1e-6).all()


def test_field_error_is_the_norm_of_the_difference():
    values = image_values(plots.field_error(pull, push, [LAW], [0.5]).axes[0])
    points = lattice(cells=80).reshape(80, 80, 2)
    np.testing.assert_allclose(values, 3 * points.norm(dim=-1).numpy(), rtol=1e-5)


def test_mass_levels_of_a_gaussian():
    """{p ≥ level} of a standard normal in the plane holds 1 − e^{−r²/2}, with level e^{−r²/2}/2π."""
    x = torch.linspace(-6, 6, 601)
    density = torch.exp(-(x[:, None] ** 2 + x**2) / 2).numpy() / (2 * math.pi)
    np.testing.assert_allclose(mass_levels(density, (0.95, 0.5)), np.array([0.05, 0.5]) / (2 * math.pi), rtol=0.01)


def test_trajectories_start_and_end_where_the_paths_do():
    paths = torch.randn(6, 4, 2)
    ax = plots.trajectories([paths]).axes[0]
    lines, start, end = ax.collections
    np.testing.assert_allclose(start.get_offsets(), paths[0], rtol=1e-6)
    np.testing.assert_allclose(end.get_offsets(), paths[-1], rtol=1e-6)
    np.testing.assert_allclose(lines.get_segments()[5], paths[:2, 1], rtol=1e-6)  # second particle, first step


def test_warped_grid_is_the_image_of_the_grid():
    figure = plots.warped_grid([lambda z: 2 * z.flip(-1)])
    before, after = (np.array(ax.collections[0].get_segments()) for ax in panels_of(figure))
    np.testing.assert_allclose(after, 2 * before[..., ::-1], rtol=1e-6)


def test_ellipses_lie_on_their_level_sets():
    mean = torch.tensor([[1.0, -0.5]])
    ax = plots.ellipses(mean, COVARIANCE[None], radii=(1.0, 2.0)).axes[0]
    for radius, patch in zip((1.0, 2.0), ax.patches):
        outline = patch.get_patch_transform().transform(patch.get_path().vertices[:-1:3])  # points on the curve
        residual = outline - mean.numpy()
        mahalanobis = np.einsum("ni,ij,nj->n", residual, np.linalg.inv(COVARIANCE.numpy()), residual)
        np.testing.assert_allclose(mahalanobis, radius**2, rtol=1e-4)


def test_curves_smooth_average_and_mark_floors():
    y = torch.arange(10.0)
    np.testing.assert_allclose(smoothed(y.numpy(), 3), [0, 0.5, 1, 2, 3, 4, 5, 6, 7, 8])
    ax = plots.curves({"runs": torch.stack([y, y + 2])}, floors={"exact": 0.5}).axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), y + 1)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.5, 0.5])
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(10 + math.sqrt(2))
    raw, mean = plots.curves({"": y}, smooth=3).axes[0].lines
    assert raw.get_alpha() < 0.3 and mean.get_alpha() is None
    np.testing.assert_allclose(raw.get_ydata(), y)


def test_labels_are_spread_apart_and_stay_inside():
    moved = spread([0.5, 0.51, 0.49, 0.9, 0.0], 0.1)
    assert (np.diff(np.sort(moved)) > 0.1 - 1e-9).all() and min(moved) >= 0 and max(moved) <= 1
    assert np.argsort(moved).tolist() == [4, 2, 0, 1, 3]
    assert moved[3] == 0.9 and moved[0] == pytest.approx(0.5)  # what is free stays; a cluster keeps its centre
    assert max(spread([1.0, 1.0, 1.0], 0.1)) <= 1


def test_histogram_is_a_density_beside_the_exact_one():
    values = torch.tensor([0.1, 0.1, 0.6, 5.0])  # 5.0 lies outside and still counts
    pdf = lambda x: torch.exp(LINE.log_prob(x[:, None]))  # noqa: E731
    ax = plots.histogram({"": values}, pdf, bins=2, limits=(0.0, 1.0)).axes[0]
    np.testing.assert_allclose(ax.patches[0].get_data().values, [1.0, 0.5])
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(y, norm.pdf(x, scale=0.5), rtol=1e-4)


def test_heatmap_puts_row_0_on_top():
    image = plots.heatmaps([torch.tensor([[1.0, 0.0], [0.0, 0.0]])]).axes[0].get_images()[0]
    assert tuple(image.get_extent()) == (-0.5, 1.5, 1.5, -0.5)
    np.testing.assert_array_equal(image.get_array(), [[1, 0], [0, 0]])


def test_heatmaps_in_rows_of_a_given_length_and_ticks_where_they_are_wanted():
    picture = plots.heatmaps([torch.eye(3)] * 6, columns=3)
    rows = [ax.get_subplotspec().rowspan.start for ax in panels_of(picture)]
    assert rows == [0, 0, 0, 1, 1, 1]
    ax = plots.curves({"": torch.rand(3)}, x=torch.tensor([16, 64, 256]), logx=True, xticks=[16, 64, 256]).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels(which="both")] == ["16", "64", "256"]


def test_tile_puts_image_i_in_reading_order():
    images = np.arange(5.0)[:, None, None, None] * np.ones((1, 2, 3, 1))
    sheet = tile(images, columns=3, gap=1, background=-1)
    assert sheet.shape == (5, 11, 1)
    for i in range(5):
        assert (sheet[(i // 3) * 3 :, (i % 3) * 4 :][:2, :3] == i).all()
    assert (sheet[2] == -1).all() and (sheet[:, 3] == -1).all() and (sheet[3:, 8:] == -1).all()


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (0.0, 1.0)], ids=str)
def test_image_sheet_has_the_right_pixels_at_the_right_place(limits):
    """Read back from the PNG: every pixel of an image is a square of whole device pixels, with its exact
    colour."""
    torch.manual_seed(0)
    shown = torch.randint(0, 256, (6, 3, 8, 8))
    x = limits[0] + (limits[1] - limits[0]) * shown.double() / 255
    picture = plots.images(x, columns=3, limits=limits, title="six")
    page = np.asarray(Image.open(io.BytesIO(picture.png())).convert("RGB"))
    box = picture.axes[0].get_position()
    zoom = box.width * page.shape[1] / 26  # three images of 8 and two gaps
    assert zoom == pytest.approx(round(zoom), abs=1e-6)
    left, top = box.x0 * page.shape[1], (1 - box.y1) * page.shape[0]
    for i, row, column in ((0, 0, 0), (2, 7, 1), (4, 3, 5), (5, 7, 7)):
        at_row = top + ((i // 3) * 9 + row + 0.5) * zoom
        at_column = left + ((i % 3) * 9 + column + 0.5) * zoom
        assert page[int(at_row), int(at_column)].tolist() == shown[i, :, row, column].tolist()


def test_image_rows_names_rows_and_columns():
    x = torch.zeros(3, 1, 4, 4)
    ax = plots.image_rows({"noisy": x, "clean": x + 1}, ["1.0", "0.5", "0.0"]).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["noisy", "clean"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1.0", "0.5", "0.0"]
    assert image_values(ax)[0, 0, 0] == 0.5 and image_values(ax)[5, 0, 0] == 1.0


def letters_of(picture):
    """The lines of a text figure, put together again from its colours, from top to bottom, names aside."""
    rows = {}
    for artist in picture.texts:
        if "DejaVu Sans Mono" in artist.get_fontfamily():
            whole = rows.setdefault(-artist.get_position()[1], [" "] * 200)
            for k, c in enumerate(artist.get_text()):
                whole[k] = c if c != " " else whole[k]
    return ["".join(rows[y]).rstrip() for y in sorted(rows)]


def test_text_shows_every_letter_at_its_place_in_the_colour_of_its_value():
    values = torch.tensor([[0.0, 1.0, 0.0, math.nan], [math.nan] * 4])
    picture = plots.text({"one": "ab·d", "two": "e gh"}, values)
    assert letters_of(picture) == ["ab·d", "e gh"]
    colour = {c: artist.get_color() for artist in picture.texts for c in artist.get_text().strip()}
    assert colour["a"].upper() == plots.NOISE and colour["b"].upper() == plots.MODEL
    assert colour["·"] == plots.GREY and colour["d"] == colour["e"] == "#1A1A1A"
    page = np.asarray(Image.open(io.BytesIO(plots.text(["il" * 39]).png())).convert("L"))
    dark = np.nonzero((page < 200).any(0))[0]
    assert dark.max() < page.shape[1] - 8  # 78 letters fit on the page


def test_text_wraps_and_titles():
    picture = plots.text(["abcdefgh", "ij"], wrap=3, title="letters")
    assert letters_of(picture) == ["abc", "def", "gh", "ij"]
    assert picture.texts[-1].get_text() == "letters" and picture.description.endswith(".")
    assert min(artist.get_fontsize() for artist in picture.texts) >= 9
    assert picture.png() == plots.text(["abcdefgh", "ij"], wrap=3, title="letters").png()


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def moving(count=4):
    return plots.animate(
        (plots.samples([torch.full((3, 2), float(i))], titles=["cloud"]) for i in range(count)),
        [i / 4 for i in range(count)],
        description='a "moving" cloud',
    )


def test_animation_is_self_contained_accessible_html():
    animation = moving()
    text = animation._repr_html_()
    tags = Tags(text)
    frames = [base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in tags.of("img")]
    assert frames == animation.frames and len(set(frames)) == 4
    decoded = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]
    assert len({image.size for image in decoded}) == 1
    assert [image["alt"] for image in tags.of("img")][1] == 'a "moving" cloud t = 0.25'
    assert ["hidden" in image for image in tags.of("img")] == [True, True, True, False]
    (slider,) = tags.of("input")
    assert slider["type"] == "range" and slider["aria-label"] and slider["max"] == "3"
    assert len(tags.of("button")) == 1 and "@media print" in text
    assert not re.search(r"(https?:)?//\w", re.sub(r"base64,[^\"]*", "", text)) and not tags.of("script")
    assert not any("id" in attributes for _, attributes in tags.found)  # nothing to collide with a second one
    bundle = animation._repr_mimebundle_()
    sheet = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert sheet.size == (4 * decoded[0].width, decoded[0].height)


def test_a_contact_sheet_of_lines_of_text_is_as_wide_as_one_frame():
    animation = plots.animate((plots.text(["ab" * 30], torch.full((1, 60), i / 4)) for i in range(5)), range(5))
    frame, sheet = (Image.open(io.BytesIO(png)) for png in (animation.frames[0], animation.contact_sheet()))
    assert sheet.size == (frame.width, 5 * frame.height)


def test_animation_is_deterministic_and_keeps_its_budget():
    assert moving(2).frames == moving(2).frames
    generator = torch.Generator().manual_seed(0)
    pictures = [plots.samples([torch.randn(400, 2, generator=generator)], LAW) for _ in range(3)]
    roomy, tight = (plots.animate(pictures, [0, 1, 2], budget=budget) for budget in (150_000, 18_000))
    assert sum(map(len, tight.frames)) <= 18_000 < sum(map(len, roomy.frames)) <= 150_000
    assert tight.width == roomy.width  # the same size on the page, fewer dots
    with pytest.raises(ValueError, match="fewer points or frames"):
        plots.animate(pictures, [0, 1, 2], budget=1_000)


BAD = {
    "one per panel": lambda: plots.densities([LAW], ["a", "b"]),
    r"clouds \(N, 2\)": lambda: plots.samples([torch.zeros(3)]),
    "two fields": lambda: plots.fields([pull], [LAW], [0.5], ["exact"], error=True),
    r"bundles \(T, B, 2\)": lambda: plots.trajectories([torch.zeros(4, 2)]),
    r"bundles \(T, B\)": lambda: plots.paths_1d(torch.zeros(3), [torch.zeros(4, 2)]),
    r"\(K, 2\) and": lambda: plots.ellipses(torch.zeros(1, 2), torch.eye(2)),
    "x \\(N,\\)": lambda: plots.curves({"": torch.zeros(3)}, x=torch.zeros(4)),
    "at least one value": lambda: plots.histogram({"": torch.zeros(0)}),
    "matrices": lambda: plots.heatmaps([torch.zeros(3)]),
    "images must be": lambda: plots.images(torch.zeros(3, 8, 8)),
    "one name per column": lambda: plots.image_rows({"": torch.zeros(3, 1, 8, 8)}, ["a"]),
    "at least one line": lambda: plots.text([]),
    "one per letter": lambda: plots.text(["abc"], torch.zeros(1, 2)),
    "1 to 30 frames": lambda: plots.animate([], []),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_with_advice(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_a_kernel_shows_every_picture_once_as_png():
    """In a real kernel: with and without pyplot's inline backend awake, one PNG per cell, and the
    animation's HTML."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    source = str(Path(plots.__file__).parents[3])
    cells = [
        f"import sys; sys.path.insert(0, {source!r}); import torch; from gmbook import plots",
        "plots.curves({'': torch.arange(5.0)})",
        "import matplotlib.pyplot as plt; plt.plot([1]); plt.show()",
        "plots.curves({'': torch.arange(5.0)})",
        "fig = plots.curves({'': torch.arange(5.0)})",
        "plots.animate((plots.curves({'': torch.arange(5.0) + i}) for i in range(2)), [0, 1])",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "python3"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert Path(sys.executable).exists()
    nbclient.NotebookClient(notebook, timeout=120).execute(env=environment)
    outputs = [[output.get("data", {}) for output in cell.outputs] for cell in notebook.cells]
    for index in (1, 3):
        assert len(outputs[index]) == 1
        assert "image/png" in outputs[index][0] and outputs[index][0]["text/plain"] == "Curves: loss."
        size = notebook.cells[index].outputs[0].metadata["image/png"]
        assert size["width"] == png_size(base64.b64decode(outputs[index][0]["image/png"]))[0] // 2
    assert outputs[4] == []
    assert len(outputs[5]) == 1 and {"text/html", "image/png"} <= set(outputs[5][0])


@pytest.mark.parametrize("backwards", [False, True])
def test_a_curve_is_named_at_its_right_end_in_whichever_order_it_comes(backwards):
    """A falling curve ends low on the right, where tolerances may be given from the largest down."""
    x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([9.0, 5.0, 3.0, 1.0])
    picture = plots.curves({"falling": y.flip(0) if backwards else y}, x=x.flip(0) if backwards else x, ylim=(0, 10))
    (name,) = [text for text in picture.axes[0].texts if text.get_text() == "falling"]
    assert name.xy[1] == pytest.approx(0.1, abs=0.01)


def test_bars_of_a_group_stand_in_its_middle():
    """Two names share a position side by side; where one has no height, the other stands alone in the middle."""
    nan = float("nan")
    figure = plots.bars({"a": torch.tensor([1.0, 2.0, nan]), "b": torch.tensor([3.0, nan, 4.0])})
    drawn = [(p.get_x() + p.get_width() / 2, p.get_height()) for p in figure.axes[0].patches if p.get_height() > 0]
    middles = dict((height, middle) for middle, height in drawn)
    assert middles[2.0] == pytest.approx(2) and middles[4.0] == pytest.approx(3)
    assert (middles[1.0] + middles[3.0]) / 2 == pytest.approx(1) and middles[3.0] - middles[1.0] == pytest.approx(0.41)
