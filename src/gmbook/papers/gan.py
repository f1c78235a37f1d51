"""Generative Adversarial Nets. Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio,
NIPS 2014, arXiv:1406.2661. With what followed: Arjovsky, Chintala, Bottou 2017 (arXiv:1701.07875, Wasserstein);
Gulrajani et al. 2017 (arXiv:1704.00028, gradient penalty); Lim & Ye 2017 (arXiv:1705.02894, hinge);
Miyato, Kataoka, Koyama, Yoshida 2018 (arXiv:1802.05957, spectral normalisation); Mescheder, Geiger, Nowozin 2018
(arXiv:1801.04406, R1 and the Dirac-GAN); Mirza & Osindero 2014 (arXiv:1411.1784, labels for both players).

The paper's D(x) is a probability; the book's discriminator returns its logit ℓ(x), D = sigmoid(ℓ), for log sigmoid is
stable where log of a rounded probability is not: −log D = softplus(−ℓ), −log(1 − D) = softplus(ℓ). Every player
minimises, so the discriminator's loss is −V. The latent z is Gaussian here, uniform in the paper's MNIST experiment.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gmbook.core.checks import check_count, check_output
from gmbook.core.model import Model, Objective, sampling

Term = Callable[[Tensor], Tensor]
Critic = Callable[[Tensor], Tensor]
Penalty = Callable[[Critic, Tensor, Tensor], Tensor]


class Game(NamedTuple):
    """What the two players minimise: three elementwise functions of the discriminator's output ℓ.

    L_D = E_data real(ℓ) + E_generated fake(ℓ), L_G = E_generated generator(ℓ).

    `minimax`: the value V of Eq. 1 as it stands (gan-value), whose gradient at the best D is that of 2 JSD
    (gan-saturating-gradient). `non_saturating`: G minimises −log D (gan-non-saturating), whose gradient at the best D
    is that of 2 KL(½(p_d + p_g) ‖ p_d) (gan-non-saturating-gradient). `hinge`: margins (gan-hinge). `wasserstein`:
    W_1, if ℓ is held 1-Lipschitz (gan-wasserstein).
    """

    real: Term
    fake: Term
    generator: Term


# Named functions, not lambdas: a model keeps its game, and is pickled with it.


def _minus_log_d(logit: Tensor) -> Tensor:
    return F.softplus(-logit)


def _log_not_d(logit: Tensor) -> Tensor:
    return -F.softplus(logit)


def _below_margin(score: Tensor) -> Tensor:
    return F.relu(1 - score)


def _above_margin(score: Tensor) -> Tensor:
    return F.relu(1 + score)


def _as_it_is(score: Tensor) -> Tensor:
    return score


# V(D, G) = E log D(x) + E log(1 − D(G(z))), Eq. 1, played as written: L_D = −V, and L_G = V but for a term that G
# cannot move (gan-value). At the best D it is −log 4 + 2 JSD(p_d ‖ p_g), Theorem 1 (gan-jsd).
minimax = Game(_minus_log_d, F.softplus, _log_not_d)

# Section 3: G minimises −log D instead. Another game and another gradient (gan-non-saturating): at the best D that of
# 2 KL(½(p_d + p_g) ‖ p_d) (gan-non-saturating-gradient). For a generator that can reach p_d both games end there;
# for one that cannot, they end at different laws.
non_saturating = Game(_minus_log_d, F.softplus, _minus_log_d)

# max(0, 1 − ℓ) and max(0, 1 + ℓ): points beyond the margin no longer pull (gan-hinge).
hinge = Game(_below_margin, _above_margin, torch.neg)

# W_1 = sup over 1-Lipschitz ℓ of E_data ℓ − E_generated ℓ (gan-wasserstein); the critic must be held Lipschitz.
wasserstein = Game(torch.neg, _as_it_is, torch.neg)


def _input_gradient(discriminator: Critic, x: Tensor) -> Tensor:
    """∇_x ℓ(x), differentiable in the discriminator's parameters: (B, *S) -> (B, D)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return gradient.flatten(1)


def r1(gamma: float = 1.0) -> Penalty:
    """(γ/2) E_data ‖∇ℓ(x)‖². arXiv:1801.04406, Eq. 9 (gan-r1)."""
    return functools.partial(_r1, gamma=gamma)


def _r1(discriminator: Critic, real: Tensor, fake: Tensor, gamma: float) -> Tensor:
    return gamma / 2 * _input_gradient(discriminator, real).square().sum(1).mean()


def gradient_penalty(weight: float = 10.0) -> Penalty:
    """λ E (‖∇ℓ(x̂)‖ − 1)², x̂ uniform on the segments between real and generated points (gan-gradient-penalty).

    arXiv:1704.00028. It asks for the slope of an optimal critic where its transport runs, and does not force it.
    """
    return functools.partial(_gradient_penalty, weight=weight)


def _gradient_penalty(discriminator: Critic, real: Tensor, fake: Tensor, weight: float) -> Tensor:
    u = torch.rand(len(real), *(1,) * (real.ndim - 1), device=real.device, dtype=real.dtype)
    gradient = _input_gradient(discriminator, torch.lerp(real, fake.detach(), u))
    return weight * (gradient.norm(dim=1) - 1).square().mean()


def spectral(network: nn.Module) -> nn.Module:
    """Divide every weight matrix of a network by its largest singular value, in place; returns the network.

    A composition's Lipschitz constant is at most the product of its layers', ∏ ‖W_l‖₂ times the activations' slopes
    (gan-spectral). The singular value follows the weights by one power iteration per call in training mode. A
    convolution's weight is taken as the matrix (out, in·k·k), whose norm bounds the convolution's up to a factor k.
    arXiv:1802.05957.

    Args:
        network: its linear and convolutional layers are normalised; what else has weights stays as it is.
    """
    for layer in list(network.modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            spectral_norm(layer)
    return network


class GAN(Model):
    """Two players on the game's losses; each is an objective that moves its own network only (Algorithm 1).

    Args:
        generator: G(z (B, latent)) -> (B, *S).
        discriminator: ℓ(x (B, *S)) -> (B,) or (B, 1), a logit (or a score, for hinge and Wasserstein). It must not
            mix the samples of a batch (no batch normalisation) when a gradient penalty is used.
        shape: the event shape S.
        latent: the dimension of z ~ N(0, I).
        game: `non_saturating`, `minimax`, `hinge`, `wasserstein`, or any other `Game`.
        penalty: `r1(γ)`, `gradient_penalty(λ)`, None, or any function (discriminator, real, fake) -> ().
        critic_steps: the paper's k: the discriminator moves at every step, the generator at every k-th.
        classes: the number of labels K, or None. With labels the players are G(z, y) and ℓ(x, y): the discriminator
            judges pairs, and at its best ℓ*(x, y) = log p_d(x, y) − log p_g(x, y) (gan-conditional). The generator is
            asked for the labels of the batch.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        shape: tuple[int, ...],
        latent: int,
        game: Game = non_saturating,
        penalty: Penalty | None = None,
        critic_steps: int = 1,
        classes: int | None = None,
    ):
        super().__init__()
        check_count("critic_steps", critic_steps)
        if classes is not None:
            check_count("classes", classes)
        self.generator, self.discriminator = generator, discriminator
        self.shape, self.latent, self.game = tuple(shape), latent, game
        self.penalty, self.critic_steps, self.classes = penalty, critic_steps, classes

    @sampling
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """G(z) with z ~ N(0, I): (n, *S), without a graph. With labels G(z, y), of labels drawn uniformly if y is None.

        Without labels y plays no part.
        """
        return self.generate(n, y)

    def generate(self, n: int, y: Tensor | None = None) -> Tensor:
        """The same as the players see it: in the mode that the model is in, and differentiable. (n, *S)"""
        check_count("n", n)
        z = torch.randn(n, self.latent, device=self.device, dtype=self.dtype)
        if self.classes is None:
            return check_output(self.generator(z), (n, *self.shape), "the generator")
        y = torch.randint(self.classes, (n,), device=self.device) if y is None else self.labels(y, n)
        return check_output(self.generator(z, y), (n, *self.shape), "the generator")

    def score(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """ℓ(x), or ℓ(x, y), as the discriminator gives it: (B, *S), y (B,) -> (B,) or (B, 1).

        Raises:
            ValueError: the discriminator returns another shape, or its labels are missing.
        """
        logit = self.critic(y, len(x))(x)
        return check_output(logit, (len(x), *(1,) * (logit.ndim - 1)), "the discriminator")

    def critic(self, y: Tensor | None, n: int) -> Critic:
        """The discriminator as a function of x (n, *S) alone: with the labels y (n,) put in, if it reads any."""
        if self.classes is None:
            return self.discriminator
        if y is None:
            raise ValueError("this GAN was built with classes=...: its losses need the batch's labels (x, y)")
        return functools.partial(self.discriminator, y=self.labels(y, n))

    def networks(self) -> list[nn.Module]:
        """Both, but under a penalty the generator alone: a compiled network has no gradient of its gradient."""
        return [self.generator] if self.penalty is not None else [self.generator, self.discriminator]

    def discriminator_loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """L_D = −V for the classical games, plus the penalty: (B, *S) -> ()."""
        self.check(x)
        with torch.no_grad():
            fake = self.generate(len(x), y)  # a constant for this player
        loss = self.game.real(self.score(x, y)).mean() + self.game.fake(self.score(fake, y)).mean()
        return loss if self.penalty is None else loss + self.penalty(self.critic(y, len(x)), x, fake)

    def generator_loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """L_G on as many new samples as the batch has: (B, *S) -> ()."""
        return self.game.generator(self.score(self.generate(len(x), y), y)).mean()

    def objectives(self) -> dict[str, Objective]:
        """The discriminator at every step, the generator at every k-th; each may move its own parameters only."""
        return {
            "discriminator": Objective(self.discriminator_loss, list(self.discriminator.parameters())),
            "generator": Objective(self.generator_loss, list(self.generator.parameters()), every=self.critic_steps),
        }
