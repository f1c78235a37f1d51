"""Dequantisation, the logit and bits per dimension, against quadrature and closed forms."""

import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from flow_tools import jacobian
from torch import nn

from gmbook.core.flows.density import Flow, StandardLogistic, StandardNormal
from gmbook.core.flows.linear import Scale
from gmbook.core.flows.pixels import Logit, dequantise


@pytest.mark.equation("realnvp-logit")
def test_logit():
    layer, x = Logit(0.05), torch.rand(4, 3)
    y, log_det = layer(x)
    torch.testing.assert_close(layer.inverse(y), x)
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian(layer, x))[1], rtol=1e-12, atol=1e-12)
    assert torch.isfinite(layer(torch.tensor([[0.0, 1.0]]))[0]).all()
    white = torch.tensor(1.0)
    assert torch.isinf(torch.logit(0.05 + (1 - 0.05) * white))  # the form that the paper prints


@pytest.mark.fact("R4")
@pytest.mark.equation("realnvp-logistic-bits")
@pytest.mark.equation("def-realnvp-bits")
def test_bits_per_dim_of_the_logistic_base():
    """A logistic base behind the logit: a constant density, 8 − log₂(1 − 2α) bits whatever the image."""
    shape = (3, 8, 8)
    flow = Flow(Logit(0.05), shape, base=StandardLogistic(shape), levels=256)
    bits = flow.bits_per_dim(torch.randint(256, (16, *shape)))
    torch.testing.assert_close(bits, torch.full((16,), 8 - math.log2(0.9)), rtol=0, atol=1e-12)
    assert math.isclose(bits[0].item(), 8.152003, abs_tol=1e-6)
    with pytest.raises(ValueError, match="levels=256"):
        Flow(Logit(0.05), shape).bits_per_dim(torch.randint(256, (1, *shape)))


@pytest.mark.equation("realnvp-logistic-bits")
@pytest.mark.parametrize("level", [0, 100, 255])
def test_bits_of_a_grey_level_under_a_normal_base(level):
    """By scipy's quadrature over the cell: unlike the logistic base it feels the noise, the division and the level."""
    flow = Flow(Logit(0.05), (1,), levels=256).double()
    torch.manual_seed(0)
    bits = flow.bits_per_dim(torch.full((20_000, 1), level))

    def cost(u):
        p = 0.05 + 0.9 * (level + u) / 256
        return -(scipy.stats.norm.logpdf(math.log(p / (1 - p))) + math.log(0.9 / 256 / (p * (1 - p)))) / math.log(2)

    want = scipy.integrate.quad(cost, 0, 1)[0]
    assert abs(bits.mean().item() - want) < 5 * bits.std().item() / math.sqrt(20_000) + 1e-6


def test_bits_of_nice_on_cifar():
    """RealNVP exercise 2, checked through the pipeline: 5371.78 nats on [−1, 1] are 4.477 bits/dim."""
    shape = (3, 32, 32)

    class Constant(nn.Module):
        def log_prob(self, z):
            return z.new_full((len(z),), 5371.78)

    flow = Flow(Scale(shape), shape, base=Constant(), levels=256)
    nn.init.constant_(flow.bijection.log_scale, math.log(2))  # [0, 1) to a range of length 2
    assert math.isclose(flow.bits_per_dim(torch.randint(256, (1, *shape))).item(), 4.477, abs_tol=5e-4)


@pytest.mark.fact("R3")
@pytest.mark.equation("realnvp-dequantisation")
def test_dequantisation_is_a_bound_in_every_bin():
    """E_u log p(k + u) ≤ log ∫ p(k + u) du, both by quadrature; the gap is KL(U ‖ p(u | k)), a third integral."""
    torch.manual_seed(2)
    flow = Flow(Logit(0.05), (1,), base=StandardNormal((1,)), levels=4)

    def density(x):
        return flow.log_prob(torch.tensor([[x]])).exp().item()

    for k in range(4):
        ends = k / 4, (k + 1) / 4
        mass = scipy.integrate.quad(density, *ends)[0]
        mean = 4 * scipy.integrate.quad(lambda x: math.log(density(x)), *ends)[0] - math.log(4)
        bound = -flow.bits_per_dim(torch.full((20_000, 1), k)) * math.log(2)
        assert abs(bound.mean() - mean) < 5 * bound.std() / 20_000**0.5
        assert 0.001 < math.log(mass) - mean < 0.2
        kl = scipy.integrate.quad(lambda u, k=k, mass=mass: -math.log(density((k + u) / 4) / 4 / mass), 0, 1)[0]
        assert abs(math.log(mass) - mean - kl) < 1e-9


def test_dequantise_stays_in_its_cell_and_refuses():
    torch.set_default_dtype(torch.float32)
    k = torch.randint(256, (4, 1, 64, 64), dtype=torch.uint8)
    x = dequantise(k)
    assert x.dtype == torch.float32 and x.min() >= 0 and x.max() < 1
    assert ((x * 256).floor() == k).float().mean() > 0.999
    largest = 1 - 2.0**-24  # that torch.rand draws in float32; 255 + u rounds to 256
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *shape, **options: torch.full(*shape, largest, **options))
        x = dequantise(torch.full((2,), 255, dtype=torch.uint8))
    assert (x == 1 - 2.0**-24).all()  # the largest number below 1
    with pytest.raises(TypeError, match="raw pixels"):
        dequantise(torch.rand(2, 2))
    with pytest.raises(ValueError, match="0..15"):
        dequantise(torch.tensor([[16]]), levels=16)
