"""One file per paper: its runs on MNIST, CIFAR-10 and text8, at the laptop and the GPU budget."""

from __future__ import annotations

from gmbook.experiments import base, ddpm
from gmbook.experiments.base import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (*ddpm.EXPERIMENTS,)


def find(paper: str, dataset: str, budget: str) -> Experiment:
    """The experiment of that name; `base.Unknown`, with the nearest names, if there is none."""
    return base.find(EXPERIMENTS, paper, dataset, budget)
