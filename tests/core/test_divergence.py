"""Divergences against autograd Jacobians, and likelihoods along an ODE against closed forms."""

import math

import pytest
import torch
from torch import nn

from gmbook.core.divergence import divergence, log_likelihood
from gmbook.core.gaussians import log_normal
from gmbook.core.solvers import dopri5, rk4


@pytest.mark.parametrize("shape", [(2,), (2, 4, 4), (3, 3, 3)], ids=str)
def test_exact_divergence_is_the_trace_of_the_jacobian(shape):
    torch.manual_seed(0)
    size = torch.Size(shape).numel()
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(size, 20), nn.Tanh(), nn.Linear(20, size), nn.Unflatten(1, shape)
    ).double()
    x = torch.randn(3, *shape, dtype=torch.float64)
    value, got = divergence(net, x)
    torch.testing.assert_close(value, net(x))
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v: net(v[None])[0], x[i]).reshape(size, size)
        torch.testing.assert_close(got[i], jacobian.trace(), rtol=1e-12, atol=1e-12)


@pytest.mark.fact("FFJORD-F4")
@pytest.mark.equation("ffjord-hutchinson")
def test_hutchinson_is_unbiased_with_the_known_variances():
    """For xᵀAx: mean tr A, variance 2‖A_s‖² (Gaussian), 2(‖A_s‖² − Σa_ii²) (Rademacher), A_s the symmetric part."""
    torch.manual_seed(0)
    a = torch.randn(6, 6, dtype=torch.float64)
    x = torch.randn(200_000, 6, dtype=torch.float64)
    symmetric = (a + a.T) / 2
    variance = 2 * symmetric.square().sum()
    off_diagonal = variance - 2 * symmetric.diagonal().square().sum()
    for probe, expected in ((torch.randn_like(x), variance), (torch.randn_like(x).sign(), off_diagonal)):
        _, estimate = divergence(lambda x: x @ a.T, x, probe)
        assert abs(estimate.mean() - a.trace()) < 4 * (expected / len(x)).sqrt()
        assert estimate.var() == pytest.approx(expected.item(), rel=0.02)


def test_divergence_can_be_trained_through():
    x, scale = torch.randn(4, 2).double(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for probe in (None, torch.randn(4, 2).double().sign()):
        _, got = divergence(lambda x: scale * x, x, probe, create_graph=True)
        (gradient,) = torch.autograd.grad(got.sum(), scale)
        assert gradient.item() == pytest.approx(8.0)  # d/ds of 4 · 2s


@pytest.mark.fact("FFJORD-F1")
@pytest.mark.equation("ode-likelihood")
def test_likelihood_of_a_linear_flow_is_the_exact_gaussian():
    """x' = Ax carries N(0, e^{−A}e^{−Aᵀ}) at 0 to N(0, I) at 1."""
    a = torch.tensor([[0.4, -0.8], [0.3, -0.2]], dtype=torch.float64)
    pull = torch.linalg.matrix_exp(-a)
    exact = torch.distributions.MultivariateNormal(torch.zeros(2).double(), pull @ pull.T)
    x = torch.randn(7, 2, dtype=torch.float64)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    tight = lambda f, x, ts: dopri5(f, x, ts, 1e-10, 1e-10)  # noqa: E731 - a solver with its tolerance
    got, end = log_likelihood(lambda x, t: x @ a.T, x, ts, lambda z: log_normal(z, 0.0, 1.0), solver=tight)
    torch.testing.assert_close(got, exact.log_prob(x), rtol=0, atol=1e-8)
    torch.testing.assert_close(end, x @ torch.linalg.matrix_exp(a).T, rtol=1e-8, atol=1e-8)


@pytest.mark.fact("FFJORD-F2")
def test_likelihood_of_a_nonlinear_flow_in_closed_form():
    """x' = tanh x: sinh x(t) = eᵗ sinh x(0), so log-det = t + log cosh x(0) − log cosh x(t)."""
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    end = torch.asinh(math.exp(0.8) * torch.sinh(x))
    exact = log_normal(end, 0.0, 1.0) + (0.8 + x.cosh().log() - end.cosh().log())[:, 0]
    ts = torch.linspace(0, 0.8, 201, dtype=torch.float64)
    got, _ = log_likelihood(lambda x, t: x.tanh(), x, ts, lambda z: log_normal(z, 0.0, 1.0), solver=rk4)
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-9)
