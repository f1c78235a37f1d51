"""Transformers: of tokens (causal or bidirectional), and of image patches (DiT)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.networks.embed import Condition, rotary_angles, rotate, sincos_positions

Angles = tuple[Tensor, Tensor]


def zero(layer: nn.Module) -> nn.Module:
    """The same layer with all its parameters set to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift, without learned affine: x (B, N, D), shift and scale (B, 1, D) -> (B, N, D)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class Attention(nn.Module):
    """softmax(QKᵀ/√d) V in `heads` heads, of x with itself or, where `context` is given, with context tokens.

    Args:
        width: D.
        heads: the number of heads; d = D/heads.
        context: the width of the context's tokens, for cross-attention.

    Shapes: x (B, N, D), context (B, M, `context`) -> (B, N, D).

    Raises:
        ValueError: heads does not divide width.
    """

    def __init__(self, width: int, heads: int, context: int | None = None):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"the number of heads must divide the width, got {heads} heads and width {width}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width if context is None else context, 2 * width)
        self.out = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, D) -> (B, heads, N, d)

    def forward(
        self, x: Tensor, context: Tensor | None = None, causal: bool = False, angles: Angles | None = None
    ) -> Tensor:
        query = self._split(self.query(x))
        key, value = map(self._split, self.key_value(x if context is None else context).chunk(2, -1))
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


def feed_forward(width: int, ratio: int = 4) -> nn.Sequential:
    """Linear, GELU (tanh form, as GPT-2 and DiT), Linear: (..., D) -> (..., D)."""
    return nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(approximate="tanh"), nn.Linear(ratio * width, width))


class Block(nn.Module):
    """x + attention(LN x), then x + feed_forward(LN x): the pre-norm block of GPT-2. (B, N, D) -> (B, N, D)."""

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
    scale_2)).
    With `context`, cross-attention with it stands between the two, its output layer zero at the start.

    Shapes: x (B, N, D), c (B, D), context (B, M, `context`) -> (B, N, D).
    """

    def __init__(self, width: int, heads: int, context: int | None = None, dropout: float = 0.0):
        super().__init__()
        self.modulation = zero(nn.Linear(width, 6 * width))
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
    """Linear(modulate(x, shift, scale)) with (shift, scale) = W SiLU(c): zero at the start. (B, N, D) -> (B, N,
    out)."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.modulation, self.linear = zero(nn.Linear(width, 2 * width)), zero(nn.Linear(width, out))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(c))[:, None].chunk(2, -1)
        return self.linear(modulate(x, shift, scale))


class Transformer(nn.Module):
    """Logits for each token of a sequence: net(x (B, L) int64) -> (B, L, out). Pre-norm, rotary positions.

    Logits are 0 at the start, so that a cross-entropy begins at log(out). Any length works. With `causal`, the
    logits at position i see tokens 0..i only: shift by one to predict the next. t and y are accepted and
    ignored: this network is told the tokens alone (as MDLM's with time_conditioning=False).

    Args:
        vocab: the number of token values that may come in (a mask token counts).
        width, depth, heads: D, the number of blocks, and the heads of each.
        causal: mask the future.
        out: the number of logits, `vocab` by default.
        positions: rotary positions. Without them a bidirectional network sees a set, not a sequence.
        dropout: on both branches of each block.

    Raises:
        ValueError: heads does not divide width, or the width of a head is odd.
    """

    def __init__(
        self,
        vocab: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        *,
        causal: bool = False,
        out: int | None = None,
        positions: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.causal, self.positions, self.head_width = causal, positions, width // heads
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), zero(nn.Linear(width, vocab if out is None else out))

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        h = self.embed(x)  # (B, L, D)
        angles = rotary_angles(x.shape[1], self.head_width, h) if self.positions else None
        for block in self.blocks:
            h = block(h, causal=self.causal, angles=angles)
        return self.head(self.norm(h))


class DiT(nn.Module):
    """A Transformer on image patches, told time and label by adaLN-Zero: net(x (B, C, H, W), t (B,), y) -> (B, out,
    H, W).

    arXiv:2212.09748. Patches of P × P pixels become N = HW/P² tokens with fixed sine–cosine positions; every block
    begins
    as the identity, and the output as 0. It costs several times fewer FLOPs than a UNet of the same number of weights.

    Args:
        shape: (C, H, W).
        patch: P.
        width, depth, heads: D, the number of blocks, the heads of each.
        classes: the number of labels, or None; y None is then the null class.
        drop: the probability with which a label is dropped in training, for classifier-free guidance.
        out: output channels, C by default; 2C for a learned variance.
        context: the width of context tokens (B, M, context) for cross-attention, given as `context=` to forward.
        dropout: on both branches of each block.

    Raises:
        ValueError: the patch does not divide the image, heads does not divide width, or width is no multiple of 4.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        patch: int = 4,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        *,
        classes: int | None = None,
        drop: float = 0.0,
        out: int | None = None,
        context: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        channels, height, side = shape
        if height % patch or side % patch:
            raise ValueError(f"patches of {patch} pixels do not tile an image of {height} × {side}")
        self.patch, self.grid = patch, (height // patch, side // patch)
        self.embed = nn.Linear(channels * patch**2, width)
        self.register_buffer("positions", sincos_positions(*self.grid, width), persistent=False)
        self.condition = Condition(width, classes, drop)
        self.blocks = nn.ModuleList(AdaBlock(width, heads, context, dropout) for _ in range(depth))
        self.head = AdaHead(width, (channels if out is None else out) * patch**2)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        tokens = F.pixel_unshuffle(x, self.patch).flatten(2).mT  # (B, N, C P²)
        h, c = self.embed(tokens) + self.positions, self.condition(t, y)  # (B, N, D), (B, D)
        for block in self.blocks:
            h = block(h, c, context)
        return F.pixel_shuffle(self.head(h, c).mT.unflatten(2, self.grid), self.patch)  # (B, out, H, W)
