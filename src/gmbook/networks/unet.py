"""A UNet for denoising images: residual blocks told time and label, skips between the way down and the way up."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.networks.blocks import Attention, zero
from gmbook.networks.embed import Condition
from gmbook.networks.guided import drop_labels


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with as many groups, at most 8, as divide the channels."""
    return nn.GroupNorm(math.gcd(channels, 8), channels)


class ResidualBlock(nn.Module):
    """skip(x) + conv(SiLU(norm(conv(SiLU(norm x))) modulated by c)): (B, C, H, W), (B, cond) -> (B, out, H, W).

    The condition scales and shifts the second norm (arXiv:2105.05233, "adaptive group normalization"); the last
    convolution starts at 0, so that the block begins as its skip.
    """

    def __init__(self, channels: int, out: int, cond: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.conv1 = group_norm(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.modulation = nn.Linear(cond, 2 * out)
        self.norm2, self.conv2 = group_norm(out), zero(nn.Conv2d(out, out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.modulation(F.silu(c))[..., None, None].chunk(2, 1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class PixelAttention(nn.Module):
    """x + attention of all pixels, to each other or to `context` tokens (B, M, d): (B, C, H, W) -> (B, C, H, W).

    Starts as the identity. With context Q = W_Q φ_i(z_t) is read from this level's features (ldm-cross-attention).
    """

    def __init__(self, channels: int, heads: int, context: int | None = None):
        super().__init__()
        self.norm, self.attention = group_norm(channels), Attention(channels, heads, context)
        zero(self.attention.out)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = self.norm(x).flatten(2).mT  # (B, HW, C)
        return x + self.attention(tokens, context).mT.unflatten(2, x.shape[2:])


class Level(nn.Module):
    """One residual block, then where wanted self-attention and attention to the context: (x, c, context) -> x."""

    def __init__(
        self, channels: int, out: int, cond: int, attention: bool, heads: int, dropout: float, context: int | None
    ):
        super().__init__()
        self.block = ResidualBlock(channels, out, cond, dropout)
        self.attention = PixelAttention(out, heads) if attention else None
        self.cross = PixelAttention(out, heads, context) if attention and context is not None else None

    def forward(self, x: Tensor, c: Tensor, context: Tensor | None) -> Tensor:
        x = self.block(x, c)
        x = x if self.attention is None else self.attention(x)
        return x if self.cross is None else self.cross(x, context)


class UNet(nn.Module):
    """net(x (B, C, H, W), t (B,), y) -> (B, out, H, W), for any H and W: 8×8, 28×28, 32×32.

    y is None, labels (B,), or with `context` tokens (B, M, d). A condition of the image's own shape enters as more
    channels of x: `papers.latent_diffusion.Concatenated`.

    Level k works at 1/2^k of the resolution with width · multipliers[k] channels; an odd size is halved upwards and
    restored to the skip's size on the way up. The output is 0 at the start.

    Args:
        channels: C.
        out_channels: C by default; 2C for a learned variance.
        width: channels of the first level.
        multipliers: one number per level.
        blocks: residual blocks per level on the way down; one more on the way up.
        attention: the levels, counted from 0, that have self-attention; by default the coarsest. The middle always has
            it.
        heads: the heads of each attention.
        classes: the number of labels, or None; y None is then the null class.
        drop: the probability with which a label, or a whole context, is dropped in training, for classifier-free
            guidance.
        context: the width d of context tokens, for cross-attention wherever there is self-attention; y None means one
            learned null token. Not together with `classes`.
        patch: the network sees P × P pixels as channels at 1/P of the resolution; 2 makes 28×28 four times cheaper.
        dropout: within residual blocks.

    Raises:
        ValueError: blocks or multipliers make no network, heads does not divide a level's channels, both classes and
            context are given, or (in `forward`) the patch does not divide the image.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int = 1,
        attention: tuple[int, ...] | None = None,
        heads: int = 4,
        classes: int | None = None,
        drop: float = 0.0,
        patch: int = 1,
        dropout: float = 0.0,
        context: int | None = None,
    ):
        super().__init__()
        if classes is not None and context is not None:
            raise ValueError("y is either a label (classes=...) or a set of context tokens (context=...), not both")
        last = len(multipliers) - 1
        attention = (last,) if attention is None else attention
        if blocks < 1 or last < 0 or min(multipliers) < 1 or not set(attention) <= set(range(last + 1)):
            raise ValueError(
                f"a UNet needs at least one block, one level, and attention only at levels 0..{last}: got "
                f"blocks={blocks}, multipliers={multipliers}, attention={attention}"
            )
        cond, self.patch, outputs = 4 * width, patch, channels if out_channels is None else out_channels
        self.condition, self.drop = Condition(cond, classes, drop), drop
        self.null = None if context is None else nn.Parameter(torch.zeros(1, context))
        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        here, skips = width, [width]
        for k, multiplier in enumerate(multipliers):
            if k > 0:
                self.shrink.append(nn.Conv2d(here, here, 3, stride=2, padding=1))
                skips.append(here)
            for _ in range(blocks):
                self.down.append(Level(here, width * multiplier, cond, k in attention, heads, dropout, context))
                here = width * multiplier
                skips.append(here)
        self.middle = Level(here, here, cond, True, heads, dropout, context)
        self.bottom = ResidualBlock(here, here, cond, dropout)
        for k, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(
                    Level(here + skips.pop(), width * multiplier, cond, k in attention, heads, dropout, context)
                )
                here = width * multiplier
            if k > 0:
                self.grow.append(nn.Conv2d(here, here, 3, padding=1))
        self.blocks = blocks
        self.head = nn.Sequential(group_norm(here), nn.SiLU(), zero(nn.Conv2d(here, outputs * patch**2, 3, padding=1)))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth faster, on CPUs too

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if x.shape[2] % self.patch or x.shape[3] % self.patch:
            height, width = x.shape[2:]
            raise ValueError(
                f"a patch of {self.patch}×{self.patch} pixels does not divide an image of {height}×{width}"
            )
        c, context = self._told(t, y)
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for k in range(len(self.shrink) + 1):
            if k > 0:
                h = self.shrink[k - 1](h)
                skips.append(h)
            for level in self.down[k * self.blocks : (k + 1) * self.blocks]:
                h = level(h, c, context)
                skips.append(h)
        h = self.bottom(self.middle(h, c, context), c)
        for k in range(len(self.shrink) + 1):
            for level in self.up[k * (self.blocks + 1) : (k + 1) * (self.blocks + 1)]:
                h = level(torch.cat([h, skips.pop()], 1), c, context)
            if k < len(self.grow):
                h = self.grow[k](F.interpolate(h, size=skips[-1].shape[2:]))
        return F.pixel_shuffle(self.head(h), self.patch)

    def _told(self, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What every block hears, (B, cond), and the context tokens, if the network reads any."""
        if self.null is None:
            return self.condition(t, y), None
        context = self.null.expand(len(t), -1, -1) if y is None else y
        if self.training and self.drop > 0:
            context = drop_labels(context, self.drop, self.null)
        return self.condition(t), context
