"""Scalings and linear maps, against autograd Jacobians, scipy, and closed forms."""

import math

import pytest
import scipy.linalg
import torch
from flow_tools import jacobian, randomise

from gmbook.core.flows.linear import ActNorm, FlowBatchNorm, InvertibleLinear, Permute, PLULinear


@pytest.mark.fact("W1")
def test_convolution_counts_the_pixels():
    """h·w·log|det W|, against the Jacobian; the survey's log|det W| alone is refuted."""
    layer = randomise(InvertibleLinear(3))
    x = torch.randn(1, 3, 2, 4)
    log_det = torch.linalg.slogdet(jacobian(layer, x))[1]
    once = torch.linalg.slogdet(layer.weight)[1]
    torch.testing.assert_close(layer(x)[1][0], log_det, rtol=1e-10, atol=1e-10)
    assert abs(log_det - 8 * once) < 1e-10 and abs(log_det - once) > 0.1
    with torch.no_grad():
        layer = InvertibleLinear(12)
        layer.weight.copy_(2 * torch.eye(12))
        assert math.isclose(layer(torch.randn(1, 12, 16, 16))[1].item(), 2129.35, abs_tol=5e-3)  # exercise 1


@pytest.mark.fact("W2")
@pytest.mark.equation("glow-plu")
def test_plu_is_a_rotation_at_first_and_matches_scipy():
    layer = PLULinear(6)
    weight = layer.weight().detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(6), rtol=0, atol=1e-12)
    assert abs(layer.log_s.sum()) < 1e-12
    lower, upper = (factor.detach() for factor in layer._factors())
    assert torch.equal(lower.diagonal(), torch.ones(6)) and torch.equal(layer.upper.diagonal(), torch.zeros(6))
    for ours, theirs in zip((layer.permutation, lower, upper), scipy.linalg.lu(weight.numpy())):
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-12)
    assert sum(p.requires_grad for p in layer.parameters()) == 3 and not layer.permutation.requires_grad
    randomise(layer)
    expected = torch.linalg.slogdet(layer.weight())[1]
    torch.testing.assert_close(layer(torch.randn(1, 6))[1][0], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.fact("W5")
@pytest.mark.equation("glow-actnorm")
def test_actnorm_initialises_once_and_remembers():
    x = 5 * torch.randn(64, 3, 8, 8) + torch.tensor([3.0, -1.0, 0.2]).reshape(-1, 1, 1)
    layer = ActNorm(3)
    assert torch.equal(layer.eval()(x)[0], x) and not layer.initialised  # evaluation does not initialise
    z, log_det = layer.train()(x)
    variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-10)
    torch.testing.assert_close(variance, torch.ones(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        log_det, (-64 * x.std((0, 2, 3), correction=0).log().sum()).expand(64), rtol=1e-6, atol=0
    )
    loaded = ActNorm(3)
    loaded.load_state_dict(layer.state_dict())
    torch.testing.assert_close(loaded.train()(10 * x)[0], layer(10 * x)[0], rtol=0, atol=0)
    with pytest.raises(ValueError, match="larger batch"):
        ActNorm(2)(torch.randn(1, 2))
    two = torch.tensor([[1.0, -3.0], [5.0, 3.0]])  # two values a channel are enough: they become −1 and 1
    torch.testing.assert_close(ActNorm(2)(two)[0], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), rtol=0, atol=1e-5)


@pytest.mark.equation("realnvp-batch-norm")
def test_batch_norm_normalises_and_its_averages_converge():
    torch.manual_seed(1)
    layer, x = FlowBatchNorm(2, eps=0.0), torch.randn(512, 2, 4, 4) * 3 + 1
    z, log_det = layer(x)
    torch.testing.assert_close(z.var((0, 2, 3), correction=0), torch.ones(2))
    torch.testing.assert_close(log_det[0], -16 / 2 * x.var((0, 2, 3), correction=0).log().sum())
    for _ in range(300):
        layer(x)
    torch.testing.assert_close(layer.eval()(x)[0], z)  # averages of one batch repeated: training = evaluation


@pytest.mark.parametrize("momentum", [0.1, 0.3])
def test_a_new_batch_has_the_weight_of_the_momentum(momentum):
    layer, x = FlowBatchNorm(2, momentum=momentum), torch.randn(64, 2) * 3 + 1
    assert FlowBatchNorm(2).momentum == 0.1
    layer(x)
    torch.testing.assert_close(layer.mean, momentum * x.mean(0))
    torch.testing.assert_close(layer.variance, 1 - momentum + momentum * x.var(0, correction=0))


def test_permute_refuses_what_is_no_permutation():
    with pytest.raises(ValueError, match="permutation of 0..2"):
        Permute(torch.tensor([0, 0, 2]))
