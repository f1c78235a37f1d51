"""Paths, against autodiff, moment equations and direct constructions of every quantity."""

import copy
import itertools
import math

import pytest
import torch

from gmbook.core.paths import QUANTITIES, CosinePath, LinearPath, SubVPPath, TablePath, VEPath, VPPath

DDPM_BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
PATHS = [LinearPath(), LinearPath(0.1), VPPath(), SubVPPath(), VEPath(), CosinePath(), TablePath(DDPM_BETAS)]
path_cases = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)


@path_cases
def test_rates_are_the_derivatives(path):
    t = torch.rand(64, dtype=torch.float64) * 0.96 + 0.02
    t = (t * 1000).floor() / 1000 + 0.0004  # inside a cell of the table, where its rate is smooth
    t.requires_grad_()
    for function, rate in zip((path.alpha, path.sigma), path.rates(t.detach())):
        (expected,) = torch.autograd.grad((function(t) + 0 * t).sum(), t)
        torch.testing.assert_close(rate, expected, rtol=1e-9, atol=1e-9)


@path_cases
@pytest.mark.equation("def-path-sde")
def test_noise_rate_solves_the_moment_equations(path):
    """dm/dt = f m and dσ²/dt = 2fσ² + g², by central differences of α and σ²."""
    t, h = torch.tensor([0.1503, 0.4507, 0.8004], dtype=torch.float64), 1e-7
    drift = (path.alpha(t + h).log() - path.alpha(t - h).log()) / (2 * h)
    growth = (path.sigma(t + h) ** 2 - path.sigma(t - h) ** 2) / (2 * h)
    torch.testing.assert_close(path.noise_rate(t), growth - 2 * drift * path.sigma(t) ** 2, rtol=1e-5, atol=1e-6)


@path_cases
@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 4, 4)], ids=str)
@pytest.mark.equation("path-conversion")
def test_all_conversions(path, shape):
    x0, eps = torch.randn(2, 8, *shape, dtype=torch.float64)
    t = torch.rand(8, dtype=torch.float64) * 0.9 + 0.05
    xt = path.interpolate(x0, eps, t)
    for source, to in itertools.product(QUANTITIES, repeat=2):
        got = path.convert(path.target(source, x0, eps, t), xt, t, source, to)
        torch.testing.assert_close(got, path.target(to, x0, eps, t), rtol=1e-6, atol=1e-6)


@path_cases
@pytest.mark.equation("ddpm-posterior", "ddim-sigma")
def test_bridge_is_the_conditional_of_a_joint_gaussian(path):
    """(x_0, x_s, x_t) for x_0 ~ N(0, 1), built by adding noise twice; conditioning is a matrix formula."""
    for t, s in torch.tensor([[0.8, 0.35], [0.5, 0.499], [0.9, 0.1]], dtype=torch.float64):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = path.alpha_sigma(t), path.alpha_sigma(s)
        bridge, ratio = path.bridge(t, s), alpha_t / alpha_s
        assert (bridge.alpha, bridge.sigma) == (alpha_s, sigma_s)
        scales = torch.stack([torch.ones_like(t), sigma_s, bridge.forward_std])  # of three independent noises
        rows = torch.tensor([[1.0, 0, 0], [alpha_s, 1, 0], [alpha_t, ratio, 1]], dtype=torch.float64) * scales
        joint = rows @ rows.T
        torch.testing.assert_close(joint[2, 2], alpha_t**2 + sigma_t**2, rtol=1e-12, atol=0)  # the marginal at t
        known, cross = joint[[0, 2]][:, [0, 2]], joint[1, [0, 2]]
        weights = torch.linalg.solve(known, cross)
        torch.testing.assert_close(torch.stack([bridge.weight_x0, bridge.weight_xt]), weights, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(bridge.std**2, joint[1, 1] - weights @ cross, rtol=1e-6, atol=1e-12)


@path_cases
def test_scalar_and_batched_times_agree(path):
    x0, eps = torch.randn(2, 5, 3)
    t = torch.tensor(0.3)
    torch.testing.assert_close(path.interpolate(x0, eps, t), path.interpolate(x0, eps, t.expand(5)))


def test_table_is_exact_on_its_grid():
    path = TablePath(DDPM_BETAS)
    alpha_bar = torch.cumprod(1 - DDPM_BETAS, 0)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        t = (torch.arange(1, 1001, dtype=torch.float64) / 1000).to(dtype)
        torch.testing.assert_close(path.alpha(t).double() ** 2, alpha_bar, rtol=tolerance, atol=0)
    assert path.alpha(torch.tensor(0.0)) == 1 and path.sigma(torch.tensor(0.0)) == 0
    assert math.isclose(path.alpha(torch.ones((), dtype=torch.float64)) ** 2, 4.035830e-5, rel_tol=1e-6)  # D1


def test_table_of_a_fine_vp_discretisation_is_the_vp_path():
    """β_i = β(i/T)/T tends to the VP SDE; e^{−B(1)} = e^{−10.05}."""
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    steps = 100_000
    grid = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    table = TablePath(VPPath().beta(grid) / steps)
    torch.testing.assert_close(table.alpha(t), VPPath().alpha(t), rtol=1e-2, atol=1e-6)
    assert math.isclose(VPPath().alpha(torch.ones((), dtype=torch.float64)) ** 2, math.exp(-10.05), rel_tol=1e-12)


def test_table_interpolation_is_monotone_and_continuous():
    """For an uneven table: B rises everywhere, and its rate has no jumps at the nodes."""
    path = TablePath(torch.tensor([0.3, 0.01, 0.5, 0.02, 0.9]))
    t = torch.linspace(0, 1, 5001, dtype=torch.float64)
    assert (path.integrated_beta(t).diff() >= 0).all() and (path.beta(t) >= -1e-12).all()
    nodes = torch.arange(1, 5, dtype=torch.float64) / 5
    torch.testing.assert_close(path.beta(nodes - 1e-9), path.beta(nodes + 1e-9), rtol=1e-5, atol=1e-5)


@path_cases
def test_no_path_asks_the_device_for_a_number(path):
    """A meta tensor has none to tell; a GPU would make the CPU wait."""
    there = copy.deepcopy(path).to("meta")
    for t in (torch.tensor(0.3, device="meta"), torch.rand(5, device="meta")):
        for value in (there.alpha(t), there.sigma(t), *there.rates(t), there.noise_rate(t), there.log_snr(t)):
            assert value.is_meta and value.shape == t.shape


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="unknown quantity 'noise'"):
        LinearPath().coefficients("noise", torch.tensor(0.5))
    with pytest.raises(ValueError, match="betas"):
        TablePath(torch.tensor([0.1, 1.5]))
    with pytest.raises(ValueError, match="sigma_min"):
        VEPath(2.0, 1.0)
    with pytest.raises(ValueError, match="steps"):
        LinearPath().times(0)


@path_cases
def test_velocity_is_bounded_between_the_flow_ends(path):
    """α'x_0 + σ'ε and both standard deviations are finite at the ends, where FlowMatching starts and stops."""
    rates = path.rates(torch.tensor(path.flow_ends, dtype=torch.float64))
    assert all(bool(torch.isfinite(rate).all()) for rate in rates)


def test_linear_path_refuses_a_variance_above_one():
    with pytest.raises(ValueError, match="sigma_min"):
        LinearPath(1.0)


@pytest.mark.equation("path-conversion")
@pytest.mark.parametrize("path", [VPPath(), SubVPPath(), CosinePath(), LinearPath()], ids=lambda p: type(p).__name__)
def test_readings_at_the_data_are_those_of_a_gaussian_law(path):
    """At t = 0, where σ = 0, for N(0, 0.7²): a reading is right, or refused as nothing follows from its source."""
    x, t = torch.randn(6, 2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    score = -x / 0.49
    drift = path.rates(t + 1e-9)[0] / path.alpha(t)
    true = {
        "x0": x,
        "eps": 0 * x,
        "v": 0 * x,
        "score": score,
        "velocity": drift * x - path.noise_rate(t + 1e-9) / 2 * score,
    }
    read = set()
    for source, to in itertools.product(QUANTITIES, repeat=2):
        try:
            got = path.convert(true[source], x, t, source, to)
        except ValueError as error:
            assert "nothing follows" in str(error)
            continue
        torch.testing.assert_close(got, true[to], rtol=1e-6, atol=1e-6, msg=f"{source} -> {to}")
        read.add((source, to))
    assert {(a, b) for a in QUANTITIES for b in ("x0", "eps", "v")} <= read
    assert ("score", "velocity") in read and (("velocity", "score") in read) == bool(path.noise_rate(t) > 0)


def test_karras_times_of_a_table_are_its_levels_nearest_to_even_steps():
    path, steps = TablePath(DDPM_BETAS), 10
    ts = path.karras_times(steps)
    levels = ts * 1000
    assert torch.equal(levels, levels.round()) and ts[0] == path.t_max and ts[-1] == path.t_min
    even = torch.linspace(*(path.noise_ratio(ts[[0, -1]]) ** (1 / 7)).tolist(), steps, dtype=torch.float64)
    above, below = (path.noise_ratio((ts + half / 1000).clamp(0, 1)) ** (1 / 7) for half in (0.51, -0.51))
    assert (below <= even + 1e-9).all() and (even <= above + 1e-9).all()
