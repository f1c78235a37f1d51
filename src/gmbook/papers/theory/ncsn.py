"""The forms of score matching that need no noise: explicit, implicit and sliced; and what energy-based models do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmbook.core.divergence import divergence
from gmbook.core.solvers import langevin, last
from gmbook.papers.ncsn import Score, half_square


def explicit_score_matching(score: Score, x: Tensor, truth: Score) -> Tensor:
    """½‖s(x) − ∇log p(x)‖², for a law whose score is known (ncsn-explicit): (B, *S) -> (B,). The Fisher divergence."""
    return half_square(score(x) - truth(x))


def implicit_score_matching(score: Score, x: Tensor) -> Tensor:
    """tr ∇s(x) + ½‖s(x)‖² (ncsn-implicit): (B,). Hyvärinen 2005.

    Its mean is the explicit objective's minus ½E‖∇log p‖², which no network changes. D backward passes.
    """
    s, trace = divergence(score, x, create_graph=True)
    return trace + half_square(s)


def sliced_score_matching(score: Score, x: Tensor, v: Tensor) -> Tensor:
    """vᵀ∇s(x)v + ½‖s(x)‖² (ncsn-sliced): (B,). arXiv:1905.07088. One backward pass.

    Args:
        v: (B, *S), random directions with E vvᵀ = I: Gaussian or Rademacher. Of *unit* length they estimate tr/D.
    """
    s, trace = divergence(score, x, v, create_graph=True)
    return trace + half_square(s)


# ------------------------------------------------------------------------------------------ energy-based models

Energy = Callable[[Tensor], Tensor]  # (B, *S) -> (B,)


def energy_contrast(energy: Energy, data: Tensor, drawn: Tensor) -> Tensor:
    """Mean energy of data minus that of points drawn from the model e^{−E}/Z (ncsn-energy-gradient): ().

    Its gradient in E's parameters is the gradient of −log p, with Z's part as an average over the model's draws. Its
    value is no likelihood.

    Args:
        data, drawn: (B, *S) each, B may differ; no gradient passes through them.
    """
    return energy(data.detach()).mean() - energy(drawn.detach()).mean()


def contrastive_divergence(energy: Energy, x: Tensor, step: float, steps: int) -> Tensor:
    """`energy_contrast` with points that started at the data and took so many Langevin steps with −∇E: (). CD-k.

    Hinton 2002. The model's draws are replaced by what a short chain makes of the data, so the gradient is biased: a
    chain that never leaves a mode says nothing of the mode's weight.

    Args:
        step, steps: ε and k of the chain, `core.solvers.langevin`.
    """

    def downhill(z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(energy(z).sum(), z)
        return -slope

    return energy_contrast(energy, x, last(langevin(downhill, x.detach(), step, steps)))
