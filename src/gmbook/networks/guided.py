"""Classifier-free guidance: a network around a network, and the label dropping that trains it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Guided(nn.Module):
    """ε_u + s (ε_c − ε_u), from one call of the network with a doubled batch (def-guidance).

    arXiv:2207.12598, which writes (1 + w) ε_c − w ε_u: w = s − 1. So s = 1 is the conditional network
    and s = 0 the unconditional one, both exactly; s > 1 guides. Reading one quantity from another is affine
    with weights that do not depend on y, so guiding ε, x_0, v, the score or the velocity is the same thing,
    and a `Denoiser` around `Guided(net, ...)` may be read as any of them. What it samples is not the density
    p_c^s p_u^{1−s}.

    What is guided has the channels of x. What a network outputs beyond them, such as a learned variance, is the
    conditional network's: extrapolated, a log-variance would leave the interval that it was trained in.

    Args:
        net: a network net(x, t, y) that was trained with some labels dropped (`drop_labels`).
        scale: s.
        null: what stands for "no label": the null class (the number of classes), or null context tokens
            (M, d) or (1, d) where y is (B, M, d).

    Called with y None there is nothing to guide towards: the network's unconditional output is returned, at
    any scale.
    """

    def __init__(self, net: nn.Module, scale: float, null: int | Tensor):
        super().__init__()
        self.net, self.scale, self.null = net, scale, null

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            return self.net(x, t, None)
        null = torch.as_tensor(self.null, dtype=y.dtype, device=y.device).expand_as(y)
        both = self.net(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, null]))
        conditional, unconditional = both.chunk(2)
        channels = x.shape[1]
        guided = torch.lerp(unconditional[:, :channels], conditional[:, :channels], self.scale)
        return torch.cat([guided, conditional[:, channels:]], 1)


def drop_labels(y: Tensor, p: float, null: int | Tensor) -> Tensor:
    """y with each example's label replaced by `null` with probability p. arXiv:2207.12598.

    Shapes: y (B,) with null an int, or y (B, M, d) with null (M, d) or (1, d); same shape out.

    Raises:
        ValueError: p lies outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is a probability, got {p}")
    dropped = torch.rand(len(y), device=y.device) < p
    null = torch.as_tensor(null, dtype=y.dtype, device=y.device)
    return torch.where(dropped.reshape(-1, *[1] * (y.ndim - 1)), null, y)
