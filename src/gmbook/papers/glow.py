"""Glow: Generative Flow with Invertible 1×1 Convolutions. Kingma, Dhariwal, NeurIPS 2018, arXiv:1807.03039.

A step of flow is actnorm, an invertible 1×1 convolution, and a coupling (Table 1); K steps make a level, and L levels
a model (Figure 2b). The letters are the paper's, but for z: its z_i, the halves that are split off, are standardised
here, so that the noise is N(0, I) and its learned priors are layers of the flow. The paper's L is `scales`, for
`levels` are an image's grey levels. On vectors the same steps are a plain flow with learned rotations.

The authors' code differs from the paper, and this file from both: its 1×1 convolution is the full matrix by default,
ours P L (U + diag s); its 3×3 convolutions pad with an extra channel that is 1 on the border, ours with zeros; it
stores a third of each log-scale of an actnorm, which only changes how fast that is learned.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.core.checks import check_count
from gmbook.core.flows.base import Bijection, Compose
from gmbook.core.flows.couplings import SplitCoupling
from gmbook.core.flows.density import Flow
from gmbook.core.flows.linear import ActNorm, InvertibleLinear, Permute, PLULinear
from gmbook.core.flows.multiscale import Multiscale, Squeeze
from gmbook.core.flows.pixels import Shift
from gmbook.core.gaussians import log_normal
from gmbook.core.law import Density
from gmbook.core.model import sampling
from gmbook.networks.blocks import zero


def layer(channels: int, out: int, axes: int, kernel: int) -> nn.Linear | nn.Conv2d:
    """A convolution on images (axes 2), a linear map on vectors (axes 0)."""
    return nn.Linear(channels, out) if axes == 0 else nn.Conv2d(channels, out, kernel, padding=kernel // 2)


def scaled(map: nn.Linear | nn.Conv2d, x: Tensor, gain: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """gain ⊙ map(x) + shift per channel, (out,) each, multiplied into the layer's weights, of which there are fewer."""
    weight = gain.reshape(-1, *(1,) * (map.weight.ndim - 1)) * map.weight
    assert map.bias is not None  # `layer` gives one
    bias = gain * map.bias + shift
    return F.linear(x, weight, bias) if x.ndim == 2 else F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


class ZeroLayer(nn.Module):
    """A 3×3 convolution that starts at zero, with a learned gain e^{3l} per channel (Section 3.3, and the code)."""

    def __init__(self, channels: int, out: int, axes: int):
        super().__init__()
        self.map = zero(layer(channels, out, axes, 3))
        self.log_gain = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        return scaled(self.map, x, (3 * self.log_gain).exp())


class _Normalised(nn.Module):
    """A layer, actnorm and ReLU, as the networks of the paper's code have it; the log-determinant is not needed."""

    def __init__(self, channels: int, out: int, axes: int, kernel: int):
        super().__init__()
        self.map, self.actnorm = layer(channels, out, axes, kernel), ActNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.actnorm.initialised:
            self.actnorm(self.map(x))  # looks at the data
        return scaled(self.map, x, self.actnorm.log_scale.exp(), self.actnorm.bias).relu()


class CouplingNet(nn.Module):
    """NN of Table 1: 3×3, 1×1, 3×3 convolutions from the channels that stay to (s, t) for those that move.

    s = log σ(h + 2), the scale of the paper's code. At h = 0 it is 0.881, not 1: a new coupling shrinks.

    Args:
        kept, moved: the channels of x_1, which it reads, and of x_2.
        width: hidden channels, 512 in the paper.
        axes: 2 for images, 0 for vectors.
        additive: no scale, s = 0.
    """

    def __init__(self, kept: int, moved: int, width: int, axes: int, additive: bool = False):
        super().__init__()
        self.additive = additive
        self.net = nn.Sequential(
            _Normalised(kept, width, axes, 3),
            _Normalised(width, width, axes, 1),
            ZeroLayer(width, moved if additive else 2 * moved, axes),
        )

    def forward(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        if self.additive:
            t = self.net(x1)
            return torch.zeros_like(t), t
        h, t = self.net(x1).chunk(2, 1)
        return F.logsigmoid(h + 2), t


# ---------------------------------------------------------------------------------------- what mixes the channels

Mixing = Callable[[int], Bijection]  # channels -> a layer; the paper compares the first two with the others, Figure 3


def reverse(channels: int) -> Permute:
    """The channels in reversed order, RealNVP's (glow-permutation)."""
    return Permute(torch.arange(channels - 1, -1, -1))


def shuffle(channels: int) -> Permute:
    """The channels in a random order, drawn once (glow-permutation)."""
    return Permute(torch.randperm(channels))


full: Mixing = InvertibleLinear  # W itself (glow-convolution)
plu: Mixing = PLULinear  # P L (U + diag s) (glow-plu)


def step(shape: tuple[int, ...], width: int, mixing: Mixing, additive: bool) -> Bijection:
    """One step of flow, Table 1: actnorm (glow-actnorm), 1×1 convolution (glow-convolution, glow-plu), coupling."""
    channels, kept = shape[0], (shape[0] + 1) // 2
    coupling = SplitCoupling(CouplingNet(kept, channels - kept, width, len(shape) - 1, additive), kept)
    return Compose(ActNorm(channels), mixing(channels), coupling)


# -------------------------------------------------------------------------------------------------- several levels


def multiscale(shape: tuple[int, ...], scales: int, steps: int, make_step: Callable[..., Bijection]) -> Bijection:
    """Squeeze, K steps of flow, split; then the same on the half that goes on: Figure 2b, by recursion.

    The prior of the half that is split off is learned, N(μ(h), σ(h)²) given the half h that goes on
    (glow-split-prior). What remains at the top has a learned Gaussian per channel, which is one more actnorm.
    """
    channels, height, width = shape
    squeezed = (4 * channels, height // 2, width // 2)
    flow = [make_step(squeezed) for _ in range(steps)]
    if scales == 1:
        return Compose(Squeeze(), *flow, ActNorm(4 * channels), Squeeze(undo=True))
    deeper = multiscale((2 * channels, height // 2, width // 2), scales - 1, steps, make_step)
    split = Multiscale(deeper, prior=ZeroLayer(2 * channels, 4 * channels, 2))
    return Compose(Squeeze(), *flow, split, Squeeze(undo=True))


def placed(shape: tuple[int, ...], scales: int, value: Callable[[int, tuple[int, ...]], Tensor], at: int = 1) -> Tensor:
    """What a function (level, shape of its part) -> values says of each part of z, at its place in z: (C, H, W)."""
    channels, height, width = shape
    if scales == 1:
        whole = value(at, (4 * channels, height // 2, width // 2))
    else:
        half = (2 * channels, height // 2, width // 2)
        whole = torch.cat([placed(half, scales - 1, value, at + 1), value(at, half)])
    return Squeeze(undo=True)(whole[None])[0][0]


def level_map(shape: tuple[int, ...], scales: int) -> Tensor:
    """Which level finishes each coordinate of z, (C, H, W) int64: 1 … L, of which L is the top, sampled first."""
    return placed(shape, scales, lambda level, part: torch.full(part, level))


def top_channel(shape: tuple[int, ...], scales: int) -> Tensor:
    """The channel of the top, from 1, that each coordinate of z belongs to; 0 for those that are finished earlier."""

    def number(level: int, part: tuple[int, ...]) -> Tensor:
        return torch.arange(1, part[0] + 1).reshape(-1, 1, 1).expand(part) * (level == scales)

    return placed(shape, scales, number)


class LabelledTop(nn.Module):
    """p(z | y): N(μ_c(y), σ_c(y)²) for the top's channel c, N(0, 1) for the rest (glow-label-prior).

    The paper's class-conditional models (Section 5) and their code's `ycond`. It starts at N(0, 1) for every label.

    Args:
        top: the channel of the top of each coordinate, from 1; 0 for those below the top.
        classes: the number of labels.
    """

    top: Tensor

    def __init__(self, top: Tensor, classes: int):
        super().__init__()
        self.register_buffer("top", top, persistent=False)
        self.mean, self.log_std = (nn.Parameter(torch.zeros(classes, int(top.max()))) for _ in range(2))

    def law(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and standard deviation of every coordinate: (B,) -> two of (B, *S)."""
        mean, log_std = (F.pad(table[y], (1, 0))[:, self.top] for table in (self.mean, self.log_std))
        return mean, log_std.exp()


class Glow(Flow):
    """Build it with `on_images` or `on_vectors`. `loss`, `log_prob`, `bits_per_dim` are those of every flow.

    The first batch in training mode initialises every actnorm; `initialise` does it before an optimiser, an average
    of the weights, or other processes see the model.

    Args:
        of_level: which level finishes each coordinate of z (see `level_map`), (*S).
        labelled: the law of z given a label; None where labels play no part.
        bijection, shape, base, levels: as of `Flow`.
    """

    of_level: Tensor

    def __init__(
        self,
        bijection: Bijection,
        shape: tuple[int, ...],
        base: Density | None = None,
        levels: int | None = None,
        of_level: Tensor | None = None,
        labelled: LabelledTop | None = None,
    ):
        super().__init__(bijection, shape, base, levels)
        self.labelled = labelled
        ones = torch.ones(shape, dtype=torch.int64)
        self.register_buffer("of_level", ones if of_level is None else of_level, persistent=False)

    @classmethod
    def on_images(
        cls,
        shape: tuple[int, ...],
        scales: int = 3,
        steps: int = 32,
        width: int = 512,
        mixing: Mixing = plu,
        additive: bool = False,
        bits: int = 8,
        classes: int | None = None,
    ) -> Glow:
        """Glow on integer images (C, H, W) in 0..255; the defaults are the paper's for CIFAR-10.

        Args:
            scales: the paper's L, levels of the multi-scale architecture.
            steps: the paper's K, steps of flow per level.
            width: hidden channels of the coupling networks.
            mixing: what comes between couplings: `plu` or `full`, a learned 1×1 convolution; `reverse` or `shuffle`.
            additive: additive couplings (the paper's 256×256 faces) instead of affine ones.
            bits: n; the images are reduced to 2^n grey levels (5 for the faces).
            classes: the number of labels, for a prior of the top given the label. None: labels play no part.

        Raises:
            ValueError: the height or width cannot be halved L times, or bits lies outside 1..8.
        """
        if any(size % 2**scales for size in shape[1:]):
            raise ValueError(f"{scales} scales need a height and width divisible by {2**scales}, got {shape}: pad")
        if not 1 <= bits <= 8:
            raise ValueError(f"bits must lie in 1..8, got {bits}")
        flow = multiscale(shape, scales, steps, lambda s: step(s, width, mixing, additive))
        labelled = None if classes is None else LabelledTop(top_channel(shape, scales), classes)
        of_level = level_map(shape, scales)
        return cls(Compose(Shift(0.5), flow), shape, levels=2**bits, of_level=of_level, labelled=labelled)

    @classmethod
    def on_vectors(
        cls,
        dim: int,
        steps: int = 8,
        width: int = 64,
        mixing: Mixing = plu,
        additive: bool = False,
        classes: int | None = None,
    ) -> Glow:
        """K steps of flow on (D,) and a last actnorm: couplings with learned rotations between them."""
        flow = [step((dim,), width, mixing, additive) for _ in range(steps)]
        labelled = None if classes is None else LabelledTop(torch.arange(1, dim + 1), classes)
        return cls(Compose(*flow, ActNorm(dim)), (dim,), labelled=labelled)

    def _law(self, y: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
        """The mean and standard deviation of z given the labels."""
        if self.labelled is None:
            return 0.0, 1.0
        if y is None:
            raise ValueError("this Glow was built with classes: give one label for each point, y (B,)")
        return self.labelled.law(y)

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x), nats: (B, *S) -> (B,); with classes log p(x | y), y (B,) (glow-label-prior).

        Raises:
            ValueError: the flow was built with classes, and there are no labels.
        """
        if self.labelled is None:
            return super().log_prob(x)
        self.check(x)
        z, log_det = self.bijection(x)
        return log_normal(z, *self._law(y)) + log_det

    def encode(self, x: Tensor) -> Tensor:
        """z = f(x): (B, *S) -> (B, *S); images in [0, 1)."""
        self.check(x)
        return self.bijection(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """x = f⁻¹(z): (B, *S) -> (B, *S)."""
        return self.bijection.inverse(z)

    def attribute(self, x: Tensor, has: Tensor) -> Tensor:
        """The mean of z where the attribute is there less that where it is not: (B, *S), (B,) bool -> (*S).

        Section 6 (glow-attribute): `decode(encode(x) + a * direction)` moves a picture along it.

        Raises:
            ValueError: all have it, or none.
        """
        if bool(has.all()) or not bool(has.any()):
            raise ValueError("an attribute needs examples that have it and examples that do not")
        z = self.encode(x)
        return z[has].mean(0) - z[~has].mean(0)

    def interpolate(self, a: Tensor, b: Tensor, n: int) -> Tensor:
        """n pictures from a to b, (*S) each, along the segment of their codes (glow-interpolation): (n, *S)."""
        za, zb = self.encode(torch.stack([a, b]))
        share = torch.linspace(0, 1, n, dtype=za.dtype, device=za.device).reshape(-1, *[1] * a.ndim)
        return self.decode((1 - share) * za + share * zb)

    def prepare(self, k: Tensor) -> Tensor:
        """Integers 0..255 (B, *S) to n bits, ⌊k/2^{8−n}⌋, then to [0, 1) with fresh noise: bits/dim is of n bits."""
        if k.is_floating_point():
            return super().prepare(k)  # which says what is wrong
        return super().prepare(torch.div(k, 256 // (self.levels or 256), rounding_mode="floor"))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Glow:
        """Initialise every actnorm on a batch, as `loss` takes it (B, *S) (glow-actnorm). Returns the model."""
        self.train().bijection(x if self.levels is None else self.prepare(x))
        return self

    @sampling
    def sample(self, n: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """x = f⁻¹(Tε), (n, *S): all noise has the standard deviation T (glow-temperature).

        With classes x = f⁻¹(μ + Tσε), of the labels y (n,).

        With additive couplings this draws exactly from p(x)^{1/T²}, normalised, for the log-determinant is constant.
        (The paper prints p(x)^{T²}.) With affine couplings it does not.

        Raises:
            ValueError: the flow was built with classes, and there are no labels.
        """
        check_count("n", n)
        mean, std = self._law(y)
        return self.bijection.inverse(mean + std * temperature * self.base.sample(n))
