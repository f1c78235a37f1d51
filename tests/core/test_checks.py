"""What is refused with a sentence, and what is taken: shapes, labels, ranges, times, counts, modes, limits."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from gmbook.core.chains import Chain, MatrixChain, categorical
from gmbook.core.denoiser import Truth
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import QUANTITIES, CosinePath, LinearPath, SubVPPath, TablePath, VEPath, VPPath
from gmbook.core.schedules import TableSchedule
from gmbook.core.solvers import dopri5, euler, heun, last, rk4
from gmbook.networks.mlp import MLP, TimeMLP
from gmbook.papers import ddim, edm, gan, score_sde
from gmbook.papers.ddpm import DDPM, linear_betas
from gmbook.papers.flow_matching import FlowMatching, logit_normal
from gmbook.papers.improved_ddpm import ImprovedDDPM, cosine_betas
from gmbook.papers.mdlm import MDLM
from gmbook.papers.realnvp import RealNVP
from gmbook.papers.vae import VAE, Bernoulli, Gaussian


def flow(**options) -> FlowMatching:
    return FlowMatching(TimeMLP(2, 16, 2, **options), (2,))


class Returns(nn.Module):
    """A network that returns the shape that it is told."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape, self.weight = shape, nn.Parameter(torch.ones(()))

    def forward(self, *inputs: Tensor | None) -> Tensor:
        return self.weight * torch.zeros(self.shape)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: FlowMatching(Returns(4), (1,)).loss(x),
        lambda x: DDPM(Returns(4), (1,), 5).loss(x),
        lambda x: ImprovedDDPM(Returns(1, 2), (1,), 5).loss(x),
        lambda x: VAE(Returns(4, 4), Returns(4), 2, (1,), Gaussian()).loss(x),
        lambda x: VAE(Returns(4, 2), Returns(4, 1), 2, (1,), Gaussian()).loss(x),
        lambda x: gan.GAN(Returns(4), Returns(4), (1,), 2).generator_loss(x),
        lambda x: gan.GAN(Returns(4, 1), Returns(4, 4), (1,), 2).discriminator_loss(x),
        lambda x: RealNVP.on_vectors(2, lambda i, o: Returns(4, 1), 2).loss(x.expand(4, 2)),
    ],
)
def test_an_output_that_would_broadcast_is_refused(loss):
    with pytest.raises(ValueError, match="must return"):
        loss(torch.randn(4, 1))


def test_labels_that_are_not_one_class_each_are_refused():
    model, x = flow(classes=3), torch.randn(4, 2)
    for y in (torch.zeros(4, 1).long(), torch.tensor([1, 2, 3, 1]), torch.tensor([0, -1, 0, 0]), torch.zeros(3).long()):
        with pytest.raises(ValueError, match="labels"):
            model.loss(x, y)
        with pytest.raises(ValueError, match="labels"):
            model.sample(4, y, steps=1)
    with pytest.raises(TypeError, match="labels must be integers"):
        model.loss(x, torch.zeros(4))
    assert model.loss(x, np.array([0, 1, 2, 0])).isfinite() and model.loss(x, torch.zeros(4, dtype=torch.uint8))


def test_pixels_of_another_range_are_refused():
    x = torch.rand(4, 16)
    model = VAE(MLP(16, 4, 8, 1), MLP(2, 16, 8, 1), 2, (16,), Bernoulli())
    assert model.loss(x, torch.zeros(4)).isfinite()
    pictures = RealNVP.on_images((1, 4, 4), lambda i, o: nn.Conv2d(i, o, 3, padding=1), scales=1)
    levelled = DDPM(TimeMLP(16, 8, 2), (16,), 5, levels=17)
    for wrong in (2 * x - 1, 255 * x):
        with pytest.raises(ValueError, match="values must lie in"):
            model.elbo(wrong)
        with pytest.raises(ValueError, match="values must lie in"):
            pictures.log_prob(wrong.reshape(4, 1, 4, 4))
    with pytest.raises(ValueError, match="values must lie in"):
        levelled.loss(255 * x)
    with pytest.raises(ValueError, match="grid"):
        levelled.nelbo(torch.full((4, 16), 1 / 16))
    assert levelled.nelbo(torch.full((4, 16), 1 / 8)).isfinite().all()


# ---------------------------------------------------------------------------------------------------------- limits


def gaussian(std: float = 0.5) -> GaussianMixture:
    return GaussianMixture(torch.ones(1), torch.tensor([[1.0, -1.0]]).double(), torch.tensor([std**2]).double())


@pytest.mark.parametrize("solver", [euler, heun, rk4, dopri5])
def test_the_truth_samples_by_every_solver_on_the_linear_path(solver):
    """x_0 = m + sε for N(m, s²): the flow's own map, in closed form."""
    model = FlowMatching(Truth(gaussian(), LinearPath(), "velocity"), (2,))
    noise = torch.randn(50, 2, dtype=torch.float64)
    exact = torch.tensor([1.0, -1.0]) + 0.5 * noise
    steps = 1 if solver is dopri5 else 2000 if solver is euler else 100
    torch.testing.assert_close(model.decode(noise, steps=steps, solver=solver), exact, atol=2e-3, rtol=0)
    torch.testing.assert_close(model.encode(exact, steps=steps, solver=solver), noise, atol=5e-3, rtol=0)


def test_the_likelihood_of_the_truth_is_that_of_its_law():
    model = FlowMatching(Truth(gaussian(), LinearPath(), "velocity"), (2,))
    x = gaussian().sample(20)
    torch.testing.assert_close(model.log_prob(x), gaussian().log_prob(x), atol=2e-4, rtol=0)


PATHS = [LinearPath(), VPPath(), SubVPPath(), VEPath(), CosinePath(), TablePath(linear_betas(100))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_readings_at_the_ends_are_the_limits_or_one_error(path):
    """E[quantity | x_t] of a Gaussian at t = 0 and 1, against the same a little inside."""
    law, x, found = gaussian(), torch.tensor([[0.3, 0.7]]).double(), 0
    for end, near in ((0.0, 1e-9), (1.0, 1 - 1e-9)):
        for source in QUANTITIES:
            try:
                value = Truth(law, path, source)(x, torch.tensor(end).double())
            except ValueError as error:
                assert "0/0" in str(error)
                continue
            for to in QUANTITIES:
                try:
                    got = path.convert(value, x, torch.tensor(end).double(), source, to)
                except ValueError as error:
                    assert "0/0" in str(error) and source != to
                    continue
                right = Truth(law, path, to)(x, torch.tensor(near).double())
                torch.testing.assert_close(got, right, atol=1e-3, rtol=1e-3)
                found += 1
    assert found >= 20


@pytest.mark.parametrize("chain", [Chain.uniform(4), Chain.absorbing(4)])
def test_no_time_between_equal_moments_means_no_jump(chain):
    x = torch.tensor([[chain.states - 1, chain.states - 1]])
    for alpha_bar in (torch.tensor(0.0), torch.tensor(0.4)):
        step = chain.posterior(x, torch.full((1, 2, 4), 0.25), alpha_bar, alpha_bar)
        torch.testing.assert_close(step, chain.law(x))


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
                right = joint / joint.sum()
                torch.testing.assert_close(table[w, v], right, equal_nan=True)
                one = chain.posterior(torch.tensor([[w]]), torch.tensor([[v]]), s, t)[0, 0]
                torch.testing.assert_close(table[w, v], one, equal_nan=True)


def test_a_table_of_jumps_is_a_schedule():
    schedule = TableSchedule(torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(schedule.alpha_bar(torch.tensor([0.0, 0.5, 1.0]).double()).tolist(), [1.0, 0.5, 0.25])


def test_chains_of_one_step():
    law = GaussianMixture(torch.ones(1), torch.ones(1, 2), torch.full((1,), 0.25))
    model = DDPM(Truth(law, TablePath(linear_betas(1)), "eps"), (2,), steps=1, variance="small")
    assert model.alpha_bar[-1] < 1e-2 and model.nelbo(torch.ones(4, 2)).isfinite().all()
    assert abs(model.sample(4000).mean().item() - 1) < 0.1
    net = TimeMLP(2, 16, 2, out=4)
    assert ImprovedDDPM(net, (2,), betas=cosine_betas(50)).strided(1).nelbo(torch.ones(4, 2)).isfinite().all()


@pytest.mark.parametrize(
    "act",
    [
        lambda: linear_betas(0),
        lambda: ddim.sample(DDPM(TimeMLP(2, 8, 2), (2,), 5), 2, 0),
        lambda: score_sde.reverse_sde(DDPM(TimeMLP(2, 8, 2), (2,), 5), 2, 0),
        lambda: edm.sample(DDPM(TimeMLP(2, 8, 2), (2,), 5), 2, 0),
        lambda: flow().sample(2, steps=0),
        lambda: flow().sample(0),
        lambda: MDLM(lambda x, t, y: torch.zeros(*x.shape, 3), (4,), 3).sample(2, steps=0),
        lambda: MDLM(lambda x, t, y: torch.zeros(*x.shape, 3), (4,), 3).nelbo(torch.zeros(1, 4).long(), times=0),
        lambda: VAE(MLP(2, 4, 8, 1), MLP(2, 2, 8, 1), 2, (2,), Gaussian()).iwae(torch.zeros(1, 2), 0),
    ],
)
def test_no_step_and_no_sample_are_refused(act):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        act()


def test_a_batch_of_one_has_no_variance():
    model = RealNVP.on_vectors(2, lambda i, o: MLP(i, o, 8, 1), 2, batch_norm=True)
    with pytest.raises(ValueError, match="larger batch"):
        model.loss(torch.randn(1, 2))
    assert model.eval().log_prob(torch.randn(1, 2)).isfinite().all()


# --------------------------------------------------------------------------------------------------- modes, manners


def test_samplers_sample_in_evaluation_mode_and_put_the_mode_back():
    model, y = flow(classes=2, drop=0.9), torch.ones(50).long()
    vae = VAE(MLP(2, 4, 8, 1), nn.Sequential(nn.Dropout(0.9), MLP(2, 2, 8, 1)), 2, (2,), Gaussian())
    players = gan.GAN(nn.Sequential(nn.Dropout(0.9), nn.Linear(2, 2)), MLP(2, 1, 8, 1), (2,), 2)
    draws = {
        model: [lambda: model.sample(50, y, steps=2), lambda: ddim.sample(model, 50, 2, y=y)],
        vae: [lambda: vae.sample(50)],
        players: [lambda: players.sample(50)],
    }
    draws[model] += [lambda: edm.sample(model, 50, 2, y=y), lambda: score_sde.predictor_corrector(model, 50, 2, y=y)]
    for drawn, ways in draws.items():
        for way in ways:
            samples = []
            for mode in (True, False):
                drawn.train(mode)
                torch.manual_seed(1)
                samples.append(way())
                assert all(part.training is mode for part in drawn.modules())
                assert not samples[-1].requires_grad
            assert torch.equal(*samples)
    model.train()
    walk = model.trajectory(torch.randn(3, 2), model.times(2))
    next(walk)
    assert model.training  # between two states one may train
    assert players.generate(3).requires_grad


def test_a_walk_can_be_differentiated_by_its_field():
    """Two Euler steps of dx/dt = x: the factor (1 + h)², h = −½."""
    model = FlowMatching(Identity(), (1,))
    x = torch.tensor([[2.0]], requires_grad=True)
    end = last(euler(score_sde.flow_field(model), x, torch.tensor([1.0, 0.5, 0.0])))
    (slope,) = torch.autograd.grad(end.sum(), x)
    torch.testing.assert_close(slope, torch.tensor([[0.25]]))


class Identity(nn.Module):
    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return x


def test_times_as_people_write_them():
    model, x = flow(), torch.randn(4, 2)
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
        model.loss(x.numpy())


def test_vmap_and_jacrev_over_points_and_times():
    model, x, t = flow(), torch.randn(3, 2), torch.tensor([0.2, 0.5, 0.9])
    one = lambda x, t: model.predict("x0", x[None], t)[0]  # noqa: E731
    torch.testing.assert_close(vmap(one)(x, t), model.predict("x0", x, t))
    slopes = vmap(jacrev(one, (0, 1)))(x, t)
    z, u = x[0].clone().requires_grad_(), t[0].clone().requires_grad_()
    for k in range(2):
        by_x, by_t = torch.autograd.grad(one(z, u)[k], (z, u))
        torch.testing.assert_close(slopes[0][0, k], by_x)
        torch.testing.assert_close(slopes[1][0, k], by_t)


@pytest.mark.parametrize("game", [gan.minimax, gan.non_saturating, gan.hinge, gan.wasserstein])
@pytest.mark.parametrize("penalty", [gan.r1(0.5), gan.gradient_penalty(2.0), None])
def test_models_are_copied_and_pickled_with_what_they_were_given(game, penalty):
    players = gan.GAN(MLP(2, 2, 8, 1), MLP(2, 1, 8, 1), (2,), 2, game, penalty)
    timed = FlowMatching(TimeMLP(2, 8, 2), (2,), time_law=logit_normal(0.3, 0.7))
    for model in (players, timed):
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            x = torch.randn(4, 2)
            for name, objective in model.objectives().items():
                torch.manual_seed(1)
                expected = objective.loss(x)
                torch.manual_seed(1)
                torch.testing.assert_close(twin.objectives()[name].loss(x), expected)
