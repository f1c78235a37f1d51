"""What the checks judge by, against closed forms and another library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from gmbook.course.checks.score_sde import Pendulum
from gmbook.course.oracles import runge_kutta


def swing(x: torch.Tensor, t: float) -> torch.Tensor:
    """ẋ = x cos t, so that x(t) = x(s) e^{sin t − sin s}."""
    return x * float(np.cos(t))


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (0.3, -1.2)])
def test_it_arrives_where_the_closed_form_does_and_is_of_fourth_order(start, end):
    x = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    exact = x * float(np.exp(np.sin(end) - np.sin(start)))
    errors = [(runge_kutta(swing, x, start, end, steps) - exact).abs().max().item() for steps in (10, 20)]
    assert errors[1] < 1e-6 and 13 < errors[0] / errors[1] < 19


def test_it_agrees_with_scipy_where_time_and_place_both_act():
    field = lambda x, t: torch.sin(3 * t * x) - x  # noqa: E731
    x = torch.tensor([0.4, -1.1], dtype=torch.float64)
    peer = solve_ivp(
        lambda t, v: field(torch.tensor(v), torch.tensor(t)).numpy(), (0.2, 1.5), x.numpy(), rtol=1e-11, atol=1e-12
    )
    found = runge_kutta(lambda v, t: field(v, torch.tensor(t)), x, 0.2, 1.5, 400)
    np.testing.assert_allclose(found.numpy(), peer.y[:, -1], rtol=0, atol=1e-8)


def test_the_entries_of_the_pendulum_s_jacobian_never_add_up_to_its_trace():
    """An answer that sums all of them instead of the diagonal passed now and then, where the axes were the field's."""
    for seed in range(400):
        torch.manual_seed(seed)
        field = Pendulum()
        jacobian = torch.autograd.functional.jacobian(lambda x, f=field: f(x[None], 1.0)[0], torch.zeros(2))
        assert (jacobian.sum() - jacobian.trace()).abs() > 0.3
