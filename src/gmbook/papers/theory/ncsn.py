"""The forms of score matching that need no noise: explicit, implicit and sliced."""

from __future__ import annotations

from torch import Tensor

from gmbook.core.divergence import divergence
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
