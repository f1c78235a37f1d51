"""Score SDE against moment equations, finite differences of exact densities, and exact likelihoods."""

import math

import pytest
import torch
from specimen import Specimen, net, rough

from gmbook.core.denoiser import Denoiser, ideal
from gmbook.core.divergence import divergence
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import CosinePath, LinearPath, SubVPPath, TablePath, VEPath, VPPath
from gmbook.core.probability_flow import flow_field
from gmbook.core.probability_flow import log_likelihood as flow_log_likelihood
from gmbook.core.solvers import dopri5, euler, heun, midpoint, rk4
from gmbook.papers import score_sde
from gmbook.papers.ddpm import linear_betas

SPECIMEN = Specimen(lambda: score_sde.ScoreSDE(net(), VPPath(), (2,)))

MEASURES = {
    "likelihood": lambda model, x: flow_log_likelihood(model, x, solver=rough),
}

WALKS = {
    "Euler": lambda model: score_sde.probability_flow(model, 4, 3, euler),
    "midpoint": lambda model: score_sde.probability_flow(model, 4, 3, midpoint),
    "Heun": lambda model: score_sde.probability_flow(model, 4, 3, heun),
    "RK4": lambda model: score_sde.probability_flow(model, 4, 3, rk4),
    "dopri5": lambda model: score_sde.probability_flow(model, 4, 1, rough),
    "reverse SDE": lambda model: score_sde.reverse_sde(model, 4, 3),
    "predictor-corrector": lambda model: score_sde.predictor_corrector(model, 4, 3),
}

SMOOTH = [LinearPath(), VPPath(), SubVPPath(), VEPath(), CosinePath()]
PATHS = [*SMOOTH, TablePath(linear_betas())]
smooth_cases = pytest.mark.parametrize("path", SMOOTH, ids=lambda p: type(p).__name__)
path_cases = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)

MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[-1.0, 0.5], [1.0, -0.3]], dtype=torch.float64),
    torch.tensor([[0.2, 0.3], [0.5, 0.25]], dtype=torch.float64),
)


def density_at(path, x, t):
    return MIXTURE.diffused(path.alpha(t), path.sigma(t)).log_prob(x).exp()


def time_derivative(path, x, t, h=1e-5):
    return (density_at(path, x, t + h) - density_at(path, x, t - h)) / (2 * h)


@pytest.mark.fact("S1")
@pytest.mark.equation("sde-moments")
@pytest.mark.parametrize("path", [VPPath(), SubVPPath(), VEPath()], ids=lambda p: type(p).__name__)
def test_moments_solve_their_equations(path):
    """m' = f m and v' = 2fv + g² with the paper's own f and g, integrated by dopri5 from the start, against α and
    σ²."""
    beta = lambda t: 0.1 + 19.9 * t  # noqa: E731 - the paper's β(t)
    integral = lambda t: 0.1 * t + 19.9 * t**2 / 2  # noqa: E731

    def moments(state, t):
        drift = 0.0 if isinstance(path, VEPath) else -beta(t) / 2
        ratio = math.log(50 / 0.01)
        g2 = {
            VPPath: beta(t),
            SubVPPath: beta(t) * (1 - torch.exp(-2 * integral(t))),
            VEPath: 2 * ratio * (0.01 * torch.exp(ratio * t)) ** 2,
        }[type(path)]
        return torch.stack([drift * state[0], 2 * drift * state[1] + g2])

    ts = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    start = torch.stack([path.alpha(ts[0]), path.sigma(ts[0]) ** 2])
    for t, state in zip(ts[1:], dopri5(moments, start, ts, 1e-11, 1e-11)):
        torch.testing.assert_close(state[0], path.alpha(t), rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(state[1], path.sigma(t) ** 2, rtol=1e-8, atol=1e-9)


@pytest.mark.fact("S1")
@pytest.mark.equation("sde-moments")
def test_how_much_of_the_data_is_left_at_the_end():
    """e^{−B(1)} = e^{−10.05} = 4.3186e-5 of the variance; DDPM's table of 1000 steps leaves 4.0358e-5."""
    one = torch.ones((), dtype=torch.float64)
    assert VPPath().alpha(one).item() ** 2 == pytest.approx(4.3186e-5, rel=1e-5)
    assert TablePath(linear_betas()).alpha(one).item() ** 2 == pytest.approx(4.0358e-5, rel=1e-5)


@smooth_cases
@pytest.mark.fact("S2")
@pytest.mark.equation("sde-fokker-planck")
def test_fokker_planck(path):
    """∂_t p = −∇·(f x p) + ½g² Δp on a diffusing mixture, derivatives of the exact density by autograd."""
    t = torch.tensor(0.4, dtype=torch.float64)
    x = torch.randn(9, 2, dtype=torch.float64)
    drift = path.rates(t)[0] / path.alpha(t)

    def gradient(x):
        with torch.enable_grad():
            x = x if x.requires_grad else x.requires_grad_()
            return torch.autograd.grad(density_at(path, x, t).sum(), x, create_graph=True)[0]

    slope, laplacian = divergence(gradient, x)
    p = density_at(path, x, t)
    right = -drift * (2 * p + (x * slope).sum(1)) + path.noise_rate(t) / 2 * laplacian
    torch.testing.assert_close(time_derivative(path, x, t), right.detach(), rtol=0, atol=1e-5)


@pytest.mark.fact("S2b")
def test_the_double_sum_of_the_survey_is_not_fokker_planck():
    """Σ_ij ∂_i∂_j instead of the Laplacian misses by g²(2/3)p(0) at the centre of a Gaussian with ρ = ½."""
    covariance = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    precision, h = torch.linalg.inv(covariance), 1e-4
    p0 = 1 / (2 * math.pi * torch.linalg.det(covariance).sqrt())
    grown = lambda v: 1 / (2 * math.pi * torch.linalg.det(covariance + v * torch.eye(2).double()).sqrt())  # noqa: E731
    exact = (grown(h) - grown(-h)) / (2 * h)  # dx = dw: the covariance grows by I dt
    hessian = -precision * p0  # of p at 0
    torch.testing.assert_close(hessian.trace() / 2, exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(hessian.sum() / 2 - exact, 2 / 3 * p0, rtol=1e-5, atol=0)


@pytest.mark.fact("S2b")
@pytest.mark.equation("sde-fokker-planck")
def test_fokker_planck_of_a_correlated_gaussian():
    """VP from covariance [[1, ρ], [ρ, 1]]: the Laplacian form holds to 1e-5 at any point, the survey's sum does not."""
    path, start = VPPath(), torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    x, t, h = torch.tensor([0.3, -0.4], dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64), 1e-4

    def density(x, t):
        covariance = path.alpha(t) ** 2 * start + path.sigma(t) ** 2 * torch.eye(2)
        return torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance).log_prob(x).exp()

    slope = torch.autograd.functional.jacobian(lambda x: density(x, t), x)
    hessian = torch.autograd.functional.hessian(lambda x: density(x, t), x)
    rate = (density(x, t + h) - density(x, t - h)) / (2 * h)
    drift, g2 = path.rates(t)[0] / path.alpha(t), path.noise_rate(t)
    rest = rate + drift * (2 * density(x, t) + x @ slope)
    assert abs(rest - g2 / 2 * hessian.trace()) < 1e-5
    assert abs(rest - g2 / 2 * hessian.sum()) > 1e-2


@smooth_cases
@pytest.mark.fact("S3")
@pytest.mark.equation("sde-probability-flow")
def test_probability_flow_satisfies_the_continuity_equation(path):
    """∂_t p + ∇·(p v) = 0, v from the ideal denoiser."""
    t, x = torch.tensor(0.5, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    field = flow_field(ideal(MIXTURE, path))
    _, rate = divergence(lambda x: density_at(path, x, t)[:, None] * field(x, t), x)
    torch.testing.assert_close(time_derivative(path, x, t), -rate, rtol=0, atol=1e-5)


@path_cases
@pytest.mark.fact("S4")
@pytest.mark.equation("ode-likelihood")
def test_likelihood_along_the_ode_is_exact_on_mixtures(path):
    """With the truth as network, log p along the flow equals the mixture's log-density at t_min, to 1e-4 nats."""
    from gmbook.core.divergence import log_likelihood

    law = MIXTURE
    x = law.sample(64)
    ts = torch.tensor([path.t_min, path.t_max], dtype=torch.float64)
    start, end = (law.diffused(path.alpha(t), path.sigma(t)) for t in ts)
    tight = lambda f, x, ts: dopri5(f, x, ts, 1e-7, 1e-7)  # noqa: E731 - a solver with its tolerance
    got, _ = log_likelihood(flow_field(ideal(law, path)), x, ts, end.log_prob, solver=tight)
    torch.testing.assert_close(got, start.log_prob(x), rtol=0, atol=1e-4)


def test_the_gaussian_prior_costs_little():
    """The flow's likelihood takes N(0, σ²) at t_max: on VP, e^{−10.05} of the signal is left, a matter of 0.01 nats."""
    x = MIXTURE.sample(64)
    got = flow_log_likelihood(ideal(MIXTURE, VPPath()), x)
    start = MIXTURE.diffused(*(c(torch.tensor(1e-3).double()) for c in (VPPath().alpha, VPPath().sigma)))
    assert (got - start.log_prob(x)).abs().max() < 0.05
    assert abs((got - start.log_prob(x)).mean()) < 0.005


@pytest.mark.fact("S4")
@pytest.mark.equation("ode-likelihood")
def test_likelihood_of_a_mixture_to_six_digits_and_the_price_of_the_wrong_prior():
    """From t = 0, where the score of a mixture is finite: 1e-6 nats; with N(0, I) in place of p_1, 1e-4 or more."""
    from gmbook.core.divergence import log_likelihood

    path, law = VPPath(), MIXTURE
    x = law.sample(16)
    drift = score_sde.reverse_drift(ideal(law, path), 0.0)
    ts = torch.tensor([1e-9, 1.0], dtype=torch.float64)
    tight = lambda f, x, ts: dopri5(f, x, ts, 1e-10, 1e-10)  # noqa: E731 - a solver with its tolerance
    end = law.diffused(path.alpha(ts[1]), path.sigma(ts[1]))
    got, z = log_likelihood(drift, x, ts, end.log_prob, solver=tight)
    torch.testing.assert_close(got, law.log_prob(x), rtol=0, atol=1e-6)
    wrong = got - end.log_prob(z) + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert 1e-4 < (wrong - law.log_prob(x)).abs().max() < 0.1


@path_cases
@pytest.mark.fact("S5")
@pytest.mark.equation("sde-reverse-family")
@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_the_whole_reverse_family_returns_the_data(path, noise):
    """Gaussian data of std ½: variance along dx = [fx − (1 + λ²)/2 g² s]dt + λg dw, integrated exactly, is the
    path's."""
    law = GaussianMixture(torch.ones(1).double(), torch.zeros(1, 1).double(), torch.tensor([0.25]).double())
    drift = score_sde.reverse_drift(ideal(law, path), noise)
    one = torch.ones(1, 1, dtype=torch.float64)

    def variance_rate(v, t):  # drift is linear, a(t)x: going down in time dv/dt = 2av − λ²g²
        return 2 * drift(one, t) * v - noise**2 * path.noise_rate(t)

    ts = path.times(40, 2.0)
    variance = lambda t: path.alpha(t) ** 2 * 0.25 + path.sigma(t) ** 2  # noqa: E731
    *_, end = dopri5(variance_rate, variance(ts[0]).reshape(1, 1), ts, 1e-9, 1e-9)
    torch.testing.assert_close(end.squeeze(), variance(ts[-1]), rtol=0, atol=1e-6)


def test_guidance_by_a_gradient_gives_the_posterior():
    """Prior N(0, 1), observation y = x + N(0, ½²): reverse SDE plus ∇log p_t(y | x_t) ends at N(0.8y, 0.2)."""
    torch.manual_seed(0)
    law, path, y = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1)), VPPath(), 1.5

    def guide(x, t):  # x_0 | x_t ~ N(αx, σ²), so y | x_t ~ N(αx, σ² + ¼)
        alpha, sigma = path.alpha(t), path.sigma(t)
        return alpha * (y - alpha * x) / (sigma**2 + 0.25)

    ts, model = path.times(500, 2.0), ideal(law, path)
    *_, before, _ = score_sde.sde_trajectory(model, model.prior(40_000), ts, guide=guide)
    assert before.mean().item() == pytest.approx(0.8 * y, abs=0.02)
    assert before.var().item() == pytest.approx(0.2, abs=0.01)


@pytest.mark.equation("sde-dsm")
@pytest.mark.parametrize("weighted", [False, True])
def test_training_loss_is_least_at_the_truth(weighted):
    torch.manual_seed(0)
    truth, x0, losses = ideal(MIXTURE, VPPath()), MIXTURE.sample(20_000), []
    for scale in (0.9, 1.0, 1.1):
        torch.manual_seed(1)
        net = lambda x, t, y, s=scale: s * truth.predict("eps", x, t)  # noqa: E731
        losses.append(score_sde.ScoreSDE(net, VPPath(), (2,), weighted).loss(x0))
    assert losses[1] < losses[0] and losses[1] < losses[2]


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 8, 8)], ids=str)
def test_contract(shape):
    model = score_sde.ScoreSDE(lambda x, t, y: 0.1 * x, VPPath(), shape)
    assert model.loss(torch.randn(4, *shape)).shape == ()
    for sample in (score_sde.probability_flow, score_sde.reverse_sde, score_sde.predictor_corrector):
        assert sample(model, 3, 4).shape == (3, *shape)
    x = torch.randn(2, *shape)
    probe = torch.randn_like(x).sign()
    assert flow_log_likelihood(Denoiser(lambda x, t, y: 0.1 * x, VPPath(), "eps", shape), x, probe=probe).shape == (2,)


def test_no_steps_are_refused():
    model = SPECIMEN.build()
    for sampler in (score_sde.reverse_sde, score_sde.probability_flow, score_sde.predictor_corrector):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            sampler(model, 2, 0)
