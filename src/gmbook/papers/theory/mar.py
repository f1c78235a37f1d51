"""What drawing tokens in parallel costs: the total correlation of a Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor


def total_correlation(covariance: Tensor) -> Tensor:
    """KL(p ‖ ∏ p_i) of a Gaussian p, (..., d, d) -> (...), nats: the price of drawing d tokens at once (mar-parallel).

    ½(Σ log Σ_ii − log det Σ). Tokens of one step are independent given those before; what they still tell of each
    other then is lost. Two tokens of correlation ρ: −½ log(1 − ρ²).
    """
    return (covariance.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(covariance)) / 2
