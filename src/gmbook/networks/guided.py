"""Classifier-free guidance as a network around a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Guided(nn.Module):
    """ε_u + s(ε_c − ε_u) (guidance), with both terms from one call of the network on a doubled batch.

    arXiv:2207.12598, Eq. 6, where the weight is w = s − 1: s = 1 is the conditional network, s = 0 the
    unconditional. Linear,
    so it means the same for every quantity that a network may predict. The result is the score of p(x|y)^s
    p(x)^{1−s} at each
    noise level, which is *not* the diffusion of one tilted law.

    Args:
        net: net(x, t, y) that knows a null class.
        scale: s.
        null: the label that stands for "no label".
    """

    def __init__(self, net: nn.Module, scale: float, null: int):
        super().__init__()
        self.net, self.scale, self.null = net, scale, null

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Shapes: x (B, *S), t (B,), y (B,) int64 or None (no guidance, unconditional) -> (B, *S)."""
        if y is None:
            return self.net(x, t, torch.full((len(x),), self.null, device=x.device))
        labels = torch.cat([torch.full_like(y, self.null), y])
        without, given = self.net(torch.cat([x, x]), torch.cat([t, t]), labels).chunk(2)
        return torch.lerp(without, given, self.scale)
