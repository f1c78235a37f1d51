"""The training loop, once for the whole book: `train` is the loop, `fit` adds what a long run needs.

`train` is a generator, so that a notebook looks at the model whenever it likes, without callbacks:

    for losses in train(model, batches, steps=1000, lr=1e-3):
        ...

`fit` runs the same generator with a progress bar and with checkpoints, from which a killed run resumes to the very
same weights (bit for bit on a CPU). Under `lab.processes.joined` both share their work with other processes.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gmbook.core.model import Model, Objective
from gmbook.lab import processes
from gmbook.lab.checkpoint import (
    CheckpointError,
    checkpoints,
    load_weights,
    newest_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from gmbook.lab.optimizers import Make, adam
from gmbook.lab.processes import is_main

Decay = Literal["constant", "linear", "cosine"]
History = dict[str, Tensor]  # objective -> (steps,), nan where that player kept still
Log = Callable[[int, dict[str, float]], None]  # the step and its numbers, by name


class Diverged(ArithmeticError):
    """A loss became NaN or infinite; the message names the step and the objective."""


def train(
    model: Model,
    batches: Iterable[tuple[Tensor, ...]],
    *,
    steps: int,
    lr: float | dict[str, float] = 1e-3,
    objectives: dict[str, Objective] | None = None,
    ema: EMA | None = None,
    clip: float | None = None,
    warmup: int = 0,
    decay: Decay = "constant",
    accumulate: int = 1,
    shares: int = 1,
    bf16: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    optimizer: Make | None = None,
    state: State | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Train every player of a model, and yield the losses of each step: {objective: ()}, detached.

    At each step every player whose turn it is minimises its own loss over its own parameters; all others keep still
    (`backward(inputs=...)`). One player is ordinary training, two are a GAN, and a two-stage model is two calls.

    Args:
        model: what is trained; it is put in training mode at every step, so that you may sample in between.
        batches: yields tuples, which become the arguments of the losses; iterated again when it ends.
        steps: the step at which to stop, counted from the start of the run.
        lr: the learning rate; for several players it may be a dict by objective.
        objectives: the players, by name; `model.objectives()` if None.
        ema: a running average of the weights, updated after every step.
        clip: the largest allowed norm of a player's gradient.
        warmup, decay: the learning rate's shape, see `schedule`.
        accumulate: the gradient is the mean over so many batches: a large batch in little memory.
        shares: each batch is cut into so many parts, which are played in turn, or at once where there are several
            processes (`lab.processes` says what stays equal); at least one for each process.
        bf16: run the losses under bfloat16 autocast. For GPUs; most CPUs are slower with it.
        betas, weight_decay: of AdamW, which is Adam at weight_decay = 0.
        optimizer: makes the optimizer of a player from its parameters, if Adam is not wanted; `lr` stays the rate, and
            a parameter group may have a factor to it, "times".
        state: optimizers and step of a run to be continued; `fit` uses it.

    Raises:
        Diverged: a loss is NaN or infinite.
        ValueError: an objective has nothing to train, or an argument makes no sense.
        TypeError: `batches` yields something other than tuples.
    """
    objectives = model.objectives() if objectives is None else objectives
    _check(objectives, steps=steps, accumulate=accumulate, clip=clip, shares=shares)
    shares = processes.shares_of(shares)
    state = State(objectives, optimizer or adam(betas, weight_decay)) if state is None else state
    shape = schedule(steps, warmup, decay)
    stream = _endless(batches)
    while state.step < steps:
        if not model.training:  # somebody sampled in between
            model.train()
        group = [next(stream) for _ in range(accumulate)]
        if shares > 1 and state.step == 0:
            for objective in objectives.values():
                processes.first_look(_player(model, objective, bf16), group[0], model)
        losses: dict[str, Tensor] = {}
        for name, objective in objectives.items():
            if state.step % objective.every:
                continue
            optimizer_ = state.optimizers[name]
            optimizer_.zero_grad()
            losses[name] = _backward(_player(model, objective, bf16), group, model, objective.parameters, shares)
            if not math.isfinite(losses[name]):
                raise Diverged(
                    f"the loss {name!r} is {losses[name].item()} at step {state.step}: "
                    "lower lr, set clip, or look for a division or logarithm of zero in the loss"
                )
            if clip is not None:
                nn.utils.clip_grad_norm_(objective.parameters, clip)
            for parameters in optimizer_.param_groups:
                rate = lr[name] if isinstance(lr, dict) else lr
                parameters["lr"] = shape(state.step) * rate * parameters.get("times", 1.0)
            optimizer_.step()
        if ema is not None:
            ema.update(model)
        state.step += 1
        yield losses


def _player(model: Model, objective: Objective, bf16: bool) -> processes.Play:
    """A player's move: the weighted loss of a batch, whose gradient goes to the player's own parameters."""

    def play(batch: tuple[Tensor, ...], weight: float) -> Tensor:
        with torch.autocast(model.anchor.device.type, torch.bfloat16, enabled=bf16):
            loss = objective.loss(*batch) * weight
        if torch.is_grad_enabled():
            loss.backward(inputs=objective.parameters)  # the other players keep still
        return loss.detach()

    return play


def _backward(
    play: processes.Play, group: list[tuple[Tensor, ...]], model: Model, parameters: list[nn.Parameter], shares: int
) -> Tensor:
    """Leave the mean gradient over a group of batches in the parameters; returns the mean loss."""
    weight = 1 / len(group)
    if shares > 1:
        return processes.backward_in_shares(
            lambda part, fraction: play(part, fraction * weight), group, model, parameters, shares
        )
    return torch.stack([play(batch, weight) for batch in group]).sum()


def schedule(steps: int, warmup: int = 0, decay: Decay = "constant") -> Callable[[int], float]:
    """The learning rate's factor at each step: (k + 1)/warmup up to 1, then constant, or falling towards 0 at `steps`.

    "linear" is 1 − u and "cosine" ½(1 + cos πu), with u the fraction of the steps after the warm-up that are done.
    """
    if decay not in ("constant", "linear", "cosine"):
        raise ValueError(f"unknown decay {decay!r}: one of constant, linear, cosine")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        u = (step - warmup) / max(1, steps - warmup)
        return {"constant": 1.0, "linear": 1 - u, "cosine": (1 + math.cos(math.pi * u)) / 2}[decay]

    return factor


class State:
    """What the loop carries from step to step, besides the model: one optimizer per player, and the step."""

    def __init__(self, objectives: dict[str, Objective], optimizer: Make):
        self.optimizers = {name: optimizer(objective.parameters) for name, objective in objectives.items()}
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
            for parameter, moments in optimizer.state.items():
                for key, value in moments.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:  # laid out as fused kernels want
                        moments[key] = torch.empty_like(parameter).copy_(value)


class EMA:
    """An exponential moving average of the weights, θ̄ ← d θ̄ + (1 − d) θ: what diffusion models sample from.

    The decay warms up, d_n = min(decay, (1 + n)/(10 + n)) at update n = 0, 1, …, so that the random start is forgotten
    early. Parameters are averaged; buffers, which are tables and statistics, are copied.

    Args:
        model: the weights to start from.
        decay: the final d, in [0, 1). The average looks back over about 1/(1 − d) steps.
        warmup: False keeps d = decay from the first update.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, warmup: bool = True):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.buffers = {name: b.detach().clone() for name, b in model.named_buffers()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the model's present weights."""
        n = self.updates
        decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
        live = [p.detach() for _, p in model.named_parameters()]
        torch._foreach_lerp_(list(self.weights.values()), live, 1 - decay)
        for mine, theirs in zip(self.buffers.values(), model.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights and buffers with the average."""
        for mine, theirs in zip(self._tensors(), _tensors(model), strict=True):
            theirs.copy_(mine)

    @contextlib.contextmanager
    def swapped(self, model: nn.Module) -> Iterator[nn.Module]:
        """`with ema.swapped(model):` the model has the averaged weights, afterwards its own again."""
        own = [tensor.detach().clone() for tensor in _tensors(model)]
        self.copy_to(model)
        try:
            yield model
        finally:
            with torch.no_grad():
                for mine, theirs in zip(own, _tensors(model), strict=True):
                    theirs.copy_(mine)

    def _tensors(self) -> list[Tensor]:
        return [*self.weights.values(), *self.buffers.values()]

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self.weights, "buffers": self.buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for mine, saved in ((self.weights, state["weights"]), (self.buffers, state["buffers"])):
            for name, tensor in mine.items():
                tensor.copy_(saved[name])


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
    CPU bit for bit, if `batches` has `state_dict` and `load_state_dict` (as `lab.batches.Batches`) or yields the same
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
    _check(objectives, steps=steps, shares=shares)
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
                stop = processes.anywhere(bool(interrupted), model.anchor.device)
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
        device = self.model.anchor.device
        if not processes.agree(self.state.step, device):
            raise CheckpointError(
                f"{self.folder} is at step {self.state.step} for process {processes.rank()} and elsewhere for another: "
                "all processes, on all machines, need one shared folder"
            )
        processes.follow_main(_tensors(self.model))

    def history(self) -> History:
        names = self.state.optimizers
        recent = {name: torch.tensor([float(losses.get(name, math.nan)) for losses in self.losses]) for name in names}
        return {name: torch.cat([self.past[name], recent[name]]) if self.past else recent[name] for name in names}

    def how_to_resume(self) -> str:
        if self.folder is None:
            return f"stopped at step {self.state.step}; nothing was saved, since no folder was given"
        return f"stopped and saved at step {self.state.step} in {self.folder}; resume=True (--resume) continues it"


def _check(
    objectives: dict[str, Objective], *, steps: int, accumulate: int = 1, clip: float | None = None, shares: int = 1
) -> None:
    for name, number in {"steps": steps, "accumulate": accumulate, "shares": shares}.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if clip is not None and clip <= 0:
        raise ValueError(f"clip is a gradient norm and must be positive, got {clip}; None turns it off")
    for name, objective in objectives.items():
        if not objective.parameters:
            raise ValueError(f"the objective {name!r} has no parameters to train")
        if objective.every < 1:
            raise ValueError(f"the objective {name!r} plays every {objective.every} steps: at least 1")


def _endless(batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    while True:
        empty = True
        for batch in batches:
            if not isinstance(batch, (tuple, list)):
                raise TypeError(f"batches must yield tuples such as (x,) or (x, y), got {type(batch).__name__}")
            empty = False
            yield tuple(batch)
        if empty:
            raise ValueError("batches are empty, or a generator that has ended: give an endless iterable, or a list")


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


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
