"""Solvers against exact solutions, their orders, and scipy."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import nn

from gmbook.core.solvers import adjoint, dopri5, euler, euler_maruyama, heun, langevin, last, midpoint, rk4


def rotate(x, t):
    """x' = (1 + t) R x, whose solution is a rotation by t + t²/2."""
    return (1 + t) * torch.stack([-x[:, 1], x[:, 0]], 1)


def exact_rotation(x, t):
    angle = t + t**2 / 2
    c, s = math.cos(angle), math.sin(angle)
    return x @ torch.tensor([[c, s], [-s, c]], dtype=x.dtype)


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (midpoint, 2), (heun, 2), (rk4, 4)])
@pytest.mark.parametrize("backwards", [False, True])
def test_order(solver, order, backwards):
    x = torch.randn(4, 2, dtype=torch.float64)
    start, end = (x, exact_rotation(x, 1.0)) if not backwards else (exact_rotation(x, 1.0), x)
    errors = []
    for steps in (20, 40):
        ts = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        got = last(solver(rotate, start, ts.flip(0) if backwards else ts))
        errors.append((got - end).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 8, 8)], ids=str)
def test_dopri5_keeps_its_tolerance_on_any_shape(shape):
    """x' = −(1 + sin 3t) x, x(t) = x(0) exp(−t − (1 − cos 3t)/3), read at several times on the way."""
    x = torch.randn(3, *shape, dtype=torch.float64)
    ts = torch.tensor([0.0, 0.3, 0.31, 1.7, 2.0], dtype=torch.float64)
    for rtol in (1e-4, 1e-8):
        states = list(dopri5(lambda x, t: -(1 + torch.sin(3 * t)) * x, x, ts, rtol=rtol, atol=rtol))
        assert len(states) == 4
        for t, state in zip(ts[1:], states):
            torch.testing.assert_close(state, x * torch.exp(-t - (1 - torch.cos(3 * t)) / 3), rtol=20 * rtol, atol=0)


def test_dopri5_agrees_with_scipy_on_a_nonlinear_field():
    x = np.array([2.0, 0.0])
    reference = scipy.integrate.solve_ivp(
        lambda t, x: [x[1], 3 * (1 - x[0] ** 2) * x[1] - x[0]], (0, 5), x, rtol=1e-11, atol=1e-11
    ).y[:, -1]

    def van_der_pol(x, t):
        return torch.stack([x[:, 1], 3 * (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0]], 1)

    ts = torch.tensor([0.0, 5.0], dtype=torch.float64)
    got = last(dopri5(van_der_pol, torch.tensor(x)[None], ts, 1e-9, 1e-9))
    torch.testing.assert_close(got[0], torch.tensor(reference), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pace", [0.01, 3.0, 200.0])
def test_the_first_step_of_dopri5_is_scipys(pace):
    """Its second stage is asked at t + h/5; scipy starts by the same rule of Hairer, Nørsett and Wanner."""
    x, asked = np.array([2.0, -0.5, 1.0]), []

    def field(x, t):
        asked.append(float(t))
        return pace * torch.sin(x + t)

    ts = torch.tensor([0.0, 5.0], dtype=torch.float64)
    last(dopri5(field, torch.tensor(x)[None], ts, 1e-6, 1e-7))
    theirs = scipy.integrate.RK45(lambda t, x: pace * np.sin(x + t), 0.0, x, 5.0, rtol=1e-6, atol=1e-7)
    assert 5 * asked[2] == pytest.approx(theirs.h_abs, rel=1e-9)


def test_dopri5_adapts():
    """Fewer evaluations at a loose tolerance, and the bad cases end with a reason."""

    def evaluations(tolerance):
        calls, ts = [], torch.tensor([0.0, 3.0], dtype=torch.float64)
        list(dopri5(lambda x, t: calls.append(t) or rotate(x, t), torch.ones(1, 2).double(), ts, tolerance, tolerance))
        return len(calls)

    assert evaluations(1e-3) * 3 < evaluations(1e-9)
    with pytest.raises(RuntimeError, match="not finite or too stiff"):
        list(dopri5(lambda x, t: x**2, torch.ones(1, 1), torch.tensor([0.0, 2.0])))  # blows up at t = 1
    with pytest.raises(ValueError, match="start and at least one end"):
        list(dopri5(rotate, torch.ones(1, 2), torch.tensor([0.0])))


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.unused = nn.Parameter(torch.tensor(0.7, dtype=torch.float64)), nn.Parameter(torch.ones(2).double())

    def forward(self, x, t):
        return self.a * x


@pytest.mark.fact("FFJORD-F3")
@pytest.mark.equation("ffjord-adjoint")
def test_adjoint_of_a_linear_field_in_closed_form():
    """x' = θx, L = x(T)²/2: dL/dθ = T x(T)², dL/dx(0) = x(T) e^{θT}."""
    field, x, end = Field(), torch.tensor([[1.3]], dtype=torch.float64, requires_grad=True), 1.5
    ts = torch.tensor([0.0, end], dtype=torch.float64)
    tight = lambda f, x, ts: dopri5(f, x, ts, 1e-10, 1e-10)  # noqa: E731 - a solver with its tolerance
    x_end = adjoint(field, x, ts, field.parameters(), tight)
    (x_end**2 / 2).sum().backward()
    expected = 1.3 * math.exp(0.7 * end)
    assert x_end.item() == pytest.approx(expected, rel=1e-9)
    assert field.a.grad.item() == pytest.approx(end * expected**2, rel=1e-8)
    assert x.grad.item() == pytest.approx(expected * math.exp(0.7 * end), rel=1e-8)


def test_adjoint_equals_backpropagation_through_the_solver():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    field = lambda x, t: net(torch.cat([x, t.expand(len(x), 1)], 1))  # noqa: E731
    x, ts = torch.randn(5, 2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    tight = lambda f, x, ts: dopri5(f, x, ts, 1e-9, 1e-9)  # noqa: E731
    last(tight(field, x, ts)).square().sum().backward()
    direct = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    adjoint(field, x, ts, net.parameters(), tight).square().sum().backward()
    for p, expected in zip(net.parameters(), direct):
        torch.testing.assert_close(p.grad, expected, rtol=1e-6, atol=1e-8)


def test_euler_maruyama_has_the_moments_of_its_sde():
    """Ornstein–Uhlenbeck dx = −x dt + √2 dw from 3: mean 3e^{−t}, variance 1 − e^{−2t}; and backwards from N(0, 1)
    it is stationary."""
    torch.manual_seed(0)
    n, root = 40_000, torch.tensor(2.0).sqrt()
    x = last(euler_maruyama(lambda x, t: -x, lambda t: root, torch.full((n,), 3.0), torch.linspace(0, 1, 401)))
    assert x.mean().item() == pytest.approx(3 * math.exp(-1), abs=0.02)
    assert x.var().item() == pytest.approx(1 - math.exp(-2), abs=0.02)
    back = last(euler_maruyama(lambda x, t: -x + 2 * x, lambda t: root, torch.randn(n), torch.linspace(1, 0, 401)))
    assert back.var().item() == pytest.approx(1.0, abs=0.03)  # reverse drift f − g²∇log p = −x + 2x


@pytest.mark.fact("N4")
@pytest.mark.equation("langevin-bias")
def test_langevin_is_biased_exactly_as_computed():
    """On N(0, σ²) the chain's stationary variance is σ²/(1 − ε/(4σ²)): 1.0526 at ε/σ² = 0.2."""
    torch.manual_seed(0)
    x = last(langevin(lambda x: -x / 4, 2 * torch.randn(400_000), step=0.2 * 4, steps=60))
    assert x.var().item() / 4 == pytest.approx(1 / (1 - 0.2 / 4), rel=0.01)
