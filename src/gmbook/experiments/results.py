"""Records: what a run gave, under book/results/, and its weights in half precision, under data/pretrained/."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from gmbook import plots
from gmbook.core.model import Model
from gmbook.data.download import PACKAGE, clone
from gmbook.data.jsonfiles import NUMBER, Damaged, Fields, as_json, checked, read_json
from gmbook.experiments.base import Experiment
from gmbook.experiments.runs import RUN, load, read_run
from gmbook.metrics import wording
from gmbook.metrics.metric import Metric, from_json, to_json
from gmbook.train.checkpoint import newest_checkpoint, write_atomically
from gmbook.train.device import device

SHIPPED = PACKAGE.parent / "shipped"  # where a wheel carries the repository's records and weights
LIMIT = 2_000_000  # bytes of one file of weights
WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"
REMEDY = "restore it with git, or install gmbook again"
# What record.json must say.
RECORD: Fields = RUN | {
    "batch": int,
    "commit": str,
    "versions": dict,
    "hardware": str,
    "reference": str,
    "seconds": NUMBER,
    "weights": int,
    "command": str,
    "metrics": dict,
}


class NoRecord(FileNotFoundError):
    """An experiment was never recorded; the message says how to do it."""


@dataclass(frozen=True)
class Record:
    """A recorded run: its provenance, as `record.json` has it, its metrics by key, and where its files are."""

    content: dict[str, Any]
    metrics: dict[str, Metric]
    folder: Path

    def summary(self) -> str:
        """A dozen lines: what was run, on what, for how long, and what came out."""
        c = self.content
        lines = [
            f"{c['paper']} on {c['dataset']}, budget {c['budget']}: {c['weights']:,} weights, "
            f"{c['steps']:,} steps of {c['batch']}",
            f"command   {c['command']}",
            f"commit    {c['commit']}, seed {c['seed']}, {c['seconds'] / 60:.0f} min on {c['hardware']}",
            f"versions  {', '.join(f'{k} {v}' for k, v in c['versions'].items())}",
        ]
        for metric in self.metrics.values():
            lines += [f"  {wording.sentence(metric)}", *(f"    {line}" for line in metric.lines)]
        return "\n".join(lines)


def _folders(experiment: Experiment, root: Path | None) -> tuple[Path, Path]:
    root = (clone() or SHIPPED) if root is None else root
    return root / "book" / "results" / experiment.name, root / "data" / "pretrained"


def curve(history: dict[str, Tensor]) -> plots.Picture:
    """The losses of a run."""
    return plots.curves(history, smooth=max(1, len(next(iter(history.values()))) // 60), logx=True, ylabel="loss")


def draw(experiment: Experiment, model: Model, per_class: int = 6, seed: int = 0) -> Tensor:
    """Ten times `per_class` samples, the ten classes in turn where the model knows them; nothing selected.

    Raises:
        ValueError: the experiment makes no samples, or none are asked for.
    """
    if experiment.sample is None:
        raise ValueError(f"{experiment.name} makes no samples")
    if per_class < 1:
        raise ValueError(f"the samples per class must be at least 1, got {per_class}")
    torch.manual_seed(seed)
    return experiment.sample(model, torch.arange(10).repeat(per_class))


def sheet(experiment: Experiment, model: Model, per_class: int = 6, seed: int = 0) -> plots.Picture:
    """What `draw` draws: of images, a column for each of ten classes where the model knows them."""
    return experiment.sheet(draw(experiment, model, per_class, seed))


def record(experiment: Experiment, run: Path, n: int = 1000, root: Path | None = None) -> Record:
    """Evaluate the run in folder `run`, and write its record, pictures and half-precision weights.

    The metrics are those of the weights as they are stored, rounded to half precision. All files change at once: what
    is killed leaves those of before, or the next reader finds the new ones.

    Raises:
        ValueError: the weights exceed two megabytes, which the book's own may not, n < 1, or run.json is damaged.
        FileNotFoundError: there is no finished run in the folder.
    """
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, got {n}")
    if experiment.facts and root is None:
        root = run / "record"  # one's own data are nobody else's: their record stays with the run
    if root is None and clone() is None:
        raise NoRecord("records are kept in the book's repository: clone it and install with `pip install -e .`")
    about, model = read_run(run), load(experiment, run)
    step, state = newest_checkpoint(run) or (0, {})
    if step < about["steps"]:
        raise FileNotFoundError(f"{run} stopped at step {step} of {about['steps']}: resume it first")
    weights = {name: t.half() if t.dtype == torch.float32 else t for name, t in model.state_dict().items()}
    stored = save_tensors({name: t.cpu().contiguous() for name, t in weights.items()})
    if len(stored) > LIMIT and not experiment.facts:
        raise ValueError(f"the weights of {experiment.name} take {len(stored):,} bytes: at most {LIMIT:,} are kept")
    model = _with_weights(experiment, stored)
    torch.manual_seed(0)
    about |= {
        "seconds": round(state.get("seconds", about.get("seconds", 0.0)), 1),
        "weights": sum(p.numel() for p in model.parameters()),
        "command": command(experiment, about["steps"], about["seed"]),
        "final_loss": {name: values[-200:].nanmean().item() for name, values in state["history"].items()},
        "metrics": to_json(experiment.evaluate(model, n) if experiment.evaluate is not None else []),
    }
    files = {"record.json": as_json(about), "loss.png": curve(state["history"]).png(), WEIGHTS: stored}
    if experiment.sample is not None:
        files["samples.png"] = sheet(experiment, model).png()
    _commit(experiment, files, root)
    return read(experiment, root)


def _commit(experiment: Experiment, files: dict[str, bytes], root: Path | None) -> None:
    """Put all files of a record in their places, or none.

    They are written to a staging folder first. Its renaming is the one moment at which the new record holds: from then
    on whoever reads the record finishes the work, if the writer was killed.
    """
    staged, accepted, lock = _staging(experiment, root)
    staged.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        _finish(experiment, root)  # what an earlier one left, so that nothing of it overwrites what comes now
        shutil.rmtree(staged, ignore_errors=True)
        for name, content in files.items():
            write_atomically(staged / name, content)
        os.replace(staged, accepted)
        _finish(experiment, root)


def _recover(experiment: Experiment, root: Path | None) -> None:
    """Finish what a killed `record` had accepted; without one, do nothing, not even a look at the lock."""
    _, accepted, lock = _staging(experiment, root)
    if accepted.is_dir():
        with FileLock(lock):
            _finish(experiment, root)


def _finish(experiment: Experiment, root: Path | None) -> None:
    """Copy the accepted files to their places, and forget them. Interrupted, it can be done again."""
    staged, accepted, _ = _staging(experiment, root)
    folder, pretrained = _folders(experiment, root)
    if not accepted.is_dir():
        return
    weights = (accepted / WEIGHTS).read_bytes()
    known = _manifest(pretrained) if (pretrained / MANIFEST).is_file() else {}
    known[experiment.name] = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    write_atomically(pretrained / f"{experiment.name}.safetensors", weights)
    write_atomically(pretrained / MANIFEST, as_json(dict(sorted(known.items()))))
    for file in accepted.iterdir():
        if file.name != WEIGHTS:
            write_atomically(folder / file.name, file.read_bytes())
    shutil.rmtree(staged, ignore_errors=True)
    os.replace(accepted, staged)  # first out of the way at once: half a deletion is no record
    shutil.rmtree(staged)


def _staging(experiment: Experiment, root: Path | None) -> tuple[Path, Path, Path]:
    """Where a record is written, where it lies once it is accepted, and the lock of both."""
    results = _folders(experiment, root)[0].parent
    return results / ".staged" / experiment.name, results / ".staged" / f"{experiment.name}.accepted", results / ".lock"


def command(experiment: Experiment, steps: int, seed: int) -> str:
    """What repeats a run, with what is not the experiment's own said."""
    dataset = shlex.quote(experiment.facts.get("path", experiment.dataset))
    words = f"gmbook train {experiment.paper} {dataset} --budget {experiment.budget}"
    words += f" --steps {steps}" if steps != experiment.recipe.steps else ""
    return words + (f" --seed {seed}" if seed else "")


def seconds(experiment: Experiment, root: Path | None = None) -> float:
    """How long the recorded run took: a record of its own, or its line in the table of toys.

    Raises:
        NoRecord: there is neither.
    """
    try:
        return read(experiment, root).content["seconds"]
    except NoRecord:
        folder, _ = _folders(experiment, root)
        row = folder.parent / "toys" / f"{experiment.name}.json"
        if not row.is_file():
            raise
        return float(read_json(row, {"seconds": NUMBER}, REMEDY)["seconds"])


def read(experiment: Experiment, root: Path | None = None) -> Record:
    """The record of an experiment.

    Raises:
        NoRecord: it was never recorded.
        Damaged: its file is damaged.
    """
    _recover(experiment, root)
    folder, _ = _folders(experiment, root)
    file = folder / "record.json"
    try:
        content = read_json(file, RECORD, REMEDY)
        return Record(content, from_json(content.pop("metrics")), folder)
    except Damaged:
        raise
    except ValueError as error:
        raise Damaged(f"{file} is damaged ({error}): {REMEDY}") from None
    except FileNotFoundError:
        raise NoRecord(
            f"{experiment.name} has not been run and recorded: `gmbook train`, then `gmbook record`"
        ) from None


def load_pretrained(experiment: Experiment, root: Path | None = None) -> Model:
    """The recorded model, from its half-precision weights, in eval mode.

    Raises:
        NoRecord: there are no recorded weights.
        Damaged: the file is not the one that was recorded (its SHA-256 differs), or the manifest is damaged.
        ValueError: the weights are another model's.
    """
    _recover(experiment, root)
    _, pretrained = _folders(experiment, root)
    file = pretrained / f"{experiment.name}.safetensors"
    try:
        content, manifest = file.read_bytes(), _manifest(pretrained)
    except FileNotFoundError:
        raise NoRecord(f"{experiment.name} has no recorded weights: `gmbook train`, then `gmbook record`") from None
    if manifest.get(experiment.name, {}).get("sha256") != hashlib.sha256(content).hexdigest():
        raise Damaged(f"{file.name} is damaged (its SHA-256 is not the recorded one): {REMEDY}")
    return _with_weights(experiment, content)


def _manifest(pretrained: Path) -> dict[str, dict[str, Any]]:
    """The digests of all recorded weights, by the experiment's name."""
    file = pretrained / MANIFEST
    known = read_json(file, {}, REMEDY)
    try:
        return {name: checked(entry, {"sha256": str, "bytes": int}) for name, entry in known.items()}
    except ValueError as error:
        raise Damaged(f"{file} is damaged ({error}): {REMEDY}") from None


def _with_weights(experiment: Experiment, content: bytes) -> Model:
    """The experiment's model with stored weights, in eval mode.

    Raises:
        ValueError: they have other names or shapes than the model's.
    """
    model = experiment.model()
    wanted = model.state_dict()
    try:
        stored = load_tensors(content)
    except SafetensorError as error:
        raise Damaged(f"the weights of {experiment.name} are damaged ({error}): {REMEDY}") from None
    if {name: t.shape for name, t in stored.items()} != {name: t.shape for name, t in wanted.items()}:
        raise ValueError(
            f"the stored weights belong to another model than {experiment.name} makes now: record it anew, or {REMEDY}"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])
    return model.to(device()).eval()
