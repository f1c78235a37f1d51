"""Runs on one's own data: each class on each kind trains, is sampled without the data, and is measured on them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from gmbook.cli import main
from gmbook.experiments import own, runs
from gmbook.experiments.own import KINDS

CASES = [(kind, paper) for kind in KINDS for paper in KINDS[kind].ways]
TEXT = "Der Fluß fließt — ohne Eile.\n"


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A place with a folder of grey pictures, a table, and a text."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for k in range(24):
        pixels = draw.integers(0, 256, (9 + k, 15 - k % 7), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{k} ü.png")
    points = draw.normal(size=(30, 3)) * [1, 100, 0.01] + [5, 0, 0]
    np.savetxt(tmp_path / "points.csv", points, delimiter=",", header="height,weight,dose", comments="")
    (tmp_path / "text.txt").write_text(TEXT * 100, encoding="utf-8")
    return {"images": "images", "points": "points.csv", "text": "text.txt"}


@pytest.mark.parametrize("kind, paper", CASES, ids=lambda word: word)
def test_a_run_is_trained_sampled_without_its_data_and_measured_on_them(sources, tmp_path, capsys, kind, paper):
    assert main(["train", paper, sources[kind], "--steps", "1", "--out", "run"]) == 0
    about = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert about["data"]["kind"] == kind and f"found: {about['data']['told']}" in capsys.readouterr().out
    assert main(["evaluate", "run", "--n", "2"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert all(math.isfinite(metric["value"]) for metric in report.values() if metric["value"] is not None)
    if kind != "text":
        assert main(["evaluate", "run", "--n", "1"]) == 2
        assert "at least 2 samples" in capsys.readouterr().err
    (tmp_path / sources[kind]).rename(tmp_path / "away")
    assert main(["sample", "run", "--per-class", "1"]) == 0
    assert (tmp_path / "run" / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert main(["evaluate", "run", "--n", "1"]) == 2
    assert "there is no" in capsys.readouterr().err


def test_samples_of_points_come_in_the_files_own_units(sources):
    """By the law of large numbers: a flow that was not trained is the identity, so its samples are N(mean, std²)."""
    experiment = own.experiment("realnvp", "points.csv")
    facts = experiment.facts
    torch.manual_seed(0)
    drawn = experiment.sample(experiment.model().eval(), torch.zeros(4000))
    torch.testing.assert_close(
        drawn.mean(0) / torch.tensor(facts["std"]),
        torch.tensor(facts["mean"]) / torch.tensor(facts["std"]),
        atol=0.06,
        rtol=0,
    )
    torch.testing.assert_close(drawn.std(0), torch.tensor(facts["std"]), atol=0, rtol=0.05)
    ending, content = experiment.table(drawn)
    assert ending == ".csv" and content.splitlines()[0] == "height,weight,dose" and len(content.splitlines()) == 4001


def test_code_lengths_of_points_are_those_of_the_files_own_units(sources):
    """A flow that was not trained is the identity: its density is that of normals with the data's moments."""
    experiment = own.experiment("realnvp", "points.csv")
    test = own.files.points("points.csv", "test")
    (found,) = (m for m in experiment.evaluate(experiment.model().eval(), 3) if m.key == "nats_per_point")
    normal = torch.distributions.Normal(test.mean.double(), test.std.double())
    assert found.value == pytest.approx(-normal.log_prob(test.x.double()).sum(1).mean().item(), abs=1e-4)


def test_a_run_refuses_data_that_have_changed(sources, tmp_path, capsys):
    train = ["train", "vae", "points.csv", "--out", "run", "--steps", "1"]
    assert main(train) == 0
    file = tmp_path / "points.csv"
    file.write_text(file.read_text() + "1,2,3\n")
    capsys.readouterr()
    assert main(["evaluate", "run", "--n", "1"]) == 2
    assert "has changed since the run began" in capsys.readouterr().err
    assert main([*train, "--resume"]) == 2
    assert "other data of the name points" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, told",
    [
        (
            ["train", "mdlm", "images"],
            "'mdlm' does not train on your own images: ddpm, flow_matching, vae, gan, realnvp",
        ),
        (["train", "ddpm", "text.txt"], "does not train on your own text: mdlm, autoregressive do"),
        (["train", "vae", "points.csv", "--size", "8"], "a size is for pictures"),
        (["train", "vae", "digits", "--size", "8"], "--size is for pictures of your own"),
        (["train", "vae", "images", "--size", "12"], "a multiple of 8"),
        (["train", "vae", "images", "--steps", "0"], "steps must be at least 1"),
        (["train", "vae", "nowhere/photos"], "there is no folder or file nowhere/photos"),
        (["train", "vae", "images", "--budget", "laptp"], "did you mean laptop"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(sources, capsys, words, told):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("gmbook: ") and told in line


def test_a_damaged_run_says_that_its_data_are_unknown(sources):
    about = runs.provenance(own.experiment("vae", "points.csv"), own.experiment("vae", "points.csv").recipe, 0)
    assert own.restore(about).name == "vae-points-laptop"
    del about["data"]["shape"]
    with pytest.raises(ValueError, match="run.json does not say what the data were"):
        own.restore(about)


def test_a_known_name_comes_before_a_folder(sources, tmp_path, capsys):
    (tmp_path / "images").rename(tmp_path / "digits")
    for word, found in (
        ("digits", "the paper's own setting"),
        ("./digits", "found: digits, train: 19 images (1, 8, 8)"),
    ):
        assert main(["train", "vae", word, "--steps", "1", "--out", f"run{len(word)}"]) == 0
        assert found in capsys.readouterr().out
