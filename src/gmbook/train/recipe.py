"""What describes a training run: one frozen record, from the experiment to the loop, the plan and `run.json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from torch import nn

from gmbook.train.ema import EMA
from gmbook.train.optimizers import Adam, OptimizerFactory

Decay = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained.

    Attributes:
        steps: the step at which to stop, counted from the start of the run.
        batch_size: examples in a batch. The loop takes the batches as they come; experiments and plans read it.
        lr: the learning rate; for several players it may be a dict by objective.
        warmup, decay: the learning rate's shape, see `schedule`.
        clip: the largest allowed norm of a player's gradient; None for no limit.
        ema_decay: the decay of the averaged weights, see `EMA`; None for no average.
        accumulate: each batch is cut into so many parts, which are computed in turn, to save memory. The gradient is
            that of the whole batch. Statistics over a batch, as in batch normalisation, are those of a part.
        bf16: run the losses under bfloat16 autocast. For GPUs; most CPUs are slower with it.
        betas, weight_decay: of AdamW, which is Adam at weight_decay = 0.
        optimizer: makes the optimizer of a player from its parameters, if Adam is not wanted. `lr` stays the rate. A
            parameter group may have a factor to it, "times".

    Raises:
        ValueError: a number makes no sense.
    """

    steps: int
    batch_size: int | None = None
    lr: float | dict[str, float] = 1e-3
    warmup: int = 0
    decay: Decay = "constant"
    clip: float | None = None
    ema_decay: float | None = None
    accumulate: int = 1
    bf16: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    optimizer: OptimizerFactory | None = None

    def __post_init__(self) -> None:
        for name, number in {"steps": self.steps, "accumulate": self.accumulate}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is a gradient norm and must be positive, got {self.clip}; None turns it off")
        schedule(self.steps, self.warmup, self.decay)
        if self.optimizer is not None and (self.betas, self.weight_decay) != ((0.9, 0.999), 0.0):
            raise ValueError("betas and weight_decay are those of Adam: give them to your optimizer instead")

    def rate(self, objective: str, step: int) -> float:
        """The learning rate of an objective at a step."""
        lr = self.lr[objective] if isinstance(self.lr, dict) else self.lr
        return lr * schedule(self.steps, self.warmup, self.decay)(step)

    def check_players(self, objectives: Iterable[str]) -> None:
        """Refuse rates by objective that leave one out.

        Raises:
            ValueError: `lr` is a dict without one of the objectives.
        """
        for name in objectives:
            if isinstance(self.lr, dict) and name not in self.lr:
                raise ValueError(f"lr has no rate for the objective {name!r}, only for {', '.join(self.lr)}")

    @property
    def required_batch_size(self) -> int:
        """The batch size, where one is needed.

        Raises:
            ValueError: the recipe has none.
        """
        if self.batch_size is None:
            raise ValueError("this recipe needs a batch_size")
        return self.batch_size

    @property
    def optimizer_factory(self) -> OptimizerFactory:
        """Makes a player's optimizer from its parameters."""
        return self.optimizer or Adam(self.betas, self.weight_decay)

    def average(self, model: nn.Module) -> EMA | None:
        """A new average of the model's weights, or None where none is wanted."""
        return None if self.ema_decay is None else EMA(model, self.ema_decay)

    def as_json(self) -> dict[str, Any]:
        """The fields as plain JSON, for records; an optimizer becomes its name."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        optimizer = None if self.optimizer is None else getattr(self.optimizer, "__qualname__", repr(self.optimizer))
        return plain | {"betas": list(self.betas), "optimizer": optimizer}

    def check_continues(self, earlier: dict[str, Any], step: int) -> None:
        """Refuse to continue a run where the result would be that of neither recipe.

        Args:
            earlier: what `as_json` gave when the run was begun; what it lacks is not compared.
            step: how far the run is.

        Raises:
            ValueError: the run is beyond `steps`, or its learning rate decays over another number of steps.
        """
        if step > self.steps:
            raise ValueError(f"the run is at step {step} already, beyond the {self.steps} steps asked for")
        begun = earlier.get("steps", self.steps)
        if begun != self.steps and "constant" != self.decay:
            raise ValueError(
                f"the run was begun with {begun} steps, over which its learning rate decays ({self.decay}): with "
                f"{self.steps} steps the rest of it would bend. Resume it with {begun} steps, or begin anew elsewhere"
            )

    def changes(self, earlier: dict[str, Any]) -> str:
        """What differs from a run's earlier recipe, in words; empty where nothing does. Steps and parts apart."""
        now = self.as_json()
        return ", ".join(
            f"{name} = {now[name]} (so far {before})"
            for name, before in earlier.items()
            if name not in ("steps", "accumulate") and now.get(name, before) != before
        )


def recipe_of(recipe: Recipe | None, settings: dict[str, Any]) -> Recipe:
    """The recipe that keywords spell: `settings` alone, or the given recipe with these fields replaced.

    Raises:
        TypeError: a keyword is none of the recipe's fields, or `steps` is missing.
    """
    return Recipe(**settings) if recipe is None else replace(recipe, **settings)


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
