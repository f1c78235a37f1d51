"""Glow, against Jacobians, closed forms, and laws reshaped by a temperature."""

import math

import pytest
import scipy.stats
import torch
from specimen import Specimen
from torch import nn

from gmbook.core.flows.base import Compose
from gmbook.core.flows.couplings import SplitCoupling
from gmbook.core.flows.linear import ActNorm, InvertibleLinear
from gmbook.core.gaussians import GaussianMixture
from gmbook.papers.glow import CouplingNet, Glow, ZeroLayer, _Normalised

SPECIMEN = Specimen(lambda: Glow.on_vectors(2, steps=2, width=16))

MEASURES = {
    "log_prob": lambda model, x: model.log_prob(x),
    "temperature": lambda model, x: model.sample(3, temperature=0.5),
}


def model(shape, **options):
    """A random Glow, initialised on data, in double precision."""
    torch.manual_seed(0)
    if len(shape) == 1:
        flow = Glow.on_vectors(shape[0], steps=3, width=16, **options)
        data = torch.randn(64, *shape) * 2 + 1
    else:
        flow = Glow.on_images(shape, scales=2, steps=2, width=16, **options)
        data = torch.randint(256, (32, *shape))
    flow.initialise(data)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return flow.double().eval()


@pytest.mark.parametrize("options", [{}, {"plu": False}, {"additive": True}], ids=str)
@pytest.mark.parametrize("shape", [(2,), (3,), (1, 8, 8), (3, 8, 8)], ids=str)
@pytest.mark.equation("glow-convolution")
@pytest.mark.equation("glow-plu")
def test_contract(shape, options):
    flow = model(shape, **options)
    x = torch.rand(3, *shape, dtype=torch.float64)
    z, log_det = flow.bijection(x)
    torch.testing.assert_close(flow.bijection.inverse(z), x, rtol=1e-10, atol=1e-10)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.bijection(v[None])[0][0], x[0])
    expected = torch.linalg.slogdet(jacobian.reshape(math.prod(shape), -1))[1]
    torch.testing.assert_close(log_det[0], expected, rtol=1e-10, atol=1e-10)
    sample = flow.sample(3)
    assert sample.shape == (3, *shape)
    torch.testing.assert_close(flow.bijection.inverse(flow.bijection(sample)[0]), sample, rtol=1e-9, atol=1e-9)


def test_float32_round_trip():
    flow = model((3, 8, 8)).float()
    x = torch.rand(8, 3, 8, 8)
    torch.testing.assert_close(flow.bijection.inverse(flow.bijection(x)[0]), x, rtol=0, atol=1e-4)


@pytest.mark.equation("change-of-variables")
def test_density_integrates_to_one():
    flow = model((2,))
    axis = torch.linspace(-15, 17, 801, dtype=torch.float64)
    with torch.no_grad():
        mass = flow.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(mass - 1) < 1e-3


@pytest.mark.fact("W5")
@pytest.mark.equation("glow-actnorm")
def test_initialisation_standardises_every_actnorm_and_the_noise():
    torch.manual_seed(1)
    flow, data = Glow.on_vectors(3, steps=4, width=16), 5 * torch.randn(256, 3) + 3
    flow.initialise(data)
    assert all(bool(m.initialised) for m in flow.modules() if isinstance(m, ActNorm))
    variance, mean = torch.var_mean(flow.bijection(data)[0], 0, correction=0)
    torch.testing.assert_close(variance, torch.ones(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-4)
    loaded = Glow.on_vectors(3, steps=4, width=16)
    loaded.load_state_dict(flow.state_dict())
    torch.testing.assert_close(loaded.train().log_prob(7 * data), flow.log_prob(7 * data))


@pytest.mark.fact("W4")
@pytest.mark.equation("glow-temperature")
def test_temperature():
    """log p_T(x) = log p(x)/T² + const for additive couplings: not with the printed T², and not for affine ones."""
    temperature = 0.7

    def spread(flow, power):
        x = torch.randn(100, 2, dtype=torch.float64)
        z, log_det = flow.bijection(x)
        tempered = torch.from_numpy(scipy.stats.norm.logpdf(z.detach().numpy(), scale=temperature).sum(1)) + log_det
        return (tempered - power * flow.log_prob(x)).std()

    additive, affine = model((2,), additive=True), model((2,))
    assert spread(additive, 1 / temperature**2) < 1e-9
    assert spread(additive, temperature**2) > 0.1
    assert spread(affine, 1 / temperature**2) > 1e-3
    torch.manual_seed(3)
    cold = additive.sample(20_000, temperature=temperature)
    assert abs(additive.bijection(cold)[0].std() - temperature) < 0.01


def test_log_det_of_a_new_step():
    """Exercise 4: the code's scale σ(h + 2) makes a new coupling on 16×16×12 add 1536 log σ(2) = −194.96 nats."""
    shape = (12, 16, 16)
    coupling = SplitCoupling(CouplingNet(6, 6, 8, 2), 6)
    log_det = coupling(torch.randn(1, *shape))[1].item()
    assert math.isclose(log_det, -1536 * math.log1p(math.exp(-2)), abs_tol=1e-3)
    assert math.isclose(log_det, -194.96, abs_tol=5e-3)


@pytest.mark.parametrize("shape", [(3,), (3, 5, 4)], ids=str)
@pytest.mark.equation("glow-actnorm")
def test_scales_folded_into_weights_are_scales_of_the_output(shape):
    """The networks' actnorm and gain act on the weights: the same as normalising, and multiplying, what comes out."""
    torch.manual_seed(0)
    x, axes = torch.randn(16, *shape, dtype=torch.float64), len(shape) - 1
    first, last = _Normalised(3, 5, axes, 3).double(), ZeroLayer(3, 5, axes).double()
    y = first(x)
    plain = first.map(x).transpose(0, 1).flatten(1)
    expected = (plain - plain.mean(1, keepdim=True)) / (plain.std(1, correction=0, keepdim=True) + 1e-6)
    torch.testing.assert_close(y.transpose(0, 1).flatten(1), expected.relu())
    nn.init.normal_(last.map.weight), nn.init.normal_(last.map.bias), nn.init.normal_(last.log_gain)
    gain = (3 * last.log_gain).exp().reshape(-1, *(1,) * axes)
    torch.testing.assert_close(last(x), gain * last.map(x))


def test_bits_per_dim_of_a_known_law():
    """On 5-bit images a flow of volume e^c has (c + log N)/D ln 2 subtracted from 5: by hand, from its own z."""
    flow = model((1, 8, 8), bits=5)
    k = torch.randint(256, (6, 1, 8, 8))
    torch.manual_seed(4)
    bits = flow.bits_per_dim(k)
    torch.manual_seed(4)
    x = ((k // 8 + torch.rand(k.shape)) / 32).double()
    z, log_det = flow.bijection(x)
    log_normal = torch.from_numpy(scipy.stats.norm.logpdf(z.detach().numpy()).sum((1, 2, 3)))
    expected = -(log_normal + log_det - 64 * math.log(32)) / (64 * math.log(2))
    torch.testing.assert_close(bits, expected, rtol=1e-6, atol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="divisible by 8"):
        Glow.on_images((1, 28, 28), steps=1, width=4)
    with pytest.raises(ValueError, match="1..8"):
        Glow.on_images((1, 8, 8), scales=1, steps=1, width=4, bits=9)
    with pytest.raises(TypeError, match="raw pixels"):
        Glow.on_images((1, 8, 8), scales=1, steps=1, width=4).loss(torch.rand(2, 1, 8, 8))


def test_a_permutation_is_a_convolution():
    """A channel reversal is the 1×1 convolution with a permutation matrix: log-determinant 0."""
    flip, x = InvertibleLinear(4), torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        flip.weight.copy_(torch.eye(4).flip(0))
    z, log_det = Compose(flip)(x)
    assert torch.equal(z, x.flip(1)) and abs(log_det).max() < 1e-12


def test_training_approaches_the_negative_entropy():
    torch.manual_seed(0)
    angle = torch.linspace(0, 2 * math.pi, 5)[:-1]
    law = GaussianMixture(torch.ones(4), 1.5 * torch.stack([angle.cos(), angle.sin()], 1), torch.full((4,), 0.3))
    flow = Glow.on_vectors(2, steps=6, width=32)
    flow.initialise(law.sample(512))
    optimiser = torch.optim.Adam(flow.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, 250)
    for _ in range(250):
        loss = flow.loss(law.sample(256))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    x = law.sample(20_000)
    with torch.no_grad():
        gap = flow.eval().loss(x) + law.log_prob(x).mean()
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    assert -0.01 < gap < 0.08, gap
    assert (law.log_prob(x) - gaussian.log_prob(x)).mean() > 0.25


def test_a_small_image_flow_learns():
    """Two-level Glow on 8×8 ramps with noise: bits/dim fall well below the 8 of uniform pixels."""
    torch.manual_seed(0)
    ramp = torch.linspace(60, 190, 64).reshape(1, 1, 8, 8)

    def batch():
        return (ramp + 10 * torch.randn(64, 1, 8, 8)).round().clamp(0, 255).long()

    flow = Glow.on_images((1, 8, 8), scales=2, steps=2, width=16).initialise(batch())
    optimiser = torch.optim.Adam(flow.parameters(), 2e-3)
    for _ in range(60):
        loss = flow.loss(batch())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimiser.step()
    entropy = math.log2(10 * math.sqrt(2 * math.pi * math.e))  # 5.37 bits
    assert entropy - 0.02 < flow.eval().bits_per_dim(batch()).mean() < entropy + 0.5
