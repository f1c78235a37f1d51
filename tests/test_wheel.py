"""Installed without the clone: all runs from a wheel's contents alone, in an empty folder, without a network."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ON = "import gmbook; assert gmbook.__file__.startswith({site!r}), gmbook.__file__\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What a wheel of this repository unpacks to."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: install the extra dev")
    work = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*build, "-w", str(work), str(ROOT)], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    (wheel,) = work.glob("*.whl")
    assert wheel.stat().st_size < 34_000_000  # 30 MB of weights at most, and the records' pictures
    zipfile.ZipFile(wheel).extractall(work / "site")
    return work / "site"


@pytest.fixture
def outside(site, tmp_path):
    """outside(words, …): a run of Python in an empty folder where only the wheel's gmbook can be found."""
    home = tmp_path / "home"
    home.mkdir()
    # `-S` would hide torch too: the checkout must not be found, and PYTHONPATH comes before an editable install
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "GMBOOK_DATA", "GMBOOK_BUDGET")}
    environment |= {"PYTHONPATH": str(site), "HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}

    def run(*words, code=None, expect=0):
        called = ["-c", ON.format(site=str(site)) + code] if code else ["-m", "gmbook.cli", *words]
        done = subprocess.run(
            [sys.executable, *called], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == expect, f"{words or code}: {done.stdout}{done.stderr}"
        return done.stdout if expect == 0 else done.stderr

    return run


def test_data_sets_records_and_weights_are_found(outside):
    code = """
from gmbook import data, experiments
from gmbook.data import download
assert len(data.digits()) == 1297 and len(data.digits_or("mnist")) == 1297 and data.prose().whole > 10_000
assert download.clone() is None and download.cache().parts[-2:] == (".cache", "gmbook")
assert experiments.record("ddpm", "mnist", "laptop").metrics["read_as_asked"].protocol.samples == 1000
model = experiments.load_pretrained("vae", "mnist", "laptop")
print(tuple(model.sample(2).shape))
"""
    assert outside(code=code).splitlines()[-1] == "(2, 1, 28, 28)"


def test_every_command_runs_or_says_what_needs_the_clone(outside):
    listed = outside("data")
    assert "digits     found in" in listed and "prose      found in" in listed and "mnist      missing" in listed
    assert "[missing] mnist: missing" in outside("doctor")
    assert "recorded, " in outside("list")
    outside("train", "vae", "digits", "--steps", "2", "--out", "run")
    outside("sample", "run", "--per-class", "1")
    assert "no metrics yet" in outside("evaluate", "run", expect=2)
    assert "clone it" in outside("record", "run", expect=2)
    assert outside("train", "ddpm", "mnist", expect=2).count("\n") <= 4


def test_the_course_needs_the_clone_to_hand_out_and_not_to_grade(outside, tmp_path):
    for action in ("release", "solutions"):
        assert "needs a clone of the repository" in outside("course", action, "06_ddpm", "--out", "made", expect=2)
    source = "def steps_to_noise(*a):\n    return 'how many?'"
    cell = {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
    named = {"gmbook": {"sheet": "06_ddpm"}}
    made = {"cells": [cell], "metadata": named, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "ada.ipynb").write_text(json.dumps(made))
    assert "1 submissions of 06_ddpm" in outside("course", "grade", "ada.ipynb", "--out", "grades", "--unfenced")
    told = json.loads((tmp_path / "grades" / "ada.json").read_text())["verdicts"]["steps_to_noise"]
    assert told["answered"] and told["points"] == 0 and "str where numbers are due" in told["hint"]


def own_data(folder):
    """200 PNGs of odd sizes, a table, a text."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for k in range(200):
        height, width = draw.integers(17, 60, 2)
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"picture {k} ü.png")
    np.savetxt(
        folder / "table.csv", draw.normal(size=(200, 3)) + [100, 0, -5], delimiter=",", header="a,b,c", comments=""
    )
    (folder / "novel.txt").write_text("Der Fluß fließt — ohne Eile.\n" * 200, encoding="utf-8")


@pytest.mark.parametrize(
    "paper, source, found, metric, files",
    [
        ("ddpm", "photos", "160 images (3, 16, 16)", "bits_per_dim_bound", []),
        (
            "realnvp",
            "table.csv",
            "160 points of 3: a, b, c",
            "nats_per_point",
            ["samples.csv"],
        ),
        ("mdlm", "novel.txt", "characters of 18 kinds", "bits_per_letter_bound", ["samples.txt"]),
    ],
)
def test_ones_own_data_are_trained_on_sampled_and_evaluated(outside, tmp_path, paper, source, found, metric, files):
    own_data(tmp_path)
    assert found in outside("train", paper, source, "--steps", "2", "--out", "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert Path(about["data"]["path"]) == tmp_path / source and about["data"]["examples"] > 100
    report = json.loads(outside("evaluate", "run", "--n", "2"))
    assert math.isfinite(report[metric]["value"]) and report[metric]["baselines"]
    outside("record", "run", "--n", "2")
    assert list((tmp_path / "run" / "record").rglob("record.json"))
    (tmp_path / source).rename(tmp_path / "away")  # a run can be sampled without its data
    outside("sample", "run", "--per-class", "1")
    assert all((tmp_path / "run" / name).stat().st_size > 0 for name in ["samples.png", *files])
    assert "there is no" in outside("evaluate", "run", "--n", "2", expect=2)
