"""DC-AE on the 8×8 digits."""

from __future__ import annotations

from typing import Any

import torch

from gmbook import data
from gmbook.data.batches import Batches
from gmbook.experiments.base import Experiment
from gmbook.papers.dc_ae import DCAE


@torch.no_grad()
def reconstruction(model: Any, n: int) -> dict[str, Any]:
    """The error of decoded latents on test digits, beside that of the mean image: root mean squares in [−1, 1]."""
    test = data.digits("test")
    x = data.scale(test.x[:n], test.levels)
    root = lambda e: e.square().mean().sqrt().item()  # noqa: E731
    return {"error": root(model.decode(model.encode(x)) - x), "error of the mean image": root(x - x.mean(0))}


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
        steps=1500,
        size=64,
        options={"lr": 2e-3, "decay": "cosine"},
        reference="Chen et al. 2025: ImageNet at 256×256 to 1024×1024, f32 to f128",
        sample=None,
        evaluate=reconstruction,
        toy=True,
    ),
)
