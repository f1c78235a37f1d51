"""Smooth velocity fields for flows that are solved while they are trained: for images, and for several runs at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.networks.mlp import SmoothField


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


class Several(nn.Module):
    """Copies of one `SmoothField` with their own weights, side by side: net(x (S·B, D), t (S·B,), y) -> (S·B, D).

    The first B rows belong to the first copy, and so on. For S training runs at once: in the plane a step of one run is
    bound by the overhead of its many small operations, which all runs then share. The copies have no weight in common.

    Args:
        count: S.
        dim, width, depth: of each `SmoothField`.
    """

    def __init__(self, count: int, dim: int = 2, width: int = 64, depth: int = 3):
        super().__init__()
        self.count, self.sizes = count, (dim, width, depth)
        layers = list(zip(*(_linear(SmoothField(dim, width, depth)) for _ in range(count))))
        self.weights = nn.ParameterList(torch.stack([one.weight.detach().T for one in same]) for same in layers)
        self.biases = nn.ParameterList(torch.stack([one.bias.detach()[None] for one in same]) for same in layers)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        h = torch.cat([x, t.to(x.dtype)[:, None]], 1).reshape(self.count, -1, x.shape[1] + 1)  # (S, B, D + 1)
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            h = torch.baddbmm(bias, h if k == 0 else torch.tanh(h), weight)
        return h.reshape(x.shape)

    @torch.no_grad()
    def one(self, k: int) -> SmoothField:
        """The k-th copy by itself, with its weights as they are now."""
        field = SmoothField(*self.sizes).to(self.weights[0])
        for layer, weight, bias in zip(_linear(field), self.weights, self.biases):
            layer.weight.copy_(weight[k].T)
            layer.bias.copy_(bias[k, 0])
        return field


def _linear(field: SmoothField) -> list[nn.Linear]:
    return [layer for layer in field.layers if isinstance(layer, nn.Linear)]
