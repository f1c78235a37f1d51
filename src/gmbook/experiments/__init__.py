"""One file per paper: its runs on toy laws, MNIST, CIFAR-10 and text8, at the laptop and the GPU budget."""

from __future__ import annotations

from gmbook.core.model import Model
from gmbook.experiments import results
from gmbook.experiments.base import Experiment
from gmbook.experiments.registry import EXPERIMENTS, find
from gmbook.experiments.results import Record

__all__ = ["EXPERIMENTS", "Experiment", "Record", "find", "load_pretrained", "record"]


def record(paper: str, dataset: str, budget: str) -> Record:
    """The record of an experiment; `results.NoRecord` if it was never recorded."""
    return results.read(find(paper, dataset, budget))


def load_pretrained(paper: str, dataset: str, budget: str) -> Model:
    """The recorded model of an experiment, in eval mode; `results.NoRecord` if it was never recorded."""
    return results.load_pretrained(find(paper, dataset, budget))
