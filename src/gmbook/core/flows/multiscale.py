"""Space to channels, and the recursion that finishes half of the channels at every scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.core.flows.base import Bijection


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


class Multiscale(Bijection):
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
            raise ValueError(f"Multiscale needs an even number of channels, got {tuple(x.shape)}: squeeze first")
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
