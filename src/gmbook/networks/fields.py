"""Velocity fields for images, smooth in the image and in the time, for flows that are solved while they are trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvField(nn.Module):
    """3×3 convolutions with softplus between them, each told t: net(x (B, C, H, W), t (B,), y) -> (B, C, H, W).

    Each layer reads t as one more channel, as "concat" layers in the code of arXiv:1810.01367 do, and its sines and
    ReLUs are nowhere: a solver needs smooth fields. The image is seen at 1/patch of its resolution, `patch`² pixels to
    a channel, where a convolution costs so much less. Labels play no part.

    Args:
        channels: C.
        width, depth: the hidden channels, and how many hidden layers there are.
        patch: pixels of a side that become channels; height and width must be divisible by it.

    Raises:
        ValueError: when called, the height or width is not divisible by the patch.
    """

    def __init__(self, channels: int = 1, width: int = 32, depth: int = 2, patch: int = 2):
        super().__init__()
        self.patch, ends = patch, channels * patch**2
        sizes = [ends, *[width] * depth, ends]
        self.layers = nn.ModuleList(nn.Conv2d(i + 1, o, 3, padding=1) for i, o in zip(sizes, sizes[1:]))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if x.shape[2] % self.patch or x.shape[3] % self.patch:
            raise ValueError(f"sides of {x.shape[2]}×{x.shape[3]} are not divisible by the patch, {self.patch}")
        h = F.pixel_unshuffle(x, self.patch)  # (B, C·patch², H/patch, W/patch)
        time = t.to(x.dtype)[:, None, None, None].expand(-1, 1, *h.shape[2:])
        for k, layer in enumerate(self.layers):
            h = layer(torch.cat([h if k == 0 else F.softplus(h), time], 1))
        return F.pixel_shuffle(h, self.patch)
