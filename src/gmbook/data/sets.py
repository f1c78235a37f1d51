"""The real data of the book: 8×8 digits, MNIST, CIFAR-10, text8, its own prose.

One function per set, `digits`, `mnist`, `cifar10`, `text8`, `prose`, each with a split "train", "valid" or "test".
They read what is on the machine (the folder that GMBOOK_DATA names, then `data/cache/`), compare its digest with the
registered one, and never download; `gmbook.data.download.fetch`, or the command `gmbook data NAME`, does.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gmbook.data.alphabet import ALPHABET, NOT_A_SYMBOL, TO_TOKEN, decode
from gmbook.data.download import PACKAGE, entry, sound
from gmbook.data.errors import DataCorrupt, DataMissing

T = TypeVar("T")
DIGIT_CLASSES = tuple("0123456789")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEXT8_BEGINNING = b" anarchism originated as a term of abuse"


@dataclass(frozen=True)
class ImageSet:
    """Images with labels, as integers; `scale`, `dequantise` or `binarise` turn them into what a model sees.

    Attributes:
        x: (N, C, H, W) uint8, in 0..levels-1.
        y: (N,) int64, indices into `classes`.
        name: what to call the set in a figure.
        split: "train", "valid" or "test".
        classes: the names of the labels.
        levels: how many grey levels a pixel can have: 256, or 17 for the 8×8 digits.
    """

    x: Tensor
    y: Tensor
    name: str
    split: str
    classes: tuple[str, ...]
    levels: int = 256

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape, (C, H, W)."""
        return tuple(self.x.shape[1:])

    def __repr__(self) -> str:
        return f"{self.name}, {self.split}: {len(self):,} images {self.shape}, {self.levels} levels"


@dataclass(frozen=True)
class TextSet:
    """A text as tokens, one per letter.

    Attributes:
        tokens: (N,) integers, contiguous, in 0..V−1; `chunks` and `TextBatches` serve them as int64.
        split: "train", "valid" or "test".
        whole: how many characters the file has of which this is a split.
        is_prefix: the file is only the beginning of text8. Say so beside every bits-per-character figure.
        title: what the whole text is called.
        alphabet: the V letters, in the order of their tokens: text8's 27, if nothing else is said.
    """

    tokens: Tensor
    split: str
    whole: int
    is_prefix: bool
    title: str = "text8"
    alphabet: str = ALPHABET

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def name(self) -> str:
        """What to call the set in a figure: its title, or how much of it there is."""
        return f"{self.title} (its first {self.whole / 1e6:.1f} MB)" if self.is_prefix else self.title

    def decode(self, tokens: Tensor) -> str:
        """Tokens of this alphabet to letters: (L,) integers in 0..V−1 -> a string of L characters."""
        return decode(tokens, alphabet=self.alphabet)

    def chunks(self, length: int) -> Tensor:
        """The text cut into windows that do not overlap: (⌊N / length⌋, length) int64; the rest is cut."""
        if not 1 <= length <= len(self):
            raise ValueError(f"length must be in 1..{len(self)}, got {length}")
        count = len(self) // length
        return self.tokens[: count * length].view(count, length).long()

    def __repr__(self) -> str:
        letters = "" if self.alphabet == ALPHABET else f" of {len(self.alphabet)} kinds"
        return f"{self.name}, {self.split}: {len(self):,} characters{letters}"


# ---------------------------------------------------------------------------------------------- the sets


def digits(split: str = "train") -> ImageSet:
    """scikit-learn's 1,797 real handwritten digits of 8×8 pixels and 17 levels; always on the machine.

    Split in the order of the file: 1,297 train, 200 valid, 300 test. This is not MNIST.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]  # (N, 1, 8, 8)
    y = torch.from_numpy(bunch.target.astype(np.int64))
    part = split_range(split, train=slice(0, 1297), valid=slice(1297, 1497), test=slice(1497, 1797))
    return ImageSet(x[part], y[part], entry("digits").title, split, DIGIT_CLASSES, levels=17)


def mnist(split: str = "train") -> ImageSet:
    """MNIST, 28×28 grey: 55,000 train, 5,000 valid (the last of the official training set), 10,000 test.

    Raises:
        DataMissing: the four official files are nowhere.
        DataCorrupt: one of them is damaged, or another set's.
    """
    part = split_range(split, train=slice(0, 55_000), valid=slice(55_000, 60_000), test=slice(0, 10_000))
    stem, count = ("t10k", 10_000) if split == "test" else ("train", 60_000)
    x = _read_idx(f"mnist/{stem}-images-idx3-ubyte.gz", (count, 28, 28))
    y = _read_idx(f"mnist/{stem}-labels-idx1-ubyte.gz", (count,))
    x, labels = x[part, None].copy(), y[part].astype(np.int64)  # (N, 1, 28, 28)
    return ImageSet(torch.from_numpy(x), torch.from_numpy(labels), entry("mnist").title, split, DIGIT_CLASSES)


def cifar10(split: str = "train") -> ImageSet:
    """CIFAR-10, 32×32 colour: 45,000 train, 5,000 valid (the last of the official training set), 10,000 test.

    Reads the binary version, records of one label byte and 3 × 32 × 32 pixels; nothing is unpickled.

    Raises:
        DataMissing: the six official files are nowhere.
        DataCorrupt: one of them is damaged, or another set's.
    """
    batches, part = split_range(
        split,
        train=(("1", "2", "3", "4", "5"), slice(0, 45_000)),
        valid=(("5",), slice(5_000, 10_000)),
        test=(("test",), slice(0, 10_000)),
    )
    names = ["test_batch.bin" if b == "test" else f"data_batch_{b}.bin" for b in batches]
    files = [sound("cifar10", f"cifar-10-batches-bin/{name}") for name in names]
    records = np.concatenate([np.fromfile(file, dtype=np.uint8) for file in files]).reshape(-1, 3073)[part]
    x = torch.from_numpy(records[:, 1:].copy()).view(-1, 3, 32, 32)
    y = torch.from_numpy(records[:, 0].astype(np.int64))
    return ImageSet(x, y, entry("cifar10").title, split, CIFAR10_CLASSES)


def text8(split: str = "train") -> TextSet:
    """text8: the first 10⁸ characters of a cleaned Wikipedia, split 90/5/5 in the order of the text.

    A file that holds only a beginning of text8 is accepted, split by the same fractions, and says so:
    `is_prefix`, `name`.

    Raises:
        DataMissing: there is no text8/text8.
        DataCorrupt: the file is not text8: another digest, another beginning, or another symbol.
    """
    start, stop = _text_part(split)
    path = sound("text8", "text8/text8")
    raw = path.read_bytes()
    n = len(raw)
    if not raw.startswith(TEXT8_BEGINNING) or n < 1_000:
        raise _not_text8(path, f"it does not begin as text8 does, or its {n:,} bytes are too few")
    tokens = np.frombuffer(raw.translate(TO_TOKEN), dtype=np.uint8)
    if tokens.max() == NOT_A_SYMBOL:
        place = int(tokens.argmax())
        raise _not_text8(path, f"byte {place:,} is {raw[place : place + 1]!r}, not a-z or a space")
    return TextSet(
        torch.from_numpy(tokens[n * start // 100 : n * stop // 100].copy()),
        split,
        n,
        is_prefix=n < entry("text8").whole,
    )


def prose(split: str = "train") -> TextSet:
    """A snapshot of this book's own prose, in text8's alphabet, split 90/5/5; always on the machine. It is not text8.

    Small, and on one subject: bits per character on it say nothing about text8's. `python -m tools.prose` made it.
    """
    start, stop = _text_part(split)
    raw = (PACKAGE / "prose.txt").read_bytes()
    tokens = np.frombuffer(raw.translate(TO_TOKEN), dtype=np.uint8)
    part = tokens[len(raw) * start // 100 : len(raw) * stop // 100].copy()
    return TextSet(torch.from_numpy(part), split, len(raw), is_prefix=False, title="this book's prose")


def text8_or_prose(split: str = "train") -> TextSet:
    """text8, or the book's own prose where text8 is missing.

    Never silently: the replacement is printed in one line, and the set's `name` says what it is.
    """
    try:
        return text8(split)
    except DataMissing:
        found = prose(split)
        print(
            f"text8 is not on this machine: this runs on {found.name}, {found.whole / 1e3:.0f} thousand letters, "
            "instead (`gmbook data text8` fetches text8)."
        )
        return found


def digits_or(name: str, split: str = "train") -> ImageSet:
    """The images that a chapter asks for, "mnist" or "cifar10", or the 8×8 digits where they are missing.

    Never silently: the replacement is printed in one line, and the set's `name` says what it is.
    """
    loaders = {"digits": digits, "mnist": mnist, "cifar10": cifar10}
    if name not in loaders:
        raise ValueError(f"there are no images {name!r}; there are {', '.join(loaders)}")
    try:
        return loaders[name](split)
    except DataMissing:
        found = digits(split)
        title = entry(name).title
        print(
            f"{title} is not on this machine: this runs on scikit-learn's {found.name} instead "
            f"(`gmbook data {name}` fetches {title})."
        )
        return found


# ---------------------------------------------------------------------------------------------- reading files


def split_range(split: str, **parts: T) -> T:
    """The part that a split names, or a ValueError that lists the names."""
    if split not in parts:
        raise ValueError(f"there is no split {split!r}; there are {', '.join(parts)}")
    return parts[split]


def _text_part(split: str) -> tuple[int, int]:
    """Where a split of a text begins and ends, per cent."""
    return split_range(split, train=(0, 90), valid=(90, 95), test=(95, 100))


def _not_text8(path: Path, why: str) -> DataCorrupt:
    return DataCorrupt(f"{path} is damaged ({why}): delete it and run `gmbook data text8`")


def _read_idx(file: str, shape: tuple[int, ...]) -> np.ndarray:
    """One of MNIST's gzipped idx files: magic 0, 0, 8, rank; big-endian sizes; bytes of this shape."""
    raw = gzip.decompress(sound("mnist", file).read_bytes())
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
