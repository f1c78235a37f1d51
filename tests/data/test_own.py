"""One's own data: what is found in them is what was put there, and the odd file is named in one clear line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from gmbook.data import own
from gmbook.data.batches import Batches
from gmbook.data.download import DataCorrupt, DataMissing

SPLITS = ("train", "valid", "test")


def save(folder, name, pixels, mode=None, **options):
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    (picture if mode is None else picture.convert(mode)).save(folder / name, **options)


def album(folder, n=40, channels=3):
    """n pictures of odd sizes, each of one colour, which names it: colour k for picture k."""
    for k in range(n):
        shape = (17 + k, 60 - k % 7, channels) if channels > 1 else (17 + k, 60 - k % 7)
        save(folder / ("more" if k % 2 else "."), f"picture {k:02} ü.png", np.full(shape, 5 * k))
    return folder


def test_pictures_of_odd_sizes_become_squares_of_one_size_in_three_disjoint_parts(tmp_path):
    parts = [own.images(album(tmp_path / "photos"), split=split) for split in SPLITS]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert all(part.shape == (3, 16, 16) and part.x.dtype == torch.uint8 for part in parts)  # the smallest has 17
    colours = torch.cat([part.x.flatten(1) for part in parts])
    assert (colours == colours[:, :1]).all() and sorted(colours[:, 0].tolist()) == [5 * k for k in range(40)]
    assert repr(parts[0]) == "photos, train: 32 images (3, 16, 16), 256 levels"
    again = own.images(tmp_path / "photos", size=8)
    assert torch.equal(again.x[:, :, :1, :1], parts[0].x[:, :, :1, :1]) and again.shape == (3, 8, 8)


def test_the_central_square_is_cut_and_grey_stays_grey(tmp_path):
    for k in range(20):
        pixels = np.zeros((16, 48), dtype=np.uint8)
        pixels[:, 16:32] = 10 * k + 1  # the middle third
        save(tmp_path, f"{k}.png", pixels)
    found = own.images(tmp_path)
    assert found.shape == (1, 16, 16)
    assert all(len(picture.unique()) == 1 and picture.unique() % 10 == 1 for picture in found.x)
    save(tmp_path, "colour.png", np.zeros((16, 16, 3)))
    assert own.images(tmp_path).shape == (3, 16, 16)


def test_transparency_lies_on_white_sixteen_bits_are_scaled_and_orientation_is_obeyed(tmp_path):
    save(tmp_path, "clear.png", np.zeros((8, 8, 4)))
    assert np.asarray(own._opened(tmp_path / "clear.png")).min() == 255
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(own._opened(tmp_path / "deep.png")).max() == 40_000 >> 8
    turned = Image.fromarray(np.zeros((8, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert own._opened(tmp_path / "turned.jpg").size == (8, 24)


def test_the_odd_picture_is_named(tmp_path):
    photos = album(tmp_path / "photos")
    (photos / "notes.pdfx").write_text("not a picture by its name: passed over")
    (photos / ".hidden.png").write_bytes(b"hidden")
    assert len(own.images(photos)) == 32
    (photos / "broken.png").write_bytes((photos / "picture 00 ü.png").read_bytes()[:50])
    with pytest.raises(DataCorrupt, match=r"broken\.png cannot be read as a picture"):
        own.images(photos)
    save(photos, "broken.png", np.zeros((12, 40, 3)))
    with pytest.raises(
        ValueError, match=r"broken\.png is 12 pixels across, smaller than 16: choose a size of at most 8"
    ):
        own.images(photos, size=16)
    save(photos, "broken.png", np.zeros((5, 40, 3)))
    with pytest.raises(ValueError, match=r"broken\.png is 5 pixels across.*remove it"):
        own.images(photos)
    with pytest.raises(ValueError, match="multiple of 8"):
        own.images(photos, size=30)
    with pytest.raises(DataMissing, match="no folder"):
        own.images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataMissing, match="no pictures"):
        own.images(tmp_path / "empty")
    with pytest.raises(ValueError, match="19 are too few.*at least 20"):
        own.images(album(tmp_path / "few", 19))


@pytest.mark.parametrize("separator, header", [(",", "a,b"), (";", None), ("\t", "a\tb")])
def test_points_are_read_with_any_separator_with_or_without_a_header(tmp_path, separator, header):
    x = np.random.default_rng(0).normal(size=(100, 2)) * [1, 100] + [5, 0]
    file = tmp_path / "table.csv"
    np.savetxt(file, x, delimiter=separator, header=header or "", comments="")
    if header is None:
        file.write_text(file.read_text().lstrip("\n"))
    parts = [own.points(file, split) for split in SPLITS]
    assert [len(part) for part in parts] == [80, 10, 10] and parts[0].shape == (2,)
    assert parts[0].columns == (("a", "b") if header else ("column 1", "column 2"))
    rows = torch.cat([part.x for part in parts])
    torch.testing.assert_close(rows[rows[:, 0].argsort()], torch.from_numpy(x[x[:, 0].argsort()]).float())
    z = parts[0].standardise(parts[0].x)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(2), atol=1e-5, rtol=0)
    assert torch.equal(parts[2].mean, parts[0].mean)


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda rows: [*rows[:4], "7,seven", *rows[5:]], "row 5, column 'b': 'seven' is not a finite number"),
        (lambda rows: [*rows[:4], "7,", *rows[5:]], "row 5, column 'b'.*fill it in"),
        (lambda rows: [rows[0], *("7," + row.split(",")[1] for row in rows[1:])], "column 'a' has the same value"),
        (lambda rows: rows[:15], "14 are too few"),
        (lambda rows: [], "is no table"),
    ],
)
def test_the_odd_row_is_named(tmp_path, change, told):
    rows = ["a,b", *(f"{k},{k * k}" for k in range(40))]
    file = tmp_path / "table.csv"
    file.write_text("\n".join(change(rows)))
    with pytest.raises(ValueError, match=told):
        own.points(file)


def test_a_single_column_is_a_table(tmp_path):
    file = tmp_path / "one.csv"
    file.write_text("\n".join(f"{k / 7:.5f}" for k in range(50)))
    found = own.points(file)
    assert found.shape == (1,) and found.columns == ("column 1",) and len(found) == 40


def test_a_text_keeps_all_its_letters_in_order(tmp_path):
    text = "Der Fluß fließt — ohne Eile.\n" * 100
    file = tmp_path / "novel.txt"
    file.write_text(text, encoding="utf-8")
    parts = [own.text(file, split) for split in SPLITS]
    assert "".join(part.decode(part.tokens) for part in parts) == text
    assert parts[0].alphabet == "".join(sorted(set(text))) and parts[0].name == "novel"
    assert [len(part) for part in parts] == [len(text) * 90 // 100, len(text) * 95 // 100 - len(text) * 90 // 100, 145]
    file.write_bytes(text.encode("latin-1", errors="replace"))
    with pytest.raises(DataCorrupt, match=r"not UTF-8 \(byte 7\)"):
        own.text(file)
    file.write_text("short")
    with pytest.raises(ValueError, match="too few"):
        own.text(file)
    file.write_text("a" * 3000)
    with pytest.raises(ValueError, match="nothing but"):
        own.text(file)


def test_the_rarest_letters_of_a_large_alphabet_become_one(tmp_path):
    common = "".join(chr(0x4E00 + k) for k in range(4095))
    file = tmp_path / "book.txt"
    file.write_text(common * 3 + "éèêë", encoding="utf-8")
    found = own.text(file)
    assert found.alphabet == common + own.UNKNOWN and found.tokens.dtype == torch.int16
    assert own.text(file, "test").decode(own.text(file, "test").tokens[-5:]) == common[-1] + own.UNKNOWN * 4


def test_the_kind_is_read_from_the_path(tmp_path):
    for name in ("a.csv", "b.TSV", "c.txt", "d.pdf"):
        (tmp_path / name).write_text("")
    assert [own.kind(tmp_path / name) for name in ("", "a.csv", "b.TSV", "c.txt")] == [
        "images",
        "points",
        "points",
        "text",
    ]
    with pytest.raises(ValueError, match=r"\.csv, \.tsv, \.txt, \.md"):
        own.kind(tmp_path / "d.pdf")
    with pytest.raises(DataMissing, match="no folder or file"):
        own.kind(tmp_path / "nowhere")


def test_batches_take_arrays_and_doubles():
    """A table of doubles is what numpy gives, and float32 is what networks take."""
    x = np.arange(40.0).reshape(20, 2)
    for given in (x, torch.from_numpy(x)):
        (batch,) = next(Batches(given, size=20))
        assert batch.dtype == torch.float32 and torch.equal(batch[batch[:, 0].argsort()], torch.from_numpy(x).float())
