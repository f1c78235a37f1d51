"""The command: a whole run from training to a sheet of samples, and one clear line for every mistake."""

from __future__ import annotations

import json

import pytest

from gmbook.cli import main
from gmbook.lab import download
from gmbook.lab.checkpoint import checkpoints


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working folder, no data, no budget set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GMBOOK_BUDGET", raising=False)
    monkeypatch.setenv("GMBOOK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(download, "cache", lambda: tmp_path / "cache")
    return tmp_path


def test_train_resume_sample(elsewhere, capsys):
    train = ["train", "vae", "digits", "--save-every", "2"]
    assert main([*train, "--steps", "3"]) == 0
    assert "gmbook sample runs/vae-digits-laptop-seed0" in capsys.readouterr().out
    run = elsewhere / "runs" / "vae-digits-laptop-seed0"
    assert main([*train, "--steps", "5", "--resume"]) == 0
    assert [file.stem for file in checkpoints(run)] == ["step-00000005", "step-00000004"]
    assert json.loads((run / "run.json").read_text())["steps"] == 5

    assert main(["sample", str(run), "--per-class", "2"]) == 0
    assert main(["sample", str(run), "--per-class", "2", "--out", "same.png"]) == 0
    assert main(["sample", str(run), "--per-class", "2", "--seed", "1", "--out", "other.png"]) == 0
    sheet = (run / "samples.png").read_bytes()
    assert sheet.startswith(b"\x89PNG") and sheet == (elsewhere / "same.png").read_bytes()
    assert sheet != (elsewhere / "other.png").read_bytes()


def test_dry_run_writes_nothing(elsewhere, capsys):
    assert main(["train", "ddpm", "mnist", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "ddpm-mnist-laptop" in told and "M weights" in told and "Ho et al. 2020" in told
    assert not list(elsewhere.iterdir())


def test_the_budget_comes_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("GMBOOK_BUDGET", "gpu")
    assert main(["train", "ddpm", "mnist", "--dry-run"]) == 0
    assert "ddpm-mnist-gpu" in capsys.readouterr().out


def test_list_names_every_experiment(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:3] == ["ddpm", "mnist", "laptop"] for line in lines)


def test_data_lists_what_is_there(capsys):
    assert main(["data"]) == 0
    assert "mnist      missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "dpm", "mnist"], "did you mean ddpm"),
        (["train", "ddpm", "mnits"], "did you mean mnist"),
        (["train", "ddpm", "mnist", "--budget", "lapttop"], "did you mean laptop"),
        (["train", "vae", "digits", "--steps", "0"], "at least 1"),
        (["train", "vae", "digits", "--steps", "-3"], "at least 1"),
        (["train", "vae", "digits", "--seed", "-1", "--steps", "1"], "seed must not be negative"),
        (["train", "vae", "digits", "--save-every", "0", "--steps", "1"], "save_every must be at least 1"),
        (["train", "ddpm", "mnist"], "gmbook data mnist"),
        (["data", "mnits"], "mnist"),
        (["sample", "nowhere"], "not the folder of a run"),
        (["evaluate", "nowhere"], "not the folder of a run"),
        (["record", "nowhere"], "not the folder of a run"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(arguments, told, capsys):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("gmbook: ") and told in lines[0]


def test_a_taken_folder_is_refused(capsys):
    train = ["train", "vae", "digits", "--steps", "1", "--out", "here"]
    assert main(train) == 0
    assert main(train) == 2
    assert "--resume" in capsys.readouterr().err.splitlines()[-1]


def test_a_command_is_required(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
