"""DPM-Solver++ against the exact flow of a Gaussian, DDIM, and a step in the paper's letters."""

import math

import pytest
import torch
from specimen import Specimen, net

from gmbook.core.denoiser import Denoiser, ideal
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import CosinePath, LinearPath, SubVPPath, TablePath, VEPath, VPPath
from gmbook.core.solvers import last
from gmbook.papers import ddim, dpm_solver
from gmbook.papers.ddpm import DDPM, linear_betas

SPECIMEN = Specimen(lambda: DDPM(net(), (2,), steps=20), draw=lambda model, n: dpm_solver.sample(model, n, 5))

WALKS = {"DPM-Solver++": lambda model: dpm_solver.sample(model, 4, 3)}

F64 = torch.float64
PATHS = [LinearPath(), VPPath(), SubVPPath(), VEPath(), CosinePath(), TablePath(linear_betas())]
path_cases = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)


def wavy(x, t, y=None):
    return torch.tanh(3 * x) + t.reshape(-1, 1)


@path_cases
@pytest.mark.equation("ddim-exponential")
def test_the_first_order_step_is_ddims(path):
    t, s = torch.tensor([0.7, 0.4], dtype=F64)
    model, x = Denoiser(wavy, path, "x0", (2,)), torch.randn(5, 2, dtype=F64)
    got = dpm_solver.exponential_step(path, x, wavy(x, t), t, s)
    torch.testing.assert_close(got, ddim.step(model, x, t, s), rtol=1e-9, atol=1e-9)
    two = torch.stack([t, s])  # a walk of two times: one step, which has no earlier value, and the reading
    ours, theirs = (list(walk(model, x, two)) for walk in (dpm_solver.trajectory, ddim.trajectory))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.equation("ddim-multistep")
def test_a_second_step_in_the_papers_letters():
    """Algorithm 2 at T = 1 VP: D = (1 + 1/(2r)) x_θ(t_{i−1}) − 1/(2r) x_θ(t_{i−2}), r = h_{i−1}/h_i."""
    path, x = VPPath(), torch.randn(5, 1, dtype=F64)
    ts = torch.tensor([0.9, 0.7, 0.35], dtype=F64)
    alpha = torch.exp(-(0.1 * ts + 19.9 * ts**2 / 2) / 2)
    sigma = (1 - alpha**2).sqrt()
    lam = (alpha / sigma).log()
    h1, h2 = lam[1] - lam[0], lam[2] - lam[1]
    first = wavy(x, ts[0])
    x1 = sigma[1] / sigma[0] * x - alpha[1] * torch.expm1(-h1) * first
    second = wavy(x1, ts[1])
    r = h1 / h2
    blend = (1 + 1 / (2 * r)) * second - 1 / (2 * r) * first
    x2 = sigma[2] / sigma[1] * x1 - alpha[2] * torch.expm1(-h2) * blend
    got = list(dpm_solver.trajectory(Denoiser(wavy, path, "x0", (1,)), x, ts))
    torch.testing.assert_close(torch.stack(got), torch.stack([x1, x2, wavy(x2, ts[2])]), rtol=1e-8, atol=1e-8)


@pytest.mark.equation("ddim-multistep")
@pytest.mark.parametrize("path", [VPPath(), CosinePath(), VEPath()], ids=lambda p: type(p).__name__)
def test_the_error_falls_with_order_two(path):
    """Against the exact flow of N(0, ½²), x √(v_s/v_t); DDIM at the same times has order one."""
    std, x = 0.5, torch.ones(1, 1, dtype=F64)
    model = ideal(GaussianMixture(torch.ones(1), torch.zeros(1, 1, dtype=F64), torch.tensor([std**2], dtype=F64)), path)
    orders = {}
    for name, walk in (("ddim", ddim.trajectory), ("2M", dpm_solver.trajectory)):
        errors = []
        for steps in (80, 160):
            ts = dpm_solver.times(path, steps)
            width = ((path.alpha(ts) * std) ** 2 + path.sigma(ts) ** 2).sqrt()
            *_, end, _ = walk(model, x, ts)
            errors.append((end - x * width[-1] / width[0]).abs().item())
        orders[name] = math.log2(errors[0] / errors[1])
    assert orders["ddim"] == pytest.approx(1, abs=0.1) and orders["2M"] == pytest.approx(2, abs=0.2)


@path_cases
def test_times_are_even_in_log_snr(path):
    steps = path.log_snr(dpm_solver.times(path, 9)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(8), rtol=1e-3, atol=1e-3)
    ends = torch.tensor([path.t_max, path.t_min], dtype=F64)
    torch.testing.assert_close(dpm_solver.times(path, 9)[[0, -1]], ends, rtol=0, atol=1e-6)


def test_steps_are_network_calls_and_labels_reach_all():
    calls, y = [], torch.tensor([1, 0, 2])
    model = Denoiser(lambda x, t, y: (calls.append(y), x)[1], TablePath(linear_betas()), "eps", (2,))
    for steps in (1, 2, 20):
        calls.clear()
        last(dpm_solver.trajectory(model, torch.zeros(3, 2), ddim.sub_sequence(model.path, steps), y))
        assert len(calls) == steps and all(torch.equal(label, y) for label in calls)


def test_equal_times_are_refused():
    model = Denoiser(wavy, VPPath(), "x0", (2,))
    with pytest.raises(ValueError, match="must fall"):
        last(dpm_solver.trajectory(model, torch.zeros(3, 2), torch.tensor([0.9, 0.5, 0.5])))
    with pytest.raises(ValueError, match="must fall"):
        last(dpm_solver.trajectory(model, torch.zeros(3, 2), torch.tensor([0.5, 0.9])))
