"""A long run: the loop with a progress bar, checkpoints and resumption."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmbook.core.model import Model, Objective
from gmbook.train import processes
from gmbook.train.bars import LOOK_EVERY, bar
from gmbook.train.checkpoint import (
    CheckpointError,
    checkpoints,
    load_weights,
    newest_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from gmbook.train.ema import EMA
from gmbook.train.loop import Diverged, Losses, State, check_objectives, train
from gmbook.train.processes import is_main
from gmbook.train.recipe import Recipe, recipe_of

History = dict[str, Tensor]  # objective -> (steps,), nan where that player kept still
Log = Callable[[int, dict[str, float]], None]  # the step and its numbers, by name


def fit(
    model: Model,
    batches: Iterable[tuple[Tensor, ...]],
    recipe: Recipe | None = None,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    save_every: int = 500,
    progress: bool = True,
    log: Log | None = None,
    begun: Callable[[], None] | None = None,
    objectives: dict[str, Objective] | None = None,
    ema: EMA | None = None,
    **settings: Any,
) -> History:
    """`train` with a progress bar, checkpoints and resumption; returns the losses, {objective: (steps,)}.

    A checkpoint holds the weights, the optimizers, the average, torch's generators, the place in the data, the step,
    the recipe, the losses and the seconds so far. A run that was killed and resumed ends with the weights of one that
    was not; on a CPU bit for bit, if `batches` has `state_dict` and `load_state_dict` (as `data.batches.Batches`) or
    yields the same at every step. Ctrl-C (or SIGTERM, which clusters send) finishes the step, saves and stops; Ctrl-C
    pressed twice stops at once. Of several processes the first alone writes, and all must see one folder. Their number
    may change when a run is resumed.

    Args:
        recipe, objectives, ema, settings: as in `train`.
        folder: where checkpoints go, the newest two; None keeps none.
        resume: continue from the newest sound checkpoint in `folder`, or begin if there is none.
        save_every: steps between checkpoints; the last step is always saved.
        progress: show a bar with steps per second, time left and losses.
        log: gets the number and the recent mean losses of every tenth step, for a logbook such as TensorBoard.
        begun: called before the first step, once nothing is left to refuse.

    Raises:
        Diverged: a loss became NaN or infinite; the last checkpoint stays.
        FileExistsError: the folder holds checkpoints and `resume` is False.
        CheckpointError: the checkpoints are damaged or belong to another model.
        ValueError: the run cannot go on with this recipe, see `Recipe.check_continues`, or an argument makes no sense.
        OSError: a checkpoint could not be written (full disk); the one before it stays.
        KeyboardInterrupt: after Ctrl-C; its message says how to resume.
    """
    recipe = recipe_of(recipe, settings)
    objectives = model.objectives() if objectives is None else objectives
    check_objectives(objectives, recipe)
    if save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")
    ema = recipe.average(model) if ema is None else ema
    run = _Run(model, recipe, State(objectives, recipe), ema, batches, Path(folder) if folder is not None else None)
    run.begin(resume)

    if begun is not None:
        begun()

    loop = train(model, batches, recipe, objectives=objectives, ema=ema, state=run.state, progress=False)
    steps = bar(loop, recipe.steps, run.state.step, shown=progress and is_main())
    with _polite_interrupt() as interrupted, steps:
        try:
            for losses in steps:
                run.losses.append(losses)
                step = run.state.step
                if step % LOOK_EVERY == 0 and not steps.disable:
                    steps.set_postfix_str(_recent(run.losses), refresh=False)
                if step % LOOK_EVERY == 0 and log is not None and is_main():
                    log(step, _means(run.losses, LOOK_EVERY))
                stop = processes.in_any(bool(interrupted))
                if step % save_every == 0 or step == recipe.steps or stop:
                    run.save()
                if stop:
                    raise KeyboardInterrupt(run.how_to_resume())
        except (Diverged, OSError) as error:
            raise type(error)(f"{error}{run.what_is_kept()}") from error
    processes.in_any(False)  # no process goes on before the first one has written the last checkpoint
    return run.history()


class _Run:
    """All that a checkpoint holds, gathered."""

    def __init__(self, model: Model, recipe: Recipe, state: State, ema: EMA | None, batches: Any, folder: Path | None):
        self.model, self.recipe, self.state, self.ema, self.batches = model, recipe, state, ema, batches
        self.folder, self.saved = folder, 0
        self.began, self.seconds = time.perf_counter(), 0.0  # of this process, of those before it
        self.past: History = {}
        self.losses: list[Losses] = []

    def begin(self, resume: bool) -> None:
        """Go back to the newest sound checkpoint if `resume`; all processes must then stand at the same step.

        Raises:
            FileExistsError, CheckpointError, ValueError: as `fit`.
        """
        if resume and self.folder is None:
            raise ValueError("resume needs the folder of the run to continue")
        if self.folder is not None and resume:
            self.load(self.folder)
        elif self.folder is not None and checkpoints(self.folder):
            raise FileExistsError(f"{self.folder} holds a run already: resume it, or choose another folder")
        if not processes.same_in_all(self.state.step):
            raise CheckpointError(
                f"{self.folder} is at step {self.state.step} for process {processes.rank()} and elsewhere for another: "
                "all processes, on all machines, need one shared folder"
            )
        self.saved = self.state.step

    def save(self) -> None:
        """Write a checkpoint, unless there is no folder or another process writes it."""
        if self.folder is None:
            return
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise Diverged(f"{name} is NaN or infinite after step {self.state.step - 1}: lower lr, or set clip")
        self.past, self.losses = self.history(), []
        if is_main():
            place = getattr(self.batches, "state_dict", None)
            content = {
                "model": self.model.state_dict(),
                "train": self.state.state_dict(),
                "ema": self.ema.state_dict() if self.ema is not None else None,
                "batches": place() if place is not None else None,
                "random": random_state(),
                "history": self.past,
                "recipe": self.recipe.as_json(),
                "seconds": self.seconds + time.perf_counter() - self.began,
            }
            save_checkpoint(self.folder, self.state.step, content)
        self.saved = self.state.step

    def load(self, folder: Path) -> None:
        """Go back to the newest sound checkpoint; without any, stay at the beginning."""
        found = newest_checkpoint(folder)
        if found is None:
            return
        step, content = found
        if (content["ema"] is None) != (self.ema is None):
            raise CheckpointError(f"{folder} was run {'with' if content['ema'] else 'without'} ema: do so again")
        earlier = content.get("recipe", {})  # checkpoints of before have none
        try:
            self.recipe.check_continues(earlier, step)
        except ValueError as error:
            raise ValueError(f"cannot resume {folder}: {error}") from error
        if changes := self.recipe.changes(earlier):
            print(f"resuming {folder} with {changes}", file=sys.stderr)
        try:
            load_weights(self.model, content["model"])
            self.state.load_state_dict(content["train"])
            if self.ema is not None:
                self.ema.load_state_dict(content["ema"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"the checkpoints in {folder} belong to another model: {error}") from error
        self.past, self.seconds = content["history"], content.get("seconds", 0.0)
        if content["batches"] is not None:
            self.batches.load_state_dict(content["batches"])
        else:
            print("the data have no state_dict: resuming at their beginning", file=sys.stderr)
        set_random_state(content["random"])  # last: nothing above may disturb it

    def history(self) -> History:
        """The losses of all steps so far, on the CPU."""
        recent = {name: _curve(self.losses, name) for name in self.state.optimizers}
        return {name: torch.cat([self.past[name], recent[name]]) if self.past else recent[name] for name in recent}

    def how_to_resume(self) -> str:
        if self.folder is None:
            return f"stopped at step {self.state.step}; nothing was saved, since no folder was given"
        return f"stopped and saved at step {self.state.step} in {self.folder}; resume=True (--resume) continues it"

    def what_is_kept(self) -> str:
        if self.folder is None or not self.saved:
            return ""
        return f"; the checkpoint of step {self.saved} in {self.folder} is kept"


def _curve(losses: list[Losses], name: str) -> Tensor:
    """One player's losses over some steps, (steps,) on the CPU, nan where it kept still: a GPU is waited for once."""
    played = [step[name] for step in losses if name in step]
    curve = torch.full((len(losses),), math.nan)
    if played:
        curve[torch.tensor([name in step for step in losses])] = torch.stack(played).to("cpu", curve.dtype)
    return curve


def _means(losses: list[Losses], window: int) -> dict[str, float]:
    """The mean losses of the last steps, of each player over those at which it moved."""
    recent = losses[-window:]
    names = sorted({name for step in recent for name in step})
    return {name: _curve(recent, name).nanmean().item() for name in names}


def _recent(losses: list[Losses]) -> str:
    return ", ".join(f"{name} {mean:.4g}" for name, mean in _means(losses, 50).items())


@contextlib.contextmanager
def _polite_interrupt() -> Iterator[list[bool]]:
    """Within it, Ctrl-C and SIGTERM only fill the list it gives; Ctrl-C pressed again interrupts as usual.

    Not so where several processes share the run: torchrun passes a signal on that the terminal has sent to all anyway.
    """
    interrupted: list[bool] = []

    def note(signum: int, frame: Any) -> None:
        if interrupted and signum == signal.SIGINT and processes.world() == 1:
            raise KeyboardInterrupt
        interrupted.append(True)

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield interrupted
        return
    before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
