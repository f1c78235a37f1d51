"""What can be measured on a written digit without any network: how much it leans, and how thick its stroke is."""

from __future__ import annotations

import torch
from torch import Tensor


def _ink(x: Tensor) -> Tensor:
    """Ink in [0, 1] from pixels in [−1, 1]: (N, 1, H, W) -> (N, H, W)."""
    return ((x[:, 0] + 1) / 2).clamp(0, 1)


def slant(x: Tensor) -> Tensor:
    """Cov(u, v)/Var(v) of the ink, u to the right and v upwards: (N, 1, H, W) in [−1, 1] -> (N,) (def-ldm-slant).

    It is the shear: a stroke u = s v has slant s, positive where the top leans to the right. 0 for a blank image.
    """
    ink = _ink(x)
    height, width = ink.shape[1:]
    v = torch.arange(height, 0, -1, dtype=ink.dtype, device=ink.device)[:, None].expand(height, width)
    u = torch.arange(width, dtype=ink.dtype, device=ink.device).expand(height, width)
    mass = ink.sum((1, 2)).clamp(min=1e-6)
    mean = lambda f: (ink * f).sum((1, 2)) / mass  # noqa: E731
    covariance, variance = mean(u * v) - mean(u) * mean(v), mean(v * v) - mean(v) ** 2
    return covariance / variance.clamp(min=1e-6)


def thickness(x: Tensor) -> Tensor:
    """2 · ink / total variation, pixels: (N, 1, H, W) in [−1, 1] -> (N,) (def-ldm-thickness).

    A stroke of length L and width w has ink Lw, and its brightness rises and falls once across it, all along: total
    variation 2L, but for the ends. Total variation is that of forward differences, √(∂_u² + ∂_v²). 0 for a blank image.
    """
    ink = torch.nn.functional.pad(_ink(x), (1, 1, 1, 1))
    across, down = ink[:, :-1, 1:] - ink[:, :-1, :-1], ink[:, 1:, :-1] - ink[:, :-1, :-1]
    variation = (across.square() + down.square()).sqrt().sum((1, 2))
    return 2 * ink.sum((1, 2)) / variation.clamp(min=1e-6)
