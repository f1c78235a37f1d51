"""Plans: operations against closed forms, a step's cost against the training loop's own, memory against arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gmbook import experiments
from gmbook.data.batches import Batches
from gmbook.experiments import runs
from gmbook.networks.mlp import MLP
from gmbook.papers.gan import GAN, r1
from gmbook.train import train
from gmbook.train.optimizers import MuonAndAdam
from gmbook.train.plan import H100, Cost, Plan, activations, cost, flops, stand_in

LINEAR = experiments.find("vae", "digits", "laptop")


def test_a_linear_stack_costs_its_products():
    """Forward 2·B·m·n a layer; backward twice that, but the first layer's input needs no gradient."""
    net, x = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), torch.randn(11, 5)
    assert flops(lambda: net(x)) == 2 * 11 * (5 * 7 + 7 * 3)
    assert flops(lambda: net(x).sum().backward()) == 2 * 11 * (2 * 5 * 7 + 3 * 7 * 3)


def test_a_convolution_costs_its_products():
    net, x = nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 8, 8, requires_grad=True)
    forward = 2 * 2 * 8 * 8 * 6 * 4 * 9
    assert flops(lambda: net(x)) == forward
    assert flops(lambda: net(x).sum().backward()) == 3 * forward


@pytest.mark.parametrize("causal", [False, True])
def test_attention_costs_two_products_and_five_backward_on_the_cpu_too(causal):
    q, k, v = (torch.randn(2, 3, 10, 8, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 3 * 10 * 10 * 8
    assert flops(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal)) == 2 * product
    assert flops(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal).sum().backward()) == 7 * product


def test_a_gradient_of_a_gradient_is_counted():
    """R1 runs the discriminator once more, back to its input, and back through that."""
    plain, penalised = (GAN(MLP(3, 2), MLP(2, 1), (2,), 3, penalty=p) for p in (None, r1()))
    x = torch.randn(16, 2)
    counts = [flops(lambda g=g: g.discriminator_loss(x).backward()) for g in (plain, penalised)]
    assert counts[1] > 1.5 * counts[0]


@pytest.mark.parametrize("name", [("vae", "digits"), ("gan", "digits"), ("mdlm", "prose"), ("ddpm", "digits")])
def test_a_plan_counts_what_the_training_loop_does(name):
    experiment = experiments.find(*name, "laptop")
    model, size = experiment.model(), 8
    loop = train(model, experiment.batches(0, size), experiment.recipe)
    next(loop)
    counted = flops(lambda: next(loop))
    planned = cost(experiment.model(), lambda n: next(iter(experiment.batches(0, n))), size).flops
    assert planned == pytest.approx(counted, rel=1e-12)


def test_a_player_that_moves_now_and_then_counts_as_often():
    make = lambda k: GAN(MLP(3, 2), MLP(2, 1), (2,), 3, critic_steps=k)  # noqa: E731
    draw = lambda n: (torch.randn(n, 2),)  # noqa: E731
    every, third = (cost(make(k), draw, 16).flops for k in (1, 3))
    generator = flops(lambda: make(1).generator_loss(torch.randn(16, 2)).backward())
    assert 0 < every - third <= 2 / 3 * generator


def test_activations_are_the_tensors_that_the_backward_pass_needs():
    net, x = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), torch.randn(11, 5)
    inputs, hidden, out = 11 * 5, 11 * 7, 11 * 3
    assert activations(lambda: net(x).square().sum(), net) == 4 * (inputs + hidden + out)


def test_hours_are_operations_over_the_rate():
    plan = Plan(1, steps=1000, size=1, step=Cost(0.4 * H100, 0.0), memory={}, seconds=None)
    assert plan.hours() == pytest.approx(1000 / 3600)
    assert plan.hours(rate=1e12) == pytest.approx(1000 * 0.4 * H100 / 1e12 / 3600)


@pytest.mark.parametrize(
    "name",
    [
        *[(paper, "digits") for paper in ("vae", "gan", "realnvp", "ddpm", "flow_matching")],
        ("mdlm", "prose"),
        ("autoregressive", "prose"),
    ],
)
def test_noise_of_the_same_shape_costs_the_same_where_data_are_missing(name):
    experiment = experiments.find(*name, "laptop")
    model = experiment.model()
    noise = cost(model, stand_in(model), 8).flops
    assert noise == pytest.approx(cost(model, lambda n: next(iter(experiment.batches(0, n))), 8).flops, rel=1e-3)


def test_memory_is_weights_gradients_moments_average_and_activations():
    """Every weight four times or five: itself, its gradient, two moments, its average."""
    plan, found = runs.plan(LINEAR)
    weights = 4 * sum(p.numel() for p in LINEAR.model().parameters())
    assert found and plan.seconds is not None and plan.seconds > 0
    assert {k: plan.memory[k] for k in ("weights", "gradients", "optimizer")} == pytest.approx(
        {"weights": weights, "gradients": weights, "optimizer": 2 * weights}, rel=1e-6
    )
    assert plan.step.activations == pytest.approx(plan.memory["activations"])
    assert "average" not in plan.memory


def test_muon_keeps_one_moment_of_its_matrices_and_two_of_the_rest():
    matrices = [p for p in LINEAR.model().parameters() if p.ndim == 2 and min(p.shape) >= 2]
    plan, _ = runs.plan(replace(LINEAR, recipe=replace(LINEAR.recipe, optimizer=MuonAndAdam(least=2))))
    assert matrices and plan.memory["optimizer"] == 2 * plan.memory["gradients"] - 4 * sum(p.numel() for p in matrices)


def test_batches_of_another_size_do_not_change_the_cost_of_an_example():
    model, x = LINEAR.model(), torch.rand(64, 1, 8, 8)
    draw = lambda n: next(Batches(x, size=n))  # noqa: E731
    assert cost(model, draw, 64).flops == pytest.approx(2 * cost(model, draw, 32).flops)
