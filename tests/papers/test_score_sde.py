"""Score SDE against moment equations, finite differences of exact densities, and exact likelihoods."""

import math

import pytest
import torch
from specimen import Specimen, defaults, net, rough

from gmbook.core.control import grey_basis, replace_known
from gmbook.core.denoiser import Denoiser, ideal
from gmbook.core.divergence import divergence
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import CosinePath, LinearPath, SubVPPath, TablePath, VEPath, VPPath
from gmbook.core.probability_flow import flow_field
from gmbook.core.probability_flow import log_likelihood as flow_log_likelihood
from gmbook.core.solvers import dopri5, euler, heun, last, midpoint, rk4
from gmbook.papers import ncsn, score_sde
from gmbook.papers.ddpm import linear_betas
from gmbook.papers.theory import score_sde as theory

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
@pytest.mark.equation("sde-three")
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
@pytest.mark.equation("sde-likelihood")
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
@pytest.mark.equation("sde-reverse")
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


@pytest.mark.equation("sde-condition")
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


# ------------------------------------------------------------------------------------- predictor, corrector, control


def folded(mean, std):
    """E|N(mean, std²)|."""
    return std * math.sqrt(2 / math.pi) * math.exp(-((mean / std) ** 2) / 2) + mean * math.erf(mean / std / 2**0.5)


def gaussian_recursion(path, centre, spread, ts, predictor, corrections, snr):
    """Mean and variance of every state of predictor and corrector on data N(centre, spread²) in one dimension.

    All steps are affine in x with Gaussian noise, x ← ax + b + √c z, and the corrector's size follows from E|z|/E|s|.
    """
    moments = []

    def law(t):
        return path.alpha(t).item(), path.sigma(t).item()

    mean, variance = 0.0, law(ts[0])[1] ** 2
    for t, s in zip(ts[:-1], ts[1:]):
        (alpha, sigma), (alpha_s, sigma_s) = law(t), law(s)
        total, ratio, h = (alpha * spread) ** 2 + sigma**2, alpha / alpha_s, (t - s).item()
        eta2 = sigma**2 - (ratio * sigma_s) ** 2
        drift, g2 = (path.rates(t)[0] / path.alpha(t)).item(), path.noise_rate(t).item()
        a, gain, c, scale = {
            score_sde.euler_maruyama_predictor: (1 - h * drift, h * g2, h * g2, 1.0),
            score_sde.reverse_diffusion: (2 - ratio, eta2, eta2, 1.0),
            score_sde.ancestral: (1.0, eta2, eta2 * sigma_s**2 / sigma**2, ratio),
            score_sde.no_predictor: (1.0, 0.0, 0.0, 1.0),
        }[predictor]
        a, b = (a - gain / total) / scale, gain * alpha * centre / total / scale
        mean, variance = a * mean + b, a**2 * variance + c
        total = (alpha_s * spread) ** 2 + sigma_s**2
        for _ in range(corrections):
            size = folded(-(mean - alpha_s * centre) / total, variance**0.5 / total)
            size = 4 * (snr * math.sqrt(2 / math.pi) / size) ** 2
            mean = mean + size / 2 * (alpha_s * centre - mean) / total
            variance = (1 - size / 2 / total) ** 2 * variance + size
        moments.append((mean, variance))
    return moments


PREDICTORS = [
    score_sde.euler_maruyama_predictor,
    score_sde.reverse_diffusion,
    score_sde.ancestral,
    score_sde.no_predictor,
]


@pytest.mark.equation("sde-predictor")
@pytest.mark.equation("sde-ancestral")
@pytest.mark.equation("sde-corrector")
@pytest.mark.parametrize("corrections", [0, 2])
@pytest.mark.parametrize("predictor", PREDICTORS, ids=lambda p: p.__name__)
@pytest.mark.parametrize("path", [VEPath(0.05, 3.0), VPPath(), SubVPPath()], ids=lambda p: type(p).__name__)
def test_predictor_and_corrector_follow_the_exact_recursion(path, predictor, corrections):
    centre, spread, n, snr = 0.7, 0.5, 100_000, 0.3
    law = GaussianMixture(torch.ones(1), torch.full((1, 1), centre), torch.full((1,), spread**2)).double()
    ts, model = torch.tensor([1.0, 0.8, 0.55, 0.35, 0.2], dtype=torch.float64), ideal(law, path)
    start = path.sigma(ts[0]) * torch.randn(n, 1, dtype=torch.float64)
    *states, _ = score_sde.corrected_trajectory(model, start, ts, predictor, corrections, snr)
    for x, (mean, variance) in zip(
        states, gaussian_recursion(path, centre, spread, ts, predictor, corrections, snr), strict=True
    ):
        assert abs(x.mean().item() - mean) < 6 * (variance / n) ** 0.5 + 2e-3
        assert x.var().item() == pytest.approx(variance, rel=0.03)


def test_sampling_starts_with_the_noise_of_the_path():
    """One step without a corrector on VE: the state is the recursion's from N(0, σ_max²), not from N(0, 1)."""
    law, path = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1)), VEPath(0.05, 8.0)
    ts = torch.tensor([1.0, 0.0], dtype=torch.float64)
    x = score_sde.predictor_corrector(ideal(law, path), 50_000, 1, 0)
    ((_, variance),) = gaussian_recursion(path, 0.0, 1.0, ts, score_sde.reverse_diffusion, 0, 0.0)
    assert x.var().item() == pytest.approx(variance / (1 + 0.05**2) ** 2, rel=0.03)


def test_the_defaults_are_fit_for_a_coarse_grid_on_ve():
    """Ten steps, σ from 20, N(0, 1): the variance before the x_0 reading is near that of the exact recursion, 2.

    Euler–Maruyama on a quadratic grid, where one step covers many of the levels, ends at hundreds.
    """
    law, path = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1)), VEPath(sigma_max=20.0)
    *_, (_, fit) = gaussian_recursion(path, 0.0, 1.0, path.times(10), score_sde.reverse_diffusion, 1, 0.16)
    *_, (_, unfit) = gaussian_recursion(
        path, 0.0, 1.0, path.times(10, 2.0), score_sde.euler_maruyama_predictor, 1, 0.16
    )
    assert fit < 2.2 and unfit > 100
    x = score_sde.predictor_corrector(ideal(law, path), 50_000, 10)
    assert x.var().item() == pytest.approx(fit, rel=0.05)


@pytest.mark.parametrize("t_min", [1e-5, 1e-3])
def test_time_starts_where_the_path_says(t_min):
    """A Gaussian as wide as MNIST's dequantised background: from 1e-5 the likelihood costs < 0.02 bits, from 1e-3 1.55.

    The flow's law at t_min is N(0, s² + σ²): ½[log(1 + σ²/s²) + s²/(s² + σ²) − 1] nats.
    """
    std, path = 2 / 256 / 12**0.5, VPPath(t_min=t_min)
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([std**2])).double()
    x = law.sample(4000)
    bits = (law.log_prob(x) - flow_log_likelihood(ideal(law, path), x)).mean().item() / math.log(2)
    total = 1 + (path.sigma(torch.tensor(t_min).double()).item() / std) ** 2
    assert bits == pytest.approx((math.log(total) + 1 / total - 1) / 2 / math.log(2), abs=0.02)
    assert bits < 0.03 if t_min == 1e-5 else bits > 1.4
    seen = []
    score_sde.ScoreSDE(lambda x, t, y: seen.append(t) or 0 * x, path, (1,)).loss(torch.zeros(200_000, 1))
    assert t_min <= seen[0].min().item() * (1 + 1e-6) and seen[0].min() < t_min + 1e-4
    assert SubVPPath(t_min=t_min).t_min == t_min


@pytest.mark.equation("sde-dsm")
def test_the_loss_of_no_answer_is_the_mean_weight():
    """ε_θ = 0 costs 1, and under the likelihood's weight ∫ g²/σ² dt, by quadrature."""
    path, x0 = VPPath(), torch.zeros(400_000, 1)
    t = torch.linspace(1e-3, 1, 200_001, dtype=torch.float64)
    mean = torch.trapezoid(path.noise_rate(t) / path.sigma(t) ** 2, t).item() / (1 - 1e-3)
    nothing = lambda x, t, y: 0 * x  # noqa: E731
    assert score_sde.ScoreSDE(nothing, path, (1,)).loss(x0).item() == pytest.approx(1.0, rel=0.02)
    assert score_sde.ScoreSDE(nothing, path, (1,), True).loss(x0).item() == pytest.approx(mean, rel=0.05)


GUIDED = {
    "SDE": lambda model, x, ts, guide: score_sde.sde_trajectory(model, x, ts, guide=guide),
    "half the noise": lambda model, x, ts, guide: score_sde.sde_trajectory(model, x, ts, 0.5, guide=guide),
    "flow": lambda model, x, ts, guide: score_sde.flow_trajectory(model, x, ts, guide=guide),
    "predictor-corrector": lambda model, x, ts, guide: score_sde.corrected_trajectory(model, x, ts, guide=guide),
}


@pytest.mark.parametrize("walk", GUIDED.values(), ids=GUIDED)
def test_a_guide_serves_every_sampler(walk):
    """Prior N(0, 1), observation y = x + N(0, ½²) = 1.5: all end at N(1.2, 0.2), whatever λ."""
    law, path = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1)), VPPath()

    def guide(x, t):
        alpha, sigma = path.alpha(t).float(), path.sigma(t).float()
        return alpha * (1.5 - alpha * x) / (sigma**2 + 0.25)

    model = ideal(law, path)
    *_, before, _ = walk(model, model.prior(40_000), path.times(250, 2.0), guide)
    assert before.mean().item() == pytest.approx(1.2, abs=0.03)
    assert before.var().item() == pytest.approx(0.2, abs=0.02)


PROJECTED = {
    "SDE": lambda model, x, ts, p: score_sde.sde_trajectory(model, x, ts, project=p),
    "flow": lambda model, x, ts, p: score_sde.flow_trajectory(model, x, ts, project=p),
    "predictor-corrector": lambda model, x, ts, p: score_sde.corrected_trajectory(
        model, x, ts, corrections=3, project=p
    ),
    "annealed Langevin": lambda model, x, ts, p: ncsn.annealed_langevin(model, x, ts, 10, 0.3 * 0.02**2, project=p),
}


@pytest.mark.parametrize("rho", [0.0, 0.8])
@pytest.mark.parametrize("walk", PROJECTED.values(), ids=PROJECTED)
def test_replacement_keeps_what_is_known_and_moves_the_rest_towards_its_conditional_law(walk, rho):
    """x_1 = 1.5 of a Gaussian of correlation ρ: exact is N(1.5ρ, 1 − ρ²). At ρ = 0 replacement is exact; at 0.8 no
    sampler overshoots, and those that take Langevin steps at each level come within 0.1 of the mean."""
    covariance = torch.tensor([[[1.0, rho], [rho, 1.0]]])
    law, path = GaussianMixture.full(torch.ones(1), torch.zeros(1, 2), covariance), VEPath(0.02, 8.0)
    project = replace_known(path, torch.tensor([1.5, 7.0]), torch.tensor([1.0, 0.0]))
    model = ideal(law, path)
    end = last(walk(model, model.prior(10_000), path.times(60), project))
    assert (end[:, 0] - 1.5).abs().max() < 6 * 0.02
    mean, variance = end[:, 1].mean().item(), end[:, 1].var().item()
    if rho == 0:
        assert mean == pytest.approx(0.0, abs=0.06) and variance == pytest.approx(1.0, abs=0.12)
    else:
        assert 0.5 < mean < 1.25, mean
        if walk in (PROJECTED["predictor-corrector"], PROJECTED["annealed Langevin"]):
            assert mean == pytest.approx(1.2, abs=0.1) and variance == pytest.approx(0.36, abs=0.08)


def test_grey_is_kept_in_any_colour():
    basis = grey_basis()
    torch.testing.assert_close(basis @ basis.T, torch.eye(3))
    torch.testing.assert_close(basis[0], torch.full((3,), 3**-0.5))
    x, picture, path = torch.randn(2, 3, 4, 4), torch.rand(3, 4, 4), VPPath()
    turned = torch.einsum("kc,chw->khw", basis, picture)
    mask = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
    placed = replace_known(path, turned, mask, basis)(x, torch.tensor(1e-9, dtype=torch.float64))
    torch.testing.assert_close(placed.mean(1), picture.mean(0).expand(2, 4, 4), rtol=0, atol=1e-3)
    torch.testing.assert_close(placed[:, 0] - placed[:, 1], x[:, 0] - x[:, 1])


# ------------------------------------------------------------------------ chains, grids, wrong scores, importance


@pytest.mark.equation("sde-discrete")
@pytest.mark.parametrize("steps", [500, 1000, 2000])
def test_ddpms_chain_is_eulers_step_of_vp(steps):
    """β_i = β(i/N)/N: after N steps ᾱ differs from e^{−B} by ½∫β²dt/N, relatively; and NCSN's levels are VE's."""
    i = torch.arange(1, steps + 1, dtype=torch.float64)
    betas = (0.1 + 19.9 * i / steps) / steps
    gap = torch.log1p(-betas).sum() + 10.05 + (20 - 0.1) / 2 / steps  # the sum's end counts the last cell's rise
    square = torch.trapezoid((0.1 + 19.9 * torch.linspace(0, 1, 10_001).double()) ** 2, dx=1e-4)
    assert gap.item() * steps == pytest.approx(-square.item() / 2, rel=0.06 * 500 / steps)
    levels = torch.tensor([20.0 * (0.02 / 20.0) ** (k / 29) for k in range(30)]).double()  # 1907.05600, Section 4.1
    model = ncsn.NCSN(lambda x, t, y: x, (1,), 20.0, 0.02, 30)
    torch.testing.assert_close(model.path.sigma(model.times), levels, rtol=1e-6, atol=0)
    torch.testing.assert_close(VEPath(0.02, 20.0).sigma(model.times), levels, rtol=1e-6, atol=0)


@pytest.mark.equation("sde-fokker-planck")
@pytest.mark.parametrize("path", [VPPath(), SubVPPath(), VEPath(0.05, 1.2)], ids=lambda p: type(p).__name__)
def test_fokker_planck_on_a_grid_ends_at_the_exact_density(path):
    """Finite volumes that know f and g² only, from a mixture's density, against the diffused mixture: 3e-4 of its
    height; the mass stays 1."""
    law = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.2], [1.0]]), torch.tensor([0.06, 0.12])).double()
    x, ts = torch.linspace(-6, 6, 401).double(), torch.linspace(path.t_min, 0.6, 61).double()
    exact = lambda t: law.diffused(path.alpha(t), path.sigma(t)).log_prob(x[:, None]).exp()  # noqa: E731
    for t, density in zip(ts[1:], theory.fokker_planck(path, exact(ts[0]), x, ts), strict=True):
        torch.testing.assert_close(density, exact(t), rtol=0, atol=1e-3 * exact(t).max().item())
    torch.testing.assert_close(density, exact(t), rtol=0, atol=3e-4 * exact(t).max().item())
    assert density.sum().item() == pytest.approx(exact(ts[0]).sum().item(), rel=1e-10)


@pytest.mark.equation("sde-reverse-family")
@pytest.mark.parametrize("noise", [0.0, 1.0, 2.0])
def test_the_variance_behind_a_wrong_score_is_what_simulation_finds(noise):
    """Score times 0.9, data N(0, ½²): the sampler's own steps, 40,000 walkers."""
    path, law = VPPath(), GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([0.25])).double()
    truth = ideal(law, path)
    wrong = Denoiser(lambda x, t, y: 0.9 * truth.predict("eps", x, t), path, "eps", (1,)).double()
    x = torch.randn(40_000, 1, dtype=torch.float64)
    *_, end, _ = score_sde.sde_trajectory(wrong, x, path.times(1500, 2.0), noise)
    want = theory.reverse_variance(path, torch.tensor(0.5).double(), torch.tensor(0.9).double(), noise)
    assert end.var().item() == pytest.approx(want.item(), rel=0.05)


@pytest.mark.equation("sde-gain")
@pytest.mark.parametrize("path", [VPPath(), SubVPPath(), VEPath(0.01, 8.0)], ids=lambda p: type(p).__name__)
def test_the_flow_multiplies_a_relative_error_by_the_integral_of_g2_over_v(path):
    """log(V/v) = (1 − c) ∫g²/v dt against the variance's own ODE; on VE the integral is log(v_max/v_min)."""
    std, factor = torch.tensor(0.5).double(), torch.tensor([0.9, 1.05]).double()
    variance = theory.reverse_variance(path, std, factor, 0.0)
    ends = torch.tensor([path.t_min, path.t_max]).double()
    v = (path.alpha(ends) * std) ** 2 + path.sigma(ends) ** 2
    start = (path.sigma(ends[1]) ** 2 / v[1]).log()
    ts = torch.linspace(path.t_min, path.t_max, 400_001).double()
    rate = path.noise_rate(ts) / ((path.alpha(ts) * std) ** 2 + path.sigma(ts) ** 2)
    gain = torch.trapezoid(rate, ts)
    torch.testing.assert_close((variance / v[0]).log() - start, (1 - factor) * gain, rtol=0, atol=1e-4)
    if isinstance(path, VEPath):
        assert gain.item() == pytest.approx((v[1] / v[0]).log().item(), abs=1e-6)


@pytest.mark.equation("sde-kl-bound")
@pytest.mark.parametrize("path", [VPPath(), VEPath(0.01, 8.0)], ids=lambda p: type(p).__name__)
def test_the_weighted_loss_bounds_the_divergence_of_the_sde_and_not_of_the_flow(path):
    """Gaussian data, the score times c: KL(data ‖ model) of the reverse SDE is below the bound, the flow's is not."""
    std = torch.tensor([0.5, 1.0, 2.0]).double()
    start = torch.tensor(path.t_min).double()
    v = (path.alpha(start) * std) ** 2 + path.sigma(start) ** 2
    for c in (0.9, 0.99, 1.1):
        factor = torch.full((3,), c).double()
        bound = theory.kl_bound(path, std, factor)
        laws = [theory.reverse_variance(path, std, factor, noise) for noise in (1.0, 0.0)]
        sde, flow = ((v / law - 1 - (v / law).log()) / 2 for law in laws)
        assert bool((sde <= bound + 1e-9).all()), (c, sde, bound)
        if c == 0.9 and isinstance(path, VPPath):
            assert bool((flow > 2 * bound).all())
    x = std[1] * torch.randn(200_000, dtype=torch.float64)  # the integrand by draws, at one time
    t = torch.tensor(0.3).double()
    total = path.alpha(t) ** 2 + path.sigma(t) ** 2
    noisy = path.interpolate(x[:, None], torch.randn(200_000, 1).double(), t)
    error = (0.1 * noisy / total).square().mean()
    assert error.item() == pytest.approx((0.01 / total).item(), rel=0.02)


@pytest.mark.equation("sde-importance")
@pytest.mark.parametrize("path", [VPPath(), SubVPPath(), VEPath()], ids=lambda p: type(p).__name__)
def test_importance_draws_times_with_density_g2_over_sigma2(path):
    """The share of draws below any time against quadrature of g²/σ², and the constant against the whole integral."""
    u = torch.rand(100_000, dtype=torch.float64)
    t, weight = score_sde.importance_time(path, u)
    grid = torch.linspace(0, 1, 400_001).double() ** 2
    ts = path.t_min + (path.t_max - path.t_min) * grid
    mass = torch.cumulative_trapezoid(path.noise_rate(ts) / path.sigma(ts) ** 2, ts)
    assert weight[0].item() == pytest.approx(mass[-1].item() / (path.t_max - path.t_min), rel=1e-4)
    for share in (0.1, 0.5, 0.9):
        at = ts[1:][mass >= share * mass[-1]][0]
        assert (t <= at).double().mean().item() == pytest.approx(share, abs=6 * 0.5 / 100_000**0.5)


@pytest.mark.equation("sde-importance")
def test_importance_has_the_same_expectation_and_less_noise():
    """The likelihood's loss of a linear network, drawn both ways: equal within six standard errors, less variance."""
    path, x0 = VPPath(t_min=1e-4), torch.randn(1, 1).repeat(400, 1)
    half = lambda x, t, y: 0.5 * x  # noqa: E731
    losses = {}
    for importance in (False, True):
        model = score_sde.ScoreSDE(half, path, (1,), True, importance)
        losses[importance] = torch.stack([model.loss(x0) for _ in range(600)])
    gap = losses[True].mean() - losses[False].mean()
    assert abs(gap) < 6 * (losses[False].var() / 600 + losses[True].var() / 600).sqrt()
    assert losses[True].std() < 0.2 * losses[False].std()


@pytest.mark.equation("sde-dsm")
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_does_not_depend_on_what_the_network_outputs(weighted):
    """One function, read as ε, v or x_0: the same numbers from the same draws."""
    path, law = VPPath(), MIXTURE
    x0, losses = law.sample(64), []
    truth = ideal(law, path)
    for predicts in ("eps", "v", "x0"):
        net = lambda x, t, y, q=predicts: truth.predict(q, x, t)  # noqa: E731
        torch.manual_seed(3)
        losses.append(score_sde.ScoreSDE(net, path, (2,), weighted, predicts=predicts).loss(x0))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-6, atol=0)


@pytest.mark.equation("sde-quantile")
@smooth_cases
def test_on_the_line_the_flow_keeps_quantiles(path):
    """F_t(x(t)) is constant along the probability flow of a mixture on the line: the encoding is F_1⁻¹ F_0."""
    weights, means, stds = torch.tensor([0.3, 0.7]), torch.tensor([-1.2, 1.0]), torch.tensor([0.25, 0.35])
    law = GaussianMixture(weights, means[:, None], stds**2).double()
    x = torch.linspace(-1.5, 1.6, 9).double()[:, None]
    ts = torch.linspace(path.t_min, path.t_max, 4).double()

    def quantile(x, t):
        alpha, sigma = path.alpha(t), path.sigma(t)
        spread = (alpha**2 * stds.double() ** 2 + sigma**2).sqrt()
        return (torch.special.ndtr((x - alpha * means.double()) / spread) * weights.double()).sum(1)

    tight = lambda f, x, ts: dopri5(f, x, ts, 1e-9, 1e-9)  # noqa: E731
    for t, state in zip(ts[1:], tight(flow_field(ideal(law, path)), x, ts)):
        torch.testing.assert_close(quantile(state, t), quantile(x, ts[0]), rtol=0, atol=1e-6)


def test_the_defaults_are_the_papers_constants():
    """arXiv:2011.13456."""
    assert {"corrections": 1, "snr": 0.16}.items() <= defaults(score_sde.predictor_corrector).items()
    assert {"corrections": 1, "snr": 0.16}.items() <= defaults(score_sde.corrected_trajectory).items()


def test_what_changes_the_model_is_off_unless_asked_for():
    assert {"noise": 1.0}.items() <= defaults(score_sde.sde_trajectory).items()
    assert {"noise": 1.0}.items() <= defaults(score_sde.reverse_sde).items()
