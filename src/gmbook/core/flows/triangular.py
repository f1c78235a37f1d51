"""Autoregressive flows: each coordinate moves by a function of those before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmbook.core.checks import check_output
from gmbook.core.flows.base import Bijection


class Triangular(Bijection):
    """z_i = x_i ⊙ exp s_i(x_1..x_{i−1}) + t_i(x_1..x_{i−1}), log|det dz/dx| = Σ_i s_i (glow-triangular).

    Masked autoregressive flow, arXiv:1705.07057, Eq. 3, and, with patches for coordinates, TARFlow, arXiv:2412.06329.
    The Jacobian is triangular. `forward` calls the network once, `inverse` once for each coordinate, in turn.

    Args:
        net: x (B, T, *S) -> (s, t), each like x; entry i of both must depend on x_1..x_{i−1} alone. It is never
            inverted.
    """

    def __init__(self, net: Callable[[Tensor], tuple[Tensor, Tensor]]):
        super().__init__()
        self.net = net

    def _scale_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.net(x)
        return check_output(s, x.shape), check_output(t, x.shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self._scale_shift(x)
        return x * s.exp() + t, s.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        x = torch.zeros_like(z)
        for i in range(z.shape[1]):
            s, t = self._scale_shift(x)  # of entry i only those before it matter, and they are done
            x = torch.cat([x[:, :i], ((z - t) * (-s).exp())[:, i : i + 1], x[:, i + 1 :]], 1)
        return x
