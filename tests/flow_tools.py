"""For the tests of bijections: one of every layer, random parameters, and the Jacobian by autograd."""

import torch
from torch import nn

from gmbook.core.flows.base import Compose
from gmbook.core.flows.couplings import AdditiveCoupling, AffineCoupling, SplitCoupling, channel_mask, parity_mask
from gmbook.core.flows.linear import ActNorm, FlowBatchNorm, InvertibleLinear, Permute, PLULinear, Scale
from gmbook.core.flows.multiscale import Multiscale, Squeeze
from gmbook.core.flows.pixels import Shift

SHAPES = [(2,), (5,), (1, 8, 8), (3, 8, 8)]


def net(channels, out, image):
    layer = (lambda i, o: nn.Conv2d(i, o, 3, padding=1)) if image else nn.Linear
    return nn.Sequential(layer(channels, 8), nn.Tanh(), layer(8, out))


class Halves(nn.Module):
    """A network's output as (s, t)."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).chunk(2, 1)


def layers(shape):
    """One of every layer that is defined on the shape, with random parameters."""
    c, image = shape[0], len(shape) > 1
    yield AdditiveCoupling(net(c, c, image), parity_mask(shape))
    yield AffineCoupling(net(c, 2 * c, image), parity_mask(shape, flip=True))
    yield Compose(Scale(shape), ActNorm(c), FlowBatchNorm(c))
    yield Compose(InvertibleLinear(c), PLULinear(c), Permute(torch.randperm(c)))
    yield Compose(Shift(-0.5), Scale(shape))
    if c > 1:
        yield AffineCoupling(net(c, 2 * c, image), channel_mask(shape))
        yield SplitCoupling(Halves(net(1, 2 * c - 2, image)), 1)
    if c % 2 == 0:
        yield Multiscale(InvertibleLinear(c // 2), prior=net(c // 2, c, image))
    if image:
        inner = Multiscale(InvertibleLinear(2 * c), prior=net(2 * c, 4 * c, image))
        yield Compose(Squeeze(), PLULinear(4 * c), inner, Squeeze(undo=True))


def randomise(layer):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in layer.named_buffers():
            if name.endswith(("mean", "variance")):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return layer.eval()


def jacobian(layer, x):
    """The Jacobian of the first sample's z with respect to the first sample's x: (D, D)."""
    matrix = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0][0], x[0])
    return matrix.reshape(x[0].numel(), -1)
