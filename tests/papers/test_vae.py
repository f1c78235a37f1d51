"""The VAE against linear-Gaussian closed forms, quadrature and finite differences."""

import math

import pytest
import torch
from torch import nn

from gmbook.core.gaussians import kl_normal
from gmbook.papers.vae import VAE, Bernoulli, Gaussian, OptimalGaussian, linear_vae_rates


def normal(mean, std):
    return torch.distributions.Normal(*(torch.as_tensor(c, dtype=torch.float64) for c in (mean, std)))


class Affine(nn.Module):
    """The exact posterior of z ~ N(0, 1), x = wz + N(0, s²), or a wrong one: outputs (μ, log σ²)."""

    def __init__(self, w=1.3, s=0.8, shift=0.0, widen=1.0):
        super().__init__()
        variance = s**2 / (w**2 + s**2)
        self.gain, self.shift = w / (w**2 + s**2), nn.Parameter(torch.tensor(shift, dtype=torch.float64))
        self.log_variance = math.log(variance * widen**2)

    def forward(self, x):
        mean = self.gain * x + self.shift
        return torch.cat([mean, torch.full_like(mean, self.log_variance)], 1)


def linear_vae(shift=0.0, widen=1.0, w=1.3, s=0.8):
    decoder = nn.Linear(1, 1, bias=False)
    model = VAE(Affine(w, s, shift, widen), decoder, 1, (1,), Gaussian(s, learned=False)).double()
    decoder.weight.data.fill_(w)  # after the cast to float64
    model.likelihood.log_std.data.fill_(math.log(s))
    return model


def evidence(x, w=1.3, s=0.8):
    return normal(0.0, math.sqrt(w**2 + s**2)).log_prob(x).squeeze(1)


@pytest.mark.fact("V1")
@pytest.mark.equation("vae-elbo")
def test_three_forms_of_the_bound_on_a_linear_model():
    """log p − KL(q ‖ posterior) in closed form, against estimator B's exact mean by Gauss–Hermite quadrature, ≤
    1e-10."""
    import numpy as np

    x = torch.linspace(-2, 3, 6, dtype=torch.float64)[:, None]
    model = linear_vae(shift=0.3, widen=1.4)
    nodes, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(20))
    weights = weights / weights.sum()
    mean, std = model.encode(x)
    z = mean + std * nodes  # (B, 20)
    log_p = normal(1.3 * z, 0.8).log_prob(x)
    log_prior = normal(0.0, 1.0).log_prob(z)
    log_q = torch.distributions.Normal(mean, std).log_prob(z)
    first = (weights * (log_p + log_prior - log_q)).sum(1)
    second = (weights * log_p).sum(1) - kl_normal(mean, std).sum(1)
    exact_mean, exact_std = linear_vae().encode(x)
    third = evidence(x) - kl_normal(mean, std, exact_mean, exact_std).sum(1)
    torch.testing.assert_close(first, third, rtol=0, atol=1e-10)
    torch.testing.assert_close(second, third, rtol=0, atol=1e-10)
    torch.manual_seed(0)
    drawn = torch.stack([model.elbo(x) for _ in range(4000)])
    assert ((drawn.mean(0) - third).abs() < 5 * drawn.std(0) / math.sqrt(4000)).all()


@pytest.mark.equation("vae-weights")
def test_estimator_a_has_no_variance_at_the_true_posterior():
    x = torch.randn(5, 1, dtype=torch.float64)
    log_weights = linear_vae().log_weights(x, 100)
    torch.testing.assert_close(log_weights, evidence(x).expand(100, 5), rtol=0, atol=1e-10)
    assert linear_vae().elbo(x.repeat(100, 1)).reshape(100, 5).std(0).min() > 0.1  # B does vary


@pytest.mark.fact("V2")
@pytest.mark.equation("gaussian-kl")
def test_kl_against_quadrature():
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    q, p = normal(0.7, 0.5), normal(0.0, 1.0)
    integral = torch.trapezoid(q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z)), z)
    got = kl_normal(torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    assert got.item() == pytest.approx(integral.item(), abs=1e-9)
    assert got.item() == pytest.approx(0.563147, abs=1e-6)


@pytest.mark.fact("V3")
@pytest.mark.equation("vae-score-function")
def test_two_gradient_estimators_have_the_known_means_and_variances():
    """f = z², q = N(1, 1), gradient for μ: mean 2 for both, variance 4 by reparametrisation and 30 by the score
    function."""
    torch.manual_seed(0)
    n = 400_000
    mean = torch.ones(n, dtype=torch.float64, requires_grad=True)
    z = mean + torch.randn(n, dtype=torch.float64)
    (pathwise,) = torch.autograd.grad(z.square().sum(), mean)
    log_q = torch.distributions.Normal(mean, 1.0).log_prob(z.detach())
    (score,) = torch.autograd.grad((z.detach().square() * log_q).sum(), mean)
    for estimate, variance in ((pathwise, 4), (score, 30)):
        assert estimate.mean().item() == pytest.approx(2, abs=0.05)
        assert estimate.var().item() == pytest.approx(variance, rel=0.05)


def test_the_surrogate_has_the_gradient_of_the_bound():
    """Score-function gradient of the ELBO for an encoder parameter, averaged, against finite differences of the
    closed form."""
    torch.manual_seed(0)
    x = torch.tensor([[0.9]], dtype=torch.float64).expand(400_000, 1)
    model = linear_vae(shift=0.3, widen=1.2)
    model.score_function_surrogate(x, baseline=-1.5).backward()

    def bound(shift):
        exact, wrong = linear_vae().encode(x[:1]), linear_vae(shift, 1.2).encode(x[:1])
        return (evidence(x[:1]) - kl_normal(*wrong, *exact).sum()).item()

    expected = -(bound(0.3001) - bound(0.2999)) / 2e-4
    assert model.encoder.shift.grad.item() == pytest.approx(expected, rel=0.05)


@pytest.mark.fact("V4")
@pytest.mark.equation("vae-iwae")
def test_importance_weighted_bounds_rise_to_the_evidence():
    torch.manual_seed(0)
    x = torch.tensor([[1.7]], dtype=torch.float64).expand(4000, 1)
    model = linear_vae(shift=0.4, widen=1.5)
    bounds = [model.iwae(x, k).mean().item() for k in (1, 5, 50, 500)]
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3] < evidence(x[:1]).item() + 1e-3
    assert evidence(x[:1]).item() - bounds[3] < 0.01


@pytest.mark.fact("V5")
@pytest.mark.equation("vae-collapse")
def test_collapse_is_a_threshold():
    """λ = (5, 2, .4), σ² = ½: the published rates; and no encoder of a linear VAE does better, by optimising the
    bound."""
    eigenvalues = torch.tensor([5.0, 2.0, 0.4], dtype=torch.float64)
    torch.testing.assert_close(
        linear_vae_rates(eigenvalues, 0.5, 2.0), torch.tensor([0.8047, 0.3466, 0]).double(), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(
        linear_vae_rates(eigenvalues, 0.5), torch.tensor([1.1513, 0.6931, 0]).double(), rtol=0, atol=1e-4
    )
    for beta in (
        1.0,
        2.0,
    ):  # per unit: data variance λ, encoder N(ax, v), decoder N(wz, σ²): minimise the exact expected loss
        a, w, log_v = (torch.full((3,), c, dtype=torch.float64, requires_grad=True) for c in (0.5, 0.5, -0.5))
        optimiser = torch.optim.LBFGS([a, w, log_v], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def rate():
            return (a**2 * eigenvalues + log_v.exp() - 1 - log_v) / 2  # noqa: B023

        def closure():
            optimiser.zero_grad()  # noqa: B023
            error = (1 - a * w) ** 2 * eigenvalues + w**2 * log_v.exp()  # noqa: B023
            value = (error / (2 * 0.5) + beta * rate()).sum()  # noqa: B023
            value.backward()
            return value

        optimiser.step(closure)
        torch.testing.assert_close(rate().detach(), linear_vae_rates(eigenvalues, 0.5, beta), rtol=0, atol=1e-4)


@pytest.mark.equation("vae-reparametrisation")
def test_reparametrised_draws_have_the_encoder_law():
    torch.manual_seed(0)
    z = linear_vae().reparametrise(torch.full((200_000, 1), 0.7), torch.full((200_000, 1), 0.5))
    assert z.mean().item() == pytest.approx(0.7, abs=0.005) and z.std().item() == pytest.approx(0.5, abs=0.005)


@pytest.mark.equation("vae-optimal-sigma")
def test_optimal_sigma_is_the_maximum_likelihood_constant():
    x, output = torch.randn(2, 64, 5, dtype=torch.float64)
    best = OptimalGaussian().double().log_prob(x, output).mean()
    stds = torch.linspace(0.5, 3, 500)
    assert all(Gaussian(s.item(), learned=False).double().log_prob(x, output).mean() <= best + 1e-12 for s in stds)
    evaluating = OptimalGaussian().double()
    evaluating.log_prob(x, output)
    torch.testing.assert_close(evaluating.eval().log_prob(x, output).mean(), best)


@pytest.mark.equation("vae-bernoulli")
def test_bernoulli_is_a_probability_on_binary_images():
    """Summed over all 16 images of four pixels it is 1; on grey targets it is not a likelihood, with an entropy
    floor."""
    logits = torch.tensor([[0.3, -2.0, 1.1, 0.0]], dtype=torch.float64)
    images = torch.tensor([[i >> k & 1 for k in range(4)] for i in range(16)], dtype=torch.float64)
    assert Bernoulli().log_prob(images, logits.expand(16, 4)).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 8, 8)], ids=str)
def test_contract(shape):
    size = math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, 6))
    decoder = nn.Sequential(nn.Linear(3, size), nn.Unflatten(1, shape))
    model = VAE(encoder, decoder, 3, shape)
    x = torch.rand(5, *shape).round()
    model.loss(x).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert model.sample(4).shape == (4, *shape) and model.elbo(x).shape == (5,) and model.iwae(x, 7).shape == (5,)
    assert model.active_units(x).shape == (3,)
    with pytest.raises(TypeError, match="floating"):
        model.loss(x.long())
