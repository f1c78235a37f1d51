"""GANs, against exact finite laws, quadrature, eigenvalues, and a known ring."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
from specimen import Returns, Specimen, defaults, same_after_copies
from torch import nn

from gmbook.core.gaussians import GaussianMixture
from gmbook.core.solvers import last, rk4
from gmbook.networks.conv import Decoder, Encoder
from gmbook.networks.mlp import MLP
from gmbook.papers import gan
from gmbook.papers.gan import GAN, gradient_penalty, hinge, minimax, non_saturating, r1, spectral, wasserstein
from gmbook.papers.theory.gan import DIVERGENCES, dirac_gan, dirac_steps, optimal_logit, r1_slope

SPECIMEN = Specimen(lambda: GAN(MLP(3, 2, 16), MLP(2, 1, 16), (2,), 3), labels=False)


def mlp(*sizes):
    layers = [m for i, o in zip(sizes, sizes[1:]) for m in (nn.Linear(i, o), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers[:-1])


def finite_value(p_d, p_g, logit):
    """V(D, G) on a finite law: minus the discriminator's loss."""
    return -(p_d * minimax.real(logit) + p_g * minimax.fake(logit)).sum()


@pytest.mark.fact("G1")
@pytest.mark.equation("gan-value")
@pytest.mark.equation("gan-optimal")
@pytest.mark.equation("gan-jsd")
def test_value_at_the_optimal_discriminator():
    """V(D*, G) = −log 4 + 2 JSD on random six-atom laws, and every other D is worse."""
    torch.manual_seed(0)
    p_d, p_g = torch.distributions.Dirichlet(torch.ones(6, dtype=torch.float64)).sample((2,))
    best = optimal_logit(p_d.log(), p_g.log())
    mean = (p_d + p_g) / 2
    jsd = (p_d * (p_d / mean).log() + p_g * (p_g / mean).log()).sum() / 2
    value = finite_value(p_d, p_g, best)
    assert abs(value - (-math.log(4) + 2 * jsd)) < 1e-12
    for _ in range(50):
        assert finite_value(p_d, p_g, best + 1e-2 * torch.randn(6, dtype=torch.float64)) < value
    assert abs(finite_value(p_d, p_d, torch.zeros_like(p_d)) + math.log(4)) < 1e-12  # p_g = p_d: the minimum


def test_both_orders_of_the_game_have_one_value_and_other_inner_answers():
    """Six atoms. V is linear in p_g, so the least over all generators is at an atom: the brightest, a collapsed one.
    No discriminator holds all generators above −log 4, and D = ½ holds them all there exactly."""
    torch.manual_seed(0)
    p_d = torch.distributions.Dirichlet(torch.ones(6, dtype=torch.float64)).sample()
    others = torch.distributions.Dirichlet(torch.ones(6, dtype=torch.float64)).sample((200,))
    for logit in torch.randn(50, 6, dtype=torch.float64):
        atoms = torch.stack([finite_value(p_d, atom, logit) for atom in torch.eye(6, dtype=torch.float64)])
        assert atoms.argmin() == logit.argmax() and atoms.min() < -math.log(4)
        d = torch.sigmoid(logit)
        torch.testing.assert_close(atoms, (p_d * d.log()).sum() + (1 - d).log())
        assert all(finite_value(p_d, p_g, logit) >= atoms.min() for p_g in others)
    undecided = torch.zeros(6, dtype=torch.float64)
    for p_g in others:
        assert finite_value(p_d, p_g, undecided).item() == pytest.approx(-math.log(4), abs=1e-12)


@pytest.mark.equation("gan-jsd")
def test_disjoint_laws():
    """JSD = log 2, so V(D*) = 0: the discriminator is certain and its loss tells nothing about distance."""
    p_d, p_g = torch.tensor([0.5, 0.5, 0, 0]), torch.tensor([0, 0, 0.5, 0.5])
    assert abs(finite_value(p_d, p_g, torch.tensor([60.0, 60, -60, -60]))) < 1e-12


@pytest.mark.fact("G2")
@pytest.mark.equation("gan-non-saturating-gradient")
@pytest.mark.equation("gan-saturating-gradient")
def test_gradient_at_the_optimal_discriminator():
    """∇_θ E[−log D*] = ∇_θ [KL(p_g ‖ p_d) − 2 JSD] for p_g = N(θ, 1), p_d = N(0, 1.5²), D* frozen: 0.157956."""
    x = torch.linspace(-14, 14, 40_001, dtype=torch.float64)
    dx = x[1] - x[0]
    data = torch.distributions.Normal(torch.tensor(0.0).double(), 1.5)

    def divergence(theta):
        log_g, log_d = torch.distributions.Normal(theta, 1.0).log_prob(x), data.log_prob(x)
        log_m = torch.logaddexp(log_g, log_d) - math.log(2)
        jsd = (log_g.exp() * (log_g - log_m) + log_d.exp() * (log_d - log_m)).sum() / 2
        return (log_g.exp() * (log_g - log_d)).sum() * dx, jsd * dx

    theta = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    frozen = torch.distributions.Normal(theta.detach(), 1.0)
    z, weight = x, torch.distributions.Normal(torch.tensor(0.0).double(), 1.0).log_prob(x).exp() * dx
    fake = z + theta
    gradients = {}
    for game in (non_saturating, minimax):
        loss = (weight * game.generator(optimal_logit(data.log_prob(fake), frozen.log_prob(fake)))).sum()
        gradients[game] = torch.autograd.grad(loss, theta, retain_graph=True)[0]
    kl, jsd = divergence(theta)
    (expected,) = torch.autograd.grad(kl - 2 * jsd, theta, retain_graph=True)
    (of_jsd,) = torch.autograd.grad(2 * jsd, theta)
    assert abs(gradients[non_saturating] - expected) < 1e-6 and abs(expected - 0.157956) < 1e-6
    assert abs(gradients[minimax] - of_jsd) < 1e-6
    assert abs(gradients[minimax] - expected) > 1e-2  # the game that the value function describes is another one


@pytest.mark.fact("G3")
@pytest.mark.equation("gan-non-saturating")
def test_saturation():
    """At ℓ = −6, a discriminator that is sure, the two generators feel 0.00247 and 0.9975."""
    slope = {}
    for game in (minimax, non_saturating):
        logit = torch.tensor(-6.0, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(game.generator(logit), logit)
        slope[game] = gradient.item()
    assert math.isclose(slope[minimax], -0.00247, abs_tol=5e-6)
    assert math.isclose(slope[non_saturating], -0.9975, abs_tol=5e-5)


@pytest.mark.fact("G4")
@pytest.mark.equation("gan-dirac")
@pytest.mark.parametrize("game", [minimax, non_saturating], ids=["minimax", "non-saturating"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5])
def test_dirac_gan_eigenvalues(game, gamma):
    field = dirac_gan(game, gamma)
    jacobian = torch.autograd.functional.jacobian(lambda s: field(s[None])[0], torch.zeros(2, dtype=torch.float64))
    expected = -gamma / 2 + np.array([-1, 1]) * np.sqrt(complex(gamma**2 / 4 - 0.25))
    got = np.linalg.eigvals(jacobian.numpy())
    assert abs(np.sort_complex(got) - np.sort_complex(expected)).max() < 1e-7


def radii(game, gamma, times, start=0.5, fine=0.05):
    """r at the given times along the flow, by RK4."""
    state, found, now = torch.tensor([[start, 0.0]], dtype=torch.float64), [], 0.0
    for time in times:
        ts = torch.linspace(now, time, max(2, round((time - now) / fine)), dtype=torch.float64)
        state, now = last(rk4(lambda s, t: dirac_gan(game, gamma)(s).detach(), state, ts)), time
        found.append(state.norm().item())
    return found


@pytest.mark.equation("gan-dirac")
def test_r1_makes_the_dirac_gan_converge_exponentially():
    assert radii(non_saturating, 1.0, [60.0])[0] < 1e-6


@pytest.mark.equation("gan-dirac-radius")
def test_the_saturating_dirac_gan_keeps_its_radius_and_the_other_comes_in_slowly():
    """dr²/dτ = −2θψ tanh(θψ/2) by autograd; over long times r = (1/r_0² + τ/8)^{−½} within 3 %."""
    torch.manual_seed(0)
    state = torch.randn(20, 2, dtype=torch.float64)
    theta, psi = state.unbind(1)
    for game, rate in ((minimax, 0 * theta), (non_saturating, -2 * theta * psi * torch.tanh(theta * psi / 2))):
        assert ((2 * state * dirac_gan(game)(state)).sum(1) - rate).abs().max() < 1e-12
    assert radii(minimax, 0.0, [60.0])[0] == pytest.approx(0.5, abs=1e-6)
    for time, radius in zip((60.0, 240.0), radii(non_saturating, 0.0, (60.0, 240.0))):
        assert radius == pytest.approx((1 / 0.25 + time / 8) ** -0.5, rel=0.03)


@pytest.mark.equation("gan-dirac-radius")
def test_simultaneous_steps_end_on_a_loop_of_known_radius():
    """Steps of h gain h²r²/4, the losses' curvature takes h r⁴/8: they balance at r = √(2h), here .632."""
    start = torch.tensor([[0.3, 0.0], [1.2, 0.0]], dtype=torch.float64)
    ends = torch.stack(list(dirac_steps(dirac_gan(), start, 0.2, 3000)))[-200:].norm(dim=2).mean(0)
    assert (ends / math.sqrt(0.4) - 1).abs().max() < 0.05


def test_in_alternating_steps_the_discriminator_moves_first():
    """One step from (θ, ψ) = (1, 0) by hand: ψ moves against θ, and θ feels the ψ that moved."""
    state, h = torch.tensor([[1.0, 0.0]], dtype=torch.float64), 0.2
    _, after = dirac_steps(dirac_gan(), state, h, 1, alternating=True)
    psi = -h / 2  # −θ sigmoid(0)
    assert after[0].tolist() == pytest.approx([1 + h * psi / (1 + math.exp(psi)), psi], abs=1e-12)


@pytest.mark.equation("gan-dirac-steps")
@pytest.mark.parametrize("gamma", [0.0, 0.3])
@pytest.mark.parametrize("alternating", [False, True])
def test_dirac_steps_grow_at_the_eigenvalues_rate(gamma, alternating):
    """From 1e-6 away, where the game is linear, over many turns: |λ| per step, by the distance after 1,000 steps."""
    size, steps, start = 0.1, 2000, torch.tensor([[1e-6, 0.0]], dtype=torch.float64)
    states = torch.stack(list(dirac_steps(dirac_gan(gamma=gamma), start, size, steps, alternating)))[:, 0]
    turn = 2 * math.pi / (size * math.sqrt(0.25 - gamma**2 / 4))  # steps per turn, nearly: the mean over one is taken
    sizes = states.norm(dim=1).log()
    early, late = sizes[: round(turn)].mean(), sizes[1000 : 1000 + round(turn)].mean()
    expected = math.sqrt(1 - gamma * size + (0 if alternating else size**2 / 4))
    assert abs((late - early) / 1000 - math.log(expected)) < 3e-5


def test_dirac_with_a_gradient_penalty_circles():
    """Its penalty wants |ψ| = 1 where the equilibrium has ψ = 0. On each side of ψ = 0 the flow is a damped oscillator
    about ±2λ, so the loop that closes has the turning point a = 2λ + e(a + 2λ), with e the shrinkage in half a turn.
    """
    weight = 0.1
    field = dirac_gan(gan.wasserstein, weight=weight)
    start = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    late = torch.stack(list(dirac_steps(field, start, 0.01, 5000, alternating=True)))[3000:, 0]
    shrink = math.exp(-math.pi * weight / math.sqrt(1 - weight**2))
    assert abs(late[:, 0].max() / (2 * weight * (1 + shrink) / (1 - shrink)) - 1) < 0.03


@pytest.mark.equation("gan-score-difference")
def test_gradient_of_the_optimal_logit():
    """∇ℓ* by autograd is the difference of the mixtures' scores in closed form."""
    torch.manual_seed(0)
    laws = [
        GaussianMixture(torch.ones(5).double(), torch.randn(5, 3).double(), 0.2 + torch.rand(5).double())
        for _ in range(2)
    ]
    x = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(optimal_logit(*(law.log_prob(x) for law in laws)).sum(), x)
    torch.testing.assert_close(gradient, laws[0].score(x) - laws[1].score(x), rtol=1e-9, atol=1e-9)


@pytest.mark.fact("G5")
@pytest.mark.equation("gan-wasserstein")
def test_wasserstein_of_a_shift():
    """The critic ℓ(x) = x, 1-Lipschitz, attains W_1(N(0, 1), N(θ, 1)) = |θ|, which the quantiles give."""
    u = (np.arange(200_000) + 0.5) / 200_000
    generated, data = scipy.stats.norm.ppf(u, 0, 1), scipy.stats.norm.ppf(u, 2.3, 1)
    game = gan.wasserstein
    dual = -(game.real(torch.from_numpy(data)).mean() + game.fake(torch.from_numpy(generated)).mean())
    assert abs(np.abs(data - generated).mean() - 2.3) < 1e-9 and abs(dual - 2.3) < 1e-9


@pytest.mark.equation("gan-wasserstein")
def test_no_lipschitz_critic_beats_the_optimal_transport():
    """Over 1-Lipschitz critics the game's value is at most W_1, here by scipy; the best one reaches it."""
    x, p, q = torch.tensor([[0.0, 1.0, 3.0], [0.5, 0.2, 0.3], [0.1, 0.8, 0.1]]).double()
    w1 = scipy.stats.wasserstein_distance(x, x, p, q)

    def value(f):
        return -((p * wasserstein.real(f)).sum() + (q * wasserstein.fake(f)).sum())

    slopes = torch.cartesian_prod(*[torch.linspace(-1, 1, 21).double()] * 2)  # of f between neighbours
    values = torch.stack([value(torch.cat([x.new_zeros(1), (s * x.diff()).cumsum(0)])) for s in slopes])
    assert values.max().item() == pytest.approx(w1, abs=1e-6) and wasserstein.generator(x).tolist() == (-x).tolist()


@pytest.mark.equation("gan-f-bound")
@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_variational_bound_of_each_divergence(name):
    """E_p T − E_q f*(T) ≤ D_f for any logits, equality at the log ratio; f* by scipy's search; f' by autograd."""
    torch.manual_seed(0)
    divergence = DIVERGENCES[name]
    p, q = torch.distributions.Dirichlet(torch.ones(6, dtype=torch.float64)).sample((2,))
    game, exact = divergence.game(), divergence.between(p, q)

    def value(logit):
        return -(p * game.real(logit) + q * game.fake(logit)).sum()

    best = optimal_logit(p.log(), q.log())
    assert abs(value(best) - exact) < 1e-12 and divergence.f(torch.ones(1).double()).abs() < 1e-12
    for _ in range(50):
        assert value(best + torch.randn(6, dtype=torch.float64)) <= exact + 1e-12
    u = torch.tensor([0.3, 0.7, 1.6, 4.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(divergence.f(u).sum(), u)
    torch.testing.assert_close(slope, divergence.slope(u).detach(), rtol=1e-10, atol=1e-10)
    for ratio, t in zip(u.tolist(), slope):
        line = torch.exp(torch.linspace(-8, 8, 400_001, dtype=torch.float64))
        conjugate = (t * line - divergence.f(line)).max()  # sup_u (tu − f(u))
        assert abs(conjugate - game.fake(torch.tensor(math.log(ratio)).double())) < 1e-6


@pytest.mark.equation("gan-f-bound")
def test_known_divergences():
    """Against sums that are written out, or scipy's Jensen–Shannon distance."""
    torch.manual_seed(1)
    p, q = torch.distributions.Dirichlet(torch.ones(6, dtype=torch.float64)).sample((2,))
    m = (p + q) / 2
    known = {
        "KL(d‖g)": (p * (p / q).log()).sum(),
        "KL(g‖d)": (q * (q / p).log()).sum(),
        "2 JSD": torch.tensor(2 * scipy.spatial.distance.jensenshannon(p, q) ** 2),
        "χ²": ((p - q) ** 2 / q).sum(),
        "Hellinger²": (p.sqrt() - q.sqrt()).square().sum(),
        "TV": (p - q).abs().sum() / 2,
        "2 KL(m‖d)": 2 * (m * (m / p).log()).sum(),
    }
    assert known.keys() == DIVERGENCES.keys()
    for name, value in known.items():
        assert abs(DIVERGENCES[name].between(p, q) - value) < 1e-12, name


@pytest.mark.equation("gan-f-range")
@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_most_that_a_divergence_can_be(name):
    """Random laws stay below f(0) + lim f(u)/u; laws that hardly touch come near it, or grow without end."""
    torch.manual_seed(2)
    divergence = DIVERGENCES[name]
    pairs = torch.distributions.Dirichlet(0.2 * torch.ones(2, 100, 6, dtype=torch.float64)).sample() + 1e-9
    p, q = pairs / pairs.sum(-1, keepdim=True)
    values = torch.stack([divergence.between(a, b) for a, b in zip(p, q)])
    assert (values >= 0).all() and (values <= divergence.most).all()
    far = [divergence.between(*torch.tensor([[1 - e, e], [e, 1 - e]]).double()).item() for e in (1e-6, 1e-12)]
    if math.isfinite(divergence.most):
        assert far[1] == pytest.approx(divergence.most, abs=1e-4)
    else:
        assert far[1] > far[0] + 5 and far[0] > 5


@pytest.mark.equation("gan-kl-jsd")
def test_reverse_kl_less_twice_the_jsd_is_a_divergence_from_the_mixture():
    """KL(g‖d) − 2 JSD = 2 KL((p_d + p_g)/2 ‖ p_d), by quadrature over three pairs of Gaussians."""
    x = torch.linspace(-20, 20, 20_001, dtype=torch.float64)

    def normal(m, s):
        return torch.distributions.Normal(torch.tensor(m).double(), s).log_prob(x)

    def kl(a, b):
        return (a.exp() * (a - b)).sum() * (x[1] - x[0])

    for g, d in (((0.8, 1.0), (0.0, 1.5)), ((-1.0, 0.5), (1.0, 0.7)), ((0.0, 1.2), (0.0, 0.9))):
        log_g, log_d = normal(*g), normal(*d)
        log_m = torch.logaddexp(log_g, log_d) - math.log(2)
        assert abs(kl(log_g, log_d) - kl(log_g, log_m) - kl(log_d, log_m) - 2 * kl(log_m, log_d)) < 1e-12


def test_a_restricted_generator_ends_elsewhere_in_each_game():
    """N(θ, 1) for data .7 N(−1, ¼) + .3 N(1.2, ¼): the least 2 JSD is at θ = −.39, the least 2 KL(m‖d) at −.315."""
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    two = GaussianMixture(
        torch.tensor([0.7, 0.3]).double(), torch.tensor([[-1.0], [1.2]]).double(), torch.full((2,), 0.25).double()
    )
    p_d = two.log_prob(x[:, None]).exp() * (x[1] - x[0])
    thetas = torch.linspace(-1, 0.5, 301, dtype=torch.float64)
    best = {}
    for name in ("2 JSD", "2 KL(m‖d)"):
        tables = [torch.distributions.Normal(t, 1.0).log_prob(x).exp() * (x[1] - x[0]) for t in thetas]
        values = torch.stack([(DIVERGENCES[name].between(p_d.clamp(min=1e-290), p_g)) for p_g in tables])
        best[name] = thetas[values.argmin()].item()
    assert best["2 JSD"] == pytest.approx(-0.39, abs=0.01) and best["2 KL(m‖d)"] == pytest.approx(-0.315, abs=0.01)


@pytest.mark.equation("gan-r1")
def test_r1_looks_at_the_data_alone():
    """ℓ(x) = Σ x³/3 has ∇ℓ = x²: (γ/2) mean ‖x²‖² over the data, whatever was generated."""

    def critic(x):
        return (x**3 / 3).sum(1)

    real, fake = torch.randn(2, 50, 2, dtype=torch.float64)
    want = 1.5 * (real**4).sum(1).mean()
    assert abs(r1(3.0)(critic, real, fake) - want) < 1e-12 and abs(r1(3.0)(critic, real, 9 * fake) - want) < 1e-12


@pytest.mark.equation("gan-r1-slope")
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_best_critic_on_a_line_under_r1(gamma):
    """The game's value is quadratic in the critic's values on a grid: solve for their maximum, take differences."""
    edges = torch.linspace(-4, 7, 1101, dtype=torch.float64)
    step, middle = 0.01, (edges[1:] + edges[:-1]) / 2
    data, made = torch.distributions.Normal(2.0, 0.8), torch.distributions.Normal(0.5, 1.0)
    difference = (torch.diag(torch.ones(1100), 1)[:-1] - torch.eye(1101)[:-1]).double() / step  # ℓ' between neighbours
    pull = (data.log_prob(edges).exp() - made.log_prob(edges).exp()) * step  # of E_data ℓ − E_generated ℓ
    curvature = difference.T @ (gamma * step * data.log_prob(middle).exp()[:, None] * difference)
    values = torch.linalg.solve(curvature[1:, 1:], pull[1:])  # ℓ is 0 at the first point
    got = torch.cat([values.new_zeros(1), values]).diff() / step
    want = r1_slope(data.cdf(middle), made.cdf(middle), data.log_prob(middle).exp(), gamma)
    seen = (middle > 0) & (middle < 4)
    assert ((got - want)[seen].abs() < 2e-3 * want[seen]).all() and want[seen].max() > 20 * want[seen].min()


@pytest.mark.equation("gan-gradient-penalty")
def test_the_gradient_penalty_looks_along_the_whole_segment():
    """ℓ(x) = x²/2 between data at 0 and samples at 2 has slopes uniform on [0, 2]: E(s − 1)² = 1/3, var 4/45."""
    torch.manual_seed(0)
    real, fake = torch.zeros(40_000, 1).double(), torch.full((40_000, 1), 2.0).double()
    got = gradient_penalty(1.0)(lambda x: x[:, 0] ** 2 / 2, real, fake)
    assert abs(got - 1 / 3) < 5 * math.sqrt(4 / 45 / 40_000)


@pytest.mark.equation("gan-spectral")
def test_a_spectrally_normalised_network_is_lipschitz():
    """Every matrix has the largest singular value 1 by numpy, and random pairs of points obey the product bound."""
    torch.manual_seed(0)
    critic = spectral(mlp(3, 32, 32, 1)).train()
    for _ in range(60):  # the power iteration settles
        critic(torch.randn(2, 3))
    critic.eval()
    for layer in critic[::2]:
        assert np.linalg.svd(layer.weight.detach().numpy())[1][0] == pytest.approx(1, abs=1e-3)
    a, b = 4 * torch.randn(2, 2000, 3)
    slopes = (critic(a) - critic(b)).abs()[:, 0] / (a - b).norm(dim=1)
    assert slopes.max() <= 1.003 and slopes.max() > 0.05


@pytest.mark.equation("gan-spectral")
def test_a_convolution_is_normalised_as_a_matrix():
    """Of (out, in·k·k): its largest singular value is 1 by numpy, and the map's, by its Jacobian, at most k = 3."""
    torch.manual_seed(0)
    layer = spectral(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False))).train()
    for _ in range(60):
        layer(torch.zeros(1, 2, 5, 5))
    layer.eval()
    weight = layer[0].weight.detach()
    assert np.linalg.svd(weight.flatten(1).numpy())[1][0] == pytest.approx(1, abs=1e-3)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v).flatten(), torch.zeros(1, 2, 5, 5)).flatten(1)
    assert 1 < np.linalg.svd(jacobian.numpy())[1][0] <= 3


def test_the_losses_are_the_games_terms_and_the_penalty():
    """L_D and L_G of known logits, with a penalty of 7, and a game whose three terms cannot be confused."""
    game = gan.Game(lambda s: s + 1, lambda s: 10 * s, lambda s: 100 * s)
    model = GAN(nn.Linear(2, 2), nn.Linear(2, 1), (2,), 2, game, lambda critic, real, fake: torch.tensor(7.0))
    with torch.no_grad():
        for layer in (model.generator, model.discriminator):
            layer.weight.zero_()
        model.generator.bias.fill_(2.0), model.discriminator.bias.fill_(0.5)
    x = torch.randn(4, 2)
    assert model.discriminator_loss(x).item() == pytest.approx(1.5 + 5 + 7)
    assert model.generator_loss(x).item() == pytest.approx(50)


def test_the_latent_is_standard_normal():
    torch.manual_seed(0)
    z = GAN(nn.Identity(), nn.Linear(2, 1), (2,), 2).sample(20_000)
    assert scipy.stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


class Pairs(nn.Module):
    """A table (V, K) of logits ℓ(x, y) for x one of V atoms."""

    def __init__(self, atoms, classes):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(atoms, classes, dtype=torch.float64))

    def forward(self, x, y):
        return self.table[x[:, 0].long(), y]


class Drawn(nn.Module):
    """A generator over atoms with a known law p_g(x | y), by inversion of the Gaussian z."""

    def __init__(self, law):
        super().__init__()
        self.register_buffer("law", law)

    def forward(self, z, y):
        u = torch.special.ndtr(z)
        return (u > self.law.T[y].cumsum(1)[:, :-1]).sum(1, keepdim=True).to(z.dtype)


@pytest.mark.equation("gan-conditional")
def test_the_best_conditional_discriminator_is_the_ratio_of_the_pairs():
    """A table trained by Newton-like ascent on exact batches: ℓ*(x, y) = log p_d(x|y) − log p_g(x|y), labels shared."""
    torch.manual_seed(0)
    p_d, p_g = (torch.distributions.Dirichlet(torch.ones(3).double()).sample((2,)).T for _ in range(2))  # (V, K)
    model = GAN(Drawn(p_g), Pairs(3, 2), (1,), 1, classes=2).double()
    y = torch.arange(2).repeat_interleave(100_000)
    counts = [torch.multinomial(p_d[:, k], 100_000, replacement=True) for k in range(2)]
    x = torch.cat(counts)[:, None].double()
    optimiser = torch.optim.LBFGS(model.discriminator.parameters(), max_iter=60)
    state = torch.random.get_rng_state()

    def closure():
        torch.random.set_rng_state(state)  # the same samples at each look
        optimiser.zero_grad()
        loss = model.discriminator_loss(x, y)
        loss.backward()
        return loss

    optimiser.step(closure)
    # six standard errors of a log ratio of two counts
    bar = 6 * ((1 / p_d + 1 / p_g) / 100_000).sqrt()
    assert ((model.discriminator.table - (p_d / p_g).log()).abs() < bar).all()


@pytest.mark.parametrize("penalty", [None, r1(1.0), gradient_penalty(1.0)], ids=["none", "R1", "GP"])
def test_a_conditional_gan_tells_both_players_the_label(penalty):
    shape = (1, 8, 8)
    model = GAN(Decoder(4, shape, 4, classes=3), Encoder(shape, 1, 4, classes=3), shape, 4, penalty=penalty, classes=3)
    x, y = torch.rand(6, *shape), torch.tensor([0, 1, 2, 0, 1, 2])
    for loss in (model.discriminator_loss, model.generator_loss):
        values = [(torch.manual_seed(0), loss(x, labels))[1] for labels in (y, y.flip(0))]
        assert values[0] != values[1]
        with pytest.raises(ValueError, match="needs? the batch's labels|labels"):
            loss(x)
    one, other = ((torch.manual_seed(1), model.sample(6, labels))[1] for labels in (y, (y + 1) % 3))
    assert (one != other).flatten(1).any(1).all() and model.sample(4).shape == (4, *shape)
    with pytest.raises(ValueError, match="0..2"):
        model.sample(1, torch.tensor([3]))


@pytest.mark.equation("gan-r1")
@pytest.mark.equation("gan-gradient-penalty")
@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 8, 8)], ids=str)
def test_penalties_of_a_linear_critic(shape):
    """ℓ(x) = wᵀx has ∇ℓ = w everywhere: the penalties are γ‖w‖²/2 and λ(‖w‖ − 1)², with exact gradients in w."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 1)).double()
    w = critic[1].weight
    real, fake = torch.randn(2, 5, *shape, dtype=torch.float64)
    for penalty, value in ((r1(3.0), 1.5 * w.square().sum()), (gradient_penalty(10.0), 10 * (w.norm() - 1) ** 2)):
        got = penalty(critic, real, fake)
        torch.testing.assert_close(got, value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(*(torch.autograd.grad(v, w, retain_graph=True)[0] for v in (got, value)))


@pytest.mark.equation("gan-hinge")
def test_hinge():
    scores = torch.tensor([-2.0, 0.0, 2.0])
    assert hinge.real(scores).tolist() == [3, 1, 0] and hinge.fake(scores).tolist() == [0, 1, 3]
    assert hinge.generator(scores).tolist() == [2, 0, -2]


def test_the_hinge_bounds_what_is_asked_of_the_values_and_no_slope():
    """Data and samples at distance d, a critic of slope 2k/d: its hinge loss is 0 for every k ≥ 1, whatever d. A point
    beyond the margin pulls no more, while with the sigmoid's loss every point pulls."""
    for distance in (1.0, 1e-3):
        data, samples = torch.tensor([distance / 2, -distance / 2], dtype=torch.float64)
        for steepness in (1.0, 10.0, 1000.0):
            slope = 2 * steepness / distance
            assert hinge.real(slope * data) + hinge.fake(slope * samples) == 0
    for game, pulls in ((hinge, False), (non_saturating, True)):
        beyond = torch.tensor([1.5, -1.5], dtype=torch.float64, requires_grad=True)
        (game.real(beyond[0]) + game.fake(beyond[1])).backward()
        assert (beyond.grad != 0).tolist() == [pulls, pulls]


@pytest.mark.parametrize("game", [minimax, non_saturating, hinge, gan.wasserstein])
@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 8, 8)], ids=str)
def test_contract(shape, game):
    """Each player's loss moves its own network; the discriminator's leaves no gradient at the generator."""
    torch.manual_seed(0)
    size = math.prod(shape)
    generator = nn.Sequential(mlp(4, 16, size), nn.Unflatten(1, shape))
    model = GAN(generator, nn.Sequential(nn.Flatten(), mlp(size, 16, 1)), shape, 4, game, r1(), critic_steps=3)
    x = torch.randn(6, *shape)
    players = model.objectives()
    assert players["discriminator"].every == 1 and players["generator"].every == 3
    assert model.sample(5).shape == (5, *shape)
    players["discriminator"].loss(x).backward()
    assert all(p.grad is None for p in model.generator.parameters())
    players["generator"].loss(x).backward(inputs=players["generator"].parameters)
    assert all(p.grad.abs().sum() > 0 for p in model.generator.parameters())
    own = {id(p) for p in players["discriminator"].parameters}
    assert own.isdisjoint(id(p) for p in players["generator"].parameters)


def test_refusals():
    with pytest.raises(ValueError, match="critic_steps"):
        GAN(nn.Identity(), nn.Identity(), (2,), 2, critic_steps=0)
    model = GAN(nn.Linear(2, 2), nn.Linear(2, 1), (2,), 2)
    with pytest.raises(ValueError, match="expected a batch"):
        model.discriminator_loss(torch.randn(4, 3))
    with pytest.raises(ValueError, match="at least 1"):
        model.sample(0)


@pytest.mark.equation("gan-optimal")
def test_a_trained_discriminator_approaches_the_density_ratio():
    """N(0, 1) against N(1, 1): the logit ½ − x, within 0.15 on [−2, 3]."""
    torch.manual_seed(0)

    class Shift(nn.Module):
        def forward(self, z):
            return z + 1

    model = GAN(Shift(), mlp(1, 32, 32, 1), (1,), 1, minimax)
    objective = model.objectives()["discriminator"]
    optimiser = torch.optim.Adam(objective.parameters, 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, 1000)
    for _ in range(1000):
        loss = objective.loss(torch.randn(2048, 1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    x = torch.linspace(-2, 3, 101)[:, None]
    assert (model.discriminator(x) - (0.5 - x)).abs().max() < 0.15


def test_outputs_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="generator must return"):
        GAN(Returns(4), Returns(4), (1,), 2).generator_loss(torch.randn(4, 1))
    with pytest.raises(ValueError, match="discriminator must return"):
        GAN(Returns(4, 1), Returns(4, 4), (1,), 2).discriminator_loss(torch.randn(4, 1))


@pytest.mark.parametrize("game", [minimax, non_saturating, hinge, wasserstein])
@pytest.mark.parametrize("penalty", [r1(0.5), gradient_penalty(2.0), None])
def test_a_pickled_gan_keeps_its_game_and_penalty(game, penalty):
    same_after_copies(GAN(MLP(2, 2, 8, 1), MLP(2, 1, 8, 1), (2,), 2, game, penalty), torch.randn(4, 2))


def test_samples_have_no_graph_and_what_the_players_see_has_one():
    model = SPECIMEN.build()
    assert not model.sample(3).requires_grad and model.generate(3).requires_grad


def test_sigma_is_a_standard_deviation_in_the_chapter_and_the_sigmoid_has_its_name():
    page = Path(__file__).parents[2] / "chapters" / "02_gan" / "gan.md"
    assert r"\sigma(" not in page.read_text(encoding="utf-8")


def test_the_defaults_are_the_papers_constants():
    """arXiv:1704.00028."""
    assert {"weight": 10.0}.items() <= defaults(gradient_penalty).items()


def test_what_changes_the_model_is_off_unless_asked_for():
    assert {"critic_steps": 1}.items() <= defaults(GAN).items()
