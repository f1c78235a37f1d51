"""The claims of chapter 00 that no other file tests: KL, change of variables, Tweedie."""

import math

import pytest
import torch

from gmbook import metrics
from gmbook.core.gaussians import GaussianMixture


@pytest.mark.equation("kl-nonnegative")
def test_kl_is_not_negative_and_zero_only_for_equal_laws():
    """On random tables of six atoms; and to second order it is half the chi-square distance."""
    torch.manual_seed(0)
    for _ in range(200):
        p, q = 0.1 + torch.rand(2, 6, dtype=torch.float64)
        p, q = p / p.sum(), q / q.sum()
        assert metrics.kl(p, q) > 0
        assert abs(metrics.kl(p, p)) < 1e-15
        near = p + 1e-4 * (q - p)
        assert metrics.kl(p, near).item() == pytest.approx(((near - p) ** 2 / p).sum().item() / 2, rel=1e-2)


@pytest.mark.equation("change-of-variables")
def test_change_of_variables_against_a_known_density():
    """exp of a normal is log-normal: scipy's density; and a linear map of a normal is the normal with covariance
    AAᵀ."""
    import scipy.stats

    x = torch.linspace(0.1, 5, 50, dtype=torch.float64)
    inverse = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(inverse.log().sum(), inverse)
    got = -(x.log() ** 2) / 2 - math.log(2 * math.pi) / 2 + slope.abs().log()
    torch.testing.assert_close(got, torch.tensor(scipy.stats.lognorm(1.0).logpdf(x.numpy())))
    a = torch.randn(3, 3, dtype=torch.float64)
    points = torch.randn(7, 3, dtype=torch.float64)
    z = points @ torch.linalg.inv(a).T
    got = -(z**2).sum(1) / 2 - 1.5 * math.log(2 * math.pi) + torch.linalg.slogdet(torch.linalg.inv(a))[1]
    exact = torch.distributions.MultivariateNormal(torch.zeros(3).double(), a @ a.T)
    torch.testing.assert_close(got, exact.log_prob(points))


@pytest.mark.fact("N3")
@pytest.mark.equation("tweedie-formula")
@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.3), (0.6, 0.8), (0.2, 2.0)])
def test_tweedie(alpha, sigma):
    """The posterior mean by quadrature over x_0, against (x + σ² score)/α with the score by autograd."""
    law = GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[-1.0], [1.5]], dtype=torch.float64),
        torch.tensor([0.2, 0.05], dtype=torch.float64),
    )
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].requires_grad_()
    blurred = law.diffused(torch.tensor(alpha), torch.tensor(sigma).double())
    alpha, sigma = float(torch.tensor(alpha)), float(torch.tensor(sigma).double())
    (score,) = torch.autograd.grad(blurred.log_prob(x).sum(), x)
    grid = torch.linspace(-6, 6, 40_001, dtype=torch.float64)
    weight = (law.log_prob(grid[:, None]) - (x.detach() - alpha * grid) ** 2 / (2 * sigma**2)).softmax(1)
    torch.testing.assert_close(weight @ grid[:, None], (x.detach() + sigma**2 * score) / alpha, rtol=1e-6, atol=1e-6)
