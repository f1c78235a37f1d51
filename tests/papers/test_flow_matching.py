"""Flow matching against hand-written laws of two atoms, Gauss quadrature, autograd, enumeration and closed flows."""

import itertools
import math

import numpy as np
import pytest
import torch
from specimen import Returns, Specimen, defaults, net, rough, same_after_copies

from gmbook import metrics
from gmbook.core.denoiser import Truth, ideal
from gmbook.core.divergence import divergence
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import CosinePath, LinearPath, VEPath, VPPath
from gmbook.core.solvers import dopri5, euler, heun, last, midpoint, rk4
from gmbook.data import ImageSet
from gmbook.data.batches import LawBatches
from gmbook.experiments import flow_matching as flow_experiments
from gmbook.laws import plane
from gmbook.networks.guided import Guided
from gmbook.networks.mlp import TimeMLP
from gmbook.papers import ddim, score_sde
from gmbook.papers.flow_matching import FlowMatching, independent, logit_normal, optimal_transport
from gmbook.papers.theory.flow_matching import conditional_velocity, gaussian_floor
from gmbook.train import train


def labelled(device):
    """A sample, and a loss with optimal transport, for labels that a loader gives, on the CPU."""
    model = FlowMatching(TimeMLP(2, 16, 2, classes=3), (2,), coupling=optimal_transport).to(device)
    x, y = torch.randn(3, 2, device=device), torch.tensor([0, 1, 2])
    return model.sample(3, y, steps=2) + model(x, torch.rand(3), y) + model(x, 0.5, y) + model.loss(x, y).detach()


SPECIMEN = Specimen(lambda: FlowMatching(net(), (2,)))

MEASURES = {
    "log_prob": lambda model, x: model.log_prob(x, solver=rough),
    "encode": lambda model, x: model.encode(x, steps=2),
    "labels of a loader": lambda model, x: labelled(model.device),
}

F64 = torch.float64
WEIGHTS, ATOMS, SIGMA_MIN = torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([-1.5, 1.0], dtype=F64), 0.1
OT = LinearPath(SIGMA_MIN)
LAW = GaussianMixture(WEIGHTS, ATOMS[:, None], torch.full((2,), 1e-18, dtype=F64))  # two atoms
PATHS = [LinearPath(), OT, VPPath(), CosinePath()]
path_cases = pytest.mark.parametrize("path", PATHS, ids=["linear", "sigma_min", "VP", "cosine"])


def time(value):
    return torch.tensor(value, dtype=F64)


def by_hand(x, t):
    """Density and marginal velocity of the two atoms on the paper's OT path, in the paper's own time 1 − t."""
    s = 1 - t
    std = 1 - (1 - SIGMA_MIN) * s
    joint = WEIGHTS * torch.exp(-(((x - s * ATOMS) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))  # (B, 2)
    conditional = (ATOMS - (1 - SIGMA_MIN) * x) / std
    density = joint.sum(1)
    return density, -((joint * conditional).sum(1) / density)[:, None]


def distribution(x, std=SIGMA_MIN):
    """The mixture's distribution function at the data: (B, 1) -> (B,)."""
    return torch.special.ndtr((x - ATOMS) / std) @ WEIGHTS


def gaussian_velocity(mean, std):
    """The exact field of N(0, 1) -> N(m, s²): m + (τs² − (1 − τ))/(τ²s² + (1 − τ)²) (x − τm) in the paper's time τ."""

    def net(x, t, y=None):
        s = (1 - t).reshape(-1, 1)
        return -(mean + (s * std**2 - (1 - s)) / (s**2 * std**2 + (1 - s) ** 2) * (x - s * mean))

    return net


# ------------------------------------------------------------------------------------------------- fields and flows


@pytest.mark.equation("fm-marginal")
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_marginal_field_is_the_posterior_mean_of_the_conditional_ones(t):
    """Theorem 1: Bayes' weights by hand in the paper's time, against the ideal network of the book."""
    x = torch.linspace(-3, 3, 61, dtype=F64)[:, None]
    torch.testing.assert_close(Truth(LAW, OT, "velocity")(x, time(t)), by_hand(x, time(t))[1], rtol=1e-9, atol=1e-9)


@pytest.mark.fact("F1")
@pytest.mark.equation("fm-continuity")
def test_marginal_field_solves_the_continuity_equation():
    """∂_t p + ∂_x(p u) = 0: central difference in time of the hand-written density, autograd in x."""
    x, t, h = torch.linspace(-3, 3, 201, dtype=F64)[:, None], time(0.4), 1e-5
    model = FlowMatching(Truth(LAW, OT, "velocity"), (1,), OT)
    _, outflow = divergence(lambda x: by_hand(x, t)[0][:, None] * model(x, t), x)
    growth = (by_hand(x, t + h)[0] - by_hand(x, t - h)[0]) / (2 * h)
    torch.testing.assert_close(growth, -outflow, rtol=0, atol=1e-6)


@pytest.mark.fact("F1b")
def test_the_path_of_the_survey_does_not_begin_at_the_prior():
    """N(τ x_1 + (1 − τ) x_0, s²) has variance 1 + s² at τ = 0; the paper's path has α = 0 and σ = 1 there."""
    x0 = torch.randn(200_000, dtype=F64)
    survey = x0 + 0.3 * torch.randn_like(x0)
    assert survey.var().item() == pytest.approx(1.09, abs=0.02)
    assert OT.alpha(time(1.0)) == 0 and OT.sigma(time(1.0)) == 1
    assert OT.sigma(time(0.0)).item() == pytest.approx(SIGMA_MIN, rel=1e-15)


@pytest.mark.fact("F2")
@pytest.mark.equation("fm-flow")
def test_flow_is_the_monotone_map_in_one_dimension():
    """Quantiles of N(0, 1) arrive at the same quantiles of the data, and encode brings them back."""
    q = torch.linspace(0.01, 0.99, 99, dtype=F64)
    model, noise = FlowMatching(Truth(LAW, OT, "velocity"), (1,), OT), torch.special.ndtri(q)[:, None]
    x = model.decode(noise, steps=400, solver=rk4)
    torch.testing.assert_close(distribution(x), q, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.encode(x, steps=400, solver=rk4), noise, rtol=0, atol=1e-6)


@pytest.mark.equation("fm-gaussian-flow")
def test_gaussian_flow_in_closed_form():
    """The field of exercise 3 is the ideal one, and its map is ε -> m + sε."""
    law = GaussianMixture(torch.ones(1), torch.tensor([[0.8]], dtype=F64), torch.tensor([0.25], dtype=F64))
    net, x = gaussian_velocity(0.8, 0.5), torch.randn(50, 1, dtype=F64)
    for t in (0.1, 0.5, 1.0):
        exact = Truth(law, LinearPath(), "velocity")(x, time(t))
        torch.testing.assert_close(net(x, time(t)), exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(FlowMatching(net, (1,)).decode(x, steps=200, solver=rk4), 0.8 + 0.5 * x)


@path_cases
@pytest.mark.equation("fm-conditional")
def test_conditional_field_is_the_velocity_of_the_conditional_flow(path):
    """Theorem 3: at ψ_t(ε) = αx_0 + σε it is dψ_t/dt, by autograd."""
    x0, eps = torch.randn(2, 6, 3, dtype=F64)
    t = torch.linspace(0.05, 0.95, 6, dtype=F64).requires_grad_()
    xt = path.interpolate(x0, eps, t)
    slope = torch.stack([torch.autograd.grad(xt[:, i].sum(), t, retain_graph=True)[0] for i in range(3)], 1)
    got = conditional_velocity(path, xt.detach(), x0, t.detach())
    torch.testing.assert_close(got, slope, rtol=1e-8, atol=1e-8)


@pytest.mark.equation("fm-ot-field")
def test_conditional_field_of_the_ot_path_is_the_papers():
    x, x1 = torch.randn(2, 6, 1, dtype=F64)
    tau = torch.rand(6, dtype=F64)
    std = 1 - (1 - SIGMA_MIN) * tau[:, None]
    expected = (x1 - (1 - SIGMA_MIN) * x) / std
    torch.testing.assert_close(-conditional_velocity(OT, x, x1, 1 - tau), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.equation("fm-vp-field")
def test_conditional_field_of_the_vp_path_is_the_papers():
    """α'/(1 − α²) (αx − x_1), with no square root in the denominator: the paper's α_{1−τ} and its derivative in τ."""
    x, x1 = torch.randn(2, 6, 1, dtype=F64)
    tau = torch.linspace(0.1, 0.9, 6, dtype=F64).requires_grad_()
    alpha = torch.exp(-(0.1 * (1 - tau) + 19.9 * (1 - tau) ** 2 / 2) / 2)  # α at 1 − τ
    (rate,) = torch.autograd.grad(alpha.sum(), tau)  # d/dτ; the paper's prime is the derivative in its argument
    alpha = alpha.detach()[:, None]
    expected = -rate[:, None] / (1 - alpha**2) * (alpha * x - x1)
    torch.testing.assert_close(-conditional_velocity(VPPath(), x, x1, 1 - tau.detach()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.fact("F4")
@pytest.mark.equation("fm-score")
def test_velocity_and_score_say_the_same():
    """u = x/τ + (1 − τ)/τ ∇log p in the paper's time; the score by autograd of the exact density."""
    law = GaussianMixture(WEIGHTS, ATOMS[:, None], torch.full((2,), 0.25, dtype=F64))
    tau, x = time(0.4), torch.linspace(-3, 3, 201, dtype=F64)[:, None].requires_grad_()
    (score,) = torch.autograd.grad(law.diffused(tau, 1 - tau).log_prob(x).sum(), x)
    expected = x.detach() / tau + (1 - tau) / tau * score
    velocity = ideal(law, LinearPath()).predict("velocity", x.detach(), 1 - tau)
    torch.testing.assert_close(-velocity, expected, rtol=0, atol=1e-10)


@path_cases
@pytest.mark.equation("fm-score")
def test_velocity_from_the_score_on_every_path(path):
    """u = (α'/α)x + ((α'/α)σ² − σ'σ)∇log p; the rates and the score by autograd."""
    law = GaussianMixture(WEIGHTS, ATOMS[:, None], torch.full((2,), 0.25, dtype=F64))
    t, x = time(0.6).requires_grad_(), torch.linspace(-3, 3, 61, dtype=F64)[:, None].requires_grad_()
    alpha, sigma = path.alpha(t), path.sigma(t)
    d_alpha, d_sigma = (torch.autograd.grad(c, t, retain_graph=True)[0] for c in (alpha, sigma))
    alpha, sigma = alpha.detach(), sigma.detach()
    (score,) = torch.autograd.grad(law.diffused(alpha, sigma).log_prob(x).sum(), x)
    expected = d_alpha / alpha * x.detach() + (d_alpha / alpha * sigma**2 - d_sigma * sigma) * score
    got = Truth(law, path, "velocity")(x.detach(), t.detach())
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@path_cases
@pytest.mark.equation("fm-weight")
def test_velocity_error_is_a_weighted_noise_error(path):
    """‖v_θ − u‖² = (σ' − σα'/α)² ‖ε_θ − ε‖² for any network; ε_θ solved from x = αx_0 + σε and v = α'x_0 + σ'ε."""
    x0, eps = torch.randn(2, 8, 2, dtype=F64)
    t = torch.linspace(0.1, 0.9, 8, dtype=F64)
    xt = path.interpolate(x0, eps, t)
    v = torch.sin(3 * xt) + t[:, None]
    rows = torch.stack([torch.stack([path.alpha(t), path.sigma(t)], 1), torch.stack(path.rates(t), 1)], 1)  # (8, 2, 2)
    eps_hat = torch.linalg.solve(rows, torch.stack([xt, v], 1))[:, 1]
    model = FlowMatching(lambda x, t, y: torch.sin(3 * x) + t[:, None], (2,), path)
    torch.testing.assert_close(model.predict("eps", xt, t), eps_hat, rtol=1e-8, atol=1e-8)
    d_alpha, d_sigma = path.rates(t)
    weight = (d_sigma - path.sigma(t) * d_alpha / path.alpha(t)) ** 2
    target = d_alpha[:, None] * x0 + d_sigma[:, None] * eps
    error = (v - target).square().sum(1)
    torch.testing.assert_close(error, weight * (eps_hat - eps).square().sum(1), rtol=1e-7, atol=1e-9)


@pytest.mark.equation("fm-angle")
@pytest.mark.parametrize("path", [VPPath(), CosinePath()], ids=["VP", "cosine"])
def test_velocity_is_v_times_the_speed_of_the_angle(path):
    """φ = arctan(σ/α) and its rate by autograd; v = ε cos φ − x_0 sin φ by hand."""
    x0, eps = torch.randn(2, 6, 2, dtype=F64)
    t = torch.linspace(0.1, 0.9, 6, dtype=F64).requires_grad_()
    angle = torch.atan2(path.sigma(t), path.alpha(t))
    (speed,) = torch.autograd.grad(angle.sum(), t)
    v = eps * angle.cos()[:, None] - x0 * angle.sin()[:, None]
    expected = (speed[:, None] * v).detach()
    torch.testing.assert_close(path.target("velocity", x0, eps, t.detach()), expected, rtol=1e-8, atol=1e-8)
    d_sigma = path.rates(t.detach())[1]
    torch.testing.assert_close(d_sigma / path.alpha(t.detach()), speed, rtol=1e-8, atol=0)


@pytest.mark.equation("fm-ddim")
@pytest.mark.parametrize("path", [LinearPath(), OT], ids=["linear", "sigma_min"])
def test_ddim_is_eulers_step_on_the_linear_path(path):
    """Also for a single giant step; on the VP path the two differ."""
    net = lambda x, t, y: torch.tanh(2 * x) + t[:, None]  # noqa: E731
    model, x = FlowMatching(net, (2,), path), torch.randn(6, 2, dtype=F64)
    for t, s in ((0.9, 0.05), (0.5, 0.4)):
        expected = x + (s - t) * net(x, torch.full((6,), t, dtype=F64), None)
        torch.testing.assert_close(ddim.step(model, x, time(t), time(s)), expected, rtol=1e-10, atol=1e-10)
    bent = FlowMatching(net, (2,), VPPath())
    expected = x + (0.05 - 0.9) * net(x, torch.full((6,), 0.9, dtype=F64), None)
    assert (ddim.step(bent, x, time(0.9), time(0.05)) - expected).abs().max() > 0.1


@pytest.mark.equation("fm-bits")
@pytest.mark.parametrize("dims", [1, 768])
def test_bits_per_dimension_of_a_uniform_density(dims):
    """The uniform density on (−1, 1)^D is a uniform law of bytes: 8 bits a pixel. A byte that is certain costs 0."""
    nats = torch.tensor([dims * math.log(2), -dims * math.log(128)], dtype=F64)  # −log ½^D, −log (1/2⁻⁷)^D
    torch.testing.assert_close(metrics.bits_per_dim(nats, dims, 7), torch.tensor([8.0, 0.0], dtype=F64))


@pytest.mark.equation("fm-endpoints")
def test_a_velocity_points_to_both_ends():
    """x̂_0 = x − tv and ε̂ = x + (1 − t)v on the linear path, for any network."""
    model = FlowMatching(lambda x, t, y: torch.tanh(2 * x) + t[:, None], (3,))
    x, t = torch.randn(5, 3, dtype=F64), torch.rand(5, dtype=F64)
    v = model(x, t)
    torch.testing.assert_close(model.predict("x0", x, t), x - t[:, None] * v)
    torch.testing.assert_close(model.predict("eps", x, t), x + (1 - t[:, None]) * v)


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (midpoint, 2), (heun, 2), (rk4, 4)])
@pytest.mark.equation("fm-order")
def test_error_falls_with_the_order_of_the_solver(solver, order):
    """Against the exact quantiles. (On a Gaussian's linear field the midpoint rule has order 3: a poor test case.)"""
    path = LinearPath(0.5)
    model, q = FlowMatching(Truth(LAW, path, "velocity"), (1,), path), torch.tensor([0.1, 0.6, 0.95], dtype=F64)
    maps = [model.decode(torch.special.ndtri(q)[:, None], steps=n, solver=solver) for n in (32, 64)]
    coarse, fine = ((distribution(x, 0.5) - q).norm() for x in maps)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.mark.equation("fm-ddim")
def test_an_euler_step_on_the_linear_path_is_ddims_step():
    """x + (s − t)v against ddim.step, which goes through x̂_0 and ε̂."""
    model = FlowMatching(lambda x, t, y: torch.tanh(2 * x) + t[:, None], (3,))
    x, (t, s) = torch.randn(5, 3, dtype=F64), torch.tensor([0.7, 0.4], dtype=F64)
    *_, euler_step = model.trajectory(x, torch.stack([t, s]), euler)
    torch.testing.assert_close(ddim.step(model, x, t, s), euler_step)


# ------------------------------------------------------------------------------------------------------- the losses


def grid():
    """Gauss quadrature over (atom, ε, t) of the two atoms on the OT path: x_0, ε, t and weights that sum to 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    times, spans = plane.legendre(20)
    k, i, j = torch.meshgrid(torch.arange(2), torch.arange(120), torch.arange(20), indexing="ij")
    mass = torch.from_numpy(weights / weights.sum())
    total = WEIGHTS[k] * mass[i] * spans[j]
    return ATOMS[k].reshape(-1, 1), torch.from_numpy(nodes)[i].reshape(-1, 1), times[j].flatten(), total.flatten()


class Small(torch.nn.Module):
    """v = a sin(x) + b t x, with two weights."""

    def __init__(self, a, b):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([a, b], dtype=F64))

    def forward(self, x, t, y=None):
        return self.weights[0] * torch.sin(x) + self.weights[1] * t[:, None] * x


def exact_losses(net):
    """(L_FM, L_CFM) by quadrature, with the field of `by_hand` as the marginal one."""
    x0, eps, t, weight = grid()
    xt, v = OT.interpolate(x0, eps, t), None
    v = net(xt, t)
    marginal = by_hand(xt, t[:, None])[1]
    conditional = (1 - SIGMA_MIN) * eps - x0
    return weight @ (v - marginal).square()[:, 0], weight @ (v - conditional).square()[:, 0]


FLOOR = 1.102  # C of the two atoms


@pytest.mark.fact("F3")
@pytest.mark.equation("fm-equal-gradients", "fm-floor")
def test_the_two_losses_differ_by_a_constant_and_have_equal_gradients():
    """Theorem 2, by quadrature: for unrelated networks L_CFM − L_FM = C, and the gradients agree."""
    gaps = []
    for a, b in ((0.0, 0.0), (1.0, 1.0), (-0.7, 2.0)):
        net = Small(a, b)
        fm, cfm = exact_losses(net)
        gaps.append((cfm - fm).item())
        (g_fm,) = torch.autograd.grad(fm, net.weights, retain_graph=True)
        (g_cfm,) = torch.autograd.grad(cfm, net.weights)
        torch.testing.assert_close(g_fm, g_cfm, rtol=0, atol=1e-5)
        assert g_fm.norm() > 0.1
    assert max(gaps) - min(gaps) < 1e-5
    assert gaps[0] == pytest.approx(FLOOR, abs=5e-4)


@pytest.mark.fact("F3")
@pytest.mark.equation("fm-loss", "fm-cfm", "fm-floor")
def test_both_losses_of_the_class_are_the_exact_ones():
    """Monte Carlo within four standard errors of quadrature; and the truth's own loss is C, not 0."""
    truth = Truth(LAW, OT, "velocity")
    model = FlowMatching(Small(1.0, 1.0), (1,), OT)
    draws = [(model.loss(LAW.sample(2000)), model.marginal_loss(LAW.sample(2000), truth)) for _ in range(60)]
    cfm, fm = torch.stack([torch.stack(pair) for pair in draws]).detach().T
    for values, exact in zip((fm, cfm), exact_losses(model.net)):
        assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(60)
    best = FlowMatching(truth, (1,), OT)
    values = torch.stack([best.loss(LAW.sample(2000)) for _ in range(60)])
    assert abs(values.mean() - FLOOR) < 4 * values.std() / math.sqrt(60)
    assert best.marginal_loss(LAW.sample(100), truth) == 0


@pytest.mark.equation("fm-plateau", "fm-floor")
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_plateau_is_the_conditional_velocities_mean_square_less_the_marginal_ones(t):
    """α'²E x_0² + σ'² − ∫ p u² on a grid, against the mean conditional variance, atom by atom."""
    reach = 2 + 10 * t  # where p_t is below 1e-12, and not yet 0
    x, step = torch.linspace(-reach, reach, 8001, dtype=F64), reach / 4000
    s, std = 1 - t, 1 - (1 - SIGMA_MIN) * (1 - t)
    joint = WEIGHTS * torch.exp(-(((x[:, None] - s * ATOMS) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
    arrows = ((1 - SIGMA_MIN) * x[:, None] - ATOMS) / std  # u_t(x | x_0), for each atom
    mean = (joint * arrows).sum(1) / joint.sum(1)
    variance = step * (joint * (arrows - mean[:, None]) ** 2).sum()
    density, velocity = by_hand(x[:, None], time(t))
    d_alpha, d_sigma = OT.rates(time(t))
    second = (WEIGHTS * ATOMS**2).sum()
    velocity = Truth(LAW, OT, "velocity")(x[:, None], time(t))
    plateau = d_alpha**2 * second + d_sigma**2 - step * (density * velocity[:, 0] ** 2).sum()
    assert plateau.item() == pytest.approx(variance.item(), abs=1e-9)
    torch.manual_seed(0)
    best = FlowMatching(Truth(LAW, OT, "velocity"), (1,), OT, time_law=lambda u: torch.full_like(u, t))
    losses = torch.stack([best.loss(LAW.sample(4000)) for _ in range(50)])  # the loss of the best network, at this t
    assert abs(losses.mean() - plateau) < 5 * losses.std() / 50**0.5 + 1e-9


@path_cases
@pytest.mark.equation("fm-gaussian-floor")
def test_floor_of_a_gaussian(path):
    """Var(u | x_t) from the joint covariance of (u, x_t); its time integral is πs/2 on the linear path."""
    s, t = 0.6, torch.linspace(0.05, 0.95, 7, dtype=F64)
    alpha, sigma, (d_alpha, d_sigma) = path.alpha(t), path.sigma(t), path.rates(t)
    both = torch.stack([torch.stack([d_alpha * s, d_sigma]), torch.stack([alpha * s, sigma])]).permute(2, 0, 1)
    joint = both @ both.mT  # covariance of (u, x_t)
    conditional = 1 / torch.linalg.inv(joint)[:, 0, 0]
    torch.testing.assert_close(gaussian_floor(s, path, t), conditional, rtol=1e-8, atol=0)
    nodes, weights = plane.legendre(60)
    total = weights @ gaussian_floor(s, LinearPath(), nodes)
    assert total.item() == pytest.approx(math.pi * s / 2, abs=1e-9)


def test_two_symmetric_atoms_hide_least_at_the_data():
    """Exercise 4: for ±a with σ_min = 0, C_t is a² at the noise (paper: t = 0) and tends to 0 at the data."""
    a = 1.3
    law = GaussianMixture(torch.ones(2), torch.tensor([[-a], [a]], dtype=F64), torch.full((2,), 1e-18, dtype=F64))
    eps, x0 = torch.randn(200_000, 1, dtype=F64), law.sample(200_000)
    path, floors = LinearPath(), []
    for t in (time(1.0), time(0.02)):
        xt = path.interpolate(x0, eps, t)
        floors.append((Truth(law, path, "velocity")(xt, t) - (eps - x0)).square().mean().item())
    assert floors[0] == pytest.approx(a**2, rel=0.01) and floors[1] < 1e-6


@pytest.mark.equation("fm-logit-normal")
def test_logit_normal_times():
    """The density of the map of a uniform number is 1/(dt/du), against the formula of SD3."""
    m, s = 0.4, 1.2
    u = torch.linspace(0.02, 0.98, 25, dtype=F64).requires_grad_()
    t = logit_normal(m, s)(u)
    (slope,) = torch.autograd.grad(t.sum(), u)
    logit = torch.log(t / (1 - t))
    formula = torch.exp(-((logit - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi) * t * (1 - t))
    torch.testing.assert_close(1 / slope, formula.detach(), rtol=1e-9, atol=0)
    model = FlowMatching(lambda x, t, y: x, (1,), time_law=logit_normal(m, s))
    drawn = model.draw_times(torch.zeros(50_000, 1))
    assert drawn.logit().mean().item() == pytest.approx(m, abs=0.03)
    assert drawn.logit().std().item() == pytest.approx(s, abs=0.03)


def test_uniform_times_lie_between_the_flow_ends():
    for path in PATHS:
        t = FlowMatching(lambda x, t, y: x, (1,), path).draw_times(torch.zeros(20_000, 1))
        start, end = path.flow_ends
        assert t.dtype == F64 and start <= t.min() and t.max() <= end
        assert t.mean().item() == pytest.approx((start + end) / 2, abs=0.01)


# ---------------------------------------------------------------------------------------------------- couplings


@pytest.mark.equation("fm-coupling")
def test_coupling_is_the_best_of_all_permutations():
    x0, noise = torch.randn(2, 6, 1, 2, 2)
    same, paired = optimal_transport(x0, noise)
    costs = [(x0 - noise[list(order)]).square().sum() for order in itertools.permutations(range(6))]
    assert torch.equal(same, x0)
    torch.testing.assert_close((x0 - paired).square().sum(), min(costs))
    assert max(costs) > 1.2 * min(costs)


@pytest.mark.equation("fm-coupling")
def test_coupling_sorts_in_one_dimension_and_uses_every_point_once():
    x0, noise = torch.randn(400, 1).exp(), torch.randn(400, 1)
    _, paired = optimal_transport(x0, noise)
    order = x0[:, 0].argsort()
    assert torch.equal(paired[order], noise.sort(0).values)
    assert torch.equal(paired.sort(0).values, noise.sort(0).values)


def test_coupled_loss_has_a_lower_floor():
    """N(2, ½²) in one dimension: pairs cost W_2² = 4.25 and not 5.25, and the best constant field leaves the rest."""
    x0 = 2 + 0.5 * torch.randn(512, 1, dtype=F64)
    noise = torch.randn_like(x0)
    cost = {c: (lambda a, b: (a - b).square().mean().item())(*c(x0, noise)) for c in (independent, optimal_transport)}
    assert (
        cost[optimal_transport] == pytest.approx(4.25, abs=0.35) and cost[independent] > cost[optimal_transport] + 0.7
    )
    constant = lambda x, t, y: torch.full_like(x, -2.0)  # noqa: E731
    losses = [FlowMatching(constant, (1,), coupling=c).loss(x0).item() for c in (independent, optimal_transport)]
    assert losses[0] == pytest.approx(1.25, abs=0.2) and losses[1] == pytest.approx(0.25, abs=0.1)


# ------------------------------------------------------------------------------------- likelihood, guidance, samplers


@pytest.mark.fact("F5")
@pytest.mark.equation("ode-likelihood")
def test_likelihood_is_exact():
    """With the truth as network, log p along the flow is the mixture's log-density at the data, σ_min included."""
    x = torch.tensor([-1.6, -1.4, 0.9, 1.1, 1.3], dtype=F64)[:, None]
    model = FlowMatching(Truth(LAW, OT, "velocity"), (1,), OT)
    exact = by_hand(x, time(0.0))[0].log()
    tight = lambda f, x, ts: dopri5(f, x, ts, 1e-7, 1e-7)  # noqa: E731
    torch.testing.assert_close(model.log_prob(x, solver=tight), exact, rtol=0, atol=1e-4)
    torch.testing.assert_close(model.log_prob(x, steps=200, solver=rk4), exact, rtol=0, atol=1e-4)
    probe = torch.ones_like(x)  # in one dimension any sign is exact
    torch.testing.assert_close(model.log_prob(x, probe=probe, solver=tight), exact, rtol=0, atol=1e-4)


class ByClass(torch.nn.Module):
    """The exact velocities of p(x | y) for y = 0, 1 and of the mixture for the null label 2."""

    def __init__(self, path):
        super().__init__()
        part = lambda k: GaussianMixture(torch.ones(1), ATOMS[k].reshape(1, 1), torch.full((1,), 0.04, dtype=F64))  # noqa: E731
        whole = GaussianMixture(WEIGHTS, ATOMS[:, None], torch.full((2,), 0.04, dtype=F64))
        self.fields = [Truth(law, path, "velocity") for law in (part(0), part(1), whole)]

    def forward(self, x, t, y=None):
        y = torch.full((len(x),), 2) if y is None else y
        return torch.stack([field(x, t) for field in self.fields])[y, torch.arange(len(x))]


@path_cases
@pytest.mark.equation("fm-guidance")
def test_guiding_the_velocity_is_guiding_the_score(path):
    """v_u + s(v_c − v_u) reads as s_u + s(s_c − s_u), scores by autograd of the densities."""
    x, t, y = torch.randn(8, 1, dtype=F64), time(0.6), torch.tensor([0, 1] * 4)
    net, scale = ByClass(path), 3.0
    guided = FlowMatching(Guided(net, scale, 2), (1,), path)

    def score(law):
        z = x.clone().requires_grad_()
        return torch.autograd.grad(law.diffused(path.alpha(t), path.sigma(t)).log_prob(z).sum(), z)[0]

    parts = torch.stack([score(field.law) for field in net.fields])
    conditional, unconditional = parts[y, torch.arange(8)], parts[2]
    expected = unconditional + scale * (conditional - unconditional)
    torch.testing.assert_close(guided.predict("score", x, t, y), expected, rtol=1e-6, atol=1e-6)


def test_labels_reach_the_flow_and_the_likelihood():
    net, y = ByClass(OT), torch.tensor([0, 1] * 50)
    model = FlowMatching(Guided(net, 1.0, 2), (1,), OT)
    x = model.decode(torch.randn(100, 1, dtype=F64), y, 50)
    assert (x[:, 0].sign() == ATOMS[y].sign()).all()
    own, other = model.log_prob(x[:10], y[:10]), model.log_prob(x[:10], 1 - y[:10])
    assert (own > other + 5).all()


def test_samples_with_the_truth_on_every_path():
    """5,000 quantiles of the noise against the distribution function of a law of std 0.2 about the two atoms."""
    law = GaussianMixture(WEIGHTS, ATOMS[:, None], torch.full((2,), 0.04, dtype=F64))
    ranks = (torch.arange(5000, dtype=F64) + 0.5) / 5000
    for path in PATHS:
        model = FlowMatching(Truth(law, path, "velocity"), (1,), path)
        ts = model.times(40).clamp(min=1e-4)  # the exact field, read from x̂_0, is 0/0 at σ = 0
        *_, x = model.trajectory(torch.special.ndtri(ranks)[:, None], ts)
        x = x.sort(0).values
        spread = 0.04 + path.sigma(ts[-1]).item() ** 2
        assert (distribution(x, math.sqrt(spread)) - ranks).abs().max() < 0.01


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)], ids=str)
@pytest.mark.parametrize("coupling", [independent, optimal_transport])
def test_contract(shape, coupling):
    model = FlowMatching(lambda x, t, y: 0.1 * x + t.reshape(-1, *[1] * len(shape)), shape, coupling=coupling)
    x = torch.randn(4, *shape)
    assert model.loss(x).shape == () and model.marginal_loss(x, model.net) < 1e-12
    for solver, steps in ((euler, 3), (heun, 3), (dopri5, 1)):
        assert model.sample(3, steps=steps, solver=solver).shape == (3, *shape)
    torch.testing.assert_close(model.decode(model.encode(x, steps=20), steps=20), x, rtol=0, atol=1e-3)
    assert model.log_prob(x[:2], probe=torch.randn_like(x[:2]).sign()).shape == (2,)
    assert list(model.trajectory(x, model.times(5)))[-1].shape == x.shape
    for sample in (ddim.sample, score_sde.probability_flow, score_sde.reverse_sde):  # anybody's sampler runs it
        assert sample(model, 3, 4).shape == (3, *shape)


def test_bad_input_has_one_clear_error():
    model = FlowMatching(lambda x, t, y: x, (2,))
    with pytest.raises(TypeError, match="scale images"):
        model.loss(torch.zeros(3, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="expected a batch"):
        model.decode(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        model.sample(3, steps=0)


# ------------------------------------------------------------------------------------------------- learned quality


def test_learns_eight_gaussians():
    """Sliced W2 within 2.5 noise floors, the loss at its plateau C, and the field near the exact one."""
    law = plane.eight_gaussians()
    model = FlowMatching(TimeMLP(2, width=96, depth=3), (2,))
    list(train(model, LawBatches(law, 256), steps=1200, lr=4e-3, decay="cosine"))
    model.eval()
    with torch.no_grad():
        truth, x0 = FlowMatching(Truth(law, LinearPath(), "velocity"), (2,)), law.sample(20_000)
        torch.manual_seed(1)
        floor = truth.loss(x0)
        torch.manual_seed(1)
        excess = model.loss(x0) - floor
        error = model.marginal_loss(x0, truth.net)
    assert floor > 0.5 and abs(excess - error) < 0.01  # the loss stands at C, not at 0
    assert error < 0.05
    limit = 2.5 * metrics.noise_floor(metrics.sliced_w2, law.sample, 4000).mean
    x = model.sample(4000, steps=30)
    distance = torch.stack([metrics.sliced_w2(x, law.sample(4000)) for _ in range(3)]).mean()
    assert distance < limit


def test_an_output_that_would_broadcast_is_refused():
    with pytest.raises(ValueError, match="must return"):
        FlowMatching(Returns(4), (1,)).loss(torch.randn(4, 1))


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SPECIMEN.build().sample(2, steps=0)


def gaussian(std=0.5):
    return GaussianMixture(torch.ones(1), torch.tensor([[1.0, -1.0]], dtype=F64), torch.tensor([std**2], dtype=F64))


@pytest.mark.parametrize("solver", [euler, heun, midpoint, rk4, dopri5])
def test_the_truth_arrives_at_the_data_by_every_solver(solver):
    """x_0 = m + sε for N(m, s²): at t = 0 the reading of the velocity is 0/0, and its limit −x is taken."""
    model = FlowMatching(Truth(gaussian(), LinearPath(), "velocity"), (2,))
    noise = torch.randn(50, 2, dtype=F64)
    exact = torch.tensor([1.0, -1.0]) + 0.5 * noise
    steps = {dopri5: 1, euler: 2000}.get(solver, 100)
    torch.testing.assert_close(model.decode(noise, steps=steps, solver=solver), exact, atol=2e-3, rtol=0)
    torch.testing.assert_close(model.encode(exact, steps=steps, solver=solver), noise, atol=5e-3, rtol=0)
    x = torch.randn(3, 2, dtype=F64)
    torch.testing.assert_close(model.predict("velocity", x, time(0.0)), -x)


def test_the_likelihood_of_the_truth_from_t_0_is_that_of_its_law():
    model = FlowMatching(Truth(gaussian(), LinearPath(), "velocity"), (2,))
    x = gaussian().sample(20)
    torch.testing.assert_close(model.log_prob(x), gaussian().log_prob(x), atol=2e-4, rtol=0)


def test_a_pickled_model_keeps_its_time_law():
    same_after_copies(FlowMatching(net(), (2,), time_law=logit_normal(0.3, 0.7)), torch.randn(4, 2))


def test_the_marginal_loss_pairs_its_noise_as_the_model_does():
    """A coupling that hands x_0 out as its own noise leaves x_t = (α + σ)x_0: both losses by hand at a fixed t."""
    double = lambda x0, noise: (x0, x0)  # noqa: E731
    net = lambda x, t, y: 0.5 * x  # noqa: E731
    model = FlowMatching(net, (1,), OT, coupling=double, time_law=lambda u: torch.full_like(u, 0.3))
    x0, t = torch.randn(50, 1, dtype=F64), time(0.3)
    xt = (OT.alpha(t) + OT.sigma(t)) * x0
    got = model.marginal_loss(x0, lambda x, t, y: torch.sin(x))
    torch.testing.assert_close(got, (0.5 * xt - torch.sin(xt)).square().mean())
    d_alpha, d_sigma = OT.rates(t)
    torch.testing.assert_close(model.loss(x0), (0.5 * xt - (d_alpha + d_sigma) * x0).square().mean())


def test_the_prior_is_as_wide_as_the_path_ends():
    torch.manual_seed(0)
    for path in (VEPath(), OT):
        model = FlowMatching(lambda x, t, y: x, (1,), path)
        end = path.sigma(torch.tensor(path.flow_ends[1]))
        assert model.prior(20_000).std().item() == pytest.approx(end.item(), rel=0.03)


@pytest.mark.equation("fm-bits")
def test_the_bits_of_an_experiment_are_the_code_length_of_bytes():
    """The exact flow of N(0, ½²) on 2×2 bytes: −log₂ of the mass of a byte's interval, by the normal's distribution
    function, in the limit of narrow intervals; Jensen's bound lies above by less than 10⁻³."""
    torch.manual_seed(0)
    std, levels = 0.5, 256

    class Flow(torch.nn.Module):
        def forward(self, x, t, y=None):
            return gaussian_velocity(0.0, std)(x.flatten(1), t).view_as(x)

    images = ((std * torch.randn(200, 1, 2, 2)).clamp(-1, 0.99) * 128 + 128).to(torch.uint8)
    test = ImageSet(images, torch.zeros(200, dtype=torch.int64), "bytes", "test", ())
    baseline = metrics.PixelGaussian(images, levels)
    got, _ = flow_experiments.bits(FlowMatching(Flow(), (1, 2, 2)), test, baseline, 200)
    normal = torch.distributions.Normal(0.0, std)
    edges = images.double() / 128 - 1
    exact = -(normal.cdf(edges + 1 / 128) - normal.cdf(edges)).log2().mean()
    assert got.value == pytest.approx(exact.item(), abs=3e-3)


@pytest.mark.equation("fm-sde")
def test_noise_on_the_way_leaves_the_laws_of_a_gaussian():
    """N(0.8, ½²) and w = √(2ct): the means and variances of the Euler–Maruyama chain by an exact recursion, which
    tends to the data's as the steps grow; and draws of the chain against the recursion."""
    torch.manual_seed(0)
    mean, std, c = 0.8, 0.5, 1.5
    model, spread = FlowMatching(gaussian_velocity(mean, std), (1,)), lambda t: (2 * c * t) ** 0.5
    probes = torch.tensor([[0.0], [1.0]], dtype=F64)
    for steps in (100, 200, 400):
        ts, m, v = model.times(steps), torch.zeros((), dtype=F64), torch.ones((), dtype=F64)
        for t, s in itertools.pairwise(ts):
            width = ((1 - t) * std) ** 2 + t**2
            score = -(probes - (1 - t) * mean) / width
            at0, at1 = (gaussian_velocity(mean, std)(probes, t) - c * t * score)[:, 0]
            slope = 1 + (s - t) * (at1 - at0)
            m, v = slope * m + (s - t) * at0, slope**2 * v + (t - s) * 2 * c * t
        assert abs(m - mean) < 3 / steps and abs(v - std**2) < 3 / steps
    x = last(model.sde_trajectory(torch.randn(40_000, 1, dtype=F64), ts, spread))
    assert abs(x.mean() - m) < 5 * std / 200 and x.var().item() == pytest.approx(v.item(), rel=5 * (2 / 40_000) ** 0.5)


@pytest.mark.equation("fm-sde")
def test_the_marginal_law_solves_the_fokker_planck_equation_of_the_noisy_walk():
    """∂_t p = −∂_x(p·drift) − (w²/2)∂²_x p, since it is walked backwards: of the two atoms, on a grid by autograd."""
    t, h, w = time(0.5), 1e-5, 0.7
    x = torch.linspace(-3, 3, 201, dtype=F64)[:, None].requires_grad_()
    model = FlowMatching(Truth(LAW, OT, "velocity"), (1,), OT)
    score = model.predict("score", x, t)
    drift = model(x, t) - w**2 / 2 * score
    p = by_hand(x, t)[0][:, None]
    (flux,) = torch.autograd.grad((p * drift).sum(), x, retain_graph=True)
    (slope,) = torch.autograd.grad(p.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    growth = ((by_hand(x, t + h)[0] - by_hand(x, t - h)[0]) / (2 * h))[:, None]
    torch.testing.assert_close(growth.detach(), (-flux - w**2 / 2 * bend).detach(), rtol=0, atol=1e-6)


def test_labels_reach_the_network_of_a_noisy_walk():
    seen, y = [], torch.tensor([1, 0, 2])
    model = FlowMatching(lambda x, t, y: (seen.append(y), x)[1], (2,))
    last(model.sde_trajectory(torch.zeros(3, 2), model.times(4), lambda t: t, y))
    assert len(seen) == 4 and all(torch.equal(label, y) for label in seen)


def test_the_defaults_are_the_papers_constants():
    """arXiv:2403.03206."""
    assert {"mean": 0.0, "std": 1.0}.items() <= defaults(logit_normal).items()
