"""All experiments of the book, in its order."""

from __future__ import annotations

from gmbook.experiments import base, classifier, ddpm, flow_matching, gan, mdlm, realnvp, toys, vae
from gmbook.experiments.base import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    *toys.EXPERIMENTS,
    *vae.EXPERIMENTS,
    *gan.EXPERIMENTS,
    *realnvp.EXPERIMENTS,
    *ddpm.EXPERIMENTS,
    *flow_matching.EXPERIMENTS,
    *mdlm.EXPERIMENTS,
    *classifier.EXPERIMENTS,
)


def find(paper: str, dataset: str, budget: str) -> Experiment:
    """The experiment of that name.

    Raises:
        base.Unknown: there is none; the message names the nearest ones.
    """
    return base.find(EXPERIMENTS, paper, dataset, budget)
