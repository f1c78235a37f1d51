"""What an invertible layer is, and layers one after another.

A bijection maps data x to noise z and knows log|det dz/dx|, (B,), in nats. All layers work on vectors (B, C)
and on images (B, C, H, W) alike: axis 1 is the channel axis, everything after it is a "pixel". Every layer
keeps the number of coordinates, so a whole multi-scale flow is again one bijection, and z can always be drawn
in the shape of x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn


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

    layers: Sequence[Bijection]

    def __init__(self, *layers: Bijection):
        super().__init__()
        self.layers = cast("Sequence[Bijection]", nn.ModuleList(layers))  # torch's types do not say what it holds

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
