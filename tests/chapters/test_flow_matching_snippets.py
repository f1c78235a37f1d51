"""What the flow-matching chapter says a reader will be able to do: each point in a few lines of public API, checked."""

import math

import pytest
import torch

from gmbook import metrics
from gmbook.core.denoiser import Truth
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import LinearPath, VPPath
from gmbook.core.solvers import euler, heun, rk4
from gmbook.data.batches import LawBatches
from gmbook.laws import plane
from gmbook.networks.mlp import TimeMLP
from gmbook.papers import ddim
from gmbook.papers.flow_matching import FlowMatching, independent, optimal_transport
from gmbook.papers.theory.flow_matching import conditional_velocity, gaussian_floor
from gmbook.train import train

LAW = plane.two_gaussians()


def learned(coupling=independent) -> FlowMatching:
    """A flow to two Gaussians, short of perfect."""
    torch.manual_seed(0)
    model = FlowMatching(TimeMLP(2, 64, 3), (2,), LinearPath(1e-3), coupling)
    list(train(model, LawBatches(LAW, 128), steps=500, lr=4e-3, decay="cosine"))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def trained() -> FlowMatching:
    return learned()


def test_1_arrows_of_single_pairs_average_to_the_marginal_field():
    path, t = LinearPath(), torch.tensor(0.5)
    x0, eps = LAW.sample(2_000_000), torch.randn(2_000_000, 2)
    near = (path.interpolate(x0, eps, t) - torch.tensor([0.4, 0.2])).norm(dim=1) < 0.1  # pairs that pass through x
    mean = path.target("velocity", x0, eps, t)[near].mean(0)
    exact = Truth(LAW, path, "velocity")(torch.tensor([[0.4, 0.2]]), t)[0]
    assert near.sum() > 3000 and (mean - exact).abs().max() < 0.1


def test_2_the_velocity_of_a_path_and_its_readings(trained):
    x0, eps, t = LAW.sample(5), torch.randn(5, 2), torch.tensor(0.3)
    for path in (LinearPath(), VPPath()):
        xt = path.interpolate(x0, eps, t)
        torch.testing.assert_close(conditional_velocity(path, xt, x0, t), path.target("velocity", x0, eps, t))
    v, path = trained(xt, t), trained.path
    x0, eps, score = (trained.predict(q, xt, t) for q in ("x0", "eps", "score"))
    torch.testing.assert_close(v, (1 - 1e-3) * eps - x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(score, -eps / path.sigma(t), rtol=1e-4, atol=1e-4)


def test_3_where_the_loss_must_stop(trained):
    x0 = [LAW.sample(5000) for _ in range(8)]
    best = trained.with_network(Truth(LAW, trained.path, "velocity"))  # the same model with the truth for a network
    plateau = torch.stack([best.loss(x) for x in x0]).mean()
    loss = torch.stack([trained.loss(x) for x in x0]).mean()
    assert plateau > 0.5 and abs(loss / plateau - 1) < 0.05  # trained, although the loss is far from 0
    normal, (t, w) = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.full((1,), 0.25)), plane.legendre(40)
    exact = w @ gaussian_floor(0.5, LinearPath(), t)
    loss = FlowMatching(Truth(normal, LinearPath(), "velocity"), (2,)).loss(normal.sample(100_000))
    assert exact.item() == pytest.approx(math.pi / 4, abs=1e-6) and loss.item() == pytest.approx(math.pi / 4, rel=0.02)


def test_4_sample_with_any_solver_and_read_its_order():
    path = LinearPath(0.5)
    field, noise = FlowMatching(Truth(LAW, path, "velocity"), (2,), path), torch.randn(50, 2, dtype=torch.float64)
    end = field.decode(noise, steps=200, solver=rk4)
    for solver, order in ((euler, 1), (heun, 2), (rk4, 4)):
        errors = [(field.decode(noise, steps=n, solver=solver) - end).norm() for n in (20, 40)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


def test_5_pairs_that_straighten_the_paths(trained):
    noise, bend = torch.randn(500, 2), []
    for model in (trained, learned(optimal_transport)):
        walk = torch.stack([noise, *model.trajectory(noise, model.times(30))])
        bend.append(walk.diff(dim=0).norm(dim=2).sum() / (walk[-1] - walk[0]).norm(dim=1).sum() - 1)
    assert bend[1] < bend[0] / 3


def test_6_likelihoods_and_a_flow_read_as_a_diffusion(trained):
    x = LAW.sample(500)
    assert (LAW.log_prob(x) - trained.log_prob(x)).mean() < 0.1
    drawn = ddim.sample(trained, 2000, steps=40, eta=1.0)  # the flow's network, sampled as a diffusion with noise
    floor = metrics.noise_floor(metrics.sliced_w2, LAW.sample, 2000)
    assert metrics.sliced_w2(drawn, LAW.sample(2000)) < 3 * floor.mean
