"""What is known exactly of the game of two players: the best discriminator, and the Dirac-GAN's dynamics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gmbook.papers.gan import Game, non_saturating


def optimal_logit(log_data: Tensor, log_generated: Tensor) -> Tensor:
    """The logit of D* = p_d/(p_d + p_g), which is log p_d(x) − log p_g(x), like both. Proposition 1 (gan-optimal).

    With it V = −log 4 + 2 JSD(p_d ‖ p_g), Theorem 1 (gan-jsd). Its gradient in x is the difference of the two laws'
    scores, ∇log p_d − ∇log p_g (gan-score-difference).
    """
    return log_data - log_generated


def dirac_gan(game: Game = non_saturating, gamma: float = 0.0, weight: float = 0.0) -> Callable[[Tensor], Tensor]:
    """The gradient flow of the smallest GAN: data at 0, generator at θ, discriminator ℓ(x) = ψx (gan-dirac).

    arXiv:1801.04406, Section 2: d(θ, ψ)/dτ = (−∂L_G/∂θ, −∂L_D/∂ψ), where R1 adds γψ²/2 to L_D. Its derivative at the
    equilibrium (0, 0) has, for both classical games, the eigenvalues −γ/2 ± √(γ²/4 − ¼): without a penalty it
    circles, with γ > 0 it converges, at γ = 1 fastest.

    Args:
        gamma: γ of R1.
        weight: λ of WGAN-GP's penalty, which is λ(|ψ| − 1)² here.

    Returns:
        the field, (B, 2) -> (B, 2), columns θ and ψ.
    """

    def field(state: Tensor) -> Tensor:
        with torch.enable_grad():
            theta, psi = state.unbind(1)
            if not state.requires_grad:
                theta, psi = (v.detach().requires_grad_() for v in (theta, psi))
            loss_g = game.generator(psi * theta).sum()
            penalty = gamma / 2 * psi.square() + weight * (psi.abs() - 1).square()
            loss_d = (game.real(psi * 0) + game.fake(psi * theta) + penalty).sum()
            (d_theta,) = torch.autograd.grad(loss_g, theta, create_graph=True)
            (d_psi,) = torch.autograd.grad(loss_d, psi, create_graph=True)
        return -torch.stack([d_theta, d_psi], 1)

    return field


def dirac_steps(
    field: Callable[[Tensor], Tensor], state: Tensor, size: float, steps: int, alternating: bool = False
) -> Iterator[Tensor]:
    """Gradient descent of both players with a step size h: states (B, 2), the start first.

    Simultaneous: both move from the same state. Alternating: ψ moves first, θ sees where it went, as in Algorithm 1.
    Near the equilibrium the distance to it is multiplied at each step, in the mean, by √(1 − γh + h²/4) or √(1 − γh),
    as long as the eigenvalues are complex (gan-dirac-steps): at γ = 0 the first spirals out, the second circles.
    """
    yield state
    for _ in range(steps):
        moved = state + size * field(state).detach()
        if alternating:
            half = torch.stack([state[:, 0], moved[:, 1]], 1)
            moved = torch.stack([state[:, 0] + size * field(half).detach()[:, 0], moved[:, 1]], 1)
        state = moved
        yield state
