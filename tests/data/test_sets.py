"""The data sets against their published facts, and damaged files against their errors."""

import gzip
import hashlib
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tools import prose

from gmbook import data
from gmbook.data import download, sets
from gmbook.data.download import DataCorrupt, DataMissing, Source


def moments(x):
    """Mean and standard deviation per channel of uint8 images, in units of 255."""
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in x.transpose(0, 1)]).double()
    counts, values = counts / counts.sum(1, keepdim=True), torch.arange(256) / 255
    mean = counts @ values.double()
    return mean, (counts @ values.double() ** 2 - mean**2).sqrt()


def test_digits_are_the_1797_images_of_scikit_learn():
    from sklearn.datasets import load_digits

    parts = [data.digits(split) for split in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [1297, 200, 300]
    x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
    assert x.shape == (1797, 1, 8, 8) and x.dtype == torch.uint8 and y.dtype == torch.int64
    assert int(x.max()) == 16 and parts[0].levels == 17
    np.testing.assert_array_equal(x.flatten(1).numpy(), load_digits().data)
    np.testing.assert_array_equal(y.numpy(), load_digits().target)
    assert "8×8 digits" in repr(parts[0]) and "MNIST" not in repr(parts[0])
    assert all(int(part.y.bincount().min()) >= 18 for part in parts)  # every class is in every part


def test_mnist(data_home):
    train, valid, test = (data.mnist(split) for split in ("train", "valid", "test"))
    assert [len(part) for part in (train, valid, test)] == [55_000, 5_000, 10_000]
    assert train.shape == (1, 28, 28) and train.y[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    official = torch.cat([train.x, valid.x])
    mean, std = moments(official)
    assert round(float(mean), 4) == 0.1307 and round(float(std), 4) == 0.3081
    labels = torch.cat([train.y, valid.y]).bincount().tolist()
    assert labels == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_cifar10(data_home):
    train, valid, test = (data.cifar10(split) for split in ("train", "valid", "test"))
    assert [len(part) for part in (train, valid, test)] == [45_000, 5_000, 10_000]
    assert train.y[:10_000].bincount().tolist() == [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]
    assert torch.cat([train.y, valid.y]).bincount().tolist() == [5000] * 10
    assert test.y.bincount().tolist() == [1000] * 10
    mean, std = moments(torch.cat([train.x, valid.x]))
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=6e-5, rtol=0)
    torch.testing.assert_close(std, torch.tensor([0.2470, 0.2435, 0.2616]).double(), atol=6e-5, rtol=0)
    assert [train.classes[y] for y in train.y[:3]] == ["frog", "truck", "truck"]


def test_text8(data_home):
    parts = [data.text8(split) for split in ("train", "valid", "test")]
    beginning = " anarchism originated as a term of abuse first used against early working class radicals"
    assert data.decode(parts[0].tokens[: len(beginning)]) == beginning
    tokens = torch.cat([part.tokens for part in parts])
    n = len(tokens)
    assert n == parts[0].whole and parts[0].is_prefix == (n < 100_000_000)
    assert [len(part) for part in parts] == [n * 90 // 100, n * 95 // 100 - n * 90 // 100, n - n * 95 // 100]
    frequencies = tokens.bincount(minlength=27).double() / n
    entropy = -(frequencies * frequencies.log2()).sum()
    assert float(entropy) == pytest.approx(4.116, abs=0.02 if n == 100_000_000 else 6e-4)
    assert ("first" in parts[0].name) == parts[0].is_prefix


def test_prose_is_on_every_machine_in_three_splits_of_one_text(nowhere):
    parts = [data.prose(split) for split in ("train", "valid", "test")]
    text = "".join(data.decode(part.tokens) for part in parts)
    assert len(text) == parts[0].whole and 20_000 < len(text) < 2_000_000
    n = len(text)
    assert [len(part) for part in parts] == [n * 90 // 100, n * 95 // 100 - n * 90 // 100, n - n * 95 // 100]
    assert "  " not in text and "generative model" in text and len(set(text)) == 27
    assert parts[0].name == "this book's prose" and not parts[0].is_prefix


def test_prose_is_made_of_sentences_alone():
    text = (
        "---\njupytext:\n  x: y\n---\n\n# 01 · Naïve\n\nLet $x_1$ be `code`, don’t [see](../a/b.md) {eq}`vae-a`.\n\n"
        "$$\na = b\n$$ (vae-a)\n\n| a | b |\n|---|---|\n\n:::{dropdown} Proof\nIt holds. ∎\n:::\n\n"
        "```{code-cell} ipython3\n---\nmystnb:\n  figure:\n    caption: A red line.\n---\nplots.curves()\n```\nEnd\n"
    )
    assert prose.letters(text) == "zero one naive let be dont see it holds a red line end"


# ---------------------------------------------------------------------------------------- damaged files


@pytest.fixture
def accept(monkeypatch, nowhere):
    """accept(name): from now on the files of a set that lie in `nowhere` are the registered ones."""

    def take(name):
        digests = {
            str(file): ["sha256:" + hashlib.sha256((nowhere / file).read_bytes()).hexdigest()]
            for file in download.entry(name).files
        }
        known = download.registry()
        mine = replace(known[name], sources=(Source("archive", 0, "", ".", digests),))
        monkeypatch.setattr(download, "registry", lambda: known | {name: mine})

    return take


def write_mnist(home, labels=9):
    folder = home / "mnist"
    folder.mkdir(parents=True)
    for stem, count in (("train", 60_000), ("t10k", 10_000)):
        images = np.array([0x803, count, 28, 28], dtype=">u4").tobytes() + bytes(count * 784)
        y = np.array([0x801, count], dtype=">u4").tobytes() + bytes([labels]) * count
        for name, raw in ((f"{stem}-images-idx3-ubyte.gz", images), (f"{stem}-labels-idx1-ubyte.gz", y)):
            (folder / name).write_bytes(gzip.compress(raw, 1))
    return folder


def repack(change):
    return lambda raw: gzip.compress(change(gzip.decompress(raw)), 1)


def test_mnist_files_are_accepted_when_whole(nowhere, accept):
    write_mnist(nowhere)
    accept("mnist")
    assert len(data.mnist("test")) == 10_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:-4],
        lambda raw: b"",
        lambda raw: b"<html>not found</html>",
        lambda raw: raw[:2000] + bytes([raw[2000] ^ 255]) + raw[2001:],
        repack(lambda raw: raw[:-1]),
        repack(lambda raw: raw + b"\0"),
        repack(lambda raw: b"\0\0\x09\x03" + raw[4:]),
        repack(lambda raw: raw[:4] + raw[4:8][::-1] + raw[8:]),
    ],
    ids=["half", "no trailer", "empty", "html", "bit flip", "short", "long", "magic", "endian"],
)
def test_a_damaged_mnist_file_is_named(nowhere, accept, damage):
    broken = write_mnist(nowhere) / "t10k-images-idx3-ubyte.gz"
    accept("mnist")
    broken.write_bytes(damage(broken.read_bytes()))
    with pytest.raises(DataCorrupt, match=r"t10k-images-idx3-ubyte\.gz is damaged .*`gmbook data mnist`"):
        data.mnist("test")


def test_another_set_under_mnists_file_names_is_refused(nowhere, accept):
    """Fashion-MNIST has the names, sizes and shapes of MNIST: only the digests tell."""
    folder = write_mnist(nowhere)
    with pytest.raises(DataCorrupt, match=r"t10k-images.*belongs to another set.*digest.*MNIST"):
        data.mnist("test")
    accept("mnist")
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(gzip.decompress(labels.read_bytes())[:-1] + b"\x08", 1))
    assert len(data.mnist("train")) == 55_000  # what it reads is as it was
    with pytest.raises(DataCorrupt, match="t10k-labels"):
        data.mnist("test")


def test_a_digest_is_computed_once_and_again_when_the_file_changes(nowhere, accept, monkeypatch):
    import pooch

    folder, asked, compute = write_mnist(nowhere), [], pooch.file_hash
    accept("mnist")
    monkeypatch.setattr(pooch, "file_hash", lambda path, alg: asked.append(path) or compute(path, alg=alg))
    for _ in range(2):
        data.mnist("test")
        assert len(asked) == 2  # images and labels
    images = folder / "t10k-images-idx3-ubyte.gz"
    changed = bytearray(images.read_bytes())
    changed[2000] ^= 255
    before = images.stat()
    images.write_bytes(changed)
    os.utime(images, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(DataCorrupt, match="t10k-images"):
        data.mnist("test")
    (nowhere.with_name("cache") / "digests.json").write_text("{")
    with pytest.raises(DataCorrupt, match="t10k-images"):  # a damaged memory is made anew
        data.mnist("test")
    assert len(asked) == 4


def test_a_missing_file_is_named(nowhere):
    (write_mnist(nowhere) / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataMissing, match=r"mnist/train-labels-idx1-ubyte\.gz is missing in"):
        data.mnist("test")
    assert download.look("mnist") == (False, f"incomplete: mnist/train-labels-idx1-ubyte.gz is missing in {nowhere}")


def write_cifar(home, test_batch):
    folder = home / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]:
        (folder / f"{name}.bin").write_bytes(b"")
    (folder / "test_batch.bin").write_bytes(test_batch)


def test_cifar_records_are_label_then_red_green_blue(nowhere, accept):
    record = bytes([7]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes(range(32)) * 32
    write_cifar(nowhere, record * 10_000)
    accept("cifar10")
    found = data.cifar10("test")
    assert found.y.unique().tolist() == [7]
    assert found.x[3, :2].unique().tolist() == [1, 2]
    assert found.x[5, 2, 4].tolist() == list(range(32))  # a row runs along the width


@pytest.mark.parametrize("raw", [b"", bytes(3073 * 9_999), bytes([10]) * (3073 * 10_000)])
def test_a_damaged_cifar_file_is_named(nowhere, raw):
    write_cifar(nowhere, raw)
    with pytest.raises(DataCorrupt, match=r"test_batch\.bin is damaged .*`gmbook data cifar10`"):
        data.cifar10("test")


def write_text8(home, raw):
    (home / "text8").mkdir(parents=True)
    (home / "text8" / "text8").write_bytes(raw)


def test_a_prefix_of_text8_is_split_by_fraction_and_says_so(nowhere):
    text = sets.TEXT8_BEGINNING + b" abc xyz" * 250
    write_text8(nowhere, text)
    parts = [data.text8(split) for split in ("train", "valid", "test")]
    assert "".join(data.decode(part.tokens) for part in parts) == text.decode()
    assert len(parts[0]) == len(text) * 9 // 10 and all(part.is_prefix for part in parts)
    chunks = parts[0].chunks(100)
    assert chunks.dtype == torch.int64 and torch.equal(chunks.flatten(), parts[0].tokens[: chunks.numel()].long())


def test_a_text_of_full_length_must_have_text8s_digest(nowhere, monkeypatch):
    text = sets.TEXT8_BEGINNING + b" abc xyz" * 250
    write_text8(nowhere, text)
    known = download.registry()
    short = replace(known["text8"], whole=len(text))
    monkeypatch.setattr(download, "registry", lambda: known | {"text8": short})
    with pytest.raises(DataCorrupt, match="digest"):
        data.text8("train")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"the cat sat on the mat " * 100,
        sets.TEXT8_BEGINNING,
        sets.TEXT8_BEGINNING + b"x" * 2000 + b"\n",
        sets.TEXT8_BEGINNING + b"`" * 2000,
    ],
    ids=["empty", "another text", "too short", "newline", "backtick"],
)
def test_a_damaged_text8_is_named(nowhere, raw):
    write_text8(nowhere, raw)
    with pytest.raises(DataCorrupt, match=r"text8/text8 is damaged .*`gmbook data text8`"):
        data.text8("valid")


# ---------------------------------------------------------------------------------------- absence


@pytest.mark.parametrize("name, load", [("mnist", data.mnist), ("cifar10", data.cifar10), ("text8", data.text8)])
def test_absent_data_gives_one_line_that_says_what_to_do(nowhere, name, load):
    with pytest.raises(DataMissing, match=f"is not on this machine: run `gmbook data {name}`.*GMBOOK_DATA") as caught:
        load("train")
    assert "\n" not in str(caught.value)


def test_a_set_that_is_not_complete_is_absent(nowhere):
    folder = write_mnist(nowhere)
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataMissing):
        data.mnist("test")


def test_the_cache_serves_what_the_named_folder_lacks(nowhere, accept):
    write_mnist(nowhere)
    accept("mnist")
    nowhere.with_name("cache").mkdir()
    shutil.move(nowhere / "mnist", nowhere.with_name("cache") / "mnist")
    assert len(data.mnist("valid")) == 5_000


def test_digits_stand_in_with_one_printed_line(nowhere, capsys):
    found = data.digits_or("mnist", "test")
    printed = capsys.readouterr().out
    assert found.name == "8×8 digits" and len(found) == 300
    assert printed.count("\n") == 1 and "MNIST is not on this machine" in printed and "8×8 digits" in printed


def test_the_set_itself_comes_without_a_word(nowhere, accept, capsys):
    write_mnist(nowhere)
    accept("mnist")
    assert data.digits_or("mnist", "test").name == "MNIST"
    assert capsys.readouterr().out == ""


def test_prose_stands_in_for_text8_with_one_printed_line(nowhere, capsys):
    found = data.text8_or_prose("valid")
    printed = capsys.readouterr().out
    assert found.name == "this book's prose" and found.split == "valid"
    assert printed.count("\n") == 1 and "text8 is not on this machine" in printed and found.name in printed
    write_text8(nowhere, sets.TEXT8_BEGINNING + b" abc xyz" * 250)
    assert "text8" in data.text8_or_prose("valid").name and capsys.readouterr().out == ""


def test_damage_is_never_replaced_by_digits(nowhere):
    broken = write_mnist(nowhere) / "t10k-images-idx3-ubyte.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataCorrupt):
        data.digits_or("mnist", "test")


@pytest.mark.parametrize(
    "call",
    [lambda: data.digits("dev"), lambda: data.digits_or("svhn"), lambda: data.text8("dev"), lambda: data.prose("dev")],
)
def test_wrong_names_are_answered_with_the_right_ones(nowhere, call):
    with pytest.raises(ValueError, match="there are"):
        call()


# ---------------------------------------------------------------------------------------- pixels and letters

ALL = {levels: torch.arange(levels, dtype=torch.uint8) for levels in (2, 17, 256)}
all_levels = pytest.mark.parametrize("levels", ALL)


@all_levels
def test_scale_reaches_both_ends_evenly_and_comes_back(levels):
    scaled = data.scale(ALL[levels], levels)
    torch.testing.assert_close(scaled, torch.linspace(-1, 1, levels))
    assert scaled[0] == -1 and scaled[-1] == pytest.approx(1, abs=1e-6)
    assert torch.equal(data.unscale(scaled, levels), ALL[levels])
    assert data.unscale(torch.tensor([-3.0, 3.0]), levels).tolist() == [0, levels - 1]


@all_levels
def test_dequantise_fills_the_cells_uniformly_and_comes_back(levels):
    torch.manual_seed(0)
    pixels = ALL[levels].repeat(2_000_000 // levels, 1)
    filled = data.dequantise(pixels, levels)
    assert float(filled.min()) > 0 and float(filled.max()) < 1
    assert torch.equal(data.quantise(filled, levels), pixels)
    u = (filled.double() * levels - pixels).flatten()
    error = math.sqrt(1 / 12 / u.numel())
    assert abs(float(u.mean()) - 0.5) < 5 * error
    assert float(u.var()) == pytest.approx(1 / 12, rel=5e-3)


@all_levels
def test_dequantise_inverts_at_the_edges_of_its_noise(levels, monkeypatch):
    for j in (0, 2**15 - 1):
        monkeypatch.setattr(torch, "randint", lambda high, shape, device, j=j: torch.full(shape, j))
        filled = data.dequantise(ALL[levels], levels)
        assert torch.equal(data.quantise(filled, levels), ALL[levels]) and float(filled.max()) < 1


def test_binarise_draws_each_pixel_with_its_own_probability():
    torch.manual_seed(0)
    drawn = data.binarise(ALL[256].repeat(20_000, 1))
    assert drawn.unique().tolist() == [0, 1]
    p = ALL[256].double() / 255
    z = (drawn.double().mean(0) - p) / (p * (1 - p) / 20_000).sqrt().clamp(min=1e-9)
    assert z.abs().max() < 4.5 and drawn[:, 0].max() == 0 and drawn[:, 255].min() == 1
    assert not torch.equal(data.binarise(ALL[256]), data.binarise(ALL[256]))


@pytest.mark.parametrize("function", [data.scale, data.dequantise, data.binarise])
def test_scaled_or_foreign_pixels_are_refused(function):
    with pytest.raises(TypeError, match="scaled already"):
        function(torch.rand(3))
    with pytest.raises(ValueError, match="levels"):
        function(torch.tensor([17], dtype=torch.uint8), levels=17)


def test_encode_and_decode_are_inverse():
    tokens = data.encode(data.ALPHABET)
    assert torch.equal(tokens, torch.arange(27))
    assert data.decode(tokens) == " abcdefghijklmnopqrstuvwxyz"
    assert data.encode("").shape == (0,) and data.decode(data.encode("")) == ""
    assert data.decode(torch.tensor([1, 27, 2]), mask="·") == "a·b"


@pytest.mark.parametrize("bad", ["abC", "ab\n", "abé", "ab雪", "ab`"])
def test_letters_outside_the_alphabet_are_named(bad):
    with pytest.raises(ValueError, match="character 2 is"):
        data.encode(bad)


def test_decode_refuses_masks_and_batches():
    with pytest.raises(ValueError, match=r"0\.\.26"):
        data.decode(torch.tensor([3, 27]))
    with pytest.raises(ValueError, match="one row"):
        data.decode(torch.zeros(2, 3, dtype=torch.int64))
