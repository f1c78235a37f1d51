"""One's own data: a folder of pictures, a table of points, a text, as the sets that the models of the book train on.

    train_set = own.images("photos", size=32)   # an ImageSet
    train_set = own.points("table.csv")         # a PointSet
    train_set = own.text("novel.txt")           # a TextSet

Everything that must be chosen (size, channels, columns, alphabet) is found in the data, and `repr` says it. The split
is the same at every call: pictures and points are shuffled with a fixed seed and cut 80/10/10, a text is cut 90/5/5 in
its order. Nothing is written.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmbook.data.errors import DataCorrupt, DataMissing
from gmbook.data.sets import ImageSet, TextSet, split_range

LEAST = 20  # examples: below it a split leaves nothing to measure on
SIDE = 32  # of pictures, where no size is given: what a laptop trains in an hour
GRID = 8  # sides are multiples of it, so that every network of the book can halve them
LETTERS = 4096  # the largest alphabet; what is rarer becomes UNKNOWN
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
CHARACTERS = 2_000
SHUFFLED = {"train": (0, 80), "valid": (80, 90), "test": (90, 100)}  # per cent


@dataclass(frozen=True)
class PointSet:
    """Rows of numbers, as they stand in the file; `standardise` gives what a model sees.

    Attributes:
        x: (N, D) float32.
        columns: the names of the D columns.
        mean, std: of the training part, (D,).

    Its name and its split are as in `ImageSet`.
    """

    x: Tensor
    name: str
    split: str
    columns: tuple[str, ...]
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape, (D,)."""
        return tuple(self.x.shape[1:])

    def standardise(self, x: Tensor) -> Tensor:
        """(x − mean)/std: (N, D) -> (N, D)."""
        return (x - self.mean.to(x)) / self.std.to(x)

    def __repr__(self) -> str:
        return f"{self.name}, {self.split}: {len(self):,} points of {len(self.columns)}: {', '.join(self.columns)}"


def kind(path: str | Path) -> str:
    """What a path holds: "images" (a folder), "points" (.csv, .tsv) or "text" (.txt, .md).

    Raises:
        DataMissing: there is nothing.
        ValueError: it is neither.
    """
    path = Path(path)
    if not path.exists():
        raise DataMissing(f"there is no folder or file {path}")
    if path.is_dir():
        return "images"
    kinds = {".csv": "points", ".tsv": "points", ".txt": "text", ".md": "text"}
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{path} is no folder of pictures, and its name does not end in one of {', '.join(kinds)}")
    return kinds[path.suffix.lower()]


def digest(x: Tensor) -> str:
    """The SHA-256 of a part's numbers and shape: whether data are still those that a run began with."""
    return hashlib.sha256(f"{tuple(x.shape)} {x.dtype} ".encode() + x.contiguous().numpy().tobytes()).hexdigest()


def _shuffled(n: int, split: str, what: str) -> Tensor:
    """The indices of a split of n examples, shuffled with a fixed seed."""
    start, stop = split_range(split, **SHUFFLED)
    if n < LEAST:
        raise ValueError(f"{what}: {n} are too few to train and measure on, at least {LEAST} are needed")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order[n * start // 100 : n * stop // 100]


# ------------------------------------------------------------------------------------------------------ pictures


def images(folder: str | Path, size: int | None = None, split: str = "train") -> ImageSet:
    """The pictures of a folder and its subfolders, each cut to its largest central square and made `size` pixels wide.

    Read is every file whose ending Pillow knows; hidden files are passed over. Orientation tags are obeyed,
    transparency is laid on white. Pictures stay grey if all of them are, else all get three channels. Labels are all 0.

    Args:
        size: pixels of a side, a multiple of 8; by default the largest one that the smallest picture has, at most 32.

    Raises:
        DataMissing: there is no such folder, or no picture in it.
        DataCorrupt: a file is no readable picture; it is named.
        ValueError: a picture is smaller than `size`, or there are fewer than 20.
    """
    from PIL import Image

    folder = Path(folder)
    if not folder.is_dir():
        raise DataMissing(f"there is no folder {folder}")
    known = Image.registered_extensions()  # ending -> format
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and known.get(file.suffix.lower()) in Image.OPEN
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not files:
        raise DataMissing(f"{folder} holds no pictures: names that end in .png, .jpg and the like are looked for")
    part = _shuffled(len(files), split, f"the pictures in {folder}")
    with ThreadPoolExecutor() as pool:
        seen = list(pool.map(_measure, files))
    side = _side(files, [least for least, _ in seen], size)
    mode = "L" if all(grey for _, grey in seen) else "RGB"
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(partial(_picture, side=side, mode=mode), [files[i] for i in part]))
    x = torch.from_numpy(np.stack(read))  # (N, S, S, C)
    x = x.permute(0, 3, 1, 2).contiguous()
    return ImageSet(x, torch.zeros(len(x), dtype=torch.int64), folder.resolve().name, split, (folder.resolve().name,))


def _opened(file: Path):  # type: ignore[no-untyped-def]  # Pillow's Image, which is imported on use
    """The first frame of a picture, turned upright, on white: mode L or RGB."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as raw:
            picture = ImageOps.exif_transpose(raw)
            if picture.mode.startswith("I"):  # 16 bits of grey
                wide = np.asarray(picture, dtype=np.int64)
                return Image.fromarray((wide >> 8 if wide.max() > 255 else wide).clip(0, 255).astype(np.uint8))
            if picture.has_transparency_data:
                over = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
                return picture.convert("L" if raw.mode in ("LA", "La") else "RGB")
            return picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataCorrupt(f"{file} cannot be read as a picture ({error}): remove or repair it") from error


def _measure(file: Path) -> tuple[int, bool]:
    """The shorter side of a picture, and whether it is grey."""
    picture = _opened(file)
    return min(picture.size), picture.mode == "L"


def _side(files: list[Path], sides: list[int], size: int | None) -> int:
    """The side of the squares that are cut: `size`, or what the smallest picture allows."""
    least = min(sides)
    smallest = files[sides.index(least)]
    if size is not None and (size < GRID or size % GRID):
        raise ValueError(f"size must be a multiple of {GRID}, got {size}")
    if least < (size or GRID):
        fits = least // GRID * GRID
        advice = f"choose a size of at most {fits}, or remove it" if fits else "remove it"
        raise ValueError(f"{smallest} is {least} pixels across, smaller than {size or GRID}: {advice}")
    return size or min(SIDE, least // GRID * GRID)


def _picture(file: Path, side: int, mode: str) -> np.ndarray:
    """The central square of a picture: (side, side, C) uint8."""
    from PIL import Image, ImageOps

    square = ImageOps.fit(_opened(file).convert(mode), (side, side), Image.Resampling.LANCZOS)
    return np.asarray(square).reshape(side, side, -1)


# ------------------------------------------------------------------------------------------------------ points


def points(file: str | Path, split: str = "train") -> PointSet:
    """The rows of a .csv or .tsv file, all columns numbers; the separator (tab, semicolon or comma) and a header
    are found.

    Raises:
        DataMissing: there is no such file.
        DataCorrupt: it is no table, or a cell is empty or not a number; row and column are named.
        ValueError: a column is constant, or there are fewer than 20 rows.
    """
    import pandas

    file = Path(file)
    if not file.is_file():
        raise DataMissing(f"there is no file {file}")
    try:
        with open(file, encoding="utf-8-sig") as lines:
            first_line = lines.readline()
        separator = next((mark for mark in "\t;," if mark in first_line), ",")
        table = pandas.read_csv(
            file, sep=separator, header=None, dtype=str, skipinitialspace=True, encoding="utf-8-sig"
        )
    except (ValueError, pandas.errors.ParserError) as error:
        raise DataCorrupt(f"{file} is no table ({error}): write one row per point, separated by commas") from error
    first = pandas.to_numeric(table.iloc[0], errors="coerce")
    headed = bool(first.isna().any())
    names = (
        tuple(str(name) for name in table.iloc[0]) if headed else tuple(f"column {j + 1}" for j in range(len(first)))
    )
    table = table.iloc[int(headed) :]
    values = table.apply(pandas.to_numeric, errors="coerce").to_numpy(dtype=np.float64, copy=True)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        raise DataCorrupt(
            f"{file}, row {row + 1 + headed}, column {names[column]!r}: {table.iloc[row, column]!r} is not a finite "
            "number: fill it in, or leave the row or the column out"
        )
    x = torch.from_numpy(values.astype(np.float32))
    train = torch.from_numpy(values)[_shuffled(len(x), "train", f"the points in {file}")]
    mean, std = train.mean(0), train.std(0)
    for name, spread in zip(names, std.tolist()):
        if spread == 0:
            raise ValueError(f"{file}: column {name!r} has the same value in all rows: leave it out")
    return PointSet(x[_shuffled(len(x), split, str(file))], file.stem, split, names, mean.float(), std.float())


# ------------------------------------------------------------------------------------------------------ text


def text(file: str | Path, split: str = "train") -> TextSet:
    """The characters of a UTF-8 text; its alphabet is every character that occurs, in the order of Unicode.

    Where there are more than 4,096 of them, the rarest become one, the replacement character.

    Raises:
        DataMissing: there is no such file.
        DataCorrupt: it is not UTF-8.
        ValueError: it is shorter than 2,000 characters, or holds only one of them.
    """
    file = Path(file)
    if not file.is_file():
        raise DataMissing(f"there is no file {file}")
    try:
        content = file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataCorrupt(f"{file} is not UTF-8 (byte {error.start:,}): save it as UTF-8") from error
    n = len(content)
    if n < CHARACTERS:
        raise ValueError(f"{file}: {n:,} characters are too few to train and measure on, {CHARACTERS:,} are needed")
    codes, tokens, counts = np.unique(
        np.frombuffer(content.encode("utf-32-le"), dtype="<u4"), return_inverse=True, return_counts=True
    )
    if len(codes) < 2:
        raise ValueError(f"{file} holds nothing but the character {chr(codes[0])!r}")
    if len(codes) > LETTERS:
        kept = np.sort(np.argsort(-counts, kind="stable")[: LETTERS - 1])
        place = np.full(len(codes), LETTERS - 1)
        place[kept] = np.arange(LETTERS - 1)
        codes, tokens = np.append(codes[kept], ord(UNKNOWN)), place[tokens]
    start, stop = split_range(split, train=(0, 90), valid=(90, 95), test=(95, 100))
    part = tokens[n * start // 100 : n * stop // 100].astype(np.uint8 if len(codes) <= 256 else np.int16)
    alphabet = "".join(map(chr, codes))
    return TextSet(torch.from_numpy(part), split, n, is_prefix=False, title=file.stem, alphabet=alphabet)
