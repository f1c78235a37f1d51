"""Invertible layers with log-determinants, and the flow that makes a law of them.

A bijection maps data x to noise z and knows log|det dz/dx|, (B,), in nats. All layers work on vectors (B, C)
and on images (B, C, H, W) alike: axis 1 is the channel axis, everything after it is a "pixel". Every layer
keeps the number of coordinates, so a whole multi-scale flow is again one bijection, and z can always be drawn
in the shape of x.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.core.gaussians import log_normal
from gmbook.core.model import Model, check_event


class Bijection(nn.Module, ABC):
    """An invertible map of data to noise: forward(x) -> (z, log|det dz/dx|), inverse(z) -> x."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z and log|det dz/dx|, nats: (B, *S) -> (B, *S'), (B,)."""

    @abstractmethod
    def inverse(self, z: Tensor) -> Tensor:
        """x: (B, *S') -> (B, *S)."""


class Compose(Bijection):
    """z = f_K(… f_1(x)): the log-determinants add (realnvp-composition)."""

    def __init__(self, *layers: Bijection):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for layer in self.layers:
            x, term = layer(x)
            log_det = log_det + term
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            z = layer.inverse(z)
        return z


# -------------------------------------------------------------------------------------------------- couplings


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
        return (1 - self.mask) * self.net(self.mask * x)

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
        s, t = self.net(self.mask * x).chunk(2, 1)
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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1, x2 = x[:, : self.kept], x[:, self.kept :]
        s, t = self.net(x1)
        return torch.cat([x1, x2 * s.exp() + t], 1), s.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        z1, z2 = z[:, : self.kept], z[:, self.kept :]
        s, t = self.net(z1)
        return torch.cat([z1, (z2 - t) * (-s).exp()], 1)


def _checked(mask: Tensor) -> Tensor:
    if not bool(((mask == 0) | (mask == 1)).all()) or bool((mask == mask.flatten()[0]).all()):
        raise ValueError("a coupling's mask must hold both 0 (moves) and 1 (stays), and nothing else")
    return mask.to(torch.get_default_dtype())


# ------------------------------------------------------------------------------------- per-channel and linear


def _pixels(x: Tensor) -> int:
    """How often each channel's parameters act: 1 for (B, C), H·W for (B, C, H, W)."""
    return math.prod(x.shape[2:])


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(-1, *(1,) * (x.ndim - 2))  # (C,) -> (C, 1, 1)


class Scale(Bijection):
    """z = x ⊙ exp s, one s for every coordinate.

    NICE's last layer, arXiv:1410.8516 (nice-scaling).

    Args:
        shape: the event shape S; log|det| = Σ s.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z * (-self.log_scale).exp()


class ActNorm(Bijection):
    """z = s ⊙ x + b per channel, log|det| = h·w·Σ log|s|. arXiv:1807.03039, Section 3.1 (glow-actnorm).

    The first batch that is seen in training mode sets s and b so that each channel of z has mean 0 and
    variance 1 there; from then on they are ordinary parameters. Before that the layer is the identity. A
    buffer remembers that it happened, so that a loaded model is not initialised again. Initialise before
    copies are made of the model (averaged weights, several processes), or the copies will differ.

    Args:
        channels: C.

    Raises:
        ValueError: the first batch holds a single value per channel, which has no variance.
    """

    initialised: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialised", torch.tensor(False))

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        values = x.transpose(0, 1).flatten(1)  # (C, B·H·W)
        if values.shape[1] < 2:
            raise ValueError("ActNorm's first batch needs at least two values per channel: use a larger batch")
        std, mean = torch.std_mean(values, 1, correction=0)
        self.log_scale.copy_(-(std + 1e-6).log())
        self.bias.copy_(-mean * self.log_scale.exp())
        self.initialised.fill_(True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and not self.initialised:
            self._initialise(x)
        z = x * _per_channel(self.log_scale.exp(), x) + _per_channel(self.bias, x)
        return z, (_pixels(x) * self.log_scale.sum()).expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return (z - _per_channel(self.bias, z)) * _per_channel((-self.log_scale).exp(), z)


class FlowBatchNorm(Bijection):
    """z = (x − μ)/√(σ² + ε) per channel, log|det| = −½ h·w·Σ log(σ² + ε) (realnvp-batch-norm).

    arXiv:1605.08803, Section 3.7. In training mode μ and σ² are the batch's; then each z depends on the whole
    batch, and the log-determinant is the one with the statistics held fixed, as in the paper. In evaluation mode
    they are running averages, and the layer is exactly a bijection: the density is that of evaluation mode.
    `inverse` always uses the running averages, so sample in evaluation mode.

    Args:
        channels: C.
        momentum: the weight of a new batch in the running averages.
        eps: ε, so that a channel that is constant does no harm.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = self.mean, self.variance
        if self.training:
            variance, mean = torch.var_mean(x.transpose(0, 1).flatten(1), 1, correction=0)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance, self.momentum)
        variance = variance + self.eps
        z = (x - _per_channel(mean, x)) * _per_channel(variance.rsqrt(), x)
        return z, (-_pixels(x) * variance.log().sum() / 2).expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z * _per_channel((self.variance + self.eps).sqrt(), z) + _per_channel(self.mean, z)


def _multiply(matrix: Tensor, x: Tensor) -> Tensor:
    """The same matrix at every pixel: (C, C), (B, C, …) -> (B, C, …)."""
    return torch.einsum("ij,bj...->bi...", matrix, x)


class InvertibleLinear(Bijection):
    """z = W x at every pixel: Glow's invertible 1×1 convolution. arXiv:1807.03039, Section 3.2 (glow-convolution).

    log|det| = h·w·log|det W|. W starts as a random rotation, where that is 0. On vectors, (B, C), plainly a matrix.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(random_rotation(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.linalg.slogdet(self.weight.double())[1].to(x.dtype)  # float32 loses digits here
        return _multiply(self.weight, x), (_pixels(x) * log_det).expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return _multiply(torch.linalg.inv(self.weight.double()).to(z.dtype), z)


class PLULinear(Bijection):
    """z = P L (U + diag s) x at every pixel, log|det| = h·w·Σ log|s_i| (glow-plu).

    arXiv:1807.03039, Section 3.2. P is a fixed permutation, L is lower triangular with ones on its diagonal, U
    strictly upper triangular; the signs of s are fixed and log|s| is learned, so the map can never become
    singular. The determinant costs O(C), not O(C³).
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int):
        super().__init__()
        permutation, lower, upper = torch.linalg.lu(random_rotation(channels).double())
        s = upper.diagonal()
        dtype = torch.get_default_dtype()
        self.register_buffer("permutation", permutation.to(dtype))
        self.register_buffer("sign", s.sign().to(dtype))
        self.log_s = nn.Parameter(s.abs().log().to(dtype))
        self.lower = nn.Parameter(lower.tril(-1).to(dtype))
        self.upper = nn.Parameter(upper.triu(1).to(dtype))

    def _factors(self) -> tuple[Tensor, Tensor]:
        lower = self.lower.tril(-1) + torch.eye(len(self.log_s)).to(self.lower)
        return lower, self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())

    def weight(self) -> Tensor:
        """W = P L (U + diag s): (C, C)."""
        lower, upper = self._factors()
        return self.permutation @ lower @ upper

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _multiply(self.weight(), x), (_pixels(x) * self.log_s.sum()).expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        lower, upper = self._factors()
        rows = z.transpose(0, 1).flatten(1)  # (C, B·H·W)
        rows = torch.linalg.solve_triangular(lower, self.permutation.T @ rows, upper=False, unitriangular=True)
        rows = torch.linalg.solve_triangular(upper, rows, upper=True)
        return rows.reshape(z.shape[1], len(z), *z.shape[2:]).transpose(0, 1)


def random_rotation(channels: int) -> Tensor:
    """An orthogonal matrix, uniformly distributed (Haar): (C, C)."""
    q, r = torch.linalg.qr(torch.randn(channels, channels))
    return q * r.diagonal().sign()  # without the signs QR's convention would bias the draw


class Permute(Bijection):
    """z_i = x_{π(i)} on the channel axis, with log-determinant 0.

    Args:
        order: π, (C,) int64; `torch.arange(C - 1, -1, -1)` is NICE's and RealNVP's reversal.

    Raises:
        ValueError: `order` is not a permutation.
    """

    order: Tensor

    def __init__(self, order: Tensor):
        super().__init__()
        if not torch.equal(order.sort().values, torch.arange(len(order))):
            raise ValueError(f"order must be a permutation of 0..{len(order) - 1}, got {order.tolist()}")
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, self.order], x.new_zeros(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z[:, self.order.argsort()]


# ------------------------------------------------------------------------------------------------ multi-scale


class Squeeze(Bijection):
    """Space to channels, (B, C, H, W) -> (B, 4C, H/2, W/2), a permutation of the coordinates (realnvp-squeeze).

    arXiv:1605.08803, Section 3.6. Channel 4c + 2i + j of the result is pixel (i, j) of each 2×2 block of
    channel c.

    Args:
        undo: go the other way, channels to space.

    Raises:
        ValueError: the height or the width is odd (or, with undo, the channels are not a multiple of 4).
    """

    def __init__(self, undo: bool = False):
        super().__init__()
        self.undo = undo

    def _there(self, x: Tensor) -> Tensor:
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"Squeeze needs an even height and width, got {tuple(x.shape)}: pad the images")
        return F.pixel_unshuffle(x, 2)

    def _back(self, z: Tensor) -> Tensor:
        if z.shape[1] % 4:
            raise ValueError(f"undoing Squeeze needs a multiple of 4 channels, got {tuple(z.shape)}")
        return F.pixel_shuffle(z, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (self._back(x) if self.undo else self._there(x)), x.new_zeros(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return self._there(z) if self.undo else self._back(z)


class OnHalf(Bijection):
    """Multi-scale by recursion: the first half of the channels goes deeper, the second is done (realnvp-multiscale).

    arXiv:1605.08803, Eqs. 14–16. With a network as `prior` the finished half z_2 is Gaussian given the other,
    p(z_2 | h) = N(μ(h), σ(h)²), as in Glow (glow-split-prior). This is no new kind of density: it is the
    affine map ε = (z_2 − μ(h))/σ(h), whose log-determinant −Σ log σ(h) joins the sum, and ε is standard
    normal. So the base of a multi-scale flow is N(0, I) in all cases, and a temperature multiplies all of its
    noise.

    Args:
        inner: the bijection of the deeper half; it keeps the shape (a Squeeze in it is undone at its end).
        prior: a network h (B, C/2, …) -> (B, C, …) whose output is (μ, log σ); None means N(0, I).

    Raises:
        ValueError: the number of channels is odd.
    """

    def __init__(self, inner: Bijection, prior: nn.Module | None = None):
        super().__init__()
        self.inner, self.prior = inner, prior

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1] % 2:
            raise ValueError(f"OnHalf needs an even number of channels, got {tuple(x.shape)}: squeeze first")
        h, done = x.chunk(2, 1)
        z, log_det = self.inner(h)
        if self.prior is not None:
            mean, log_std = self.prior(h).chunk(2, 1)
            done = (done - mean) * (-log_std).exp()
            log_det = log_det - log_std.flatten(1).sum(1)
        return torch.cat([z, done], 1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        deeper, done = z.chunk(2, 1)
        h = self.inner.inverse(deeper)
        if self.prior is not None:
            mean, log_std = self.prior(h).chunk(2, 1)
            done = mean + done * log_std.exp()
        return torch.cat([h, done], 1)


# -------------------------------------------------------------------------------------------- discrete images


class Logit(Bijection):
    """y = logit(α + (1 − 2α)x) for x in [0, 1]: unbounded support for bounded pixels (realnvp-logit).

    log|dy/dx| = log(1 − 2α) + softplus(y) + softplus(−y), summed. arXiv:1605.08803, Section 4.1, prints α +
    (1 − α)x, which reaches 1 at white; the authors' code uses the symmetric form, as here. With a standard logistic
    base nothing depends on x: log₂ levels − log₂(1 − 2α) bits/dim for every image (realnvp-logistic-bits).

    Args:
        alpha: α in (0, ½), 0.05 in RealNVP. Bits/dim of MNIST mean nothing unless α is stated.
    """

    def __init__(self, alpha: float = 0.05):
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha must lie in (0, 1/2), got {alpha}")
        self.alpha = alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.logit(self.alpha + (1 - 2 * self.alpha) * x)
        log_slope = math.log1p(-2 * self.alpha) + F.softplus(y) + F.softplus(-y)
        return y, log_slope.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        return (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)


class Shift(Bijection):
    """z = x − c with a constant c: Glow centres pixels with c = ½."""

    def __init__(self, constant: float):
        super().__init__()
        self.constant = constant

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x - self.constant, x.new_zeros(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z + self.constant


def dequantise(k: Tensor, levels: int = 256) -> Tensor:
    """(k + u)/levels with u ~ U[0, 1): integers (B, *S) in 0..levels − 1 -> floats in [0, 1), default dtype.

    By Jensen E_u log p(k + u) ≤ log ∫ p(k + u) du = log P(k): the dequantised density bounds the likelihood
    of the integers from below, and the gap is KL(U[0, 1) ‖ p(u | k)) (realnvp-dequantisation).

    Raises:
        TypeError: k is not of an integer type.
        ValueError: some k lies outside 0..levels − 1.
    """
    if k.is_floating_point():
        raise TypeError(f"dequantisation needs integers in 0..{levels - 1}, got {k.dtype}: pass the raw pixels")
    low, high = int(k.min()), int(k.max())  # in Python's integers: 256 overflows uint8
    if low < 0 or high >= levels:
        raise ValueError(f"pixels must lie in 0..{levels - 1}, got values from {low} to {high}")
    u = torch.rand(k.shape, device=k.device)
    return ((k + u) / levels).clamp(max=1 - torch.finfo(u.dtype).eps / 2)  # k + u may round up to k + 1


def bits_per_dim(nats: Tensor, dims: int, offset: float = 0.0) -> Tensor:
    """nats/(D log 2) + offset: nats per event -> bits per dimension, like `nats` (def-realnvp-bits, fm-bits).

    The offset restores the scale of the data, log₂ of how many cells a unit of the model's scale holds: 0 for a
    discretised decoder or raw integers, 8 for integers divided by 256, 7 for integers scaled to [−1, 1].
    """
    return nats / (dims * math.log(2)) + offset


# ------------------------------------------------------------------------------------------------------ flows


class Base(Protocol):
    """A law of the noise."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), nats: (B, *S) -> (B,)."""

    def sample(self, n: int) -> Tensor:
        """n draws: (n, *S)."""


class _Standard(nn.Module):
    zero: Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("zero", torch.zeros(shape), persistent=False)  # knows shape, device and dtype


class StandardNormal(_Standard):
    """N(0, I) in the event shape."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z; 0, I), nats: (B, *S) -> (B,)."""
        return log_normal(z, 0.0, 1.0)

    def sample(self, n: int) -> Tensor:
        """n draws: (n, *S)."""
        return torch.randn(n, *self.zero.shape, device=self.zero.device, dtype=self.zero.dtype)


class StandardLogistic(_Standard):
    """Independent logistic coordinates, NICE's prior: log p(z) = −Σ softplus(z) + softplus(−z) (nice-logistic)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), nats: (B, *S) -> (B,)."""
        return -(F.softplus(z) + F.softplus(-z)).flatten(1).sum(1)

    def sample(self, n: int) -> Tensor:
        """n draws: (n, *S)."""
        u = torch.rand(n, *self.zero.shape, device=self.zero.device, dtype=self.zero.dtype)
        return torch.logit(u, eps=torch.finfo(u.dtype).tiny)


class Flow(Model):
    """log p(x) = log p(f(x)) + log|det df/dx|, and x = f⁻¹(z) with z from the base (change-of-variables).

    Args:
        bijection: f, from data to noise.
        shape: the event shape S.
        base: the law of z; None means N(0, I).
        levels: for images of integers 0..levels − 1: `loss` and `bits_per_dim` then take the integers and
            dequantise them, and f takes [0, 1). None: `loss` takes real numbers.
    """

    def __init__(
        self, bijection: Bijection, shape: tuple[int, ...], base: Base | None = None, levels: int | None = None
    ):
        super().__init__()
        self.bijection, self.shape, self.levels = bijection, tuple(shape), levels
        self.base = StandardNormal(self.shape) if base is None else base

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), nats: (B, *S) -> (B,); for images x lies in [0, 1) and this is a density there."""
        check_event(x, self.shape)
        z, log_det = self.bijection(x)
        return self.base.log_prob(z) + log_det

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−E log p(x): (B, *S) -> (), nats, at least the entropy of the data, by KL(data ‖ model) (realnvp-floor).

        Images are integers, and are dequantised. Labels play no part.
        """
        return -self.log_prob(x if self.levels is None else self.prepare(x)).mean()

    def prepare(self, k: Tensor) -> Tensor:
        """Integers (B, *S) to [0, 1), with fresh noise."""
        return dequantise(k, self.levels or 256).to(self.dtype)

    def bits_per_dim(self, k: Tensor) -> Tensor:
        """An upper bound of the negative log-likelihood of integers (B, *S), in bits per coordinate, (B,).

        `bits_per_dim(−log p(x), D, offset=log₂ levels)` with x = (k + u)/levels, one draw of u: log p holds every
        preprocessing Jacobian, and the offset is the size of a cell.

        Raises:
            ValueError: the flow was not made for integers.
        """
        if self.levels is None:
            raise ValueError("bits/dim is defined for integers: build the flow with levels=256")
        nats = -self.log_prob(self.prepare(k))
        return bits_per_dim(nats, math.prod(self.shape), offset=math.log2(self.levels))

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """n samples x = f⁻¹(z), (n, *S), real numbers (images: near [0, 1)). Labels play no part."""
        return self.bijection.inverse(self.base.sample(n))


def least_stretch(gap: float, left: Tensor, right: Tensor) -> Tensor:
    """The least Lipschitz constant of a map that takes N(0, I) to given masses on two sets, elementwise.

    If x = g(z) lies in A with probability `left` and in B with probability `right`, and A and B are `gap` apart, then
    Lip(g) ≥ gap/(−Φ⁻¹(left) − Φ⁻¹(right)) (realnvp-stretch): the preimages are at least gap/Lip(g) apart, and the
    Gaussian isoperimetric inequality (Sudakov & Tsirelson 1974, Borell 1975) says how much mass lies between them. So
    no flow of bounded slope empties the space between two modes.

    Raises:
        ValueError: the masses are not positive, or leave nothing between the sets.
    """
    if bool((left <= 0).any()) or bool((right <= 0).any()) or bool((left + right >= 1).any()):
        raise ValueError(
            "both masses must be positive and their sum below 1: with nothing between them no slope will do"
        )
    return gap / -(torch.special.ndtri(left) + torch.special.ndtri(right))
