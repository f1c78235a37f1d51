"""The recorded models at work: 64 MNIST digits, as the chapters draw them. At most five seconds on two cores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gmbook.experiments import load_pretrained
from gmbook.papers import ddim

LABELS = torch.arange(64) % 10
LIMIT = 5.0


@pytest.mark.parametrize("paper", ["ddpm", "flow_matching"])
@pytest.mark.benchmark(group="64 digits of a recorded model: DDIM with 20 steps, Heun with 10")
def test_sixty_four_digits(benchmark, paper):
    model = load_pretrained(paper, "mnist", "laptop")
    draws: dict[str, Callable[[], torch.Tensor]] = {
        "ddpm": lambda: ddim.sample(model, 64, 20, y=LABELS),
        "flow_matching": lambda: model.sample(64, LABELS, 10),
    }
    torch.manual_seed(0)
    digits = benchmark.pedantic(draws[paper], rounds=3, warmup_rounds=1)
    assert digits.shape == (64, 1, 28, 28)
    if benchmark.enabled:
        assert benchmark.stats.stats.min < LIMIT
