"""How a network is told a time, a label or a position.

Every network of the book takes t in [0, 1] and multiplies it by 1000 here, so that the features have the scale of
DDPM's step index whatever the number of steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gmbook.core.model import Labelled

TIME_SCALE = 1000.0


def _even(dim: int, what: str, multiple: int = 2) -> int:
    if dim < multiple or dim % multiple:
        raise ValueError(f"{what} needs a positive multiple of {multiple} features, got {dim}")
    return dim // multiple


class Sinusoidal(nn.Module):
    """[sin(1000 t ω_0), …, sin(1000 t ω_{h−1}), cos(1000 t ω_0), …], with ω_k = P^{−k/(h−1)} and h = dim/2.

    The layout of DDPM's code (arXiv:2006.11239): all sines, then all cosines, wavelengths from 2π to exactly 2πP.
    Vaswani et al. (arXiv:1706.03762, Section 3.5) interleave sine and cosine and divide by h instead of h − 1, so that
    their longest wavelength is 2πP^{1−1/h}. To a network that begins with a linear layer the order is immaterial;
    to weights that were trained elsewhere neither is.

    Args:
        dim: the number of features, even and at least 4.
        period: P, the ratio of the longest to the shortest wavelength.
        scale: what t is multiplied by.

    Shapes: t (B,) -> (B, dim).

    Raises:
        ValueError: dim is odd or below 4.
    """

    frequencies: Tensor  # (dim/2,)

    def __init__(self, dim: int, period: float = 10_000.0, scale: float = TIME_SCALE):
        super().__init__()
        half = _even(dim, "a sinusoidal embedding")
        if half < 2:
            raise ValueError(f"a sinusoidal embedding needs at least 4 features, got {dim}")
        exponents = torch.arange(half, dtype=torch.float64) / (half - 1)
        frequencies = scale * period**-exponents  # the scale is folded in: one multiplication less per call
        self.register_buffer("frequencies", frequencies.to(torch.get_default_dtype()), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies  # (B, dim/2)
        return torch.cat([angles.sin(), angles.cos()], 1)


class GaussianFourier(nn.Module):
    """[sin(2π t w), cos(2π t w)] with frozen random w ~ N(0, scale² I). arXiv:2006.10739 (γ), arXiv:2011.13456.

    Random frequencies let a small network resolve fine detail; `scale` is the bandwidth, in cycles per unit of the
    input (no factor of 1000 here). Works on a time (B,) or on vectors (B, D).

    Args:
        dim: the number of features, even.
        scale: the standard deviation of the frequencies. Score SDE's code uses 16 on log σ.
        inputs: D.

    Raises:
        ValueError: dim is odd.
    """

    frequencies: Tensor  # (inputs, dim/2)

    def __init__(self, dim: int, scale: float = 16.0, inputs: int = 1):
        super().__init__()
        half = _even(dim, "a Fourier embedding")
        self.register_buffer("frequencies", 2 * math.pi * scale * torch.randn(inputs, half))  # saved: it is random

    def forward(self, x: Tensor) -> Tensor:
        angles = x.reshape(len(x), -1) @ self.frequencies  # (B, dim/2)
        return torch.cat([angles.sin(), angles.cos()], 1)


class LabelEmbedding(Labelled, nn.Embedding):
    """A vector for each of `classes` labels, and one more, at index `classes`, for the null class.

    y None means the null class for the whole batch: "unconditional" in classifier-free guidance (arXiv:2207.12598),
    where labels are dropped in training so that the null vector learns to stand for all classes at once.

    Args:
        classes: the number of labels.
        dim: the length of a label's vector.
        drop: in training mode each label becomes the null class with this probability, independently.

    Shapes: h (B, dim) or (B, dim, H, W), y (B,) int64 with entries 0..classes, or None -> like h, the vector added.
    The null class is for `networks.guided` and its like: models refuse it among a user's labels.

    Raises:
        ValueError: classes < 1, or drop outside [0, 1]; when called, y is not one label for each example.
    """

    def __init__(self, classes: int, dim: int, drop: float = 0.0):
        if classes < 1:
            raise ValueError(f"classes must be at least 1 (None for an unconditional network), got {classes}")
        if not 0 <= drop <= 1:
            raise ValueError(f"drop is a probability, got {drop}")
        super().__init__(classes + 1, dim)
        self.classes, self.drop = classes, drop

    @property
    def null(self) -> int:
        """The null class's index, which is the number of classes."""
        return self.num_embeddings - 1

    def forward(self, h: Tensor, y: Tensor | None) -> Tensor:
        if y is not None and y.shape != h.shape[:1]:
            raise ValueError(
                f"labels must be one for each example, ({len(h)},), got {tuple(y.shape)}: the two would broadcast"
            )
        if y is not None and self.training and self.drop > 0:
            y = torch.where(torch.rand(len(y), device=y.device) < self.drop, self.null, y)
        vector = self.weight[-1:] if y is None else super().forward(y)  # (1 or B, dim)
        return h + vector.reshape(vector.shape + (1,) * (h.ndim - 2))


class Words(nn.Embedding):
    """τ(y): a learned vector for each word of a caption, as the context of cross-attention (ldm-cross-attention).

    A caption is M words out of `words`, (B, M) int64; the index `words`, the blank, stands for a word that is not said.
    In training mode each word falls silent with probability `drop`, and a whole caption with `drop_all`. So the network
    learns to be told any part of a caption, or nothing, as classifier-free guidance needs.

    No positions: a caption is a set of words.

    Shapes: y (B, M) -> (B, M, dim).
    """

    def __init__(self, words: int, dim: int, drop: float = 0.0, drop_all: float = 0.0):
        super().__init__(words + 1, dim)
        self.blank, self.drop, self.drop_all = words, drop, drop_all

    def forward(self, y: Tensor) -> Tensor:
        if self.training:
            silent = torch.rand(y.shape, device=y.device) < self.drop
            silent |= torch.rand(len(y), 1, device=y.device) < self.drop_all
            y = y.masked_fill(silent, self.blank)
        return super().forward(y)


class NoLabels(nn.Module):
    """Stands where a label embedding would, in an unconditional network: returns h, and refuses labels.

    Raises:
        ValueError: labels are given.
    """

    def forward(self, h: Tensor, y: Tensor | None) -> Tensor:
        if y is not None:
            raise ValueError("this network knows no labels: build it with classes=..., or leave y out")
        return h


def label_embedding(classes: int | None, dim: int, drop: float = 0.0) -> nn.Module:
    """A `LabelEmbedding`, or `NoLabels` when classes is None. Both map (h, y) to h told y."""
    return NoLabels() if classes is None else LabelEmbedding(classes, dim, drop)


class Condition(nn.Module):
    """What the network is told besides x: c = W_2 SiLU(W_1 sinusoidal(t)) + label(y).

    Args:
        dim: the width of c.
        classes: the number of classes, or None.
        drop: the probability with which a label is dropped in training, for guidance.
        features: the number of sinusoidal features.

    Shapes: t (B,), y (B,) or None (the null class) -> (B, dim).
    """

    def __init__(self, dim: int, classes: int | None = None, drop: float = 0.0, features: int = 256):
        super().__init__()
        self.time = nn.Sequential(Sinusoidal(features), nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = label_embedding(classes, dim, drop)

    def forward(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.label(self.time(t), y)


def sincos_positions(height: int, width: int, dim: int) -> Tensor:
    """Fixed positions of a grid: the first half of the features tells the row, the second the column.

    For each coordinate u: [sin(u ω_k) | cos(u ω_k)], ω_k = 10000^{−k/(dim/4)}, k = 0..dim/4 − 1. (ViT, MAE and DiT use
    these, with the column first.) Returns (height·width, dim), row by row.

    Raises:
        ValueError: dim is not a multiple of 4.
    """
    quarter = _even(dim, "a 2-D position", multiple=4)
    frequencies = 10_000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)

    def encode(n: int) -> Tensor:  # (n, dim/2)
        angles = torch.arange(n, dtype=torch.float64)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)

    rows = encode(height)[:, None].expand(-1, width, -1)
    columns = encode(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], -1).reshape(height * width, dim).to(torch.get_default_dtype())


def rotary_angles(length: int, dim: int, like: Tensor, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """(cos, ∓sin) of the angles m ω_k, ω_k = base^{−2k/dim}, for positions m = 0..length − 1: (length, dim) each.

    arXiv:2104.09864. Both halves of the features turn by the same angles, and the sine's sign is that of
    the rotation matrix: − in the first half, + in the second. Device and dtype are those of `like`.

    Raises:
        ValueError: dim is odd.
    """
    half = _even(dim, "a rotary embedding")
    frequencies = base ** -(torch.arange(half, device=like.device, dtype=torch.float32) / half)
    angles = torch.arange(length, device=like.device, dtype=torch.float32)[:, None] * frequencies
    cos, sin = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
    return torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the plane (x_k, x_{k+D/2}) of the vector at position m by the angle m ω_k (rotary-relative).

    (x_k, x_{k+D/2}) becomes (x_k cos − x_{k+D/2} sin, x_{k+D/2} cos + x_k sin): x cos, and its halves exchanged times
    ∓sin. Rotations compose, so ⟨rotate(q)_m, rotate(k)_n⟩ depends on the positions through m − n alone. The planes pair
    the first half with the second (GPT-NeoX, LLaMA); the paper pairs neighbours, which is the same up to a permutation
    of the features. Shapes: x (..., L, D), angles (L, D) each, from `rotary_angles` -> (..., L, D).
    """
    cos, sin = angles
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin  # as whole rows: a fifth faster than half by half
