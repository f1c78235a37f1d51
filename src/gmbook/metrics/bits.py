"""Code lengths: bits per dimension and per letter, and the baselines that any model of images should beat."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gmbook import data
from gmbook.core.flows.base import Bijection
from gmbook.core.flows.pixels import bits_per_dim


def bits_per_char(nats: Tensor, length: int) -> Tensor:
    """nats/(L log 2): nats per sequence of L characters -> bits per character."""
    return bits_per_dim(nats, length)


def histogram_bits(train: Tensor, test: Tensor, levels: int = 256) -> Tensor:
    """Bits per dimension of integer images under one histogram per pixel, pixels independent: (N, *S) -> (N,).

    The mass of value k at pixel d is (count of k + 1)/(images + levels), counted in `train`, (M, *S): no value that
    may occur gets the mass 0. The floor under every model of images: what ignores all neighbours costs so much.

    Raises:
        ValueError: the images differ in shape, or a value lies outside 0..levels − 1.
    """
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(f"need images of one shape, got {tuple(train.shape)} and {tuple(test.shape)}")
    seen, new = train.flatten(1), test.to(train.device).flatten(1)
    if min(int(seen.min()), int(new.min())) < 0 or max(int(seen.max()), int(new.max())) >= levels:
        raise ValueError(f"pixels must lie in 0..{levels - 1}")
    counts = torch.stack([torch.bincount(pixel, minlength=levels) for pixel in seen.T.int()])  # (D, levels)
    mass = (counts.double() + 1) / (len(seen) + levels)
    return -mass.log2().gather(1, new.T.long()).mean(0)


class PixelGaussian:
    """One Gaussian for all pixels, with a full covariance, fitted to integer images: what second moments alone give.

    Fitted to y = space((x + u)/levels) with uniform u, a fresh draw for each image; its bits/dim depend much on the
    space, so a model is compared with the Gaussian in the model's own. The noise keeps the covariance regular where
    pixels are constant, as at MNIST's border. D = dim S; fitting N images costs N D² multiplications, O(D³) once.

    Args:
        train: (N, *S) uint8, N > D.
        levels: how many values a pixel can have.
        space: where the Gaussian lives: a bijection of [0, 1], such as RealNVP's `Logit(0.05)`; None for the pixels.

    Raises:
        ValueError: there are too few images to fit a covariance to.
    """

    def __init__(self, train: Tensor, levels: int = 256, space: Bijection | None = None):
        self.shape, self.levels, self.space = tuple(train.shape[1:]), levels, space
        dims = math.prod(self.shape)
        if len(train) <= dims:
            raise ValueError(f"a covariance of {dims} pixels needs more than {dims} images, got {len(train)}")
        total, square = torch.zeros(dims).double(), torch.zeros(dims, dims).double()
        for y, _ in self._dequantised(train, seed=1):
            total += y.sum(0)
            square.addmm_(y.T, y)
        mean = total / len(train)
        covariance = square / len(train) - mean.outer(mean)
        self.law = torch.distributions.MultivariateNormal(
            mean, scale_tril=torch.linalg.cholesky(covariance), validate_args=False
        )

    def _dequantised(self, x: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (N, *S) in the Gaussian's space, a part at a time: (n, D), and the log-determinants (n,), float64."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            noisy = data.dequantise(x.cpu(), self.levels)
        for part in noisy.split(2000):
            y, log_det = (part.double(), torch.zeros(len(part))) if self.space is None else self.space(part.double())
            yield y.flatten(1), log_det

    def bits(self, test: Tensor) -> Tensor:
        """Bits per dimension of integer images, a bound, at one draw of u each: (N, *S) -> (N,)."""
        nats = torch.cat([-self.law.log_prob(y) - log_det for y, log_det in self._dequantised(test, seed=2)])
        return bits_per_dim(nats, math.prod(self.shape), math.log2(self.levels))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n images drawn from it, cut off at black and white: (n, *S) uint8."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            y = self.law.sample((n,)).reshape(n, *self.shape)
        return data.quantise(y if self.space is None else self.space.inverse(y), self.levels)
