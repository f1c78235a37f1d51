"""Glow: Generative Flow with Invertible 1×1 Convolutions. Kingma, Dhariwal, NeurIPS 2018, arXiv:1807.03039.

A step of flow is actnorm, an invertible 1×1 convolution, and a coupling (Table 1); K steps make a level, and L levels
a model (Figure 2b). The letters are the paper's, but for z: its z_i, the halves that are split off, are standardised
here, so that the noise is N(0, I) and its learned priors are layers of the flow. The paper's L is `scales`, for
`levels` are an image's grey levels. On vectors the same steps are a plain flow with learned rotations.
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
from gmbook.core.flows.linear import ActNorm, InvertibleLinear, PLULinear
from gmbook.core.flows.multiscale import Multiscale, Squeeze
from gmbook.core.flows.pixels import Shift
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


def step(shape: tuple[int, ...], width: int, plu: bool, additive: bool) -> Bijection:
    """One step of flow, Table 1: actnorm (glow-actnorm), 1×1 convolution (glow-convolution, glow-plu), coupling."""
    channels, kept = shape[0], (shape[0] + 1) // 2
    coupling = SplitCoupling(CouplingNet(kept, channels - kept, width, len(shape) - 1, additive), kept)
    return Compose(ActNorm(channels), PLULinear(channels) if plu else InvertibleLinear(channels), coupling)


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


class Glow(Flow):
    """Build it with `on_images` or `on_vectors`. `loss`, `log_prob`, `bits_per_dim` are those of every flow.

    The first batch in training mode initialises every actnorm; `initialise` does it before an optimiser, an average
    of the weights, or other processes see the model.
    """

    @classmethod
    def on_images(
        cls,
        shape: tuple[int, ...],
        scales: int = 3,
        steps: int = 32,
        width: int = 512,
        plu: bool = True,
        additive: bool = False,
        bits: int = 8,
    ) -> Glow:
        """Glow on integer images (C, H, W) in 0..255; the defaults are the paper's for CIFAR-10.

        Args:
            scales: the paper's L, levels of the multi-scale architecture.
            steps: the paper's K, steps of flow per level.
            width: hidden channels of the coupling networks.
            plu: 1×1 convolutions as P L (U + diag s) instead of a full matrix.
            additive: additive couplings (the paper's 256×256 faces) instead of affine ones.
            bits: n; the images are reduced to 2^n grey levels (5 for the faces).

        Raises:
            ValueError: the height or width cannot be halved L times, or bits lies outside 1..8.
        """
        if any(size % 2**scales for size in shape[1:]):
            raise ValueError(f"{scales} scales need a height and width divisible by {2**scales}, got {shape}: pad")
        if not 1 <= bits <= 8:
            raise ValueError(f"bits must lie in 1..8, got {bits}")
        flow = multiscale(shape, scales, steps, lambda s: step(s, width, plu, additive))
        return cls(Compose(Shift(0.5), flow), shape, levels=2**bits)

    @classmethod
    def on_vectors(cls, dim: int, steps: int = 8, width: int = 64, plu: bool = True, additive: bool = False) -> Glow:
        """K steps of flow on (D,) and a last actnorm: couplings with learned rotations between them."""
        flow = [step((dim,), width, plu, additive) for _ in range(steps)]
        return cls(Compose(*flow, ActNorm(dim)), (dim,))

    def prepare(self, k: Tensor) -> Tensor:
        """Integers 0..255 (B, *S) to n bits, ⌊k/2^{8−n}⌋, then to [0, 1) with fresh noise: bits/dim is of n bits."""
        if k.is_floating_point():
            return super().prepare(k)  # which says what is wrong
        return super().prepare(torch.div(k, 256 // (self.levels or 256), rounding_mode="floor"))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Glow:
        """Initialise every actnorm on a batch, as `loss` takes it (B, *S) (glow-actnorm). Returns the model."""
        self.train().loss(x)
        return self

    @sampling
    def sample(self, n: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """x = f⁻¹(Tε), (n, *S): all noise has the standard deviation T (glow-temperature). Labels play no part.

        With additive couplings this draws exactly from p(x)^{1/T²}, normalised, for the log-determinant is constant.
        (The paper prints p(x)^{T²}.) With affine couplings it does not.
        """
        check_count("n", n)
        return self.bijection.inverse(temperature * self.base.sample(n))
