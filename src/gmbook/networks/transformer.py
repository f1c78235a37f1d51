"""Transformers: of tokens (causal or bidirectional), of image patches (DiT), and of vectors in any order (MAR)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmbook.networks.blocks import AdaBlock, AdaHead, Block, ShortConvolution, zero
from gmbook.networks.embed import Condition, label_embedding, rotary_angles, sincos_positions
from gmbook.networks.guided import drop_labels


class Transformer(nn.Module):
    """Logits for each token of a sequence: net(x (B, L) int64, t (B,), y (B,) or None) -> (B, L, out).

    Pre-norm blocks with rotary positions, so any length works. Logits are 0 at the start: a cross-entropy
    begins at log(out). With `causal`, the logits at position i see the tokens 0..i only; shift by one to
    predict the next token.

    Args:
        vocab: the number of token values that may come in (a mask token counts).
        width, depth, heads: D, the number of blocks, and the heads of each.
        causal: mask the future.
        time: condition on t by adaLN-Zero. Without it t is not read and may be None (autoregression; masked
            diffusion, whose ideal denoiser does not depend on t).
        classes: the number of classes, or None; needs `time`. y None means the null class.
        out: the number of logits, `vocab` by default.
        positions: rotary positions. Without them a bidirectional network sees a set, not a sequence.
        dropout: on both branches of each block.
        local: the number of weights, odd, of a convolution along the sequence before each block, or None for none. It
            shows a small network the neighbours before attention has learned to find them.
        told: the width of what the blocks are told of the time, `width` by default. SEDD's code tells 128 numbers to
            768 channels: each block's table of modulations is then a sixth as large.

    Raises:
        ValueError: heads does not divide width, a head's width is odd, `local` is even, classes without time; or, when
            called, labels are given to a network without classes.
    """

    def __init__(
        self,
        vocab: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        *,
        causal: bool = False,
        time: bool = False,
        classes: int | None = None,
        out: int | None = None,
        positions: bool = True,
        dropout: float = 0.0,
        local: int | None = None,
        told: int | None = None,
    ):
        super().__init__()
        if classes is not None and not time:
            raise ValueError("labels enter through adaLN, with the time: build the network with time=True")
        if positions and (width // heads) % 2:
            raise ValueError(f"rotary positions need heads of even width, got {width} / {heads}")
        self.causal, self.positions, self.head_width = causal, positions, width // heads
        out = vocab if out is None else out
        self.embed = nn.Embedding(vocab, width)
        self.condition = Condition(told or width, classes) if time else None
        self.local = None if local is None else nn.ModuleList(ShortConvolution(width, local) for _ in range(depth))
        if time:
            self.blocks = nn.ModuleList(AdaBlock(width, heads, dropout=dropout, told=told) for _ in range(depth))
            self.head: nn.Module = AdaHead(width, out, told)
        else:
            self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
            self.head = nn.Sequential(nn.LayerNorm(width), zero(nn.Linear(width, out)))

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        h = self.embed(x)  # (B, L, D)
        angles = rotary_angles(x.shape[1], self.head_width, h) if self.positions else None
        if self.condition is None:
            if y is not None:
                raise ValueError("this network knows no labels: build it with time=True, classes=...")
            for k, block in enumerate(self.blocks):
                h = block(self._neighbours(h, k), causal=self.causal, angles=angles)
            return self.head(h)
        if t is None:
            raise ValueError("this network is conditioned on time: call it with t (B,), or build it with time=False")
        c = self.condition(t, y)  # (B, D)
        for k, block in enumerate(self.blocks):
            h = block(self._neighbours(h, k), c, causal=self.causal, angles=angles)
        return self.head(h, c)

    def _neighbours(self, h: Tensor, k: int) -> Tensor:
        return h if self.local is None else self.local[k](h, self.causal)


class DiT(nn.Module):
    """The diffusion transformer: net(x (B, C, H, W), t (B,), y) -> (B, out_channels, H, W). arXiv:2212.09748.

    Patches of p×p pixels are tokens with fixed 2-D sine-cosine positions; time and label enter by adaLN-Zero.
    The output is 0 at the start, whatever the input. With the settings of XL/2 it has the published number of
    parameters.

    Args:
        shape: (C, H, W).
        patch: p, which must divide H and W.
        width, depth, heads: D, the number of blocks, and the heads of each.
        classes: the number of classes: y is (B,) int64, and None means the null class.
        drop: the probability with which a label, or a whole context, is dropped in training, for guidance.
        context: the width d of context tokens, for cross-attention in every block: y is (B, M, d) instead,
            and None means one learned null token. Not together with `classes`.
        out_channels: C by default; 2 C for a learned variance.
        dropout: on both branches of each block.

    Raises:
        ValueError: patch does not divide H and W, heads does not divide width, width is not a multiple of 4,
            or both classes and context are given; when called, x has another size.
    """

    positions: Tensor  # (N, D)

    def __init__(
        self,
        shape: tuple[int, int, int],
        patch: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        *,
        classes: int | None = None,
        drop: float = 0.0,
        context: int | None = None,
        out_channels: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        channels, height, columns = shape
        if patch < 1 or height % patch or columns % patch:
            raise ValueError(f"patch must divide the image's sides, got patch {patch} for {height}×{columns}")
        if classes is not None and context is not None:
            raise ValueError("y is either a label (classes=...) or a set of context tokens (context=...), not both")
        self.shape, self.patch, self.drop = tuple(shape), patch, drop
        self.grid = (height // patch, columns // patch)
        out_channels = channels if out_channels is None else out_channels
        self.embed = nn.Linear(channels * patch**2, width)
        self.register_buffer("positions", sincos_positions(*self.grid, width), persistent=False)
        self.condition = Condition(width, classes, drop)
        self.null = None if context is None else nn.Parameter(torch.zeros(1, context))
        self.blocks = nn.ModuleList(AdaBlock(width, heads, context, dropout) for _ in range(depth))
        self.head = AdaHead(width, out_channels * patch**2)

    def patchify(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, C p²), patches row by row."""
        batch, channels, p = len(x), x.shape[1], self.patch
        x = x.reshape(batch, channels, self.grid[0], p, self.grid[1], p).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(batch, self.grid[0] * self.grid[1], channels * p * p)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """(B, N, C p²) -> (B, C, H, W): the inverse of `patchify`."""
        batch, p = len(tokens), self.patch
        x = tokens.reshape(batch, *self.grid, -1, p, p).permute(0, 3, 1, 4, 2, 5)  # (B, C, h, p, w, p)
        return x.reshape(batch, -1, self.grid[0] * p, self.grid[1] * p)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if x.shape[1:] != self.shape:
            raise ValueError(f"this DiT is built for images {self.shape}, got a batch {tuple(x.shape)}")
        h = self.embed(self.patchify(x)) + self.positions  # (B, N, D)
        if self.null is None:
            c, context = self.condition(t, y), None  # (B, D)
        else:
            c, context = self.condition(t), self.null.expand(len(x), -1, -1) if y is None else y
            if self.training and self.drop > 0:
                context = drop_labels(context, self.drop, self.null)
        for block in self.blocks:
            h = block(h, c, context)
        return self.unpatchify(self.head(h, c))


class _Reader(nn.Module):
    """What both transformers of vectors have: an embedding, learned positions, a label before the first token."""

    causal: bool

    def __init__(self, tokens: int, channels: int, width: int, classes: int | None, drop: float):
        super().__init__()
        self.tokens, self.channels, self.width, self.classes = tokens, channels, width, classes
        self.embed, self.norm = nn.Linear(channels, width), nn.LayerNorm(width)
        self.label = label_embedding(classes, width, drop)
        self.read_at, self.write_at = self._table(tokens), self._table(tokens)

    def _table(self, rows: int) -> nn.Parameter:
        return nn.Parameter(0.02 * torch.randn(rows, self.width))

    def _start(self, n: int, y: Tensor | None) -> Tensor:
        """The label's vector, 0 for a network without labels: (n, 1, D)."""
        return self.label(self.read_at.new_zeros(n, self.width), y)[:, None]


class MaskedTransformer(_Reader):
    """Conditions for the unknown tokens from the known: net(x (B, L, C), order (B, L), known, y) -> (B, L − known, D).

    An encoder reads the first `known` tokens of x, which stand at the places order[:, :known]; a decoder reads the
    encoder's output and a mask token for each other place, and its output there is z. As in MAE, arXiv:2111.06377, and
    MAR, arXiv:2406.11838, Section 4.2. All attention is bidirectional. The mask tokens carry no data, so z cannot
    depend on tokens that are unknown; and the known ones are a set, whatever their order.

    Args:
        tokens, channels: L and C.
        width, depth, heads: D, the number of blocks of the encoder and of the decoder, and the heads of each.
        classes: the number of classes, or None. A conditional network that is given y None uses the null class.
        drop: the probability with which a label is dropped in training, for guidance.
        buffers: tokens that carry the label to the encoder, which would else have nothing to read when nothing is
            known; MAR has 64 beside 256 tokens.
        dropout: on both branches of each block.

    Raises:
        ValueError: heads does not divide width, or labels are given to a network without classes.
    """

    causal = False

    def __init__(
        self,
        tokens: int,
        channels: int,
        width: int = 128,
        depth: tuple[int, int] = (4, 4),
        heads: int = 4,
        *,
        classes: int | None = None,
        drop: float = 0.0,
        buffers: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__(tokens, channels, width, classes, drop)
        self.buffer, self.mask = self._table(buffers), self._table(1)
        self.encoder, self.decoder = (nn.ModuleList(Block(width, heads, dropout) for _ in range(k)) for k in depth)

    def forward(self, x: Tensor, order: Tensor, known: int, y: Tensor | None = None) -> Tensor:
        h = self.embed(x[:, :known]) + self.read_at[order[:, :known]]  # (B, known, D): the rest is never read
        h = torch.cat([self._start(len(x), y) + self.buffer, h], 1)
        for block in self.encoder:
            h = block(h)
        buffers, seen = h.split([len(self.buffer), known], 1)
        unknown = self.mask.expand(len(x), self.tokens - known, -1)
        h = torch.cat([buffers, torch.cat([seen, unknown], 1) + self.write_at[order]], 1)
        for block in self.decoder:
            h = block(h)
        return self.norm(h[:, len(self.buffer) + known :])


class CausalTransformer(_Reader):
    """Conditions for each token from those before it: net(x (B, L, C), order (B, L), known, y) -> (B, L − known, D).

    z[:, j] sees the label and x[:, :known + j], so that one call serves all tokens in training. Each input is told the
    place of the token that comes next, so that any order will do: arXiv:2406.11838, Section 3.4.

    Args: as `MaskedTransformer`; `depth` is the number of blocks.
    """

    causal = True

    def __init__(
        self,
        tokens: int,
        channels: int,
        width: int = 128,
        depth: int = 8,
        heads: int = 4,
        *,
        classes: int | None = None,
        drop: float = 0.0,
        dropout: float = 0.0,
    ):
        super().__init__(tokens, channels, width, classes, drop)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))

    def forward(self, x: Tensor, order: Tensor, known: int, y: Tensor | None = None) -> Tensor:
        before = self.embed(x[:, :-1]) + self.read_at[order[:, :-1]]
        h = torch.cat([self._start(len(x), y), before], 1) + self.write_at[order]  # (B, L, D)
        for block in self.blocks:
            h = block(h, causal=True)
        return self.norm(h[:, known:])
