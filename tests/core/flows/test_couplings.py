"""Couplings, against autograd Jacobians, the masked form, and scipy's solver."""

import numpy as np
import pytest
import scipy.integrate
import torch
from flow_tools import jacobian, net, randomise
from torch import nn

from gmbook.core.flows.base import Compose
from gmbook.core.flows.couplings import AdditiveCoupling, AffineCoupling, SplitCoupling, channel_mask, parity_mask


@pytest.mark.fact("R1")
def test_the_surveys_index_is_wrong():
    """The survey sums s over the d inputs of s; the right sum runs over its D − d outputs."""
    shape = (5,)
    mask = torch.tensor([1, 1, 0, 0, 0])
    layer = randomise(AffineCoupling(net(5, 10, False), mask))
    x = torch.randn(1, *shape)
    s = layer.bound(layer.net(mask * x).chunk(2, 1)[0])[0]
    truth = torch.linalg.slogdet(jacobian(layer, x))[1]
    assert abs(s[2:].sum() - truth) < 1e-10 < 1e-3 < abs(s[:2].sum() - truth)


@pytest.mark.parametrize("shape", [(5,), (4, 3, 2)], ids=str)
@pytest.mark.equation("realnvp-coupling")
def test_a_split_coupling_is_a_masked_one(shape):
    """With the network of the masked form, told zeros for x_2 and asked for x_2 only: the same z, log-det and x."""
    c, kept = shape[0], (shape[0] + 1) // 2
    inner = net(c, 2 * c, len(shape) > 1).double()
    masked = AffineCoupling(inner, channel_mask(shape)).double()

    class Part(nn.Module):
        def forward(self, x1):
            s, t = inner(torch.cat([x1, x1.new_zeros(len(x1), c - kept, *shape[1:])], 1)).chunk(2, 1)
            return s[:, kept:].tanh(), t[:, kept:]

    split, x = SplitCoupling(Part(), kept), torch.randn(3, *shape, dtype=torch.float64)
    for got, expected in zip(split(x), masked(x)):
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(split.inverse(x), masked.inverse(x))


def test_masks():
    assert parity_mask((1, 2, 4)).tolist() == [[[0, 1, 0, 1], [1, 0, 1, 0]]]
    assert parity_mask((4,)).tolist() == [0, 1, 0, 1]
    assert channel_mask((3, 4, 4)).flatten().tolist() == [1, 1, 0]
    for mask in (parity_mask, channel_mask):
        assert torch.equal(mask((4, 6, 6)) + mask((4, 6, 6), flip=True), torch.ones_like(mask((4, 6, 6))))
    with pytest.raises(ValueError, match="mask must hold both"):
        AdditiveCoupling(nn.Identity(), torch.ones(2))


def test_three_couplings_mix_all_coordinates_and_two_do_not():
    """RealNVP exercise 1: the fewest couplings with which every output depends on every input is three."""

    def depends(couplings):
        flow = Compose(
            *(AffineCoupling(net(4, 8, False), parity_mask((4,), flip=i % 2 == 1)) for i in range(couplings))
        )
        return bool((jacobian(flow, torch.randn(1, 4)) != 0).all())

    assert not depends(2) and depends(3)


@pytest.mark.equation("realnvp-ode")
def test_an_affine_coupling_is_the_flow_of_a_linear_field():
    """scipy's solver carries x along s ⊙ x + τ for a time 1; the divergence, Σ s, is constant along the way."""
    layer = randomise(AffineCoupling(net(5, 10, False), parity_mask((5,))))
    x = torch.randn(1, 5)
    s, t = (part[0].detach().numpy() for part in layer._scale_shift(x))
    moves = s != 0
    tau = np.where(moves, s * t / np.expm1(np.where(moves, s, 1.0)), 0.0)
    solution = scipy.integrate.solve_ivp(lambda _, v: s * v + tau, (0, 1), x[0].numpy(), rtol=1e-12, atol=1e-12)
    z, log_det = layer(x)
    torch.testing.assert_close(torch.from_numpy(solution.y[:, -1]), z[0].detach(), rtol=0, atol=1e-9)
    keeps = layer.mask.detach()

    def field(v):  # the same field, from the network's own output: s and τ are constant while the kept half is
        scale, shift = layer.net(keeps * v).chunk(2, 1)
        scale = torch.tanh(scale)
        return (1 - keeps) * (scale * v + shift * scale / torch.expm1(scale))

    for moment in np.linspace(0, len(solution.t) - 1, 4).astype(int):
        point = torch.from_numpy(solution.y[:, moment])[None]
        trace = torch.autograd.functional.jacobian(field, point).reshape(5, 5).trace()
        assert abs(log_det.item() - trace.item()) < 1e-9
