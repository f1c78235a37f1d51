"""The field for images: its shape and places, its smoothness, and that it reads the time. Several fields at once."""

from __future__ import annotations

import pytest
import torch

from gmbook.networks.fields import ConvField, Several


def field(**options):
    torch.manual_seed(0)
    return ConvField(**options).double()


@pytest.mark.parametrize(("shape", "patch"), [((1, 14, 14), 2), ((3, 8, 12), 4), ((2, 5, 7), 1)], ids=str)
def test_shapes_and_reach(shape, patch):
    """A pixel moves what lies within a patch for each of three 3×3 layers, and nothing beyond."""
    net, x = field(channels=shape[0], width=6, patch=patch), torch.randn(1, *shape, dtype=torch.float64)
    t = torch.tensor([0.3], dtype=torch.float64)
    moved = x.clone()
    moved[0, 0, 0, 0] += 1
    change = (net(moved, t) - net(x, t)).abs()[0].amax(0)
    assert change.shape == shape[1:] and (change[: 4 * patch, : 4 * patch] > 0).all()
    assert change[4 * patch :].sum() == 0 and change[:, 4 * patch :].sum() == 0


def test_its_arithmetic_by_hand():
    """Without a patch and with 1×1 taps, a layer is a matrix at each pixel, softplus between two of them."""
    net, x = field(channels=2, width=3, depth=1, patch=1), torch.randn(4, 2, 5, 6, dtype=torch.float64)
    t = torch.rand(4, dtype=torch.float64)
    for layer in net.layers:
        layer.weight.data[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    first, second = ((layer.weight[:, :, 1, 1], layer.bias) for layer in net.layers)
    time = t[:, None, None, None].expand(4, 5, 6, 1)
    h = torch.cat([x.movedim(1, 3), time], 3) @ first[0].T + first[1]
    want = torch.cat([h.exp().log1p(), time], 3) @ second[0].T + second[1]
    torch.testing.assert_close(net(x, t), want.movedim(3, 1))


def test_every_layer_reads_the_time_and_the_field_is_smooth():
    """d/dt by autograd is that of differences, with each layer's time weights in turn the only ones."""
    for only in range(3):
        net, x = field(width=6), torch.randn(2, 1, 4, 4, dtype=torch.float64)
        for k, layer in enumerate(net.layers):
            layer.weight.data[:, -1] *= k == only
        t = torch.tensor([0.4, 0.7], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(net(x, t).sum(), t)
        h = 1e-5
        by_differences = (net(x, t + h) - net(x, t - h)).flatten(1).sum(1) / (2 * h)
        torch.testing.assert_close(slope, by_differences, rtol=1e-6, atol=1e-8)
        assert (slope.abs() > 1e-4).all()
    pieces = torch.linspace(-20, 20, 4001, dtype=torch.float64)[:, None, None, None] * torch.ones(1, 1, 2, 2)
    curve = field(width=6)(pieces, torch.zeros(4001, dtype=torch.float64))[:, 0, 0, 0]
    bends = curve.diff(n=2) / 0.01**2
    assert bends.abs().max() < 10 and (bends.diff().abs().max() < 0.5)  # no kink: a ReLU has second differences of 100


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="7×6 are not divisible by the patch, 2"):
        ConvField()(torch.zeros(1, 1, 7, 6), torch.zeros(1))


def test_several_fields_side_by_side_are_each_its_own():
    """Each block of rows is what its copy gives alone, and moves the weights of no other."""
    torch.manual_seed(0)
    net, x, t = Several(3, 2, 8, 2).double(), torch.randn(12, 2, dtype=torch.float64), torch.rand(12).double()
    out = net(x, t)
    for k in range(3):
        rows = slice(4 * k, 4 * k + 4)
        torch.testing.assert_close(out[rows], net.one(k)(x[rows], t[rows]))
    assert (net.one(0)(x[4:8], t[4:8]) - out[4:8]).abs().min() > 1e-3
    slopes = torch.autograd.grad(out[4:8].sum(), list(net.parameters()))
    assert all(g[1].abs().max() > 0 and g[[0, 2]].abs().max() == 0 for g in slopes)
    assert net.float()(x.float(), t).dtype == torch.float32  # a solver's time is in double precision
