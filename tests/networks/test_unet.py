"""The U-Net: zero at the start, every size, every pixel seen, the number of parameters by closed form."""

import copy

import pytest
import torch
from networks.helpers import randomise

from gmbook.core.denoiser import Denoiser
from gmbook.core.paths import LinearPath
from gmbook.networks.unet import ResidualBlock, UNet


@pytest.mark.parametrize("size", [8, 28, 32, 7, 1])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_size_and_channels_and_zero_at_the_start(size, channels):
    out = UNet(channels, width=8)(torch.randn(2, channels, size, size), torch.rand(2))
    assert out.shape == (2, channels, size, size) and not out.any()


@pytest.mark.parametrize("size", [8, 28])
def test_each_output_depends_on_every_input_pixel(size):
    torch.manual_seed(0)
    net = randomise(UNet(1, width=8)).double()
    x = torch.randn(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    for corner in ((0, 0), (size - 1, 0), (size // 2, size // 2)):
        (gradient,) = torch.autograd.grad(net(x, torch.rand(1, dtype=torch.float64))[0, 0][corner], x)
        assert gradient.abs().min() > 0


@pytest.mark.parametrize("inputs, outputs", [(8, 8), (8, 12)])
def test_a_residual_block_begins_as_its_skip(inputs, outputs):
    block, x = ResidualBlock(inputs, outputs, 6), torch.randn(2, inputs, 5, 5)
    torch.testing.assert_close(block(x, torch.randn(2, 6)), block.skip(x))


def test_parameter_count():
    """Two levels of w and 2w channels, one block each: counted by hand, layer by layer."""
    w, classes = 16, 10

    def conv(i, o, k=3):
        return i * o * k * k + o

    def linear(i, o):
        return i * o + o

    def residual(i, o):
        return 2 * i + conv(i, o) + linear(4 * w, 2 * o) + 2 * o + conv(o, o) + (conv(i, o, 1) if i != o else 0)

    def attention(c):
        return 2 * c + 4 * linear(c, c)

    down = conv(1, w) + residual(w, w) + conv(w, w) + residual(w, 2 * w) + attention(2 * w)
    middle = 2 * residual(2 * w, 2 * w) + attention(2 * w)
    coarse = residual(4 * w, 2 * w) + residual(3 * w, 2 * w) + 2 * attention(2 * w)
    fine = conv(2 * w, 2 * w) + residual(3 * w, w) + residual(2 * w, w)
    condition = linear(256, 4 * w) + linear(4 * w, 4 * w) + (classes + 1) * 4 * w
    expected = down + middle + coarse + fine + condition + 2 * w + conv(w, 1)
    net = UNet(1, width=w, multipliers=(1, 2), classes=classes)
    assert sum(p.numel() for p in net.parameters()) == expected


def test_weights_have_the_channel_as_the_fastest_axis_and_compute_the_same():
    """Channels last, a tenth faster; also behind a Denoiser, a copy and a state dict. And the numbers are the same."""
    torch.manual_seed(0)
    net = UNet(1, width=8, multipliers=(1, 2), blocks=1)
    twin = UNet(1, width=8, multipliers=(1, 2), blocks=1)
    twin.load_state_dict(net.state_dict())
    for one in (net, Denoiser(net, LinearPath(), "velocity", (1, 8, 8)), copy.deepcopy(net), twin):
        kernels = [weight for weight in one.parameters() if weight.ndim == 4 and weight.shape[1] > 1]
        assert len(kernels) > 10
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    plain = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.8])
    torch.testing.assert_close(net(x, t), plain(x, t), rtol=1e-4, atol=1e-4)


def test_dropout_is_random_in_training_only():
    net, x, t = randomise(UNet(1, width=8, dropout=0.5)), torch.randn(1, 1, 8, 8), torch.rand(1)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


@pytest.mark.parametrize("bad", [{"multipliers": ()}, {"blocks": 0}, {"attention": (3,)}], ids=str)
def test_bad_architectures_are_refused(bad):
    with pytest.raises(ValueError, match="at least one block"):
        UNet(1, **bad)


def test_a_patch_that_does_not_divide_the_image_is_named():
    with pytest.raises(ValueError, match="2×2 pixels does not divide an image of 7×8"):
        UNet(1, width=8, multipliers=(1,), patch=2)(torch.zeros(1, 1, 7, 8), torch.zeros(1))


def test_patches_keep_the_shape():
    assert UNet(1, width=8, multipliers=(1,), patch=2)(torch.zeros(2, 1, 6, 8), torch.rand(2)).shape == (2, 1, 6, 8)


def test_context_tokens_reach_every_pixel_and_are_a_set():
    """Cross-attention: the output moves with the tokens, not with their order; None is the null token."""
    net = randomise(UNet(2, width=8, multipliers=(1, 2), context=6)).eval()
    x, t, tokens = torch.randn(3, 2, 7, 7), torch.rand(3), torch.randn(3, 5, 6)
    told = net(x, t, tokens)
    torch.testing.assert_close(net(x, t, tokens.flip(1)), told, rtol=1e-4, atol=1e-5)
    assert (net(x, t, tokens + 1) - told).abs().amin((0, 1)).min() > 0
    torch.testing.assert_close(net(x, t), net(x, t, net.null.expand(3, 1, 6)))
    other = net(x, t, torch.cat([tokens[:2], tokens[2:] + 1]))
    assert torch.equal(other[:2], told[:2]) and not torch.equal(other[2], told[2])  # each example has its own


def test_a_whole_context_is_dropped_in_training_only():
    """At drop = 1 the network in training is told nothing, whatever the tokens; in evaluation it listens."""
    net, x, t = randomise(UNet(1, width=8, context=6, drop=1.0)), torch.randn(2, 1, 8, 8), torch.rand(2)
    assert torch.equal(net(x, t, torch.randn(2, 1, 6)), net(x, t, torch.randn(2, 1, 6)))
    assert not torch.equal(net.eval()(x, t, torch.randn(2, 1, 6)), net(x, t, torch.randn(2, 1, 6)))


def test_cross_attention_stands_where_self_attention_stands():
    """Each of the four attentions of this network gains a second one, of w² + 2wd + w² weights and their biases."""
    w, d = 16, 6
    plain, told = (UNet(1, width=w, multipliers=(1, 2), **options) for options in ({}, {"context": d}))
    added = 4 * (2 * 2 * w + 2 * (4 * w * w + 2 * w) + (2 * 2 * w * d + 4 * w)) + d
    assert sum(p.numel() for p in told.parameters()) - sum(p.numel() for p in plain.parameters()) == added
    with pytest.raises(ValueError, match="not both"):
        UNet(1, classes=3, context=6)


def test_a_block_without_dropout_is_the_same_in_training():
    block, x, c = randomise(ResidualBlock(8, 8, 6)), torch.randn(2, 8, 5, 5), torch.randn(2, 6)
    assert torch.equal(block(x, c), block(x, c)) and torch.equal(block(x, c), block.eval()(x, c))
    assert not torch.equal(block(x, c), x)


def test_what_stands_for_no_context_begins_as_nothing():
    assert UNet(1, width=8).null is None
    null = UNet(1, width=8, context=6).null
    assert null.shape == (1, 6) and not null.any() and null.requires_grad
