"""Encoders and decoders: sizes, receptive fields, the singular values of spectral normalisation."""

import pytest
import torch

from gmbook.networks.conv import Decoder, Encoder, MapDecoder, MapEncoder, PatchGAN

SIZES = pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)], ids=str)


@SIZES
@pytest.mark.parametrize("spectral", [False, True])
def test_encoder_and_decoder_meet(shape, spectral):
    x = torch.randn(2, *shape)
    code = Encoder(shape, 5, 8, spectral=spectral)(x)
    assert code.shape == (2, 5) and Decoder(5, shape, 8)(code).shape == x.shape
    small = MapEncoder(shape, 4, 8, spectral=spectral)(x)
    assert small.shape == (2, 4, shape[1] // 4, shape[2] // 4) and MapDecoder(4, shape, 8)(small).shape == x.shape


@pytest.mark.parametrize("downs", [1, 3])
def test_the_number_of_halvings_is_free(downs):
    x = torch.randn(2, 1, 16, 8)
    code = Encoder((1, 16, 8), 5, 4, downs)(x)
    assert code.shape == (2, 5) and Decoder(5, (1, 16, 8), 4, downs)(code).shape == x.shape
    small = MapEncoder((1, 16, 8), 3, 4, downs)(x)
    assert small.shape == (2, 3, 16 // 2**downs, 8 // 2**downs)
    decoder = MapDecoder(3, (1, 16, 8), 4, downs)
    assert decoder(small).shape == x.shape and decoder.first.out_channels == 4 * 2**downs


@pytest.mark.parametrize("network, first", [(Encoder, 3), (MapEncoder, 3), (Decoder, 5), (MapDecoder, 5)])
def test_width_32_and_two_halvings_are_the_default(network, first):
    build = (lambda *rest: network((1, 8, 8), 5, *rest)) if first == 3 else (lambda *rest: network(5, (1, 8, 8), *rest))
    shapes = [[p.shape for p in net.parameters()] for net in (build(), build(32, 2))]
    assert shapes[0] == shapes[1]


@SIZES
def test_the_code_sees_every_pixel_and_shapes_every_pixel(shape):
    torch.manual_seed(0)
    x = torch.randn(1, *shape, dtype=torch.float64, requires_grad=True)
    encoder, decoder = Encoder(shape, 3, 8).double(), Decoder(3, shape, 8).double()
    (gradient,) = torch.autograd.grad(encoder(x).sum(), x)
    assert gradient.abs().min() > 0
    z = torch.randn(1, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(decoder, z)  # (1, *shape, 1, 3)
    assert jacobian.abs().amax((0, -2, -1)).min() > 0


def test_spectral_normalisation_fixes_the_largest_singular_value():
    torch.manual_seed(0)
    encoder = Encoder((1, 8, 8), 1, 8, spectral=True)
    for _ in range(60):  # each forward pass in training mode makes one power iteration
        encoder(torch.randn(1, 1, 8, 8))
    encoder.eval()
    layers = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 5
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        torch.testing.assert_close(largest, torch.tensor(1.0), atol=0.02, rtol=0)


@pytest.mark.parametrize("build", [lambda: Encoder((1, 30, 28), 4), lambda: Decoder(4, (1, 28, 28), downs=3)])
def test_indivisible_sides_are_refused(build):
    with pytest.raises(ValueError, match="divisible by 2"):
        build()


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="built for images"):
        Encoder((1, 8, 8), 4)(torch.randn(2, 1, 28, 28))


@pytest.mark.parametrize(("downs", "field"), [(1, 16), (2, 34), (3, 70)])
def test_a_patch_discriminator_sees_one_patch(downs, field):
    """The pixels that move a score in the middle: a full square of the stated side; and no example sees another."""
    torch.manual_seed(0)
    net = PatchGAN(1, 4, downs).double().eval()
    x = torch.randn(2, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    scores = net(x)
    middle = scores.shape[2] // 2
    (gradient,) = torch.autograd.grad(scores[0, 0, middle, middle], x)
    rows, columns = gradient[0, 0].nonzero().unbind(1)
    assert net.field == field
    assert rows.max() - rows.min() + 1 == field and columns.max() - columns.min() + 1 == field
    assert len(rows) == field**2 and not gradient[1].any()
    with pytest.raises(ValueError, match="at least one halving"):
        PatchGAN(1, downs=0)
