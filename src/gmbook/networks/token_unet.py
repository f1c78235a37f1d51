"""A UNet for images whose pixels are tokens: grey levels that a chain replaces, masks or shifts."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.networks.unet import UNet


class TokenUNet(nn.Module):
    """net(x (B, C, H, W) int64, t (B,), y (B,) or None) -> (B, C, H, W, out); 0 at the start.

    The UNet reads each token as a one-hot vector, so that no order of the levels is assumed, and nothing of the mask.

    Args:
        channels: C, of the image.
        states: how many tokens there are, the mask included.
        out: numbers for each token: V logits, or 2 for `papers.d3pm.TruncatedLogistic`.
        options: the UNet's: width, multipliers, classes, patch, …
    """

    def __init__(self, channels: int, states: int, out: int, **options: Any):
        super().__init__()
        self.states, self.out = states, out
        self.unet = UNet(channels * states, channels * out, **options)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        one_hot = F.one_hot(x, self.states).to(t)  # (B, C, H, W, states)
        planes = one_hot.movedim(-1, 2).flatten(1, 2)  # (B, C · states, H, W)
        return self.unet(planes, t, y).unflatten(1, (-1, self.out)).movedim(2, -1)
