"""Muon and AdamW as one optimizer: the matrices' step by a singular value decomposition, Adam's by its signs."""

import pytest
import torch
from torch import nn

from gmbook.train.optimizers import MuonAndAdam, Together


class Letters(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.wide, self.tall = nn.Embedding(60, 64), nn.Linear(64, 64), nn.Linear(64, 128)

    def forward(self, x):
        return self.tall(self.wide(self.table(x)).relu()).square().mean()


def one_step(rate=0.1):
    torch.manual_seed(0)
    net = Letters()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = MuonAndAdam(tables=0.5)(list(net.parameters()))
    net(torch.arange(60)).backward()
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("times", 1.0)
    optimizer.step()
    return net, before


@pytest.mark.parametrize("name, factor", [("wide", 1.0), ("tall", 2**0.5)])
def test_matrices_move_by_the_orthogonal_factor_of_their_gradient(name, factor):
    """Muon's Newton-Schulz leaves singular values of about 0.7 to 1.2; the singular vectors are the gradient's."""
    net, before = one_step()
    weight = getattr(net, name).weight
    u, s, vt = torch.linalg.svd(weight.grad, full_matrices=False)
    strong = s > 0.05 * s[0]  # the iterations lift weaker directions only part of the way
    assert strong.sum() >= 10
    moved = u.T @ ((before[f"{name}.weight"] - weight.detach()) / (0.1 * factor)) @ vt.T
    gains = moved.diagonal()[strong]
    assert gains.min() > 0.6 and gains.max() < 1.3, gains
    across = moved[strong][:, strong] - gains.diag()
    assert across.abs().max() < 0.1, across.abs().max()  # bfloat16


def test_tables_and_vectors_take_adam_at_their_own_rate():
    """Adam's first step is the rate times the gradient's sign."""
    net, before = one_step()
    for name in ("table.weight", "wide.bias", "tall.bias"):
        p = dict(net.named_parameters())[name]
        large = p.grad.abs() > 1e-5  # above Adam's eps
        moved = (before[name] - p.detach())[large]
        torch.testing.assert_close(moved, 0.05 * p.grad[large].sign(), rtol=2e-3, atol=1e-5)


def test_a_network_of_vectors_only_has_no_MuonAndAdam():
    assert not isinstance(MuonAndAdam()([nn.Parameter(torch.zeros(3))]), Together)


def test_no_closure():
    with pytest.raises(ValueError, match="no closure"):
        MuonAndAdam()(list(Letters().parameters())).step(lambda: 0.0)
