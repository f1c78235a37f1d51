"""One file per paper: its runs on toy laws, MNIST, CIFAR-10 and text8, at the laptop and the GPU budget."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module

from gmbook import registry
from gmbook.core.model import Model
from gmbook.experiments import base, results
from gmbook.experiments.base import Experiment
from gmbook.experiments.results import Record


def discovered() -> Iterator[Experiment]:
    """The EXPERIMENTS of every module of this package that has them: papers in the book's order, then what is no
    paper's."""
    files = sorted(module.name for module in pkgutil.iter_modules(__path__))
    papers = [key for key in registry.read().order if key in files]
    for name in dict.fromkeys([*papers, *files]):
        yield from vars(import_module(f"{__name__}.{name}")).get("EXPERIMENTS", ())


EXPERIMENTS: tuple[Experiment, ...] = tuple(discovered())


def find(paper: str, dataset: str, budget: str) -> Experiment:
    """The experiment of that name; `base.Unknown`, with the nearest names, if there is none."""
    return base.find(EXPERIMENTS, paper, dataset, budget)


def record(paper: str, dataset: str, budget: str) -> Record:
    """The record of an experiment; `results.NoRecord` if it was never recorded."""
    return results.read(find(paper, dataset, budget))


def load_pretrained(paper: str, dataset: str, budget: str) -> Model:
    """The recorded model of an experiment, in eval mode; `results.NoRecord` if it was never recorded."""
    return results.load_pretrained(find(paper, dataset, budget))
