"""The law of a flow, against scipy, quadrature, and a map of the line."""

import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from flow_tools import net, randomise
from torch import nn

from gmbook.core.flows.base import Compose
from gmbook.core.flows.couplings import AffineCoupling, parity_mask
from gmbook.core.flows.density import Flow, StandardLogistic, StandardNormal, least_stretch
from gmbook.core.flows.linear import ActNorm, InvertibleLinear, PLULinear, Scale
from gmbook.core.flows.multiscale import Multiscale


@pytest.mark.parametrize("base", [StandardNormal, StandardLogistic])
@pytest.mark.equation("nice-logistic")
def test_bases_against_scipy(base):
    law = {StandardNormal: scipy.stats.norm, StandardLogistic: scipy.stats.logistic}[base]
    z = torch.linspace(-6, 6, 12).reshape(6, 2)
    expected = torch.from_numpy(law.logpdf(z.numpy()).sum(1))
    torch.testing.assert_close(base((2,)).log_prob(z), expected, rtol=1e-12, atol=1e-12)
    sample = base((2,)).sample(20_000)
    assert scipy.stats.kstest(sample.flatten().numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.equation("change-of-variables")
def test_density_of_a_random_flow_integrates_to_one():
    parts = [InvertibleLinear(2), AffineCoupling(net(2, 4, False), parity_mask((2,)))]
    flow = Flow(randomise(Compose(*parts, PLULinear(2), Multiscale(ActNorm(1), net(1, 2, False)))), (2,))
    with torch.no_grad():
        reach = flow.sample(20_000).abs().max().item() + 4
        axis = torch.linspace(-reach, reach, 801)
        grid = torch.cartesian_prod(axis, axis)
        mass = flow.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(mass - 1) < 1e-3


@pytest.mark.equation("realnvp-floor")
def test_the_loss_of_a_flow_is_entropy_plus_kl():
    """A scaling as a flow is the law N(0, e^(−2s)); the data a mixture on the line; all three terms by quadrature."""
    data = scipy.stats.norm([-1.0, 0.8], [0.3, 0.6])
    flow = Flow(Scale((1,)), (1,))
    nn.init.constant_(flow.bijection.log_scale, -0.4)
    model = scipy.stats.norm(0, math.exp(0.4))

    def p(x):
        return 0.5 * data.pdf(x).sum()

    def integral(f):
        return scipy.integrate.quad(lambda x: p(x) * f(x), -8, 8, points=(-1, 0, 1), epsabs=1e-11)[0]

    entropy, kl = integral(lambda x: -math.log(p(x))), integral(lambda x: math.log(p(x)) - model.logpdf(x))
    loss = integral(lambda x: flow.loss(torch.tensor([[x]])).item())
    assert abs(loss - entropy - kl) < 1e-8 and kl > 0.1


@pytest.mark.equation("realnvp-stretch")
def test_least_stretch():
    """Reached by a map of the line with one steep piece; kept by fifty random monotone maps."""
    slope, gap = 7.0, 1.3
    edge = torch.tensor(scipy.stats.norm.cdf(-gap / (2 * slope)))  # g is steep on [−gap/2L, gap/2L], flat outside
    torch.testing.assert_close(least_stretch(gap, edge, edge), torch.tensor(slope), rtol=1e-9, atol=0)
    generator = torch.Generator().manual_seed(0)
    knots = torch.linspace(-4, 4, 33)
    for _ in range(50):
        slopes = 5 * torch.rand(32, generator=generator)
        g = torch.cat([torch.zeros(1), (slopes * knots.diff()).cumsum(0)])
        g = g - g.median()
        low, high = (knots[(g < end).nonzero().max()] for end in (-0.7, 0.7))  # masses smaller than the true ones
        left, right = scipy.stats.norm.cdf(low), scipy.stats.norm.sf(high + 0.25)
        bound = least_stretch(1.4, torch.tensor(left), torch.tensor(right))
        assert bound <= slopes.max()
    for bad in ((0.5, 0.5), (0.0, 0.3)):
        with pytest.raises(ValueError, match="no slope will do"):
            least_stretch(1.0, *map(torch.tensor, bad))
