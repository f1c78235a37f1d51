"""Experiments: each can be built, a run can be continued and found again, a record comes back as it was written."""

from __future__ import annotations

import hashlib
import itertools
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gmbook import data, experiments
from gmbook.core.model import Objective
from gmbook.experiments import results, runs
from gmbook.experiments.base import Experiment, Unknown
from gmbook.metrics.metric import Metric
from gmbook.networks.mlp import TimeMLP
from gmbook.papers.improved_ddpm import ImprovedDDPM
from gmbook.train.checkpoint import checkpoints, newest_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
NAMES = [experiment.name for experiment in experiments.EXPERIMENTS]
SMALL = experiments.find("vae", "digits", "laptop")
SMALL = replace(SMALL, recipe=replace(SMALL.recipe, ema_decay=0.9))


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_names_are_unique_and_every_experiment_has_both_budgets_or_is_a_tool():
    assert len(set(NAMES)) == len(NAMES)
    scaled = [e for e in experiments.EXPERIMENTS if e.paper != "classifier" and not e.toy]
    budgets = {(e.paper, e.dataset): set() for e in scaled}
    for e in scaled:
        budgets[e.paper, e.dataset].add(e.budget)
    assert all(found == {"laptop", "gpu"} for found in budgets.values())


@pytest.mark.parametrize("experiment", experiments.EXPERIMENTS, ids=NAMES)
def test_a_laptop_model_fits_the_limit_of_recorded_weights(experiment: Experiment):
    model = experiment.model()
    assert len(experiment.reference) > 20
    if experiment.budget == "laptop":
        assert 2 * sum(p.numel() for p in model.parameters()) < results.LIMIT - 50_000


@pytest.mark.parametrize(
    "paper", sorted({e.paper for e in experiments.EXPERIMENTS if e.dataset == "digits" and e.sample})
)
def test_a_digits_experiment_trains_and_samples(paper, tmp_path):
    experiment = experiments.find(paper, "digits", "laptop")
    model, history = runs.run(experiment, tmp_path, steps=2, progress=False)
    assert all(values.shape == (2,) and values.isfinite().all() for values in history.values())
    drawn = experiment.sample(model, torch.arange(3))
    assert drawn.shape == (3, 1, 8, 8) and drawn.abs().max() <= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (("dpm", "mnist", "laptop"), "unknown paper 'dpm': did you mean ddpm"),
        (("ddpm", "mnits", "laptop"), "unknown data set for ddpm 'mnits': did you mean mnist"),
        (("ddpm", "mnist", "GPU!"), "unknown budget for ddpm on mnist 'GPU!': known are gpu, laptop"),
    ],
)
def test_a_name_that_is_off_is_told_the_nearest(name, message):
    with pytest.raises(Unknown, match=message):
        experiments.find(*name)


def test_a_run_continued_equals_a_run_in_one_piece(tmp_path):
    whole, _ = runs.run(SMALL, tmp_path / "whole", steps=12, progress=False)
    expected = weights(whole)
    for steps in (5, 12):
        torch.manual_seed(steps)  # whatever came before must not matter
        runs.run(SMALL, tmp_path / "parts", steps=steps, resume=True, progress=False)
    loaded = runs.load(SMALL, tmp_path / "parts")
    torch.testing.assert_close(weights(loaded), expected, rtol=0, atol=0)
    assert not loaded.training
    raw = newest_checkpoint(tmp_path / "parts")[1]["model"]
    assert any(not torch.equal(raw[name], expected[name]) for name in raw), "the average was not taken"


def test_a_folder_that_is_taken_is_left_untouched(tmp_path):
    runs.run(SMALL, tmp_path, steps=3, progress=False)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="--resume"):
        runs.run(SMALL, tmp_path, steps=9, progress=False)
    with pytest.raises(ValueError, match="seed 0, not 1"):
        runs.run(SMALL, tmp_path, steps=9, seed=1, resume=True, progress=False)
    with pytest.raises(ValueError, match="paper vae, not ddpm"):
        runs.run(experiments.find("ddpm", "digits", "laptop"), tmp_path, steps=9, resume=True, progress=False)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_run_is_known_from_its_first_moment_and_its_seconds_add_up(tmp_path):
    def killed(seed: int, size: int):
        yield from itertools.islice(SMALL.batches(seed, size), 3)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        runs.run(replace(SMALL, batches=killed), tmp_path, steps=6, save_every=2, progress=False)
    assert runs.read_run(tmp_path)["paper"] == "vae"
    seconds = [newest_checkpoint(tmp_path)[1]["seconds"]]
    for steps in (4, 6):
        runs.run(SMALL, tmp_path, steps=steps, resume=True, progress=False)
        seconds.append(newest_checkpoint(tmp_path)[1]["seconds"])
    assert 0 < seconds[0] < seconds[1] < seconds[2]


@pytest.fixture
def home(tmp_path):
    """A place that looks like the book's repository, and a finished run."""
    runs.run(SMALL, tmp_path / "run", steps=4, progress=False)
    return tmp_path


def test_a_record_holds_what_was_run_and_names_no_machine(home):
    record = results.record(SMALL, home / "run", root=home)
    assert record.content == results.read(SMALL, home).content
    assert {"seed", "steps", "seconds", "commit", "versions", "hardware", "command", "final_loss"} <= set(
        record.content
    )
    assert record.content["command"] == "gmbook train vae digits --budget laptop --steps 4"
    assert results.command(SMALL, SMALL.recipe.steps, 3) == "gmbook train vae digits --budget laptop --seed 3"
    assert record.content["seconds"] >= 0 and record.content["final_loss"]["loss"] > 0
    text = (record.folder / "record.json").read_text()
    assert socket.gethostname() not in text and str(home) not in text
    for picture in ("loss.png", "samples.png"):
        assert (record.folder / picture).read_bytes().startswith(b"\x89PNG")


def test_the_seconds_of_a_toy_are_those_of_its_table(home):
    toy = experiments.find("vae", "eight_gaussians", "laptop")
    with pytest.raises(results.NoRecord, match="has not been run"):
        results.seconds(toy, home)
    row = home / "book" / "results" / "toys" / "vae-eight_gaussians-laptop.json"
    row.parent.mkdir(parents=True)
    row.write_text('{"seconds": 19.5}')
    assert results.seconds(toy, home) == 19.5
    with pytest.raises(results.NoRecord):
        results.seconds(SMALL, home)
    assert results.record(SMALL, home / "run", root=home).content["seconds"] == results.seconds(SMALL, home)


def test_records_made_at_once_all_stand_in_the_manifest(tmp_path):
    made = {f"run{i}": {"record.json": b"{}", results.WEIGHTS: f"weights {i}".encode()} for i in range(40)}
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda item: results._commit(replace(SMALL, paper=item[0]), item[1], tmp_path), made.items()))
    kept = json.loads((tmp_path / "data" / "pretrained" / "manifest.json").read_text())
    assert {name: entry["sha256"] for name, entry in kept.items()} == {
        f"{name}-digits-laptop": hashlib.sha256(files[results.WEIGHTS]).hexdigest() for name, files in made.items()
    }
    assert not list((tmp_path / "book" / "results" / ".staged").iterdir())


def test_the_same_command_and_seed_give_the_same_record(home):
    """Fifty steps, twice: weights bit for bit, metrics to the last digit. Another seed gives others."""

    def evaluate(model, n):
        x = data.binarise(data.digits("test").x[:n], 17)
        bound, drawn = -model.elbo(x).mean().item(), model.sample(n).mean().item()
        return [Metric("negative_elbo", bound, unit="nats"), Metric("mean_of_samples", drawn)]

    experiment, told, files = replace(SMALL, evaluate=evaluate), [], []
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.rand(seed + len(name))  # whatever came before must not matter
        runs.run(experiment, home / name, seed=seed, steps=50, progress=False)
        told.append(results.record(experiment, home / name, n=100, root=home).metrics)
        files.append((home / "data" / "pretrained" / f"{experiment.name}.safetensors").read_bytes())
    assert told[0] == told[1] != told[2] and files[0] == files[1] != files[2]


def test_recorded_weights_come_back_rounded_to_half_precision(home):
    trained = weights(runs.load(SMALL, home / "run"))
    results.record(SMALL, home / "run", root=home)
    model = results.load_pretrained(SMALL, home)
    expected = {name: t.half().float() if t.dtype == torch.float32 else t for name, t in trained.items()}
    torch.testing.assert_close(weights(model), expected, rtol=0, atol=0)
    assert (home / "data" / "pretrained" / f"{SMALL.name}.safetensors").stat().st_size < results.LIMIT


RECORDED = json.loads((ROOT / "data" / "pretrained" / "manifest.json").read_text(encoding="utf-8"))


def test_recorded_weights_stay_small():
    """The weights that chapters read, and no others: 2 MB each at most, 30 MB in all."""
    sizes = [file.stat().st_size for file in (ROOT / "data" / "pretrained").glob("*.safetensors")]
    assert max(sizes) < results.LIMIT and sum(sizes) < 30_000_000


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_weight_is_read_by_the_model_of_today(name):
    """The file's names are those of the state dict, and the values arrive: parameters and what training measured."""
    model = results.load_pretrained(experiments.find(*name.split("-")))
    stored = load_file(ROOT / "data" / "pretrained" / f"{name}.safetensors")
    torch.testing.assert_close(weights(model), {key: t.to(weights(model)[key].dtype) for key, t in stored.items()})


class ByImportance(ImprovedDDPM):
    """Trained by its bound, with steps drawn by the memory of their losses."""

    def objectives(self):
        return {"vlb": Objective(self.vlb_loss, list(self.parameters()))}


def test_a_checkpoint_and_a_record_keep_what_training_measured_in_float64(home):
    """Improved DDPM's memory of losses is a buffer too, but no table: the constructor makes zeros."""
    toy = experiments.find("improved_ddpm", "eight_gaussians", "laptop")
    model = partial(ByImportance, TimeMLP(2, 16, 2, out=4), (2,), steps=5)
    experiment = replace(toy, model=model, evaluate=None, sample=None)
    runs.run(experiment, home / "improved", steps=3, progress=False)
    results.record(experiment, home / "improved", n=10, root=home)
    for model in (runs.load(experiment, home / "improved"), results.load_pretrained(experiment, home)):
        assert model.importance.losses.dtype == torch.float64 and bool((model.importance.losses != 0).any())


def test_a_checkpoint_that_holds_tables_too_is_read(home):
    """As they were written when a schedule's tables were saved."""
    experiment = experiments.find("ddpm", "eight_gaussians", "laptop")
    experiment = replace(experiment, recipe=replace(experiment.recipe, decay="constant"))  # may go on for longer
    runs.run(experiment, home / "tables", steps=2, progress=False)
    step, state = newest_checkpoint(home / "tables")
    plain = runs.load(experiment, home / "tables")
    assert "beta" not in state["model"]
    state["model"] = {**dict(experiment.model().named_buffers()), **state["model"]}
    save_checkpoint(home / "tables", step, state)
    torch.testing.assert_close(weights(runs.load(experiment, home / "tables")), weights(plain), rtol=0, atol=0)
    runs.run(experiment, home / "tables", steps=4, resume=True, progress=False)
    assert newest_checkpoint(home / "tables")[0] == 4


def test_damaged_weights_are_refused(home):
    results.record(SMALL, home / "run", root=home)
    file = home / "data" / "pretrained" / f"{SMALL.name}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged"):
        results.load_pretrained(SMALL, home)


def test_weights_of_another_model_are_refused(home):
    results.record(SMALL, home / "run", root=home)
    other = replace(SMALL, model=experiments.find("ddpm", "digits", "laptop").model)
    with pytest.raises(ValueError, match="another model"):
        results.load_pretrained(other, home)


def test_an_unfinished_run_is_not_recorded_and_an_absent_record_says_how_to_make_one(home):
    told = json.loads((home / "run" / "run.json").read_text())
    (home / "run" / "run.json").write_text(json.dumps({**told, "steps": 5}))
    with pytest.raises(FileNotFoundError, match="stopped at step 4 of 5"):
        results.record(SMALL, home / "run", root=home)
    for absent in (results.read, results.load_pretrained):
        with pytest.raises(results.NoRecord, match="gmbook train"):
            absent(SMALL, home)
    assert checkpoints(home / "run")
