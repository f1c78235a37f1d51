"""A long run: the loop with a progress bar, checkpoints and resumption."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gmbook.core.model import Model, Objective
from gmbook.train import processes
from gmbook.train.checkpoint import (
    CheckpointError,
    checkpoints,
    load_weights,
    newest_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from gmbook.train.ema import EMA, tensors
from gmbook.train.loop import Diverged, History, Log, State, check_arguments, train
from gmbook.train.optimizers import Make, adam
from gmbook.train.processes import is_main


def fit(
    model: Model,
    batches: Iterable[tuple[Tensor, ...]],
    *,
    steps: int,
    folder: str | Path | None = None,
    resume: bool = False,
    save_every: int = 500,
    progress: bool = True,
    log: Log | None = None,
    objectives: dict[str, Objective] | None = None,
    ema: EMA | None = None,
    shares: int = 1,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    optimizer: Make | None = None,
    **options: Any,
) -> History:
    """`train` with a progress bar, checkpoints and resumption; returns the losses, {objective: (steps,)}.

    A checkpoint holds the weights, the optimizers, the average, torch's generators, the place in the data, the step,
    the losses and the seconds so far. A run that was killed and resumed ends with the weights of one that was not; on a
    CPU bit for bit, if `batches` has `state_dict` and `load_state_dict` (as `data.batches.Batches`) or yields the same
    at every step. Ctrl-C (or SIGTERM, which clusters send) finishes the step, saves and stops; Ctrl-C pressed twice
    stops at once. Of several processes the first alone writes, and all must see one folder. Their number may change
    when a run is resumed: its shares stay, if the new number divides them.

    Args:
        folder: where checkpoints go, the newest two; None keeps none.
        resume: continue from the newest sound checkpoint in `folder`, or begin if there is none.
        save_every: steps between checkpoints; the last step is always saved.
        progress: show a bar with steps per second, time left and losses.
        log: gets the number and the recent mean losses of every tenth step, for a logbook such as TensorBoard.
        options: all others as in `train`.

    Raises:
        Diverged: a loss became NaN or infinite; the last checkpoint stays.
        FileExistsError: the folder holds checkpoints and `resume` is False.
        CheckpointError: the checkpoints are damaged or belong to another model.
        OSError: a checkpoint could not be written (full disk); the one before it stays.
        KeyboardInterrupt: after Ctrl-C; its message says how to resume.
    """
    objectives = model.objectives() if objectives is None else objectives
    check_arguments(objectives, steps=steps, shares=shares)
    if save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")
    state = State(objectives, optimizer or adam(betas, weight_decay))
    run = _Run(model, state, ema, batches, Path(folder) if folder is not None else None, processes.shares_of(shares))
    if resume and folder is None:
        raise ValueError("resume needs the folder of the run to continue")
    if resume:
        run.load()
    elif folder is not None and checkpoints(Path(folder)):
        raise FileExistsError(f"{folder} holds a run already: resume it, or choose another folder")

    run.check_agreement()

    loop = train(model, batches, steps=steps, objectives=objectives, ema=ema, state=state, shares=run.shares, **options)
    bar = tqdm(loop, total=steps, initial=state.step, disable=not (progress and is_main()), **_pace(), unit="step")
    saved = state.step
    with _polite_interrupt() as interrupted, bar:
        try:
            for losses in bar:
                run.losses.append(losses)
                if state.step % 10 == 0 and not bar.disable:
                    bar.set_postfix_str(_recent(run.losses), refresh=False)
                if state.step % 10 == 0 and log is not None and is_main():
                    log(state.step, _means(run.losses, 10))
                stop = processes.anywhere(bool(interrupted), model.device)
                if state.step % save_every == 0 or state.step == steps or stop:
                    run.save()
                    saved = state.step
                if stop:
                    raise KeyboardInterrupt(run.how_to_resume())
        except (Diverged, OSError) as error:
            kept = f"; the checkpoint of step {saved} in {folder} is kept" if folder is not None and saved else ""
            raise type(error)(f"{error}{kept}") from error
    return run.history()


class _Run:
    """All that a checkpoint holds, gathered."""

    def __init__(self, model: Model, state: State, ema: EMA | None, batches: Any, folder: Path | None, shares: int):
        self.model, self.state, self.ema, self.batches, self.folder = model, state, ema, batches, folder
        self.shares = shares
        self.began, self.seconds = time.perf_counter(), 0.0  # of this process, of those before it
        self.past: History = {}
        self.losses: list[dict[str, Tensor]] = []

    def save(self) -> None:
        """Write a checkpoint, unless there is no folder or another process writes it."""
        if self.folder is None:
            return
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise Diverged(f"{name} is NaN or infinite after step {self.state.step - 1}: lower lr, or set clip")
        self.past, self.losses = self.history(), []
        if not is_main():
            return
        place = getattr(self.batches, "state_dict", None)
        content = {
            "model": self.model.state_dict(),
            "train": self.state.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "batches": place() if place is not None else None,
            "random": random_state(),
            "history": self.past,
            "shares": self.shares,
            "seconds": self.seconds + time.perf_counter() - self.began,
        }
        save_checkpoint(self.folder, self.state.step, content)

    def load(self) -> None:
        """Go back to the newest sound checkpoint; without any, stay at the beginning."""
        found = newest_checkpoint(self.folder) if self.folder is not None else None
        if found is None:
            return
        _, content = found
        if (content["ema"] is None) != (self.ema is None):
            raise CheckpointError(f"{self.folder} was run {'with' if content['ema'] else 'without'} ema: do so again")
        try:
            load_weights(self.model, content["model"])
            self.state.load_state_dict(content["train"])
            if self.ema is not None:
                self.ema.load_state_dict(content["ema"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"the checkpoints in {self.folder} belong to another model: {error}") from error
        self.past, self.seconds = content["history"], content.get("seconds", 0.0)
        self.shares = processes.shares_of(max(content.get("shares", 1), self.shares))
        if content["batches"] is not None:
            self.batches.load_state_dict(content["batches"])
        else:
            print("the data have no state_dict: resuming at their beginning", file=sys.stderr)
        set_random_state(content["random"])  # last: nothing above may disturb it

    def check_agreement(self) -> None:
        """All processes must stand at the same step; then the first one's weights are everybody's.

        Raises:
            CheckpointError: they do not see the same folder.
        """
        device = self.model.device
        if not processes.agree(self.state.step, device):
            raise CheckpointError(
                f"{self.folder} is at step {self.state.step} for process {processes.rank()} and elsewhere for another: "
                "all processes, on all machines, need one shared folder"
            )
        processes.follow_main(tensors(self.model))

    def history(self) -> History:
        names = self.state.optimizers
        recent = {name: torch.tensor([float(losses.get(name, math.nan)) for losses in self.losses]) for name in names}
        return {name: torch.cat([self.past[name], recent[name]]) if self.past else recent[name] for name in names}

    def how_to_resume(self) -> str:
        if self.folder is None:
            return f"stopped at step {self.state.step}; nothing was saved, since no folder was given"
        return f"stopped and saved at step {self.state.step} in {self.folder}; resume=True (--resume) continues it"


def _means(losses: list[dict[str, Tensor]], window: int) -> dict[str, float]:
    """The mean losses of the last steps, of each player over those at which it moved."""
    names = {name for step in losses[-window:] for name in step}
    recent = {name: [float(step[name]) for step in losses[-window:] if name in step] for name in sorted(names)}
    return {name: sum(values) / len(values) for name, values in recent.items()}


def _recent(losses: list[dict[str, Tensor]]) -> str:
    return ", ".join(f"{name} {mean:.4g}" for name, mean in _means(losses, 50).items())


def _pace() -> dict[str, Any]:
    """A terminal's bar moves, a log file gets a line now and then."""
    return {} if sys.stderr.isatty() else {"mininterval": 30.0, "maxinterval": 60.0, "ascii": True, "ncols": 100}


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
