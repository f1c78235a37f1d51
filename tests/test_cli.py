"""The command: a whole run from training to a sheet of samples, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gmbook import experiments
from gmbook.cli import main
from gmbook.data import download
from gmbook.train.checkpoint import checkpoints, newest_checkpoint


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


def test_a_recorded_model_is_sampled_without_a_run(elsewhere, capsys):
    """By its name, or by the folder of its record, which stays as it is; the sheet is the recorded model's."""
    record = experiments.results.read(experiments.find("vae", "mnist", "laptop")).folder
    before = {file.name: file.read_bytes() for file in record.iterdir()}
    assert main(["sample", "vae-mnist-laptop", "--per-class", "2"]) == 0
    assert main(["sample", str(record), "--per-class", "2", "--out", "same.png"]) == 0
    assert "wrote vae-mnist-laptop.png" in capsys.readouterr().out
    torch.manual_seed(0)
    model = experiments.load_pretrained("vae", "mnist", "laptop")
    expected = experiments.results.sheet(experiments.find("vae", "mnist", "laptop"), model, 2).png()
    assert (elsewhere / "vae-mnist-laptop.png").read_bytes() == (elsewhere / "same.png").read_bytes() == expected
    assert {file.name: file.read_bytes() for file in record.iterdir()} == before


def test_a_recorded_model_is_judged_without_a_run(elsewhere, capsys):
    assert main(["evaluate", "classifier-mnist-laptop"]) == 2  # no data here
    assert "gmbook data mnist" in capsys.readouterr().err


def test_dry_run_writes_nothing(elsewhere, capsys):
    assert main(["train", "vae", "mnist", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "vae-mnist-laptop" in told and "M weights" in told and "Kingma & Welling 2014" in told
    for line in ("arithmetic    420 MFLOP a step, 3.78 TFLOP in all", "memory", "s a step (median", "an H100"):
        assert line in told
    assert "mnist is not here, so noise of its shape was looked at" in told
    assert not list(elsewhere.iterdir())


def test_the_budget_comes_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("GMBOOK_BUDGET", "gpu")
    assert main(["train", "vae", "mnist", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "vae-mnist-gpu" in told and ("not measured" in told) != torch.cuda.is_available()


def test_list_names_every_experiment(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:3] == ["ddpm", "mnist", "laptop"] for line in lines)


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "import sys; from gmbook.cli import main; sys.exit(main(['list']))"
    line = f'set -o pipefail; "{sys.executable}" -uc "{code}" | head -n 1'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout.splitlines()) == 1


def test_data_lists_what_is_there(capsys):
    assert main(["data"]) == 0
    assert "mnist      missing" in capsys.readouterr().out
    assert main(["data", "digits", "prose"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["digits", "prose"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "dpm", "mnist"], "did you mean ddpm"),
        (["train", "ddpm", "mnits"], "did you mean mnist"),
        (["train", "ddpm", "mnist", "--budget", "lapttop"], "did you mean laptop"),
        (["train", "vae", "digits", "--steps", "0"], "at least 1"),
        (["train", "vae", "digits", "--steps", "-3"], "at least 1"),
        (["train", "vae", "digits", "--steps", "-3", "--dry-run"], "at least 1"),
        (["train", "vae", "digits", "--accumulate", "0", "--steps", "1"], "accumulate must be at least 1"),
        (["train", "vae", "digits", "--seed", "-1", "--steps", "1"], "seed must not be negative"),
        (["train", "vae", "digits", "--save-every", "0", "--steps", "1"], "save_every must be at least 1"),
        (["train", "ddpm", "mnist"], "gmbook data mnist"),
        (["data", "mnits"], "did you mean mnist"),
        (["data", "digits", "mnits"], "did you mean mnist"),
        (["sample", "nowhere"], "not the folder of a run"),
        (["evaluate", "nowhere"], "not the folder of a run"),
        (["record", "nowhere"], "not the folder of a run"),
        (["sample", "ddpm-digits-gpu"], "has no recorded weights"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(arguments, told, capsys):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("gmbook: ") and told in lines[0]


def test_a_run_that_says_it_is_another_is_one_clear_line(elsewhere, capsys):
    assert main(["train", "vae", "digits", "--steps", "1", "--out", "here"]) == 0
    about = elsewhere / "here" / "run.json"
    about.write_text(about.read_text().replace('"vae"', '"ddpm"'))
    capsys.readouterr()
    assert main(["sample", "here"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds another model than ddpm-digits-laptop makes now: train it anew" in line


def test_a_taken_folder_is_refused(capsys):
    train = ["train", "vae", "digits", "--steps", "1", "--out", "here"]
    assert main(train) == 0
    assert main(train) == 2
    assert "--resume" in capsys.readouterr().err.splitlines()[-1]


# ------------------------------------------------------------------------------------------------ signals, repeats


def start(*arguments: str) -> subprocess.Popen[str]:
    """A Python of its own in the working folder."""
    source = str(Path(__file__).parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], env=environment, **pipes)


def states_equal(one: Path, two: Path) -> bool:
    """Whether two runs ended with the same state, bit for bit, apart from the seconds they took."""
    (step, a), (other, b) = (newest_checkpoint(folder) for folder in (one, two))
    a.pop("seconds"), b.pop("seconds")
    same = a.pop("recipe") == b.pop("recipe") and step == other
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    return same


def test_stopped_by_ctrl_c_by_sigterm_and_killed_a_run_ends_bit_identical(elsewhere):
    train = ["train", "vae", "digits", "--steps", "3000", "--save-every", "20"]
    run = elsewhere / "stopped"
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        before = checkpoints(run)
        process = start("-m", "gmbook.cli", *train, "--out", "stopped", "--resume")
        deadline = time.monotonic() + 300
        while checkpoints(run)[:1] == before[:1]:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.002)
        process.send_signal(signum)
        errors = process.communicate(timeout=120)[1]
        step, _ = newest_checkpoint(run)
        assert step < 3000
        if signum == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130
            last = errors.splitlines()[-1]
            assert last == f"stopped and saved at step {step} in stopped; resume=True (--resume) continues it"
    steps = str(step + 50)
    assert main([*train[:4], steps, "--out", "stopped", "--resume"]) == 0
    assert main([*train[:4], steps, "--out", "whole"]) == 0
    assert states_equal(run, elsewhere / "whole")


def test_the_same_command_gives_the_same_weights_and_metrics(elsewhere, capsys):
    """Fifty steps of a small autoencoder on digits, here and in another process."""
    train = ["train", "dc_ae", "digits", "--steps", "50", "--out"]
    there = start("-m", "gmbook.cli", *train, "there")
    assert main([*train, "here"]) == 0
    assert main([*train, "other", "--seed", "1"]) == 0
    assert there.wait(timeout=300) == 0, there.communicate()[1]
    capsys.readouterr()
    reports = []
    for run in ("here", "there", "other"):
        assert main(["evaluate", run, "--n", "100"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1] != reports[2]
    assert states_equal(elsewhere / "here", elsewhere / "there")


def test_two_processes_of_torchrun_make_one_run_that_one_process_continues(elsewhere):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    train = ["train", "vae", "digits", "--steps", "6", "--save-every", "3"]
    both = start(*torchrun, "-m", "gmbook.cli", *train, "--out", "both", "--accumulate", "2")
    told, errors = both.communicate(timeout=300)
    assert both.returncode == 0, errors
    assert told.count("done; look at it") == 1
    assert [file.stem for file in checkpoints(elsewhere / "both")] == ["step-00000006", "step-00000003"]
    assert json.loads((elsewhere / "both" / "run.json").read_text())["processes"] == 2
    assert main([*train[:3], "--steps", "8", "--out", "both", "--resume"]) == 0
    history = newest_checkpoint(elsewhere / "both")[1]["history"]["loss"]
    assert history.shape == (8,) and history.isfinite().all()
    about = json.loads((elsewhere / "both" / "run.json").read_text())
    assert (about["processes"], about["steps"], about["recipe"]["accumulate"]) == (1, 8, 1)


# --------------------------------------------------------------------------------------------- nothing is lost


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that fails with exit code 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip() and "%|" not in line]  # no bar
    (line,) = [line for line in lines if not line.startswith("resuming ")]
    return line


def test_a_folder_that_cannot_be_written_is_told(elsewhere, capsys):
    (elsewhere / "file").write_text("not a folder")
    line = refused(["train", "vae", "digits", "--steps", "1", "--out", "file/run"], capsys)
    assert line == "gmbook: cannot write file/run/run.json: Not a directory"


def test_a_batch_is_not_cut_into_more_parts_than_it_has_rows(capsys):
    line = refused(["train", "vae", "digits", "--accumulate", "65", "--steps", "1"], capsys)
    assert "a batch of 64 cannot be cut into 65 parts" in line


def test_a_run_whose_rate_decays_is_not_resumed_with_other_steps(elsewhere, capsys):
    """The rest of the run would be that of neither; what the folder says of the run stays true."""
    train = ["train", "ddpm", "digits", "--out", "run"]
    assert main([*train, "--steps", "3"]) == 0
    before = {file.name: file.read_bytes() for file in (elsewhere / "run").iterdir()}
    line = refused([*train, "--steps", "5", "--resume"], capsys)
    assert "begun with 3 steps, over which its learning rate decays (cosine)" in line
    line = refused([*train, "--steps", "1", "--resume"], capsys)
    assert "at step 3 already, beyond the 1 steps asked for" in line
    line = refused([*train, "--steps", "0", "--resume"], capsys)
    assert "steps must be at least 1" in line
    assert {file.name: file.read_bytes() for file in (elsewhere / "run").iterdir()} == before
    assert main([*train, "--steps", "3", "--resume"]) == 0  # done already


def test_a_run_with_a_constant_rate_goes_on_for_as_long_as_one_likes(elsewhere, capsys):
    train = ["train", "vae", "digits"]
    assert main([*train, "--steps", "5", "--out", "once"]) == 0
    assert main([*train, "--steps", "1", "--out", "twice"]) == 0
    assert main([*train, "--steps", "5", "--out", "twice", "--resume"]) == 0
    assert states_equal(elsewhere / "once", elsewhere / "twice")
    once, twice = (json.loads((elsewhere / name / "run.json").read_text()) for name in ("once", "twice"))
    assert once == twice and once["steps"] == once["recipe"]["steps"] == 5
    assert "beyond the 4 steps" in refused([*train, "--steps", "4", "--out", "twice", "--resume"], capsys)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint_before(elsewhere, capsys):
    train = ["train", "vae", "digits", "--out", "run"]
    assert main([*train, "--steps", "2"]) == 0
    draft = elsewhere / "run" / ".step-00000004.safetensors.draft"
    draft.symlink_to("/dev/full")
    line = refused([*train, "--steps", "4", "--resume"], capsys)
    assert "step-00000004.safetensors: No space left on device" in line and "the checkpoint of step 2 in run is" in line
    assert newest_checkpoint(elsewhere / "run")[0] == 2
    assert not draft.is_symlink()
    assert main([*train, "--steps", "4", "--resume"]) == 0


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint_before(elsewhere, monkeypatch, capsys):
    sound = experiments.find("vae", "digits", "laptop")
    train = ["train", "vae", "digits", "--out", "run"]
    assert main([*train, "--steps", "2"]) == 0
    bad = replace(sound, recipe=replace(sound.recipe, lr=float("inf")))
    monkeypatch.setattr(experiments, "find", lambda *name: bad)
    line = refused([*train, "--steps", "9", "--resume"], capsys)
    assert "at step 3: lower lr" in line and "the checkpoint of step 2 in run is kept" in line
    assert newest_checkpoint(elsewhere / "run")[0] == 2


# ----------------------------------------------------------------------------------------------- TensorBoard


def test_tensorboard_gets_the_losses_and_a_resumed_run_goes_on(elsewhere):
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train = ["train", "vae", "digits", "--out", "run", "--tensorboard"]
    assert main([*train, "--steps", "20"]) == 0
    assert main([*train, "--steps", "30", "--resume"]) == 0
    events = board.EventAccumulator(str(elsewhere / "run" / "tensorboard")).Reload().Scalars("loss/loss")
    losses = newest_checkpoint(elsewhere / "run")[1]["history"]["loss"]
    assert [event.step for event in events] == [10, 20, 30]
    assert [event.value for event in events] == pytest.approx(losses.view(3, 10).mean(1).tolist(), rel=1e-5)


def test_without_tensorboard_one_line_says_how_to_install_it(elsewhere, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # its import fails
    line = refused(["train", "vae", "digits", "--steps", "1", "--out", "run", "--tensorboard"], capsys)
    assert "pip install tensorboard" in line
    assert not list(elsewhere.iterdir())


def test_a_command_is_required(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
