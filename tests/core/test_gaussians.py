"""Gaussians and mixtures, against torch.distributions, scipy, autograd, quadrature and sampling moments."""

import math

import pytest
import scipy.stats
import torch
from torch import distributions

from gmbook.core.gaussians import GaussianMixture, kl_normal, kl_normal_full, log_discretised_normal, log_normal

WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
ALPHA, SIGMA = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)


def case(kind, shape=(2,)):
    """A mixture of three components, and the same law by torch.distributions, on the flattened event."""
    generator = torch.Generator().manual_seed(3)
    size = math.prod(shape)
    means = torch.randn(3, *shape, dtype=torch.float64, generator=generator)
    factor = torch.randn(3, size, size, dtype=torch.float64, generator=generator) / math.sqrt(size)
    if kind == "isotropic":
        variances = torch.tensor([0.1, 0.5, 0.3], dtype=torch.float64)
        covariances = variances[:, None, None] * torch.eye(size, dtype=torch.float64)
        mixture = GaussianMixture(3 * WEIGHTS, means, variances)
    elif kind == "diagonal":
        variances = factor.square().sum(1) + 0.1
        covariances = torch.diag_embed(variances)
        mixture = GaussianMixture(3 * WEIGHTS, means, variances)
    else:
        covariances = factor @ factor.mT + 0.1 * torch.eye(size, dtype=torch.float64)
        mixture = GaussianMixture.full(3 * WEIGHTS, means, covariances)
    parts = distributions.MultivariateNormal(means.flatten(1), covariances)
    return mixture, distributions.MixtureSameFamily(distributions.Categorical(WEIGHTS), parts)


kinds = pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
shapes = pytest.mark.parametrize("shape", [(2,), (1, 8, 8)], ids=str)


def quadrature(low=-7.0, high=7.0, cells=280):
    """Midpoint rule on a square: points (cells², 2) and the area of a cell."""
    axis = low + (high - low) / cells * (torch.arange(cells, dtype=torch.float64) + 0.5)
    return torch.cartesian_prod(axis, axis), ((high - low) / cells) ** 2


@kinds
@shapes
def test_mixture_log_prob_and_responsibilities(kind, shape):
    mixture, reference = case(kind, shape)
    x = 2 * torch.randn(16, *shape, dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(x), reference.log_prob(x.flatten(1)), rtol=1e-10, atol=1e-10)
    parts = reference.component_distribution.log_prob(x.flatten(1)[:, None])
    expected = WEIGHTS * parts.exp() / (WEIGHTS * parts.exp()).sum(1, keepdim=True)
    torch.testing.assert_close(mixture.responsibilities(x), expected, rtol=1e-8, atol=1e-10)


@kinds
@shapes
@pytest.mark.equation("mixture-score")
def test_mixture_score_is_the_gradient(kind, shape):
    mixture, reference = case(kind, shape)
    x = torch.randn(16, *shape, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(reference.log_prob(x.flatten(1)).sum(), x)
    torch.testing.assert_close(mixture.score(x.detach()), expected, rtol=1e-9, atol=1e-9)


@kinds
@shapes
def test_mixture_moments_and_samples(kind, shape):
    mixture, reference = case(kind, shape)
    parts = reference.component_distribution
    mean = WEIGHTS @ parts.loc
    second = torch.einsum("k,kde->de", WEIGHTS, parts.covariance_matrix + parts.loc[:, :, None] * parts.loc[:, None])
    covariance = second - mean[:, None] * mean
    torch.testing.assert_close(mixture.mean().flatten(), mean)
    torch.testing.assert_close(mixture.covariance(), covariance)

    torch.manual_seed(0)
    n = 40_000 if shape == (2,) else 4_000
    samples, labels = mixture.sample_with_labels(n)
    assert samples.shape == (n, *shape)
    share = torch.bincount(labels, minlength=3) / n
    torch.testing.assert_close(share.double(), WEIGHTS, rtol=0, atol=5 * 0.5 / math.sqrt(n))
    flat = samples.flatten(1)
    assert ((flat.mean(0) - mean).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
    scale = covariance.diagonal().sqrt()
    assert ((flat.T.cov() - covariance).abs() < 8 * scale[:, None] * scale / math.sqrt(n)).all()


@kinds
@shapes
@pytest.mark.equation("mixture-diffused")
def test_diffused_mixture_is_the_blurred_law(kind, shape):
    """Against the reference whose components are scaled and blurred one by one with full matrices."""
    mixture, reference = case(kind, shape)
    parts = reference.component_distribution
    noise = SIGMA**2 * torch.eye(math.prod(shape), dtype=torch.float64)
    blurred = distributions.MultivariateNormal(ALPHA * parts.loc, ALPHA**2 * parts.covariance_matrix + noise)
    reference = distributions.MixtureSameFamily(distributions.Categorical(WEIGHTS), blurred)
    x = torch.randn(16, *shape, dtype=torch.float64)
    law = mixture.diffused(ALPHA, SIGMA)
    torch.testing.assert_close(law.log_prob(x), reference.log_prob(x.flatten(1)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(law.covariance(), ALPHA**2 * mixture.covariance() + noise)


@kinds
@pytest.mark.equation("mixture-diffused")
@pytest.mark.equation("mixture-posterior-mean")
def test_blur_and_posterior_by_quadrature(kind):
    """p(x_t) = ∫ p(x) N(x_t; αx, σ²) dx and E[x | x_t] as a ratio of integrals."""
    mixture, reference = case(kind)
    points, area = quadrature()
    xt = torch.randn(12, 2, dtype=torch.float64)
    kernel = -(xt[:, None] - ALPHA * points).square().sum(-1) / (2 * SIGMA**2) - (2 * math.pi * SIGMA**2).log()
    joint = (reference.log_prob(points) + kernel).exp() * area  # (12, points)
    density = joint.sum(1)
    torch.testing.assert_close(mixture.diffused(ALPHA, SIGMA).log_prob(xt), density.log(), rtol=1e-8, atol=1e-8)
    expected = joint @ points / density[:, None]
    torch.testing.assert_close(mixture.posterior_mean(xt, ALPHA, SIGMA), expected, rtol=1e-8, atol=1e-8)


@kinds
@shapes
@pytest.mark.equation("mixture-posterior-mean")
def test_tweedie(kind, shape):
    """E[x | x_t] = (x_t + σ² ∇ log p_t(x_t))/α, with the score by autograd; α and σ per example."""
    mixture, _ = case(kind, shape)
    xt = torch.randn(4, *shape, dtype=torch.float64).requires_grad_()
    alphas, sigmas = torch.linspace(0.3, 1, 4, dtype=torch.float64), torch.linspace(0.9, 0.1, 4, dtype=torch.float64)
    scores = []
    for alpha, sigma, x in zip(alphas, sigmas, xt.detach()):
        x = x[None].requires_grad_()
        scores.append(torch.autograd.grad(mixture.diffused(alpha, sigma).log_prob(x).sum(), x)[0])
    per_example = (-1, *[1] * len(shape))
    expected = (xt + sigmas.reshape(per_example) ** 2 * torch.cat(scores)) / alphas.reshape(per_example)
    torch.testing.assert_close(mixture.posterior_mean(xt, alphas, sigmas), expected, rtol=1e-9, atol=1e-9)


@kinds
def test_posterior_mean_at_both_ends(kind):
    mixture, reference = case(kind)
    x, one, zero = torch.randn(5, 2, dtype=torch.float64), torch.ones(()), torch.zeros(())
    torch.testing.assert_close(mixture.posterior_mean(x, one, zero), x)
    torch.testing.assert_close(mixture.posterior_mean(x, zero, one), reference.mean.expand(5, 2))


def test_narrow_components_keep_their_digits_in_float32():
    """Two components 0.002 apart with std 0.001, far from the origin: float32 must agree with float64."""
    means = torch.tensor([[3.0, 3.0], [3.002, 3.0]], dtype=torch.float32)
    mixture = GaussianMixture(torch.ones(2), means, torch.full((2,), 1e-6))
    x = torch.tensor([[3.0009, 3.0], [3.0015, 3.0001]])
    torch.testing.assert_close(
        mixture.responsibilities(x).double(), mixture.responsibilities(x.double()), rtol=1e-4, atol=0
    )


def test_mixture_refuses_bad_input():
    ones, means = torch.ones(2), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="must share K"):
        GaussianMixture(ones, torch.zeros(3, 3), ones)
    with pytest.raises(ValueError, match="positive"):
        GaussianMixture(ones, means, torch.zeros(2))
    with pytest.raises(ValueError, match="variances must be"):
        GaussianMixture(ones, means, torch.ones(2, 2))
    with pytest.raises(ValueError, match="expected a batch of shape"):
        GaussianMixture(ones, means, ones).log_prob(torch.zeros(4, 2))


@shapes
def test_log_normal(shape):
    x, mean = torch.randn(2, 6, *shape, dtype=torch.float64)
    std = torch.rand(6, *shape, dtype=torch.float64) + 0.1
    expected = distributions.Normal(mean, std).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(log_normal(x, mean, std), expected)
    expected = distributions.Normal(0.0, 2.0).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(log_normal(x, 0.0, 2.0), expected)


@pytest.mark.fact("V2")
@pytest.mark.equation("gaussian-kl")
def test_kl_normal():
    mean, std = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    assert kl_normal(mean, std).item() == pytest.approx(0.563147, abs=5e-7)
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    q, p = scipy.stats.norm(0.7, 0.5), scipy.stats.norm(-0.4, 1.3)
    integrand = torch.from_numpy(q.pdf(x) * (q.logpdf(x) - p.logpdf(x)))
    assert kl_normal(mean, std, -0.4, 1.3).item() == pytest.approx(torch.trapezoid(integrand, x).item(), abs=1e-9)

    means, stds = torch.randn(2, 5, 3, dtype=torch.float64), torch.rand(2, 5, 3, dtype=torch.float64) + 0.2
    q, p = (distributions.Normal(m, s) for m, s in zip(means, stds))
    expected = distributions.kl_divergence(q, p)
    torch.testing.assert_close(kl_normal(means[0], stds[0], means[1], stds[1]), expected)


def test_kl_normal_full():
    mean_q, mean_p = torch.randn(2, 4, 3, dtype=torch.float64)
    factors = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    cov_q, cov_p = factors @ factors.mT + 0.2 * torch.eye(3)
    q, p = distributions.MultivariateNormal(mean_q, cov_q), distributions.MultivariateNormal(mean_p, cov_p)
    expected = distributions.kl_divergence(q, p)
    torch.testing.assert_close(kl_normal_full(mean_q, cov_q, mean_p, cov_p), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.fact("D6")
@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.3, 0.01), (-1.4, 0.2), (0.999, 0.002)])
def test_discretised_normal_sums_to_one(mean, std):
    x = -1 + 2 * torch.arange(256, dtype=torch.float64) / 255
    mean, std = (torch.full_like(x, c) for c in (mean, std))
    log_mass = log_discretised_normal(x, mean, std)
    assert abs(log_mass.exp().sum().item() - 1) <= 1e-12
    law = scipy.stats.norm(mean, std)
    upper, lower = x + 1 / 255, x - 1 / 255
    upper[-1], lower[0] = math.inf, -math.inf
    expected = torch.from_numpy(law.cdf(upper) - law.cdf(lower))
    torch.testing.assert_close(log_mass.exp(), expected, rtol=1e-7, atol=1e-14)


def test_discretised_normal_is_finite_far_out():
    """40 std away, where a difference of Φ is 0 − 0, in both tails and in float32."""
    x = torch.tensor([-0.9, 0.9], dtype=torch.float32).sub(-1).mul(127.5).round().div(127.5).sub(1)
    mean, std = torch.tensor([0.9, -0.9]), torch.full((2,), 0.045)
    law, half = scipy.stats.norm(mean.double(), std.double()), 1 / 255
    lower, upper = law.logcdf(x.double() - half), law.logcdf(x.double() + half)
    lower_sf, upper_sf = law.logsf(x.double() - half), law.logsf(x.double() + half)
    expected = [
        upper[0] + math.log1p(-math.exp(lower[0] - upper[0])),
        lower_sf[1] + math.log1p(-math.exp(upper_sf[1] - lower_sf[1])),
    ]
    torch.testing.assert_close(
        log_discretised_normal(x, mean, std).double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=0
    )
