"""What an experiment on a toy law is: a class of the book, for about a minute, where the truth is known.

Each paper's file has its own. The dataset's name is the law's: points in the plane of `laws.plane`, pairs of tokens of
`laws.pairs`. All nets are small, all batches are fresh draws, so nothing is memorised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gmbook import metrics
from gmbook.core.model import Model
from gmbook.data.batches import LawBatches
from gmbook.experiments.base import Evaluate, Experiment
from gmbook.laws import pairs, plane
from gmbook.metrics.metric import Metric, Protocol, mean, seed
from gmbook.networks.mlp import TimeMLP
from gmbook.networks.transformer import Transformer
from gmbook.train.recipe import Recipe

Draw = Callable[[Any, int], Tensor]
REFERENCE = "none: the papers do not run on this law"
VOCAB = 32
LAW = "the law itself"


# ------------------------------------------------------------------------------------------------------- measures


def in_plane(toy: plane.PlaneLaw, draw: Draw) -> Evaluate:
    """Sliced W2 to the law in units of its noise floor, mean over five draws of n points; and the modes found."""

    @torch.no_grad()
    def evaluate(model: Model, n: int) -> list[Metric]:
        floor = metrics.noise_floor(metrics.sliced_w2, toy.sample, n, repeats=20)
        drawn = [draw(model, n) for _ in range(5)]
        distance = torch.stack([metrics.sliced_w2(x, toy.sample(n)) for x in drawn]).mean().item()
        how = Protocol(n, data=LAW, examples=n, draws=5, seed=seed())
        report = [Metric("sliced_w2", distance, floor=floor.mean, protocol=how)]
        if toy.modes is not None:
            found = metrics.mode_coverage(drawn[0], toy).found
            report.append(Metric("modes_found", found, protocol=Protocol(n, seed=seed())))
        return report

    return evaluate


def in_nats(toy: plane.PlaneLaw) -> Evaluate:
    """−E log p_θ(x) above the law's entropy, nats: the KL divergence to the model, with its standard error."""

    @torch.no_grad()
    def evaluate(model: Any, n: int) -> list[Metric]:
        x = toy.sample(n)
        gaps = toy.log_prob(x) - torch.cat([model.log_prob(part) for part in x.split(2000)])
        how = Protocol(data=LAW, examples=n, seed=seed())
        return [mean("nats_above_entropy", gaps, unit="nats", protocol=how)]

    return evaluate


def on_grid(law: pairs.TokenLaw, draw: Draw) -> Evaluate:
    """The total variation between n samples' histogram and the law, beside that of n true samples."""

    @torch.no_grad()
    def evaluate(model: Model, n: int) -> list[Metric]:
        floor = metrics.tv(law.histogram(law.sample(n)), law.pmf).item()
        distance = metrics.tv(law.histogram(draw(model, n)), law.pmf).item()
        how = Protocol(n, data=LAW, seed=seed())
        return [Metric("total_variation", distance, floor=floor, protocol=how)]

    return evaluate


# ------------------------------------------------------------------------------------------------- the experiments


def own_sampler(model: Model, n: int) -> Tensor:
    """The model's own."""
    return model.sample(n)


def points(
    paper: str,
    make: Callable[[], plane.PlaneLaw],
    model: Callable[[], Model],
    steps: int,
    draw: Draw = own_sampler,
    evaluate: Evaluate | None = None,
    size: int = 512,
    **settings: Any,
) -> Experiment:
    """An experiment on fresh points of a law in the plane."""
    toy = make()
    return Experiment(
        paper,
        make.__name__,
        "laptop",
        model=model,
        batches=lambda seed, size: LawBatches(toy, size),
        recipe=replace(Recipe(steps=steps, batch_size=size, lr=2e-3, decay="cosine"), **settings),
        reference=REFERENCE,
        sample=lambda m, y: draw(m, len(y)),
        evaluate=evaluate or in_plane(toy, draw),
        toy=True,
    )


def tokens(paper: str, model: Callable[[], Model], steps: int, draw: Draw) -> Experiment:
    """An experiment on pairs of tokens, eight Gaussians on the 32×32 grid."""
    law = pairs.eight_gaussians(VOCAB)
    return Experiment(
        paper,
        "grid",
        "laptop",
        model=model,
        batches=lambda seed, size: LawBatches(law, size),
        recipe=Recipe(steps=steps, batch_size=256, lr=2e-3, decay="cosine"),
        reference=REFERENCE,
        sample=lambda m, y: draw(m, len(y)),
        evaluate=on_grid(law, draw),
        toy=True,
    )


def net(out: int = 2) -> TimeMLP:
    """Four hidden layers of 128 units."""
    return TimeMLP(2, 128, 4, out=out)


def token_net(states: int, time: bool = True) -> Transformer:
    """Two layers of width 64."""
    return Transformer(states, 64, 2, 4, time=time, out=VOCAB)


GAUSSIANS = plane.eight_gaussians
