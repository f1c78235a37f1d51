"""The U-Net of DDPM and its descendants: residual blocks told the time, attention where it is coarse."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.networks.blocks import Attention, zero
from gmbook.networks.embed import Condition


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 8 groups, or the largest power of two below that divides the channels."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class ResidualBlock(nn.Module):
    """skip(x) + conv_2(SiLU(GN(h)(1 + scale) + shift)), h = conv_1(SiLU(GN(x))), (scale, shift) = W c.

    The scale and shift from c are arXiv:2102.09672's; conv_2 is zero at the start, so the block begins as its
    skip (the identity, or a 1×1 convolution where the channels change).

    Shapes: x (B, inputs, H, W), c (B, condition), already through SiLU -> (B, outputs, H, W).
    """

    def __init__(self, inputs: int, outputs: int, condition: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.norm2 = group_norm(inputs), group_norm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.modulation = nn.Linear(condition, 2 * outputs)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(c)[:, :, None, None].chunk(2, 1)
        h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        return self.skip(x) + self.conv2(self.dropout(h))


class PixelAttention(nn.Module):
    """x + attention(GN x) over the H·W pixels, its output zero at the start: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, head_width: int = 32):
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = Attention(channels, max(1, channels // head_width))
        zero(self.attention.out)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # (B, H W, C)
        return x + self.attention(pixels).transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """A residual block and, where asked for, attention: (B, inputs, H, W), c -> (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, condition: int, dropout: float, attention: bool):
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, condition, dropout)
        self.attention = PixelAttention(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.attention(self.block(x, c))


class Shrink(nn.Conv2d):
    """A 3×3 convolution of stride 2: (B, C, H, W) -> (B, C, ⌈H/2⌉, ⌈W/2⌉). Like a stage, but ignores c."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return super().forward(x)


class UNet(nn.Module):
    """net(x (B, C, H, W), t (B,), y (B,) or None) -> (B, out_channels, H, W), 0 at the start.

    Level l has width·multipliers[l] channels at 1/2^l of the resolution. Any image size works: a stride-2
    convolution takes n to ceil(n/2) (28 → 14 → 7 → 4), and the way up takes the size of the skip that it
    meets. Every block's output on the way down meets one block on the way up, as in DDPM.

    Args:
        channels: C.
        out_channels: C by default; 2 C for a learned variance.
        width: channels of the first level.
        multipliers: one per level.
        blocks: residual blocks per level on the way down (one more on the way up).
        attention: the levels with attention over all pixels, 0 being full resolution; by default the
            coarsest. The middle always has it.
        classes: the number of classes, or None. A conditional network that is given y None uses the null
            class.
        dropout: inside the residual blocks.

    Raises:
        ValueError: no level, blocks < 1, or a level of `attention` that does not exist; when called, labels
            are given to a network without classes.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int = 1,
        attention: tuple[int, ...] | None = None,
        classes: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        last = len(multipliers) - 1
        attention = (last,) if attention is None else attention
        if last < 0 or blocks < 1 or not set(attention) <= set(range(last + 1)):
            raise ValueError(
                f"need a multiplier, at least one block, and attention among the levels 0..{last}; "
                f"got multipliers {multipliers}, blocks {blocks}, attention {attention}"
            )
        condition, widths = 4 * width, [width * m for m in multipliers]
        self.condition = Condition(condition, classes)
        self.first = nn.Conv2d(channels, width, 3, padding=1)

        def stage(inputs: int, level: int) -> Stage:
            return Stage(inputs, widths[level], condition, dropout, level in attention)

        skips, levels = [width], [0]  # what the way down leaves behind: channels and level of each output
        self.down = nn.ModuleList()
        for level in range(last + 1):
            if level > 0:
                self.down.append(Shrink(skips[-1]))
                skips, levels = [*skips, skips[-1]], [*levels, level]
            for _ in range(blocks):
                self.down.append(stage(skips[-1], level))
                skips, levels = [*skips, widths[level]], [*levels, level]

        now = widths[last]
        self.middle = nn.ModuleList(
            Stage(now, now, condition, dropout, attention=first) for first in (True, False)
        )
        self.up = nn.ModuleList()
        for skip, level in zip(reversed(skips), reversed(levels)):
            self.up.append(stage(now + skip, level))
            now = widths[level]
        last_conv = zero(nn.Conv2d(now, channels if out_channels is None else out_channels, 3, padding=1))
        self.last = nn.Sequential(group_norm(now), nn.SiLU(), last_conv)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        c = F.silu(self.condition(t, y))  # (B, 4 width)
        outputs = [self.first(x)]
        for layer in self.down:
            outputs.append(layer(outputs[-1], c))
        h = outputs[-1]
        for layer in self.middle:
            h = layer(h, c)
        for layer in self.up:
            skip = outputs.pop()
            if h.shape[-2:] != skip.shape[-2:]:
                h = F.interpolate(h, size=skip.shape[-2:])  # nearest
            h = layer(torch.cat([h, skip], 1), c)
        return self.last(h)
