"""What an experiment is, and how one is found by its name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from gmbook import plots
from gmbook.core.model import Model
from gmbook.metrics.metric import Metric
from gmbook.train.recipe import Recipe

BUDGETS = ("laptop", "gpu")
Evaluate = Callable[[Any, int], list[Metric]]  # a model, how many samples or examples -> what was measured


class Unknown(ValueError):
    """A name that the book does not know; the message suggests the nearest ones."""


@dataclass(frozen=True)
class Experiment:
    """One class of the book, on one data set, at one budget.

    Attributes:
        paper, dataset, budget: its name, three words.
        model: makes the model, with fresh weights.
        batches: (seed, batch size) -> the training stream.
        recipe: how it is trained, its batch size included. Averaged weights, where it has them, are sampled from.
        reference: the paper's own setting, in a sentence.
        sample: (model, labels (n,)) -> n samples (n, *shape), as the experiment is judged; None for what has no
        samples.
        evaluate: (model, n) -> metrics of n samples.
        sheet: how samples are drawn; by default as images, ten to a row.
        compile: compile the model's networks before training (for GPUs).
        channels_last: keep the weights of convolutions with the channel as the fastest axis (for GPUs above all).
        toy: a minute's run with small networks, whose row stands in the table of toys.
        table: samples -> the ending of a file and its content, numbers or letters, for what is more than a picture.
        facts: what else must be known to repeat a run and to load it, as plain JSON: what one's own data were.
    """

    paper: str
    dataset: str
    budget: str
    model: Callable[[], Model]
    batches: Callable[[int, int], Iterable[tuple[Tensor, ...]]]
    recipe: Recipe
    reference: str
    sample: Callable[[Model, Tensor], Tensor] | None
    evaluate: Evaluate | None = None
    compile: bool = False
    channels_last: bool = False
    toy: bool = False
    sheet: Callable[[Tensor], plots.Picture] = partial(plots.images, columns=10)
    table: Callable[[Tensor], tuple[str, str]] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """paper-dataset-budget, the name of its record and weights."""
        return f"{self.paper}-{self.dataset}-{self.budget}"


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
