"""Latent diffusion: the second stage with exact latent laws, cross-attention as geometry, guidance of Gaussians."""

import math

import pytest
import scipy.optimize
import torch
from specimen import Specimen, defaults, net
from torch import nn

from gmbook.core.denoiser import Denoiser, Truth, ideal
from gmbook.core.gaussians import GaussianMixture, geometric_mixture, kl_normal_full
from gmbook.core.paths import VEPath, VPPath
from gmbook.core.probability_flow import flow_field
from gmbook.core.solvers import heun, last
from gmbook.data.batches import LawBatches
from gmbook.laws import plane
from gmbook.metrics import noise_floor, sliced_w2
from gmbook.networks.blocks import Attention
from gmbook.networks.conv import MapDecoder, MapEncoder
from gmbook.networks.guided import Guided
from gmbook.networks.mlp import MLP, TimeMLP
from gmbook.networks.transformer import DiT
from gmbook.networks.unet import UNet
from gmbook.papers import ddim, latent_diffusion
from gmbook.papers.ddpm import DDPM, linear_betas
from gmbook.papers.latent_diffusion import (
    Concatenated,
    Conditioned,
    KLAutoencoder,
    LatentDiffusion,
    sqrt_linear_betas,
)
from gmbook.papers.score_sde import ScoreSDE, probability_flow
from gmbook.papers.theory.ddpm import gaussian_floor
from gmbook.papers.theory.latent_diffusion import error_split, guided_gaussian, two_stage_bound
from gmbook.papers.vqgan import Adversary, VQAutoencoder
from gmbook.train import train


def first_stage() -> KLAutoencoder:
    return KLAutoencoder(MLP(2, 4, 16), MLP(2, 2, 16), (2,))


SPECIMEN = Specimen(lambda: LatentDiffusion(first_stage(), DDPM(net(), (2,), steps=20)))


DOUBLE = torch.float64


def map_autoencoder(shape, channels=2):
    """A small KL autoencoder of images, f = 4."""
    return KLAutoencoder(MapEncoder(shape, 2 * channels, 8), MapDecoder(channels, shape, 8), shape)


def exact_autoencoder(axes):
    """The autoencoder that is right for x = A z with z in the plane, A (D, 2): E(x) = A⁺x, D(z) = A z, σ = e^−15."""
    encoder, decoder = nn.Linear(len(axes), 4), nn.Linear(2, len(axes), bias=False)
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([torch.linalg.pinv(axes), torch.zeros(2, len(axes))]))
        encoder.bias.copy_(torch.tensor([0.0, 0, -60, -60]))
        decoder.weight.copy_(axes)
    return KLAutoencoder(encoder, decoder, (len(axes),))


def plane_in_16():
    """Two orthogonal axes of length 5 in R^16: (16, 2)."""
    return 5 * torch.linalg.qr(torch.randn(16, 2)).Q


# --------------------------------------------------------------------------------------------------- first stage


@pytest.mark.fact("L1")
@pytest.mark.equation("ldm-kl")
def test_kl_of_the_posterior():
    """Against the formula for full covariances, and against torch.distributions."""
    model = KLAutoencoder(nn.Identity(), nn.Identity(), (8,), weight=1.0)
    x = torch.randn(6, 8, dtype=DOUBLE)
    mean, std = model.posterior(x)
    penalty = model(x)[1]
    full = kl_normal_full(mean, torch.diag_embed(std**2), torch.zeros(4).to(x), torch.eye(4).to(x))
    torch.testing.assert_close(penalty, full, rtol=1e-12, atol=1e-12)
    normal = torch.distributions.Normal
    other = torch.distributions.kl_divergence(normal(mean, std), normal(torch.zeros(()).to(x), 1.0)).sum(1)
    torch.testing.assert_close(penalty, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((mean, std.log() * 2), x.chunk(2, 1))  # mean and log-*variance*, side by side


@pytest.mark.equation("ldm-kl")
def test_the_kl_is_summed_over_the_latent_and_weighted():
    shape = (1, 8, 8)
    model = map_autoencoder(shape)
    model.weight = 0.5
    x = torch.randn(3, *shape)
    mean, std = model.posterior(x)
    by_hand = sum(0.5 * (m**2 + s**2 - 1 - 2 * torch.log(s)).flatten(1).sum(1) for m, s in [(mean, std)])
    torch.testing.assert_close(model(x)[1], 0.5 * by_hand)
    assert mean.shape == (3, 2, 2, 2)


def test_a_draw_has_the_posteriors_moments():
    model = map_autoencoder((1, 8, 8)).double()
    x = torch.randn(1, 1, 8, 8, dtype=DOUBLE)
    mean, std = model.posterior(x)
    draws = model.encode(x.expand(10_000, -1, -1, -1))
    assert ((draws.mean(0) - mean[0]).abs() / std[0]).max() < 4.5 / 100  # four and a half standard errors
    assert (draws.std(0) / std[0] - 1).abs().max() < 4.5 / (2 * 10_000) ** 0.5


@pytest.mark.fact("L2")
@pytest.mark.parametrize(("downs", "channels", "ratio"), [(3, 4, 48), (2, 3, 16)])
def test_how_many_numbers_a_latent_has(downs, channels, ratio):
    """256² × 3 at f = 8 with 4 channels is 48 times smaller, at f = 4 with 3 channels 16 times."""
    shape = (3, 256, 256)
    with torch.device("meta"):
        model = KLAutoencoder(MapEncoder(shape, 2 * channels, 4, downs), MapDecoder(channels, shape, 4, downs), shape)
        z = model.encode(torch.empty(1, *shape))
        assert z.shape == (1, channels, 256 // 2**downs, 256 // 2**downs)
        assert math.prod(shape) / z[0].numel() == ratio and model.decode(z).shape == (1, *shape)


@pytest.mark.equation("ldm-autoencoder")
def test_an_adversarial_kl_autoencoder_trains():
    """Both players run, the loss falls, and the discriminator's weights are its own."""
    shape = (1, 8, 8)
    decoder = MapDecoder(2, shape, 8)
    adversary = Adversary(MapEncoder(shape, 1, 8, spectral=True), decoder.rest[-1].weight)
    model = KLAutoencoder(MapEncoder(shape, 4, 8), decoder, shape, adversary=adversary)
    x = torch.randn(32, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)  # four flat quarters
    before = model.loss(x).item()
    warm = list(train(model, [(x,)], steps=60, lr=3e-3, objectives=model.players(adversarial=False)))
    both = list(train(model, [(x,)], steps=10, lr=1e-3))
    assert set(warm[0]) == {"autoencoder"} and set(both[0]) == {"autoencoder", "discriminator"}
    assert model.loss(x).item() < before / 2


# -------------------------------------------------------------------------------------------------- second stage


@pytest.mark.fact("L2")
@pytest.mark.equation("latent-scale")
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)], ids=str)
def test_scaled_latents_have_unit_variance(shape):
    """On other data than those that were measured: 1 ± 0.01. And the scale does not change what is decoded."""
    channels = 2 * shape[0]
    model = VQAutoencoder(MapEncoder(shape, channels, 8), MapDecoder(channels, shape, 8), shape, 4, channels)
    ldm = LatentDiffusion(model, DDPM(UNet(channels, width=8), (channels, shape[1] // 4, shape[2] // 4)))
    n = 2**19 // math.prod(shape)
    scale = ldm.measure_scale(torch.randn(n, *shape))
    assert scale > 0 and abs(scale - 1) > 0.05  # there was something to do
    x = torch.randn(n, *shape)
    assert abs(ldm.encode(x).std() - 1) < 1e-2
    torch.testing.assert_close(ldm.decode(ldm.encode(x[:4])), model.reconstruct(x[:4]))


@pytest.mark.equation("latent-scale")
def test_a_wrong_scale_shifts_the_log_snr():
    """Latents of std 5.49 (Stable Diffusion's 1/0.18215) shift it by 2 log 5.49 = 3.41: the loss's floor says so."""
    std = 1 / 0.18215
    alpha_bar = torch.cumprod(1 - linear_betas(), 0)
    log_snr = alpha_bar.log() - torch.log1p(-alpha_bar)
    assert round(2 * math.log(std), 2) == 3.41
    shifted = gaussian_floor(1.0, torch.sigmoid(log_snr + 2 * math.log(std)))
    assert math.isclose(gaussian_floor(std, alpha_bar), shifted, rel_tol=1e-12)
    # and through the model: unscaled latents leave a best possible loss of `shifted`, scaled ones the usual floor
    autoencoder = exact_autoencoder(torch.eye(2) / std)
    x = torch.randn(100_000, 2)
    for scale in (1.0, 1 / std):
        law = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.full((1,), (scale * std) ** 2))
        prior = DDPM(Truth(law, DDPM(nn.Identity(), (2,)).path, "eps"), (2,))
        loss = LatentDiffusion(autoencoder, prior, scale).loss(x)
        assert math.isclose(loss, gaussian_floor(scale * std, alpha_bar), rel_tol=0.02)


@pytest.mark.equation("ldm-loss")
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)], ids=str)
def test_the_second_stage_moves_the_prior_only(shape):
    """The autoencoder stays bit for bit, statistics included, and in evaluation mode; the prior sees scaled latents."""
    autoencoder = map_autoencoder(shape)
    autoencoder.encoder = nn.Sequential(autoencoder.encoder, nn.BatchNorm2d(4))
    latent = (2, shape[1] // 4, shape[2] // 4)
    model = LatentDiffusion(autoencoder, DDPM(UNet(2, width=8, classes=3), latent, 20), scale=2.0)
    frozen = {k: v.clone() for k, v in autoencoder.state_dict().items()}
    (name, player), *others = model.objectives().items()
    assert name == "loss" and not others
    assert {id(p) for p in player.parameters} == {id(p) for p in model.prior.parameters()}
    x, y = torch.randn(4, *shape), torch.tensor([0, 1, 2, 0])
    before = [p.detach().clone() for p in player.parameters]
    list(train(model, [(x, y)], steps=2))
    assert all(torch.equal(v, frozen[k]) for k, v in autoencoder.state_dict().items())
    assert any(not torch.equal(a, b) for a, b in zip(before, player.parameters))
    assert model.prior.training and not autoencoder.training
    for loss in (player.loss, model.loss):
        torch.manual_seed(3)
        through = loss(x, y)
        torch.manual_seed(3)
        z = 2.0 * autoencoder.encode(x)
        torch.testing.assert_close(through, model.prior.loss(z.detach(), y))
    assert model.sample(3, torch.tensor([0, 1, 2])).shape == (3, *shape)


@pytest.mark.equation("ldm-loss")
def test_the_autoencoder_may_be_trained_again():
    """Building the second stage freezes nothing: both stages' parameters still learn when their turn comes."""
    autoencoder = map_autoencoder((1, 8, 8))
    LatentDiffusion(autoencoder, DDPM(UNet(2, width=8), (2, 2, 2), 20))
    assert all(p.requires_grad for p in autoencoder.parameters())
    assert len(autoencoder.objectives()["autoencoder"].parameters) == len(list(autoencoder.parameters()))


@pytest.mark.equation("ldm-loss")
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_with_the_exact_prior_the_samples_are_the_data(scale):
    """x = Az, z of a known law: the ideal prior of sz, by two samplers, decodes to samples on the plane of that law."""
    axes = plane_in_16()
    autoencoder = exact_autoencoder(axes)
    law = plane.eight_gaussians()
    latent = law.diffused(torch.tensor(scale), torch.tensor(0.0))
    model = LatentDiffusion(autoencoder, ideal(latent, VPPath()), scale)
    floor = noise_floor(sliced_w2, lambda n: law.sample(n) @ axes.T, 4000)
    for x in (model.decode(ddim.sample(model.prior, 4000, 60)), model.decode(probability_flow(model.prior, 4000, 40))):
        off_the_plane = x - x @ torch.linalg.pinv(axes).T @ axes.T
        assert off_the_plane.abs().max() < 1e-4 * x.abs().max()
        assert sliced_w2(x, law.sample(4000) @ axes.T) < 2 * floor.max


@pytest.mark.equation("ldm-loss")
def test_a_learned_prior_on_a_known_latent_law():
    """Eight Gaussians in a plane of R^16, a measured scale, a trained prior: distance 0.23 at a noise floor of 0.13."""
    axes = plane_in_16()
    autoencoder = exact_autoencoder(axes)
    law = plane.eight_gaussians()

    class Data:
        def sample(self, n):
            return law.sample(n) @ axes.T

    model = LatentDiffusion(autoencoder, ScoreSDE(TimeMLP(2, 96, 3), VPPath(), (2,)))
    model.measure_scale(Data().sample(20_000))
    assert math.isclose(model.scale, 1 / law.sample(100_000).std(), rel_tol=0.02)
    list(train(model, LawBatches(Data(), 512), steps=2000, lr=3e-3, decay="cosine"))
    with torch.no_grad():
        x = model.decode(ddim.sample(model.prior, 4000, 50))
    floor = noise_floor(sliced_w2, Data().sample, 4000)
    distance = sliced_w2(x, Data().sample(4000))
    untrained = LatentDiffusion(autoencoder, ScoreSDE(TimeMLP(2, 96, 3), VPPath(), (2,)), model.scale)
    with torch.no_grad():
        assert sliced_w2(untrained.decode(ddim.sample(untrained.prior, 4000, 50)), Data().sample(4000)) > 4 * distance
    assert distance < 2.5 * floor.max


def test_refusals():
    model = LatentDiffusion(map_autoencoder((1, 8, 8)), DDPM(UNet(2, width=8), (2, 4, 4)))
    with pytest.raises(ValueError, match=r"expected a batch of shape \(B, 1, 8, 8\)"):
        model.loss(torch.randn(2, 1, 9, 9))
    with pytest.raises(ValueError, match=r"expected a batch of shape \(B, 2, 4, 4\), got \(3, 2, 2, 2\)"):
        model.loss(torch.randn(3, 1, 8, 8))  # the prior was built for other latents
    still = LatentDiffusion(exact_autoencoder(torch.eye(2)), DDPM(TimeMLP(2, 8, 2), (2,)))
    nn.init.zeros_(still.autoencoder.encoder.weight)
    nn.init.constant_(still.autoencoder.encoder.bias, -1e5)
    with pytest.raises(ValueError, match="standard deviation 0"):
        still.measure_scale(torch.randn(4, 2))


# --------------------------------------------------------------------------------- cross-attention and guidance


@pytest.mark.fact("L3")
@pytest.mark.equation("ldm-cross-attention")
def test_cross_attention_is_a_mean_over_a_set():
    """The formula written out; a permutation of queries, of keys; and outputs in the convex hull of the values."""
    layer = Attention(4, 1, context=3).double()
    with torch.no_grad():
        layer.out.weight.copy_(torch.eye(4))
        layer.out.bias.zero_()
    x, context = torch.randn(1, 5, 4, dtype=DOUBLE), torch.randn(1, 7, 3, dtype=DOUBLE)
    key, value = layer.key_value(context).chunk(2, -1)
    weights = torch.exp(layer.query(x) @ key.mT / math.sqrt(4))
    by_hand = (weights / weights.sum(-1, keepdim=True)) @ value
    out = layer(x, context)
    torch.testing.assert_close(out, by_hand, rtol=1e-12, atol=1e-12)
    queries, keys = torch.randperm(5), torch.randperm(7)
    torch.testing.assert_close(layer(x[:, queries], context), out[:, queries], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x, context[:, keys]), out, rtol=1e-12, atol=1e-12)
    directions = torch.randn(4, 500, dtype=DOUBLE)
    assert ((out @ directions).amax(1) <= (value @ directions).amax(1) + 1e-12).all()


class Labels(nn.Module):
    """τ(y): one token for each label."""

    def __init__(self, classes, width):
        super().__init__()
        self.table = nn.Embedding(classes, width)

    def forward(self, y):
        return self.table(y)[:, None]


def test_the_conditioner_is_trained_with_the_prior():
    """τ's parameters are the prior's; the label reaches the output; None is the null token; guidance goes inside τ."""
    dit = DiT((2, 2, 2), 1, 16, 1, 2, context=6, drop=0.5)
    prior = DDPM(Conditioned(dit, Labels(3, 6)), (2, 2, 2), 20)
    model = LatentDiffusion(map_autoencoder((1, 8, 8)), prior)
    x, y = torch.randn(32, 1, 8, 8), torch.randint(3, (32,))
    list(train(model, [(x, y)], steps=5, lr=1e-2))  # the output layers begin at zero
    table = prior.net.tau.table.weight
    assert any(p is table for p in model.objectives()["loss"].parameters)
    (to_table, to_null) = torch.autograd.grad(model.loss(x, y), (table, dit.null))
    assert to_table.abs().max() > 0 and to_null.abs().max() > 0
    model.eval()
    z, t = torch.randn(3, 2, 2, 2), torch.full((3,), 0.5)
    told = prior(z, t, torch.tensor([0, 1, 2]))
    assert (told - prior(z, t, torch.tensor([1, 1, 2]))).abs().amax((1, 2, 3)).ne(0).tolist() == [True, False, False]
    torch.testing.assert_close(prior(z, t), dit(z, t, dit.null.expand(3, 1, 6)))
    guided = Denoiser(Conditioned(Guided(dit, 3.0, dit.null), prior.net.tau), prior.path, "eps", (2, 2, 2))
    torch.testing.assert_close(guided(z, t, torch.tensor([0, 1, 2])), prior(z, t) + 3 * (told - prior(z, t)))
    sampler = LatentDiffusion(model.autoencoder, guided, model.scale)
    assert sampler.decode(ddim.sample(guided, 3, 5, y=torch.tensor([0, 1, 2]))).shape == (3, 1, 8, 8)


def gaussian(mean, variance):
    one = torch.ones(1, dtype=DOUBLE)
    return GaussianMixture(one, torch.full((1, 1), mean, dtype=DOUBLE), variance * one)


class TwoLaws(nn.Module):
    """The network that knows p(x) and p(x | c): label 0 is c, label 1 is the null class."""

    def __init__(self, conditional, free, path):
        super().__init__()
        self.conditional, self.free = Truth(conditional, path, "eps"), Truth(free, path, "eps")

    def forward(self, x, t, y=None):
        if y is None:
            return self.free(x, t)
        return torch.where(y[:, None] == 0, self.conditional(x, t), self.free(x, t))


def guided(conditional, free, path, scale):
    return Denoiser(Guided(TwoLaws(conditional, free, path), scale, 1), path, "eps", (1,))


@pytest.mark.fact("L4")
@pytest.mark.equation("guidance-tilt")
def test_guidance_of_gaussians():
    """N(0, 2) and N(1, ½) at s = 3: at the data N(1.2, 0.2), at ᾱ = 0.3 not the blur of that law."""
    mean, variance = geometric_mixture(3.0, 1.0, 0.5, 0.0, 2.0)
    assert math.isclose(mean, 1.2, rel_tol=1e-12) and math.isclose(variance, 0.2, rel_tol=1e-12)
    x = torch.linspace(-2, 2, 9, dtype=DOUBLE)
    log_density = 3 * gaussian(1, 0.5).log_prob(x[:, None]) - 2 * gaussian(0, 2).log_prob(x[:, None])
    gap = log_density - gaussian(mean, variance).log_prob(x[:, None])
    assert gap.std() < 1e-12  # the same law but for a constant
    path, ab = VPPath(), 0.3
    t = torch.tensor((-0.1 + math.sqrt(0.01 - 2 * 19.9 * math.log(ab))) / 19.9, dtype=DOUBLE)  # ᾱ(t) = 0.3
    assert math.isclose(path.alpha(t) ** 2, ab, rel_tol=1e-12)
    mean_t, variance_t = geometric_mixture(3.0, math.sqrt(ab), ab * 0.5 + 0.7, 0.0, ab * 2 + 0.7)
    score = guided(gaussian(1, 0.5), gaussian(0, 2), path, 3.0).predict("score", x[:, None], t, torch.zeros(9).long())
    torch.testing.assert_close(score, gaussian(mean_t, variance_t).score(x[:, None]), rtol=1e-10, atol=1e-12)
    assert (round(mean_t, 3), round(variance_t, 3)) == (0.971, 0.502)
    assert (round(math.sqrt(ab) * mean, 3), round(ab * variance + 0.7, 3)) == (0.657, 0.76)


@pytest.mark.fact("CFG1")
@pytest.mark.equation("guidance-tilt")
def test_guided_sampling_is_not_the_tilted_law():
    """N(1, ¼) against N(0, 1), s = 3, the VE flow: mean 1.5 and std 0.125, where the tilted law is N(1.2, 0.316²)."""
    mean, variance = geometric_mixture(3.0, 1.0, 0.25, 0.0, 1.0)
    assert (round(mean, 3), round(math.sqrt(variance), 3)) == (1.2, 0.316)
    path = VEPath(1e-3, 2000.0)
    model = guided(gaussian(1, 0.25), gaussian(0, 1), path, 3.0)
    x, label = torch.tensor([[-2000.0], [2000.0]], dtype=DOUBLE), torch.zeros(2).long()  # minus and plus one std
    ends = last(heun(lambda z, t: flow_field(model, label)(z, t).detach(), x, path.times(800))).flatten()
    # the flow is linear: the ends are mean ∓ std
    assert math.isclose(ends.mean(), 1.5, abs_tol=0.006) and math.isclose(ends.diff() / 2, 0.125, abs_tol=0.006)


@pytest.mark.equation("guidance-tilt")
def test_a_scale_too_large_for_a_wide_condition():
    """v_c > v_u: beyond s = v_c/(v_c − v_u) there is no such law."""
    assert geometric_mixture(1.9, 0.0, 2.0, 0.0, 1.0)[1] > 0
    with pytest.raises(ValueError, match=r"it needs s < .* = 2"):
        geometric_mixture(2.0, 0.0, 2.0, 0.0, 1.0)


# ------------------------------------------------------------------------------------------------- what acts


@pytest.mark.equation("ldm-kl")
def test_log_variances_are_kept_within_bounds():
    """From −30 to 20: a standard deviation lies between e^−15 and e^10, whatever the encoder says."""
    model = KLAutoencoder(nn.Identity(), nn.Identity(), (6,))
    log_variance = torch.tensor([-1000.0, 0.0, 1000.0])
    std = model.posterior(torch.cat([torch.zeros(3), log_variance])[None].double())[1]
    torch.testing.assert_close(std[0], torch.tensor([math.exp(-15), 1.0, math.exp(10)], dtype=DOUBLE))


@pytest.mark.equation("ldm-kl")
def test_the_decoder_is_trained_on_draws():
    """What it is given has the posterior's mean and spread, and another draw each time."""
    model = KLAutoencoder(nn.Identity(), nn.Identity(), (4,))
    x = torch.tensor([1.0, -2.0, math.log(0.25), math.log(4.0)], dtype=DOUBLE).expand(20_000, 4)
    output = model(x)[0]
    assert (output.mean(0) - x[0, :2]).abs().max() < 5 * 2 / 20_000**0.5
    assert (output.std(0) / torch.tensor([0.5, 2.0]).double() - 1).abs().max() < 5 / 40_000**0.5
    assert not torch.equal(output, model(x)[0])


class Told(nn.Module):
    """A network that draws the label: E[ε | x_t] for data that are the point y."""

    def __init__(self, path):
        super().__init__()
        self.path, self.scale = path, nn.Parameter(torch.ones(()))

    def forward(self, x, t, y=None):
        alpha, sigma = (part[:, None] for part in self.path.alpha_sigma(t.double()))
        return (self.scale * (x - alpha * y[:, None]) / sigma).to(x.dtype)


@pytest.mark.equation("ldm-loss")
def test_samples_and_the_loss_follow_their_labels():
    """The prior of the point y: samples are decoded labels; and a label that is wrong costs."""
    prior = DDPM(nn.Identity(), (2,), 20)
    prior.net = Told(prior.path)
    model = LatentDiffusion(exact_autoencoder(torch.eye(2)), prior, 2.0)
    y = torch.tensor([-3.0, 0.5, 4.0])
    torch.testing.assert_close(model.sample(3, y), (y / 2)[:, None].expand(3, 2), rtol=1e-3, atol=1e-3)
    x = (y / 2)[:, None].expand(3, 2)
    assert model.loss(x, y) < 1e-6 < 0.1 < model.loss(x, y.flip(0))


# ---------------------------------------------------------------------------------- the schedule, and concatenation


@pytest.mark.equation("ldm-schedule")
def test_the_schedule_is_linear_in_the_root():
    """√β rises by equal steps between the stated ends; Stable Diffusion's ends leave ᾱ_T = 0.00466 of the signal."""
    roots = sqrt_linear_betas().sqrt()
    steps = roots.diff()
    assert math.isclose(roots[0] ** 2, 0.0015, rel_tol=1e-12) and math.isclose(roots[-1] ** 2, 0.0195, rel_tol=1e-12)
    assert (steps - steps[0]).abs().max() < 1e-15 and len(roots) == 1000
    left = torch.cumprod(1 - sqrt_linear_betas(1000, 0.00085, 0.012), 0)[-1]
    assert round(left.item(), 5) == 0.00466
    short = torch.cumprod(1 - sqrt_linear_betas(200), 0)[-1]
    assert math.isclose(short.log(), torch.cumprod(1 - sqrt_linear_betas(), 0)[-1].log(), rel_tol=0.05)
    assert sqrt_linear_betas(2).max() == 0.999
    for bad in ((1, 0.1, 0.2), (10, 0.2, 0.1), (10, 0.0, 0.1)):
        with pytest.raises(ValueError, match="at least two steps and 0 < first <= last"):
            sqrt_linear_betas(*bad)


def test_a_map_is_told_as_more_channels():
    """The output at a place follows the map there; None is a map of zeros; guidance and training go through."""
    net = Concatenated(nn.Conv2d(3, 2, 1), 1)
    net.net.forward = (lambda f: lambda x, t: f(x))(net.net.forward)
    x, t, y = torch.randn(4, 2, 5, 5), torch.rand(4), torch.randn(4, 1, 5, 5)
    moved = y.clone()
    moved[:, :, 2, 3] += 1
    changed = (net(x, t, moved) - net(x, t, y)).abs().amax((0, 1)).nonzero().tolist()
    assert changed == [[2, 3]]
    assert torch.equal(net(x, t), net(x, t, torch.zeros_like(y)))
    told = Guided(net, 2.0, torch.zeros(()))(x, t, y)
    torch.testing.assert_close(told, 2 * net(x, t, y) - net(x, t))
    for wrong in (y[:, :, :4], torch.randn(4, 2, 5, 5), y[:1]):
        with pytest.raises(ValueError, match=r"must be a map \(4, 1, 5, 5\)"):
            net(x, t, wrong)


def test_a_unet_learns_from_a_map():
    """Latents that equal their condition: told, the network does better than its floor without (ε from x_t alone)."""
    torch.manual_seed(0)
    prior = DDPM(Concatenated(UNet(2, 1, width=8, multipliers=(1, 1)), 1), (1, 4, 4), 20)
    z = torch.randn(256, 1, 4, 4)
    before = prior.loss(z, z)
    list(train(prior, [(z, z)], steps=150, lr=1e-2))
    assert prior.loss(z, z) < 0.5 * gaussian_floor(1.0, prior.alpha_bar[1:]) < before


# ------------------------------------------------------------------------------------------------------ the theory


@pytest.mark.equation("ldm-pythagoras")
def test_the_error_splits_exactly():
    """Against scipy's assignment in all of space, for data off the plane and samples on it."""
    basis = torch.linalg.qr(torch.randn(6, 2, dtype=DOUBLE)).Q
    x, y = torch.randn(60, 6, dtype=DOUBLE), (1 + torch.randn(60, 2, dtype=DOUBLE)) @ basis.T
    split = error_split(x, y, basis)
    cost = torch.cdist(x, y).square().numpy()
    total = cost[scipy.optimize.linear_sum_assignment(cost)].mean()
    residual = torch.linalg.lstsq(basis, x.T).solution.T @ basis.T - x
    assert math.isclose(split.total, total, rel_tol=1e-10)
    assert math.isclose(split.reconstruction, residual.square().sum(1).mean(), rel_tol=1e-10)
    torch.testing.assert_close(split.reconstruction + split.generation, split.total, rtol=1e-10, atol=0)
    off = error_split(x, y + torch.randn(60, 6, dtype=DOUBLE), basis)  # off the plane it does not hold
    assert abs(off.reconstruction + off.generation - off.total) > 0.1


class Linear(nn.Module):
    """x -> (0.8 x + shift, log variance): the encoder of a line, mean and log-variance side by side."""

    def __init__(self, log_variance, shift=0.0):
        super().__init__()
        self.log_variance, self.shift = log_variance, shift

    def forward(self, x):
        return torch.cat([0.8 * x + self.shift, torch.full_like(x, self.log_variance)], 1)


@pytest.mark.equation("ldm-bound")
def test_the_bound_of_both_stages():
    """z ~ N(0, 1), x = z + ε/2: tight for the exact posterior N(0.8 x, 0.2), and for another one loose by its KL."""
    betas = linear_betas(200)
    prior = DDPM(Truth(gaussian(0.0, 1.0), DDPM(nn.Identity(), (1,), betas=betas).path, "eps"), (1,), betas=betas)
    likelihood = lambda x, z: torch.distributions.Normal(z, 0.5).log_prob(x)[:, 0]  # noqa: E731
    n = 8_000
    x = 1.25**0.5 * torch.randn(n, 1, dtype=DOUBLE)
    exact = torch.distributions.Normal(0.0, 1.25**0.5).log_prob(x)[:, 0]
    for log_variance, shift in ((math.log(0.2), 0.0), (math.log(0.5), 0.3)):
        gap = kl_normal_full(
            torch.tensor([shift]), torch.tensor([[math.exp(log_variance)]]), torch.zeros(1), torch.tensor([[0.2]])
        )
        first = KLAutoencoder(Linear(log_variance, shift), nn.Identity(), (1,))
        excess = two_stage_bound(first, likelihood, prior, x) + exact
        error = 4 * excess.std() / n**0.5
        assert gap - error < excess.mean() < gap + error + 0.03  # 200 steps cost a hundredth of a nat


@pytest.mark.fact("CFG1")
@pytest.mark.equation("guidance-flow")
@pytest.mark.parametrize(
    "case", [(3.0, 1.0, 0.25, 0.0, 1.0), (2.0, -1.0, 0.5, 0.7, 2.0), (0.5, 1.0, 3.0, 0.0, 1.0)], ids=str
)
def test_guided_gaussians_in_closed_form(case):
    """Against the flow of the guided denoiser itself, from σ = 2,000 down."""
    s, mean, variance, free_mean, free_variance = case
    path = VEPath(1e-3, 2000.0)
    model = guided(gaussian(mean, variance), gaussian(free_mean, free_variance), path, s)
    x, label = torch.tensor([[-2000.0], [2000.0]], dtype=DOUBLE), torch.zeros(2).long()
    ends = last(heun(lambda z, t: flow_field(model, label)(z, t).detach(), x, path.times(800))).flatten()
    got_mean, got_std = guided_gaussian(*case)
    assert math.isclose(ends.mean(), got_mean, abs_tol=0.01)
    assert math.isclose(ends.diff() / 2, got_std, abs_tol=0.006)


@pytest.mark.equation("guidance-flow")
def test_without_guidance_it_is_the_condition():
    assert guided_gaussian(1.0, 0.7, 0.3, -1.0, 2.0) == pytest.approx((0.7, 0.3**0.5), abs=1e-6)
    mean, std = guided_gaussian(3.0, 1.0, 0.25, 0.0, 1.0)
    assert (round(mean, 4), round(std, 4)) == (1.5, 0.125)


def test_the_defaults_are_the_papers_constants():
    """arXiv:2112.10752; The authors' code."""
    assert {"steps": 1000, "first": 0.0015, "last": 0.0195}.items() <= defaults(
        latent_diffusion.sqrt_linear_betas
    ).items()
    assert {"weight": 1e-06}.items() <= defaults(KLAutoencoder).items()


def test_what_changes_the_model_is_off_unless_asked_for():
    assert {"scale": 1.0}.items() <= defaults(LatentDiffusion).items()
