"""Rectified flow on points in the plane, and on MNIST from flow matching's recorded weights.

The paper, on CIFAR-10: DDPM++ of Score SDE, Adam 2e-4, batch 128, averaged weights, at least a million pairs. Here flow
matching's record is the 1-rectified flow, since the loss is the same; `mnist` trains it on its own pairs, and is the
2-rectified flow, and `mnist_distilled` distils that one into one step. Nothing is guided: a pair of a guided flow is
another flow's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from gmbook.core.model import Objective
from gmbook.core.solvers import euler, heun
from gmbook.data.batches import Stream, generator
from gmbook.experiments import classifier, flow_matching, results
from gmbook.experiments.base import Evaluate, Experiment, find
from gmbook.experiments.images import CLASSES, balanced, pixels
from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.metrics.images import measure_digits
from gmbook.metrics.metric import Metric, Protocol, seed
from gmbook.papers.flow_matching import FlowMatching
from gmbook.papers.rectified_flow import RectifiedFlow
from gmbook.papers.theory.rectified_flow import straightness
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Liu et al. 2023, CIFAR-10: DDPM++ of Score SDE, Adam 2e-4, batch 128, EMA 0.999999, pairs by RK45 at 1e-5 (a "
    "million or more), one Euler step after reflow and distillation"
)
CALLS = (1, 2, 4, 8, 25)  # at which samples are judged


# ------------------------------------------------------------------------------------------------- pairs of a flow


class PairBatches(Stream):
    """Pairs (z0, noise, y) of a class-conditional flow, endless; pair i is a function of (seed, i).

    The pairs are made in chunks when they are first wanted, by Heun's method. The first epoch shows them in the order
    in which they are made, which is random already; every later one in a new order.

    Args:
        flow: the teacher, in evaluation mode.
        examples: how many pairs there are, N.
        steps: of Heun's method, two network calls each.
        size, seed: as of every stream.
        chunk: how many pairs are made at a time.
    """

    def __init__(self, flow: FlowMatching, examples: int, steps: int, *, size: int, seed: int, chunk: int = 250):
        super().__init__(examples, size=size, seed=seed)
        self.flow, self.steps, self.chunk = flow, steps, chunk
        self.pairs: list[tuple[Tensor, ...]] = []

    def indices(self, step: int) -> Tensor:
        per_epoch = self.examples // self.size
        epoch, position = divmod(step, per_epoch)
        order = torch.arange(self.examples)
        if epoch:
            order = torch.randperm(self.examples, generator=generator(self.seed, epoch))
        return order[position * self.size : (position + 1) * self.size]

    def _more(self) -> None:
        source = generator(self.seed, 0, len(self.pairs))
        noise = torch.randn(self.chunk, *self.flow.shape, generator=source).to(device())
        y = torch.randint(CLASSES, (self.chunk,), generator=source).to(device())
        self.pairs.append((self.flow.decode(noise, y, self.steps, heun), noise, y))

    def read(self, indices: Tensor) -> tuple[Tensor, ...]:
        while len(self.pairs) * self.chunk <= int(indices.max()):
            self._more()
        rows = [(self.pairs[i // self.chunk], i % self.chunk) for i in indices.tolist()]
        return tuple(torch.stack([chunk[part][row] for chunk, row in rows]) for part in range(3))


# ---------------------------------------------------------------------------------------------------------- models


class Distilled(RectifiedFlow):
    """A rectified flow whose one player is the distillation into one Euler step."""

    def objectives(self) -> dict[str, Objective]:
        return {"distillation": Objective(self.distillation_loss, super().objectives()["loss"].parameters)}


@cache
def one_rectified() -> FlowMatching:
    """Flow matching's recorded flow of MNIST: trained on independent pairs, hence 1-rectified."""
    recorded = results.load_pretrained(find(flow_matching.EXPERIMENTS, "flow_matching", "mnist", "laptop"))
    return recorded.requires_grad_(False)  # type: ignore[return-value]


@cache
def two_rectified() -> FlowMatching:
    """The recorded 2-rectified flow of MNIST."""
    recorded = results.load_pretrained(find(EXPERIMENTS, "rectified_flow", "mnist", "laptop"))
    return recorded.requires_grad_(False)  # type: ignore[return-value]


def begun(kind: type[RectifiedFlow], teacher: Callable[[], FlowMatching]) -> RectifiedFlow:
    """A student that begins at its teacher's weights."""
    model = kind(flow_matching.mnist_model().net, (1, 28, 28))
    model.load_state_dict(teacher().state_dict())
    return model


# -------------------------------------------------------------------------------------------------------- measures


def sample(model: Any, labels: Tensor, steps: int = 1) -> Tensor:
    """Class-conditional samples by Euler's method, without guidance: labels (n,) -> (n, 1, 28, 28) in [−1, 1]."""
    chunks = [model.sample(len(y), y, steps, euler) for y in labels.to(device()).split(250)]
    return pixels(torch.cat(chunks)).cpu()


@torch.no_grad()
def evaluate(model: FlowMatching, n: int, calls: tuple[int, ...] = CALLS, reflowed: bool = False) -> list[Metric]:
    """Fréchet distance and recall of n samples after so many calls of the network, beside the 1-rectified flow's from
    the same noise; and the straightness S per dimension of up to 200 paths.

    Args:
        reflowed: set the 2-rectified flow's numbers beside them too.
    """
    flows = {"rectified": model, "one_rectified": one_rectified()}
    if reflowed:
        flows["two_rectified"] = two_rectified()
    labels, report = balanced(n), []
    for steps in calls:
        found = {}
        for name, flow in flows.items():
            torch.manual_seed(0)
            how = f"Euler, {steps} network call{'s' * (steps > 1)}, no guidance, no selection"
            measured = measure_digits(sample(flow, labels, steps), labels, classifier.recorded(), how)
            found[name] = {metric.key: metric for metric in measured}
        for key, short in (("classifier_frechet_distance", "frechet"), ("recall", "recall")):
            beside = {name: found[name][key].part("value") for name in flows if name != "rectified"}
            report.append(replace(found["rectified"][key], key=f"{short}_at_{steps}", baselines=beside))
    noise, y = torch.randn(min(n, 200), *model.shape, device=device()), balanced(min(n, 200)).to(device())
    bent = {k: straightness(flow, noise, y, 20, heun).mean().item() / noise[0].numel() for k, flow in flows.items()}
    how_many = Protocol(len(noise), seed=seed(), sampler="Heun, 20 steps", setting="per dimension")
    return [*report, Metric("straightness", bent.pop("rectified"), baselines=bent, protocol=how_many)]


# ----------------------------------------------------------------------------------------------------- experiments


def reflow(
    dataset: str,
    kind: type[RectifiedFlow],
    teacher: Callable[[], FlowMatching],
    evaluate: Evaluate,
    laptop: tuple[int, int, int],
    gpu: tuple[int, int, int],
) -> Iterator[Experiment]:
    """A student on its teacher's pairs, at both budgets, each: pairs, Heun's steps for one, steps of training."""

    def stream(seed: int, size: int, pairs: int, steps: int, chunk: int) -> PairBatches:
        return PairBatches(teacher(), pairs, steps, size=size, seed=seed, chunk=chunk)

    for budget, (pairs, steps, training), chunk in (("laptop", laptop, 250), ("gpu", gpu, 5000)):
        plain = budget == "laptop"
        yield Experiment(
            *("rectified_flow", dataset, budget),
            model=partial(begun, kind, teacher),
            batches=partial(stream, pairs=pairs, steps=steps, chunk=chunk),
            recipe=fine_tune(steps=training)
            if plain
            else Recipe(steps=training, batch_size=128, lr=2e-4, warmup=1000, clip=1.0, bf16=True, ema_decay=0.9999),
            reference=REFERENCE,
            sample=sample,
            evaluate=evaluate,
            compile=not plain,
            channels_last=not plain,
        )


fine_tune = partial(Recipe, batch_size=64, lr=5e-4, warmup=100, decay="cosine", clip=1.0, ema_decay=0.995)
one_step = partial(evaluate, calls=(1, 2), reflowed=True)

EXPERIMENTS = (
    points("rectified_flow", GAUSSIANS, lambda: RectifiedFlow(net(), (2,)), 8000),
    # a laptop: 20 calls a pair and 0.2 s a step, ten minutes of one core in all; the pairs are shown nine times
    *reflow("mnist", RectifiedFlow, one_rectified, evaluate, (12_000, 10, 1600), (200_000, 25, 50_000)),
    # ten calls a pair, since the teacher is nearly straight; four minutes of one core
    *reflow("mnist_distilled", Distilled, two_rectified, one_step, (6000, 5, 800), (200_000, 10, 20_000)),
)
