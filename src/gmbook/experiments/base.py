"""What an experiment is, and how one is run, found again, and loaded."""

from __future__ import annotations

import difflib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmbook import plots
from gmbook.core.model import Model
from gmbook.train import EMA, History, Log, fit
from gmbook.train.checkpoint import CheckpointError, checkpoints, load_weights, newest_checkpoint, write_atomically
from gmbook.train.plan import Draw, Plan
from gmbook.train.plan import plan as make_plan
from gmbook.train.processes import is_main, world

BUDGETS = ("laptop", "gpu")


def images(x: Tensor) -> plots.Picture:
    """Image samples, ten to a row."""
    return plots.images(x, columns=10)


class Unknown(ValueError):
    """A name that the book does not know; the message suggests the nearest ones."""


@dataclass(frozen=True)
class Experiment:
    """One class of the book, on one data set, at one budget.

    Attributes:
        paper, dataset, budget: its name, three words.
        model: makes the model, with fresh weights.
        batches: (seed, batch size) -> the training stream.
        steps, size: how long, and the batch size.
        options: further options of `train.fit`: lr, warmup, decay, clip, bf16, weight_decay.
        ema: the decay of the averaged weights, which are the ones that are sampled from; None for no average.
        reference: the paper's own setting, in a sentence.
        sample: (model, labels (n,)) -> n samples (n, *shape), as the experiment is judged; None for what has no
        samples.
        evaluate: (model, n) -> metrics by name; what each means is said in the metric's name.
        sheet: how samples are drawn, images by default.
        compile: compile the model's networks before training (for GPUs).
        channels_last: keep the weights of convolutions with the channel as the fastest axis (for GPUs above all).
        toy: a minute's run with small networks, whose row stands in the table of toys.
    """

    paper: str
    dataset: str
    budget: str
    model: Callable[[], Model]
    batches: Callable[[int, int], Iterable[tuple[Tensor, ...]]]
    steps: int
    size: int
    reference: str
    sample: Callable[[Model, Tensor], Tensor] | None
    evaluate: Callable[[Model, int], dict[str, Any]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    ema: float | None = None
    compile: bool = False
    channels_last: bool = False
    toy: bool = False
    sheet: Callable[[Tensor], plots.Picture] = images

    @property
    def name(self) -> str:
        """paper-dataset-budget, the name of its record and weights."""
        return f"{self.paper}-{self.dataset}-{self.budget}"


def device() -> torch.device:
    """The GPU where there is one that CUDA drives, else the CPU. Apple's has no float64, and is not used."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_budget() -> str:
    """The budget that GMBOOK_BUDGET names, "laptop" if it is not set."""
    return os.environ.get("GMBOOK_BUDGET", "laptop")


def choose(what: str, name: str, known: Iterable[str]) -> str:
    """`name` if it is known.

    Raises:
        Unknown: it is not; the message names the nearest known ones.
    """
    known = sorted(set(known))
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, 3, 0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    raise Unknown(f"unknown {what} {name!r}: {hint}")


def find(experiments: Iterable[Experiment], paper: str, dataset: str, budget: str) -> Experiment:
    """The experiment of that name.

    Raises:
        Unknown: there is none; says which word is off.
    """
    left = list(experiments)
    choose("paper", paper, (e.paper for e in left))
    left = [e for e in left if e.paper == paper]
    choose(f"data set for {paper}", dataset, (e.dataset for e in left))
    left = [e for e in left if e.dataset == dataset]
    choose(f"budget for {paper} on {dataset}", budget, (e.budget for e in left))
    return next(e for e in left if e.budget == budget)


# ----------------------------------------------------------------------------------------------------- a run


def run(
    experiment: Experiment,
    folder: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    resume: bool = False,
    save_every: int = 250,
    progress: bool = True,
    shares: int = 1,
    tensorboard: bool = False,
    backend: str = "inductor",
) -> tuple[Model, History]:
    """Train an experiment in `folder`; returns the model with its averaged weights, and the losses.

    The folder gets `run.json` (what is run, and on what) and checkpoints (which know the seconds so far). Repeating the
    call with resume=True after a kill ends at the same weights. Under `train.processes.joined` processes share the run.

    Args:
        shares: cut each batch into so many parts, to save memory; see `train.processes`.
        tensorboard: write the losses into the folder's `tensorboard`, too.
        backend: of torch.compile, where the experiment compiles.

    Raises:
        FileExistsError, CheckpointError, Diverged: as `train.fit`.
        ValueError: the folder to be resumed holds a run of another experiment or seed.
        RuntimeError: TensorBoard is wanted and not installed.
    """
    steps = experiment.steps if steps is None else steps
    told = provenance(experiment, seed, steps)
    _claim(folder, told, resume)
    log = logbook(folder / "tensorboard") if tensorboard and is_main() else None
    torch.manual_seed(seed)
    model = experiment.model().to(device())
    if experiment.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # for 4-D weights only
    if experiment.compile:
        for network in model.networks():
            # In place, so that the weights keep their names. Not `network.compile()`: of a torch.nn.Sequential that
            # holds torch's own layers only, such as an MLP, it compiles nothing.
            network.forward = torch.compile(network.forward, backend=backend)
    ema = None if experiment.ema is None else EMA(model, experiment.ema)
    batches = experiment.batches(seed, experiment.size)
    if is_main():
        write_atomically(folder / "run.json", _json(told))  # at the start: a run that is killed can be sampled too
    history = fit(
        model,
        batches,
        steps=steps,
        folder=folder,
        resume=resume,
        save_every=save_every,
        progress=progress,
        log=log,
        ema=ema,
        shares=shares,
        **experiment.options,
    )
    if ema is not None:
        ema.copy_to(model)
    return model.eval(), history


def plan(experiment: Experiment, steps: int | None = None) -> tuple[Plan, bool]:
    """What a run of the experiment will cost, and whether its data were there to look at.

    Where they are missing or damaged, noise of the same shape takes their place: the cost is that of the shapes. Steps
    are timed where the experiment is meant to run: the laptop's everywhere, a GPU's on a GPU.
    """
    torch.manual_seed(0)
    model = experiment.model().to(device())
    try:
        next(iter(experiment.batches(0, 2)))
        draw, found = (lambda n: next(iter(experiment.batches(0, n)))), True
    except (OSError, ValueError):
        draw, found = stand_in(model), False
    return make_plan(
        model,
        draw,
        steps=experiment.steps if steps is None else steps,
        size=experiment.size,
        measure=experiment.budget == "laptop" or device().type == "cuda",
        ema=experiment.ema,
        options=experiment.options,
    ), found


def stand_in(model: Model) -> Draw:
    """Noise in the form that the model's losses take: floats or integers of the event shape, with labels or without.

    Raises:
        ValueError: they take none of these.
    """
    where = model.device
    kinds: list[Draw] = [
        lambda n: (torch.rand(n, *model.shape, device=where),),
        lambda n: (torch.randint(2, (n, *model.shape), device=where),),
        lambda n: (torch.rand(n, *model.shape, device=where), torch.randint(2, (n,), device=where)),
    ]
    for draw in kinds:
        try:
            for objective in model.objectives().values():
                objective.loss(*draw(2))
            return draw
        except (TypeError, ValueError, RuntimeError):
            continue
    raise ValueError(f"{type(model).__name__} cannot be planned without its data: get them with `gmbook data`")


def logbook(folder: Path) -> Log:
    """Writes losses for TensorBoard: `tensorboard --logdir runs` shows all runs side by side.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RuntimeError(
            "TensorBoard is not installed: `pip install tensorboard` (the extra `log`), or leave out --tensorboard"
        ) from None
    writers: list[Any] = []

    def log(step: int, losses: dict[str, float]) -> None:
        if not writers:  # a resumed run overwrites what was logged after its checkpoint
            writers.append(SummaryWriter(folder, purge_step=step))
        for name, value in losses.items():
            writers[0].add_scalar(f"loss/{name}", value, step)
        writers[0].flush()

    return log


def _claim(folder: Path, told: dict[str, Any], resume: bool) -> None:
    """Refuse a folder that holds another run, or this one where it is not to be resumed."""
    if not checkpoints(folder):
        return
    if not resume:
        raise FileExistsError(f"{folder} holds a run already: continue it with --resume, or name another with --out")
    earlier = _read_json(folder / "run.json")
    for key in ("paper", "dataset", "budget", "seed"):
        if earlier.get(key, told[key]) != told[key]:
            raise ValueError(f"{folder} holds a run with {key} {earlier[key]}, not {told[key]}: name another folder")


def provenance(experiment: Experiment, seed: int, steps: int) -> dict[str, Any]:
    """What must be known to repeat a run: its name, size, versions and hardware, as plain JSON. No host, no path."""
    packages = {name: version(name) for name in ("torch", "numpy", "scipy")}
    if device().type == "cuda":
        hardware = torch.cuda.get_device_name()
    else:
        hardware = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {
        "paper": experiment.paper,
        "dataset": experiment.dataset,
        "budget": experiment.budget,
        "seed": seed,
        "steps": steps,
        "batch": experiment.size,
        "processes": world(),
        "reference": experiment.reference,
        "commit": commit(),
        "versions": {"python": platform.python_version(), **packages},
        "hardware": hardware,
    }


def commit() -> str:
    """The commit of the code that runs, marked `-dirty` if it has changes that are not committed."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def load(experiment: Experiment, folder: Path) -> Model:
    """The model of a run's newest sound checkpoint, with averaged weights where the experiment has them, in eval mode.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
        CheckpointError: all are damaged, or they are another model's.
    """
    found = newest_checkpoint(folder)
    if found is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint: train one with `gmbook train`")
    model, state = experiment.model(), found[1]
    weights = dict(state["model"])
    if state["ema"] is not None:
        weights |= state["ema"]["weights"]
    try:
        load_weights(model, weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} holds another model than {experiment.name}: {error}") from error
    return model.to(device()).eval()


def read_run(folder: Path) -> dict[str, Any]:
    """The `run.json` of a run.

    Raises:
        FileNotFoundError: the folder is not a run of `gmbook train`.
    """
    content = _read_json(folder / "run.json")
    if not content:
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no readable run.json")
    return content


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
