"""Linear attention, against its quadratic form with all weights written out."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gmbook.networks.efficientvit import EfficientViTBlock, linear_attention

DOUBLE = torch.float64


def quadratic(q, k, v):
    """The same attention with all N² weights written out."""
    weights = q.relu() @ k.relu().mT
    return weights / weights.sum(-1, keepdim=True) @ v


@pytest.mark.fact("LA1")
@pytest.mark.equation("dcae-linear-attention")
@pytest.mark.parametrize("shape", [(7, 4), (2, 3, 50, 8)], ids=str)
def test_linear_attention_is_the_quadratic_form(shape):
    q, k = torch.randn(2, *shape, dtype=DOUBLE)
    v = torch.randn(*shape[:-1], 5, dtype=DOUBLE)
    seen = (q.relu() @ k.relu().mT).sum(-1, keepdim=True) > 0
    expected = torch.where(seen, quadratic(q, k, v), 0.0)
    torch.testing.assert_close(linear_attention(q, k, v), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(linear_attention(-q.abs(), k, v), torch.zeros_like(v))


@pytest.mark.equation("dcae-rank")
@pytest.mark.parametrize("d", [3, 8])
def test_the_weights_have_at_most_the_rank_of_a_head(d):
    """The matrix of weights is the answer to the unit vectors as values; softmax's has no such limit."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 40, d, dtype=DOUBLE)
    q[:, 0], k[:, 0] = q[:, 0].abs() + 0.1, k[:, 0].abs() + 0.1  # no query sees nothing
    weights = linear_attention(q, k, torch.eye(40, dtype=DOUBLE))
    torch.testing.assert_close(weights.sum(1), torch.ones(40, dtype=DOUBLE))
    assert weights.min() >= 0 and torch.linalg.matrix_rank(weights, rtol=1e-10) == d
    softmax = (q @ k.T / d**0.5).softmax(1)
    assert torch.linalg.matrix_rank(softmax, rtol=1e-10) > 2 * d


@pytest.mark.equation("dcae-linear-attention")
def test_linear_attention_costs_linearly():
    """Operations double with N, where softmax attention's products quadruple."""

    def flops(function, n):
        q, k, v = torch.randn(3, 1, 1, n, 8)
        with FlopCounterMode(display=False) as counter:
            function(q, k, v)
        return counter.get_total_flops()

    assert flops(linear_attention, 64) == 2 * flops(linear_attention, 32) == 64 * 2 * 2 * 8 * 9
    assert flops(quadratic, 64) == 4 * flops(quadratic, 32)


@pytest.mark.equation("dcae-linear-attention")
def test_half_precision_sums_in_single():
    """In bfloat16, with and without autocast, the sums run in single precision: only the result is rounded."""
    q, k, v = torch.randn(3, 1, 1, 4096, 8)
    exact = linear_attention(q, k, v)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(linear_attention(q, k, v), exact, rtol=0, atol=0)
    rounded = [a.bfloat16() for a in (q, k, v)]
    got = linear_attention(*rounded)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, linear_attention(*(a.float() for a in rounded)).bfloat16())


@pytest.mark.equation("dcae-linear-attention")
def test_the_block_attends_in_separate_heads():
    """With a silent convolution branch: x + norm(W [head_1 | head_2]), each head by the quadratic form."""
    block = EfficientViTBlock(8, head=4).double()
    for parameter in block.narrow[1].parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 3, 5, dtype=DOUBLE).abs()
    q, k, v = block.query_key_value(x).flatten(2).mT.chunk(3, -1)  # (2, 15, 8) each
    heads = [linear_attention(q[..., s], k[..., s], v[..., s]) for s in (slice(0, 4), slice(4, 8))]
    mixed = torch.cat(heads, -1).mT.unflatten(2, (3, 5))
    torch.testing.assert_close(block(x), x + block.project(mixed))


def test_heads_divide_the_channels():
    with pytest.raises(ValueError, match="head's width"):
        EfficientViTBlock(12, 8)
