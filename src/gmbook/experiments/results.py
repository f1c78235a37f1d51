"""Records: what a run gave, under book/results/, and its weights in half precision, under data/pretrained/."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from gmbook import plots
from gmbook.core.model import Model
from gmbook.data.download import REPOSITORY
from gmbook.experiments.base import Experiment, device, load, read_run
from gmbook.train.checkpoint import newest_checkpoint, write_atomically

LIMIT = 2_000_000  # bytes of one file of weights


class NoRecord(FileNotFoundError):
    """An experiment was never recorded; the message says how to do it."""


@dataclass(frozen=True)
class Record:
    """What a recorded run gave: its provenance and metrics, and where its pictures are."""

    content: dict[str, Any]
    folder: Path

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics by name."""
        return self.content["metrics"]

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
        lines += [f"  {name}: {_show(value)}" for name, value in c["metrics"].items()]
        return "\n".join(lines)


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _folders(experiment: Experiment, root: Path | None) -> tuple[Path, Path]:
    root = REPOSITORY if root is None else root
    if not (root / "data" / "registry.toml").is_file():
        raise NoRecord(
            "records and weights live in the book's repository: clone it and install with `pip install -e .`"
        )
    return root / "book" / "results" / experiment.name, root / "data" / "pretrained"


def curve(history: dict[str, Tensor]) -> plots.Picture:
    """The losses of a run."""
    return plots.curves(history, smooth=max(1, len(next(iter(history.values()))) // 60), logx=True, ylabel="loss")


def sheet(experiment: Experiment, model: Model, per_class: int = 6, seed: int = 0) -> plots.Picture:
    """Samples: of images, a column for each of ten classes where the model knows them; nothing selected."""
    torch.manual_seed(seed)
    labels = torch.arange(10).repeat(per_class)
    if experiment.sample is None:
        raise ValueError(f"{experiment.name} makes no samples")
    return experiment.sheet(experiment.sample(model, labels))


def record(experiment: Experiment, run: Path, n: int = 1000, root: Path | None = None) -> Record:
    """Evaluate the run in folder `run`, and write its record, pictures and half-precision weights.

    The metrics are those of the weights as they are stored, rounded to half precision.

    Raises:
        ValueError: the weights exceed two megabytes.
        FileNotFoundError: there is no finished run in the folder.
    """
    folder, pretrained = _folders(experiment, root)
    told, model = read_run(run), load(experiment, run)
    step, state = newest_checkpoint(run) or (0, {})
    if step < told["steps"]:
        raise FileNotFoundError(f"{run} stopped at step {step} of {told['steps']}: resume it first")
    weights = {name: t.half() if t.dtype == torch.float32 else t for name, t in model.state_dict().items()}
    content = save_tensors({name: t.cpu().contiguous() for name, t in weights.items()})
    if len(content) > LIMIT:
        raise ValueError(f"the weights of {experiment.name} take {len(content):,} bytes: at most {LIMIT:,} are kept")
    write_atomically(pretrained / f"{experiment.name}.safetensors", content)
    _manifest(pretrained, experiment.name, content)
    model = load_pretrained(experiment, root)
    torch.manual_seed(0)
    told |= {
        "seconds": round(state.get("seconds", told.get("seconds", 0.0)), 1),
        "weights": sum(p.numel() for p in model.parameters()),
        "command": command(experiment, told["steps"], told["seed"]),
        "final loss": {name: values[-200:].nanmean().item() for name, values in state["history"].items()},
        "metrics": experiment.evaluate(model, n) if experiment.evaluate is not None else {},
    }
    write_atomically(folder / "loss.png", curve(state["history"]).png())
    if experiment.sample is not None:
        write_atomically(folder / "samples.png", sheet(experiment, model).png())
    write_atomically(folder / "record.json", (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    return read(experiment, root)


def command(experiment: Experiment, steps: int, seed: int) -> str:
    """What repeats a run, with what is not the experiment's own said."""
    words = f"gmbook train {experiment.paper} {experiment.dataset} --budget {experiment.budget}"
    return words + (f" --steps {steps}" if steps != experiment.steps else "") + (f" --seed {seed}" if seed else "")


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
        return json.loads(row.read_text(encoding="utf-8"))["seconds"]


def read(experiment: Experiment, root: Path | None = None) -> Record:
    """The record of an experiment.

    Raises:
        NoRecord: it was never recorded.
    """
    folder, _ = _folders(experiment, root)
    try:
        return Record(json.loads((folder / "record.json").read_text(encoding="utf-8")), folder)
    except FileNotFoundError:
        raise NoRecord(
            f"{experiment.name} has not been run and recorded: `gmbook train`, then `gmbook record`"
        ) from None


def load_pretrained(experiment: Experiment, root: Path | None = None) -> Model:
    """The recorded model, from its half-precision weights, in eval mode.

    Raises:
        NoRecord: there are no recorded weights.
        ValueError: the file is not the one that was recorded (its SHA-256 differs), or belongs to another model.
    """
    _, pretrained = _folders(experiment, root)
    file = pretrained / f"{experiment.name}.safetensors"
    try:
        content, manifest = file.read_bytes(), json.loads((pretrained / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NoRecord(f"{experiment.name} has no recorded weights: `gmbook train`, then `gmbook record`") from None
    if manifest.get(experiment.name, {}).get("sha256") != hashlib.sha256(content).hexdigest():
        raise ValueError(f"{file.name} is damaged (its SHA-256 is not the recorded one): restore it with git")
    model = experiment.model()
    stored, wanted = load_tensors(content), model.state_dict()
    if stored.keys() != wanted.keys():
        raise ValueError(f"{file.name} belongs to another model than {experiment.name} makes now")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])
    return model.to(device()).eval()


def _manifest(pretrained: Path, name: str, content: bytes) -> None:
    file = pretrained / "manifest.json"
    with FileLock(pretrained / ".manifest.lock"):  # another run may be recorded at the same time
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        known[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        write_atomically(file, (json.dumps(dict(sorted(known.items())), indent=1) + "\n").encode())
