"""The mathematics that every training step and every check stands on, at the sizes of the book's 2-D laboratories.

`make bench` runs this folder. Sizes: batch 1,024 in two dimensions, and 64 images of 28×28.
"""

from __future__ import annotations

import pytest
import torch

from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import CosinePath, LinearPath, VPPath

SHAPES = pytest.mark.parametrize("shape", [(1024, 2), (64, 1, 28, 28)], ids=["points", "images"])


@SHAPES
@pytest.mark.parametrize("path", [LinearPath(), VPPath(), CosinePath()], ids=lambda p: type(p).__name__)
def test_convert_velocity_to_score(benchmark, path, shape):
    xt, value, t = torch.randn(shape), torch.randn(shape), torch.rand(shape[0]) * 0.9 + 0.05
    benchmark(path.convert, value, xt, t, "velocity", "score")


@pytest.mark.parametrize("components", [8, 512])
def test_score_of_a_mixture(benchmark, components):
    angle = torch.linspace(0, 6.2832, components)
    law = GaussianMixture(
        torch.ones(components), torch.stack([angle.cos(), angle.sin()], 1), torch.full((components,), 0.01)
    )
    benchmark(law.score, torch.randn(1024, 2))


def test_log_determinants_of_a_batch(benchmark):
    benchmark(torch.linalg.slogdet, torch.randn(4, 256, 256))
