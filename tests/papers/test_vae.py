"""The VAE against linear-Gaussian closed forms, quadrature and finite differences."""

import math

import pytest
import scipy.stats
import torch
from specimen import Returns, Specimen, defaults
from torch import nn

from gmbook.core.gaussians import kl_normal, kl_normal_full
from gmbook.networks.mlp import MLP
from gmbook.papers.theory.vae import linear_vae_rates, mean_field_gap
from gmbook.papers.vae import VAE, Bernoulli, Gaussian, OptimalGaussian

SPECIMEN = Specimen(lambda: VAE(MLP(2, 4, 16), MLP(2, 2, 16), 2, (2,), Gaussian()), labels=False)

MEASURES = {
    "elbo": lambda model, x: model.elbo(x),
    "iwae": lambda model, x: model.iwae(x, 3),
    "refine": lambda model, x: model.refine(x, 2, draws=2)[0],
    "active units": lambda model, x: model.active_units(x),
    "score function": lambda model, x: model.score_function_surrogate(x),
}


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
    """log p − KL(q ‖ posterior) in closed form, against both estimators' exact means by Gauss–Hermite quadrature."""
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
@pytest.mark.equation("vae-kl")
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
    """f = z², q = N(1, 1), gradient for μ: mean 2 for both, variance 4 by reparametrisation, 30 by score function."""
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
    """Score-function gradient of the ELBO for an encoder parameter, against finite differences of the closed form."""
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
    """λ = (5, 2, .4), σ² = ½: the known rates; and no encoder of a linear VAE does better, by optimising the bound."""
    eigenvalues = torch.tensor([5.0, 2.0, 0.4], dtype=torch.float64)
    torch.testing.assert_close(
        linear_vae_rates(eigenvalues, 0.5, 2.0), torch.tensor([0.8047, 0.3466, 0]).double(), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(
        linear_vae_rates(eigenvalues, 0.5), torch.tensor([1.1513, 0.6931, 0]).double(), rtol=0, atol=1e-4
    )
    # per unit: data variance λ, encoder N(ax, v), decoder N(wz, σ²): minimise the exact expected loss
    for beta in (1.0, 2.0):
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


@pytest.mark.equation("vae-reparametrisation")
def test_the_gradient_of_the_code_is_that_of_finite_differences():
    """With the noise held, the loss is a smooth function of every weight: autograd against central differences."""
    torch.manual_seed(1)
    model = VAE(nn.Linear(3, 4), nn.Linear(2, 3), 2, (3,), Gaussian(0.7)).double()
    x = torch.randn(8, 3, dtype=torch.float64)

    def loss():
        torch.manual_seed(5)
        return model.loss(x)

    gradients = torch.autograd.grad(loss(), list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients):
            flat = parameter.view(-1)
            for i in range(len(flat)):
                kept, values = flat[i].item(), []
                for h in (1e-5, -1e-5):
                    flat[i] = kept + h
                    values.append(loss().item())
                flat[i] = kept
                assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient.view(-1)[i].item(), rel=1e-4, abs=1e-6)


@pytest.mark.equation("vae-gradient-variance")
@pytest.mark.parametrize(("mean", "std"), [(1.0, 1.0), (0.3, 0.8), (-2.0, 0.5)])
def test_gradient_variances_by_quadrature(mean, std):
    """f = z_1² + z_2² + z_3², gradient for μ_1, exact by Gauss–Hermite quadrature over three coordinates."""
    import numpy as np

    nodes, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(12))
    weights = weights / weights.sum()
    eps = torch.cartesian_prod(nodes, nodes, nodes)
    weight = torch.cartesian_prod(weights, weights, weights).prod(1)
    z = mean + std * eps
    m = mean**2 + std**2

    def moments(value):
        centre = (weight * value).sum()
        return centre.item(), (weight * (value - centre).square()).sum().item()

    score = (z[:, 0] - mean) / std**2
    alone = mean**4 / std**2 + 14 * mean**2 + 15 * std**2
    others = 2 * m * 2 * (mean**2 / std**2 + 3) + (2 * (2 * std**4 + 4 * mean**2 * std**2) + 4 * m**2) / std**2
    centred = 8 * mean**2 + 10 * std**2 + 2 * (2 * std**2 + 4 * mean**2)
    assert moments(2 * z[:, 0]) == pytest.approx((2 * mean, 4 * std**2))
    assert moments(z[:, 0].square() * score) == pytest.approx((2 * mean, alone))
    assert moments(z.square().sum(1) * score) == pytest.approx((2 * mean, alone + others))
    assert moments((z.square().sum(1) - 3 * m) * score) == pytest.approx((2 * mean, centred))


class Tied(nn.Module):
    """μ = xA, log σ² = c: a linear encoder with one variance per unit, all given."""

    def __init__(self, gain, variance):
        super().__init__()
        self.gain, self.log_variance = gain, variance.log()

    def forward(self, x):
        return torch.cat([x @ self.gain, self.log_variance.expand(len(x), -1)], 1)


def linear_model(weight, variance, gain, q_variance):
    """x = Wz + N(0, σ²I) with the encoder N(xA, diag v), in float64."""
    size, latent = weight.shape
    decoder = nn.Linear(latent, size, bias=False)
    model = VAE(Tied(gain, q_variance), decoder, latent, (size,), Gaussian(1.0, learned=False)).double()
    decoder.weight.data.copy_(weight)
    model.likelihood.log_std.data.fill_(math.log(variance) / 2)
    return model


def linear_posterior(weight, variance):
    """Precision Λ = I + WᵀW/σ² and gain (x ↦ xA) of the exact posterior of a linear model."""
    precision = torch.eye(weight.shape[1], dtype=torch.float64) + weight.T @ weight / variance
    return precision, weight @ precision.inverse() / variance


def joint_normal(weight, variance):
    """The exact law of x."""
    covariance = weight @ weight.T + variance * torch.eye(len(weight), dtype=torch.float64)
    return torch.distributions.MultivariateNormal(torch.zeros(len(weight), dtype=torch.float64), covariance)


@pytest.mark.equation("vae-kl-full")
def test_full_kl_against_torch():
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 3, dtype=torch.float64)
    a, b = a @ a.T + 0.1 * torch.eye(3), b @ b.T + 0.1 * torch.eye(3)
    m, n = torch.randn(2, 3, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal
    expected = torch.distributions.kl_divergence(law(m, a), law(n, b))
    torch.testing.assert_close(kl_normal_full(m, a, n, b), expected, rtol=1e-10, atol=0)


@pytest.mark.fact("V1")
@pytest.mark.equation("vae-gap")
def test_the_gap_is_the_kl_to_the_posterior_in_several_dimensions():
    """D = 4, d = 2, a full-covariance q: E_q log p(x, z) + H(q) by torch's laws, against log p(x) − KL(q ‖ p(z|x))."""
    torch.manual_seed(0)
    weight, x, mean = (torch.randn(*s, dtype=torch.float64) for s in ((4, 2), (4,), (2,)))
    root = torch.randn(2, 2, dtype=torch.float64)
    covariance = root @ root.T + 0.1 * torch.eye(2)
    precision, gain = linear_posterior(weight, 0.3)
    evidence = joint_normal(weight, 0.3).log_prob(x)
    gap = kl_normal_full(mean, covariance, x @ gain, precision.inverse())
    residual = (x - weight @ mean).square().sum() + torch.trace(weight @ covariance @ weight.T)
    log_joint = -2 * math.log(2 * math.pi * 0.3) - residual / 0.6
    log_joint = log_joint - math.log(2 * math.pi) - (mean.square().sum() + torch.trace(covariance)) / 2
    entropy = torch.distributions.MultivariateNormal(mean, covariance).entropy()
    torch.testing.assert_close(log_joint + entropy, evidence - gap, rtol=0, atol=1e-10)
    # and the code's bound, for a diagonal q: its mean over many draws
    q = (torch.randn(1, 2, dtype=torch.float64), torch.tensor([[0.4, 1.1]], dtype=torch.float64))
    model = linear_model(weight, 0.3, gain, torch.ones(2, dtype=torch.float64))
    n = 200_000
    drawn = model.elbo(x.expand(n, 4), tuple(c.expand(n, 2) for c in q))
    expected = evidence - kl_normal_full(q[0][0], torch.diag(q[1][0] ** 2), x @ gain, precision.inverse())
    assert abs(drawn.mean() - expected) < 5 * drawn.std() / math.sqrt(n)


@pytest.mark.equation("vae-iwae-gap")
def test_the_importance_weighted_gap_falls_like_one_over_k():
    """log p − E L_k times 2k against Var[w]/p², in closed form for Gaussians: one plus it is ∫ p(z|x)²/q(z|x) dz."""
    torch.manual_seed(0)
    model, k = linear_vae(shift=0.2, widen=1.3), 200
    x = torch.tensor([[1.1]], dtype=torch.float64)
    (m, s), (a, b) = (tuple(c.item() for c in v.encode(x)) for v in (model, linear_vae()))
    z = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    spread = torch.trapezoid((2 * normal(a, b).log_prob(z) - normal(m, s).log_prob(z)).exp(), z).item() - 1
    closed = s**2 / (b * math.sqrt(2 * s**2 - b**2)) * math.exp((m - a) ** 2 / (2 * s**2 - b**2)) - 1
    assert closed == pytest.approx(spread, rel=1e-8)
    bounds = torch.cat([model.iwae(x.expand(2000, 1), k) for _ in range(20)])
    relative = bounds - evidence(x)
    gap = (relative.expm1() - relative).detach()  # E[w̄/p] = 1 exactly: a control variate
    assert gap.mean().item() == pytest.approx(spread / (2 * k), rel=0.05)


@pytest.mark.equation("vae-surgery")
def test_rate_is_information_plus_distance_of_the_aggregate():
    """Seven points in one dimension, by quadrature over z: mean KL = I(x; z) + KL(q(z) ‖ p(z))."""
    model = linear_vae(shift=0.4, widen=1.2)
    x = torch.linspace(-2, 4, 7, dtype=torch.float64)[:, None]
    mean, std = model.encode(x)
    z = torch.linspace(-9, 9, 40_001, dtype=torch.float64)
    log_q = torch.distributions.Normal(mean, std).log_prob(z)  # (7, Z)
    log_aggregate = log_q.logsumexp(0) - math.log(7)
    information = torch.trapezoid(log_q.exp() * (log_q - log_aggregate), z).mean()
    distance = torch.trapezoid(log_aggregate.exp() * (log_aggregate - normal(0.0, 1.0).log_prob(z)), z)
    torch.testing.assert_close(model.rate_distortion(x)[0].mean(), information + distance, rtol=0, atol=1e-9)


@pytest.mark.equation("vae-rate-distortion")
def test_information_lies_between_entropy_less_distortion_and_rate():
    """Gaussian data, random linear models; the information ½ log(1 + a²λ/v) is known. Equality at the best model."""
    torch.manual_seed(0)
    n, lam = 200_000, 2.0
    x = math.sqrt(lam) * torch.randn(n, 1, dtype=torch.float64)
    entropy = 0.5 * math.log(2 * math.pi * math.e * lam)
    for a, v, w, variance in ((0.5, 0.3, 1.2, 0.5), (-0.2, 1.5, 0.4, 1.0), (1.0, 0.05, -0.3, 0.2)):
        model = linear_model(*(torch.tensor(c).double() for c in ([[w]], variance, [[a]], [v])))
        rate, distortion = model.rate_distortion(x)
        information = 0.5 * math.log(1 + a**2 * lam / v)
        assert entropy - distortion.mean() < information < rate.mean()
    weight, variance = torch.tensor([[math.sqrt(1.5)]], dtype=torch.float64), torch.tensor(0.5)
    precision, gain = linear_posterior(weight, 0.5)
    rate, distortion = linear_model(weight, variance, gain, 1 / precision[0]).rate_distortion(x)
    tolerance = 5 * max(rate.std(), distortion.std()) / math.sqrt(n)
    information = 0.5 * math.log(1 + gain.item() ** 2 * lam * precision.item())
    assert abs(rate.mean() - information) < tolerance and abs(entropy - distortion.mean() - information) < tolerance


@pytest.mark.equation("vae-floor")
def test_the_mean_loss_is_entropy_plus_two_divergences():
    """Data N(0.5, 1.7²), a linear model that is wrong in all its parts: each term in closed form, against the loss."""
    torch.manual_seed(0)
    model, exact = linear_vae(shift=0.3, widen=1.4), linear_vae()
    n, a, b = 400_000, 0.5, 1.7
    x = a + b * torch.randn(n, 1, dtype=torch.float64)
    entropy = 0.5 * math.log(2 * math.pi * math.e * b**2)
    model_variance = 1.3**2 + 0.8**2
    divergence = ((b**2 + a**2) / model_variance - 1 - math.log(b**2 / model_variance)) / 2
    (mean, std), (true_mean, true_std) = model.encode(x[:1]), exact.encode(x[:1])
    ratio = (std / true_std).square()
    gap = ((ratio + ((mean - true_mean) / true_std).square() - 1 - ratio.log()) / 2).item()  # the same for every x
    drawn = -model.elbo(x)
    assert abs(drawn.mean().item() - (entropy + divergence + gap)) < 5 * drawn.std().item() / math.sqrt(n)


@pytest.mark.equation("vae-gaps")
@pytest.mark.equation("vae-mean-field-gap")
def test_the_refined_q_is_the_best_diagonal_gaussian():
    """Correlated posterior, bad encoder: refinement finds mean and variances 1/Λ_jj, and leaves the closed-form gap."""
    torch.manual_seed(0)
    weight = torch.tensor([[1.0, 0.8], [0.3, 1.1], [-0.2, 0.5]], dtype=torch.float64)
    precision, gain = linear_posterior(weight, 0.4)
    model = linear_model(weight, torch.tensor(0.4), 0.5 * gain, torch.tensor([1.0, 0.2]).double())
    x = joint_normal(weight, 0.4).sample((40,))
    mean, std = model.refine(x, steps=400, draws=64)
    best = precision.diagonal().rsqrt()
    torch.testing.assert_close(mean, x @ gain, rtol=0, atol=0.05)
    torch.testing.assert_close(std, best.expand(40, 2), rtol=0.05, atol=0)

    def gap(mean, std):
        return kl_normal_full(mean, torch.diag_embed(std.square()), x @ gain, precision.inverse()).mean().item()

    approximation = mean_field_gap(precision).item()
    assert approximation == pytest.approx(gap(x @ gain, best.expand(40, 2)), abs=1e-12)
    assert approximation > 0.1 and mean_field_gap(torch.diag(precision.diagonal())).abs() < 1e-12
    assert approximation <= gap(mean, std) < approximation + 0.005 < gap(*model.encode(x)) - 0.1


@pytest.mark.equation("vae-minibatch")
def test_minibatches_estimate_the_sum_over_the_data_without_bias():
    """All 20 minibatches of three out of six points, enumerated; a q so narrow that z is not random."""
    from itertools import combinations

    model = linear_model(*(torch.tensor(c).double() for c in ([[1.3]], 0.6, [[0.7]], [1e-24])))
    x = torch.randn(6, 1, dtype=torch.float64)
    estimates = torch.stack([-6 * model.loss(x[list(part)]) for part in combinations(range(6), 3)])
    assert estimates.std() > 0.1
    assert estimates.mean().item() == pytest.approx(model.elbo(x).sum().item(), rel=1e-9)


@pytest.mark.fact("V5")
@pytest.mark.equation("vae-collapse")
def test_a_linear_vae_at_its_optimum_is_probabilistic_pca():
    """W = U(Λ − σ²)^½ with its exact posterior: the rates of the formula, and the bound is the Gaussian likelihood."""
    torch.manual_seed(0)
    eigenvalues, variance = torch.tensor([5.0, 2.0, 0.5, 0.5], dtype=torch.float64), 0.5
    axes = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    weight = axes[:, :3] * (eigenvalues[:3] - variance).clamp(min=0).sqrt()
    precision, gain = linear_posterior(weight, variance)
    model = linear_model(weight, torch.tensor(variance), gain, 1 / precision.diagonal())
    data = torch.distributions.MultivariateNormal(torch.zeros(4).double(), axes @ torch.diag(eigenvalues) @ axes.T)
    x = data.sample((200_000,))
    mean, std = model.encode(x)
    torch.testing.assert_close(
        kl_normal(mean, std).mean(0), linear_vae_rates(eigenvalues[:3], variance), rtol=0, atol=0.02
    )
    torch.testing.assert_close(model.log_weights(x[:50], 1)[0], data.log_prob(x[:50]), rtol=0, atol=1e-9)
    assert model.active_units(x).tolist() == [True, True, False]


@pytest.mark.equation("vae-gaussian")
def test_gaussian_likelihood_against_torch():
    torch.manual_seed(0)
    x, output = torch.randn(2, 5, 1, 2, 2, dtype=torch.float64)
    likelihood = Gaussian(0.3).double()
    std = likelihood.log_std.exp()
    expected = torch.distributions.Normal(output, std).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(likelihood.log_prob(x, output), expected)
    drawn = likelihood.draw(torch.full((200_000, 1), 2.0, dtype=torch.float64))
    assert drawn.mean().item() == pytest.approx(2, abs=0.005) and drawn.std().item() == pytest.approx(0.3, abs=0.005)


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
    """Summed over all 16 images of four pixels it is 1."""
    logits = torch.tensor([[0.3, -2.0, 1.1, 0.0]], dtype=torch.float64)
    images = torch.tensor([[i >> k & 1 for k in range(4)] for i in range(16)], dtype=torch.float64)
    assert Bernoulli().log_prob(images, logits.expand(16, 4)).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_beta_weighs_the_rate_in_the_loss_and_nothing_else():
    """From the same draws: loss = distortion + 3 · rate, the bound is without β; the rate is torch's KL."""
    plain, weighted = linear_vae(shift=0.3, widen=1.4), linear_vae(shift=0.3, widen=1.4)
    weighted.beta = 3.0
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    mean, std = plain.encode(x)
    rate = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), normal(0.0, 1.0)).sum(1)
    values = []
    for act in (lambda: plain.elbo(x), lambda: weighted.elbo(x), lambda: plain.loss(x), lambda: weighted.loss(x)):
        torch.manual_seed(0)
        values.append(act())
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=0)
    distortion = -values[0] - rate
    torch.testing.assert_close(values[2], (distortion + rate).mean())
    torch.testing.assert_close(values[3], (distortion + 3 * rate).mean())


@pytest.mark.parametrize("beta", [0.25, 0.6])
def test_a_light_rate_bounds_another_model_and_not_this_one(beta):
    """β < 1 and the exact posterior: −(D + βR) lies (1 − β)R above log p(x), so it bounds nothing there. From the same
    draws of any q it is, up to the factor β and a constant, the bound of the decoder with the variance βσ²."""
    w, s, x = 1.3, 0.8, torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    model = linear_vae(w=w, s=s)
    mean, std = model.encode(x)
    distortion = ((x - w * mean) ** 2 + (w * std) ** 2).squeeze(1) / (2 * s**2) + math.log(s * math.sqrt(2 * math.pi))
    rate, _ = model.rate_distortion(x)
    torch.testing.assert_close(-(distortion + beta * rate) - evidence(x, w, s), (1 - beta) * rate)
    assert (rate > 0.1).all()
    constants = []
    for shift, widen in ((0.0, 1.0), (0.4, 1.5), (-1.0, 0.6)):
        light, other = linear_vae(shift, widen, w, s), linear_vae(shift, widen, w, s)
        light.beta = beta
        other.likelihood.log_std.data.fill_(math.log(s * math.sqrt(beta)))
        for row in x:
            losses = []
            for each in (light, other):
                torch.manual_seed(0)
                losses.append(each.loss(row[None]))
            constants.append(losses[0] / beta - losses[1])
    torch.testing.assert_close(torch.stack(constants), constants[0].expand(27))


def test_a_perfect_baseline_leaves_no_gradient():
    """At the true posterior f is log p(x) for every draw: with that baseline each estimate is 0, without it none is."""
    x = torch.tensor([[0.9]], dtype=torch.float64)
    for baseline, silent in ((evidence(x).item(), True), (0.0, False)):
        torch.manual_seed(0)
        model = linear_vae()
        model.score_function_surrogate(x, baseline=baseline).backward()
        assert (abs(model.encoder.shift.grad.item()) < 1e-10) == silent


def test_a_unit_is_active_by_the_variance_of_its_mean():
    """Means of standard deviation .2 and .05: variances .04 and .0025, on either side of the threshold .01."""
    torch.manual_seed(0)
    spread = nn.Linear(2, 4, bias=False)
    with torch.no_grad():
        spread.weight.copy_(torch.tensor([[0.2, 0.0], [0.0, 0.05], [0.0, 0.0], [0.0, 0.0]]))
    model = VAE(spread, MLP(2, 2, 8), 2, (2,), Gaussian())
    assert model.active_units(torch.randn(5000, 2)).tolist() == [True, False]
    with torch.no_grad():
        spread.weight[1].zero_()
    assert model.active_units(torch.randn(100, 2), threshold=0.0).tolist() == [True, False]  # 0 is not above 0


def test_refinement_starts_from_the_encoders_answer():
    torch.manual_seed(1)
    model, x = VAE(MLP(2, 4, 8), MLP(2, 2, 8), 2, (2,), Gaussian()), torch.randn(5, 2)
    for refined, guessed in zip(model.refine(x, steps=0), model.encode(x), strict=True):
        torch.testing.assert_close(refined, guessed.detach())


def test_bernoulli_mean_and_draws_are_those_of_torch():
    torch.manual_seed(0)
    logits = torch.tensor([-3.0, -0.4, 0.3, 0.8, 2.0])
    want = torch.distributions.Bernoulli(logits=logits).mean
    torch.testing.assert_close(Bernoulli().mean(logits), want)
    share = Bernoulli().draw(logits.expand(20_000, 5)).mean(0)
    assert ((share - want).abs() < 5 * (want * (1 - want) / 20_000).sqrt()).all()


def test_samples_come_from_the_standard_normal_prior():
    torch.manual_seed(0)
    z = VAE(MLP(2, 4, 8), nn.Identity(), 2, (2,), Gaussian()).sample(20_000)
    assert scipy.stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


def test_reparametrisation_is_not_always_quieter():
    """cos(ωz) under N(1, 1), by quadrature of both estimators: 1.94 against .44 at ω = 2, 12.5 against .50 at ω = 5."""
    z = torch.linspace(-11, 13, 200_001, dtype=torch.float64)
    weight = normal(1.0, 1.0).log_prob(z).exp() * (z[1] - z[0])
    for omega, path, score in ((2.0, 1.94, 0.44), (5.0, 12.5, 0.50)):
        draws = (-omega * torch.sin(omega * z), torch.cos(omega * z) * (z - 1))
        means = [(weight * draw).sum() for draw in draws]
        assert abs(means[0] - means[1]) < 1e-9  # both are unbiased
        found = [((weight * draw.square()).sum() - mean**2).item() for draw, mean in zip(draws, means)]
        assert found == pytest.approx([path, score], abs=0.01 if omega == 2.0 else 0.05)


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


@pytest.mark.parametrize(("encoder", "decoder"), [((4, 4), (4,)), ((4, 2), (4, 1)), ((4, 4), (1, 1))])
def test_outputs_that_would_broadcast_are_refused(encoder, decoder):
    with pytest.raises(ValueError, match="must return"):
        VAE(Returns(*encoder), Returns(*decoder), 2, (1,), Gaussian()).loss(torch.randn(4, 1))


def test_pixels_outside_0_to_1_and_no_draws_are_refused():
    """The Bernoulli code length of grey −1 or of 255 can be below 0."""
    model, x = VAE(MLP(16, 4, 8, 1), MLP(2, 16, 8, 1), 2, (16,), Bernoulli()), torch.rand(4, 16)
    assert model.loss(x, torch.zeros(4)).isfinite()  # labels, which a loader may bring, play no part
    for wrong in (2 * x - 1, 255 * x):
        with pytest.raises(ValueError, match="values must lie in"):
            model.elbo(wrong)
    for act in (lambda: model.iwae(x, 0), lambda: model.sample(0)):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            act()


def test_what_changes_the_model_is_off_unless_asked_for():
    assert {"beta": 1.0}.items() <= defaults(VAE).items()
    assert {"baseline": 0.0}.items() <= defaults(VAE.score_function_surrogate).items()
