"""The parts of transformers: attention, the pre-norm block, and the block told a condition (adaLN-Zero)."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.networks.embed import rotate

Angles = tuple[Tensor, Tensor]
Layer = TypeVar("Layer", bound=nn.Module)


def zero(layer: Layer) -> Layer:
    """The same layer with all its parameters set to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift, no learned affine: x (B, N, D), shift, scale (B, 1, D) -> (B, N, D)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class Attention(nn.Module):
    """softmax(QKᵀ/√d) V in `heads` heads, of x with itself or, where `context` is given, with context tokens.

    With context, Q = W_Q φ(z_t), K = W_K τ(y), V = W_V τ(y) (ldm-cross-attention): tokens of the context without
    positions are a set, and what each query receives is, within a head, in the convex hull of the V.

    Args:
        width: D.
        heads: the number of heads; d = D/heads.
        context: the width of the context's tokens, for cross-attention; None for self-attention.

    Shapes: x (B, N, D), context (B, M, `context`) -> (B, N, D).

    Raises:
        ValueError: heads does not divide width; or, when called, cross-attention is given no context, or
            self-attention is given one.
    """

    def __init__(self, width: int, heads: int, context: int | None = None):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"the number of heads must divide the width, got {heads} heads and width {width}")
        self.heads, self.crosses = heads, context is not None
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width if context is None else context, 2 * width)
        self.out = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, D) -> (B, heads, N, d)

    def forward(
        self, x: Tensor, context: Tensor | None = None, causal: bool = False, angles: Angles | None = None
    ) -> Tensor:
        if self.crosses != (context is not None):
            raise ValueError(
                "cross-attention needs its context: call it with context (B, M, d)"
                if self.crosses
                else "this is self-attention: build it with context=<the width of the context's tokens>"
            )
        query = self._split(self.query(x))
        key, value = map(self._split, self.key_value(x if context is None else context).chunk(2, -1))
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class ShortConvolution(nn.Module):
    """x + w ∗ x, one filter of k weights for each channel: what the nearest neighbours say, before any attention.

    y_i = x_i + Σ_j w_j ⊙ x_{i+j} + b, with j from −(k − 1) to 0 if `causal` and from −(k − 1)/2 to (k − 1)/2 otherwise,
    and zeros beyond the ends. It starts as the identity. Primer, arXiv:2109.08668, has such filters after its queries,
    keys and values.

    Args:
        width: D.
        size: k, odd.

    Shapes: x (B, N, D) -> (B, N, D).

    Raises:
        ValueError: k is even or below 1.
    """

    def __init__(self, width: int, size: int):
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(f"a short convolution needs an odd number of weights, got {size}")
        self.filter = zero(nn.Conv1d(width, width, size, groups=width))

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        reach = self.filter.kernel_size[0] - 1
        before, after = (reach, 0) if causal else (reach // 2, reach // 2)
        return x + self.filter(F.pad(x.mT, (before, after))).mT


def feed_forward(width: int, ratio: int = 4) -> nn.Sequential:
    """Linear, GELU (tanh form, as GPT-2 and DiT), Linear: (..., D) -> (..., D)."""
    return nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(approximate="tanh"), nn.Linear(ratio * width, width))


class Block(nn.Module):
    """x + attention(LN x), then x + feed_forward(LN x): GPT-2's pre-norm block. (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.feed_forward = Attention(width, heads), feed_forward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, causal: bool = False, angles: Angles | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), causal=causal, angles=angles))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class AdaBlock(nn.Module):
    """The same block told c: adaLN-Zero. arXiv:2212.09748, Section 3.2 and Figure 3.

    (shift, scale, gate)×2 = W SiLU(c), with W = 0 at the start, so that each block begins as the identity:
    x + gate_1 · attention(modulate(x, shift_1, scale_1)), then x + gate_2 · feed_forward(modulate(x, shift_2,
    scale_2)). With `context`, cross-attention with it stands between the two, its output layer zero at the
    start.

    Shapes: x (B, N, D), c (B, `told`), by default (B, D), context (B, M, `context`) -> (B, N, D).
    """

    def __init__(
        self, width: int, heads: int, context: int | None = None, dropout: float = 0.0, told: int | None = None
    ):
        super().__init__()
        self.modulation = zero(nn.Linear(width if told is None else told, 6 * width))
        self.attention, self.feed_forward = Attention(width, heads), feed_forward(width)
        self.cross = None if context is None else Attention(width, heads, context)
        if self.cross is not None:
            zero(self.cross.out)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        context: Tensor | None = None,
        causal: bool = False,
        angles: Angles | None = None,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(c))[:, None].chunk(6, -1)
        mixed = self.attention(modulate(x, shift1, scale1), causal=causal, angles=angles)
        x = x + gate1 * self.dropout(mixed)
        if self.cross is not None:
            x = x + self.cross(F.layer_norm(x, x.shape[-1:]), context)
        return x + gate2 * self.dropout(self.feed_forward(modulate(x, shift2, scale2)))


class AdaHead(nn.Module):
    """Linear(modulate(x, shift, scale)), (shift, scale) = W SiLU(c): 0 at first. (B, N, D) -> (B, N, out).

    c is (B, `told`), by default (B, D).
    """

    def __init__(self, width: int, out: int, told: int | None = None):
        super().__init__()
        self.modulation = zero(nn.Linear(width if told is None else told, 2 * width))
        self.linear = zero(nn.Linear(width, out))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(c))[:, None].chunk(2, -1)
        return self.linear(modulate(x, shift, scale))
