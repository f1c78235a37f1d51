"""NCSN against Gauss–Hermite quadrature, enumerated directions, variance recursions and the authors' settings."""

import itertools
import math

import numpy as np
import pytest
import torch
from specimen import Specimen, defaults, net

from gmbook import metrics
from gmbook.core.denoiser import Truth, ideal
from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import VPPath
from gmbook.core.solvers import last
from gmbook.laws import plane
from gmbook.networks.mlp import TimeMLP
from gmbook.papers import ncsn
from gmbook.papers.ncsn import NCSN, LevelPath
from gmbook.papers.theory import ncsn as ncsn_theory
from gmbook.train import train

SPECIMEN = Specimen(lambda: NCSN(net(), (2,), levels=4, per_level=5))

WALKS = {
    "annealed Langevin": lambda model: last(
        ncsn.annealed_langevin(
            model, model.prior(4), model.path.times(3), 2, 0.1 * model.path.sigma(model.path.times(3)[-1]).item() ** 2
        )
    ),
}

MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[-1.0, 0.5], [1.0, -0.3]], dtype=torch.float64),
    torch.tensor([[0.2, 0.3], [0.5, 0.25]], dtype=torch.float64),
)


def hermite(count=40):
    """Nodes (count, 1) and weights (count,) of the expectation under N(0, 1), exact for polynomials below 2·count."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(nodes)[:, None], torch.from_numpy(weights / weights.sum())


def bent(x):
    """Some score network with a full Jacobian."""
    mixed = x.flatten(1)
    return (torch.tanh(mixed + 0.5 * mixed.flip(1)) - 0.3 * mixed * mixed[:, :1]).view_as(x)


# ------------------------------------------------------------------------------------------------ score matching


@pytest.mark.fact("N1")
@pytest.mark.equation("ncsn-explicit")
@pytest.mark.equation("ncsn-implicit")
@pytest.mark.parametrize("score", [lambda x: -0.6 * x + 0.3, lambda x: 0.1 * x**3 - x], ids=["linear", "cubic"])
def test_implicit_is_explicit_minus_half_the_fisher_information(score):
    """p = N(0, 1), both expectations by quadrature that is exact for polynomials: ESM − ISM = ½E x² = ½."""
    x, weights = hermite()
    explicit = ncsn_theory.explicit_score_matching(score, x, lambda x: -x)
    implicit = ncsn_theory.implicit_score_matching(score, x)
    assert (weights @ (explicit - implicit)).item() == pytest.approx(0.5, abs=1e-13)


@pytest.mark.equation("ncsn-sliced")
def test_sliced_over_all_sign_vectors_is_implicit():
    """E vvᵀ = I holds exactly for the uniform law on {±1}^D: its mean is the implicit objective, gradients too."""
    x, gain = torch.randn(4, 3, dtype=torch.float64), torch.ones((), dtype=torch.float64, requires_grad=True)
    score = lambda x: gain * bent(x)  # noqa: E731
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    sliced = torch.stack([ncsn_theory.sliced_score_matching(score, x, v.expand_as(x)) for v in signs]).mean(0)
    implicit = ncsn_theory.implicit_score_matching(score, x)
    torch.testing.assert_close(sliced, implicit, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(loss.sum(), gain, retain_graph=True)[0] for loss in (sliced, implicit)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


@pytest.mark.fact("N5")
def test_directions_of_unit_length_estimate_the_trace_over_the_dimension():
    matrix = torch.randn(6, 6, dtype=torch.float64) + torch.eye(6, dtype=torch.float64)
    score, n = (lambda x: x @ matrix.T), 200_000
    x, v = torch.zeros(n, 6, dtype=torch.float64), torch.randn(n, 6, dtype=torch.float64)  # at x = 0 ‖s‖ = 0
    trace = matrix.trace().item()
    assert ncsn_theory.sliced_score_matching(score, x, v).mean().item() == pytest.approx(trace, rel=0.05)
    unit = v / v.norm(dim=1, keepdim=True)
    assert 6 * ncsn_theory.sliced_score_matching(score, x, unit).mean().item() == pytest.approx(trace, rel=0.05)


@pytest.mark.fact("N2")
@pytest.mark.equation("dsm-loss")
@pytest.mark.equation("dsm-equivalence")
@pytest.mark.parametrize("score", [lambda x: -0.6 * x + 0.3, lambda x: 0.1 * x**3 - x], ids=["linear", "cubic"])
def test_denoising_is_explicit_for_the_blurred_law_plus_a_constant(score):
    """x_0 ~ N(0, 1), σ = 0.7: DSM − ESM(q_σ) = ½(1/σ² − 1/(1 + σ²)) for any score, by quadrature over (x, ε)."""
    nodes, w = hermite(30)
    x, eps = nodes.repeat_interleave(30, 0), nodes.repeat(30, 1)
    weights, sigma = torch.outer(w, w).flatten(), torch.tensor(0.7, dtype=torch.float64)
    denoising = ncsn.denoising_score_matching(score, x, sigma, eps)
    explicit = ncsn_theory.explicit_score_matching(score, x + sigma * eps, lambda x: -x / 1.49)
    constant = (1 / 0.49 - 1 / 1.49) / 2
    assert constant == pytest.approx(0.684838, abs=1e-6)
    assert (weights @ (denoising - explicit)).item() == pytest.approx(constant, abs=1e-12)


@pytest.mark.fact("N3")
@pytest.mark.parametrize("predicts", ["score", "eps", "x0"])
def test_tweedie_and_the_score_of_the_blurred_mixture(predicts):
    """x + σ²s = E[x_0 | x], whatever the network predicts; and s by finite differences of the blurred log-density."""
    path = LevelPath(2.0, 0.1, 10)
    model = NCSN(Truth(MIXTURE, path, predicts), (2,), 2.0, 0.1, 10, predicts=predicts)
    x, t = 2 * torch.randn(9, 2, dtype=torch.float64), torch.tensor(6 / 9, dtype=torch.float64)
    sigma = path.sigma(t)
    score = model.predict("score", x, t)
    torch.testing.assert_close(x + sigma**2 * score, MIXTURE.posterior_mean(x, 1.0, sigma), rtol=1e-12, atol=1e-12)
    blurred, h = MIXTURE.diffused(torch.ones(()), sigma), 1e-5
    for k, axis in enumerate(torch.eye(2, dtype=torch.float64)):
        slope = (blurred.log_prob(x + h * axis) - blurred.log_prob(x - h * axis)) / (2 * h)
        torch.testing.assert_close(score[:, k], slope, rtol=0, atol=1e-8)


# ------------------------------------------------------------------------------------------- energy-based models


@pytest.mark.equation("ncsn-energy-gradient")
def test_data_minus_model_is_the_gradient_of_the_likelihood():
    """E = θ·(x, x², x⁴) on the line: autograd of mean E + log Z by quadrature, against the contrast with 20,000 even
    quantiles of the model in the place of draws."""
    theta = torch.tensor([0.3, -0.8, 0.2], dtype=torch.float64, requires_grad=True)
    energy = lambda x: torch.cat([x, x**2, x**4], 1) @ theta  # noqa: E731
    grid = torch.linspace(-6, 6, 120_001, dtype=torch.float64)[:, None]
    data = torch.tensor([[-1.2], [0.4], [1.9]], dtype=torch.float64)
    log_z = torch.logsumexp(-energy(grid), 0) + math.log(1e-4)
    (exact,) = torch.autograd.grad(energy(data).mean() + log_z, theta, retain_graph=True)
    below = torch.softmax(-energy(grid), 0).detach().cumsum(0)
    drawn = grid[torch.searchsorted(below, (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)]
    (contrast,) = torch.autograd.grad(ncsn_theory.energy_contrast(energy, data, drawn), theta)
    torch.testing.assert_close(contrast, exact, rtol=0, atol=5e-3)


@pytest.mark.parametrize("steps", [1, 4])
def test_contrastive_divergence_of_a_gaussian_energy(steps):
    """E = θx²/2 on data N(m, s²): the chain's mean and variance by recursion; its gradient is half the fall of E x²."""
    torch.manual_seed(0)
    theta, mean, std, size = torch.tensor(1.7, dtype=torch.float64, requires_grad=True), 0.6, 0.5, 0.3
    x = mean + std * torch.randn(400_000, 1, dtype=torch.float64)
    (slope,) = torch.autograd.grad(
        ncsn_theory.contrastive_divergence(lambda x: theta * x[:, 0] ** 2 / 2, x, size, steps), theta
    )
    moved, variance = mean, std**2
    for _ in range(steps):
        moved, variance = (1 - size * 1.7 / 2) * moved, (1 - size * 1.7 / 2) ** 2 * variance + size
    assert slope.item() == pytest.approx((mean**2 + std**2 - moved**2 - variance) / 2, abs=4e-3)


# ------------------------------------------------------------------------------------------------------ the model


@pytest.mark.equation("ncsn-levels")
def test_levels_are_geometric_and_fall():
    model = NCSN(lambda x, t, y: x, (2,))
    sigmas = model.path.sigma(model.times)
    assert (len(sigmas), sigmas[0].item(), sigmas[-1].item()) == (10, pytest.approx(1.0), pytest.approx(0.01))
    ratio = torch.full((9,), 100 ** (1 / 9), dtype=torch.float64)  # 1.6681
    torch.testing.assert_close(sigmas[:-1] / sigmas[1:], ratio)


@pytest.mark.equation("ncsn-levels")
@pytest.mark.parametrize("steps", [1, 3, 9, 40])
def test_samplers_stop_only_at_levels(steps):
    ts = LevelPath(1.0, 0.01, 10).times(steps, 2.0)
    assert (ts[0], ts[-1], len(ts)) == (1, 0, steps + 1)
    torch.testing.assert_close(9 * ts, (9 * ts).round(), rtol=0, atol=1e-12)
    assert (ts.diff() <= 0).all()


@pytest.mark.equation("ncsn-loss")
@pytest.mark.parametrize("power", [2.0, 0.0])
def test_with_square_weights_all_levels_count_alike(power):
    """The score 0 costs ½σ^p E‖ε‖²/σ² per dimension: ½ at every level for p = 2, the smallest level alone for p = 0."""
    model = NCSN(lambda x, t, y: torch.zeros_like(x), (3,), power=power)
    sigmas = 0.01 ** (torch.arange(10) / 9)
    torch.testing.assert_close(
        model.loss(torch.randn(100_000, 3)), (sigmas ** (power - 2) / 2).mean(), rtol=0.02, atol=0
    )


@pytest.mark.equation("ncsn-loss")
@pytest.mark.parametrize("predicts", ["score", "eps", "x0", "v"])
def test_the_truth_is_the_minimum_whatever_is_predicted(predicts):
    law, losses = MIXTURE, []
    truth, x0 = Truth(law, LevelPath(2.0, 0.1, 10), predicts), law.sample(20_000)
    for scale in (0.9, 1.0, 1.1):
        torch.manual_seed(1)
        net = lambda x, t, y, s=scale: s * truth(x, t)  # noqa: E731
        losses.append(NCSN(net, (2,), 2.0, 0.1, 10, predicts=predicts).loss(x0).item())
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_all_readings_of_one_network_have_one_loss():
    """λ = σ² makes the loss ½(ε̂ − ε)² whatever the network predicts."""
    truth, x0, losses = ideal(MIXTURE, LevelPath(2.0, 0.1, 10)), MIXTURE.sample(50), []
    for predicts in ("score", "eps", "velocity"):
        torch.manual_seed(1)
        net = lambda x, t, y, q=predicts: truth.predict(q, x, t)  # noqa: E731
        losses.append(NCSN(net, (2,), 2.0, 0.1, 10, predicts=predicts).loss(x0).item())
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)


def test_a_network_without_the_level_suffices_in_many_dimensions_only():
    """A point at the origin: x = σε, and √D x/‖x‖ guesses ε without σ. Its error is 1/(2D) in many dimensions; in two
    it is 2 − √2·E‖ε‖, a quarter of ε's variance."""
    errors = []
    for dims in (2, 1024):
        net = ncsn.Unconditional(lambda x, t, y: len(x[0]) ** 0.5 * x / x.norm(dim=1, keepdim=True))
        errors.append(2 * NCSN(net, (dims,)).loss(torch.zeros(4000, dims)).item())
    exact = 2 - 2 * math.sqrt(2) * math.sqrt(math.pi / 2) / 2  # per dimension: (E‖ε‖² + D − 2√D E‖ε‖)/D
    assert errors[0] == pytest.approx(exact, rel=0.05)
    assert errors[1] == pytest.approx(1 / 2048, rel=0.1)


# ------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.fact("N4")
@pytest.mark.equation("ncsn-level-variance")
@pytest.mark.parametrize(("rule", "published"), [(ncsn.paper_step, 1.0526), (ncsn.code_step, 1.1111)])
def test_the_bias_of_langevin_dynamics_with_the_papers_step_and_the_codes(rule, published):
    """ε = 2e-5 at σ_L = 0.01, as published: the variance by recursion, step by step, and its limit."""
    relative, variance, ratio = rule(2e-5, 1.0) / 0.01**2, 1.6681**2, 1.6681
    for steps in range(1, 2001):
        variance = (1 - relative / 2) ** 2 * variance + relative
        if steps in (1, 100, 2000):
            assert ncsn.level_variance(relative, ratio, steps) == pytest.approx(variance, abs=1e-10)
    assert variance == pytest.approx(1 / (1 - relative / 4), abs=1e-10)
    assert variance == pytest.approx(published, abs=5e-5)


@pytest.mark.equation("ncsn-annealed")
@pytest.mark.parametrize("rule", [ncsn.paper_step, ncsn.code_step])
@pytest.mark.parametrize("path", [LevelPath(1.0, 0.1, 4), VPPath()], ids=["VE", "VP"])
def test_annealed_dynamics_has_the_variance_of_its_recursion(path, rule):
    """A single data point at the origin: at every level, in units of σ²/α², the variance follows the recursion."""
    torch.manual_seed(0)
    point = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([1e-12]))
    model, per_level = ideal(point, path), 3
    ts = torch.tensor([1.0, 2 / 3, 1 / 3], dtype=torch.float64)
    noise = path.sigma(ts) / path.alpha(ts)
    epsilon = 0.1 * path.sigma(ts[-1]).item() ** 2
    relative = rule(0.1, 1.0)
    x = path.sigma(ts[0]).float() * torch.randn(100_000, 1)
    states = list(ncsn.annealed_langevin(model, x, ts, per_level, epsilon, rule))
    assert len(states) == 3 * per_level + 1
    variance = 1.0
    for level, t in enumerate(ts):
        for _ in range(per_level):
            variance = (1 - relative / 2) ** 2 * variance + relative
        got = states[(level + 1) * per_level - 1].var() / path.sigma(t).float() ** 2
        assert got.item() == pytest.approx(variance, rel=0.02)  # 4 standard errors
        if level < 2:
            variance = variance * ((noise[level] / noise[level + 1]) ** 2).item()
    assert states[-1].abs().max() < 1e-4  # denoised: the point itself


def test_the_last_state_before_denoising_can_be_had():
    model = NCSN(lambda x, t, y: 0.1 * x, (2,), levels=3, per_level=2)
    options = {"ts": model.times, "per_level": 2}
    torch.manual_seed(0)
    noisy = list(ncsn.annealed_langevin(model, torch.zeros(3, 2), denoise=False, **options))
    torch.manual_seed(0)
    clean = list(ncsn.annealed_langevin(model, torch.zeros(3, 2), **options))
    assert (len(noisy), len(clean)) == (6, 7)
    score = model.predict("score", noisy[-1], torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(clean[-1], noisy[-1] + 0.01**2 * score)


def test_annealing_finds_the_weights_that_plain_dynamics_misses():
    """The paper's toy: ⅕N((−5, −5), I) + ⅘N((5, 5), I), both from uniform noise, σ from 10 to 0.1 in ten levels."""
    law = GaussianMixture(torch.tensor([0.2, 0.8]), torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), torch.ones(2))
    path, start = LevelPath(10.0, 0.1, 10), 16 * torch.rand(1000, 2) - 8
    share = lambda x: (x.sum(1) > 0).float().mean().item()  # noqa: E731
    annealed = last(ncsn.annealed_langevin(ideal(law, path), start, path.times(9), 100, 0.1**2 * 0.2))
    plain = last(ncsn.annealed_langevin(ideal(law, path), start, torch.zeros(1).double(), 1000, 0.1))
    assert share(annealed) == pytest.approx(0.8, abs=0.05)
    assert share(plain) < 0.65


# -------------------------------------------------------------------------------------------------- NCSNv2's rules


def test_widest_pair():
    x = torch.randn(40, 1, 3, 3, dtype=torch.float64)
    widest = max((a - b).norm().item() for a, b in itertools.combinations(x, 2))
    assert ncsn.widest_pair(x).item() == pytest.approx(widest, rel=1e-6)


@pytest.mark.equation("ncsn-overlap")
@pytest.mark.parametrize("ratio", [1.02, 1.0398, 1.06])
def test_overlap_is_the_share_within_the_shell_of_the_level_before(ratio):
    """Norms of D = 3072 Gaussian coordinates at σ = 1, simulated, and the shell γ(√D ± 3/√2) of σ = γ."""
    norms = torch.distributions.Chi2(torch.tensor(3072.0)).sample((100_000,)).sqrt()
    share = ((norms / ratio - math.sqrt(3072)).abs() < 3 / math.sqrt(2)).float().mean().item()
    assert ncsn.level_overlap(ratio, 3072) == pytest.approx(share, abs=0.01)


def test_ratio_of_levels():
    assert ncsn.level_overlap(ncsn.level_ratio(3072), 3072) == pytest.approx(0.5, abs=1e-9)
    assert ncsn.level_ratio(3072) == pytest.approx(1.0398, abs=1e-4)
    assert ncsn.levels_between(50, 0.01, ncsn.level_ratio(3072)) == 220  # the authors took 232
    assert ncsn.levels_between(1.0, 0.01, 100 ** (1 / 9)) == 10
    with pytest.raises(ValueError, match="levels of any ratio overlap in 2 dimensions"):
        ncsn.level_ratio(2)


@pytest.mark.parametrize(
    ("sigma_max", "levels", "per_level", "published"),
    [(50, 232, 5, 6.2e-6), (90, 500, 5, 3.3e-6), (348, 2311, 3, 0.9e-6)],
    ids=["CIFAR-10", "CelebA", "FFHQ"],
)
def test_best_step_gives_the_authors_own(sigma_max, levels, per_level, published):
    """ε, from σ_1, L and T of the configuration files of NCSNv2's repository (σ_L = 0.01), rounded as they do.

    Their file for LSUN church (σ_1 = 140, L = 788, T = 4) has 4.9e-6, where the rule gives 2.3e-6.
    """
    ratio = (sigma_max / 0.01) ** (1 / (levels - 1))
    assert ncsn.best_step(0.01, ratio, per_level) == pytest.approx(published, abs=0.05e-6)


# -------------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 8, 8)], ids=str)
def test_contract(shape):
    calls = []
    model = NCSN(lambda x, t, y: calls.append(t) or 0.1 * x, shape, levels=4, per_level=3)
    x0 = torch.rand(5, *shape)
    assert model.loss(x0).shape == () and len(calls) == 1
    calls.clear()
    assert model.sample(3).shape == (3, *shape) and len(calls) == 4 * 3 + 1
    for loss in (
        ncsn_theory.explicit_score_matching(bent, x0, torch.neg),
        ncsn_theory.implicit_score_matching(bent, x0),
        ncsn_theory.sliced_score_matching(bent, x0, torch.randn_like(x0)),
        ncsn.denoising_score_matching(bent, x0, torch.rand(5), torch.randn_like(x0)),
    ):
        assert loss.shape == (5,)
    with pytest.raises(ValueError, match="at least 2"):
        NCSN(bent, shape, levels=1)
    with pytest.raises(ValueError, match="expected a batch of shape"):
        model.loss(torch.rand(5, 7))


@pytest.fixture(scope="module")
def trained():
    """A network on eight Gaussians, σ from 4 to 0.05 in 40 levels, and its law."""
    torch.manual_seed(0)
    law = plane.eight_gaussians()
    model = NCSN(TimeMLP(2), (2,), 4.0, 0.05, 40, per_level=10, step=0.2 * 0.05**2)
    batches = ((law.sample(512),) for _ in itertools.count())
    for _ in train(model, batches, steps=2000, lr=2e-3, decay="cosine"):
        pass
    return model.eval(), law


def test_learned_score_is_near_the_blurred_laws(trained):
    """Relative L2 error over samples of q_σ, for σ = 4, 0.45 and 0.12."""
    model, law = trained
    for t, most in ((1.0, 0.1), (0.5, 0.15), (0.2, 0.15)):
        t = torch.tensor(round(t * 39) / 39, dtype=torch.float64)
        blurred = law.diffused(torch.ones(()), model.path.sigma(t))
        x = blurred.sample(4000)
        with torch.no_grad():
            error = model.predict("score", x, t) - blurred.score(x)
        assert error.norm() < most * blurred.score(x).norm()


def test_learned_samples_are_near_the_law(trained):
    model, law = trained
    floor = metrics.noise_floor(metrics.sliced_w2, law.sample, 2000).mean
    torch.manual_seed(1)
    assert metrics.sliced_w2(model.sample(2000), law.sample(2000)).item() < 2.5 * floor


def test_no_step_at_a_level_is_refused():
    model = SPECIMEN.build()
    with pytest.raises(ValueError, match="per_level must be at least 1, got 0"):
        last(ncsn.annealed_langevin(model, model.prior(4), model.times, 0))


def test_the_default_step_is_the_papers():
    model, ends = NCSN(lambda x, t, y: 0.1 * x, (2,), levels=3), []
    for options in ({}, {"rule": ncsn.paper_step}, {"rule": ncsn.code_step}):
        torch.manual_seed(0)
        ends.append(last(ncsn.annealed_langevin(model, torch.zeros(3, 2), model.times, 2, **options)))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_an_unconditional_network_is_not_told_the_level():
    seen = []
    net = ncsn.Unconditional(lambda x, t, y: seen.append((t, y)) or x)
    y = torch.tensor([1, 0])
    net(torch.zeros(2, 2), torch.tensor([0.3, 0.9]), y)
    assert torch.equal(seen[0][0], torch.zeros(2)) and seen[0][1] is y


def test_a_guide_in_annealed_dynamics_gives_the_posterior():
    """Prior N(0, 1), y = x + N(0, ½²) = 1.5: at one level, to equilibrium, x_t given y is N(1.2, σ² + 0.2)."""
    law, path = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1)), LevelPath(5.0, 0.2, 20)

    def guide(x, t):  # x_0 | x_t is N(x_t/(1 + σ²), σ²/(1 + σ²))
        shrink, rest = 1 / (1 + path.sigma(t) ** 2), path.sigma(t) ** 2 / (1 + path.sigma(t) ** 2)
        return (shrink * (1.5 - shrink * x.double()) / (rest + 0.25)).to(x)

    ts, options = torch.zeros(1, dtype=torch.float64), {"per_level": 300, "step": 0.02, "denoise": False}
    x = last(ncsn.annealed_langevin(ideal(law, path), torch.randn(20_000, 1), ts, guide=guide, **options))
    bias = 1 - 0.02 / 4 / 0.24  # of Langevin dynamics, langevin-bias
    assert x.mean().item() == pytest.approx(1.2, abs=6 * (0.24 / 20_000) ** 0.5)
    assert x.var().item() == pytest.approx(0.24 / bias, rel=6 * 0.01)


def test_the_defaults_are_the_papers_constants():
    """arXiv:1907.05600; arXiv:2206.00364."""
    assert {"sigma_max": 1.0, "sigma_min": 0.01, "levels": 10, "per_level": 100, "step": 2e-05}.items() <= defaults(
        ncsn.NCSN
    ).items()
    assert {"per_level": 100, "step": 2e-05}.items() <= defaults(ncsn.annealed_langevin).items()
    assert {"rho": 7.0}.items() <= defaults(LevelPath.karras_times).items()
