"""The triangular flow, against autograd Jacobians and a coupling of two tokens."""

import pytest
import torch
from flow_tools import jacobian
from torch import nn

from gmbook.core.flows.couplings import SplitCoupling
from gmbook.core.flows.triangular import Triangular


class Causal(nn.Module):
    """(s, t) of token i from the tokens before it, through a nonlinear map of their weighted sum; counts its calls."""

    def __init__(self, shape):
        super().__init__()
        tokens, size = shape[0], torch.Size(shape[1:]).numel()
        self.mix = torch.randn(tokens, tokens, dtype=torch.float64).tril(-1)
        self.inner = nn.Linear(size, 2 * size).double()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        seen = torch.einsum("ij,bjd->bid", self.mix, x.flatten(2) if x.ndim > 2 else x[..., None])
        s, t = self.inner(seen).chunk(2, -1)
        return s.tanh().reshape(x.shape), t.sin().reshape(x.shape)


@pytest.mark.parametrize("shape", [(6,), (4, 3), (3, 1, 2)], ids=str)
@pytest.mark.equation("glow-triangular")
def test_one_call_for_the_density_and_one_per_token_for_a_sample(shape):
    torch.manual_seed(0)
    flow, x = Triangular(Causal(shape)), torch.randn(3, *shape, dtype=torch.float64)
    z, log_det = flow(x)
    assert flow.net.calls == 1
    torch.testing.assert_close(flow.inverse(z), x, rtol=1e-10, atol=1e-10)
    assert flow.net.calls == 1 + shape[0]
    matrix = jacobian(flow, x)
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(matrix)[1], rtol=1e-10, atol=1e-10)
    size = torch.Size(shape[1:]).numel()
    blocks = matrix.reshape(shape[0], size, shape[0], size)
    later = torch.triu(torch.ones(shape[0], shape[0]), 1) > 0
    assert (blocks.transpose(1, 2)[later] == 0).all()
    assert (blocks.transpose(1, 2)[later.T].abs().amax((1, 2)) > 0).all()


@pytest.mark.equation("glow-triangular")
def test_two_tokens_of_which_the_first_stays_are_a_coupling():
    class Second(nn.Module):
        def forward(self, x):
            s, t = part(x[:, :1])
            zero = torch.zeros_like(s)
            return torch.cat([zero, s], 1), torch.cat([zero, t], 1)

    def part(first):
        return first.sin(), first.square()

    x = torch.randn(5, 2, dtype=torch.float64)
    for got, want in zip(Triangular(Second())(x), SplitCoupling(part, 1)(x)):
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(Triangular(Second()).inverse(x), SplitCoupling(part, 1).inverse(x))


def test_a_network_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="must return"):
        Triangular(lambda x: (x[:, :1], x[:, :1]))(torch.randn(2, 3))
