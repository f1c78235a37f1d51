"""MAR against exact conditionals of Gaussian tokens, quadrature, Jacobians and scipy; and a bimodal law, learned."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from specimen import Specimen, defaults
from torch import nn

from gmbook import metrics
from gmbook.core.denoiser import Truth
from gmbook.core.gaussians import GaussianMixture, kl_normal_full
from gmbook.core.paths import CosinePath, TablePath
from gmbook.networks.mlp import MLP, AdaMLP
from gmbook.networks.transformer import CausalTransformer, MaskedTransformer
from gmbook.papers.ddpm import DDPM
from gmbook.papers.mar import (
    MAR,
    CodebookHead,
    DiffusionHead,
    Head,
    MeanHead,
    MixtureHead,
    cosine_sizes,
    mask_ratios,
)
from gmbook.papers.theory.mar import price_of_sets, total_correlation
from gmbook.train import train


def token_vectors() -> MAR:
    head = DiffusionHead(DDPM(AdaMLP(1, 16, 16, 1), (1,), steps=5))
    return MAR(MaskedTransformer(2, 1, 16, (1, 1), 2), head, (2,), ratio=(0.0, 0.5))


SPECIMEN = Specimen(token_vectors)


DOUBLE = torch.float64


def cosine_betas(steps):
    """The head's schedule in the authors' code: β_i = min(1 − ᾱ_i/ᾱ_{i−1}, 0.999)."""
    alpha_bar = CosinePath().alpha(torch.arange(steps + 1, dtype=DOUBLE) / steps) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def diffusion_head(width, channels=1, steps=50, hidden=64, depth=2):
    """A small head that predicts v: at the end of the cosine table α is 1e-3, and ε-prediction would divide by it."""
    net = AdaMLP(channels, width, hidden, depth)
    return DiffusionHead(DDPM(net, (channels,), betas=cosine_betas(steps), predicts="v", variance="small"))


class GaussianContext(nn.Module):
    """The ideal backbone of N(0, covariance): z = (mean, std) of each unknown token given the known ones."""

    causal, channels, classes = False, 1, None

    def __init__(self, covariance):
        super().__init__()
        self.covariance, self.tokens = covariance, len(covariance)

    def forward(self, x, order, known, y=None):
        c = self.covariance.to(x)[order[:, :, None], order[:, None, :]]  # (B, L, L), in the order of generation
        gain = torch.linalg.solve(c[:, :known, :known], c[:, :known, known:]).mT  # (B, L − known, known)
        variance = (c[:, known:, known:] - gain @ c[:, :known, known:]).diagonal(dim1=1, dim2=2)
        return torch.stack([(gain @ x[:, :known])[..., 0], variance.sqrt()], 2)


class GaussianHead(Head):
    """The ideal head for z = (mean, std): an exact draw."""

    def loss(self, x, z):
        raise AssertionError("nothing to train")

    def draw(self, z, temperature=1.0, scale=1.0, null=None):
        mean, std = z.chunk(2, 1)
        return mean + temperature * std * torch.randn_like(mean)


def equicorrelated(d, rho):
    return torch.full((d, d), rho, dtype=DOUBLE) + (1 - rho) * torch.eye(d, dtype=DOUBLE)


# ------------------------------------------------------------------------------------------------------- orders, sets


@pytest.mark.fact("A2")
@pytest.mark.equation("mar-mask-ratio")
def test_mask_ratios_are_the_papers_truncated_normal():
    """Mean 0.867 and the whole law, against scipy's truncnorm of the authors' code."""
    law = scipy.stats.truncnorm((0.7 - 1) / 0.25, 0, loc=1.0, scale=0.25)
    assert law.mean() == pytest.approx(0.867, abs=5e-4)
    ratios = mask_ratios(200_000)
    assert 0.7 <= ratios.min() and ratios.max() <= 1
    assert ratios.mean().item() == pytest.approx(law.mean(), abs=5 * law.std() / len(ratios) ** 0.5)
    assert scipy.stats.kstest(ratios.numpy(), law.cdf).statistic < 1.95 / len(ratios) ** 0.5  # the 0.1 % point
    wide = scipy.stats.truncnorm(-2, 0, loc=1.0, scale=0.5)
    assert scipy.stats.kstest(mask_ratios(200_000, 0.0, 0.5).numpy(), wide.cdf).statistic < 1.95 / 200_000**0.5


@pytest.mark.equation("mar-cosine")
@pytest.mark.parametrize(("tokens", "steps"), [(256, 64), (256, 8), (49, 49), (49, 7), (5, 1), (2, 2)])
def test_cosine_sizes_follow_the_schedule(tokens, steps):
    """They sum to the number of tokens, none is empty, and ⌊L cos(πk/2K)⌋ tokens are left after step k wherever that
    leaves one for the step itself."""
    sizes = cosine_sizes(tokens, steps)
    assert len(sizes) == steps and sum(sizes) == tokens and min(sizes) >= 1
    left = tokens - torch.tensor(sizes).cumsum(0)
    wanted = torch.tensor([math.floor(tokens * math.cos(math.pi / 2 * (k + 1) / steps)) for k in range(steps)])
    free = torch.tensor(sizes) > 1
    assert (left[free] == wanted[free]).all() and (left <= wanted.clamp(min=0)).all()
    if steps == tokens:
        assert sizes == [1] * tokens
    if (tokens, steps) == (256, 64):  # few at first, many late; the last step takes ⌊256 cos(63π/128)⌋
        assert sizes[:3] == [1, 1, 1] and sizes[-1] == 6 and max(sizes) == 7


@pytest.mark.fact("A1")
@pytest.mark.equation("mar-parallel")
def test_tokens_of_one_step_are_independent():
    """ρ = 0.8: 0.5108 nats, in closed form and in the sampler: two steps give ρ, one step gives independent tokens."""
    covariance = equicorrelated(2, 0.8)
    cost = total_correlation(covariance)
    assert cost.item() == pytest.approx(-math.log(1 - 0.8**2) / 2) == pytest.approx(0.5108, abs=5e-5)
    model = MAR(GaussianContext(covariance), GaussianHead(), (2,))
    n, zero = 40_000, torch.zeros(2, dtype=DOUBLE)
    for steps, price in ((2, 0.0), (1, cost.item())):
        drawn = model.sample(n, steps=steps).double().T.cov()
        torch.testing.assert_close(drawn.diagonal(), torch.ones(2, dtype=DOUBLE), atol=0.04, rtol=0)
        assert kl_normal_full(zero, covariance, zero, drawn).item() == pytest.approx(price, abs=0.03)


@pytest.mark.equation("mar-parallel")
def test_price_of_sets_is_the_divergence_of_what_the_sampler_draws():
    """Four tokens in sets of 1, 2 and 1: the sampler's own Gaussian, built row by row, and KL in closed form."""
    root = torch.tensor(
        [[1.0, 0.2, 0, 0], [0.7, 0.9, 0.1, 0], [-0.4, 0.3, 1.1, 0], [0.5, 0.2, -0.6, 0.8]], dtype=DOUBLE
    )
    covariance, zero = root @ root.T, torch.zeros(4, dtype=DOUBLE)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        c, weights, stds, known = covariance[order][:, order], torch.zeros(4, 4, dtype=DOUBLE), [], 0
        for size in (1, 2, 1):  # x_j = Σ w_ji x_i + std · noise, i in the sets before
            for j in range(known, known + size):
                weights[j, :known] = torch.linalg.lstsq(c[:known, :known], c[:known, j : j + 1]).solution[:, 0]
                stds.append((c[j, j] - weights[j] @ c[:, j]).sqrt())
            known += size
        mixing = torch.linalg.inv(torch.eye(4, dtype=DOUBLE) - weights) @ torch.stack(stds).diag()
        price = kl_normal_full(zero, c, zero, mixing @ mixing.T)
        assert price_of_sets(covariance, torch.tensor(order), (1, 2, 1)).item() == pytest.approx(price.item(), rel=1e-9)
        assert price > 0.05
        assert price_of_sets(covariance, torch.tensor(order), (1, 1, 1, 1)).abs() < 1e-12
    with pytest.raises(ValueError, match="sum to 4"):
        price_of_sets(covariance, torch.arange(4), (1, 2))


@pytest.mark.equation("mar-equicorrelated")
@pytest.mark.parametrize(("known", "drawn", "rho"), [(0, 4, 0.3), (3, 2, 0.6), (5, 4, 0.9)])
def test_known_tokens_lower_the_correlation_of_the_rest(known, drawn, rho):
    """After m equicorrelated tokens the rest have correlation ρ/(1 + mρ): by inverting a block of the precision."""
    precision = torch.linalg.inv(equicorrelated(known + drawn, rho))[known:, known:]
    left = torch.linalg.inv(precision)
    correlation = rho / (1 + known * rho)
    torch.testing.assert_close(left / left[0, 0], equicorrelated(drawn, correlation))
    after = price_of_sets(equicorrelated(known + drawn, rho), torch.arange(known + drawn), [1] * known + [drawn])
    closed = -math.log((1 - correlation) ** (drawn - 1) * (1 + (drawn - 1) * correlation)) / 2
    assert after.item() == pytest.approx(closed, rel=1e-10)


@pytest.mark.equation("mar-any-order")
def test_the_loss_with_all_counts_alike_is_the_likelihood():
    """Exact conditionals of three Gaussian tokens, −log p for a loss: L times its mean over draws is −log N(x; 0, Σ);
    and by hand over all orders and counts to the last digit."""
    covariance = torch.tensor([[1.0, 0.6, -0.3], [0.6, 2.0, 0.4], [-0.3, 0.4, 0.5]], dtype=DOUBLE)
    backbone, x = GaussianContext(covariance), torch.tensor([[0.7, -1.1, 0.4]], dtype=DOUBLE)

    class Density(GaussianHead):
        def loss(self, x, z):
            mean, std = z.chunk(2, 1)
            return -torch.distributions.Normal(mean, std).log_prob(x).mean()

    want = -torch.distributions.MultivariateNormal(torch.zeros(3, dtype=DOUBLE), covariance).log_prob(x[0]).item()
    total = 0.0
    for order in itertools.permutations(range(3)):
        place = torch.tensor([order])
        for masked in (1, 2, 3):
            z = backbone(x[:, place[0], None], place, 3 - masked)
            total += Density().loss(x[0, place[0, 3 - masked :], None], z[0]).item() / 6
    assert total == pytest.approx(want, rel=1e-12)
    model = MAR(backbone, Density(), (3,), ratio=(0.0, 1000.0))
    torch.manual_seed(0)
    draws = 3 * torch.stack([model.loss(x) for _ in range(3000)])
    assert draws.mean().item() == pytest.approx(want, abs=6 * draws.std().item() / 3000**0.5)


@pytest.mark.equation("mar-equicorrelated")
@pytest.mark.parametrize(("d", "rho"), [(2, 0.5), (5, 0.3), (9, 0.9)])
def test_price_of_equicorrelated_tokens(d, rho):
    """−½ log[(1 − ρ)^{d−1}(1 + (d − 1)ρ)], and the KL divergence between full Gaussians."""
    covariance, zero = equicorrelated(d, rho), torch.zeros(d, dtype=DOUBLE)
    closed = -math.log((1 - rho) ** (d - 1) * (1 + (d - 1) * rho)) / 2
    assert total_correlation(covariance).item() == pytest.approx(closed, rel=1e-12)
    product = torch.diag(covariance.diagonal())
    assert kl_normal_full(zero, covariance, zero, product).item() == pytest.approx(closed, rel=1e-12)


@pytest.mark.equation("mar-next-set")
@pytest.mark.parametrize("order", ["random", "raster"])
def test_one_at_a_time_samples_the_joint_law(order):
    """Exact conditionals of a Gaussian in any order give its covariance; orders are permutations, all alike likely."""
    covariance = torch.tensor([[1.0, 0.6, -0.3], [0.6, 2.0, 0.4], [-0.3, 0.4, 0.5]], dtype=DOUBLE)
    model = MAR(GaussianContext(covariance), GaussianHead(), (3,), order=order)
    torch.testing.assert_close(model.sample(40_000).T.cov(), covariance.float(), atol=0.05, rtol=0)
    codes = model.draw_order(12_000) @ torch.tensor([9, 3, 1])
    seen = codes.unique(return_counts=True)[1]
    assert len(seen) == (6 if order == "random" else 1)
    assert order == "raster" or scipy.stats.chisquare(seen.numpy()).pvalue > 1e-3


# ---------------------------------------------------------------------------------------------------------- backbones


def dependence(net, order, known):
    """Which z depends on which input token: (L − known, L), from the Jacobian."""
    x = torch.randn(1, net.tokens, net.channels, dtype=DOUBLE)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x, order, known), x)  # (1, L−known, D, 1, L, C)
    return jacobian[0, :, :, 0].abs().amax((1, 3))


@pytest.mark.equation("mar-next-set")
def test_masked_conditions_see_every_known_token_and_no_other():
    net, order = MaskedTransformer(6, 2, 16, (1, 2), 2).double(), torch.randperm(6)[None]
    for known in range(6):
        seen = dependence(net, order, known)
        assert seen[:, known:].eq(0).all() and (seen[:, :known] > 1e-9).all()


def test_known_tokens_are_a_set_and_positions_matter():
    net = MaskedTransformer(6, 2, 16, (2, 2), 2).double()
    x, order = torch.randn(3, 6, 2, dtype=DOUBLE), torch.rand(3, 6).argsort(1)
    z = net(x, order, 4)
    shuffled = torch.cat([torch.randperm(4), torch.tensor([5, 4])])  # known ones shuffled, unknown ones exchanged
    torch.testing.assert_close(net(x[:, shuffled], order[:, shuffled], 4), z.flip(1))
    assert (net(x, order.roll(1, 1), 4) - z).abs().max() > 1e-3


def test_causal_conditions_see_earlier_tokens_only():
    net, order = CausalTransformer(6, 2, 16, 2, 2).double(), torch.randperm(6)[None]
    seen = dependence(net, order, 0)
    assert seen.triu().eq(0).all() and (seen[torch.tril_indices(6, 6, -1).unbind()] > 1e-9).all()
    x = torch.randn(2, 6, 2, dtype=DOUBLE)
    torch.testing.assert_close(net(x, order.expand(2, -1), 3), net(x, order.expand(2, -1), 0)[:, 3:])
    later = order[:, [0, 1, 2, 3, 5, 4]]  # the last condition knows which place it is asked for
    assert (net(x[:1], later, 0) - net(x[:1], order, 0))[:, 4].abs().max() > 1e-4


@pytest.mark.parametrize("backbone", [MaskedTransformer(8, 1, 8, (1, 1), 2), CausalTransformer(8, 1, 8, 1, 2)])
def test_training_hides_what_the_head_is_asked_for(backbone):
    """The head is given the masked tokens, with conditions that no gradient connects to them."""
    seen = []

    class Spy(Head):
        def loss(self, x, z):
            seen.append((x, z))
            return z.sum()

        def draw(self, z, temperature=1.0, scale=1.0, null=None):
            raise AssertionError

    x = torch.arange(8.0).repeat(2, 1)  # token j holds j
    model = MAR(backbone, Spy(), (8,), order="raster")
    for _ in range(20):
        model.loss(x)
    for tokens, z in seen:
        masked = len(tokens) // 2
        assert len(z) == len(tokens) and (masked == 8 if backbone.causal else masked in (6, 7, 8))
        assert (tokens.reshape(2, masked) == torch.arange(8 - masked, 8)).all()
    assert backbone.causal or len({len(tokens) for tokens, _ in seen}) > 1


# -------------------------------------------------------------------------------------------------------------- heads


BIMODAL = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-2.0], [2.0]]), torch.tensor([0.09, 0.09]))


def exact_head(law, steps):
    """The head whose network is E[ε | x_t] for p(x | z) = law, whatever z."""
    betas = cosine_betas(steps)
    return DiffusionHead(DDPM(Truth(law, TablePath(betas), "eps"), law.shape, betas=betas, variance="small"))


@pytest.mark.fact("A3")
@pytest.mark.equation("mar-sampler")
def test_exact_diffusion_head_samples_a_bimodal_law():
    """Cosine schedule, 1000 ancestral steps: mode weight 0.7 ± 0.02 and mode std 0.3 ± 0.02."""
    x = exact_head(BIMODAL, 1000).draw(torch.zeros(8_000, 1))[:, 0]
    assert (x > 0).float().mean().item() == pytest.approx(0.7, abs=0.02)
    assert x[x > 0].std().item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.fact("A4")
@pytest.mark.equation("mar-mean-collapse")
def test_squared_error_draws_the_mean():
    """Its optimum is E[x | z] = 0.8 with loss Var x = 3.45, and its draws have variance 0, at any temperature."""
    head = MeanHead(nn.Linear(1, 1))
    x = BIMODAL.sample(50_000)
    z = torch.ones_like(x)
    assert BIMODAL.covariance().item() == pytest.approx(3.45)
    optimizer = torch.optim.LBFGS(head.parameters(), line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = head.loss(x, z)
        loss.backward()
        return loss

    optimizer.step(closure)
    drawn = head.draw(z, temperature=2.0).detach()
    assert (drawn == drawn[0]).all()
    assert drawn[0].item() == pytest.approx(0.8, abs=5 * (3.45 / 50_000) ** 0.5)
    assert head.loss(x, z).item() == pytest.approx(3.45, rel=0.02)


@pytest.mark.equation("mar-loss")
@pytest.mark.equation("mar-gaussian-token")
def test_optimal_network_of_a_gaussian_token():
    """p(x | z) = N(z, s²): ε* = √(1−ᾱ)(x_t − √ᾱ z)/(ᾱs² + 1 − ᾱ) has the least loss, the floor in closed form, and
    every other network has more."""
    betas, s = cosine_betas(20), 0.5
    path = TablePath(betas)

    class Optimal(nn.Module):
        def __init__(self, gain=1.0):
            super().__init__()
            self.gain = gain

        def forward(self, x, t, z):
            alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
            return self.gain * sigma * (x - alpha * z) / (alpha**2 * s**2 + sigma**2)

    z = torch.randn(100_000, 1, dtype=DOUBLE)
    x = z + s * torch.randn_like(z)
    alpha_bar = torch.cumprod(1 - betas, 0)
    floor = (alpha_bar * s**2 / (alpha_bar * s**2 + 1 - alpha_bar)).mean().item()
    losses = [DiffusionHead(DDPM(Optimal(gain), (1,), betas=betas)).loss(x, z).item() for gain in (1.0, 0.9, 1.1)]
    assert losses[0] == pytest.approx(floor, rel=0.01) and min(losses[1:]) > losses[0] + 0.003


def test_diffusion_head_draws_several_noise_levels_for_each_condition():
    seen = []

    class Spy(nn.Module):
        def forward(self, x, t, z):
            seen.append((t, z))
            return torch.zeros_like(x)

    head = DiffusionHead(DDPM(Spy(), (2,), steps=1000), repeats=4)
    z = torch.randn(5, 3)
    head.loss(torch.randn(5, 2), z)
    (t, told), *rest = seen
    assert not rest and len(t.unique()) > 15 and torch.equal(told, z.repeat(4, 1))


@pytest.mark.equation("mar-sampler")
def test_temperature_scales_the_noise_of_the_sampler():
    """For Gaussian tokens the sampler is linear: its variance by recursion over the steps, for each τ."""
    betas, mean, std = cosine_betas(100), 0.5, 0.4
    law = GaussianMixture(torch.ones(1), torch.tensor([[mean]]), torch.tensor([std**2]))
    head = exact_head(law, 100)
    alpha_bar = torch.cat([torch.ones(1, dtype=DOUBLE), torch.cumprod(1 - betas, 0)])
    for temperature in (1.0, 0.7, 0.0):
        variance = 1.0
        for i in range(100, 0, -1):
            now, before, beta = alpha_bar[i].item(), alpha_bar[i - 1].item(), betas[i - 1].item()
            gain = now**0.5 * std**2 / (now * std**2 + 1 - now)  # of E[x_0 | x_i]
            slope = before**0.5 * beta / (1 - now) * gain + (1 - beta) ** 0.5 * (1 - before) / (1 - now)
            noise = temperature**2 * (1 - before) / (1 - now) * beta * (i > 1)
            variance = slope**2 * variance + noise
        x = head.draw(torch.zeros(10_000, 1), temperature)
        assert x.std().item() == pytest.approx(variance**0.5, rel=0.03)
        assert x.mean().item() == pytest.approx(mean, abs=0.02)
        if temperature == 1:
            assert variance**0.5 == pytest.approx(std, rel=0.05)  # 100 steps are not infinitely many


class Told(nn.Module):
    """E[ε | x_t] for p(x | z) = N(z_1, z_2²)."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, x, t, z):
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
        return sigma * (x - alpha * z[:, :1]) / (alpha**2 * z[:, 1:] ** 2 + sigma**2)


@pytest.mark.equation("mar-guidance")
def test_guidance_of_each_head():
    """s = 1 is no guidance, to the last bit; for Gaussians the guided score is linear, and the mean moves as its
    recursion says; the mixture head draws p(x | z)^s p(x | null)^{1−s}, here N(1.2, 0.2)."""
    betas = cosine_betas(200)
    head = DiffusionHead(DDPM(Told(TablePath(betas)), (1,), betas=betas, variance="small"))
    z, null = torch.tensor([[1.0, 0.5]]).repeat(8_000, 1), torch.tensor([[0.0, 1.0]]).repeat(8_000, 1)
    torch.manual_seed(1)
    plain = head.draw(z)
    torch.manual_seed(1)
    torch.testing.assert_close(head.draw(z, scale=1.0, null=null), plain, atol=0, rtol=0)
    alpha_bar = torch.cat([torch.ones(1, dtype=DOUBLE), torch.cumprod(1 - betas, 0)]).tolist()
    mean, variance, s = 0.0, 1.0, 3.0
    for i in range(200, 0, -1):
        now, before, beta = alpha_bar[i], alpha_bar[i - 1], betas[i - 1].item()
        cond, free = now * 0.25 + 1 - now, 1.0  # variances of x_i with and without the condition
        root, factor = (1 - now) ** 0.5, beta / (1 - now) ** 0.5
        slope = root * (s / cond + (1 - s) / free)  # ε = slope · x − shift
        shift = root * s * now**0.5 / cond
        scale = (1 - beta) ** -0.5
        mean = scale * (mean - factor * (slope * mean - shift))
        variance = (scale * (1 - factor * slope)) ** 2 * variance + (i > 1) * beta * (1 - before) / (1 - now)
    guided = head.draw(z, scale=s, null=null)
    assert guided.mean().item() == pytest.approx(mean, abs=0.02) and guided.std().item() == pytest.approx(
        variance**0.5, rel=0.03
    )
    assert mean > 1.3  # far beyond the tilted law's mean, which is 1.2 for these variances as well

    class Net(nn.Module):  # one component, z = (mean, std)
        def forward(self, z):
            return torch.cat([torch.zeros(len(z), 1), z[:, :1], z[:, 1:].log()], 1)

    mixture = MixtureHead(Net(), 1, components=1, candidates=200)
    z = torch.tensor([[1.0, 0.5**0.5]]).repeat(5_000, 1)
    null = torch.tensor([[0.0, 2.0**0.5]]).repeat(5_000, 1)
    tilted = mixture.draw(z, scale=3.0, null=null)
    assert tilted.mean().item() == pytest.approx(1.2, abs=0.04)
    assert tilted.var().item() == pytest.approx(0.2, abs=0.03)
    assert mixture.draw(z, scale=1.0, null=null).var().item() == pytest.approx(0.5, abs=0.05)
    mean_head = MeanHead(nn.Linear(2, 1))
    torch.testing.assert_close(mean_head.draw(z, scale=1.0, null=null), mean_head.draw(z))
    far = mean_head.net(null) + 3.0 * (mean_head.net(z) - mean_head.net(null))
    torch.testing.assert_close(mean_head.draw(z, scale=3.0, null=null), far)


def test_mixture_head_is_a_mixture():
    """Its log-density is that of torch.distributions, and its draws have the mixture's mean and covariance."""
    head = MixtureHead(nn.Linear(3, 4 * 5), channels=2, components=4).double()
    z, x = torch.randn(7, 3, dtype=DOUBLE), torch.randn(7, 2, dtype=DOUBLE)
    logits, means, stds = (part.detach() for part in head.parts(z))
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits),
        torch.distributions.Independent(torch.distributions.Normal(means, stds), 1),
    )
    torch.testing.assert_close(head.log_prob(x, z), law.log_prob(x))
    torch.testing.assert_close(head.loss(x, z), -law.log_prob(x).mean())
    drawn = head.draw(z.repeat(20_000, 1)).detach().reshape(-1, 7, 2)
    torch.testing.assert_close(drawn.mean(0), law.mean, atol=0.05, rtol=0.03)
    torch.testing.assert_close(drawn.var(0), law.variance, atol=0.05, rtol=0.05)


# -------------------------------------------------------------------------------------------------------------- model


@pytest.mark.equation("mar-guidance")
def test_guidance_grows_with_the_known_fraction_and_calls_the_backbone_once():
    """Step by step 1 + (s − 1) f, and conditions with and without the label from one call, equal to two calls."""
    backbone = MaskedTransformer(8, 1, 16, (1, 1), 2, classes=3, drop=0.5).eval()
    calls, draws = [], []

    class Spy(Head):
        def loss(self, x, z): ...

        def draw(self, z, temperature=1.0, scale=1.0, null=None):
            draws.append((temperature, scale, z, null))
            return torch.zeros(len(z), 1)

    backbone.register_forward_pre_hook(lambda _, args: calls.append(args))
    model = MAR(backbone, Spy(), (8,))
    y = torch.tensor([0, 2])
    model.sample(2, y, steps=4, scale=3.0, temperature=0.9)
    sizes = cosine_sizes(8, 4)
    done = torch.tensor(sizes).cumsum(0) / 8
    assert [scale for _, scale, _, _ in draws] == pytest.approx((1 + 2 * done).tolist())
    assert len(calls) == 4 and {temperature for temperature, *_ in draws} == {0.9}
    x, order, known, _ = calls[2]
    for label, z in ((y, draws[2][2]), (None, draws[2][3])):
        alone = backbone(x[:2], order[:2], known, label)[:, : sizes[2]].flatten(0, 1)
        torch.testing.assert_close(z, alone)
    draws.clear()
    model.sample(2, y, steps=4)
    assert all(scale == 1 and null is None for _, scale, _, null in draws)


@pytest.mark.parametrize(("shape", "patch"), [((6,), None), ((3, 2), None), ((1, 4, 6), 2), ((3, 4, 4), 4)])
def test_tokens_and_back(shape, patch):
    """Vectors are cut in order, images in patches; both come back, and every entry is generated exactly once."""
    channels = 2 if patch is None else shape[0] * patch**2
    tokens = math.prod(shape) // channels
    backbone = MaskedTransformer(tokens, channels, 8, (1, 1), 2)
    model = MAR(backbone, diffusion_head(8, channels, 4), shape, patch)
    x = torch.randn(3, *shape)
    torch.testing.assert_close(model.assemble(model.tokenise(x)), x)
    if patch == 2:
        torch.testing.assert_close(model.tokenise(x)[:, 4], x[:, 0, 2:4, 2:4].flatten(1))  # row 1, column 1 of 2×3
    model.loss(x).backward()
    states = list(model.trajectory(3))
    assert [int(s.isnan().sum()) for s in states] == [3 * channels * (tokens - k - 1) for k in range(tokens)]
    for before, after in zip(states, states[1:], strict=False):
        torch.testing.assert_close(after[~before.isnan()], before[~before.isnan()])


class PointsInThePlane(nn.Module):
    """The ideal backbone of a 2-D mixture of round Gaussians as two tokens: z = (p(k | known token), means of the
    other coordinate), 2K numbers."""

    causal, tokens, channels, classes = False, 2, 1, None

    def __init__(self, means, variance):
        super().__init__()
        self.means, self.variance = means, variance  # (K, 2)

    def forward(self, x, order, known, y=None):
        near = self.means.T[order]  # (B, 2, K), in the order of generation
        seen = -((x[:, :known] - near[:, :known]) ** 2).sum(1) / (2 * self.variance)  # (B, K)
        unknown = near[:, known:]
        return torch.cat([seen.softmax(1)[:, None].expand_as(unknown), unknown], 2)


class PointsNet(nn.Module):
    """E[ε | x_t] of the mixture that z describes."""

    def __init__(self, path, variance):
        super().__init__()
        self.path, self.variance = path, variance

    def forward(self, x, t, z):
        weights, means = z.chunk(2, 1)
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
        blurred = alpha**2 * self.variance + sigma**2
        pull = (x - alpha * means) / blurred
        share = (weights.clamp(min=1e-30).log() - (x - alpha * means) ** 2 / (2 * blurred)).softmax(1)
        return sigma * (share * pull).sum(1, keepdim=True)


def test_points_in_the_plane_as_two_tokens():
    """With exact conditionals, two steps draw the joint law: energy distance to true points at most twice the largest
    between two true batches. One step draws the product of the marginals: as near to that, and far from the law."""
    means, variance, n = torch.tensor([[-1.5, -1.5], [1.5, 1.5], [1.5, -0.5]]), 0.1, 2_000
    law = GaussianMixture(torch.ones(3), means, torch.full((3,), variance))
    betas = cosine_betas(100)
    head = DiffusionHead(DDPM(PointsNet(TablePath(betas), variance), (1,), betas=betas, variance="small"))
    model = MAR(PointsInThePlane(means, variance), head, (2,))
    floor = metrics.noise_floor(metrics.energy_distance, law.sample, n).max
    product = torch.stack([law.sample(n)[:, 0], law.sample(n)[:, 1]], 1)
    joint, parallel = model.sample(n), model.sample(n, steps=1)
    assert metrics.energy_distance(joint, law.sample(n)).item() < 2 * floor
    assert metrics.energy_distance(parallel, product).item() < 2 * floor
    assert metrics.energy_distance(parallel, law.sample(n)).item() > 10 * floor


def law_of_pairs(n):
    """x_1 ~ N(0, 1), x_2 = 0.6 x_1 + 0.8 u with u = ±0.95 + noise, of unit variance: correlation 0.6."""
    first = torch.randn(n)
    u = 0.95 * torch.randn(n).sign() + (1 - 0.95**2) ** 0.5 * torch.randn(n)
    return torch.stack([first, 0.6 * first + 0.8 * u], 1)


def learned(backbone, head, steps):
    """Draws of the learned pair, and their u."""
    model = MAR(backbone, head, (2,), order="raster", ratio=(0.0, 1.0))  # of two tokens, 0.7 would mask always both
    batches = iter(lambda: (law_of_pairs(128),), None)
    for _ in train(model, batches, steps=steps, lr=3e-3, decay="cosine"):
        pass
    x = model.eval().sample(4_000)
    return x, (x[:, 1] - 0.6 * x[:, 0]) / 0.8


def test_the_diffusion_head_learns_two_modes_where_squared_error_gives_their_mean():
    """Correlation 0.6 and a bimodal p(x_2 | x_1): u = (x_2 − 0.6 x_1)/0.8 is ±0.95 with std 0.31; its mean is 0.

    A mixture head learns the two modes too. Both kinds of backbone tell the head what x_1 is.
    """
    causal, masked = CausalTransformer(2, 1, 32, 1, 2), MaskedTransformer(2, 1, 32, (1, 1), 2, buffers=2)
    mixture = MixtureHead(MLP(32, 12, 64, 1), 1, 4)
    for backbone, head in ((causal, diffusion_head(32)), (masked, mixture)):
        x, u = learned(backbone, head, 400)
        assert x.T.corrcoef()[0, 1].item() == pytest.approx(0.6, abs=0.06)
        assert u.var().item() == pytest.approx(1.0, abs=0.15)
        assert (u > 0).float().mean().item() == pytest.approx(0.5, abs=0.06)
        assert (u.abs() < 0.3).float().mean() < 0.12  # 1.9 % in truth, 24 % for a Gaussian of that variance
    x, u = learned(CausalTransformer(2, 1, 32, 1, 2), MeanHead(MLP(32, 1, 64, 1)), 150)
    assert u.abs().max() < 0.15 and (x == x[0]).all()  # one point, the mean of the mean


def test_bad_input_has_one_clear_error():
    backbone, head = MaskedTransformer(4, 1, 8, (1, 1), 2), MeanHead(nn.Linear(8, 1))
    model = MAR(backbone, head, (4,))
    wide = MaskedTransformer(4, 4, 8, (1, 1), 2)
    for net, shape, patch in (
        (backbone, (3,), None),
        (wide, (1, 4, 4), 4),
        (wide, (16,), 2),
        (wide, (1, 1, 16), 2),
        (wide, (1, 16, 1), 2),
    ):
        with pytest.raises(ValueError, match="does not make the 4 tokens of [14] numbers"):
            MAR(net, head, shape, patch)
    MAR(wide, head, (1, 4, 4), 2)
    with pytest.raises(ValueError, match='"random" or "raster"'):
        MAR(backbone, head, (4,), order="spiral")
    with pytest.raises(ValueError, match=r"expected a batch of shape \(B, 4\)"):
        model.loss(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"steps must be in 1\.\.4"):
        model.sample(2, steps=5)
    with pytest.raises(ValueError, match="n must be at least 1"):
        model.sample(0)
    with pytest.raises(ValueError, match="needs labels"):
        model.sample(2, scale=2.0)
    with pytest.raises(ValueError, match="needs labels"):
        model.sample(2, torch.tensor([0, 1]), scale=2.0)
    with pytest.raises(ValueError, match="knows no labels"):
        model.sample(2, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="one token a step"):
        MAR(CausalTransformer(4, 1, 8, 1, 2), head, (4,)).sample(2, steps=2)


# ---------------------------------------------------------------------------------------------- heads, further choices


@pytest.mark.equation("mar-codebook")
def test_the_codebook_head_is_a_categorical_over_codewords():
    """Its loss is the cross-entropy of the nearest codeword, found by hand; its draws have the softmax's shares, cooled
    by the temperature, guided on logits; and no draw is off the codebook."""
    torch.manual_seed(0)
    codebook = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    net = nn.Linear(2, 3)
    head = CodebookHead(net, codebook)
    x, z = torch.tensor([[0.1, -0.2], [0.9, 0.3], [0.4, 1.1], [0.4, 0.9]]), torch.randn(4, 2)
    nearest = [min(range(3), key=lambda k: math.dist(row, codebook[k].tolist())) for row in x.tolist()]
    by_hand = -sum(net(z)[i].log_softmax(0)[k] for i, k in enumerate(nearest)) / 4
    torch.testing.assert_close(head.loss(x, z), by_hand)
    far, null = z[:1].expand(30_000, 2), -z[:1].expand(30_000, 2)
    conditional, free = net(z[0]).detach(), net(-z[0]).detach()
    for temperature, scale, wanted in (
        (1.0, 1.0, conditional),
        (0.5, 1.0, 2 * conditional),
        (1.0, 3.0, free + 3 * (conditional - free)),
        (2.0, 3.0, (free + 3 * (conditional - free)) / 2),
    ):
        drawn = head.draw(far, temperature, scale, null if scale != 1 else None)
        shares = torch.stack([(drawn == word).all(1).float().mean() for word in codebook])
        assert shares.sum() == pytest.approx(1)
        torch.testing.assert_close(shares, wanted.softmax(0), atol=0.015, rtol=0)
    assert (head.draw(far, temperature=0.0) == codebook[conditional.argmax()]).all()
    assert "codebook" in head.state_dict()  # it is learned from data, before


@pytest.mark.equation("mar-codebook")
def test_a_codebook_cannot_be_finer_than_its_words():
    """A token of three equal spikes, with two words or three: the mean square error of the draws' words."""
    spikes = torch.tensor([-1.0, 0.0, 1.0])[torch.randint(3, (600,))][:, None]
    for words, error in (([[-1.0], [0.5]], 1 / 6), ([[-1.0], [0.0], [1.0]], 0.0)):
        head = CodebookHead(nn.Linear(1, len(words)), torch.tensor(words))
        off = (head.codebook[head.quantise(spikes)] - spikes).square().mean().item()
        assert off == pytest.approx(error, abs=0.02)


@pytest.mark.equation("mar-codebook")
@pytest.mark.parametrize("causal", [False, True])
def test_the_backbone_reads_codewords_in_training_as_in_sampling(causal):
    """What is between the codewords is nowhere in a sample, so no training may show it; other heads show x itself."""
    read, words = [], torch.tensor([[-1.0], [1.0]])
    backbone = CausalTransformer(3, 1, 8, 1, 2) if causal else MaskedTransformer(3, 1, 8, (1, 1), 2)
    backbone.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    x = torch.randn(40, 3)
    model = MAR(backbone, CodebookHead(nn.Linear(8, 2), words), (3,), order="raster", ratio=(0.0, 0.5))
    model.loss(x)
    assert torch.equal(read[-1][..., 0], x.sign())
    torch.testing.assert_close(model.head.seen(x[..., None])[..., 0], x.sign())
    MAR(backbone, MeanHead(nn.Linear(8, 1)), (3,), order="raster").loss(x)
    assert torch.equal(read[-1][..., 0], x)


@pytest.mark.equation("mar-sampler")
@pytest.mark.parametrize("variance", ["large", "small"])
def test_fewer_steps_of_the_head_are_a_sub_sequence(variance):
    """Trained with 100 steps, sampled with 10: the variance of a Gaussian token by the recursion on ᾱ at 10, 20, …;
    and the network is asked at the times of its training."""
    betas, std, keep = cosine_betas(100), 0.4, 10
    alpha_bar = torch.cat([torch.ones(1, dtype=DOUBLE), torch.cumprod(1 - betas, 0)])
    kept = torch.linspace(100, 1, keep, dtype=DOUBLE).round().long().flip(0)

    class Exact(nn.Module):
        def __init__(self):
            super().__init__()
            self.path, self.asked = TablePath(betas), []

        def forward(self, x, t, z):
            self.asked.append(t[0].item())
            alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
            return sigma * x / (alpha**2 * std**2 + sigma**2)

    net = Exact()
    head = DiffusionHead(DDPM(net, (1,), betas=betas, variance=variance), steps=keep)
    torch.manual_seed(0)
    drawn = head.draw(torch.zeros(20_000, 1))
    assert net.asked == pytest.approx((kept.flip(0) / 100).tolist(), abs=1e-6)
    chosen, spread = [1.0, *alpha_bar[kept].tolist()], 1.0
    for k in range(keep, 0, -1):
        now, before = chosen[k], chosen[k - 1]
        beta = 1 - now / before
        gain = now**0.5 * std**2 / (now * std**2 + 1 - now)  # of E[x_0 | x]
        slope = before**0.5 * beta / (1 - now) * gain + (1 - beta) ** 0.5 * (1 - before) / (1 - now)
        noise = beta if variance == "large" else (1 - before) / (1 - now) * beta
        spread = slope**2 * spread + noise * (k > 1)
    assert drawn.std().item() == pytest.approx(spread**0.5, rel=0.03)
    head.steps = None
    net.asked.clear()
    head.draw(torch.zeros(2, 1))
    assert len(net.asked) == 100
    for steps in (0, 101):
        with pytest.raises(ValueError, match="keeps 1 to 100"):
            DiffusionHead(head.diffusion, steps=steps)


def test_temperature_of_the_mixture_head_scales_each_components_spread():
    """Two far components of std 0.5 and 0.1: their draws have τ times these, guided or not, and their weights stay."""

    class Two(nn.Module):
        def forward(self, z):
            return torch.tensor([math.log(0.3), math.log(0.7), -3.0, 3.0, math.log(0.5), math.log(0.1)]).expand(
                len(z), 6
            )

    torch.manual_seed(0)
    head, z = MixtureHead(Two(), 1, components=2, candidates=8), torch.zeros(20_000, 1)
    for temperature in (1.0, 0.5, 0.0):
        for guided in ({}, {"scale": 3.0, "null": z}):  # the null law is the same: guidance moves nothing
            x = head.draw(z, temperature, **guided)[:, 0]
            low = x < 0
            assert low.float().mean().item() == pytest.approx(0.3, abs=0.02)
            assert x[low].std().item() == pytest.approx(0.5 * temperature, rel=0.06, abs=1e-6)
            assert x[~low].std().item() == pytest.approx(0.1 * temperature, rel=0.06, abs=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_the_label_reaches_the_backbone_in_the_loss_and_in_samples(causal):
    """Tokens that are the class: with labels the squared-error head learns them, and the null class gets their mean."""
    torch.manual_seed(0)
    net = CausalTransformer if causal else MaskedTransformer
    backbone = net(2, 1, 16, 1 if causal else (1, 1), 2, classes=2)
    model = MAR(backbone, MeanHead(nn.Linear(16, 1)), (2,), ratio=(1.0 - 1e-6, 1e-6))
    y = torch.tensor([0, 1]).repeat(64)
    x = (2.0 * y[:, None] - 1).expand(-1, 2)
    batches = iter(lambda: (x, y), None)
    for _ in train(model, batches, steps=60, lr=1e-2):
        pass
    assert model.loss(x, y) < 0.01
    told = model.sample(128, y, steps=2)
    torch.testing.assert_close(told, x, atol=0.2, rtol=0)
    assert model.loss(x, 1 - y) > 1.5  # 4 for the first token; the second may read the first


def test_tokens_that_are_not_finite_are_refused_in_sampling():
    """NaN means "no token yet" to those who look on, so a head that draws it must not pass."""

    class Gone(Head):
        def loss(self, x, z): ...

        def draw(self, z, temperature=1.0, scale=1.0, null=None):
            return torch.full((len(z), 1), torch.nan)

    for head in (Gone(), diffusion_head(8, steps=3), CodebookHead(nn.Linear(8, 3), torch.randn(3, 1))):
        for parameter in head.parameters():
            nn.init.constant_(parameter, torch.nan)
        with pytest.raises(ValueError, match="has the network gone to NaN"):
            MAR(MaskedTransformer(2, 1, 8, (1, 1), 2), head, (2,)).sample(3)


def test_the_least_error_of_sixty_four_words_for_a_normal_number():
    """Section 4.3 of the chapter: .02538 by Lloyd's conditions on the exact density, .03225 with equal steps."""
    normal = scipy.stats.norm

    def error(edges, words):
        """E (x − w(x))² by partial moments, and the cells' probabilities and first moments."""
        at = np.concatenate([[-40.0], edges, [40.0]])
        mass, first = np.diff(normal.cdf(at)), -np.diff(normal.pdf(at))
        second = mass - np.diff(at * normal.pdf(at))
        return (second - 2 * words * first + words**2 * mass).sum(), mass, first

    words = 1.3 * normal.ppf((np.arange(64) + 0.5) / 64)
    for _ in range(15_000):
        least, mass, first = error((words[1:] + words[:-1]) / 2, words)
        words = first / mass
    assert math.sqrt(least) == pytest.approx(0.0253819, abs=2e-6)
    equal = min(error(h * np.arange(-31, 32), h * (np.arange(64) - 31.5))[0] for h in np.linspace(0.09, 0.12, 100))
    assert math.sqrt(equal) == pytest.approx(0.03225, abs=1e-5)


def test_the_defaults_are_the_papers_constants():
    """arXiv:2406.11838."""
    assert {"least": 0.7, "std": 0.25}.items() <= defaults(mask_ratios).items()
    assert {"ratio": (0.7, 0.25)}.items() <= defaults(MAR).items()
    assert {"repeats": 4}.items() <= defaults(DiffusionHead).items()


def test_what_changes_the_model_is_off_unless_asked_for():
    assert {"scale": 1.0, "temperature": 1.0}.items() <= defaults(MAR.sample).items()
    assert {"scale": 1.0, "temperature": 1.0}.items() <= defaults(MAR.trajectory).items()
    assert {"scale": 1.0, "temperature": 1.0}.items() <= defaults(Head.draw).items()
    assert {"scale": 1.0, "temperature": 1.0}.items() <= defaults(DiffusionHead.draw).items()
    assert {"scale": 1.0, "temperature": 1.0}.items() <= defaults(MeanHead.draw).items()
    assert {"scale": 1.0, "temperature": 1.0}.items() <= defaults(MixtureHead.draw).items()
    assert {"scale": 1.0, "temperature": 1.0}.items() <= defaults(CodebookHead.draw).items()
