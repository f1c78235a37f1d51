"""Multilayer perceptrons: plain, and told a time and a label or a vector. The networks of every
2-D toy laboratory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.networks.blocks import AdaHead, modulate, zero
from gmbook.networks.embed import Condition, GaussianFourier, Sinusoidal, label_embedding


def MLP(inputs: int, outputs: int, width: int = 128, depth: int = 3) -> nn.Sequential:
    """`depth` hidden layers of `width` SiLU units between linear maps: (..., inputs) -> (..., outputs).

    Raises:
        ValueError: depth < 1.
    """
    if depth < 1:
        raise ValueError(f"an MLP needs at least one hidden layer, got depth {depth}")
    layers: list[nn.Module] = []
    for fan_in in [inputs] + [width] * (depth - 1):
        layers += [nn.Linear(fan_in, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class FourierMLP(nn.Module):
    """An MLP that reads [x, γ(x)], γ random Fourier features: (B, inputs) -> (B, outputs).

    For functions of few variables with sharp turns, such as the s and t of a coupling in the plane: at equal time a
    flow on eight Gaussians ends 0.15 nats above the entropy with them, and 0.5 without.

    Args:
        features: the number of features γ(x), even.
        bandwidth: the standard deviation of their frequencies, in cycles per unit of x.
        width, depth: the hidden layers.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 64,
        depth: int = 2,
        features: int = 16,
        bandwidth: float = 0.4,
    ):
        super().__init__()
        self.space = GaussianFourier(features, bandwidth, inputs)
        self.rest = MLP(inputs + features, outputs, width, depth)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(torch.cat([x, self.space(x)], 1))


class TimeMLP(nn.Module):
    """A denoiser for vectors: net(x (B, D), t (B,), y (B,) or None) -> (B, out).

    The first layer reads [x, γ(x), features(t)] and adds the label's vector; the rest is a plain MLP. γ are random
    Fourier features (arXiv:2006.10739): without them an MLP learns the slow parts of a field first and, in the time
    that a chapter has, never the turn of a score within one of eight clusters. (At noise 0.3 the relative error on
    eight Gaussians falls from 0.5 to 0.15 with them, at equal time.) Nothing else: at these sizes a training step is
    dispatch-bound, so each further small operation costs more than its arithmetic.

    Args:
        dim: D.
        width, depth: the hidden layers, `depth` of them, at least 2.
        classes: the number of classes, or None. A conditional network that is given y None uses the null class.
        out: the number of outputs, D by default; 2 D for a learned variance.
        features: the number of time features.
        fourier: the number of features γ(x); 0 for none.
        bandwidth: the standard deviation of their frequencies, in cycles per unit of x.
        drop: the probability with which a label is dropped in training, for guidance.

    Raises:
        ValueError: depth < 2, or labels are given to a network without classes.
    """

    def __init__(
        self,
        dim: int = 2,
        width: int = 128,
        depth: int = 4,
        classes: int | None = None,
        out: int | None = None,
        features: int = 32,
        fourier: int = 64,
        bandwidth: float = 0.4,
        drop: float = 0.0,
    ):
        super().__init__()
        if depth < 2:
            raise ValueError(f"a TimeMLP needs at least two hidden layers, got depth {depth}")
        self.time = Sinusoidal(features)
        self.space = GaussianFourier(fourier, bandwidth, dim) if fourier else None
        self.first = nn.Linear(dim + fourier + features, width)
        self.label = label_embedding(classes, width, drop)
        self.rest = nn.Sequential(nn.SiLU(), MLP(width, dim if out is None else out, width, depth - 1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        inputs = [x, self.time(t)] if self.space is None else [x, self.space(x), self.time(t)]
        hidden = self.first(torch.cat(inputs, 1))  # (B, width)
        return self.rest(self.label(hidden, y))


class SmoothField(nn.Module):
    """A velocity field for vectors that reads t plainly: tanh layers of (x, t), net(x (B, D), t (B,), y) -> (B, D).

    For flows that are solved in training. A solver follows it with few evaluations, since neither x nor t passes
    through high frequencies: with a TimeMLP's features of the time, sin 1000 t among them, an adaptive solver takes
    hundreds, and a coarse one does not see the flow whose likelihood it maximises. Labels play no part.

    Args:
        dim: D.
        width, depth: the hidden layers.
    """

    def __init__(self, dim: int = 2, width: int = 64, depth: int = 3):
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in in [dim + 1] + [width] * (depth - 1):
            layers += [nn.Linear(fan_in, width), nn.Tanh()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.layers(torch.cat([x, t.to(x.dtype)[:, None]], 1))


class AdaMLP(nn.Module):
    """A denoiser for vectors, told a vector: net(x (B, D), t (B,), z (B, told)) -> (B, out). arXiv:2406.11838, §4.1.

    c = time(t) + W z; blocks h + gate · MLP(modulate(h, shift, scale)) with (shift, scale, gate) = W SiLU(c), zero at
    the start, as in `AdaBlock` but without attention; then `AdaHead`. The output is 0 at the start.

    Args:
        dim: D.
        told: the length of z.
        width, depth: the hidden width, and the number of blocks.
        out: the number of outputs, D by default.
    """

    def __init__(self, dim: int, told: int, width: int = 128, depth: int = 3, out: int | None = None):
        super().__init__()
        self.time, self.told, self.first = Condition(width), nn.Linear(told, width), nn.Linear(dim, width)
        self.modulations = nn.ModuleList(zero(nn.Linear(width, 3 * width)) for _ in range(depth))
        self.blocks = nn.ModuleList(MLP(width, width, width, 1) for _ in range(depth))
        self.head = AdaHead(width, dim if out is None else out)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        c = self.time(t) + self.told(z)  # (B, width)
        h = self.first(x)
        for modulation, block in zip(self.modulations, self.blocks, strict=True):
            shift, scale, gate = modulation(F.silu(c)).chunk(3, -1)
            h = h + gate * block(modulate(h, shift, scale))
        return self.head(h[:, None], c)[:, 0]
