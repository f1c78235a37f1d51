"""A run of an experiment: trained in a folder, with its provenance, planned beforehand, found again and loaded."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gmbook.core.model import Model
from gmbook.data.jsonfiles import as_json, read_json
from gmbook.experiments.base import Experiment
from gmbook.train import History, Log, Recipe, fit
from gmbook.train.checkpoint import (
    CheckpointError,
    checkpoints,
    load_weights,
    newest_checkpoint,
    step_of,
    write_atomically,
)
from gmbook.train.device import device
from gmbook.train.plan import Plan, stand_in
from gmbook.train.plan import plan as make_plan
from gmbook.train.processes import is_main, world

# What run.json must say; records say so too.
RUN: dict[str, Any] = {"paper": str, "dataset": str, "budget": str, "seed": int, "steps": int}


def run(
    experiment: Experiment,
    folder: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    resume: bool = False,
    save_every: int = 250,
    progress: bool = True,
    accumulate: int = 1,
    tensorboard: bool = False,
    backend: str = "inductor",
) -> tuple[Model, History]:
    """Train an experiment in `folder`; returns the model with its averaged weights, and the losses.

    The folder gets `run.json` (what is run, and on what) before the first step, once nothing is left to refuse, and
    checkpoints (which know the seconds so far). Repeating the call with resume=True after a kill ends at the same
    weights. Under `train.processes.process_group` processes share the run.

    Args:
        steps: instead of the experiment's own number.
        accumulate: compute each batch in so many parts, to save memory; see `train.Recipe`.
        tensorboard: write the losses into the folder's `tensorboard`, too.
        backend: of torch.compile, where the experiment compiles.

    Raises:
        FileExistsError, CheckpointError, Diverged: as `train.fit`.
        ValueError: the folder holds a run of another experiment or seed, one that cannot go on with so many steps, or a
            damaged run.json.
        RuntimeError: TensorBoard is wanted and not installed.
    """
    recipe = replace(
        experiment.recipe, steps=experiment.recipe.steps if steps is None else steps, accumulate=accumulate
    )
    about = provenance(experiment, recipe, seed)
    _claim(folder, about, recipe, resume)
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
    ema = recipe.average(model)
    batches = experiment.batches(seed, recipe.required_batch_size)

    def begun() -> None:  # before the first step: a run that is killed can be sampled too
        if is_main():
            write_atomically(folder / "run.json", as_json(about))

    history = fit(
        model,
        batches,
        recipe,
        folder=folder,
        resume=resume,
        save_every=save_every,
        progress=progress,
        log=log,
        begun=begun,
        ema=ema,
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
    recipe = experiment.recipe if steps is None else replace(experiment.recipe, steps=steps)
    return make_plan(model, draw, recipe, measure=experiment.budget == "laptop" or device().type == "cuda"), found


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


def _claim(folder: Path, about: dict[str, Any], recipe: Recipe, resume: bool) -> None:
    """Refuse a folder that holds another run, or this one where it is not to be resumed or cannot go on like this."""
    held = checkpoints(folder)
    try:
        earlier = read_run(folder)
    except FileNotFoundError:
        earlier = {}
    if held and not resume:
        raise FileExistsError(f"{folder} holds a run already: continue it with --resume, or name another with --out")
    for key in ("paper", "dataset", "budget", "seed"):
        if earlier.get(key, about[key]) != about[key]:
            raise ValueError(f"{folder} holds a run with {key} {earlier[key]}, not {about[key]}: name another folder")
    if earlier and earlier.get("data", {}).get("digest") != about.get("data", {}).get("digest"):
        raise ValueError(f"{folder} holds a run on other data of the name {about['dataset']}: name another folder")
    if not held:
        return
    begun = {"steps": earlier["steps"]} if "steps" in earlier else {}
    try:
        recipe.check_continues(begun, step_of(held[0]))
    except ValueError as error:
        raise ValueError(f"cannot resume {folder}: {error}") from None


def provenance(experiment: Experiment, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What must be known to repeat a run: its name, recipe, versions and hardware, as plain JSON. No host, no path."""
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
        "steps": recipe.steps,
        "batch": recipe.batch_size,
        "recipe": recipe.as_json(),
        "processes": world(),
        "reference": experiment.reference,
        "commit": commit(),
        "versions": {"python": platform.python_version(), **packages},
        "hardware": hardware,
        **({"data": experiment.facts} if experiment.facts else {}),
    }


def commit() -> str:
    """The commit of the code that runs, marked `-dirty` if it has changes that are not committed."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


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
        raise CheckpointError(
            f"{folder} holds another model than {experiment.name} makes now: train it anew in another folder (--out)"
        ) from error
    return model.to(device()).eval()


def read_run(folder: Path) -> dict[str, Any]:
    """The `run.json` of a run.

    Raises:
        FileNotFoundError: the folder is not a run of `gmbook train`.
        Damaged: it does not say what was run.
    """
    try:
        return read_json(folder / "run.json", RUN, "train it anew in another folder (--out)")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no run.json") from None
