"""All experiments of the book, found in the files of this package."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from gmbook import registry
from gmbook.experiments import base
from gmbook.experiments.base import Experiment


def discovered() -> Iterator[Experiment]:
    """The EXPERIMENTS of every module of this package that has them: papers in the book's order, then what is no
    paper's."""
    files = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    papers = [key for key in registry.read().order if key in files]
    for name in dict.fromkeys([*papers, *files]):
        yield from vars(import_module(f"{__package__}.{name}")).get("EXPERIMENTS", ())


EXPERIMENTS: tuple[Experiment, ...] = tuple(discovered())


def find(paper: str, dataset: str, budget: str) -> Experiment:
    """The experiment of that name.

    Raises:
        base.Unknown: there is none; the message names the nearest ones.
    """
    return base.find(EXPERIMENTS, paper, dataset, budget)
