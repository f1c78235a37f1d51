"""The classifier of MNIST in whose features digits are compared, trained once and kept in data/pretrained/."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmbook import data
from gmbook.data.batches import Batches
from gmbook.experiments import results
from gmbook.experiments.base import Experiment
from gmbook.metrics.classifier import Classifier
from gmbook.metrics.metric import Metric, Protocol, of_set
from gmbook.train.device import device
from gmbook.train.recipe import Recipe


def batches(seed: int, size: int) -> Batches:
    """Endless (x, y) of MNIST's training part, in [−1, 1], shifted by up to two pixels."""

    def shift(x: Tensor) -> Tensor:
        dy, dx = torch.randint(-2, 3, (2,)).tolist()
        return x.roll((dy, dx), (2, 3))  # the border of MNIST is black, so nothing wraps around visibly

    images = data.mnist("train")
    return Batches(images.x, images.y, size=size, seed=seed, device=device(), transform=data.scale, augment=shift)


def evaluate(model: Any, n: int) -> list[Metric]:
    """The share of the n first test images that are classified right."""
    images = data.mnist("test")
    right = model.classify(data.scale(images.x[:n])).cpu() == images.y[:n]
    how = Protocol(data=of_set(images), examples=len(right))
    return [Metric("test_accuracy", right.double().mean().item(), protocol=how)]


EXPERIMENTS = (
    Experiment(
        "classifier",
        "mnist",
        "laptop",
        model=Classifier,
        batches=batches,
        recipe=Recipe(
            steps=3000,  # seven epochs: from there the test accuracy stays above 99 %
            batch_size=128,
            lr=1e-3,
            warmup=100,
            decay="cosine",
            ema_decay=0.99,
        ),
        reference="not a paper's model: the book's own classifier of digits",
        sample=None,
        evaluate=evaluate,
    ),
)


def recorded() -> Any:
    """The recorded classifier, from data/pretrained/; `results.NoRecord` if it is not there."""
    return results.load_pretrained(EXPERIMENTS[0])
