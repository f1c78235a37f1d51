"""The training loop, once for the whole book: `train` is the loop, `fit` adds what a long run needs.

`train` is a generator, so that a notebook looks at the model whenever it likes, without callbacks:

    for losses in train(model, batches, steps=1000, lr=1e-3):
        ...

`fit` runs the same generator with a progress bar and with checkpoints, from which a killed run resumes to the very
same weights (bit for bit on a CPU). Under `train.processes.joined` both share their work with other processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gmbook.core.model import Model, Objective
from gmbook.train import processes
from gmbook.train.ema import EMA
from gmbook.train.optimizers import Make, adam

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
            processes (`train.processes` says what stays equal); at least one for each process.
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
    check_arguments(objectives, steps=steps, accumulate=accumulate, clip=clip, shares=shares)
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
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
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


def check_arguments(
    objectives: dict[str, Objective], *, steps: int, accumulate: int = 1, clip: float | None = None, shares: int = 1
) -> None:
    """Refuse numbers that make no sense, and objectives with nothing to train.

    Raises:
        ValueError: a count is below 1, clip is not positive, or an objective has no parameters.
    """
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
