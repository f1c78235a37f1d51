"""The training loop, once for the whole book: `train` is the loop, `train.run.fit` adds what a long run needs.

`train` gives a generator, so that a notebook looks at the model whenever it likes, without callbacks:

    for losses in train(model, batches, steps=1000, lr=1e-3):
        ...

Under `train.processes.process_group` processes share the work of each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gmbook.core.model import Model, Objective
from gmbook.train import processes
from gmbook.train.bars import watched
from gmbook.train.ema import EMA
from gmbook.train.recipe import Recipe, recipe_of

Losses = dict[str, Tensor]  # objective -> (), of one step


class Diverged(ArithmeticError):
    """A loss became NaN or infinite; the message names the step and the objective."""


def train(
    model: Model,
    batches: Iterable[tuple[Tensor, ...]],
    recipe: Recipe | None = None,
    *,
    objectives: dict[str, Objective] | None = None,
    ema: EMA | None = None,
    state: State | None = None,
    progress: bool = True,
    **settings: Any,
) -> Iterator[Losses]:
    """Train every player of a model, and yield the losses of each step: {objective: ()}, detached.

    At each step every player whose turn it is minimises its own loss over its own parameters; all others keep still.
    One player is ordinary training, two are a GAN, and a two-stage model is two calls.

    Args:
        model: what is trained; it is put in training mode at every step, so that you may sample in between.
        batches: yields tuples, which become the arguments of the losses; iterated again when it ends.
        recipe: how the model is trained. Keywords spell one, as in `steps=1000, lr=1e-3, warmup=100, decay="cosine"`,
            or replace fields of the given one; `Recipe` lists them: steps, lr, warmup, decay, clip, accumulate,
            bf16, betas, weight_decay, optimizer, ...
        objectives: the players, by name; `model.objectives()` if None.
        ema: a running average of the weights, updated after every step; if None, one as the recipe says.
        state: optimizers and step of a run to be continued; `fit` uses it.
        progress: after a second, show a bar with the losses in a terminal or under a notebook's cell; it vanishes.

    Raises:
        Diverged: a loss is NaN or infinite. On a GPU this is seen some steps later, see `FiniteLosses`.
        ValueError: an objective has nothing to train, or an argument makes no sense.
        TypeError: `batches` yields something other than tuples, or a keyword is unknown.
    """
    recipe = recipe_of(recipe, settings)
    objectives = model.objectives() if objectives is None else objectives
    check_objectives(objectives, recipe)
    ema = recipe.average(model) if ema is None else ema
    state = State(objectives, recipe) if state is None else state
    loop = _loop(model, _endless(batches), recipe, objectives, ema, state)
    return watched(loop, recipe.steps, state.step) if progress and processes.is_main() else loop


def _loop(
    model: Model,
    stream: Iterator[tuple[Tensor, ...]],
    recipe: Recipe,
    objectives: dict[str, Objective],
    ema: EMA | None,
    state: State,
) -> Iterator[Losses]:
    finite = FiniteLosses(model.device)
    autocast = partial(torch.autocast, model.device.type, torch.bfloat16) if recipe.bf16 else nullcontext
    processes.broadcast([*model.parameters(), *model.buffers()])
    distributed = {name: processes.distributed(objective) for name, objective in objectives.items()}
    while state.step < recipe.steps:
        if not model.training:  # somebody sampled in between
            model.train()
        batch = next(stream)
        parts = processes.own_parts(batch, recipe.accumulate)
        if state.step == 0 and len(parts) * processes.world() > 1:
            with autocast():
                processes.look_at(batch, objectives.values(), model)
        losses: Losses = {}
        with processes.communication(), processes.own_noise():
            for name, objective in objectives.items():
                if state.step % objective.every:
                    continue
                state.optimizers[name].zero_grad()
                losses[name] = _backward(distributed[name], objective.parameters, parts, autocast)
                finite.add(state.step, name, losses[name])
                _move(state.optimizers[name], objective.parameters, recipe.rate(name, state.step), recipe.clip)
            processes.broadcast(model.buffers())
        if ema is not None:
            ema.update(model)
        state.step += 1
        if state.step % finite.every == 0 or state.step == recipe.steps:
            finite.check()
        yield losses


def _backward(
    loss: processes.Loss,
    parameters: list[nn.Parameter],
    parts: list[tuple[processes.Batch, float]],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """Leave the gradient of the mean loss over all parts of all processes in the parameters; returns that loss, ()."""
    values = []
    for index, (part, weight) in enumerate(parts, 1):
        with processes.gradients_stay(loss) if index < len(parts) else nullcontext():
            with autocast():
                value = loss(*part)
            # What is averaged over processes is to be a sum. `inputs`: the other players keep still.
            value.backward(torch.full_like(value, weight * processes.world()), inputs=parameters)
        values.append(value.detach() * weight)
    return processes.total(torch.stack(values).sum() if len(values) > 1 else values[0])


def _move(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], rate: float, clip: float | None) -> None:
    """One step of an optimizer."""
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("times", 1.0)
    optimizer.step()


class State:
    """What the loop carries from step to step, besides the model: one optimizer per player, and the step."""

    def __init__(self, objectives: dict[str, Objective], recipe: Recipe):
        make = recipe.optimizer_factory
        self.optimizers = {name: make(objective.parameters) for name, objective in objectives.items()}
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


class FiniteLosses:
    """Refuses a loss that is NaN or infinite, without waiting for a GPU at every step.

    On a CPU each loss is looked at when it comes, before the weights move. On a GPU, where looking at a number waits
    for all that was asked of it before, losses are collected and looked at every `every` steps, all at once.

    Args:
        every: steps between two looks; None for 1 on a CPU and 20 elsewhere.
    """

    def __init__(self, device: torch.device, every: int | None = None):
        self.every = (1 if device.type == "cpu" else 20) if every is None else every
        self.waiting: list[tuple[int, str, Tensor]] = []

    def add(self, step: int, name: str, loss: Tensor) -> None:
        """Take the loss of a step; look at it, if each is looked at.

        Raises:
            Diverged: it is not finite.
        """
        self.waiting.append((step, name, loss))
        if self.every == 1:
            self.check()

    def check(self) -> None:
        """Look at all losses that were taken since the last look.

        Raises:
            Diverged: one is not finite. The message names its step and, if it is another, the step that was reached.
        """
        waiting, self.waiting = self.waiting, []
        values = torch.stack([loss for *_, loss in waiting]).tolist() if waiting else []
        for (step, name, _), value in zip(waiting, values):
            if not math.isfinite(value):
                last = waiting[-1][0]
                seen = f" (looked at between steps {waiting[0][0]} and {last})" if last > step else ""
                raise Diverged(
                    f"the loss {name!r} is {value} at step {step}{seen}: "
                    "lower lr, set clip, or look for a division or logarithm of zero in the loss"
                )


def check_objectives(objectives: dict[str, Objective], recipe: Recipe) -> None:
    """Refuse players that cannot be trained.

    Raises:
        ValueError: one has no parameters, plays at no step, or has no learning rate.
    """
    recipe.check_players(objectives)
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
