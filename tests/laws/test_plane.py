"""Toy laws, against quadrature, autograd, convolution, Tweedie's formula, chi-square tests and closed forms."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from gmbook.laws import plane

PANEL, NODES = 0.5, 12  # Gauss–Legendre in panels whose edges hold the checkerboard's
laws = pytest.mark.parametrize("name", [make.__name__ for make in plane.ALL])
blurs = pytest.mark.parametrize("alpha, sigma", [(0.9, 0.3), (0.6, 0.8), (0.05, 1.0), (1.0, 4.0)])


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.fixture(scope="module")
def quadrature():
    """Points (P², 2) and weights (P²,) of a rule on [-6, 6]², made here from numpy's nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    starts = np.arange(-6, 6, PANEL)
    axis = torch.from_numpy((starts[:, None] + PANEL * (nodes + 1) / 2).ravel())
    weights = torch.from_numpy(np.tile(weights * PANEL / 2, len(starts)))
    return torch.cartesian_prod(axis, axis), (weights[:, None] * weights).flatten()


@pytest.fixture(scope="module")
def tables(quadrature):
    """Every law, made in float64, with log p on the quadrature's points, by name; computed once."""
    found, before = {}, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    for make in plane.ALL:
        law = make()
        found[make.__name__] = law, plane.log_prob_on(law, quadrature[0])
    torch.set_default_dtype(before)
    return found


@laws
def test_density_integrates_to_one_with_moderate_moments(name, tables, quadrature):
    (law, log_p), (points, weights) = tables[name], quadrature
    mass = log_p.exp() * weights
    assert mass.sum().item() == pytest.approx(1, abs=1e-7)
    std = (mass @ points.square() - (mass @ points).square()).sqrt()
    assert ((std > 0.7) & (std < 1.5)).all()
    assert mass[(points.abs() < law.limits[1]).all(1)].sum() > 0.995


@laws
def test_score_is_the_gradient(name, tables):
    law, _ = tables[name]
    x = law.sample(200).requires_grad_()
    (expected,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(law.score(x.detach()), expected, rtol=1e-9, atol=1e-9)


@laws
def test_entropy(name, tables, quadrature):
    """Against the other quadrature, and against −E log p over samples."""
    (law, log_p), (_, weights) = tables[name], quadrature
    p = log_p.exp()
    assert law.entropy() == pytest.approx(-(torch.xlogy(p, p) * weights).sum().item(), abs=1e-5)
    surprise = -law.log_prob(law.sample(20_000))
    assert abs(surprise.mean().item() - law.entropy()) <= 4.5 * surprise.std().item() / math.sqrt(20_000) + 1e-6


def test_entropies_in_closed_form():
    law = plane.gaussian().double()
    expected = torch.linalg.slogdet(2 * math.pi * math.e * law.law.covariance())[1].item() / 2
    assert law.entropy() == pytest.approx(expected, abs=1e-5)
    assert plane.checkerboard().entropy() == pytest.approx(math.log(8), abs=1e-9)
    lone = 1 + math.log(2 * math.pi * 0.15**2)  # neighbours are eight std apart: hardly an overlap
    assert plane.eight_gaussians().entropy() == pytest.approx(math.log(8) + lone, abs=1e-3)


@laws
def test_samples_follow_the_density(name, tables, quadrature):
    """Chi-square over cells of ½ × ½, whose exact probabilities the quadrature gives."""
    (law, log_p), (_, weights) = tables[name], quadrature
    size = round(12 / PANEL)
    share = (log_p.exp() * weights).reshape(size, NODES, size, NODES).sum((1, 3)).flatten()
    cell = ((law.sample(20_000) + 6) / PANEL).floor().long()
    counts = torch.bincount(cell[:, 0] * size + cell[:, 1], minlength=size**2).double()
    expected = 20_000 * share
    many = expected >= 5
    observed = [*counts[many].tolist(), counts[~many].sum().item()]
    expected = [*expected[many].tolist(), 20_000 - expected[many].sum().item()]
    if expected[-1] < 1:
        assert observed[-1] <= 6
        observed, expected = observed[:-1], np.array(expected[:-1]) * sum(observed[:-1]) / sum(expected[:-1])
    assert scipy.stats.chisquare(observed, expected, sum_check=False).pvalue > 1e-3


@laws
@blurs
def test_blur_and_posterior_mean_by_convolution(name, alpha, sigma, tables, quadrature):
    """p(x_t) = ∫ p(x) N(x_t; αx, σ²I) dx, E[x | x_t] as a ratio of integrals, at 16 points of the blurred law."""
    (law, log_p), (points, weights) = tables[name], quadrature
    xt = alpha * law.sample(16) + sigma * torch.randn(16, 2, dtype=torch.float64)
    kernel = -(xt[:, None] - alpha * points).square().sum(-1) / (2 * sigma**2) - math.log(2 * math.pi * sigma**2)
    joint = (log_p + kernel).exp() * weights
    density = joint.sum(1)
    blurred = law.diffused(scalar(alpha), scalar(sigma))
    torch.testing.assert_close(blurred.log_prob(xt), density.log(), rtol=0, atol=1e-6)
    expected = joint @ points / density[:, None]
    torch.testing.assert_close(law.posterior_mean(xt, scalar(alpha), scalar(sigma)), expected, rtol=0, atol=1e-6)


@laws
@blurs
def test_score_of_the_blur_and_tweedie(name, alpha, sigma, tables):
    law, _ = tables[name]
    blurred = law.diffused(scalar(alpha), scalar(sigma))
    xt = blurred.sample(50).requires_grad_()
    (score,) = torch.autograd.grad(blurred.log_prob(xt).sum(), xt)
    xt = xt.detach()
    torch.testing.assert_close(blurred.score(xt), score, rtol=1e-8, atol=1e-8)
    tweedie = (xt + sigma**2 * score) / alpha
    torch.testing.assert_close(law.posterior_mean(xt, scalar(alpha), scalar(sigma)), tweedie, rtol=1e-8, atol=1e-7)


@laws
def test_blur_of_a_blur(name, tables):
    """αx + σε, scaled and blurred again, is one blur; its posterior mean obeys Tweedie's formula."""
    law, _ = tables[name]
    first = law.diffused(scalar(0.9), scalar(0.3))
    second, once = first.diffused(scalar(0.7), scalar(0.4)), law.diffused(scalar(0.63), scalar(math.hypot(0.21, 0.4)))
    x = once.sample(30)
    torch.testing.assert_close(second.log_prob(x), once.log_prob(x), rtol=1e-9, atol=1e-9)
    tweedie = (x + 0.4**2 * once.score(x)) / 0.7
    torch.testing.assert_close(first.posterior_mean(x, scalar(0.7), scalar(0.4)), tweedie, rtol=1e-9, atol=1e-9)


@laws
@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=str)
def test_posterior_mean_at_both_ends(name, dtype, atol, tables, quadrature):
    """σ = 0 returns x; α = 0 returns E x; one batch may hold both."""
    (law, log_p), (points, weights) = tables[name], quadrature
    x = law.sample(6).to(dtype)
    alpha, sigma = torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=dtype), torch.tensor([0.0, 0, 0, 1, 1, 1], dtype=dtype)
    mean = (log_p.exp() * weights) @ points
    expected = torch.cat((x[:3], mean.to(dtype).expand(3, 2)))
    torch.testing.assert_close(law.posterior_mean(x, alpha, sigma), expected, rtol=0, atol=max(atol, 1e-7))


@laws
def test_samples_have_the_default_dtype_and_repeat(name):
    law = getattr(plane, name)()
    torch.manual_seed(5)
    first = law.sample(7)
    torch.manual_seed(5)
    assert torch.equal(law.sample(7), first)
    assert first.shape == (7, 2) and first.dtype == torch.float32 and law.shape == (2,)


@pytest.mark.parametrize("make", [plane.two_gaussians, plane.eight_gaussians])
def test_modes_are_the_maxima(make):
    law = make().double()
    torch.testing.assert_close(law.score(law.modes), torch.zeros_like(law.modes), rtol=0, atol=1e-4)
    near = law.modes + 0.05 * torch.randn(20, *law.modes.shape)
    assert (law.log_prob(near.reshape(-1, 2)).reshape(20, -1) < law.log_prob(law.modes)).all()


def test_checkerboard_is_uniform_on_the_dark_squares():
    law = plane.checkerboard()
    x = torch.tensor([[-1.5, -1.5], [-0.5, -0.5], [-1.5, 0.5], [-1.5, -0.5], [0.5, -0.5], [2.5, 0.0], [0.0, -9.0]])
    expected = torch.tensor([-math.log(8)] * 3 + [-math.inf] * 4)
    torch.testing.assert_close(law.log_prob(x), expected)
    assert not law.score(x).any()


def test_denoiser_of_the_checkerboard_far_out_and_with_little_noise():
    """Beyond the board the posterior mean tends to its nearest point, without NaN, in float32."""
    law = plane.checkerboard()
    xt = torch.tensor([[30.0, 1.7], [-30.0, -30.0], [1.5, 300.0], [-1.5, -1.25]])
    mean = law.posterior_mean(xt, torch.tensor(1.0), torch.tensor(0.01))
    nearest = torch.tensor([[2.0, 1.7], [-2.0, -2.0], [1.5, 2.0], [-1.5, -1.25]])
    torch.testing.assert_close(mean, nearest, rtol=0, atol=1e-3)
    score = law.diffused(torch.tensor(1.0), torch.tensor(0.01)).score(xt)
    torch.testing.assert_close(score, (nearest - xt) / 1e-4, rtol=1e-3, atol=1e-1)


def moments_on(low, width):
    """∫ e^{base − z²/2} dz and ∫ (z − low) e^{base − z²/2} dz over [low, low + width], and base, by quadrature."""
    high = low + width
    base = 0.0 if low < 0 < high else min(low**2, high**2) / 2
    peak = min(max(-low, 0.0), width)
    scale = 1 / max(1.0, abs(low + peak))  # how fast the integrand falls there
    edges = sorted({0.0, width, *(min(max(peak + c * scale, 0.0), width) for c in (-30, -8, -2, 0, 2, 8, 30))})

    def integral(power):
        def f(s):
            return s**power * math.exp(base - (low + s) ** 2 / 2)

        return sum(scipy.integrate.quad(f, a, b, epsabs=0, epsrel=1e-11)[0] for a, b in zip(edges, edges[1:]))

    return integral(0), integral(1), base


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 2e-4)], ids=str)
@pytest.mark.parametrize("low", [-55.0, -6.0, -1.5, -0.3, 0.0, 0.2, 1.0, 7.0, 40.0])
@pytest.mark.parametrize("width", [1e-7, 1e-3, 0.4375, 0.5625, 1.25, 6.0, 60.0])
def test_truncated_normal(low, width, dtype, tolerance):
    """Both tails and all widths, on both sides of the change of formula."""
    low, width = torch.tensor(low, dtype=dtype), torch.tensor(width, dtype=dtype)
    mass, first, base = moments_on(low.item(), width.item())
    expected = math.log(mass / width.item()) - base - math.log(2 * math.pi) / 2
    log_density, fraction = plane.truncated_normal(low, width)
    assert log_density.item() == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert fraction.item() == pytest.approx(first / mass / width.item(), abs=tolerance)


def test_a_board_refuses_what_is_none():
    with pytest.raises(ValueError, match="increasing edges"):
        plane.Board(torch.tensor([0.0, 1.0, 1.0]), torch.ones(2, 2))
    with pytest.raises(ValueError, match="increasing edges"):
        plane.Board(torch.arange(3.0), torch.ones(3, 3))
    with pytest.raises(ValueError, match="must not be negative"):
        plane.Board(torch.arange(3.0), -torch.ones(2, 2))
    with pytest.raises(ValueError, match="expected a batch"):
        plane.checkerboard().log_prob(torch.zeros(3, 3))


def test_a_board_with_unequal_cells():
    board = plane.Board(torch.tensor([-1.0, 0.0, 2.0]).double(), torch.tensor([[1.0, 2.0], [0.0, 3.0]]).double())
    x = torch.tensor([[-0.5, -0.5], [-0.5, 1.0], [1.0, -0.5], [1.0, 1.0]]).double()
    expected = torch.tensor([1 / 6, 2 / 6 / 2, 0.0, 3 / 6 / 4]).double()
    torch.testing.assert_close(board.log_prob(x).exp(), expected)
    centres = torch.tensor([[-0.5, -0.5], [-0.5, 1.0], [1.0, 1.0]]).double()
    mean = torch.tensor([1.0, 2.0, 3.0]).double() @ centres / 6
    n = 40_000
    assert ((board.sample(n).mean(0) - mean).abs() < 5 / math.sqrt(n)).all()
