"""NICE: Non-linear Independent Components Estimation. Dinh, Krueger, Bengio, ICLR 2015 workshop, arXiv:1410.8516.
Density estimation using Real NVP. Dinh, Sohl-Dickstein, Bengio, ICLR 2017, arXiv:1605.08803.

f maps data x to noise z, as in the papers, and log p(x) = log p(z) + log|det ∂f/∂x|. The letters are RealNVP's: b is
a mask, 1 where a coordinate passes unchanged, s the log-scale, t the translation: z = x e^s + t. (The authors' code
computes (x + t) e^s: the same determinant, another inverse.) Images are integers 0..255; "bits/dim" is the
*negative* log-likelihood of a dequantised image, an upper bound for the integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gmbook.core.flows.base import Bijection, Compose
from gmbook.core.flows.couplings import AdditiveCoupling, AffineCoupling, channel_mask, parity_mask
from gmbook.core.flows.density import Flow, StandardLogistic
from gmbook.core.flows.linear import FlowBatchNorm, Scale
from gmbook.core.flows.multiscale import Multiscale, Squeeze
from gmbook.core.flows.pixels import Logit

MakeNet = Callable[[int, int], nn.Module]  # (channels in, channels out) -> a network on the event's axes


class NICE(Flow):
    """Additive couplings that split odd from even coordinates, then one scaling. arXiv:1410.8516.

    The couplings keep volume, log|det| = 0 (nice-coupling); only z = exp(s) ⊙ h at the end changes it
    (nice-scaling). The prior is logistic (nice-logistic).

    Args:
        dim: D; the event shape is (D,).
        make_net: makes m of a coupling, (B, D) -> (B, D).
        couplings: four in the paper; below three some output ignores some input.
    """

    def __init__(self, dim: int, make_net: MakeNet, couplings: int = 4):
        shape = (dim,)
        masks = [parity_mask(shape, flip=i % 2 == 1) for i in range(couplings)]
        layers = [AdditiveCoupling(make_net(dim, dim), mask) for mask in masks]
        super().__init__(Compose(*layers, Scale(shape)), shape, base=StandardLogistic(shape))


class ScaledTanh(nn.Module):
    """s = c ⊙ tanh(h), with a learned scale c per channel (a single number in the authors' code).

    arXiv:1605.08803, Section 4.1.

    Without a bound on s one large output overflows e^s, and the inverse with it.
    """

    def __init__(self, channels: int, axes: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, *(1,) * axes))

    def forward(self, h: Tensor) -> Tensor:
        return self.scale * torch.tanh(h)


def couplings(
    shape: tuple[int, ...], make_net: MakeNet, masks: list[Tensor], batch_norm: bool = False
) -> list[Bijection]:
    """One affine coupling per mask (realnvp-coupling), each followed by batch normalisation if wanted."""
    channels, axes = shape[0], len(shape) - 1
    layers: list[Bijection] = []
    for mask in masks:
        layers.append(AffineCoupling(make_net(channels, 2 * channels), mask, ScaledTanh(channels, axes)))
        if batch_norm:
            layers.append(FlowBatchNorm(channels))
    return layers


def alternating(mask: Callable[..., Tensor], shape: tuple[int, ...], n: int) -> list[Tensor]:
    """n masks, every second one flipped, so that what stayed moves next (Section 3.5)."""
    return [mask(shape, flip=i % 2 == 1) for i in range(n)]


def multiscale(
    shape: tuple[int, ...], make_net: MakeNet, scales: int, per_mask: int = 3, last: int = 4, batch_norm: bool = True
) -> Bijection:
    """The architecture of Section 3.6, by recursion over the scales (realnvp-multiscale).

    One scale: `per_mask` checkerboard couplings, squeeze to (4C, H/2, W/2), `per_mask` channel couplings; then half
    of the channels are finished and the other half, (2C, H/2, W/2), goes to the next scale. The last scale is `last`
    checkerboard couplings and finishes everything. The squeezes are undone at the end: z has the shape of x.
    Channels are finished in the order of `Squeeze`, colour by colour; the authors' code orders them by place.

    Args:
        shape: (C, H, W), with H and W divisible by 2^(scales − 1).
        scales: L; the paper's CIFAR-10 model has two (one downscaling).
    """
    if scales == 1:
        return Compose(*couplings(shape, make_net, alternating(parity_mask, shape, last), batch_norm))
    channels, height, width = shape
    squeezed = (4 * channels, height // 2, width // 2)
    deeper = (2 * channels, height // 2, width // 2)
    return Compose(
        *couplings(shape, make_net, alternating(parity_mask, shape, per_mask), batch_norm),
        Squeeze(),
        *couplings(squeezed, make_net, alternating(channel_mask, squeezed, per_mask), batch_norm),
        Multiscale(multiscale(deeper, make_net, scales - 1, per_mask, last, batch_norm)),
        Squeeze(undo=True),
    )


class RealNVP(Flow):
    """A stack of affine couplings. Build it with `on_vectors` or `on_images`.

    `loss` is the mean negative log-likelihood in nats, `log_prob` exact for the continuous x (change-of-variables),
    `bits_per_dim` an upper bound for integer images.
    """

    @classmethod
    def on_vectors(cls, dim: int, make_net: MakeNet, layers: int = 8, batch_norm: bool = False) -> RealNVP:
        """Couplings on (D,) whose masks alternate between odd and even coordinates.

        Args:
            make_net: makes (s, t) of a coupling, (B, D) -> (B, 2D).
        """
        shape = (dim,)
        stack = couplings(shape, make_net, alternating(parity_mask, shape, layers), batch_norm)
        return cls(Compose(*stack), shape)

    @classmethod
    def on_images(
        cls,
        shape: tuple[int, ...],
        make_net: MakeNet,
        scales: int = 2,
        alpha: float = 0.05,
        levels: int = 256,
        **layers: Any,
    ) -> RealNVP:
        """The multi-scale flow on integer images (C, H, W): dequantise, logit (realnvp-logit), then the scales.

        Args:
            make_net: makes (s, t) of a coupling, (B, C, H, W) -> (B, 2C, H, W), for every C and size that occur.
            alpha: the logit's α; state it with every bits/dim.
            levels: the integers are 0..levels − 1.
            layers: per_mask, last, batch_norm, as of `multiscale`.

        Raises:
            ValueError: the height or width cannot be halved `scales − 1` times, or less than two pixels are left.
        """
        if any(size % 2 ** (scales - 1) or size < 2**scales for size in shape[1:]):
            raise ValueError(
                f"{scales} scales need a height and width that can be halved {scales - 1} times and keep two pixels, "
                f"got {shape}: use fewer scales, or pad"
            )
        flow = multiscale(shape, make_net, scales, **layers)
        return cls(Compose(Logit(alpha), flow), shape, levels=levels)
