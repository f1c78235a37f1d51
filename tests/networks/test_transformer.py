"""Transformers: causality by Jacobian, equivariance, adaLN-Zero at the start, DiT-XL/2's published size."""

import math

import pytest
import torch
from networks.helpers import randomise

from gmbook.networks.blocks import AdaBlock, AdaHead, Attention, ShortConvolution
from gmbook.networks.embed import rotary_angles
from gmbook.networks.transformer import CausalTransformer, DiT, MaskedTransformer, Transformer

DOUBLE = torch.float64


def attention_map(net, x, t=None):
    """Which logits depend on which token: (L, L), from the Jacobian with respect to the token embeddings."""
    embedded = net.embed(x).detach()

    def logits(e):
        handle = net.embed.register_forward_hook(lambda *_: e)
        out = net(x, t)
        handle.remove()
        return out

    jacobian = torch.autograd.functional.jacobian(logits, embedded)  # (1, L, V, 1, L, D)
    return jacobian[0, :, :, 0].abs().amax((1, 3))


@pytest.mark.parametrize("local", [None, 3])
@pytest.mark.parametrize("time", [False, True])
def test_causal_jacobian_is_lower_triangular(time, local):
    torch.manual_seed(0)
    x, t = torch.randint(5, (1, 6)), torch.rand(1, dtype=DOUBLE)
    causal = attention_map(randomise(Transformer(5, 8, 2, 2, causal=True, time=time, local=local)).double(), x, t)
    assert causal.triu(1).max() == 0 and causal[torch.tril_indices(6, 6).unbind()].min() > 1e-8
    both = attention_map(randomise(Transformer(5, 8, 2, 2, time=time, local=local)).double(), x, t)
    assert both.min() > 1e-8


@pytest.mark.parametrize("causal, first", [(True, -2), (False, -1)])
def test_short_convolution_is_the_sum(causal, first):
    torch.manual_seed(0)
    layer, x = ShortConvolution(4, 3).double(), torch.randn(2, 6, 4, dtype=DOUBLE)
    assert torch.equal(layer(x, causal), x)  # at the start
    randomise(layer)
    w, b = layer.filter.weight[:, 0], layer.filter.bias
    expected = x + b
    for i in range(6):
        for j in range(3):
            if 0 <= i + first + j < 6:
                expected[:, i] += w[:, j] * x[:, i + first + j]
    torch.testing.assert_close(layer(x, causal), expected)


def test_short_convolution_refuses_an_even_size():
    with pytest.raises(ValueError, match="odd number of weights, got 4"):
        Transformer(5, 8, 2, 2, local=4)


def test_without_positions_it_is_permutation_equivariant():
    torch.manual_seed(0)
    x, order = torch.randint(5, (2, 7)), torch.randperm(7)
    net = randomise(Transformer(5, 8, 2, 2, positions=False)).double()
    torch.testing.assert_close(net(x[:, order]), net(x)[:, order])
    net = randomise(Transformer(5, 8, 2, 2)).double()
    assert (net(x[:, order]) - net(x)[:, order]).abs().max() > 1e-2


def test_rotary_positions_are_relative():
    """Attention at the positions 20..24 is attention at 0..4."""
    torch.manual_seed(0)
    attention = Attention(8, 2).double()
    x = torch.randn(1, 5, 8, dtype=DOUBLE)
    cos, sin = rotary_angles(25, 4, x)
    early, late = attention(x, angles=(cos[:5], sin[:5])), attention(x, angles=(cos[20:], sin[20:]))
    torch.testing.assert_close(early, late, atol=1e-5, rtol=0)  # angles are float32
    assert (early - attention(x)).abs().max() > 1e-3


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_formula(causal):
    torch.manual_seed(0)
    layer, x = Attention(6, 3).double(), torch.randn(2, 4, 6, dtype=DOUBLE)
    q, (k, v) = layer.query(x), layer.key_value(x).chunk(2, -1)
    heads = []
    for i in range(3):
        part = slice(2 * i, 2 * i + 2)
        scores = q[..., part] @ k[..., part].mT / math.sqrt(2)
        if causal:
            scores = scores.masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ v[..., part])
    torch.testing.assert_close(layer(x, causal=causal), layer.out(torch.cat(heads, -1)))


@pytest.mark.fact("L3")
def test_cross_attention_sees_a_set():
    """Equivariant in the queries, invariant in the context."""
    torch.manual_seed(0)
    layer = Attention(8, 2, context=5).double()
    x, context = torch.randn(2, 6, 8, dtype=DOUBLE), torch.randn(2, 4, 5, dtype=DOUBLE)
    order, shuffle = torch.randperm(6), torch.randperm(4)
    torch.testing.assert_close(layer(x[:, order], context), layer(x, context)[:, order])
    torch.testing.assert_close(layer(x, context[:, shuffle]), layer(x, context))


def test_attention_refuses_a_missing_context_and_an_unexpected_one():
    """Never silently attend to oneself instead."""
    x, context = torch.randn(1, 3, 8), torch.randn(1, 2, 8)
    with pytest.raises(ValueError, match="needs its context"):
        Attention(8, 2, context=8)(x)
    with pytest.raises(ValueError, match="needs its context"):
        AdaBlock(8, 2, context=8)(x, torch.randn(1, 8))
    with pytest.raises(ValueError, match="self-attention"):
        Attention(8, 2)(x, context)


@pytest.mark.parametrize("context", [None, 5])
def test_ada_block_begins_as_the_identity(context):
    block, x, c = AdaBlock(8, 2, context), torch.randn(2, 4, 8), torch.randn(2, 8)
    assert torch.equal(block(x, c, None if context is None else torch.randn(2, 3, context)), x)
    assert not AdaHead(8, 3)(x, c).any()


def test_a_network_may_be_told_the_time_in_few_numbers():
    """The tables of modulations, 6D to a block and 2D for the head, shrink in proportion; the time still matters."""
    wide, narrow = (Transformer(7, 16, 2, 2, time=True, told=told) for told in (None, 4))
    tables = [
        sum(p.numel() for n, p in net.named_parameters() if n.endswith("modulation.weight")) for net in (wide, narrow)
    ]
    assert tables == [16 * (6 * 2 + 2) * 16, 4 * (6 * 2 + 2) * 16]
    x, net = torch.randint(7, (1, 5)).expand(2, -1), randomise(narrow)
    early, late = net(x, torch.tensor([0.1, 0.9]))
    assert (early - late).abs().max() > 1e-3


@pytest.mark.parametrize("time", [False, True])
def test_a_transformer_begins_uniform(time):
    net, x = Transformer(7, 16, 2, 2, out=5, time=time), torch.randint(7, (3, 4))
    loss = torch.nn.functional.cross_entropy(net(x, torch.rand(3)).flatten(0, 1), torch.randint(5, (12,)))
    torch.testing.assert_close(loss.item(), math.log(5))


@pytest.mark.parametrize("options", [{}, {"time": True, "classes": 3}, {"causal": True}], ids=str)
def test_tokens_gradients_and_batch_of_one(options):
    torch.manual_seed(0)
    net = randomise(Transformer(5, 8, 2, 2, **options)).double()
    x, t = torch.randint(5, (4, 20)), torch.rand(4, dtype=DOUBLE)
    y = torch.tensor([0, 1, 2, 3]) if "classes" in options else None
    out = net(x, t, y)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    one = net(x[2:3], t[2:3], None if y is None else y[2:3])
    torch.testing.assert_close(one[0], out[2])
    single = net.float()(x, t.float(), y)
    torch.testing.assert_close(single.double(), out, rtol=1e-2, atol=1e-2)


def test_dit_begins_at_zero_and_sees_every_pixel():
    torch.manual_seed(0)
    net = DiT((2, 8, 12), 4, 16, 2, 2)
    x, t = torch.randn(1, 2, 8, 12, dtype=DOUBLE, requires_grad=True), torch.rand(1, dtype=DOUBLE)
    assert not net(x.float(), t.float()).any()
    (gradient,) = torch.autograd.grad(randomise(net).double()(x, t)[0, 1, 7, 0], x)
    assert gradient.abs().min() > 0


def test_patches_are_the_image_cut_up():
    net, x = DiT((3, 8, 12), 4, 16, 1, 2), torch.randn(2, 3, 8, 12)
    tokens = net.patchify(x)
    assert tokens.shape == (2, 6, 48)
    assert torch.equal(tokens[1, 4], x[1, :, 4:8, 4:8].reshape(-1))  # row 1, column 1
    assert torch.equal(net.unpatchify(tokens), x)


def test_dit_xl_2_has_its_published_size():
    """674.8 M trainable parameters; the fixed positions are not among them. arXiv:2212.09748, Table 4 (675 M)."""
    with torch.device("meta"):
        net = DiT((4, 32, 32), 2, 1152, 28, 16, classes=1000, out_channels=8)
    d = 1152
    block = 18 * d * d + 15 * d  # qkv 3d², out d², feed-forward 8d², modulation 6d², and their biases
    embeddings = (16 * d + d) + (256 * d + d + d * d + d) + 1001 * d  # patches, time, labels with the null class
    expected = 28 * block + embeddings + (2 * d * d + 2 * d) + (d * 32 + 32)
    assert sum(p.numel() for p in net.parameters()) == expected == 674_834_720
    assert net.positions.numel() == 256 * d  # with which the paper's code reports 675.1 M


def test_context_reaches_the_output_and_none_is_the_null_token():
    torch.manual_seed(0)
    net = randomise(DiT((1, 8, 8), 4, 16, 2, 2, context=6)).double()
    x, t, context = (
        torch.randn(2, 1, 8, 8, dtype=DOUBLE),
        torch.rand(2, dtype=DOUBLE),
        torch.randn(2, 3, 6, dtype=DOUBLE),
    )
    base = net(x, t, context)
    assert (net(x, t, context.flip(0)) - base).abs().max() > 1e-3
    torch.testing.assert_close(net(x, t, context[:, [2, 0, 1]]), base)
    torch.testing.assert_close(net(x, t), net(x, t, net.null.expand(2, 3, 6)))
    net(x, t).sum().backward()
    assert net.null.grad.abs().max() > 0


def test_context_is_dropped_in_training_only():
    torch.manual_seed(0)
    net = randomise(DiT((1, 8, 8), 4, 16, 1, 2, context=6, drop=1.0)).double()
    x, t, context = (
        torch.randn(2, 1, 8, 8, dtype=DOUBLE),
        torch.rand(2, dtype=DOUBLE),
        torch.randn(2, 3, 6, dtype=DOUBLE),
    )
    torch.testing.assert_close(net(x, t, context), net(x, t))
    net.eval()
    assert (net(x, t, context) - net(x, t)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: DiT((1, 28, 28), 5), "patch must divide"),
        (lambda: DiT((1, 8, 8), 4, 20, 1, 3), "heads must divide"),
        (lambda: DiT((1, 8, 8), 4, 18, 1, 3), "multiple of 4"),
        (lambda: DiT((1, 8, 8), 4, classes=3, context=4), "not both"),
        (lambda: Transformer(5, 10, 1, 4, positions=False), "heads must divide"),
        (lambda: Transformer(5, 6, 1, 2), "even width"),
        (lambda: Transformer(5, 8, 1, 2, classes=3), "time=True"),
        (
            lambda: Transformer(5, 8, 1, 2, time=True)(torch.zeros(1, 2, dtype=torch.long)),
            "conditioned on time",
        ),
        (lambda: DiT((1, 8, 8), 4)(torch.randn(1, 1, 12, 12), torch.rand(1)), "built for images"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda **o: MaskedTransformer(5, 2, 16, (1, 2), 2, **o),
        lambda **o: CausalTransformer(5, 2, 16, 2, 2, **o),
    ],
    ids=["masked", "causal"],
)
def test_transformers_of_vectors_are_told_labels_and_orders(build):
    """y None is the null class, labels matter, all parameters learn, and an example stands alone."""
    net = randomise(build(classes=3)).double()
    x, order, y = torch.randn(4, 5, 2, dtype=DOUBLE), torch.rand(4, 5).argsort(1), torch.tensor([0, 1, 2, 3])
    z = net(x, order, 2, y)
    assert z.shape == (4, 3, 16) and z.dtype == DOUBLE
    torch.testing.assert_close(net(x, order, 2), net(x, order, 2, torch.full((4,), 3)))
    assert (net(x, order, 2, (y + 1) % 4) - z).abs().amax((1, 2)).min() > 1e-4
    torch.testing.assert_close(net(x[1:2], order[1:2], 2, y[1:2]), z[1:2])
    (z * torch.randn_like(z)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []
    with pytest.raises(ValueError, match="knows no labels"):
        build()(x.float(), order, 2, y)
