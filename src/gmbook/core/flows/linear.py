"""Scalings per coordinate and per channel, and linear maps of the channels: the same map at every pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gmbook.core.flows.base import Bijection


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

    Raises:
        ValueError: a training batch holds a single value per channel, which has no variance.
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
            if x.numel() == x.shape[1]:
                raise ValueError(
                    "batch normalisation needs at least two values per channel: use a larger batch, or eval()"
                )
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
        if not torch.equal(order.sort().values, torch.arange(len(order), device=order.device)):
            raise ValueError(f"order must be a permutation of 0..{len(order) - 1}, got {order.tolist()}")
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, self.order], x.new_zeros(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z[:, self.order.argsort()]
