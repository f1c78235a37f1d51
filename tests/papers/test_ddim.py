"""DDIM against recursions of moments, DDPM, Euler's method and the closed cosine law."""

import itertools
import math

import pytest
import torch

from gmbook.core.denoiser import Denoiser, ideal
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import CosinePath, LinearPath, SubVPPath, TablePath, VEPath, VPPath
from gmbook.core.solvers import last
from gmbook.papers import ddim
from gmbook.papers.ddpm import DDPM, linear_betas

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
        noise = eta * ddim.posterior_std(path, t, s)
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
    torch.testing.assert_close(ddim.posterior_std(model.path, t, s) ** 2, model.beta_tilde[i], rtol=1e-9, atol=0)
    torch.testing.assert_close(ddim.transition_std(model.path, t, s) ** 2, model.beta[i], rtol=1e-9, atol=0)
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
