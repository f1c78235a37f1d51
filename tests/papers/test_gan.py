"""GANs, against exact finite laws, quadrature, eigenvalues, and a known ring."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from specimen import Returns, Specimen, same_after_copies
from torch import nn

from gmbook.core.gaussians import GaussianMixture
from gmbook.core.solvers import last, rk4
from gmbook.networks.mlp import MLP
from gmbook.papers import gan
from gmbook.papers.gan import GAN, gradient_penalty, hinge, minimax, non_saturating, r1, wasserstein
from gmbook.papers.theory.gan import dirac_gan, dirac_steps, optimal_logit

SPECIMEN = Specimen(lambda: GAN(MLP(3, 2, 16), MLP(2, 1, 16), (2,), 3))


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


@pytest.mark.equation("gan-dirac")
def test_dirac_gan_circles_and_r1_converges():
    start, ts = torch.tensor([[0.5, 0.0]], dtype=torch.float64), torch.linspace(0, 60, 601, dtype=torch.float64)
    radius = {g: last(rk4(lambda s, t, g=g: dirac_gan(gamma=g)(s).detach(), start, ts)).norm() for g in (0.0, 1.0)}
    assert radius[0.0] > 0.2 and radius[1.0] < 1e-6


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
