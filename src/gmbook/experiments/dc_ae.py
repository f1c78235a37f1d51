"""DC-AE on the 8×8 digits."""

from __future__ import annotations

from typing import Any

import torch

from gmbook import data
from gmbook.data.batches import Batches
from gmbook.experiments.base import Experiment
from gmbook.metrics.metric import Metric, Protocol, of_set
from gmbook.papers.dc_ae import DCAE
from gmbook.train.recipe import Recipe


@torch.no_grad()
def reconstruction(model: Any, n: int) -> list[Metric]:
    """The error of decoded latents on test digits, beside that of the mean image: root mean squares in [−1, 1]."""
    test = data.digits("test")
    x = data.scale(test.x[:n], test.levels)
    root = lambda e: e.square().mean().sqrt().item()  # noqa: E731
    how = Protocol(data=of_set(test), examples=len(x))
    error, simple = root(model.decode(model.encode(x)) - x), root(x - x.mean(0))
    return [Metric("reconstruction_error", error, baselines={"mean_image": simple}, protocol=how)]


def model() -> DCAE:
    """8×8 digits to eight channels at 2×2: half the numbers."""
    return DCAE((1, 8, 8), 8, (16, 32, 64), (1, 1, 1), attention=2, head=16)


EXPERIMENTS = (
    Experiment(
        "dc_ae",
        "digits",
        "laptop",
        model=model,
        batches=lambda seed, size: Batches(
            data.digits("train").x, size=size, seed=seed, transform=lambda x: data.scale(x, 17)
        ),
        recipe=Recipe(steps=1500, batch_size=64, lr=2e-3, decay="cosine"),
        reference="Chen et al. 2025: ImageNet at 256×256 to 1024×1024, f32 to f128",
        sample=None,
        evaluate=reconstruction,
        toy=True,
    ),
)
