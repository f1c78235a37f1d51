"""Improved DDPM against quadrature of exact reverse laws, a sequential memory, the parent's formulas and constants."""

import itertools
import math

import pytest
import torch
from specimen import Returns, Specimen, defaults, net
from torch import nn

from gmbook import data, metrics
from gmbook.core.denoiser import Truth
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import TablePath
from gmbook.laws import plane
from gmbook.networks.guided import Guided
from gmbook.networks.mlp import TimeMLP
from gmbook.papers import improved_ddpm
from gmbook.papers.ddpm import DDPM, linear_betas
from gmbook.papers.improved_ddpm import ImprovedDDPM, LossSecondMoment, cosine_betas
from gmbook.papers.theory import improved_ddpm as improved_ddpm_theory
from gmbook.train import train

SPECIMEN = Specimen(lambda: ImprovedDDPM(net(4), (2,), steps=20))

MEASURES = {
    "bound": lambda model, x: model.nelbo(x),
    "its own loss": lambda model, x: model.vlb_loss(x).detach(),
    "strided bound": lambda model, x: model.strided(3).nelbo(x),
    "strided": lambda model, x: model.strided(2).sample(2),
}

MIXTURE = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.5], [1.0]]), torch.tensor([0.04, 0.25])).double()


def wavy(x, t, y=None):
    """Some network with twice as many outputs; its second half goes beyond [−1, 1]."""
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    return torch.cat([torch.tanh(2 * x) + 0.3 * t, 1.5 * torch.sin(3 * x + t)], 1)


class Ideal(nn.Module):
    """The truth with the variance that minimises the bound, as a network of two halves, for a chain with T steps."""

    def __init__(self, law, steps):
        super().__init__()
        path = TablePath(cosine_betas(steps))
        self.chain = DDPM(Truth(law, path, "eps"), law.shape, betas=cosine_betas(steps))

    def forward(self, x, t, y=None):
        i = (t * self.chain.steps).round().long()
        variance = improved_ddpm_theory.posterior_variance(self.chain, x, i)
        best = improved_ddpm_theory.optimal_variance(self.chain, variance, i).log()
        low, high = (table[i].log().to(x)[:, None] for table in (self.chain.least_variance, self.chain.beta))
        return torch.cat([self.chain(x, t), 2 * (best - low) / (high - low) - 1], 1)


# --------------------------------------------------------------------------------------------- the cosine schedule


@pytest.mark.fact("P1")
@pytest.mark.equation("improved-cosine")
@pytest.mark.parametrize(("steps", "first"), [(1000, 4.128e-5), (4000, 9.866e-6)])
def test_cosine_table(steps, first):
    """The product of 1 − β is f(i/T)/f(0) but for one clipped step, the last."""
    f = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    betas = cosine_betas(steps)
    alpha_bar = torch.cumprod(1 - betas, 0)
    expected = torch.tensor(f[1:], dtype=torch.float64) / f[0]
    torch.testing.assert_close(alpha_bar[:-1], expected[:-1], rtol=0, atol=1e-12)
    assert ((betas >= 0.999).nonzero().flatten() == torch.tensor([steps - 1])).all()
    assert betas[0].item() == pytest.approx(first, rel=1e-3)
    assert steps != 1000 or alpha_bar[-1].item() == pytest.approx(2.4e-9, rel=0.02)


@pytest.mark.fact("P1")
def test_first_noise_is_below_a_pixels_bin():
    assert cosine_betas(1000)[0].sqrt().item() == pytest.approx(0.00643, abs=1e-5)
    assert cosine_betas(1000)[0].sqrt() < 1 / 127.5


@pytest.mark.parametrize(("betas", "half", "lost"), [(linear_betas(), 368, 0.326), (cosine_betas(), 664, 0.064)])
def test_the_linear_schedule_wastes_its_end(betas, half, lost):
    """The step at which half of the signal is left, and the share of steps with a signal-to-noise ratio below 0.01."""
    alpha_bar = torch.cumprod(1 - betas, 0)
    assert int((alpha_bar.sqrt() >= 0.5).sum()) == pytest.approx(half, abs=1)
    assert (alpha_bar / (1 - alpha_bar) < 0.01).double().mean().item() == pytest.approx(lost, abs=6e-4)


@pytest.mark.fact("P2")
def test_the_two_variances_differ_at_the_first_steps_only():
    model = ImprovedDDPM(wavy, (1,), 4000)
    i = torch.tensor([2, 5, 10, 50])
    ratio = model.beta_tilde[i] / model.beta[i]
    torch.testing.assert_close(ratio, torch.tensor([0.4924, 0.7884, 0.8878, 0.9714]).double(), rtol=0, atol=5e-5)


# ------------------------------------------------------------------------------------------ the learned variance


@pytest.mark.equation("improved-variance")
def test_variance_is_a_geometric_interpolation():
    """r = −1, 0, 1 give β̃, √(ββ̃), β; elsewhere by the printed formula."""
    model, i = ImprovedDDPM(wavy, (3,), 50), torch.tensor([1, 2, 30, 50])
    tilde = torch.where(i == 1, model.beta_tilde[2], model.beta_tilde[i])
    for r, expected in ((-1.0, tilde), (0.0, (tilde * model.beta[i]).sqrt()), (1.0, model.beta[i])):
        got = model.reverse_variance(torch.full((4, 3), r, dtype=torch.float64), i)
        torch.testing.assert_close(got, expected[:, None].expand(4, 3))
    v = torch.rand(4, 3, dtype=torch.float64)
    printed = (v * model.beta[i].log()[:, None] + (1 - v) * tilde.log()[:, None]).exp()
    torch.testing.assert_close(model.reverse_variance(2 * v - 1, i), printed)


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 8, 8)], ids=str)
def test_contract(shape):
    """As a Denoiser the model is its first half; the mean is DDPM's; one network call a step."""
    calls = []
    model = ImprovedDDPM(lambda x, t, y: calls.append(t) or wavy(x, t), shape, 20, clip=1.0, levels=256)
    plain = DDPM(lambda x, t, y: wavy(x, t)[:, : shape[0]], shape, betas=cosine_betas(20), clip=1.0)
    x, i = torch.randn(5, *shape), torch.tensor([1, 2, 7, 19, 20])
    torch.testing.assert_close(model(x, i / 20), plain(x, i / 20))
    torch.testing.assert_close(model.reverse(x, i)[0], plain.reverse_mean(x, i)[0])
    assert model.reverse(x, i)[1].shape == x.shape
    x0 = torch.randint(0, 256, (5, *shape)) / 127.5 - 1
    assert model.loss(x0).shape == () == model.vlb_loss(x0).shape
    assert model.nelbo(x0).shape == (5,)
    calls.clear()
    assert model.sample(3).shape == (3, *shape) and len(calls) == 20
    calls.clear()
    assert model.strided(4).sample(3).shape == (3, *shape) and len(calls) == 4


def test_a_network_with_one_half_is_refused():
    with pytest.raises(ValueError, match="a learned variance needs a network with 2 output channels, got 1"):
        ImprovedDDPM(lambda x, t, y: x, (1, 8, 8), 10).loss(torch.randn(2, 1, 8, 8))


@pytest.mark.fact("P5")
@pytest.mark.equation("improved-optimal-variance")
@pytest.mark.parametrize("std", [0.0, 0.5, 1.0])
def test_best_variance_lies_between_the_two(std):
    """x_0 ~ N(0, s²) has Var(x_0 | x_i) = s²(1 − ᾱ)/(ᾱs² + 1 − ᾱ). A point needs β̃, unit Gaussian data β."""
    model, i = DDPM(wavy, (1,)), torch.arange(2, 1001)
    rest = 1 - model.alpha_bar[i]
    variance = (std**2 * rest / (model.alpha_bar[i] * std**2 + rest))[:, None]
    best = improved_ddpm_theory.optimal_variance(model, variance, i)[:, 0]
    assert (best >= model.beta_tilde[i] - 1e-15).all() and (best <= model.beta[i] + 1e-15).all()
    if std != 0.5:
        torch.testing.assert_close(best, (model.beta if std else model.beta_tilde)[i], rtol=0, atol=1e-15)


@pytest.mark.equation("improved-optimal-variance")
@pytest.mark.equation("improved-tweedie")
@pytest.mark.parametrize("i", [1, 3, 8, 15])
def test_best_variance_is_that_of_the_exact_reverse_law(i):
    """p(x_{i−1} | x_i) ∝ p(x_{i−1}) q(x_i | x_{i−1}) on a grid, for a mixture; its variance, and Var(x_0 | x_i)."""
    chain, i = Ideal(MIXTURE, 20).chain, torch.tensor(i)
    xt, grid = (
        torch.tensor([[-1.0], [0.1], [1.2]], dtype=torch.float64),
        torch.linspace(-9, 9, 60_001, dtype=torch.float64),
    )
    before, beta = chain.alpha_bar[i - 1], chain.beta[i]

    def variance(prior, scale, noise):  # of z given x_i = scale z + noise ε
        log_weight = prior.log_prob(grid[:, None]) - ((xt - scale * grid) / noise) ** 2 / 2
        weight = log_weight.softmax(1)
        mean = (weight * grid).sum(1, keepdim=True)
        return (weight * (grid - mean) ** 2).sum(1, keepdim=True)

    exact_x0 = variance(MIXTURE, chain.alpha_bar[i].sqrt(), (1 - chain.alpha_bar[i]).sqrt())
    exact = variance(MIXTURE.diffused(before.sqrt(), (1 - before).sqrt()), (1 - beta).sqrt(), beta.sqrt())
    got = improved_ddpm_theory.posterior_variance(chain, xt, i)
    torch.testing.assert_close(got, exact_x0, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(improved_ddpm_theory.optimal_variance(chain, got, i), exact, rtol=1e-6, atol=1e-9)


@pytest.mark.equation("improved-optimal-variance")
def test_the_best_variance_has_the_best_bound_and_gains_most_on_beta_at_few_steps():
    """L_vlb of a mixture, the mean exact: below both of DDPM's; the gain over σ² = β grows as T falls."""
    x0, gains = MIXTURE.sample(4000), []
    model = ImprovedDDPM(Ideal(MIXTURE, 100), (1,), 100)
    few = ImprovedDDPM(Ideal(MIXTURE, 10), (1,), 10)
    for learned in (model, few):
        bounds = []
        for variance in ("large", "small"):
            plain = DDPM(learned, (1,), betas=learned.beta[1:], variance=variance)  # its first half as the network
            torch.manual_seed(0)
            bounds.append(plain.nelbo(x0).mean().item())
        torch.manual_seed(0)
        gains.append([bound - learned.nelbo(x0).mean().item() for bound in bounds])
    assert all(gain > 0 for gain in itertools.chain(*gains))
    assert gains[1][0] > 2 * gains[0][0]


# ------------------------------------------------------------------------------------------------ the hybrid loss


@pytest.mark.fact("P5")
@pytest.mark.equation("improved-hybrid")
def test_the_bound_moves_the_variance_only():
    """∂L_hybrid/∂(mean head) does not depend on λ, exactly; the variance head has a gradient only through λ."""
    slopes = []
    for weight in (0.0, 0.001, 1.0):
        torch.manual_seed(0)
        head = torch.zeros(2, 2, requires_grad=True)  # added to the two halves
        net = lambda x, t, y, h=head: wavy(x, t) + h.flatten()  # noqa: E731
        ImprovedDDPM(net, (2,), 50, vlb_weight=weight).loss(torch.randn(64, 2)).backward()
        slopes.append(head.grad)
    assert torch.equal(slopes[0][0], slopes[1][0]) and torch.equal(slopes[0][0], slopes[2][0])
    assert (slopes[0][1] == 0).all() and (slopes[1][1] != 0).all()
    torch.testing.assert_close(1000 * slopes[1][1], slopes[2][1])


@pytest.mark.equation("improved-hybrid")
@pytest.mark.equation("improved-importance")
def test_the_losses_are_the_bound_in_bits_per_dimension():
    """E[loss] = L_simple + λ (L_0 + … + L_{T−1})/(D log 2), summed step by step; vlb_loss is its second part, with
    uniform and with very uneven steps."""
    n, weight = 100_000, 0.05
    mild = lambda x, t, y: wavy(x, t) / 2  # noqa: E731 - with variances within [β̃, β] few draws suffice
    model = ImprovedDDPM(mild, (3,), 4, vlb_weight=weight)
    x0 = torch.randn(n, 3, dtype=torch.float64) / 2
    terms = model.bound_terms(x0)[:, :-1].sum(1) / (3 * math.log(2))
    torch.manual_seed(1)
    simple = ImprovedDDPM(mild, (3,), 4, vlb_weight=0.0).loss(x0)
    torch.manual_seed(1)
    part = (model.loss(x0) - simple) / weight  # same draws: L_simple drops out
    assert part.item() == pytest.approx(terms.mean().item(), rel=0.02)
    simple_all = DDPM(lambda x, t, y: mild(x, t, y)[:, :3], (3,), betas=cosine_betas(4))
    assert simple.item() == pytest.approx(simple_all.loss(x0).item(), rel=0.02)
    assert model.vlb_loss(x0).item() == pytest.approx(terms.mean().item(), rel=0.02)
    model.importance.counts.fill_(10)
    model.importance.losses.copy_(torch.tensor([1.0, 5.0, 2.0, 0.5])[:, None])
    assert model.vlb_loss(x0).item() == pytest.approx(terms.mean().item(), rel=0.02)


# -------------------------------------------------------------------------------------------- importance sampling


@pytest.mark.fact("P4")
@pytest.mark.equation("improved-importance")
def test_no_other_law_of_steps_has_a_smaller_variance():
    """Losses of mean 5, 1, 0.2 and deviation 1, 0.5, 0.3: Σ E[L²]/p − (Σ E L)² is 4.825, uniform 43.7."""
    mean, std = torch.tensor([5.0, 1.0, 0.2]).double(), torch.tensor([1.0, 0.5, 0.3]).double()
    sampler = LossSecondMoment(3, history=10, uniform=0.0)
    for sign in (1, -1) * 5:
        sampler.record(torch.arange(1, 4), mean + sign * std)
    variance = lambda p: ((mean**2 + std**2) / p).sum(-1) - mean.sum() ** 2  # noqa: E731
    best = variance(sampler.probabilities()).item()
    assert best == pytest.approx(4.825, abs=5e-4)
    assert best == pytest.approx(((mean**2 + std**2).sqrt().sum() ** 2 - mean.sum() ** 2).item(), rel=1e-12)
    assert variance(torch.ones(3).double() / 3).item() == pytest.approx(43.7, abs=0.05)
    assert (variance(torch.distributions.Dirichlet(torch.full((3,), 5.0).double()).sample((2000,))) >= best).all()


def test_memory_is_that_of_a_sequential_one():
    """The last `history` losses of each step, appended one by one, with steps repeated within a batch; the samples'
    frequencies and weights."""
    sampler, kept = LossSecondMoment(5, history=3, uniform=0.01), [[] for _ in range(5)]
    for size in (2, 7, 30, 1, 12):
        assert (sampler.probabilities() == 0.2).all() or all(len(losses) >= 3 for losses in kept)
        i, losses = torch.randint(1, 6, (size,)), torch.rand(size)
        sampler.record(i, losses)
        for step, loss in zip(i.tolist(), losses.tolist()):
            kept[step - 1].append(loss)
    for ring, losses in zip(sampler.losses, kept):
        assert sorted(ring.tolist()) == pytest.approx(sorted(losses[-3:]))
    roots = torch.tensor([sum(v**2 for v in losses[-3:]) for losses in kept], dtype=torch.float64).sqrt()
    expected = 0.99 * roots / roots.sum() + 0.002
    torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-6, atol=0)
    i, probability = sampler.draw(100_000)
    torch.testing.assert_close(probability, expected[i - 1], rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.bincount(i, minlength=6)[1:] / 1e5, expected.float(), rtol=0, atol=0.01)


def test_memory_is_saved_with_the_model():
    model, other = ImprovedDDPM(wavy, (1,), 3), ImprovedDDPM(wavy, (1,), 3)
    for _ in range(20):
        model.vlb_loss(torch.randn(32, 1))
    other.load_state_dict(model.state_dict())
    assert (model.importance.probabilities() != 1 / 3).all()
    assert torch.equal(other.importance.probabilities(), model.importance.probabilities())


# ---------------------------------------------------------------------------------------------------- fewer steps


@pytest.mark.fact("P3")
@pytest.mark.equation("improved-strided")
@pytest.mark.parametrize("keep", [1, 7, 100, 1000])
def test_strided_betas_reproduce_the_marginals(keep):
    model = ImprovedDDPM(wavy, (1,), 1000)
    kept = improved_ddpm.sub_sequence(1000, keep)
    assert kept[-1] == 1000 and (keep == 1 or kept[0] == 1) and (kept.diff() > 0).all()
    betas = improved_ddpm.strided_betas(model.alpha_bar, kept)
    torch.testing.assert_close(torch.cumprod(1 - betas, 0), model.alpha_bar[kept], rtol=0, atol=1e-12)


@pytest.mark.equation("improved-strided")
def test_strided_model_is_the_same_network_on_its_own_steps():
    times = []
    model = ImprovedDDPM(lambda x, t, y: times.append(t[0].item()) or wavy(x, t), (2,), 50, clip=1.0)
    x = torch.randn(4, 2)
    few = model.strided(5)
    times.clear()
    few.sample(2)
    assert times == pytest.approx([i / 50 for i in (50, 38, 26, 13, 1)], abs=1e-7)
    k, i = torch.tensor([1, 3, 5, 5]), torch.tensor([1, 26, 50, 50])
    torch.testing.assert_close(few(x, k / 5), model(x, i / 50))
    torch.testing.assert_close(few.predict("x0", x, k.double() / 5), model.predict("x0", x, i.double() / 50))
    torch.testing.assert_close(model.strided(50).reverse(x, i), model.reverse(x, i))  # all steps: nothing changes
    times = torch.tensor([1, 13, 26, 38, 50]).double() / 50  # both variances anew, against DDIM's on the long path
    late, early = model.path.alpha(times[1:]) ** 2, model.path.alpha(times[:-1]) ** 2  # ᾱ
    torch.testing.assert_close(few.beta[2:], 1 - late / early, rtol=1e-9, atol=0)
    tilde = (1 - early) / (1 - late) * (1 - late / early)
    torch.testing.assert_close(few.beta_tilde[2:], tilde, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="keeps 1 to 50"):
        model.strided(51)


@pytest.mark.parametrize("keep", [200, 50])
def test_the_first_step_of_the_cosine_chain_magnifies_errors_of_epsilon(keep):
    """∂μ/∂ε̂ at i = T is √(ᾱ_{T−1}/ᾱ_T) to leading order: 32 because of the clip, far more on a sub-sequence."""
    model = ImprovedDDPM(lambda x, t, y: torch.cat([shift.expand_as(x), x], 1), (1,), 200).strided(keep)
    shift, x = torch.zeros(1, dtype=torch.float64, requires_grad=True), torch.randn(1, 1, dtype=torch.float64)
    (slope,) = torch.autograd.grad(model.reverse(x, torch.tensor(keep))[0].sum(), shift)
    magnified = (model.alpha_bar[-2] / model.alpha_bar[-1]).sqrt().item()
    assert -slope.item() == pytest.approx(magnified, rel=0.01)
    assert magnified == pytest.approx(0.001**-0.5, rel=1e-6) if keep == 200 else magnified > 100


# -------------------------------------------------------------------------------------------------------- learned


def test_learned_on_eight_gaussians():
    """Samples by all steps and by a quarter of them; the learned variance has a better bound than either fixed one."""
    law = plane.eight_gaussians()
    model = ImprovedDDPM(TimeMLP(2, out=4), (2,), 200, clip=3.0)
    batches = ((law.sample(512),) for _ in itertools.count())
    for _ in train(model, batches, steps=1500, lr=2e-3, decay="cosine"):
        pass
    model.eval()
    floor = metrics.noise_floor(metrics.sliced_w2, law.sample, 2000).mean
    torch.manual_seed(1)
    truth, x0 = law.sample(2000), law.sample(500)
    for sampler in (model, model.strided(50)):
        got = metrics.sliced_w2(sampler.sample(2000), truth).item()
        assert got < 2.5 * floor
    bounds = {}
    for name, chain in (
        ("learned", model),
        ("large", DDPM(model, (2,), betas=model.beta[1:], clip=3.0)),
        ("small", DDPM(model, (2,), betas=model.beta[1:], variance="small", clip=3.0)),
    ):
        torch.manual_seed(2)
        bounds[name] = chain.nelbo(x0).mean().item()
    assert bounds["learned"] < min(bounds["large"], bounds["small"])


def test_an_output_that_would_broadcast_is_refused():
    with pytest.raises(ValueError, match="must return"):
        ImprovedDDPM(Returns(1, 2), (1,), 5).loss(torch.randn(4, 1))


def test_the_bound_of_a_single_step_is_finite():
    model = ImprovedDDPM(net(4), (2,), betas=cosine_betas(50)).strided(1)
    assert model.nelbo(torch.ones(4, 2)).isfinite().all() and model.loss(torch.ones(4, 2)).isfinite()


# ------------------------------------------------------------------------------------------ what is clipped, guided


@pytest.mark.parametrize("loss", ["loss", "vlb_loss"])
def test_training_clips_nothing(loss):
    """The gradient is the same with clip = 0.1 and without; the bound that is reported does clip."""
    slopes, bounds, x0 = [], [], torch.randn(256, 2) / 2
    for clip in (None, 0.1):
        head = torch.zeros(4, requires_grad=True)
        model = ImprovedDDPM(lambda x, t, y, h=head: wavy(x, t) + h, (2,), 50, vlb_weight=1.0, clip=clip)
        torch.manual_seed(0)
        getattr(model, loss)(x0).backward()
        slopes.append(head.grad)
        torch.manual_seed(0)
        bounds.append(model.nelbo(x0[:4]))
    assert torch.equal(*slopes) and (slopes[0] != 0).all()
    assert not torch.allclose(*bounds)


def test_guidance_leaves_the_variance_alone():
    """Under any scale the second half is the conditional network's; the first is extrapolated."""

    class Labelled(nn.Module):  # the null label is 2
        def forward(self, x, t, y):
            return wavy(x, t) * (1 + y[:, None])

    net = Labelled()
    model = ImprovedDDPM(net, (3,), 20)
    x, t, y = torch.randn(5, 3), torch.full((5,), 0.4), torch.tensor([0, 1, 0, 1, 0])
    mean, r = model.halves(x, t, y)
    nothing, _ = model.halves(x, t, torch.full_like(y, 2))
    guided_mean, guided_r = model.with_network(Guided(net, 4.0, 2)).halves(x, t, y)
    assert torch.equal(guided_r, r)
    torch.testing.assert_close(guided_mean, nothing + 4 * (mean - nothing))


def test_the_strided_model_has_all_that_the_whole_has():
    """With every step kept it is the same model: its bound, with its decoder and its clip, and its loss, with λ."""
    model = ImprovedDDPM(wavy, (1, 4, 4), 20, vlb_weight=0.5, clip=0.3, levels=17, predicts="v")
    twin, x0 = model.strided(20), data.scale(torch.randint(0, 17, (6, 1, 4, 4)).byte(), 17)
    for measure in (lambda m: m.nelbo(x0), lambda m: m.loss(x0)):
        torch.manual_seed(0)
        expected = measure(model)
        torch.manual_seed(0)
        torch.testing.assert_close(measure(twin), expected)


def test_defaults():
    """T = 1,000, the cosine schedule, λ = 0.001, ten losses of each step, a thousandth of the uniform law."""
    model = ImprovedDDPM(net(4), (2,))
    assert (model.steps, model.vlb_weight) == (1000, 0.001)
    assert (model.importance.history, model.importance.uniform) == (10, 0.001)
    t = model.path.times(10)
    torch.testing.assert_close(model.path.alpha(t), TablePath(cosine_betas(1000)).alpha(t))


def test_the_defaults_are_the_papers_constants():
    """arXiv:2102.09672; arXiv:2102.09672 and its code."""
    assert {"s": 0.008, "most": 0.999}.items() <= defaults(cosine_betas).items()
    assert {"vlb_weight": 0.001, "history": 10}.items() <= defaults(ImprovedDDPM).items()
    assert {"history": 10, "uniform": 0.001}.items() <= defaults(LossSecondMoment).items()
