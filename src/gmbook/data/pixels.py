"""Pixel scales: integers to [−1, 1], to (0, 1) with noise, to bits, and back."""

from __future__ import annotations

import torch
from torch import Tensor


def _check_levels(x: Tensor, levels: int) -> None:
    if x.dtype != torch.uint8:
        raise TypeError(f"expected uint8 pixels in 0..{levels - 1}, got {x.dtype}: is this scaled already?")
    if x.numel() and int(x.max()) >= levels:
        raise ValueError(f"expected pixels in 0..{levels - 1}, got {int(x.max())}: pass the set's own levels")


def scale(x: Tensor, levels: int = 256) -> Tensor:
    """2x / (levels − 1) − 1: uint8 in 0..levels-1 -> float32 in [−1, 1], any shape."""
    _check_levels(x, levels)
    return x.float() * (2 / (levels - 1)) - 1


def unscale(x: Tensor, levels: int = 256) -> Tensor:
    """The nearest pixel, the inverse of `scale`: float -> uint8; what lies outside [−1, 1] is clipped."""
    return ((x + 1) * ((levels - 1) / 2)).round().clamp(0, levels - 1).to(torch.uint8)


def dequantise(x: Tensor, levels: int = 256) -> Tensor:
    """(x + u) / levels with u uniform: uint8 in 0..levels-1 -> float32 in (0, 1), any shape.

    A density of the result bounds the mass of x: E_u log p((x+u)/levels) − D log levels ≤ log P(x)
    (arXiv:1511.01844, section 3.1). u takes the 2¹⁵ values (j + ½) / 2¹⁵, so that float32 holds x + u
    exactly: with a plain `rand`, 255 + u rounds to 256 now and then, and the result is 1.
    """
    _check_levels(x, levels)
    u = torch.randint(2**15, x.shape, device=x.device).float().add(0.5) / 2**15
    return (x.float() + u) / levels


def quantise(x: Tensor, levels: int = 256) -> Tensor:
    """⌊levels · x⌋, the inverse of `dequantise`: float -> uint8; what lies outside [0, 1) is clipped."""
    return (x * levels).floor().clamp(0, levels - 1).to(torch.uint8)


def binarise(x: Tensor, levels: int = 256) -> Tensor:
    """Dynamic binarisation: each pixel is 1 with probability x / (levels − 1), drawn anew at each call.

    uint8 in 0..levels-1 -> float32 in {0, 1}, any shape.
    """
    _check_levels(x, levels)
    return (torch.rand(x.shape, device=x.device) < x.float() / (levels - 1)).float()
