"""DC-AE: shortcuts as matrices, linear attention against its quadratic form, sizes by formula, phases bit for bit."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from specimen import Specimen, decoded, images
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gmbook.data import digits, scale
from gmbook.data.batches import Batches
from gmbook.networks.blocks import Block
from gmbook.networks.conv import MapEncoder
from gmbook.networks.efficientvit import ChannelNorm
from gmbook.networks.transformer import DiT
from gmbook.papers.dc_ae import DCAE, Down, Up, average_down, duplicate_up, published
from gmbook.papers.ddpm import DDPM
from gmbook.papers.latent_diffusion import LatentDiffusion
from gmbook.papers.theory.dc_ae import block_flops, folded, gain, kept_energy, tokens
from gmbook.train import train

SPECIMEN = Specimen(lambda: DCAE((1, 8, 8), 4, (8, 16), (1, 1), attention=1, head=8), images, decoded, labels=False)

DOUBLE = torch.float64
CASES = [(2, 4, 2), (2, 2, 2), (2, 8, 2), (1, 4, 4), (6, 3, 1), (4, 4, 1)]  # (C, C', f) of C -> C'
cases = pytest.mark.parametrize(("channels", "out", "factor"), CASES)


def small(shape=(1, 8, 8), latent=4, **options):
    """f = 8: images of 8×8 become one vector; the last stage has attention."""
    return DCAE(shape, latent, (8, 16, 16, 16), (1, 1, 1, 1), attention=3, head=8, **options)


def matrix(function, shape):
    """The matrix of a linear map of maps, from its Jacobian."""
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x[None])[0].flatten(), torch.zeros(shape).double())
    return jacobian.flatten(1)


# ------------------------------------------------------------------------------------------------- the shortcuts


@pytest.mark.fact("C1")
@pytest.mark.equation("dcae-down")
@pytest.mark.equation("dcae-up")
@cases
def test_shortcuts_by_their_indices(channels, out, factor):
    """Both index formulas written out, entry by entry."""
    x, size = torch.randn(1, channels, 4, 8, dtype=DOUBLE), factor**2 * channels // out
    down = average_down(x, out, factor)
    up = duplicate_up(down, channels, factor)
    spread = torch.empty(channels * factor**2, 4 // factor, 8 // factor, dtype=DOUBLE)
    for c, i, j in itertools.product(range(channels), range(factor), range(factor)):
        spread[c * factor**2 + i * factor + j] = x[0, c, i::factor, j::factor]
        group = (c * factor**2 + i * factor + j) // size
        torch.testing.assert_close(up[0, c, i::factor, j::factor], down[0, group], rtol=0, atol=0)
    for k in range(out):
        torch.testing.assert_close(down[0, k], spread[k * size : (k + 1) * size].mean(0), rtol=0, atol=1e-15)


@pytest.mark.fact("C2")
@pytest.mark.equation("dcae-inverse")
@cases
def test_up_is_a_right_inverse_of_down(channels, out, factor):
    z = torch.randn(3, out, 2, 4, dtype=DOUBLE)
    torch.testing.assert_close(average_down(duplicate_up(z, channels, factor), out, factor), z, rtol=0, atol=1e-14)
    tiled = F.pixel_shuffle(z.repeat(1, channels * factor**2 // out, 1, 1), factor)  # the planted bug: tile
    if 1 < out < channels * factor**2:
        assert (average_down(tiled, out, factor) - z).abs().max() > 0.1


@pytest.mark.fact("C3")
@pytest.mark.equation("dcae-projection")
@cases
def test_up_after_down_is_an_orthogonal_projection(channels, out, factor):
    """P² = P = Pᵀ, and its rank is the number of latent scalars: one half for C -> 2C."""
    projection = matrix(lambda x: duplicate_up(average_down(x, out, factor), channels, factor), (channels, 4, 4))
    torch.testing.assert_close(projection @ projection, projection, rtol=0, atol=1e-14)
    torch.testing.assert_close(projection, projection.T, rtol=0, atol=0)
    rank = int(torch.linalg.matrix_rank(projection))
    assert rank == out * 16 // factor**2
    if (channels, out, factor) == (2, 4, 2):
        assert rank == len(projection) / 2


@pytest.mark.fact("C4")
@pytest.mark.equation("dcae-down")
def test_pairs_are_pixels_side_by_side():
    """C -> 2C averages along rows and keeps rows apart; C -> C is 2×2 average pooling."""
    x = torch.randn(2, 3, 8, 8, dtype=DOUBLE)
    pairs = (x[..., 0::2] + x[..., 1::2]) / 2  # (2, 3, 8, 4)
    got = average_down(x, 6)
    torch.testing.assert_close(got[:, 0::2], pairs[:, :, 0::2])
    torch.testing.assert_close(got[:, 1::2], pairs[:, :, 1::2])


@pytest.mark.fact("C4b")
@pytest.mark.equation("dcae-down")
@pytest.mark.parametrize("factor", [2, 4])
def test_groups_of_a_patch_are_average_pooling(factor):
    x = torch.randn(2, 3, 8, 8, dtype=DOUBLE)
    torch.testing.assert_close(average_down(x, 3, factor), F.avg_pool2d(x, factor))


@pytest.mark.fact("C5")
@pytest.mark.equation("dcae-projection")
def test_white_noise_keeps_half_its_energy():
    x = torch.randn(16, 4, 32, 32, dtype=DOUBLE)
    kept = duplicate_up(average_down(x, 8), 4).square().sum() / x.square().sum()
    assert abs(kept - 0.5) < 4 * (1 / x.numel()) ** 0.5  # var of the share: 2·½·½/(n/2) = 1/n


@pytest.mark.fact("C5")
@pytest.mark.equation("dcae-projection")
@pytest.mark.parametrize(("widths", "means"), [((4, 4, 4, 4), True), ((4, 8, 16, 32), False)])
def test_with_silent_branches_the_autoencoder_is_a_projection(widths, means):
    """All main branches at zero: what is left between the first and the last convolution is the shortcuts' P.

    With C -> C at f = 8 it is the image of 8×8 block means; with C -> 2C every stage keeps half the scalars.
    """
    latent = widths[-1]
    model = DCAE((3, 16, 16), latent, widths, (1, 1, 1, 1), attention=2, head=4).double()
    for module in model.modules():
        if isinstance(module, ChannelNorm | Down | Up):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
    encoder, decoder = model.encoder[1:], model.decoder[:-1]
    x = torch.randn(2, 4, 16, 16, dtype=DOUBLE)
    back = decoder(encoder(x))
    torch.testing.assert_close(decoder(encoder(back)), back, rtol=0, atol=1e-13)
    if means:
        blocks = F.avg_pool2d(x, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
        torch.testing.assert_close(back, blocks, rtol=0, atol=1e-13)
    rank = int(torch.linalg.matrix_rank(matrix(lambda v: decoder(encoder(v)), (4, 8, 8))))
    assert rank == latent == 4 * 64 * (1 / 64 if means else 1 / 8)
    without = DCAE((3, 16, 16), latent, widths, (1, 1, 1, 1), attention=2, head=4, shortcut=False)
    assert sum(p.numel() for p in without.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.equation("dcae-energy")
@pytest.mark.parametrize(("out", "pixels"), [(4, [(0, 0), (0, 1)]), (2, [(0, 0), (0, 1), (1, 0), (1, 1)])])
def test_the_energy_kept_of_a_stationary_picture(out, pixels):
    """E‖Px‖² = tr(PΣ) with the matrices of P and of Σ: correlations a^|Δrow| b^|Δcolumn| of two channels alike."""
    rows, columns = 0.8, 0.5
    rho = lambda a, b: rows ** abs(a[0] - b[0]) * columns ** abs(a[1] - b[1])  # noqa: E731
    places = list(itertools.product(range(4), range(4)))
    sigma = torch.tensor([[rho(a, b) for b in places] for a in places], dtype=DOUBLE)
    sigma = torch.block_diag(sigma, sigma)
    projection = matrix(lambda x: duplicate_up(average_down(x, out), 2), (2, 4, 4))
    want = torch.trace(projection @ sigma @ projection.T) / torch.trace(sigma)
    correlations = torch.tensor([[rho(a, b) for b in pixels] for a in pixels], dtype=DOUBLE)
    torch.testing.assert_close(kept_energy(correlations), want, rtol=1e-12, atol=0)
    torch.testing.assert_close(kept_energy(torch.eye(len(pixels))), torch.tensor(1 / len(pixels)))


@pytest.mark.equation("dcae-fold")
@pytest.mark.parametrize(("channels", "out", "factor"), [(4, 2, 2), (8, 2, 2), (4, 4, 2), (3, 6, 1), (2, 8, 1)])
def test_a_doublings_shortcut_is_a_convolution(channels, out, factor):
    """Another block, without a shortcut, is the same map, and has the same gradient at its weights."""
    torch.manual_seed(0)
    block, z = Up(channels, out, factor).double(), torch.randn(2, channels, 3, 5, dtype=DOUBLE)
    plain = folded(block)
    assert not plain.shortcut and block.shortcut
    torch.testing.assert_close(plain(z), block(z), rtol=0, atol=1e-13)
    for b in (block, plain):
        b(z).sin().sum().backward()
    torch.testing.assert_close(plain.conv.weight.grad, block.conv.weight.grad, rtol=0, atol=1e-13)
    moved = plain.conv.weight - block.conv.weight
    assert (moved != 0).sum() == out * factor**2 and moved[moved != 0].allclose(torch.ones((), dtype=DOUBLE))
    with pytest.raises(ValueError, match="no shortcut"):
        folded(plain)


@pytest.mark.equation("dcae-fold")
def test_a_halvings_shortcut_is_no_convolution():
    """A least-squares fit of the 18 weights reaches a quarter of the shortcut's energy on white noise: each of the
    four parities of a pixel wants other taps, and the best weights are the mean of the four."""
    torch.manual_seed(0)
    x = torch.randn(200, 2, 8, 8, dtype=DOUBLE)
    target = F.pixel_shuffle(average_down(x, 4), 2)[:, 0, 2:-2, 2:-2].flatten()
    patches = F.unfold(x, 3, padding=1).unflatten(2, (8, 8))[:, :, 2:-2, 2:-2].transpose(1, 2).transpose(2, 3)
    design = patches.flatten(0, 2)  # (pixels, 18)
    weights = torch.linalg.lstsq(design, target).solution
    left = (target - design @ weights).square().mean() / target.square().mean()
    assert abs(left - 0.75) < 6 * (2 / len(target)) ** 0.5
    assert (weights.unflatten(0, (2, 3, 3)).abs() > 0.06).sum() == 8


@pytest.mark.equation("dcae-down")
@pytest.mark.equation("dcae-up")
def test_blocks_are_their_convolution_plus_the_shortcut():
    x = torch.randn(2, 4, 8, 8)
    for block, back in ((Down(4, 8), F.pixel_unshuffle), (Up(4, 2), F.pixel_shuffle)):
        with_shortcut = block(x)
        block.shortcut = False
        torch.testing.assert_close(block(x), back(block.conv(x), 2))
        straight = average_down(x, 8) if isinstance(block, Down) else duplicate_up(x, 2)
        torch.testing.assert_close(with_shortcut, block(x) + straight)


# ----------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)], ids=str)
def test_contract(shape, shortcut):
    """Shapes, a deterministic code, any resolution that f divides, and a loss that is the summed L1."""
    model = small(shape, shortcut=shortcut)
    x = torch.randn(2, *shape)
    z = model.encode(x)
    assert z.shape == (2, *model.latent_shape) == (2, 4, shape[1] // 8, shape[2] // 8) and model.factor == 8
    assert torch.equal(z, model.encode(x)) and model.decode(z).shape == x.shape
    torch.testing.assert_close(model.loss(x), (x - model.reconstruct(x)).abs().flatten(1).sum(1).mean())
    larger = torch.randn(1, shape[0], 2 * shape[1], 3 * shape[2])
    assert model.encode(larger).shape == (1, 4, shape[1] // 4, 3 * shape[2] // 8)
    assert model.reconstruct(larger).shape == larger.shape
    alone = torch.cat([model.reconstruct(x[:1]), model.reconstruct(x[1:])])
    torch.testing.assert_close(alone, model.reconstruct(x))  # no example depends on its neighbours


def test_a_first_stage_of_depth_0_is_no_stage():
    model = DCAE((3, 32, 32), 8, (8, 16, 16), (0, 1, 1), attention=2, head=8)
    assert model.latent_shape == (8, 8, 8) and model.reconstruct(torch.randn(2, 3, 32, 32)).shape == (2, 3, 32, 32)
    assert model.encoder[0].factor == 2 and not model.encoder[0].shortcut


def resblock_size(c):
    return (9 * c * c + c) + 9 * c * c + 2 * c


def vit_size(c):
    return (3 + 1) * c * c + 2 * c + (8 * c * c + 8 * c) + (9 * 8 * c + 8 * c) + 4 * c * c + 2 * c


@pytest.mark.equation("dcae-scalars")
@pytest.mark.parametrize(("factor", "latent", "millions"), [(32, 32, 323.36), (64, 128, 676.90), (128, 512, 1120.68)])
def test_the_published_sizes(factor, latent, millions):
    """Latents of 512² images, c/f² = 1/32 at every f, and the parameters, by a formula per layer."""
    with torch.device("meta"):
        model = published(factor)
        z = model.encode(torch.empty(1, 3, 512, 512))
        assert z.shape == (1, latent, 512 // factor, 512 // factor) and model.decode(z).shape == (1, 3, 512, 512)
    assert z.numel() == 512 * 512 / 32 and z[0].numel() == math.prod(model.latent_shape)
    widths = [128, 256, 512, 512, 1024, 1024, 2048, 2048][: int(math.log2(factor)) + 1]
    total = 0
    for depths, up in (([0, 4, 8, 2, 2, 2, 2, 2], 0), ([0, 5, 10, 2, 2, 2, 2, 2], 1)):
        total += sum(d * (resblock_size(c) if k < 3 else vit_size(c)) for k, (c, d) in enumerate(zip(widths, depths)))
        for a, b in itertools.pairwise(widths[1:]):
            total += (9 * b * 4 * a + 4 * a) if up else (9 * a * b // 4 + b // 4)
    total += (9 * 3 * 64 + 64) + (9 * widths[-1] * latent + latent)  # the encoder's first and last convolution
    total += (9 * latent * widths[-1] + widths[-1]) + 2 * 256 + (9 * 256 * 12 + 12)
    assert total == sum(p.numel() for p in model.parameters())
    assert round(total / 1e6, 2) == millions


@pytest.mark.equation("dcae-tokens")
def test_tokens():
    assert [tokens(512, 512, *fp) for fp in ((8, 2), (32, 1), (64, 1))] == [1024, 256, 64]
    dit = DiT((4, 64, 64), 2, 16, 1, 2)  # f8p2: what the transformer itself counts
    assert tokens(512, 512, 8, 2) == dit.patchify(torch.zeros(1, 4, 64, 64)).shape[1]


@pytest.mark.equation("dcae-flops")
@pytest.mark.parametrize(("n", "width"), [(16, 8), (64, 32), (256, 32)])
def test_operations_of_a_block(n, width):
    """Against torch's own count (of plain products: it does not know the CPU's fused attention)."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        Block(width, 2)(torch.randn(1, n, width))
    assert counter.get_total_flops() == block_flops(n, width)


@pytest.mark.equation("dcae-gain")
@pytest.mark.parametrize(("n", "width", "times"), [(1024, 1152, 16), (16384, 1152, 16), (64, 8, 4)])
def test_the_gain_is_the_ratio_of_operations(n, width, times):
    assert math.isclose(gain(n, width, times), block_flops(n, width) / block_flops(n // times, width), rel_tol=1e-12)
    assert times < gain(n, width, times) < times**2
    assert math.isclose(gain(n, 10**9, times), times, rel_tol=1e-4)
    assert math.isclose(gain(10**12, 1, times), times**2, rel_tol=1e-4)


@pytest.mark.equation("dcae-gain")
def test_the_gain_lies_between_the_tokens_and_their_square():
    """f8p2 -> f64p1 at 512²: 16 times fewer tokens, 256 times less attention; at width 1152 about 18."""
    before, after = tokens(512, 512, 8, 2), tokens(512, 512, 64, 1)
    assert before / after == 16 and (before / after) ** 2 == 256
    gains = [block_flops(before, d) / block_flops(after, d) for d in (1, 1152, 10**7)]
    assert 230 < gains[0] < 256 and 18 < gains[1] < 19 and 16 < gains[2] < 16.01


# ---------------------------------------------------------------------------------------------------- the phases


def changed(model, objectives, x):
    """The names of the parameters that two training steps change."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    list(train(model, [(x,)], steps=2, lr=1e-3, objectives=objectives))
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)], ids=str)
def test_each_phase_moves_its_own_layers(shape):
    model = small(shape, discriminator=MapEncoder(shape, 1, 8, spectral=True))
    x, larger = torch.randn(8, *shape), torch.randn(4, shape[0], 2 * shape[1], 2 * shape[2])
    own = {name for name, _ in model.named_parameters() if not name.startswith("adversary")}
    last, size = f"encoder.{len(model.encoder) - 1}.", f"decoder.{len(model.decoder) - 1}."

    first = changed(model, model.full_training(), x)
    assert first <= own and len(first) > 0.9 * len(own)
    middle = changed(model, model.latent_adaptation(), larger)
    assert middle == {name for name in own if name.startswith((last, "decoder.0."))}

    z = model.encode(x)
    players = model.local_refinement()
    assert list(players) == ["autoencoder", "discriminator"]
    refined = changed(model, players, x)
    assert refined & own == {name for name in own if name.startswith(size)}
    assert refined - own and all(name.startswith("adversary.discriminator") for name in refined - own)
    assert torch.equal(model.encode(x), z)  # a prior trained on these latents remains right
    assert model.objectives().keys() == model.full_training().keys() == {"autoencoder"}


def test_the_adaptive_weight_reads_the_decoders_last_convolution():
    model = small(discriminator=MapEncoder((1, 8, 8), 1, 8))
    assert model.adversary._last[0] is model.decoder[-1][-1].conv.weight
    assert list(model.parameters())[-1] is not None and "last" not in " ".join(model.state_dict())


def test_latent_diffusion_takes_it_as_it_is():
    """Scale, loss and samples through a DC-AE, with no code for it in the second stage."""
    autoencoder = small((3, 32, 32))
    model = LatentDiffusion(autoencoder, DDPM(DiT(autoencoder.latent_shape, 1, 16, 1, 2), autoencoder.latent_shape, 20))
    x = torch.randn(64, 3, 32, 32)
    model.measure_scale(x)
    assert abs(model.encode(x).std() - 1) < 1e-4
    assert changed(model, None, x) and model.sample(2).shape == (2, 3, 32, 32)
    assert {id(p) for p in model.objectives()["loss"].parameters} == {id(p) for p in model.prior.parameters()}
    torch.testing.assert_close(model.decode(model.encode(x)), autoencoder.reconstruct(x), rtol=1e-4, atol=1e-5)


def test_refusals():
    x = torch.randn(1, 4, 6, 6)
    with pytest.raises(ValueError, match="cannot average"):
        average_down(x, 3)
    with pytest.raises(ValueError, match="cannot average"):
        average_down(x, 4, 4)
    with pytest.raises(ValueError, match="cannot duplicate"):
        duplicate_up(torch.randn(1, 3, 2, 2), 2)
    with pytest.raises(ValueError, match="divisible by 4"):
        Down(4, 6)
    with pytest.raises(ValueError, match="one entry per stage"):
        DCAE((1, 8, 8), 4, (8, 8), (1, 1, 1))
    with pytest.raises(ValueError, match="depth 0 in both"):
        DCAE((1, 8, 8), 4, (8, 8), (0, 1), (1, 1))
    with pytest.raises(ValueError, match="8 dividing H and W"):
        small((1, 28, 28))
    with pytest.raises(ValueError, match="8 dividing H and W"):
        small().encode(torch.randn(2, 1, 12, 8))
    with pytest.raises(ValueError, match="needs an adversary"):
        small().local_refinement()
    with pytest.raises(ValueError, match="f = 32, 64 or 128"):
        published(16)


def test_shortcuts_help_at_high_compression():
    """8×8 digits as one vector of 8 numbers, f = 8, same steps and seed, error on held-out digits.

    Measured: 0.10 with and 0.16 without shortcuts; two other seeds gave 0.11 and 0.21, 0.10 and 0.17. The mean image
    has 0.29.
    """
    data, held_out = (scale(digits(split).x, 17) for split in ("train", "test"))
    error = {}
    for shortcut in (True, False):
        torch.manual_seed(0)
        model = DCAE((1, 8, 8), 8, (16, 32, 64, 64), (1, 1, 1, 1), attention=2, head=16, shortcut=shortcut)
        list(train(model, Batches(data, size=64), steps=100, lr=1e-3))
        error[shortcut] = (model.reconstruct(held_out) - held_out).square().mean().item()
    baseline = (held_out - data.mean(0)).square().mean().item()
    assert error[True] < 0.8 * error[False] < 0.8 * baseline


def test_the_perceptual_and_the_adversarial_weight_act():
    """Both options reach the losses: the first phase's by 64 times the distance, the third's by its factor."""
    torch.manual_seed(3)
    plain, x = small(), torch.randn(4, 1, 8, 8)
    torch.manual_seed(3)
    told = small(perceptual=lambda x, output: (x - output).square().flatten(1).mean(1))
    output = plain.reconstruct(x)
    torch.testing.assert_close(told.loss(x) - plain.loss(x), (x - output).square().flatten(1).sum(1).mean())
    terms = []
    for weight in (0.5, 2.0):
        torch.manual_seed(3)
        model = small(discriminator=MapEncoder((1, 8, 8), 1, 8), adversarial_weight=weight)
        loss = model.local_refinement()["autoencoder"].loss(x)
        terms.append((loss - model.loss(x)).item())
    assert math.isclose(terms[1], 4 * terms[0], rel_tol=1e-3) and abs(terms[0]) > 1e-4
