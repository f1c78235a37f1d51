"""DDPM against conditioning of joint Gaussians, enumeration of the decoder, Monte Carlo and the published constants."""

import math

import pytest
import torch
from specimen import Returns, Specimen, defaults, net

from gmbook.core.denoiser import Truth
from gmbook.core.gaussians import GaussianMixture, kl_normal, log_discretised_normal
from gmbook.core.paths import TablePath
from gmbook.core.solvers import last
from gmbook.papers.ddpm import DDPM, linear_betas
from gmbook.papers.theory.ddpm import gaussian_floor

SPECIMEN = Specimen(lambda: DDPM(net(), (2,), steps=20))

MEASURES = {
    "bound": lambda model, x: model.nelbo(x),
}

ALPHA_BAR = torch.cumprod(1 - linear_betas(), 0)


def blank(x, t, y):
    return torch.zeros_like(x)


def with_truth(law, steps=1000, **options):
    """A DDPM whose network is E[ε | x_t]."""
    return DDPM(Truth(law, TablePath(linear_betas(steps)), "eps"), law.shape, steps, **options)


@pytest.mark.fact("D1")
@pytest.mark.equation("ddpm-marginal")
def test_marginal_by_running_the_chain_of_variances():
    """x_i = √(1 − β) x_{i−1} + √β z: mean factor and variance by recursion, against the path's closed form."""
    mean, variance = 1.0, 0.0
    for beta in linear_betas().tolist():
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    path, one = TablePath(linear_betas()), torch.ones((), dtype=torch.float64)
    assert path.alpha(one).item() == pytest.approx(mean, rel=1e-12)
    assert path.sigma(one).item() ** 2 == pytest.approx(variance, rel=1e-12)
    assert ALPHA_BAR[-1].item() == pytest.approx(4.035830e-5, rel=1e-6)


@pytest.mark.fact("D2")
@pytest.mark.equation("ddpm-posterior")
@pytest.mark.parametrize("i", [2, 3, 137, 1000])
def test_posterior_is_the_conditional_of_a_joint_gaussian(i):
    """(x_{i−1}, x_i) given x_0 has covariance [[v, √α v], [√α v, αv + β]]; conditioning is a matrix formula."""
    model, beta = DDPM(blank, (3,)), linear_betas()[i - 1]
    x0, xt = torch.randn(2, 5, 3, dtype=torch.float64)
    before = ALPHA_BAR[i - 2]
    v, root = 1 - before, (1 - beta).sqrt()
    gain = root * v / ((1 - beta) * v + beta)
    mean = before.sqrt() * x0 + gain * (xt - root * before.sqrt() * x0)
    got_mean, got_variance = model.posterior(x0, xt, torch.tensor(i))
    torch.testing.assert_close(got_mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got_variance, v - gain * root * v, rtol=1e-10, atol=1e-14)


def test_posterior_at_the_first_step_is_x0_itself():
    model, (x0, xt) = DDPM(blank, (3,)), torch.randn(2, 5, 3, dtype=torch.float64)
    mean, variance = model.posterior(x0, xt, torch.tensor(1))
    torch.testing.assert_close(mean, x0)
    assert variance == 0


@pytest.mark.fact("D3")
@pytest.mark.equation("ddpm-mean")
@pytest.mark.parametrize("i", [1, 2, 500, 1000])
def test_mean_from_epsilon_is_eq_11(i):
    """(1/√α)(x − β/√(1 − ᾱ) ε_θ), the paper's own form of the mean."""
    model = DDPM(lambda x, t, y: torch.tanh(3 * x) + t[:, None], (4,))
    x, beta = torch.randn(6, 4, dtype=torch.float64), linear_betas()[i - 1]
    eps = model(x, torch.tensor(i / 1000, dtype=torch.float64))
    expected = (x - beta / (1 - ALPHA_BAR[i - 1]).sqrt() * eps) / (1 - beta).sqrt()
    torch.testing.assert_close(model.reverse_mean(x, torch.tensor(i))[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.fact("D4")
@pytest.mark.equation("ddpm-weight")
def test_weights_turn_epsilon_errors_into_kl():
    """KL between two Gaussians whose means differ by the ε error, against β²/(2σ²α(1 − ᾱ)); and the published
    values."""
    model = DDPM(blank, (1,))
    for i, value in ((1, 0.50005), (10, 0.0737), (100, 0.0101), (500, 0.0055), (1000, 0.0102)):
        assert model.simple_weight(torch.tensor(i)).item() == pytest.approx(value, rel=5e-3)
    for variance in ("large", "small"):
        model, i = DDPM(blank, (1,), variance=variance), torch.tensor(300)
        error, xt = torch.tensor([[0.37]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        shift = model.path.convert(error, xt, i.double() / 1000, "eps", "x0")
        std = model.sigma_squared[i].sqrt() * torch.ones(1, 1).double()
        kl = kl_normal(model.posterior(shift, xt, i)[0], std, torch.zeros(1, 1).double(), std)
        torch.testing.assert_close(kl, model.simple_weight(i) * error**2, rtol=1e-10, atol=0)


@pytest.mark.equation("ddpm-snr")
def test_small_variance_weight_is_half_the_drop_in_snr():
    snr = ALPHA_BAR / (1 - ALPHA_BAR)
    model, i = DDPM(blank, (1,), variance="small"), torch.tensor([2, 50, 1000])
    per_x0 = model.simple_weight(i) * ALPHA_BAR[i - 1] / (1 - ALPHA_BAR[i - 1])  # ‖Δε‖² = ᾱ/(1 − ᾱ) ‖Δx_0‖²
    torch.testing.assert_close(per_x0, (snr[i - 2] - snr[i - 1]) / 2, rtol=1e-9, atol=0)


@pytest.mark.fact("D5")
@pytest.mark.equation("ddpm-vlb")
@pytest.mark.parametrize("variance", ["large", "small"])
def test_telescoped_bound_equals_the_direct_one(variance):
    """E[log q(x_{1:T}|x_0) − log p(x_{0:T})] step by step, against L_0 + … + L_T, for an arbitrary linear network."""
    torch.manual_seed(0)
    betas = torch.tensor([0.1, 0.25, 0.4, 0.6], dtype=torch.float64)
    n, x0 = 400_000, 0.7
    model = DDPM(lambda x, t, y: 0.4 * x + 0.3 * t[:, None] - 0.1, (1,), betas=betas, variance=variance)
    normal = lambda m, v: torch.distributions.Normal(m, v.sqrt() if torch.is_tensor(v) else math.sqrt(v))  # noqa: E731
    xs, log_ratio = [torch.full((n, 1), x0, dtype=torch.float64)], 0.0
    for beta in betas:
        step = normal((1 - beta).sqrt() * xs[-1], beta)
        xs.append(step.sample())
        log_ratio = log_ratio + step.log_prob(xs[-1])
    log_ratio = log_ratio - normal(0.0, 1.0).log_prob(xs[-1])
    for i in range(4, 0, -1):
        mean, _ = model.reverse_mean(xs[i], torch.tensor(i))
        v = model.sigma_squared[i] if model.sigma_squared[i] > 0 else model.beta_tilde[2]
        log_ratio = log_ratio - normal(mean, v).log_prob(xs[i - 1])
    telescoped = model.nelbo(torch.full((n, 1), x0, dtype=torch.float64))
    error = (log_ratio.var() / n + telescoped.var() / n).sqrt()
    assert abs(log_ratio.mean() - telescoped.mean()) < 5 * error


@pytest.mark.fact("D6")
@pytest.mark.equation("ddpm-decoder")
def test_discretised_decoder_is_a_probability():
    grid = -1 + 2 * torch.arange(256, dtype=torch.float64) / 255
    for mean, std in ((0.3, 0.01), (-1.2, 0.2), (0.999, 0.003), (5.0, 0.5)):
        log_p = log_discretised_normal(grid, torch.tensor(mean).double(), torch.tensor(std).double())
        assert torch.isfinite(log_p).all()
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.fact("D7")
@pytest.mark.equation("ddpm-floor")
@pytest.mark.parametrize(("std", "floor"), [(1.0, 0.275513), (0.5, 0.173053)])
def test_loss_floor(std, floor):
    assert gaussian_floor(std, ALPHA_BAR).item() == pytest.approx(floor, abs=1e-6)
    torch.manual_seed(0)
    law = GaussianMixture(torch.ones(1), torch.tensor([[0.4, -1.0]]), torch.tensor([std**2]))
    losses = torch.stack([with_truth(law).loss(law.sample(4000)) for _ in range(50)])
    assert abs(losses.mean() - floor) < 4 * losses.std() / math.sqrt(50)
    worse = DDPM(lambda x, t, y: 0.9 * Truth(law, TablePath(linear_betas()), "eps")(x, t), (2,))
    assert torch.stack([worse.loss(law.sample(4000)) for _ in range(50)]).mean() > losses.mean()


@pytest.mark.fact("D8")
@pytest.mark.equation("ddpm-ancestral")
def test_ancestral_sampling_with_the_truth_gives_the_data():
    """Kolmogorov's distance of 40,000 samples to a two-mode law's distribution function, T = 1000."""
    torch.manual_seed(0)
    law = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.5], [1.0]]), torch.tensor([0.04, 0.09]))
    x = with_truth(law).sample(40_000)[:, 0].sort().values.double()
    components = torch.distributions.Normal(torch.tensor([-1.5, 1.0]).double(), torch.tensor([0.2, 0.3]).double())
    cdf = components.cdf(x[:, None]) @ torch.tensor([0.3, 0.7], dtype=torch.float64)
    ranks = (torch.arange(len(x)) + 0.5) / len(x)
    assert (cdf - ranks).abs().max() < 0.02


@pytest.mark.equation("ddpm-score")
@pytest.mark.parametrize("i", [5, 137, 900])
def test_best_noise_prediction_is_the_score_in_disguise(i):
    """E[ε | x_i] by sampling x_0 and weighing with Bayes' rule, against −√(1 − ᾱ) times autograd of the exact
    density."""
    torch.manual_seed(0)
    law = GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]).double(), torch.tensor([0.1, 0.3]).double())
    alpha, sigma = ALPHA_BAR[i - 1].sqrt(), (1 - ALPHA_BAR[i - 1]).sqrt()
    x = torch.tensor([[-0.8], [0.1], [1.3]], dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(law.diffused(alpha, sigma).log_prob(x).sum(), x)
    grid = torch.linspace(-6, 6, 60_001, dtype=torch.float64)  # over x_0
    eps = (x.detach() - alpha * grid) / sigma  # (3, G)
    weight = (law.log_prob(grid[:, None]) - eps**2 / 2).softmax(1)
    torch.testing.assert_close((weight * eps).sum(1, keepdim=True), -sigma * score, rtol=1e-6, atol=1e-6)
    model, t = (
        with_truth(law),
        torch.tensor(i / 1000, dtype=torch.float64),
    )  # the chapter's: a network that is the truth
    torch.testing.assert_close(model(x.detach(), t), -sigma * score, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.predict("score", x.detach(), t), score, rtol=1e-6, atol=1e-6)


@pytest.mark.equation("ddpm-simple")
@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "score", "velocity"])
def test_every_prediction_target_has_the_truth_as_its_minimum(predicts):
    """A perturbed ideal network is worse, whichever quantity it predicts."""
    torch.manual_seed(0)
    law = GaussianMixture(torch.ones(2), torch.tensor([[-1.0, 0.0], [1.0, 1.0]]), torch.tensor([0.1, 0.2]))
    truth, x0 = Truth(law, TablePath(linear_betas()), predicts), law.sample(20_000)
    losses = []
    for scale in (0.85, 1.0, 1.15):
        torch.manual_seed(1)
        losses.append(DDPM(lambda x, t, y, s=scale: s * truth(x, t), (2,), predicts=predicts).loss(x0))
    assert losses[1] < losses[0] and losses[1] < losses[2]


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 8, 8)], ids=str)
def test_contract_on_vectors_and_images(shape):
    torch.manual_seed(0)
    model = DDPM(lambda x, t, y: 0.1 * x, shape, steps=20, clip=1.0, levels=256)
    x0 = torch.randint(0, 256, (3, *shape)) / 127.5 - 1
    assert model.loss(x0).shape == () and model.sample(3).shape == (3, *shape)
    assert model.bound_terms(x0).shape == (3, 21) and (model.nelbo(x0) > 0).all()
    assert model.sample(3).abs().max() <= 1


@pytest.mark.equation("ddpm-optimal-variance")
def test_large_variance_is_right_for_unit_gaussian_data_and_small_for_a_point():
    """§3.2: with the truth and x_0 ~ N(0, I), σ² = β keeps the variance at 1; for a point mass β̃ returns the point."""
    torch.manual_seed(0)
    normal = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    few = linear_betas(50)
    for variance, expected in (("large", 1.0), ("small", None)):
        model = DDPM(Truth(normal, TablePath(few), "eps"), (1,), betas=few, variance=variance)
        got = last(model.trajectory(torch.randn(100_000, 1))).var().item()
        if expected:
            assert got == pytest.approx(expected, abs=0.02)
        else:
            assert got < 0.9
    point = GaussianMixture(torch.ones(1), torch.ones(1, 1), torch.tensor([1e-12]))
    model = DDPM(Truth(point, TablePath(few), "eps"), (1,), betas=few, variance="small")
    states = list(model.trajectory(torch.randn(50_000, 1)))
    i = 10  # the state x_10: q(x_10 | x_0) has variance 1 − ᾱ_10, which β̃ reproduces
    exact = 1 - torch.cumprod(1 - few, 0)[i - 1]
    assert states[50 - i - 1].var().item() == pytest.approx(exact.item(), rel=0.03)


def test_bad_input_has_one_clear_error():
    model = DDPM(blank, (1, 8, 8))
    with pytest.raises(TypeError, match="scale images"):
        model.loss(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"expected a batch of shape \(B, 1, 8, 8\)"):
        model.loss(torch.zeros(2, 1, 9, 9))
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        model(torch.zeros(2, 1, 8, 8), torch.tensor([3.0, 500.0]))
    with pytest.raises(ValueError, match="variance must be"):
        DDPM(blank, (2,), variance="medium")
    with pytest.raises(ValueError, match="n must be at least 1"):
        model.sample(0)


def test_an_output_that_would_broadcast_is_refused():
    with pytest.raises(ValueError, match="must return"):
        DDPM(Returns(4), (1,), 5).loss(torch.randn(4, 1))


def test_pixels_off_the_decoder_s_grid_are_refused():
    model = DDPM(Returns(4, 16), (16,), 5, levels=17)
    with pytest.raises(ValueError, match="values must lie in"):
        model.loss(torch.full((4, 16), 255.0))
    for wrong in (torch.full((4, 16), 1 / 16), torch.full((4, 16), 255.0)):
        with pytest.raises(ValueError, match="grid|must lie in"):
            model.nelbo(wrong)
    assert model.nelbo(torch.full((4, 16), 1 / 8)).isfinite().all()


def test_one_step_is_enough_for_one_gaussian_and_none_is_refused():
    """At T = 1 the sample is E[x_0 | x_1] from ᾱ_1 = 1e-3, nearly the mean."""
    law = GaussianMixture(torch.ones(1), torch.ones(1, 2), torch.full((1,), 0.25))
    model = DDPM(Truth(law, TablePath(linear_betas(1)), "eps"), (2,), steps=1, variance="small")
    assert model.alpha_bar[-1] < 1e-2 and model.nelbo(torch.ones(4, 2)).isfinite().all()
    assert abs(model.sample(4000).mean().item() - 1) < 0.1
    with pytest.raises(ValueError, match="at least 1, got 0"):
        DDPM(Returns(4, 2), (2,), steps=0)


@pytest.mark.equation("ddpm-decoder")
@pytest.mark.parametrize("variance", ["large", "small"])
def test_the_last_term_is_the_mass_of_a_bin_at_the_authors_variance(variance):
    """−log[Φ(δ₊) − Φ(δ₋)] by torch.distributions, with the outer bins to infinity and std √β̃_2 from the table of β;
    without levels the density."""
    betas = linear_betas(50)
    std = (betas[1] * betas[0] / (1 - (1 - betas[0]) * (1 - betas[1]))).sqrt()
    grid = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    first = torch.ones(9, dtype=torch.int64)
    for levels in (9, None):
        model = DDPM(lambda x, t, y: 0.2 * x, (1,), betas=betas, variance=variance, levels=levels)
        torch.manual_seed(0)
        got = model.bound_term(grid, first)
        torch.manual_seed(0)
        x1 = (1 - betas[0]).sqrt() * grid + betas[0].sqrt() * torch.randn_like(grid)
        mean = (x1 - betas[0].sqrt() * 0.2 * x1) / (1 - betas[0]).sqrt()  # x̂_0, as μ̃_1 = x̂_0
        law = torch.distributions.Normal(mean, std)
        upper = torch.where(grid > 0.99, math.inf, grid + 1 / 8)
        lower = torch.where(grid < -0.99, -math.inf, grid - 1 / 8)
        mass = (law.cdf(upper) - law.cdf(lower)).clamp(min=1e-300).log()
        want = -(mass if levels else law.log_prob(grid))[:, 0]
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.equation("ddpm-ancestral")
def test_a_temperature_scales_the_noise_of_a_step_and_not_its_mean():
    model, x = DDPM(lambda x, t, y: torch.tanh(x), (3,), 50), torch.randn(7, 3)
    for i in (1, 2, 30):
        steps = {}
        for temperature in (0.0, 0.5, 1.0):
            torch.manual_seed(4)
            steps[temperature] = model.step(x, i, temperature=temperature)
        torch.testing.assert_close(steps[0.5] - steps[0.0], 0.5 * (steps[1.0] - steps[0.0]))
        torch.testing.assert_close(steps[0.0], model.reverse_mean(x, torch.tensor(i))[0])
        spread = (steps[1.0] - steps[0.0]).abs().max()
        assert spread == 0 if i == 1 else spread > 0


def test_the_papers_table_has_a_thousand_steps():
    assert torch.equal(linear_betas(), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


def test_a_short_table_is_cut_at_a_variance_of_0_999():
    """20 · 0.02 · 1000/20 = 1: the entry would leave nothing of x; all others are the line's."""
    got, line = linear_betas(20), torch.linspace(0.005, 1.0, 20, dtype=torch.float64)
    torch.testing.assert_close(got[:-1], line[:-1], rtol=1e-12, atol=0)
    assert got[-1] == 0.999


def test_labels_reach_the_network_at_every_step_and_term():
    seen = []
    model = DDPM(lambda x, t, y: (seen.append(y), torch.zeros_like(x))[1], (2,), 5)
    y, x = torch.tensor([3, 1]), torch.zeros(2, 2)
    for act in (lambda: model.loss(x, y), lambda: model.sample(2, y), lambda: model.nelbo(x, y)):
        seen.clear()
        act()
        assert seen and all(torch.equal(label, y) for label in seen)


def test_the_defaults_are_the_papers_constants():
    """arXiv:2006.11239."""
    assert {"steps": 1000}.items() <= defaults(linear_betas).items()
    assert {"steps": 1000}.items() <= defaults(DDPM).items()


def test_what_changes_the_model_is_off_unless_asked_for():
    assert {"temperature": 1.0}.items() <= defaults(DDPM.step).items()
    assert {"temperature": 1.0}.items() <= defaults(DDPM.trajectory).items()
    assert {"temperature": 1.0}.items() <= defaults(DDPM.sample).items()
