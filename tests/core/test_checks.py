"""What is refused with a sentence, and what is taken; and the limits where a reading is 0/0."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from specimen import Returns
from torch import Tensor, nn
from torch.func import jacrev, vmap

from gmbook.core.chains import Chain, MatrixChain, categorical
from gmbook.core.checks import Watch
from gmbook.core.denoiser import Denoiser, Truth
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.model import sampling
from gmbook.core.paths import QUANTITIES, CosinePath, LinearPath, SubVPPath, TablePath, VEPath, VPPath
from gmbook.core.probability_flow import flow_field
from gmbook.core.schedules import TableSchedule
from gmbook.core.solvers import euler, last
from gmbook.networks.mlp import TimeMLP


def denoiser(**options) -> Denoiser:
    return Denoiser(TimeMLP(2, 16, 2, **options), LinearPath(), "velocity", (2,))


@pytest.mark.parametrize("shape", [(4,), (1, 1), (4, 4), (4, 2)])
def test_an_output_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="must return"):
        Denoiser(Returns(*shape), LinearPath(), "velocity", (1,))(torch.randn(4, 1), 0.5)


def test_labels_that_are_not_one_class_each_are_refused():
    model, x = denoiser(classes=3), torch.randn(4, 2)
    for y in (torch.zeros(4, 1).long(), torch.tensor([1, 2, 3, 1]), torch.tensor([0, -1, 0, 0]), torch.zeros(3).long()):
        with pytest.raises(ValueError, match="labels"):
            model(x, 0.5, y)
        with pytest.raises(ValueError, match="labels"):
            model.labels(y, 4)  # before any network reads them
    with pytest.raises(TypeError, match="labels must be integers"):
        model(x, 0.5, torch.zeros(4))
    with pytest.raises(ValueError, match="labels must be one for each example"):
        model.net.label(x.new_zeros(4, 16), torch.zeros(4, 1).long())  # the network too, that nobody wraps
    right = model(x, 0.5, torch.tensor([0, 1, 2, 0]))
    for y in (np.array([0, 1, 2, 0]), torch.tensor([0, 1, 2, 0], dtype=torch.uint8)):
        torch.testing.assert_close(model(x, 0.5, y), right)


# ---------------------------------------------------------------------------------------------------------- limits

PATHS = [LinearPath(), VPPath(), SubVPPath(), VEPath(), CosinePath(), TablePath(torch.linspace(0.001, 0.2, 100))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_readings_at_the_ends_are_the_limits_or_one_error(path):
    """E[quantity | x_t] of a Gaussian at t = 0 and 1, against the same a little inside."""
    law = GaussianMixture(torch.ones(1), torch.tensor([[1.0, -1.0]]).double(), torch.tensor([0.25]).double())
    x, found = torch.tensor([[0.3, 0.7]]).double(), 0
    for end, near in ((0.0, 1e-9), (1.0, 1 - 1e-9)):
        at = torch.tensor(end).double()
        for source in QUANTITIES:
            try:
                value = Truth(law, path, source)(x, at)
            except ValueError as error:
                assert "0/0" in str(error)
                continue
            for to in QUANTITIES:
                try:
                    got = path.convert(value, x, at, source, to)
                except ValueError as error:
                    assert "0/0" in str(error) and source != to
                    continue
                right = Truth(law, path, to)(x, torch.tensor(near).double())
                torch.testing.assert_close(got, right, atol=1e-3, rtol=1e-3)
                found += 1
    assert found >= 20


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_the_noise_ratio_is_inverted(path):
    t = torch.linspace(0.1, 0.9, 7).double()
    torch.testing.assert_close(path.time_at(path.noise_ratio(t)), t, rtol=1e-7, atol=1e-9)
    ends = path.time_at(torch.tensor([0.0, torch.inf]).double())
    assert ends.tolist() == [path.t_min, path.t_max]


@pytest.mark.parametrize("chain", [Chain.uniform(4), Chain.absorbing(4)])
def test_no_time_between_equal_moments_means_no_jump(chain):
    x = torch.tensor([[chain.states - 1, chain.states - 1]])
    for alpha_bar in (torch.tensor(0.0), torch.tensor(0.4)):
        step = chain.posterior(x, torch.full((1, 2, 4), 0.25), alpha_bar, alpha_bar)
        torch.testing.assert_close(step, chain.law(x))


@pytest.mark.parametrize("chain", [Chain.uniform(3), Chain.absorbing(3), MatrixChain(torch.ones(4, 3, 3).double() / 3)])
def test_moments_of_a_chain_are_not_exchanged(chain):
    early, late, x = torch.tensor(0.75), torch.tensor(0.25), torch.zeros(1, 2, dtype=torch.int64)
    for call in (chain.posterior, chain.mixture):
        call(x, x, early, late)
        with pytest.raises(ValueError, match="exchanged"):
            call(x, x, late, early)
    with pytest.raises(ValueError, match="exchanged"):
        chain.kernel_matrix(late, early)


def test_what_is_no_law_draws_nothing():
    for row in ([0.0, 0.0], [torch.nan, 1.0], [torch.inf, 1.0], [-1.0, 2.0]):
        with pytest.raises(ValueError, match="cannot draw"):
            categorical(torch.tensor([[1.0, 1.0], row]))


def test_posterior_matrices_are_bayes_rule_by_enumeration():
    generator = torch.Generator().manual_seed(0)
    shift = torch.eye(3)[[1, 2, 0]].double()
    mixing = torch.rand(4, 1, 1, generator=generator).double() * 0.5
    for chain in (Chain.uniform(3), Chain.absorbing(3), MatrixChain((1 - mixing) * torch.eye(3) + mixing * shift)):
        s, t = torch.tensor(0.75).double(), torch.tensor(0.25).double()
        first, second = chain.kernel_matrix(1.0, s), chain.kernel_matrix(s, t)
        table = chain.posterior_matrices(s, t)
        assert table.shape == (chain.states, 3, chain.states)
        torch.testing.assert_close(first @ second, chain.kernel_matrix(1.0, t))
        for w in range(chain.states):
            for v in range(3):
                joint = torch.stack([first[v, u] * second[u, w] for u in range(chain.states)])
                torch.testing.assert_close(table[w, v], joint / joint.sum(), equal_nan=True)
                one = chain.posterior(torch.tensor([[w]]), torch.tensor([[v]]), s, t)[0, 0]
                torch.testing.assert_close(table[w, v], one, equal_nan=True)


def test_a_table_of_jumps_is_a_schedule():
    schedule = TableSchedule(torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(schedule.alpha_bar(torch.tensor([0.0, 0.5, 1.0]).double()).tolist(), [1.0, 0.5, 0.25])


def test_no_step_at_all_is_said():
    with pytest.raises(ValueError, match="no step was taken"):
        last(euler(lambda x, t: x, torch.ones(1), torch.ones(1)))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        LinearPath().times(0)


# --------------------------------------------------------------------------------------------------- modes, manners


def test_a_sampler_is_in_evaluation_mode_while_it_computes_and_only_then():
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
    model[0].eval()
    modes = []

    @sampling
    def walk(model):
        for _ in range(2):
            modes.append((model.training, model[0].training, model[1].training, torch.is_grad_enabled()))
            yield 1

    def now():
        return [part.training for part in model.modules()]

    for _ in walk(model):
        assert now() == [True, False, True] and torch.is_grad_enabled()  # between two states one may train
    assert modes == [(False, False, False, False)] * 2

    @sampling
    def fails(model):
        assert not model.training
        raise KeyError

    with pytest.raises(KeyError):
        fails(model=model)
    assert now() == [True, False, True]


def test_a_walk_can_be_differentiated_by_its_field():
    """Two Euler steps of dx/dt = x: the factor (1 + h)², h = −½."""
    model = Denoiser(Identity(), LinearPath(), "velocity", (1,))
    x = torch.tensor([[2.0]], requires_grad=True)
    end = last(euler(flow_field(model), x, torch.tensor([1.0, 0.5, 0.0])))
    (slope,) = torch.autograd.grad(end.sum(), x)
    torch.testing.assert_close(slope, torch.tensor([[0.25]]))


class Identity(nn.Module):
    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return x


def test_times_as_people_write_them():
    model, x = denoiser(), torch.randn(4, 2)
    right, mixed = model(x, torch.full((4,), 0.5)), model.path.interpolate(x, -x, torch.full((4,), 0.5))
    half = torch.full((4, 1), 0.5)
    for t in (0.5, np.float32(0.5), np.full(4, 0.5), torch.tensor([0.5]), half, half[:, None], half[:, 0].double()):
        torch.testing.assert_close(model(x, t), right)
        torch.testing.assert_close(model.path.interpolate(x, -x, t), mixed)
        torch.testing.assert_close(model.predict("x0", x, t), model.read("x0", right, x, torch.tensor(0.5)))
    for t, error in ((torch.tensor(500), ValueError), (torch.full((3,), 0.5), ValueError), ("now", TypeError)):
        with pytest.raises(error, match="t must"):
            model(x, t)
        with pytest.raises(error, match="t must"):
            model.path.interpolate(x, x, t)
    with pytest.raises(TypeError, match="float64"):
        model(x.double(), 0.5)
    with pytest.raises(TypeError, match="expected a tensor"):
        model(x.numpy(), 0.5)


def test_vmap_and_jacrev_over_points_and_times():
    model, x, t = denoiser(), torch.randn(3, 2), torch.tensor([0.2, 0.5, 0.9])
    one = lambda x, t: model.predict("x0", x[None], t)[0]  # noqa: E731
    torch.testing.assert_close(vmap(one)(x, t), model.predict("x0", x, t))
    slopes = vmap(jacrev(one, (0, 1)))(x, t)
    z, u = x[0].clone().requires_grad_(), t[0].clone().requires_grad_()
    for k in range(2):
        by_x, by_t = torch.autograd.grad(one(z, u)[k], (z, u))
        torch.testing.assert_close(slopes[0][0, k], by_x)
        torch.testing.assert_close(slopes[1][0, k], by_t)


def test_on_a_gpu_values_are_looked_at_once_in_so_many_calls():
    far, watch = (
        SimpleNamespace(device=torch.device("cuda")),
        Watch(every=3),
    )  # its name only
    assert [watch(far) for _ in range(7)] == [True, False, False, True, False, False, True]
    assert Watch().every == 1000 and all(Watch(every=3)(torch.zeros(1)) for _ in range(3))
