"""What is killed, damaged or refused leaves records, weights and runs as they were, and one line that says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gmbook import experiments
from gmbook.cli import main
from gmbook.data.jsonfiles import Damaged, read_json
from gmbook.experiments import results, runs
from gmbook.experiments.base import Experiment
from gmbook.metrics.metric import Metric

DIGITS = experiments.find("vae", "digits", "laptop")


def own_number(model, n):
    """The sum of the first weights: which weights were measured can be seen from it."""
    return [Metric("sum", next(model.parameters()).sum().item())]


SMALL = replace(DIGITS, evaluate=own_number)


class Killed(BaseException):
    """Nothing catches it, as nothing catches a SIGKILL."""


def killing(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Raise Killed at event number `at`: the moments before and after each write, renaming and deletion."""
    passed = [0]

    def event() -> None:
        passed[0] += 1
        if passed[0] == at:
            raise Killed

    def watched(act):
        def watching(*arguments, **options):
            event()
            act(*arguments, **options)
            event()

        return watching

    monkeypatch.setattr(results, "write_atomically", watched(results.write_atomically))
    monkeypatch.setattr(results.os, "replace", watched(os.replace))
    monkeypatch.setattr(results.shutil, "rmtree", watched(shutil.rmtree))
    return passed


def state(home: Path) -> tuple[float, float, bytes, bytes]:
    """The recorded metric, the same of the recorded weights, and both pictures, as readers find them."""
    record, model = results.read(SMALL, home), results.load_pretrained(SMALL, home)
    pictures = [(record.folder / name).read_bytes() for name in ("loss.png", "samples.png")]
    return record.metrics["sum"].value, own_number(model, 0)[0].value, pictures[0], pictures[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A home with one recorded run and two more runs, of other seeds."""
    home = tmp_path_factory.mktemp("home")
    for seed in (0, 1):
        runs.run(SMALL, home / f"run{seed}", seed=seed, steps=2, progress=False)
    results.record(SMALL, home / "run0", n=10, root=home)
    return home


@pytest.fixture
def home(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "home"))


def test_a_record_killed_at_any_moment_is_the_old_one_or_the_new_one(finished, tmp_path, monkeypatch):
    whole = Path(shutil.copytree(finished, tmp_path / "whole"))
    results.record(SMALL, whole / "run1", n=10, root=whole)
    old, new = state(finished), state(whole)
    assert old[0] == old[1] != new[0] == new[1] and old[2] != new[2]
    seen, at = [], 0
    while True:
        at += 1
        home = Path(shutil.copytree(finished, tmp_path / f"home{at}"))
        with monkeypatch.context() as patch:
            passed = killing(patch, at)
            try:
                results.record(SMALL, home / "run1", n=10, root=home)
            except Killed:
                pass
        if passed[0] < at:
            break
        if at % 2:  # the weights are looked for first, or the record is
            results.load_pretrained(SMALL, home)
        found = state(home)
        assert found in (old, new), f"a mixture after event {at}"
        seen.append(found == new)
        if at % 6 == 1:  # whatever was left does not stand in the way
            results.record(SMALL, home / "run1", n=10, root=home)
            assert state(home) == new and not list((home / "book" / "results" / ".staged").iterdir())
    assert seen == sorted(seen) and {True, False} == set(seen) and len(seen) > 20


def test_a_killed_record_of_another_run_does_not_overwrite_the_next(home, monkeypatch):
    """Accepted and not yet in place when the next one is made: the next one holds."""
    with monkeypatch.context() as patch:
        patch.setattr(results, "_manifest", lambda folder: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            results.record(SMALL, home / "run1", n=10, root=home)
    results.record(SMALL, home / "run0", n=10, root=home)
    model = runs.load(SMALL, home / "run0")
    assert state(home)[0] == pytest.approx(own_number(model, 0)[0].value, abs=0.1)


def test_an_evaluation_that_fails_leaves_the_record(home):
    before = state(home)

    def failing(model, n):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        results.record(replace(SMALL, evaluate=failing), home / "run1", root=home)
    assert state(home) == before


DEEP = "[" * 100_000
SHAPES = {
    "a list": "[]",
    "null": "null",
    "a text": '"x"',
    "empty": "",
    "half": '{"paper": ',
    "deep": DEEP,
    "deep inside": '{"paper": ' + DEEP,
    "bytes": "\udcff\udcfe",
    "a wrong type": '{"paper": [], "dataset": 1, "budget": null, "seed": "0", "steps": true}',
    "a field missing": '{"paper": "vae"}',
    "an object": "{}",
    "numbers": "1e999",
}


def damage(file: Path, shape: str) -> None:
    file.write_bytes(SHAPES[shape].encode(errors="surrogateescape"))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_damaged_file_of_any_shape_gets_one_clear_error(shape, home, capsys):
    """The record's, the manifest's, the run's: the message names the file and says what to do."""
    damage(home / "book" / "results" / SMALL.name / "record.json", shape)
    with pytest.raises(Damaged, match=r"record\.json is damaged \(.*restore it with git"):
        results.read(SMALL, home)
    damage(home / "data" / "pretrained" / "manifest.json", shape)
    with pytest.raises(Damaged, match=r"(manifest\.json|safetensors) is damaged \(.*restore it with git"):
        results.load_pretrained(SMALL, home)
    run = home / "run1"
    damage(run / "run.json", shape)
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    for command in (["evaluate", str(run)], ["sample", str(run)], ["record", str(run)]):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "run.json is damaged (" in line and "--out" in line
    train = ["train", "vae", "digits", "--seed", "1", "--steps", "4", "--out", str(run)]
    assert main([*train, "--resume"]) == 2
    assert "run.json is damaged" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


@pytest.mark.parametrize("entry", ["[]", "null", '{"sha256": 1, "bytes": 2}', '"x"'])
def test_a_damaged_entry_of_the_manifest_is_named(entry, home):
    (home / "data" / "pretrained" / "manifest.json").write_text(f'{{"{SMALL.name}": {entry}}}')
    with pytest.raises(Damaged, match=r"manifest\.json is damaged"):
        results.load_pretrained(SMALL, home)


def test_a_boolean_is_no_number(tmp_path):
    (tmp_path / "a.json").write_text('{"steps": true}')
    with pytest.raises(Damaged, match="'steps' is true or false"):
        read_json(tmp_path / "a.json", {"steps": int}, "x")


@pytest.mark.parametrize("shape", [(), (1,), "transposed"])
def test_stored_weights_of_another_shape_are_refused(shape, home):
    """`copy_` would broadcast one number over a whole matrix."""
    pretrained = home / "data" / "pretrained"
    tensors = {name: t.contiguous().clone() for name, t in results.load_pretrained(SMALL, home).state_dict().items()}
    name = next(key for key, t in tensors.items() if t.ndim == 2 and t.shape[0] != t.shape[1])
    tensors[name] = tensors[name].T.contiguous() if shape == "transposed" else torch.zeros(shape)
    file = pretrained / f"{SMALL.name}.safetensors"
    save_file(tensors, file)
    digest = {"sha256": results.hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": 1}
    (pretrained / "manifest.json").write_text(json.dumps({SMALL.name: digest}))
    with pytest.raises(ValueError, match="another model"):
        results.load_pretrained(SMALL, home)


def refused(experiment: Experiment, run: Path, **options) -> None:
    """Train, which must raise, and leave every file of the run as it was."""
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises((ValueError, OSError, RuntimeError)):
        runs.run(experiment, run, progress=False, **options)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_a_refused_second_training_leaves_run_json_alone(home):
    run = home / "run0"
    refused(SMALL, run, steps=9)
    refused(SMALL, run, steps=9, seed=1, resume=True)
    refused(SMALL, run, steps=0, resume=True)
    refused(SMALL, run, steps=9, save_every=0, resume=True)
    refused(replace(SMALL, model=experiments.find("gan", "digits", "laptop").model), run, steps=9, resume=True)
    for checkpoint in run.glob("*.safetensors"):  # all damaged
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    refused(SMALL, run, steps=9, resume=True)
    for checkpoint in run.glob("step-*"):  # a run that has not come to its first checkpoint holds its folder too
        checkpoint.unlink()
    refused(experiments.find("gan", "digits", "laptop"), run, steps=1)
    refused(SMALL, run, steps=1, seed=5)


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path):
    """By a real kill, in a process of its own."""
    code = (
        "import os, signal\n"
        "from dataclasses import replace\nfrom pathlib import Path\n"
        "from gmbook import experiments\nfrom gmbook.experiments import runs\n"
        "e = experiments.find('vae', 'digits', 'laptop')\n"
        "def batches(seed, size):\n"
        "    yield next(iter(e.batches(seed, size)))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"runs.run(replace(e, batches=batches), Path({str(tmp_path)!r}), steps=3, progress=False)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert runs.read_run(tmp_path)["steps"] == 3
    _, history = runs.run(SMALL, tmp_path, steps=3, progress=False)
    assert history["loss"].isfinite().all() and len(history["loss"]) == 3
