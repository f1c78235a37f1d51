"""DDIM against recursions of moments, DDPM, Euler's method and the closed cosine law."""

import itertools
import math

import pytest
import torch
from specimen import Specimen, defaults, net

from gmbook.core.denoiser import Denoiser, ideal
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import CosinePath, LinearPath, SubVPPath, TablePath, VEPath, VPPath
from gmbook.core.probability_flow import flow_field
from gmbook.core.solvers import dopri5, last
from gmbook.papers import ddim, score_sde
from gmbook.papers.ddpm import DDPM, linear_betas
from gmbook.papers.theory import ddim as ddim_theory

SPECIMEN = Specimen(lambda: DDPM(net(), (2,), steps=20), draw=lambda model, n: ddim.sample(model, n, 5, eta=0.5))

WALKS = {
    "DDIM": lambda model: ddim.sample(model, 4, 3),
    "with noise": lambda model: ddim.sample(model, 4, 3, eta=0.5),
    "inverted": lambda model: ddim.invert(model, torch.zeros(4, 2, device=model.device), 3),
    "its variance": lambda model: ddim_theory.gaussian_std(
        model.path, torch.ones(1, device=model.device), model.path.times(3)
    ),
}

PATHS = [LinearPath(), VPPath(), SubVPPath(), VEPath(), CosinePath(), TablePath(linear_betas())]
path_cases = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)


ANGLE = math.acos(math.sqrt(4.035830e-5))  # DDPM's φ_T


def uniform_angles(steps):
    """A path with α = cos φ and times whose angles run evenly from φ_T to 0."""
    ts = torch.linspace(1, 0, steps + 1, dtype=torch.float64) * ANGLE / (math.pi / 2)
    return CosinePath(s=0.0), ts


def wavy(x, t, y=None):
    return torch.tanh(3 * x) + t.reshape(-1, 1)


def gaussian(std, dtype=torch.float64):
    return GaussianMixture(torch.ones(1), torch.zeros(1, 1, dtype=dtype), torch.tensor([std**2], dtype=dtype))


@path_cases
@pytest.mark.fact("I1")
@pytest.mark.equation("ddim-marginal")
def test_every_eta_keeps_the_marginals(path):
    """If x_t ~ q(x_t | x_0), then Eq. 12 with the true x_0 gives x_s ~ q(x_s | x_0): mean and variance by hand."""
    t, s = torch.tensor([0.8, 0.35], dtype=torch.float64)
    for eta in (0.0, 0.3, 1.0):
        noise = eta * path.bridge(t, s).std
        rest = (path.sigma(s) ** 2 - noise**2).sqrt()
        # x_s = α_s x_0 + rest · (x_t − α_t x_0)/σ_t + noise · z, and (x_t − α_t x_0)/σ_t has unit variance
        torch.testing.assert_close(rest**2 + noise**2, path.sigma(s) ** 2, rtol=1e-13, atol=0)
        point = GaussianMixture(torch.ones(1), torch.full((1, 1), 0.7).double(), torch.full((1,), 1e-18).double())
        xt = path.alpha(t) * 0.7 + path.sigma(t) * torch.randn(100_000, 1, dtype=torch.float64)
        xs = ddim.step(ideal(point, path), xt, t, s, eta)
        assert xs.mean().item() == pytest.approx((path.alpha(s) * 0.7).item(), abs=5 * path.sigma(s).item() / 300)
        assert xs.std().item() == pytest.approx(path.sigma(s).item(), rel=0.02)


@pytest.mark.fact("I2")
@pytest.mark.equation("ddim-sigma")
@pytest.mark.parametrize("i", [2, 500, 1000])
def test_eta_one_is_ddpms_ancestral_step(i):
    model = DDPM(wavy, (2,), variance="small")
    x, t, s = torch.randn(6, 2), *torch.tensor([i / 1000, (i - 1) / 1000], dtype=torch.float64)
    torch.testing.assert_close(model.path.bridge(t, s).std ** 2, model.beta_tilde[i], rtol=1e-9, atol=0)
    torch.testing.assert_close(model.path.bridge(t, s).forward_std ** 2, model.beta[i], rtol=1e-9, atol=0)
    torch.manual_seed(i)
    expected = model.step(x, i)
    torch.manual_seed(i)
    torch.testing.assert_close(ddim.step(model, x, t, s, eta=1.0), expected, rtol=1e-6, atol=1e-6)


def test_eta_one_and_hat_over_all_steps_are_ddpms_two_samplers():
    for variance, options in (("small", {"eta": 1.0}), ("large", {"eta": 1.0, "hat": True})):
        model, x = DDPM(wavy, (2,), steps=60, variance=variance), torch.randn(5, 2)
        torch.manual_seed(0)
        expected = last(model.trajectory(x))
        torch.manual_seed(0)
        got = last(ddim.trajectory(model, x, ddim.sub_sequence(model.path, 60), **options))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def the_papers_update(x, eps, z, alpha_bar, i, j, eta, hat):
    """App. D.3, from i to j < i, in the paper's letters: variances ᾱ only, and σ by Eq. 16."""
    a, b = alpha_bar[i], alpha_bar[j]
    sigma = (1.0 if hat else eta) * ((1 - b) / (1 - a)).sqrt() * (1 - a / b).sqrt()
    predicted = (x - (1 - a).sqrt() * eps) / a.sqrt()
    return b.sqrt() * predicted + (1 - b - sigma**2).sqrt() * eps + ((1 - a / b).sqrt() if hat else sigma) * z


@pytest.mark.equation("ddim-step", "ddim-sigma")
@pytest.mark.parametrize(("i", "j"), [(1000, 900), (500, 120), (40, 1)])
def test_step_is_the_papers_update(i, j):
    model, x = DDPM(wavy, (2,)), torch.randn(6, 2, dtype=torch.float64)
    t, s = torch.tensor([i / 1000, j / 1000], dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - linear_betas(), 0)])
    for eta, hat in ((0.0, False), (0.4, False), (1.0, False), (1.0, True), (0.0, True)):
        torch.manual_seed(i)
        got = ddim.step(model, x, t, s, eta, hat)
        torch.manual_seed(i)
        expected = the_papers_update(x, wavy(x, t), torch.randn_like(x), alpha_bar, i, j, eta, hat)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_an_eta_outside_its_range_is_refused(eta):
    model, x = DDPM(wavy, (2,)), torch.randn(3, 2)
    with pytest.raises(ValueError, match="hat=True"):
        ddim.step(model, x, *torch.tensor([0.5, 0.4]), eta=eta)


@path_cases
@pytest.mark.equation("ddim-forward")
def test_forward_law_by_regression(path):
    """Draw (x_s, x_t) given x_0 through the reverse conditional; regress x_t on x_s. At η = 1 x_0 drops out."""
    t, s = torch.tensor([0.6, 0.35], dtype=torch.float64)
    alpha, sigma, alpha_s, sigma_s = path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
    point = GaussianMixture(torch.ones(1), torch.full((1, 1), 0.7).double(), torch.full((1,), 1e-18).double())
    for eta in (0.0, 0.6, 1.0):
        xt = alpha * 0.7 + sigma * torch.randn(200_000, 1, dtype=torch.float64)
        xs = ddim.step(ideal(point, path), xt, t, s, eta)
        direction, noise = ddim.coefficients(path.bridge(t, s), eta)
        slope, std = sigma * direction / sigma_s**2, sigma * noise / sigma_s  # the labelled equation
        a, b = xs - xs.mean(), xt - xt.mean()
        measured = (a * b).mean() / (a * a).mean()
        assert measured.item() == pytest.approx(slope.item(), abs=5 * (sigma / sigma_s).item() / 200_000**0.5)
        assert (b - measured * a).std().item() == pytest.approx(std.item(), rel=0.01, abs=1e-7)
    torch.testing.assert_close(slope, alpha / alpha_s, rtol=1e-9, atol=0)
    torch.testing.assert_close(std, path.bridge(t, s).forward_std, rtol=1e-9, atol=0)


@pytest.mark.equation("ddim-objective")
@pytest.mark.parametrize("i", [2, 50, 500, 1000])
def test_bound_weight_at_eta_one_is_ddpms(i):
    model = DDPM(None, (2,), variance="small")
    t, s = torch.tensor([i / 1000, (i - 1) / 1000], dtype=torch.float64)
    expected = model.simple_weight(torch.tensor(i))
    torch.testing.assert_close(ddim_theory.bound_weight(model.path, t, s, 1.0), expected, rtol=1e-8, atol=0)


@path_cases
@pytest.mark.equation("ddim-objective")
def test_bound_weight_is_the_kl_of_two_steps(path):
    """KL(q(x_s | x_t, x_0) ‖ q(x_s | x_t, x̂_0)): the means are measured on the sampler with the same z."""
    t, s = torch.tensor([0.8, 0.35], dtype=torch.float64)
    xt, eta, means = torch.zeros(1, 1, dtype=torch.float64), 0.7, []
    for eps in (0.3, -0.9):
        torch.manual_seed(0)
        constant = Denoiser(lambda x, t, y, eps=eps: torch.full_like(x, eps), path, "eps", (1,))
        means.append(ddim.step(constant, xt, t, s, eta))
    laws = [torch.distributions.Normal(mean, eta * path.bridge(t, s).std) for mean in means]
    expected = torch.distributions.kl_divergence(*laws)[0, 0]
    torch.testing.assert_close(
        ddim_theory.bound_weight(path, t, s, eta) * (0.3 + 0.9) ** 2, expected, rtol=1e-9, atol=0
    )


@pytest.mark.equation("ddim-rotation")
@pytest.mark.parametrize("path", [VPPath(), CosinePath(), TablePath(linear_betas())], ids=lambda p: type(p).__name__)
def test_deterministic_step_turns_x_and_v(path):
    """On α² + σ² = 1, with φ = arctan(σ/α): (x, v̂) is turned by φ_t − φ_s, whatever the network says."""
    t, s = torch.tensor([0.7, 0.4], dtype=torch.float64)
    x, v = torch.randn(2, 5, 2, dtype=torch.float64)
    model = Denoiser(lambda x, t, y: v, path, "v", (2,))
    angle = torch.atan2(path.sigma(t), path.alpha(t)) - torch.atan2(path.sigma(s), path.alpha(s))
    turned = torch.matrix_exp(angle * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64))[0]
    expected = turned[0] * x + turned[1] * v
    torch.testing.assert_close(ddim.step(model, x, t, s), expected, rtol=1e-12, atol=1e-12)


@path_cases
@pytest.mark.fact("I3")
@pytest.mark.equation("ddim-euler")
def test_ddim_is_euler_in_the_right_variable(path):
    """With x̄ = x/α and ς = σ/α: x̄_s = x̄_t + (ς_s − ς_t) ε_θ."""
    t, s = torch.tensor([0.7, 0.6], dtype=torch.float64)
    x = torch.randn(5, 1, dtype=torch.float64)
    model = Denoiser(wavy, path, "eps", (1,))
    euler = x / path.alpha(t) + (path.sigma(s) / path.alpha(s) - path.sigma(t) / path.alpha(t)) * wavy(x, t)
    torch.testing.assert_close(ddim.step(model, x, t, s), path.alpha(s) * euler, rtol=1e-12, atol=1e-12)


@path_cases
@pytest.mark.equation("ddim-flow")
def test_the_flow_in_the_paths_time_is_eps_along_sigma_over_alpha(path):
    """d(x/α) = ε̂ d(σ/α) along dx = velocity dt; the derivative of σ/α by autograd."""
    t = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    ratio = path.sigma(t) / path.alpha(t)
    (rise,) = torch.autograd.grad(ratio, t)
    t, x = t.detach(), torch.randn(5, 2, dtype=torch.float64)
    model = Denoiser(wavy, path, "eps", (2,))
    alpha, (d_alpha, _) = path.alpha(t), path.rates(t)
    velocity = flow_field(model)(x, t)
    scaled = velocity / alpha - x * d_alpha / alpha**2  # d(x/α)/dt
    torch.testing.assert_close(scaled, wavy(x, t) * rise, rtol=1e-8, atol=1e-8)


@pytest.mark.equation("ddim-flow", "ddim-gaussian-map")
def test_many_steps_reach_the_flows_end():
    """DDIM with 2,000 steps against an adaptive solver of the probability flow, and against the closed map."""
    path, std = VPPath(), 0.5
    model, x = ideal(gaussian(std), path), torch.tensor([[-1.2], [0.4], [2.0]], dtype=torch.float64)
    got = last(ddim.trajectory(model, x, ddim.sub_sequence(path, 2000, 2.0)))
    ts = torch.tensor([path.t_max, path.t_min], dtype=torch.float64)
    flow = last(score_sde.flow_trajectory(model, x, ts, lambda f, x, ts: dopri5(f, x, ts, 1e-9, 1e-9)))
    torch.testing.assert_close(got, flow, rtol=0, atol=2e-3)
    start, end = ((path.alpha(ts) * std) ** 2 + path.sigma(ts) ** 2).sqrt()  # the spreads at t_max and t_min
    reading = path.alpha(ts[1]) * std**2 / end**2  # of x_0 at t_min
    torch.testing.assert_close(flow, x * end / start * reading, rtol=0, atol=1e-7)
    assert (end * reading).item() == pytest.approx(std, abs=2e-4)  # so that the whole is x std/start


@pytest.mark.equation("ddim-variance")
@pytest.mark.parametrize(("eta", "hat"), [(0.0, False), (0.5, False), (1.0, False), (1.0, True)])
def test_spread_of_samples_of_a_gaussian(eta, hat):
    path, std = TablePath(linear_betas()), 0.3
    for steps in (3, 10, 40):
        ts = ddim.sub_sequence(path, steps)
        model, x = ideal(gaussian(std), path), torch.randn(100_000, 1, dtype=torch.float64)
        spread = last(ddim.trajectory(model, x, ts, eta, hat)).std()
        exact = ddim_theory.gaussian_std(path, torch.tensor(std, dtype=torch.float64), ts, eta, hat)
        assert spread.item() == pytest.approx(exact.item(), rel=4 / (2 * 100_000) ** 0.5)


@path_cases
@pytest.mark.equation("ddim-variance")
def test_spread_on_every_path_from_the_width_that_it_starts_with(path):
    """At η = 0 the sampler of N(0, std²) is one number times x: it carries σ_T, of whatever size, to the answer."""
    std = torch.tensor(0.3, dtype=torch.float64)
    ts = ddim.sub_sequence(path, 5)
    end = last(ddim.trajectory(ideal(gaussian(0.3), path), path.sigma(ts[:1])[None], ts))
    torch.testing.assert_close(ddim_theory.gaussian_std(path, std, ts), end[0, 0], rtol=1e-9, atol=0)


@pytest.mark.equation("ddim-variance")
def test_large_variance_is_exact_for_standard_normal_data():
    """σ² = β is the right reverse variance for N(0, I), with any number of steps."""
    path = TablePath(linear_betas())
    one = torch.ones((), dtype=torch.float64)
    for steps in (2, 10, 100):
        got = ddim_theory.gaussian_std(path, one, ddim.sub_sequence(path, steps), hat=True)
        assert got.item() == pytest.approx(1.0, abs=1e-4)  # the last reading shrinks by √(1 − β_1)


@pytest.mark.fact("I4")
@pytest.mark.equation("ddim-cosine-law")
@pytest.mark.parametrize(("steps", "published"), [(10, 0.884373), (50, 0.975818), (1000, 0.998777)])
def test_standard_normal_data_shrink_by_a_power_of_a_cosine(steps, published):
    """With α = cos φ, S steps uniform in φ from DDPM's φ_T = arccos √ᾱ_1000 multiply x by cos(φ_T/S) each."""
    path, ts = uniform_angles(steps)
    model = Denoiser(lambda x, t, y: path.sigma(t[0]) * x, path, "eps", (1,))  # ε* = σ_t x
    x = torch.ones(1, 1, dtype=torch.float64)
    for t, s in itertools.pairwise(ts):
        x = ddim.step(model, x, t, s)
    assert x.item() == pytest.approx(math.cos(ANGLE / steps) ** steps, rel=1e-12)
    assert x.item() == pytest.approx(published, abs=1e-6)


@pytest.mark.fact("I5")
@pytest.mark.equation("ddim-gaussian-map")
def test_error_falls_as_one_over_steps():
    """Data of std ½, exact network, DDPM's table: off by .0558, .0281, .0142, .0071 at S = 25, 50, 100, 200."""
    path, errors = TablePath(linear_betas()), []
    model, one = ideal(gaussian(0.5), path), torch.ones(1, 1, dtype=torch.float64)
    end = torch.ones((), dtype=torch.float64)
    exact = 0.5 / (path.alpha(end) ** 2 * 0.25 + path.sigma(end) ** 2).sqrt().item()
    for steps in (25, 50, 100, 200):
        errors.append(abs(last(ddim.trajectory(model, one, ddim.sub_sequence(path, steps))).item() - exact))
    assert errors == pytest.approx([0.0558, 0.0281, 0.0142, 0.0071], abs=1e-4)


def test_one_dimensional_flow_is_monotone_and_hits_the_quantiles():
    """η = 0 with the truth maps the normal's quantiles to the law's."""
    law = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.5], [1.0]]), torch.tensor([0.04, 0.09]))
    law = law.double()
    model, levels = ideal(law, VPPath()), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    x = torch.special.ndtri(levels)[:, None] * model.path.sigma(torch.ones((), dtype=torch.float64))
    got = last(ddim.trajectory(model, x, ddim.sub_sequence(model.path, 2000, 2.0)))[:, 0]
    assert (got.diff() > 0).all()
    components = torch.distributions.Normal(torch.tensor([-1.5, 1.0]).double(), torch.tensor([0.2, 0.3]).double())
    torch.testing.assert_close(components.cdf(got[:, None]) @ law.weights, levels, rtol=0, atol=5e-3)


@pytest.mark.equation("ddim-inversion")
def test_inversion_is_undone_by_sampling():
    law = gaussian(0.8)
    model, x0, errors = (
        ideal(law, TablePath(linear_betas())),
        torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None],
        [],
    )
    for steps in (25, 50, 100):
        latent = ddim.invert(model, x0, steps)
        back = last(ddim.trajectory(model, latent, ddim.sub_sequence(model.path, steps)))
        errors.append((back - x0).abs().max().item())
    assert errors[0] > 1.7 * errors[1] > 1.7**2 * errors[2]


@pytest.mark.equation("ddim-slerp")
def test_slerp_keeps_ends_and_norms():
    a, b = torch.randn(2, 3, 1, 8, 8, dtype=torch.float64)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    path = ddim.slerp(a, b, torch.linspace(0, 1, 5, dtype=torch.float64))
    torch.testing.assert_close(path[0], a)
    torch.testing.assert_close(path[-1], b)
    torch.testing.assert_close(path.flatten(2).norm(dim=2), a.flatten(1).norm(dim=1).expand(5, 3))


def test_steps_are_network_calls():
    calls = []
    model = Denoiser(lambda x, t, y: calls.append(t) or x, TablePath(linear_betas()), "eps", (2,))
    for steps in (1, 2, 50):
        calls.clear()
        ddim.sample(model, 3, steps)
        assert len(calls) == steps
        assert calls[0][0] == 1.0 and (steps == 1 or calls[-1][0] == pytest.approx(1e-3))


def test_no_steps_are_refused_and_numbers_are_times():
    model = SPECIMEN.build()
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ddim.sample(model, 2, 0)
    x = torch.randn(3, 2)
    by_tensor = ddim.step(model, x, torch.tensor(0.5).double(), torch.tensor(0.25).double())
    torch.testing.assert_close(ddim.step(model, x, 0.5, 0.25), by_tensor)


@pytest.mark.equation("ddim-slerp")
def test_slerp_turns_evenly():
    """At weight w the angle to a is wθ, to b (1 − w)θ."""
    a, b = torch.randn(2, 1, 9, dtype=torch.float64)
    b = b * a.norm() / b.norm()
    angle = lambda p, q: torch.acos((p @ q / p.norm() / q.norm()).clamp(-1, 1))  # noqa: E731
    weights = torch.linspace(0, 1, 7, dtype=torch.float64)
    theta = angle(a[0], b[0])
    for w, point in zip(weights, ddim.slerp(a, b, weights)[:, 0]):
        assert angle(point, a[0]).item() == pytest.approx((w * theta).item(), abs=1e-6)
        assert angle(point, b[0]).item() == pytest.approx(((1 - w) * theta).item(), abs=1e-6)


@pytest.mark.equation("ddim-inversion")
def test_inversion_begins_at_the_mean_of_the_first_level():
    """Two levels, ᾱ = 0.64 and 0.04, and ε̂ = c x by hand: α_1x_0 is carried through one step upwards."""
    betas, c = torch.tensor([1 - 0.64, 1 - 0.04 / 0.64], dtype=torch.float64), 0.3
    model, x0 = DDPM(lambda x, t, y: c * x, (1,), betas=betas), torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    start = 0.8 * x0
    guess = (start - 0.6 * c * start) / 0.8
    want = 0.2 * guess + math.sqrt(0.96) * c * start
    torch.testing.assert_close(ddim.invert(model, x0, 2), want, rtol=1e-9, atol=0)


def test_labels_and_times_reach_the_network():
    """Quadratic times are i/S squared between the ends; labels come with every call, on the way back too."""
    path, seen = VPPath(), []
    model = Denoiser(lambda x, t, y: (seen.append((t[0].item(), y)), torch.zeros_like(x))[1], path, "eps", (2,))
    y, times = torch.tensor([2, 0, 1]), {}
    for power in (1.0, 2.0):
        for name, act in {
            "sample": lambda p=power: ddim.sample(model, 3, 6, power=p, y=y),
            "invert": lambda p=power: ddim.invert(model, torch.zeros(3, 2), 6, power=p, y=y),
        }.items():
            seen.clear()
            act()
            assert all(torch.equal(label, y) for _, label in seen)
            times[name, power] = torch.tensor([t for t, _ in seen], dtype=torch.float64)
    u = torch.linspace(1, 0, 6, dtype=torch.float64)
    for power in (1.0, 2.0):
        want = path.t_min + (path.t_max - path.t_min) * u**power
        torch.testing.assert_close(times["sample", power], want, rtol=0, atol=1e-3)
        torch.testing.assert_close(times["invert", power], times["sample", power].flip(0)[:-1], rtol=0, atol=1e-6)


def test_sampling_starts_as_wide_as_the_path_ends():
    for path in (VEPath(), LinearPath(), VPPath()):
        torch.manual_seed(0)
        wide = Denoiser(lambda x, t, y: x, path, "x0", (1,)).prior(20_000).std().item()
        assert wide == pytest.approx(path.sigma(torch.tensor(path.t_max)).item(), rel=0.03)


def test_what_changes_the_model_is_off_unless_asked_for():
    assert {"eta": 0.0}.items() <= defaults(ddim.step).items()
    assert {"eta": 0.0}.items() <= defaults(ddim.trajectory).items()
    assert {"eta": 0.0}.items() <= defaults(ddim.sample).items()
    assert {"power": 1.0}.items() <= defaults(ddim.sample).items()
    assert {"power": 1.0}.items() <= defaults(ddim.invert).items()
    assert {"eta": 0.0}.items() <= defaults(ddim.coefficients).items()
    assert {"eta": 0.0}.items() <= defaults(ddim_theory.gaussian_std).items()
