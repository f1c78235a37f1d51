"""Continuous flows, against linear algebra, closed-form solutions, brute-force traces and plain back-propagation."""

import math

import numpy as np
import pytest
import torch
from specimen import Specimen, defaults, net
from torch import nn

from gmbook.core.flows.density import StandardLogistic
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.solvers import dopri5, euler, rk4
from gmbook.networks.mlp import SmoothField, TimeMLP
from gmbook.papers.ffjord import CNF, FFJORD, gaussian, rademacher
from gmbook.papers.theory.ffjord import hutchinson_variance, step_excess

SPECIMEN = Specimen(lambda: FFJORD(net(), (2,)), labels=False)

MEASURES = {
    "log_prob": lambda model, x: FFJORD(net(), (2,), rtol=0.5, atol=0.5).to(model.device).eval().log_prob(x),
}


class Field(nn.Module):
    """A field given by a function of (z, t)."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z, t, y=None):
        return self.function(z, t)


class TanhNet(nn.Module):
    """tanh layers that see the time as one more channel, on vectors and images."""

    def __init__(self, shape, width=16):
        super().__init__()
        self.axes, c = len(shape) - 1, shape[0]
        layer = nn.Linear if len(shape) == 1 else lambda i, o: nn.Conv2d(i, o, 3, padding=1)
        self.net = nn.Sequential(layer(c + 1, width), nn.Tanh(), layer(width, width), nn.Tanh(), layer(width, c))

    def forward(self, z, t, y=None):
        time = t.reshape(-1, 1, *(1,) * self.axes).expand(-1, 1, *z.shape[2:])
        return self.net(torch.cat([z, time], 1))


def model(shape, **options):
    torch.manual_seed(0)
    return FFJORD(TanhNet(shape), shape, **options).double().eval()


TIGHT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 8, 8)], ids=str)
@pytest.mark.equation("ffjord-trace")
@pytest.mark.equation("ffjord-augmented")
def test_contract(shape):
    """Invertible, and the integral of the trace is the log-determinant of the whole map's autograd Jacobian."""
    loose = {"solver": rk4, "times": torch.linspace(0, 1, 6), "use_adjoint": False, "test_probe": None}
    flow = model(shape, **(TIGHT | {"use_adjoint": False} if shape == (2,) else loose))
    x = torch.randn(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = flow.bijection(x)
        torch.testing.assert_close(flow.bijection.inverse(z), x, rtol=0, atol=1e-6)
        sample = flow.sample(2)
        assert sample.shape == (2, *shape)
        torch.testing.assert_close(flow.bijection.inverse(flow.bijection(sample)[0]), sample, rtol=0, atol=1e-6)

    def noise(v):  # back through the solver: nothing of the trace's code
        return list(flow.cnf.solver(flow.cnf.field, v, flow.cnf.times))[-1]

    z = noise(x.requires_grad_())
    seeds = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *z.shape)
    (jacobian,) = torch.autograd.grad(z, x, seeds, is_grads_batched=True)
    expected = torch.linalg.slogdet(jacobian.flatten(1))[1]
    assert abs(log_det[0] - expected) < (1e-8 if shape == (2,) else 1e-5)


@pytest.mark.fact("FFJORD-F1")
@pytest.mark.equation("ffjord-augmented")
def test_linear_field_is_an_exact_gaussian():
    """dz/dt = −Az carries data N(0, E Eᵀ), E = e^A, to N(0, I); the paper's sign in this direction is refuted."""
    torch.manual_seed(1)
    a = 0.7 * torch.randn(3, 3, dtype=torch.float64)
    flow = FFJORD(Field(lambda z, t: -z @ a.T), (3,), **TIGHT).double().eval()
    x, e = torch.randn(5, 3, dtype=torch.float64), torch.linalg.matrix_exp(a)
    exact = torch.distributions.MultivariateNormal(torch.zeros(3).double(), e @ e.T).log_prob(x)
    with torch.no_grad():
        torch.testing.assert_close(flow.log_prob(x), exact, rtol=0, atol=1e-8)
        z, log_det = flow.bijection(x)
        assert ((flow.base.log_prob(z) - log_det) - exact).abs().min() > 0.01
        covariance = flow.sample(100_000).T.cov()
    torch.testing.assert_close(covariance, e @ e.T, rtol=0.05, atol=0.05)


@pytest.mark.fact("FFJORD-F2")
@pytest.mark.equation("ffjord-trace")
def test_a_non_linear_field_with_a_known_solution():
    """dz/dt = tanh z: sinh z(t) = e^t sinh z(0), log|dz/dx| = log(e cosh x / cosh z)."""
    cnf = CNF(Field(lambda z, t: z.tanh()), rtol=1e-12, atol=1e-12).double().eval()
    x = torch.tensor([[0.37], [-1.2], [2.0]], dtype=torch.float64)
    with torch.no_grad():
        z, log_det = cnf(x)
    exact = torch.asinh(math.e * x.sinh())
    torch.testing.assert_close(z, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_det, (1 + x.cosh().log() - exact.cosh().log())[:, 0], rtol=0, atol=1e-9)


@pytest.mark.fact("FFJORD-F3")
@pytest.mark.equation("ffjord-adjoint")
def test_adjoint_of_a_known_gradient():
    """dz/dt = θz, L = z(1)²/2 gives dL/dθ = z(1)² and dL/dx = z(1)e^θ, and the log-determinant θ adds 1."""

    class Growth(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.tensor(-0.8))

        def forward(self, z, t, y=None):
            return self.theta * z

    for use_adjoint in (True, False):
        cnf = CNF(Growth(), probe=None, use_adjoint=use_adjoint, **TIGHT).double()
        x = torch.tensor([[1.7]], dtype=torch.float64, requires_grad=True)
        z, log_det = cnf(x)
        (z.square() / 2 + log_det).sum().backward()
        end = 1.7 * math.exp(cnf.net.theta.item())
        assert abs(cnf.net.theta.grad - (end**2 + 1)) < 1e-8
        assert abs(x.grad - end * math.exp(cnf.net.theta.item())) < 1e-8


@pytest.mark.equation("ffjord-adjoint")
def test_adjoint_is_back_propagation_in_the_limit():
    """Both gradients of the regularised loss agree at tight tolerances; the adjoint's drifts at loose ones."""
    x, gradients = torch.randn(8, 2, dtype=torch.float64), {}
    for use_adjoint, tolerance in ((True, 1e-9), (False, 1e-9), (True, 1e-2)):
        options = {"rtol": tolerance, "atol": tolerance, "use_adjoint": use_adjoint}
        flow = model((2,), kinetic=0.1, jacobian=0.1, **options).train()
        torch.manual_seed(3)
        flow.loss(x).backward()
        gradients[use_adjoint, tolerance] = torch.cat([p.grad.flatten() for p in flow.parameters()])
    exact = gradients[False, 1e-9]
    tight, loose = ((gradients[True, t] - exact).norm() / exact.norm() for t in (1e-9, 1e-2))
    assert tight < 1e-6 and loose > 10 * tight


@pytest.mark.fact("FFJORD-F4")
@pytest.mark.equation("ffjord-hutchinson-variance")
def test_variances_of_the_two_probes():
    """On a linear field: 2‖A_s‖_F² for Gaussian, 2(‖A_s‖_F² − Σa_ii²) for Rademacher probes; 24 and 4 in exercise 1."""
    torch.manual_seed(0)
    for a in (torch.randn(6, 6), torch.tensor([[1.0, 2.0], [0.0, 3.0]])):
        symmetric = (a + a.T) / 2
        full, diagonal = symmetric.square().sum(), a.diagonal().square().sum()
        for probe, expected in ((gaussian, 2 * full), (rademacher, 2 * (full - diagonal))):
            cnf = CNF(Field(lambda z, t, a=a: z @ a.T), solver=euler)
            log_det = cnf.solve(torch.zeros(400_000, len(a)), probe).log_det
            assert abs(log_det.var() / expected - 1) < 0.02
            assert abs(log_det.mean() - a.trace()) < 4 * log_det.std() / 400_000**0.5
    assert 2 * full == 24 and 2 * (full - diagonal) == 4


@pytest.mark.equation("ffjord-hutchinson-variance")
def test_the_formula_of_the_variance_against_all_signs_and_by_quadrature():
    """Signs: all 2⁴ of them. Normal: products of Hermite nodes. And a third probe, ±√2 or 0, of fourth moment 2."""
    torch.manual_seed(0)
    a = torch.randn(4, 4, dtype=torch.float64)
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(5))
    probes = {
        1.0: (torch.tensor([-1.0, 1.0]).double(), torch.tensor([0.5, 0.5]).double()),
        2.0: (2**0.5 * torch.tensor([-1.0, 0.0, 1.0]).double(), torch.tensor([0.25, 0.5, 0.25]).double()),
        3.0: (nodes, weights / weights.sum()),
    }
    for fourth, (values, chances) in probes.items():
        grid = torch.cartesian_prod(*[values] * 4)
        chance = torch.cartesian_prod(*[chances] * 4).prod(1)
        estimate = ((grid @ a) * grid).sum(1)
        mean = chance @ estimate
        assert abs(mean - a.trace()) < 1e-12
        assert hutchinson_variance(a, fourth).item() == pytest.approx(
            (chance @ (estimate - mean) ** 2).item(), rel=1e-12
        )


@pytest.mark.equation("ffjord-step")
def test_what_a_finite_step_loses():
    """By a polynomial fit in h: no constant, no linear term, tr J²/2 at h². Never negative for real eigenvalues."""
    torch.manual_seed(0)
    jacobian = torch.randn(4, 4, dtype=torch.float64)
    hs = torch.linspace(-0.02, 0.02, 41, dtype=torch.float64)
    values = torch.stack([step_excess(jacobian, h) for h in hs.tolist()])
    powers = hs[:, None] ** torch.arange(7)
    fit = torch.linalg.lstsq(powers, values).solution
    assert fit[:2].abs().max() < 1e-7
    assert fit[2].item() == pytest.approx((jacobian @ jacobian).trace().item() / 2, rel=1e-5)
    real = jacobian @ torch.diag(torch.tensor([-0.9, 0.3, 1.0, 7.0], dtype=torch.float64)) @ torch.linalg.inv(jacobian)
    want = sum(r - math.log(1 + r) for r in (-0.9, 0.3, 1.0, 7.0))
    assert step_excess(real, 1.0).item() == pytest.approx(want, rel=1e-9)


@pytest.mark.equation("ffjord-order")
def test_on_the_line_no_path_overtakes_another():
    """At every stop of a fine solve of wild fields the order is kept; in the plane half a revolution is x → −x."""
    for seed in range(3):
        torch.manual_seed(seed)
        net = TanhNet((1,), 32).double()
        nn.init.normal_(net.net[0].weight, std=2.0)
        nn.init.normal_(net.net[4].weight, std=1.0)
        stops = torch.linspace(0, 1, 11, dtype=torch.float64)
        cnf, x = (
            CNF(net, times=stops, **TIGHT).double().eval(),
            torch.linspace(-4, 4, 201, dtype=torch.float64)[:, None],
        )
        with torch.no_grad():
            states = torch.stack(list(cnf.solver(cnf.field, x, stops)))[..., 0]
            assert states.diff(dim=1).min() > 0 and (states[-1] - x[:, 0]).abs().max() > 0.5
            turn = CNF(Field(lambda z, t: math.pi * torch.stack([-z[:, 1], z[:, 0]], 1)), **TIGHT).double().eval()
            z = turn(torch.cat([x, 0 * x], 1))[0]
        torch.testing.assert_close(z, torch.cat([-x, 0 * x], 1), rtol=0, atol=1e-7)


@pytest.mark.equation("ffjord-hutchinson")
def test_stochastic_log_likelihood_is_unbiased():
    """The mean of log p over 2,000 probes equals the exact trace's within three standard errors."""
    flow = model((2,), probe=rademacher)
    with torch.no_grad():
        nn.init.normal_(flow.cnf.net.net[2].weight)
        x = torch.tensor([[0.4, -0.9]], dtype=torch.float64).expand(2000, 2)
        exact = flow.log_prob(x)
        noisy = flow.train().log_prob(x)
    assert exact.std() < 1e-9 < 1e-2 < noisy.std()
    assert abs(noisy.mean() - exact[0]) < 3 * noisy.std() / 2000**0.5


@pytest.mark.equation("ffjord-hutchinson")
def test_the_probe_is_fixed_during_a_solve():
    """One draw per solve; a field with a new ε at each evaluation costs an adaptive solver many more steps."""
    draws, x = [], torch.randn(32, 2, dtype=torch.float64)

    def counted(x):
        draws.append(1)
        return rademacher(x)

    flow = model((2,), probe=counted, rtol=1e-4, atol=1e-4).train()
    nn.init.normal_(flow.cnf.net.net[2].weight)
    with torch.no_grad():
        flow.log_prob(x)
        calls = flow.cnf.evaluations
        assert len(draws) == 1 and calls > 7
        cnf, fresh = flow.cnf, 0

        def chaotic(state, t):
            return cnf._augmented(x.shape, rademacher(x), False)(state, t)

        state = torch.cat([x, x.new_zeros(32, 3)], 1)
        cnf.evaluations = 0
        try:
            list(dopri5(chaotic, state, cnf.times, rtol=1e-4, atol=1e-4, max_steps=40 * calls))
        except RuntimeError:
            fresh = 40 * calls
    assert max(fresh, cnf.evaluations) > 5 * calls


def test_round_trip_shrinks_with_the_tolerance():
    x, errors = torch.randn(64, 2, dtype=torch.float64), []
    for tolerance in (1e-3, 1e-5, 1e-8):
        flow = model((2,), rtol=tolerance, atol=tolerance)
        nn.init.normal_(flow.cnf.net.net[2].weight, std=0.5)
        with torch.no_grad():
            errors.append((flow.bijection.inverse(flow.bijection(x)[0]) - x).abs().max())
    assert errors[1] < 1e-4 and errors[0] > 5 * errors[1] > 25 * errors[2]


@pytest.mark.equation("ffjord-kinetic")
def test_kinetic_and_jacobian_of_a_linear_field():
    """f = −z: ∫‖f‖² dt = ‖x‖²(1 − e^{−2})/2 and ‖εᵀ∂f/∂z‖² = D for ±1 probes."""
    cnf = CNF(Field(lambda z, t: -z), **TIGHT).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    with torch.no_grad():
        solution = cnf.solve(x, rademacher, with_jacobian=True)
    torch.testing.assert_close(solution.kinetic, x.square().sum(1) * (1 - math.exp(-2)) / 2)
    torch.testing.assert_close(solution.jacobian, torch.full((4,), 3.0, dtype=torch.float64))
    with pytest.raises(ValueError, match="give one"):
        cnf.solve(x, None, with_jacobian=True)


@pytest.mark.equation("change-of-variables")
def test_density_integrates_to_one():
    flow = model((2,), solver=rk4, times=torch.linspace(0, 1, 9))
    axis = torch.linspace(-8, 8, 121, dtype=torch.float64)
    with torch.no_grad():
        mass = flow.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(mass - 1) < 1e-3


def test_images_are_dequantised_and_counted_in_bits():
    """With the field zero and a logit(.05), bits/dim are those of N(0, 1) on the logits: by quadrature over pixels."""
    flow = FFJORD(Field(lambda z, t: 0 * z), (1, 4, 4), alpha=0.05).double().eval()  # 0 for every probe
    k = torch.randint(256, (64, 1, 4, 4))
    torch.manual_seed(1)
    with torch.no_grad():
        bits = flow.bits_per_dim(k)
    torch.manual_seed(1)
    p = 0.05 + 0.9 * ((k + torch.rand(k.shape)) / 256).double()
    density = torch.exp(-((p / (1 - p)).log() ** 2) / 2) / math.sqrt(2 * math.pi) * 0.9 / (p * (1 - p)) / 256
    torch.testing.assert_close(bits.double(), -density.log2().flatten(1).mean(1), rtol=1e-4, atol=1e-4)
    assert FFJORD(TanhNet((1, 4, 4)), (1, 4, 4), alpha=0.05).loss(k).isfinite()


def test_other_numbers_of_levels():
    """With a uniform density on [0, 1] (a logistic law on the logits) each of L levels costs log₂ L bits."""
    for levels in (17, 256):
        still = {"alpha": 1e-9, "base": StandardLogistic((1, 4, 4)), "levels": levels}
        flow = FFJORD(Field(lambda z, t: 0 * z), (1, 4, 4), **still).double().eval()
        bits = flow.bits_per_dim(torch.randint(levels, (8, 1, 4, 4)))
        torch.testing.assert_close(bits, torch.full_like(bits, math.log2(levels)), rtol=1e-5, atol=1e-5)


def test_training_approaches_the_negative_entropy():
    torch.manual_seed(0)
    law = GaussianMixture(torch.ones(2), torch.tensor([[1.5, 0.0], [-1.5, 0.0]]), torch.full((2,), 0.3))
    options = {"solver": rk4, "times": torch.linspace(0, 1, 4), "use_adjoint": False, "kinetic": 0.01}
    flow = FFJORD(TanhNet((2,), 32), (2,), **options)
    optimiser = torch.optim.Adam(flow.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, 60)
    for _ in range(60):
        loss = flow.loss(law.sample(192))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    x = law.sample(4000)
    with torch.no_grad():
        gap = (law.log_prob(x) - flow.eval().log_prob(x)).mean()
    gaussian_fit = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    assert -0.01 < gap < 0.1, gap
    assert (law.log_prob(x) - gaussian_fit.log_prob(x)).mean() > 0.25


# ------------------------------------------------------------------------------- penalties, one by one and summed


def shrink(rate):
    """f = −rate·z, which carries x to e^{−rate}x."""
    return Field(lambda z, t: -rate * z)


def kinetic(square, rate):
    """∫_0^1 ‖f‖² dt of that field by hand, from ‖x‖²."""
    return square * rate * (1 - math.exp(-2 * rate)) / 2


@pytest.mark.equation("ffjord-kinetic")
@pytest.mark.equation("ffjord-loss")
@pytest.mark.parametrize("alpha", [None, 0.05])
def test_loss_is_the_likelihood_and_each_penalty_per_dimension(alpha):
    """f = −z/2 on three numbers or pixels, by hand: λ_K ∫‖f‖²/D and λ_J ‖½ε‖²/D = λ_J/4 apart, and the logit's part."""
    torch.manual_seed(0)
    shape = (3,) if alpha is None else (1, 1, 3)
    x = torch.randn(50, 3, dtype=torch.float64) if alpha is None else torch.randint(256, (50, 1, 1, 3))
    losses = {}
    for weights in ((0.0, 0.0), (0.7, 0.0), (0.0, 0.4)):
        flow = FFJORD(shrink(0.5), shape, alpha, *weights, **TIGHT).double().train()
        torch.manual_seed(1)
        losses[weights] = flow.loss(x).item()
    torch.manual_seed(1)
    seen = x if alpha is None else (x + torch.rand(x.shape)).double() / 256
    stretch = torch.zeros(50).double()
    if alpha is not None:
        p = alpha + (1 - 2 * alpha) * seen
        seen, stretch = (p / (1 - p)).log(), ((1 - 2 * alpha) / (p * (1 - p))).log().flatten(1).sum(1)
    square = seen.flatten(1).square().sum(1)
    log_prob = -(square * math.exp(-1) + 3 * math.log(2 * math.pi)) / 2 - 1.5 + stretch
    plain, with_k, with_j = losses.values()
    assert plain == pytest.approx(-log_prob.mean().item(), rel=1e-6)
    assert with_k - plain == pytest.approx(0.7 * kinetic(square, 0.5).mean().item() / 3, rel=1e-5)
    assert with_j - plain == pytest.approx(0.4 * 0.25, rel=1e-5)


@pytest.mark.equation("ffjord-kinetic")
def test_penalties_of_all_scales_are_summed():
    """Two scales with one CNF in a row: all of x, all of it again, and the half that goes on; by hand."""
    torch.manual_seed(0)
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    shapes = []

    def make(shape):
        shapes.append(shape)
        return shrink(0.5)

    options = {"alpha": None, "blocks": 1, **TIGHT}
    flow = FFJORD.on_images(make, (1, 4, 4), scales=2, kinetic=2.0, jacobian=3.0, **options).double().train()
    assert shapes == [(1, 4, 4), (4, 2, 2), (2, 2, 2)] and len(flow.cnfs) == 3
    bare = FFJORD.on_images(make, (1, 4, 4), scales=2, **options).double().train()
    torch.manual_seed(1)
    extra = flow.loss(x) - bare.loss(x)
    half = x[:, :, 0].square().sum((1, 2)) + x[:, :, 2].square().sum((1, 2))  # rows 0 and 2: channels 0 and 1
    square = x.flatten(1).square().sum(1)
    parts = kinetic(square, 0.5) + kinetic(square * math.exp(-1), 0.5) + kinetic(half * math.exp(-2), 0.5)
    ratio = 0.25 * (16 + 16 + 8)  # ‖½ε‖² of ±1 probes
    torch.testing.assert_close(extra, (2 * parts.mean() + 3 * ratio) / 16, rtol=1e-6, atol=1e-6)


def test_multiscale_is_a_bijection_with_the_log_determinant_of_its_jacobian():
    torch.manual_seed(0)
    options = {"solver": rk4, "times": torch.linspace(0, 1, 9), "use_adjoint": False, "test_probe": None}
    flow = FFJORD.on_images(TanhNet, (1, 4, 4), scales=2, blocks=1, alpha=None, **options).double().eval()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = flow.bijection(x)
        torch.testing.assert_close(flow.bijection.inverse(z), x, rtol=0, atol=1e-6)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.bijection(v[None])[0][0], x[0]).reshape(16, 16)
    assert abs(torch.linalg.slogdet(jacobian)[1] - log_det[0]) < 1e-5
    assert flow.evaluations == sum(cnf.evaluations for cnf in flow.cnfs) == 3 * 32
    with pytest.raises(ValueError, match="divisible by 4"):
        FFJORD.on_images(TanhNet, (1, 6, 6), scales=3)


def test_images_are_judged_with_a_probe_unless_told_otherwise():
    """Two evaluations of log p differ, since each draws its probe; exact ones do not, nor those of vectors."""
    options = {"solver": rk4, "times": torch.linspace(0, 1, 3)}
    for shape, extra, noisy in (((1, 4, 4), {}, True), ((1, 4, 4), {"test_probe": None}, False), ((3,), {}, False)):
        flow = model(shape, **options, **extra)
        x = torch.randn(4, *shape, dtype=torch.float64)
        with torch.no_grad():
            assert torch.equal(flow.log_prob(x), flow.log_prob(x)) != noisy
    assert model((1, 4, 4), probe=gaussian).cnf.test_probe is gaussian
    with pytest.raises(ValueError, match="rademacher"):
        model((3,), jacobian=0.1, probe=None)


def test_a_smooth_field_is_cheap_for_a_solver():
    """After thirty steps of training: evaluations at 1e-5 of the field that reads t plainly, and of a TimeMLP."""
    calls = {}
    for name, make in (("plain", lambda: SmoothField(2)), ("features", lambda: TimeMLP(2, 64, 3))):
        torch.manual_seed(0)
        train_options = {"solver": rk4, "times": torch.linspace(0, 1, 5), "use_adjoint": False, "probe": None}
        flow = FFJORD(make(), (2,), **train_options)
        optimiser = torch.optim.Adam(flow.parameters(), 5e-3)
        for _ in range(30):
            optimiser.zero_grad()
            flow.loss(torch.randn(128, 2) * torch.tensor([2.0, 0.5])).backward()
            optimiser.step()
        fine = FFJORD(flow.cnf.net, (2,)).eval()
        with torch.no_grad():
            fine.log_prob(torch.randn(64, 2))
        calls[name] = fine.evaluations
    assert calls["plain"] < 60 and calls["features"] > 5 * calls["plain"], calls


def test_the_defaults_are_the_papers_constants():
    """The authors' code."""
    assert {"rtol": 1e-05, "atol": 1e-05}.items() <= defaults(CNF).items()


def test_what_changes_the_model_is_off_unless_asked_for():
    assert {"kinetic": 0.0, "jacobian": 0.0}.items() <= defaults(FFJORD).items()
    assert {"kinetic": 0.0, "jacobian": 0.0}.items() <= defaults(FFJORD.on_images).items()
