"""A network on a Gaussian path, read as any quantity; and the ideal denoiser of a law that is known."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from gmbook.core.checks import as_time, check_output
from gmbook.core.law import Law
from gmbook.core.model import Model
from gmbook.core.paths import GaussianPath, Quantity, broadcast

D = TypeVar("D", bound="Denoiser")


class Denoiser(Model):
    """One network, one path, and what the network predicts; `predict` reads it as any quantity.

    The network knows (x_t, t, y) and nothing else: net(xt (B, *S), t (B,), y (B,) or None) -> (B, *S).

    Args:
        net: the network.
        path: the Gaussian path x_t = α_t x_0 + σ_t ε.
        predicts: the quantity that the network's output stands for.
        shape: the event shape S.
    """

    def __init__(self, net: nn.Module, path: GaussianPath, predicts: Quantity, shape: tuple[int, ...]):
        super().__init__()
        self.net, self.path, self.predicts, self.shape = net, path, predicts, tuple(shape)

    def forward(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The network's output for x_t (B, *S), t () or (B,), y (B,) or None: (B, *S), the quantity `predicts`.

        t may be whatever `as_time` takes, on any device, and y whatever `labels` takes.

        Raises:
            TypeError, ValueError: x_t, t or y is not what the model is for, or the network returns another shape.
        """
        return check_output(self.output(xt, t, y), xt.shape)

    def output(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """What the network returns for x_t, t and y once these are checked, whatever its shape."""
        self.check(xt)
        t = as_time(t, xt)
        return self.net(xt, t.to(xt.dtype).expand(len(xt)), self.labels(y, len(xt)))

    def read(self, quantity: Quantity, output: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """Another reading of an output that is already computed: (B, *S). Samplers use it to call the network once."""
        return self.path.convert(output, xt, t, self.predicts, quantity)

    def readings(self, output: Tensor, xt: Tensor, t: Tensor, *wanted: Quantity) -> list[Tensor]:
        """Several readings of one output, each (B, *S), with the path looked up once."""
        pairs = self.path.readings(self.predicts, t, *wanted)
        return [broadcast(p, xt) * xt + broadcast(q, xt) * output for p, q in pairs]

    def predict(self, quantity: Quantity, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The network's estimate of E[quantity | x_t], in any of the five quantities: (B, *S)."""
        return self.read(quantity, self(xt, t, y), xt, t)

    def with_network(self: D, net: nn.Module) -> D:
        """The same model around another network, such as `Guided(self.net, …)`. Nothing is copied."""
        twin = copy.copy(self)
        twin._modules = {**self._modules, "net": net}  # its own table of children: ours keeps its network
        return twin

    def prior(self, n: int) -> Tensor:
        """n draws from N(0, σ(t_max)² I), where sampling starts: (n, *S)."""
        t = torch.as_tensor(self.path.t_max, dtype=torch.float64, device=self.device)
        return self.path.sigma(t).to(self.dtype) * self.noise(n)


class Truth(nn.Module):
    """The network that knows: E[quantity | x_t] for a known law, as net(x_t, t, y). It has nothing to learn.

    Put in place of a network, it turns any model into its own optimum: `DDPM(Truth(law, path, "eps"), …).loss` is the
    floor that training can reach, and its samples show the sampler's error alone.
    """

    def __init__(self, law: Law, path: GaussianPath, quantity: Quantity):
        super().__init__()
        self.law, self.path, self.quantity = law, path, quantity

    def forward(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """E[quantity | x_t] for x_t (B, *S), t () or (B,): (B, *S). Labels are ignored."""
        x0 = self.law.posterior_mean(xt, *self.path.alpha_sigma(t))
        return self.path.convert(x0, xt, t, "x0", self.quantity)


def ideal(law: Law, path: GaussianPath) -> Denoiser:
    """The ideal denoiser of a known law: its network is E[x_0 | x_t] itself (def-ideal-denoiser).

    Every sampler can be tested with it, with no training at all. Its event shape is the law's.
    """
    return Denoiser(Truth(law, path, "x0"), path, "x0", law.shape)
