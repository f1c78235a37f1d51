"""EDM against exact Gaussians: the grid of Eq. 5, Algorithm 1 in closed form, Algorithm 2's law."""

from __future__ import annotations

import pytest
import torch
from specimen import Specimen, net

from gmbook import metrics
from gmbook.core.denoiser import ideal
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import LinearPath, TablePath, VEPath, VPPath
from gmbook.core.solvers import last
from gmbook.laws import plane
from gmbook.papers import edm
from gmbook.papers.ddpm import DDPM, linear_betas

SPECIMEN = Specimen(lambda: DDPM(net(), (2,), steps=20), draw=lambda model, n: edm.sample(model, n, 5, churn=1.0))

WALKS = {
    "EDM": lambda model: edm.sample(model, 4, 3),
    "with noise": lambda model: edm.sample(model, 4, 3, churn=2.0),
}
PATHS = {"VE": VEPath(0.002, 80.0), "VP": VPPath(), "linear": LinearPath(), "table": TablePath(linear_betas(1000))}


def test_the_grid_is_eq_5():
    """For σ from 80 to 0.002, ρ = 7 and N = 18, computed here from the paper's formula."""
    path, i = PATHS["VE"], torch.arange(18, dtype=torch.float64)
    printed = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(path.noise_ratio(path.karras_times(18)), printed, rtol=1e-9, atol=0)
    assert path.karras_times(1).tolist() == [1.0]


@pytest.mark.parametrize("name", PATHS)
def test_times_are_found_from_noise(name):
    t = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    torch.testing.assert_close(PATHS[name].time_at(PATHS[name].noise_ratio(t)), t, rtol=1e-7, atol=1e-9)
    on_grid = PATHS["table"].karras_times(20) * 1000
    torch.testing.assert_close(on_grid, on_grid.round())


def test_one_heun_step_by_hand():
    """x̄ and D linear for N(0, s²): D = s²/(s² + σ²) x̄, so d = σ/(s² + σ²) x̄ (Table 1, Algorithm 1)."""
    path = PATHS["VP"]
    denoiser = ideal(GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([0.25])), path)
    t, s = torch.tensor([0.7, 0.4], dtype=torch.float64)
    x = torch.tensor([[1.5]], dtype=torch.float64)
    high, low, bar = path.noise_ratio(t), path.noise_ratio(s), x / path.alpha(t)
    slope = lambda at, sigma: sigma / (0.25 + sigma**2) * at  # noqa: E731
    guess = bar + (low - high) * slope(bar, high)
    end = bar + (low - high) / 2 * (slope(bar, high) + slope(guess, low))
    torch.testing.assert_close(edm.step(denoiser, x, t, s), path.alpha(s) * end)
    torch.testing.assert_close(edm.step(denoiser, x, t, None), 0.25 / (0.25 + high**2) * bar)


def test_noise_is_added_as_algorithm_2_says():
    """One noisy step of N(0, s²): the variance is a polynomial in γ, by hand; with S_noise as a factor."""
    path = VEPath(0.01, 50.0)
    denoiser = ideal(GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([1.0])), path)
    t, s = path.time_at(torch.tensor([2.0, 1.0], dtype=torch.float64))
    x = torch.ones(200_000, 1, dtype=torch.float64)
    out = edm.step(denoiser, x, t, s, gamma=0.4, inflate=1.1)
    raised = 2.0 * 1.4
    first = raised / (1 + raised**2)
    factor = 1 + (1 - raised) / 2 * (first + (1 + (1 - raised) * first) / 2)
    assert out.mean().item() == pytest.approx(factor, abs=0.02)
    assert out.std().item() == pytest.approx(abs(factor) * 1.1 * (raised**2 - 4) ** 0.5, rel=0.02)


@pytest.mark.parametrize("churn", [0.0, 10.0])
@pytest.mark.parametrize("name", PATHS)
def test_it_draws_from_the_law(name, churn):
    law, n = plane.eight_gaussians(), 4000
    bar = 1.5 * metrics.noise_floor(metrics.sliced_w2, law.sample, n).mean
    x = edm.sample(ideal(law, PATHS[name]), n, 60, churn)
    exact = law.modes.repeat(n // 8, 1) + law.mode_std * torch.randn(n, 2)
    assert metrics.sliced_w2(x, exact).item() < bar


def test_noise_only_between_its_limits():
    path = PATHS["VE"]
    denoiser = ideal(plane.two_gaussians(), path)
    x, ts = 80 * torch.randn(5, 2), path.karras_times(6)
    still = last(edm.trajectory(denoiser, x, ts))
    torch.testing.assert_close(last(edm.trajectory(denoiser, x, ts, churn=5.0, churn_from=100.0)), still)
    assert not torch.allclose(last(edm.trajectory(denoiser, x, ts, churn=5.0)), still)
    with pytest.raises(ValueError, match="negative"):
        last(edm.trajectory(denoiser, x, ts, churn=-1.0))


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        edm.sample(SPECIMEN.build(), 2, 0)
