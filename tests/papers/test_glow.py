"""Glow, against Jacobians, closed forms, and laws reshaped by a temperature."""

import math

import pytest
import scipy.stats
import torch
from specimen import Specimen, defaults
from torch import nn

from gmbook.core.flows.base import Compose
from gmbook.core.flows.couplings import SplitCoupling
from gmbook.core.flows.linear import ActNorm, InvertibleLinear
from gmbook.core.flows.multiscale import Multiscale
from gmbook.core.gaussians import GaussianMixture
from gmbook.papers.glow import CouplingNet, Glow, ZeroLayer, _Normalised, full, plu, reverse, shuffle

SPECIMEN = Specimen(lambda: Glow.on_vectors(2, steps=2, width=16), labels=False)

MEASURES = {
    "log_prob": lambda model, x: model.log_prob(x),
    "temperature": lambda model, x: model.sample(3, temperature=0.5),
}


def model(shape, **options):
    """A random Glow, initialised on data, in double precision."""
    torch.manual_seed(0)
    if len(shape) == 1:
        flow = Glow.on_vectors(shape[0], steps=3, width=16, **options)
        data = torch.randn(64, *shape) * 2 + 1
    else:
        flow = Glow.on_images(shape, scales=2, steps=2, width=16, **options)
        data = torch.randint(256, (32, *shape))
    flow.initialise(data)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return flow.double().eval()


@pytest.mark.parametrize(
    "options", [{}, {"mixing": full}, {"mixing": reverse}, {"mixing": shuffle}, {"additive": True}]
)
@pytest.mark.parametrize("shape", [(2,), (3,), (1, 8, 8), (3, 8, 8)], ids=str)
@pytest.mark.equation("glow-convolution")
@pytest.mark.equation("glow-plu")
@pytest.mark.equation("glow-permutation")
def test_contract(shape, options):
    flow = model(shape, **options)
    x = torch.rand(3, *shape, dtype=torch.float64)
    z, log_det = flow.bijection(x)
    torch.testing.assert_close(flow.bijection.inverse(z), x, rtol=1e-10, atol=1e-10)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.bijection(v[None])[0][0], x[0])
    expected = torch.linalg.slogdet(jacobian.reshape(math.prod(shape), -1))[1]
    torch.testing.assert_close(log_det[0], expected, rtol=1e-10, atol=1e-10)
    sample = flow.sample(3)
    assert sample.shape == (3, *shape)
    torch.testing.assert_close(flow.bijection.inverse(flow.bijection(sample)[0]), sample, rtol=1e-9, atol=1e-9)


def test_float32_round_trip():
    flow = model((3, 8, 8)).float()
    x = torch.rand(8, 3, 8, 8)
    torch.testing.assert_close(flow.bijection.inverse(flow.bijection(x)[0]), x, rtol=0, atol=1e-4)


@pytest.mark.equation("change-of-variables")
def test_density_integrates_to_one():
    flow = model((2,))
    axis = torch.linspace(-15, 17, 801, dtype=torch.float64)
    with torch.no_grad():
        mass = flow.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(mass - 1) < 1e-3


@pytest.mark.fact("W5")
@pytest.mark.equation("glow-actnorm")
def test_initialisation_standardises_every_actnorm_and_the_noise():
    torch.manual_seed(1)
    flow, data = Glow.on_vectors(3, steps=4, width=16), 5 * torch.randn(256, 3) + 3
    flow.initialise(data)
    assert all(bool(m.initialised) for m in flow.modules() if isinstance(m, ActNorm))
    variance, mean = torch.var_mean(flow.bijection(data)[0], 0, correction=0)
    torch.testing.assert_close(variance, torch.ones(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-4)
    loaded = Glow.on_vectors(3, steps=4, width=16)
    loaded.load_state_dict(flow.state_dict())
    torch.testing.assert_close(loaded.train().log_prob(7 * data), flow.log_prob(7 * data))


@pytest.mark.fact("W4")
@pytest.mark.equation("glow-temperature")
def test_temperature():
    """log p_T(x) = log p(x)/T² + const for additive couplings: not with the printed T², and not for affine ones."""
    temperature = 0.7

    def spread(flow, power):
        x = torch.randn(100, 2, dtype=torch.float64)
        z, log_det = flow.bijection(x)
        tempered = torch.from_numpy(scipy.stats.norm.logpdf(z.detach().numpy(), scale=temperature).sum(1)) + log_det
        return (tempered - power * flow.log_prob(x)).std()

    additive, affine = model((2,), additive=True), model((2,))
    assert spread(additive, 1 / temperature**2) < 1e-9
    assert spread(additive, temperature**2) > 0.1
    assert spread(affine, 1 / temperature**2) > 1e-3
    x = torch.randn(100, 2, dtype=torch.float64)
    z, log_det = (v.detach() for v in affine.bijection(x))
    tempered = torch.from_numpy(scipy.stats.norm.logpdf(z.numpy(), scale=temperature).sum(1)) + log_det
    left = tempered - affine.log_prob(x).detach() / temperature**2 - (1 - 1 / temperature**2) * log_det
    assert left.std() < 1e-9, "with the share of the log-determinant the rule holds for every flow"
    torch.manual_seed(3)
    cold = additive.sample(20_000, temperature=temperature)
    assert abs(additive.bijection(cold)[0].std() - temperature) < 0.01


@pytest.mark.equation("glow-start")
def test_log_det_of_a_new_step():
    """Exercise 4: the code's scale σ(h + 2) makes a new coupling on 16×16×12 add 1536 log σ(2) = −194.96 nats."""
    shape = (12, 16, 16)
    coupling = SplitCoupling(CouplingNet(6, 6, 8, 2), 6)
    log_det = coupling(torch.randn(1, *shape))[1].item()
    assert math.isclose(log_det, -1536 * math.log1p(math.exp(-2)), abs_tol=1e-3)
    assert math.isclose(log_det, -194.96, abs_tol=5e-3)


@pytest.mark.parametrize("shape", [(3,), (3, 5, 4)], ids=str)
@pytest.mark.equation("glow-actnorm")
def test_scales_folded_into_weights_are_scales_of_the_output(shape):
    """The networks' actnorm and gain act on the weights: the same as normalising, and multiplying, what comes out."""
    torch.manual_seed(0)
    x, axes = torch.randn(16, *shape, dtype=torch.float64), len(shape) - 1
    first, last = _Normalised(3, 5, axes, 3).double(), ZeroLayer(3, 5, axes).double()
    y = first(x)
    plain = first.map(x).transpose(0, 1).flatten(1)
    expected = (plain - plain.mean(1, keepdim=True)) / (plain.std(1, correction=0, keepdim=True) + 1e-6)
    torch.testing.assert_close(y.transpose(0, 1).flatten(1), expected.relu())
    nn.init.normal_(last.map.weight), nn.init.normal_(last.map.bias), nn.init.normal_(last.log_gain)
    gain = (3 * last.log_gain).exp().reshape(-1, *(1,) * axes)
    torch.testing.assert_close(last(x), gain * last.map(x))


def test_bits_per_dim_of_a_known_law():
    """On 5-bit images a flow of volume e^c has (c + log N)/D ln 2 subtracted from 5: by hand, from its own z."""
    flow = model((1, 8, 8), bits=5)
    k = torch.randint(256, (6, 1, 8, 8))
    torch.manual_seed(4)
    bits = flow.bits_per_dim(k)
    torch.manual_seed(4)
    x = ((k // 8 + torch.rand(k.shape)) / 32).double()
    z, log_det = flow.bijection(x)
    log_normal = torch.from_numpy(scipy.stats.norm.logpdf(z.detach().numpy()).sum((1, 2, 3)))
    expected = -(log_normal + log_det - 64 * math.log(32)) / (64 * math.log(2))
    torch.testing.assert_close(bits, expected, rtol=1e-6, atol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="divisible by 8"):
        Glow.on_images((1, 28, 28), steps=1, width=4)
    with pytest.raises(ValueError, match="1..8"):
        Glow.on_images((1, 8, 8), scales=1, steps=1, width=4, bits=9)
    with pytest.raises(TypeError, match="raw pixels"):
        Glow.on_images((1, 8, 8), scales=1, steps=1, width=4).loss(torch.rand(2, 1, 8, 8))


@pytest.mark.equation("glow-permutation")
def test_what_mixes_the_channels():
    x = torch.arange(6.0)[None]
    assert torch.equal(reverse(6)(x)[0], x.flip(1))
    torch.manual_seed(0)
    drawn = {tuple(shuffle(6)(x)[0][0].tolist()) for _ in range(30)}
    assert len(drawn) > 20 and all(sorted(order) == x[0].tolist() for order in drawn)
    kinds = [type(Glow.on_images((1, 8, 8), 1, 1, 4, mixing=m).bijection.layers[1].layers[1].layers[1]).__name__
             for m in (plu, full, reverse)]  # fmt: skip
    assert kinds == ["PLULinear", "InvertibleLinear", "Permute"]


@pytest.mark.equation("glow-permutation")
def test_a_permutation_is_a_convolution():
    """A channel reversal is the 1×1 convolution with a permutation matrix: log-determinant 0."""
    flip, x = InvertibleLinear(4), torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        flip.weight.copy_(torch.eye(4).flip(0))
    z, log_det = Compose(flip)(x)
    assert torch.equal(z, x.flip(1)) and abs(log_det).max() < 1e-12


def test_training_approaches_the_negative_entropy():
    torch.manual_seed(0)
    angle = torch.linspace(0, 2 * math.pi, 5)[:-1]
    law = GaussianMixture(torch.ones(4), 1.5 * torch.stack([angle.cos(), angle.sin()], 1), torch.full((4,), 0.3))
    flow = Glow.on_vectors(2, steps=6, width=32)
    flow.initialise(law.sample(512))
    optimiser = torch.optim.Adam(flow.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, 250)
    for _ in range(250):
        loss = flow.loss(law.sample(256))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    x = law.sample(20_000)
    with torch.no_grad():
        gap = flow.eval().loss(x) + law.log_prob(x).mean()
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    assert -0.01 < gap < 0.08, gap
    assert (law.log_prob(x) - gaussian.log_prob(x)).mean() > 0.25


def test_a_small_image_flow_learns():
    """Two-level Glow on 8×8 ramps with noise: bits/dim fall well below the 8 of uniform pixels."""
    torch.manual_seed(0)
    ramp = torch.linspace(60, 190, 64).reshape(1, 1, 8, 8)

    def batch():
        return (ramp + 10 * torch.randn(64, 1, 8, 8)).round().clamp(0, 255).long()

    flow = Glow.on_images((1, 8, 8), scales=2, steps=2, width=16).initialise(batch())
    optimiser = torch.optim.Adam(flow.parameters(), 2e-3)
    for _ in range(60):
        loss = flow.loss(batch())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimiser.step()
    entropy = math.log2(10 * math.sqrt(2 * math.pi * math.e))  # 5.37 bits
    assert entropy - 0.02 < flow.eval().bits_per_dim(batch()).mean() < entropy + 0.5


# ------------------------------------------------------------------------------------------------ several levels


def priors(flow):
    """The networks of the levels' priors, from level 1 up, and the layer that is the prior of the top."""
    splits = [m for m in flow.modules() if isinstance(m, Multiscale)]
    deepest = splits[-1].inner if splits else flow.bijection.layers[1]
    return [split.prior for split in splits], deepest.layers[-2]


@pytest.mark.equation("glow-levels")
def test_the_map_of_levels_is_where_each_levels_prior_acts():
    """Moving the mean of one level's prior moves just those coordinates of z that the map gives to that level."""
    torch.manual_seed(0)
    flow = Glow.on_images((3, 16, 16), scales=3, steps=1, width=8).initialise(torch.randint(256, (16, 3, 16, 16)))
    x = torch.rand(2, 3, 16, 16)
    flow = flow.eval()
    with torch.no_grad():
        before = flow.encode(x)
        below, top = priors(flow)
        assert len(below) == 2 and flow.of_level.unique().tolist() == [1, 2, 3]
        for level, bias in [*enumerate((prior.map.bias for prior in below), 1), (3, top.bias)]:
            old = bias.clone()
            bias[: len(bias) // 2 if level < 3 else None] += 1.0  # the means come first
            moved = (flow.encode(x) - before).abs().amax(0) > 1e-3
            assert torch.equal(moved, flow.of_level == level), level
            bias.copy_(old)
    assert [(flow.of_level == level).sum().item() for level in (1, 2, 3)] == [384, 192, 192]


@pytest.mark.fact("W3")
@pytest.mark.equation("glow-split-prior")
def test_every_level_has_a_prior_that_learns():
    """A gradient reaches the prior of each level, and of the top: the split's reads the half that goes on."""
    torch.manual_seed(0)
    flow = Glow.on_images((1, 8, 8), scales=3, steps=1, width=8).initialise(torch.randint(256, (16, 1, 8, 8)))
    below, top = priors(flow)
    assert len(below) == 2 and isinstance(top, ActNorm)
    flow.loss(torch.randint(256, (16, 1, 8, 8))).backward()
    for parameter in [*(p.map.weight for p in below), *(p.map.bias for p in below), top.log_scale, top.bias]:
        assert parameter.grad.abs().max() > 0
    h = torch.randn(1, 2, 4, 4)
    with torch.no_grad():
        below[0].map.weight.normal_()
    assert not torch.equal(below[0](h), below[0](-h))


def test_pixels_are_centred():
    """Before any data a grey picture, ½, is the code 0: all but the shift is linear, and couplings start at 0."""
    torch.manual_seed(0)
    flow = Glow.on_images((3, 8, 8), scales=2, steps=2, width=8).eval()
    torch.testing.assert_close(flow.encode(torch.full((1, 3, 8, 8), 0.5)), torch.zeros(1, 3, 8, 8))


@pytest.mark.equation("glow-temperature")
def test_additive_image_flows_have_a_constant_log_determinant():
    """Up to the split priors' scales, which are not: so the priors' networks are set to a constant here."""
    spread = {}
    for additive in (True, False):
        flow = model((1, 8, 8), additive=additive)
        with torch.no_grad():
            for prior in priors(flow)[0]:
                prior.map.weight.zero_()
            log_det = flow.bijection(torch.rand(16, 1, 8, 8, dtype=torch.float64))[1]
        spread[additive] = log_det.std()
    assert spread[True] < 1e-9 and spread[False] > 1e-2


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)], ids=str)
@pytest.mark.equation("glow-label-prior")
def test_a_top_prior_for_each_label(shape):
    """log p(x | y) is that of z under its own Gaussian, by scipy; samples go to its mean, at the top only."""
    torch.manual_seed(0)
    flow, data = (Glow.on_vectors(2, 2, 8, classes=3), torch.randn(64, 2)) if len(shape) == 1 else (
        Glow.on_images(shape, 2, 1, 8, classes=3), torch.randint(256, (32, *shape)))  # fmt: skip
    flow = flow.initialise(data).double().eval()
    with torch.no_grad():
        nn.init.normal_(flow.labelled.mean, std=3.0), nn.init.normal_(flow.labelled.log_std)
        y, x = torch.tensor([2, 0]), torch.rand(2, *shape, dtype=torch.float64)
        z, log_det = flow.bijection(x)
        # by hand: the top's channels are those that the last actnorm has, coordinates of one channel share a bias
        top = priors(flow)[1] if len(shape) > 1 else flow.bijection.layers[-1]
        channel = torch.zeros(shape, dtype=torch.int64)
        for c in range(len(top.bias)):
            top.bias[c] += 1.0
            channel[(flow.bijection(x)[0] - z).abs().amax(0) > 0.5] = c + 1
            top.bias[c] -= 1.0
        assert torch.equal(channel > 0, flow.of_level == flow.of_level.max())
        for i, label in enumerate(y):
            mean = torch.cat([torch.zeros(1).double(), flow.labelled.mean[label]])[channel]
            std = torch.cat([torch.zeros(1).double(), flow.labelled.log_std[label]])[channel].exp()
            want = scipy.stats.norm.logpdf(z[i].numpy(), mean.numpy(), std.numpy()).sum() + log_det[i].item()
            assert math.isclose(flow.log_prob(x, y)[i].item(), want, rel_tol=1e-9)
            still = flow.sample(1, y[i : i + 1], temperature=0.0)
            torch.testing.assert_close(flow.encode(still)[0], mean, rtol=0, atol=1e-6)
            spread = flow.encode(flow.sample(400, label.expand(400), temperature=0.5)).std(0)
            torch.testing.assert_close(spread, std / 2, rtol=0.2, atol=1e-6)
    with pytest.raises(ValueError, match="one label for each"):
        flow.loss(data)
    with pytest.raises(ValueError, match="one label for each"):
        flow.sample(2)


def test_labels_reach_loss_and_bits():
    torch.manual_seed(0)
    flow = Glow.on_images((1, 8, 8), 1, 1, 8, classes=2).initialise(torch.randint(256, (16, 1, 8, 8)))
    nn.init.normal_(flow.labelled.mean, std=3.0)
    k, values = torch.randint(256, (4, 1, 8, 8)), {}
    for label in (0, 1):
        y = torch.full((4,), label)
        torch.manual_seed(1)
        values[label] = flow.loss(k, y)
        torch.manual_seed(1)
        torch.testing.assert_close(flow.bits_per_dim(k, y).mean() - 8, values[label] / (64 * math.log(2)))
    assert abs(values[0] - values[1]) > 1


# --------------------------------------------------------------------------------------- walks in the space of codes


@pytest.mark.equation("glow-attribute")
@pytest.mark.equation("glow-interpolation")
def test_attributes_and_interpolation_are_straight_in_z():
    """Where f is linear an attribute is the difference of the means of x, and a segment of codes a segment of x."""
    flow = Glow.on_vectors(3, steps=1, width=4).double().eval()  # couplings at their start: z = A x
    x, shift = torch.randn(500, 3, dtype=torch.float64), torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
    has = torch.rand(500) < 0.3
    with torch.no_grad():
        y = x + has[:, None] * shift
        direction = flow.attribute(y, has)
        want = y[has].mean(0) - y[~has].mean(0)
        torch.testing.assert_close(flow.decode(flow.encode(x) + 2 * direction), x + 2 * want)
        line = flow.interpolate(x[0], x[1], 5)
        share = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
        torch.testing.assert_close(line, (1 - share) * x[0] + share * x[1])
        bent = model((2,))
        ends = torch.rand(2, 2, dtype=torch.float64)
        torch.testing.assert_close(bent.interpolate(*ends, 3)[[0, 2]], ends, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="do not"):
        flow.attribute(x, torch.ones(500, dtype=torch.bool))


def test_the_defaults_are_the_papers_constants():
    """arXiv:1807.03039, CIFAR-10."""
    assert {"scales": 3, "steps": 32, "width": 512}.items() <= defaults(Glow.on_images).items()


def test_what_changes_the_model_is_off_unless_asked_for():
    assert {"temperature": 1.0}.items() <= defaults(Glow.sample).items()
