"""Remasking Discrete Diffusion Models with Inference-Time Scaling: Wang, Schiff, Sahoo, Kuleshov, arXiv:2503.00307.
A sampler for any `MDLM`. The paper's α_t is ᾱ(t), its σ_t the probability of masking a token again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from gmbook.core.chains import categorical
from gmbook.core.checks import check_count
from gmbook.core.model import sampling
from gmbook.core.solvers import last
from gmbook.papers.mdlm import MDLM


def chances(model: MDLM, t: Tensor, s: Tensor, rescale: float) -> tuple[Tensor, Tensor]:
    """(σ, the chance that a mask is revealed) for the step from t to s, each (): Eq. 6 (mdlm-remask).

    σ is `rescale` times its largest value min(1, (1 − ᾱ_s)/ᾱ_t), and a mask is revealed with probability
    (ᾱ_s − (1 − σ)ᾱ_t)/(1 − ᾱ_t). So a token shows at s with probability ᾱ_s, whatever σ is.
    """
    alpha_t, alpha_s = model.schedule.alpha_bar(t), model.schedule.alpha_bar(s)
    sigma = rescale * (model.schedule.moved(s) / alpha_t).clamp(max=1)
    return sigma, (alpha_s - (1 - sigma) * alpha_t) / model.schedule.moved(t)


@sampling
def trajectory(model: MDLM, n: int, steps: int, rescale: float, y: Tensor | None = None) -> Iterator[Tensor]:
    """From all masks to tokens in `steps` network calls: yields x after each, (n, L), and the masks first.

    In each step a token that shows is masked again with probability σ, and a mask revealed so much more often that as
    many show as without. rescale = 0 is MDLM's own sampler.

    Raises:
        ValueError: rescale is not in [0, 1].
    """
    check_count("n", n)
    check_count("steps", steps)
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale is a share of the largest σ and must lie in [0, 1], got {rescale}")
    x, y = torch.full((n, *model.shape), model.mask, device=model.device), model.labels(y, n)
    yield x
    for t, s in pairwise(torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=model.device)):
        again, revealed = chances(model, t, s, rescale)
        u = torch.rand(x.shape, dtype=torch.float64, device=x.device)
        drawn = categorical(model.log_probs(x, t, y).double().exp())
        masked = x == model.mask
        x = torch.where(masked & (u < revealed), drawn, torch.where(~masked & (u < again), model.mask, x))
        yield x


def sample(model: MDLM, n: int, steps: int = 128, rescale: float = 0.05, y: Tensor | None = None) -> Tensor:
    """n samples, (n, L): the end of `trajectory`."""
    return last(trajectory(model, n, steps, rescale, y))
