"""Bijections, against autograd Jacobians, quadrature, scipy, and closed forms."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
import torch
from torch import nn

from gmbook.core import bijections as b

SHAPES = [(2,), (5,), (1, 8, 8), (3, 8, 8)]


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def net(channels, out, image):
    layer = (lambda i, o: nn.Conv2d(i, o, 3, padding=1)) if image else nn.Linear
    return nn.Sequential(layer(channels, 8), nn.Tanh(), layer(8, out))


class Halves(nn.Module):
    """A network's output as (s, t)."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).chunk(2, 1)


def layers(shape):
    """One of every layer that is defined on the shape, with random parameters."""
    c, image = shape[0], len(shape) > 1
    yield b.AdditiveCoupling(net(c, c, image), b.parity_mask(shape))
    yield b.AffineCoupling(net(c, 2 * c, image), b.parity_mask(shape, flip=True))
    yield b.Compose(b.Scale(shape), b.ActNorm(c), b.FlowBatchNorm(c))
    yield b.Compose(b.InvertibleLinear(c), b.PLULinear(c), b.Permute(torch.randperm(c)))
    yield b.Compose(b.Shift(-0.5), b.Scale(shape))
    if c > 1:
        yield b.AffineCoupling(net(c, 2 * c, image), b.channel_mask(shape))
        yield b.SplitCoupling(Halves(net(1, 2 * c - 2, image)), 1)
    if c % 2 == 0:
        yield b.OnHalf(b.InvertibleLinear(c // 2), prior=net(c // 2, c, image))
    if image:
        inner = b.OnHalf(b.InvertibleLinear(2 * c), prior=net(2 * c, 4 * c, image))
        yield b.Compose(b.Squeeze(), b.PLULinear(4 * c), inner, b.Squeeze(undo=True))


def randomise(layer):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in layer.named_buffers():
            if name.endswith(("mean", "variance")):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return layer.eval()


def jacobian(layer, x):
    """The Jacobian of the first sample's z with respect to the first sample's x: (D, D)."""
    matrix = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0][0], x[0])
    return matrix.reshape(x[0].numel(), -1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.fact("R1")
@pytest.mark.fact("R2")
@pytest.mark.equation("realnvp-coupling-log-det")
@pytest.mark.equation("realnvp-coupling")
@pytest.mark.equation("realnvp-inverse")
@pytest.mark.equation("nice-coupling")
@pytest.mark.equation("nice-scaling")
@pytest.mark.equation("glow-convolution")
def test_inverse_and_jacobian_of_every_layer(shape):
    for layer in layers(shape):
        randomise(layer)
        x = torch.randn(3, *shape)
        z, log_det = layer(x)
        assert z.shape == x.shape and log_det.shape == (3,)
        torch.testing.assert_close(layer.inverse(z), x, rtol=1e-11, atol=1e-11)
        expected = torch.linalg.slogdet(jacobian(layer, x))[1]
        torch.testing.assert_close(log_det[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.equation("realnvp-composition")
def test_composition_adds(shape):
    flow = randomise(b.Compose(*layers(shape)))
    x = torch.randn(3, *shape)
    z, log_det = flow(x)
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian(flow, x))[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(flow.inverse(z), x, rtol=1e-9, atol=1e-9)


@pytest.mark.fact("R1")
def test_the_surveys_index_is_wrong():
    """The survey sums s over the d inputs of s; the right sum runs over its D − d outputs."""
    shape = (5,)
    mask = torch.tensor([1, 1, 0, 0, 0])
    layer = randomise(b.AffineCoupling(net(5, 10, False), mask))
    x = torch.randn(1, *shape)
    s = layer.bound(layer.net(mask * x).chunk(2, 1)[0])[0]
    truth = torch.linalg.slogdet(jacobian(layer, x))[1]
    assert abs(s[2:].sum() - truth) < 1e-10 < 1e-3 < abs(s[:2].sum() - truth)


@pytest.mark.parametrize("shape", [(5,), (4, 3, 2)], ids=str)
@pytest.mark.equation("realnvp-coupling")
def test_a_split_coupling_is_a_masked_one(shape):
    """With the network of the masked form, told zeros for x_2 and asked for x_2 only: the same z, log-det and x."""
    c, kept = shape[0], (shape[0] + 1) // 2
    inner = net(c, 2 * c, len(shape) > 1).double()
    masked = b.AffineCoupling(inner, b.channel_mask(shape)).double()

    class Part(nn.Module):
        def forward(self, x1):
            s, t = inner(torch.cat([x1, x1.new_zeros(len(x1), c - kept, *shape[1:])], 1)).chunk(2, 1)
            return s[:, kept:].tanh(), t[:, kept:]

    split, x = b.SplitCoupling(Part(), kept), torch.randn(3, *shape, dtype=torch.float64)
    for got, expected in zip(split(x), masked(x)):
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(split.inverse(x), masked.inverse(x))


def test_masks():
    assert b.parity_mask((1, 2, 4)).tolist() == [[[0, 1, 0, 1], [1, 0, 1, 0]]]
    assert b.parity_mask((4,)).tolist() == [0, 1, 0, 1]
    assert b.channel_mask((3, 4, 4)).flatten().tolist() == [1, 1, 0]
    for mask in (b.parity_mask, b.channel_mask):
        assert torch.equal(mask((4, 6, 6)) + mask((4, 6, 6), flip=True), torch.ones_like(mask((4, 6, 6))))
    with pytest.raises(ValueError, match="mask must hold both"):
        b.AdditiveCoupling(nn.Identity(), torch.ones(2))


def test_three_couplings_mix_all_coordinates_and_two_do_not():
    """RealNVP exercise 1: the fewest couplings with which every output depends on every input is three."""

    def depends(couplings):
        flow = b.Compose(
            *(b.AffineCoupling(net(4, 8, False), b.parity_mask((4,), flip=i % 2 == 1)) for i in range(couplings))
        )
        return bool((jacobian(flow, torch.randn(1, 4)) != 0).all())

    assert not depends(2) and depends(3)


@pytest.mark.fact("R5")
@pytest.mark.equation("realnvp-squeeze")
def test_squeeze_is_an_orthogonal_permutation():
    x = torch.randn(1, 3, 4, 4)
    matrix = torch.autograd.functional.jacobian(lambda v: b.Squeeze()(v)[0].flatten(), x).reshape(48, 48)
    assert torch.equal(matrix @ matrix.T, torch.eye(48)) and set(matrix.unique().tolist()) == {0.0, 1.0}
    z, _ = b.Squeeze()(x)
    assert torch.equal(z[0, 4:8, 1, 0], x[0, 1, 2:4, 0:2].flatten())  # channel 4c + 2i + j
    with pytest.raises(ValueError, match="pad the images"):
        b.Squeeze()(torch.randn(1, 1, 7, 8))


@pytest.mark.fact("W1")
def test_convolution_counts_the_pixels():
    """h·w·log|det W|, against the Jacobian; the survey's log|det W| alone is refuted."""
    layer = randomise(b.InvertibleLinear(3))
    x = torch.randn(1, 3, 2, 4)
    log_det = torch.linalg.slogdet(jacobian(layer, x))[1]
    once = torch.linalg.slogdet(layer.weight)[1]
    torch.testing.assert_close(layer(x)[1][0], log_det, rtol=1e-10, atol=1e-10)
    assert abs(log_det - 8 * once) < 1e-10 and abs(log_det - once) > 0.1
    with torch.no_grad():
        layer = b.InvertibleLinear(12)
        layer.weight.copy_(2 * torch.eye(12))
        assert math.isclose(layer(torch.randn(1, 12, 16, 16))[1].item(), 2129.35, abs_tol=5e-3)  # exercise 1


@pytest.mark.fact("W2")
@pytest.mark.equation("glow-plu")
def test_plu_is_a_rotation_at_first_and_matches_scipy():
    layer = b.PLULinear(6)
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
    layer = b.ActNorm(3)
    assert torch.equal(layer.eval()(x)[0], x) and not layer.initialised  # evaluation does not initialise
    z, log_det = layer.train()(x)
    variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-10)
    torch.testing.assert_close(variance, torch.ones(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        log_det, (-64 * x.std((0, 2, 3), correction=0).log().sum()).expand(64), rtol=1e-6, atol=0
    )
    loaded = b.ActNorm(3)
    loaded.load_state_dict(layer.state_dict())
    torch.testing.assert_close(loaded.train()(10 * x)[0], layer(10 * x)[0], rtol=0, atol=0)
    with pytest.raises(ValueError, match="larger batch"):
        b.ActNorm(2)(torch.randn(1, 2))


@pytest.mark.equation("realnvp-batch-norm")
def test_batch_norm_normalises_and_its_averages_converge():
    torch.manual_seed(1)
    layer, x = b.FlowBatchNorm(2, eps=0.0), torch.randn(512, 2, 4, 4) * 3 + 1
    z, log_det = layer(x)
    torch.testing.assert_close(z.var((0, 2, 3), correction=0), torch.ones(2))
    torch.testing.assert_close(log_det[0], -16 / 2 * x.var((0, 2, 3), correction=0).log().sum())
    for _ in range(300):
        layer(x)
    torch.testing.assert_close(layer.eval()(x)[0], z)  # averages of one batch repeated: training = evaluation


@pytest.mark.fact("W3")
@pytest.mark.equation("glow-split-prior")
@pytest.mark.equation("realnvp-multiscale")
def test_split_prior_is_a_joint_gaussian():
    """p(z_1) p(z_2 | z_1) with a linear mean is the joint Gaussian, by scipy."""
    covariance = torch.tensor([[2.0, 0.8], [0.8, 1.0]])

    class Conditional(nn.Module):
        def forward(self, h):
            std = (covariance[1, 1] - covariance[0, 1] ** 2 / covariance[0, 0]).sqrt()
            return torch.cat([covariance[0, 1] / covariance[0, 0] * h, std.log().expand_as(h)], 1)

    inner = b.Scale((1,))
    nn.init.constant_(inner.log_scale, -math.log(2.0) / 2)
    flow = b.Flow(b.OnHalf(inner, prior=Conditional()), (2,))
    z = torch.randn(20, 2)
    expected = scipy.stats.multivariate_normal([0, 0], covariance.numpy()).logpdf(z.numpy())
    torch.testing.assert_close(flow.log_prob(z).detach(), torch.from_numpy(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(flow.sample(200_000).T.cov(), covariance, rtol=0, atol=0.03)


@pytest.mark.equation("realnvp-logit")
def test_logit():
    layer, x = b.Logit(0.05), torch.rand(4, 3)
    y, log_det = layer(x)
    torch.testing.assert_close(layer.inverse(y), x)
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian(layer, x))[1], rtol=1e-12, atol=1e-12)
    assert torch.isfinite(layer(torch.tensor([[0.0, 1.0]]))[0]).all()
    white = torch.tensor(1.0)
    assert torch.isinf(torch.logit(0.05 + (1 - 0.05) * white))  # the form that the paper prints


@pytest.mark.fact("R4")
@pytest.mark.equation("realnvp-logistic-bits")
@pytest.mark.equation("def-realnvp-bits")
def test_bits_per_dim_of_the_logistic_base():
    """A logistic base behind the logit: a constant density, 8 − log₂(1 − 2α) bits whatever the image."""
    shape = (3, 8, 8)
    flow = b.Flow(b.Logit(0.05), shape, base=b.StandardLogistic(shape), levels=256)
    bits = flow.bits_per_dim(torch.randint(256, (16, *shape)))
    torch.testing.assert_close(bits, torch.full((16,), 8 - math.log2(0.9)), rtol=0, atol=1e-12)
    assert math.isclose(bits[0].item(), 8.152003, abs_tol=1e-6)
    with pytest.raises(ValueError, match="levels=256"):
        b.Flow(b.Logit(0.05), shape).bits_per_dim(torch.randint(256, (1, *shape)))


def test_bits_of_nice_on_cifar():
    """RealNVP exercise 2, checked through the pipeline: 5371.78 nats on [−1, 1] are 4.477 bits/dim."""
    shape = (3, 32, 32)

    class Constant(nn.Module):
        def log_prob(self, z):
            return z.new_full((len(z),), 5371.78)

    flow = b.Flow(b.Scale(shape), shape, base=Constant(), levels=256)
    nn.init.constant_(flow.bijection.log_scale, math.log(2))  # [0, 1) to a range of length 2
    assert math.isclose(flow.bits_per_dim(torch.randint(256, (1, *shape))).item(), 4.477, abs_tol=5e-4)


@pytest.mark.fact("R3")
@pytest.mark.equation("realnvp-dequantisation")
def test_dequantisation_is_a_bound_in_every_bin():
    """E_u log p(k + u) ≤ log ∫ p(k + u) du, both by quadrature; the gap is KL(U ‖ p(u | k)), a third integral."""
    torch.manual_seed(2)
    flow = b.Flow(b.Logit(0.05), (1,), base=b.StandardNormal((1,)), levels=4)

    def density(x):
        return flow.log_prob(torch.tensor([[x]])).exp().item()

    for k in range(4):
        ends = k / 4, (k + 1) / 4
        mass = scipy.integrate.quad(density, *ends)[0]
        mean = 4 * scipy.integrate.quad(lambda x: math.log(density(x)), *ends)[0] - math.log(4)
        bound = -flow.bits_per_dim(torch.full((20_000, 1), k)) * math.log(2)
        assert abs(bound.mean() - mean) < 5 * bound.std() / 20_000**0.5
        assert 0.001 < math.log(mass) - mean < 0.2
        kl = scipy.integrate.quad(lambda u, k=k, mass=mass: -math.log(density((k + u) / 4) / 4 / mass), 0, 1)[0]
        assert abs(math.log(mass) - mean - kl) < 1e-9


def test_dequantise_stays_in_its_cell_and_refuses():
    torch.set_default_dtype(torch.float32)
    k = torch.randint(256, (4, 1, 64, 64), dtype=torch.uint8)
    x = b.dequantise(k)
    assert x.dtype == torch.float32 and x.min() >= 0 and x.max() < 1
    assert ((x * 256).floor() == k).float().mean() > 0.999
    with pytest.raises(TypeError, match="raw pixels"):
        b.dequantise(torch.rand(2, 2))
    with pytest.raises(ValueError, match="0..15"):
        b.dequantise(torch.tensor([[16]]), levels=16)


@pytest.mark.parametrize("base", [b.StandardNormal, b.StandardLogistic])
@pytest.mark.equation("nice-logistic")
def test_bases_against_scipy(base):
    law = {b.StandardNormal: scipy.stats.norm, b.StandardLogistic: scipy.stats.logistic}[base]
    z = torch.linspace(-6, 6, 12).reshape(6, 2)
    expected = torch.from_numpy(law.logpdf(z.numpy()).sum(1))
    torch.testing.assert_close(base((2,)).log_prob(z), expected, rtol=1e-12, atol=1e-12)
    sample = base((2,)).sample(20_000)
    assert scipy.stats.kstest(sample.flatten().numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.equation("change-of-variables")
def test_density_of_a_random_flow_integrates_to_one():
    parts = [b.InvertibleLinear(2), b.AffineCoupling(net(2, 4, False), b.parity_mask((2,)))]
    flow = b.Flow(randomise(b.Compose(*parts, b.PLULinear(2), b.OnHalf(b.ActNorm(1), net(1, 2, False)))), (2,))
    with torch.no_grad():
        reach = flow.sample(20_000).abs().max().item() + 4
        axis = torch.linspace(-reach, reach, 801)
        grid = torch.cartesian_prod(axis, axis)
        mass = flow.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(mass - 1) < 1e-3


def test_permute_refuses_what_is_no_permutation():
    with pytest.raises(ValueError, match="permutation of 0..2"):
        b.Permute(torch.tensor([0, 0, 2]))


@pytest.mark.equation("realnvp-floor")
def test_the_loss_of_a_flow_is_entropy_plus_kl():
    """A scaling as a flow is the law N(0, e^(−2s)); the data a mixture on the line; all three terms by quadrature."""
    data = scipy.stats.norm([-1.0, 0.8], [0.3, 0.6])
    flow = b.Flow(b.Scale((1,)), (1,))
    nn.init.constant_(flow.bijection.log_scale, -0.4)
    model = scipy.stats.norm(0, math.exp(0.4))

    def p(x):
        return 0.5 * data.pdf(x).sum()

    def integral(f):
        return scipy.integrate.quad(lambda x: p(x) * f(x), -8, 8, points=(-1, 0, 1), epsabs=1e-11)[0]

    entropy, kl = integral(lambda x: -math.log(p(x))), integral(lambda x: math.log(p(x)) - model.logpdf(x))
    loss = integral(lambda x: flow.loss(torch.tensor([[x]])).item())
    assert abs(loss - entropy - kl) < 1e-8 and kl > 0.1


@pytest.mark.equation("realnvp-ode")
def test_an_affine_coupling_is_the_flow_of_a_linear_field():
    """scipy's solver carries x along s ⊙ x + τ for a time 1; the divergence, Σ s, is constant along the way."""
    layer = randomise(b.AffineCoupling(net(5, 10, False), b.parity_mask((5,))))
    x = torch.randn(1, 5)
    s, t = (part[0].detach().numpy() for part in layer._scale_shift(x))
    moves = s != 0
    tau = np.where(moves, s * t / np.expm1(np.where(moves, s, 1.0)), 0.0)
    solution = scipy.integrate.solve_ivp(lambda _, v: s * v + tau, (0, 1), x[0].numpy(), rtol=1e-12, atol=1e-12)
    z, log_det = layer(x)
    torch.testing.assert_close(torch.from_numpy(solution.y[:, -1]), z[0].detach(), rtol=0, atol=1e-9)
    assert abs(log_det.item() - s.sum()) < 1e-12


@pytest.mark.equation("realnvp-stretch")
def test_least_stretch():
    """Reached by a map of the line with one steep piece; kept by fifty random monotone maps."""
    slope, gap = 7.0, 1.3
    edge = torch.tensor(scipy.stats.norm.cdf(-gap / (2 * slope)))  # g is steep on [−gap/2L, gap/2L], flat outside
    torch.testing.assert_close(b.least_stretch(gap, edge, edge), torch.tensor(slope), rtol=1e-9, atol=0)
    generator = torch.Generator().manual_seed(0)
    knots = torch.linspace(-4, 4, 33)
    for _ in range(50):
        slopes = 5 * torch.rand(32, generator=generator)
        g = torch.cat([torch.zeros(1), (slopes * knots.diff()).cumsum(0)])
        g = g - g.median()
        low, high = (knots[(g < end).nonzero().max()] for end in (-0.7, 0.7))  # masses smaller than the true ones
        left, right = scipy.stats.norm.cdf(low), scipy.stats.norm.sf(high + 0.25)
        bound = b.least_stretch(1.4, torch.tensor(left), torch.tensor(right))
        assert bound <= slopes.max()
    for bad in ((0.5, 0.5), (0.0, 0.3)):
        with pytest.raises(ValueError, match="no slope will do"):
            b.least_stretch(1.0, *map(torch.tensor, bad))
