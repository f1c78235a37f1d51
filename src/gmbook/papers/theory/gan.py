"""What is known exactly of the game of two players: the best discriminator, divergences, the Dirac-GAN's dynamics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gmbook.papers.gan import Game, Term, non_saturating


def optimal_logit(log_data: Tensor, log_generated: Tensor) -> Tensor:
    """The logit of D* = p_d/(p_d + p_g), which is log p_d(x) − log p_g(x), like both. Proposition 1 (gan-optimal).

    With it V = −log 4 + 2 JSD(p_d ‖ p_g), Theorem 1 (gan-jsd). Its gradient in x is the difference of the two laws'
    scores, ∇log p_d − ∇log p_g (gan-score-difference).
    """
    return log_data - log_generated


class Divergence(NamedTuple):
    """D_f(p_d ‖ p_g) = Σ p_g f(p_d/p_g), for a convex f with f(1) = 0 (def-gan-f).

    f: u = p_d/p_g > 0 -> f(u), elementwise.
    slope: f'.
    most: f(0) + lim f(u)/u for u → ∞, which D_f never exceeds and reaches where the laws do not touch (gan-f-range).
    """

    f: Term
    slope: Term
    most: float

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        """D_f(p ‖ q) of two tables of positive probabilities, (K,) -> ()."""
        return (q * self.f(p / q)).sum()

    def game(self) -> Game:
        """The f-GAN with T = f'(e^ℓ): real −T, fake f*(T), generator −f*(T). Nowozin et al. 2016, arXiv:1606.00709.

        E_d T − E_g f*(T) ≤ D_f(p_d ‖ p_g) for every ℓ, with equality at ℓ* = log p_d − log p_g (gan-f-bound). The
        conjugate f*(t) = sup_u (tu − f(u)) at t = f'(u) is u f'(u) − f(u), so it need not be known by itself.
        """

        def conjugate(logit: Tensor) -> Tensor:
            u = logit.exp()
            return u * self.slope(u) - self.f(u)

        return Game(lambda logit: -self.slope(logit.exp()), conjugate, lambda logit: -conjugate(logit))


# u = p_d/p_g. The non-saturating loss is no f-GAN of this list's pattern, but its gradient at the best D is that of the
# last entry (gan-kl-jsd).
DIVERGENCES = {
    "KL(d‖g)": Divergence(lambda u: u * u.log(), lambda u: u.log() + 1, math.inf),
    "KL(g‖d)": Divergence(lambda u: -u.log(), lambda u: -1 / u, math.inf),
    "2 JSD": Divergence(
        lambda u: u * u.log() - (1 + u) * ((1 + u) / 2).log(), lambda u: (2 * u / (1 + u)).log(), 2 * math.log(2)
    ),
    "χ²": Divergence(lambda u: (u - 1).square(), lambda u: 2 * (u - 1), math.inf),
    "Hellinger²": Divergence(lambda u: (u.sqrt() - 1).square(), lambda u: 1 - u.rsqrt(), 2.0),
    "TV": Divergence(lambda u: (u - 1).abs() / 2, lambda u: (u - 1).sign() / 2, 1.0),
    "2 KL(m‖d)": Divergence(
        lambda u: (1 + u) * ((1 + u) / (2 * u)).log(), lambda u: ((1 + u) / (2 * u)).log() - 1 / u, math.inf
    ),
}


def r1_slope(data_cdf: Tensor, generated_cdf: Tensor, data_density: Tensor, gamma: float) -> Tensor:
    """ℓ'(x) = (F_g − F_d)/(γ p_d): the slope of the best critic on a line under R1 (gan-r1-slope).

    It maximises E_data ℓ − E_generated ℓ − (γ/2) E_data ℓ'², point by point after an integration by parts. It has no
    bound where there are samples and no data.

    Args:
        data_cdf, generated_cdf, data_density: F_d, F_g and p_d at the same points, of one shape.
        gamma: γ of R1, in squared units of x.
    """
    return (generated_cdf - data_cdf) / (gamma * data_density)


def dirac_gan(game: Game = non_saturating, gamma: float = 0.0, weight: float = 0.0) -> Callable[[Tensor], Tensor]:
    """The gradient flow of the smallest GAN: data at 0, generator at θ, discriminator ℓ(x) = ψx (gan-dirac).

    arXiv:1801.04406, Section 2: d(θ, ψ)/dτ = (−∂L_G/∂θ, −∂L_D/∂ψ), where R1 adds γψ²/2 to L_D. Its derivative at the
    equilibrium (0, 0) has, for both classical games, the eigenvalues −γ/2 ± √(γ²/4 − ¼): with γ > 0 it converges
    exponentially, at γ = 1 fastest. At γ = 0 the linear part only turns, and the next order decides: the saturating
    game keeps r² = θ² + ψ², the non-saturating one has dr²/dτ = −2θψ tanh(θψ/2) ≤ 0 and comes in like
    r ≈ (1/r_0² + τ/8)^{−½} (gan-dirac-radius).

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
    as long as the eigenvalues are complex (gan-dirac-steps). At γ = 0 that is a growth for the first and 1 for the
    second; with the non-saturating losses' own inward pull simultaneous steps end on a loop of radius about √(2h), and
    alternating ones come in slowly (gan-dirac-radius).
    """
    yield state
    for _ in range(steps):
        moved = state + size * field(state).detach()
        if alternating:
            half = torch.stack([state[:, 0], moved[:, 1]], 1)
            moved = torch.stack([state[:, 0] + size * field(half).detach()[:, 0], moved[:, 1]], 1)
        state = moved
        yield state
