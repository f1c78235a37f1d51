"""Guidance: its identities, one call, the same in every quantity; and the rate of dropped labels."""

import pytest
import torch
from networks.helpers import randomise
from torch import nn

from gmbook.core.denoiser import Denoiser
from gmbook.core.paths import QUANTITIES, VPPath
from gmbook.networks.guided import Guided, drop_labels
from gmbook.networks.mlp import TimeMLP
from gmbook.networks.transformer import DiT

DOUBLE = torch.float64


class Counted(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x, t, y=None):
        self.calls += 1
        return self.net(x, t, y)


@pytest.fixture
def case():
    torch.manual_seed(0)
    net = randomise(TimeMLP(2, 16, 2, classes=3)).double()
    return net, torch.randn(5, 2, dtype=DOUBLE), torch.rand(5, dtype=DOUBLE), torch.tensor([0, 1, 2, 1, 0])


@pytest.mark.equation("def-guidance")
def test_identities(case):
    net, x, t, y = case
    conditional, free = net(x, t, y), net(x, t)
    torch.testing.assert_close(Guided(net, 1.0, 3)(x, t, y), conditional)
    torch.testing.assert_close(Guided(net, 0.0, 3)(x, t, y), free)
    w = 1.5  # the paper's: (1 + w) ε_c − w ε_u
    torch.testing.assert_close(Guided(net, 1 + w, 3)(x, t, y), (1 + w) * conditional - w * free)
    torch.testing.assert_close(Guided(net, 4.0, 3)(x, t), free)
    torch.testing.assert_close(Guided(net, 4.0, 3)(x, t, torch.full((5,), 3)), free)


def test_one_call(case):
    net, x, t, y = case
    counted = Counted(net)
    Guided(counted, 2.0, 3)(x, t, y)
    assert counted.calls == 1


@pytest.mark.equation("def-guidance")
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_guiding_one_quantity_guides_them_all(case, quantity):
    net, x, t, y = case
    t, path, s = 0.1 + 0.8 * t, VPPath(), 3.0
    plain = Denoiser(net, path, "eps", (2,))
    guided = Denoiser(Guided(net, s, 3), path, "eps", (2,))
    conditional, free = plain.predict(quantity, x, t, y), plain.predict(quantity, x, t)
    torch.testing.assert_close(guided.predict(quantity, x, t, y), free + s * (conditional - free))


def test_context_tokens():
    torch.manual_seed(0)
    net = randomise(DiT((1, 8, 8), 4, 16, 1, 2, context=6)).double()
    x, t, y = (
        torch.randn(2, 1, 8, 8, dtype=DOUBLE),
        torch.rand(2, dtype=DOUBLE),
        torch.randn(2, 3, 6, dtype=DOUBLE),
    )
    torch.testing.assert_close(Guided(net, 0.0, net.null)(x, t, y), net(x, t))
    torch.testing.assert_close(Guided(net, 1.0, net.null)(x, t, y), net(x, t, y))


@pytest.mark.parametrize("p", [0.0, 0.1, 1.0])
def test_labels_are_dropped_at_the_rate_p(p):
    torch.manual_seed(0)
    n = 100_000
    y = torch.randint(10, (n,))
    dropped = drop_labels(y, p, 10)
    gone = dropped == 10
    assert abs(gone.double().mean().item() - p) <= 4 * (p * (1 - p) / n) ** 0.5  # four standard errors
    assert torch.equal(dropped[~gone], y[~gone])


def test_context_is_dropped_whole():
    torch.manual_seed(0)
    y, null = torch.randn(1000, 4, 3), torch.full((1, 3), 7.0)
    gone = (drop_labels(y, 0.3, null) == 7.0).flatten(1)
    assert torch.equal(gone.any(1), gone.all(1)) and 0.2 < gone.any(1).float().mean() < 0.4


def test_p_is_a_probability():
    with pytest.raises(ValueError, match="probability"):
        drop_labels(torch.zeros(3, dtype=torch.long), 1.2, 10)


def test_a_denoiser_around_another_network_is_the_same_model(case):
    """`with_network` guides a trained model: weights are shared, and the model itself stays as it was."""
    net, x, t, y = case
    model = Denoiser(net, VPPath(), "eps", (2,))
    guided = model.with_network(Guided(net, 3.0, 3))
    assert type(guided) is type(model) and guided.path is model.path and model.net is net
    torch.testing.assert_close(guided.predict("x0", x, t, y), model.read("x0", Guided(net, 3.0, 3)(x, t, y), x, t))
    torch.testing.assert_close(model(x, t, y), net(x, t, y))
    assert all(a is b for a, b in zip(guided.parameters(), model.parameters(), strict=True))
