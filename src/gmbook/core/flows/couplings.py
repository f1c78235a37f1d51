"""Couplings: some coordinates pass unchanged and say how the others move. Their Jacobians are triangular."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_output
from gmbook.core.flows.base import Bijection


def parity_mask(shape: tuple[int, ...], flip: bool = False) -> Tensor:
    """1 where the sum of the spatial coordinates is odd: (1, H, W) for images, a checkerboard.

    arXiv:1605.08803, Figure 3. For a vector, (D,), the coordinate's own index takes that part: NICE's split into
    odd and even.
    """
    spatial = shape[1:] or shape
    coordinates = torch.meshgrid(*(torch.arange(n) for n in spatial), indexing="ij")
    odd = torch.stack(coordinates).sum(0) % 2
    mask = 1 - odd if flip else odd
    return mask.reshape(1, *spatial) if len(shape) > 1 else mask


def channel_mask(shape: tuple[int, ...], flip: bool = False) -> Tensor:
    """1 on the first half of the channels, the larger half if C is odd: (C, 1, …, 1).

    arXiv:1605.08803, Section 3.4.
    """
    channels = shape[0]
    first = (torch.arange(channels) < (channels + 1) // 2).long()
    return (1 - first if flip else first).reshape(-1, *(1,) * (len(shape) - 1))


class AdditiveCoupling(Bijection):
    """z = x + (1 − b) ⊙ m(b ⊙ x), with log-determinant 0. NICE, arXiv:1410.8516 (nice-coupling).

    Args:
        net: m, any network (B, C, …) -> (B, C, …). It is never inverted.
        mask: b, 1 where a coordinate passes unchanged, 0 where it moves; broadcasts over the event shape.
    """

    mask: Tensor

    def __init__(self, net: nn.Module, mask: Tensor):
        super().__init__()
        self.net = net
        self.register_buffer("mask", _checked(mask))

    def _shift(self, x: Tensor) -> Tensor:
        return (1 - self.mask) * check_output(self.net(self.mask * x), x.shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + self._shift(x), x.new_zeros(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z - self._shift(z)  # b ⊙ z = b ⊙ x: the network sees the same input in both directions


class AffineCoupling(Bijection):
    """z = b ⊙ x + (1 − b) ⊙ (x ⊙ exp s(b ⊙ x) + t(b ⊙ x)). arXiv:1605.08803, Eq. 9 (realnvp-coupling).

    The Jacobian is triangular, so log|det dz/dx| = Σ (1 − b) ⊙ s(b ⊙ x), over the coordinates that move
    (realnvp-coupling-log-det). The inverse, x = b ⊙ z + (1 − b) ⊙ (z − t(b ⊙ z)) ⊙ exp(−s(b ⊙ z)), evaluates s and t
    and never inverts them (realnvp-inverse). It is the exact flow, over a time 1, of the field s ⊙ x + τ on the
    coordinates that move, with τ = s t/(e^s − 1) (realnvp-ode).

    Args:
        net: any network (B, C, …) -> (B, 2C, …) whose output is (s before its bound, t), never inverted.
        mask: b, 1 where a coordinate passes unchanged, 0 where it moves; broadcasts over the event shape.
        bound: maps the first half of the output to s. It must keep s from growing, or exp s overflows.
    """

    mask: Tensor

    def __init__(self, net: nn.Module, mask: Tensor, bound: Callable[[Tensor], Tensor] = torch.tanh):
        super().__init__()
        self.net, self.bound = net, bound
        self.register_buffer("mask", _checked(mask))

    def _scale_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        both = check_output(self.net(self.mask * x), (len(x), 2 * x.shape[1], *x.shape[2:]))
        s, t = both.chunk(2, 1)
        moves = 1 - self.mask
        return moves * self.bound(s), moves * t

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self._scale_shift(x)
        return x * s.exp() + t, s.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        s, t = self._scale_shift(z)
        return (z - t) * (-s).exp()


class SplitCoupling(Bijection):
    """z = (x_1, x_2 ⊙ exp s(x_1) + t(x_1)) on the first channels and the rest: arXiv:1605.08803, Eqs. 4–5
    (realnvp-coupling).

    It is `AffineCoupling` with `channel_mask`, but its network reads and moves half of the channels: nothing is
    computed to be masked. log|det dz/dx| = Σ s(x_1) (realnvp-coupling-log-det).

    Args:
        net: x_1 (B, kept, …) -> (s, t), each like x_2, (B, C − kept, …). It is never inverted.
        kept: the number of channels that pass unchanged.
    """

    def __init__(self, net: Callable[[Tensor], tuple[Tensor, Tensor]], kept: int):
        super().__init__()
        self.net, self.kept = net, kept

    def _scale_shift(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.net(x1)
        return check_output(s, x2.shape), check_output(t, x2.shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1, x2 = x[:, : self.kept], x[:, self.kept :]
        s, t = self._scale_shift(x1, x2)
        return torch.cat([x1, x2 * s.exp() + t], 1), s.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        z1, z2 = z[:, : self.kept], z[:, self.kept :]
        s, t = self._scale_shift(z1, z2)
        return torch.cat([z1, (z2 - t) * (-s).exp()], 1)


def _checked(mask: Tensor) -> Tensor:
    if not bool(((mask == 0) | (mask == 1)).all()) or bool((mask == mask.flatten()[0]).all()):
        raise ValueError("a coupling's mask must hold both 0 (moves) and 1 (stays), and nothing else")
    return mask.to(torch.get_default_dtype())
