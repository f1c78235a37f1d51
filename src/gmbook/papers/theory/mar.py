"""What drawing tokens in parallel costs: the total correlation of a Gaussian."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def total_correlation(covariance: Tensor) -> Tensor:
    """KL(p ‖ ∏ p_i) of a Gaussian p, (..., d, d) -> (...), nats: the price of drawing d tokens at once (mar-parallel).

    ½(Σ log Σ_ii − log det Σ). Tokens of one step are independent given those before; what they still tell of each
    other then is lost. d tokens of correlation ρ: −½ log[(1 − ρ)^{d−1} (1 + (d − 1)ρ)] (mar-equicorrelated).
    """
    return (covariance.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(covariance)) / 2


def price_of_sets(covariance: Tensor, order: Tensor, sizes: Sequence[int]) -> Tensor:
    """KL(p ‖ p_K), (), nats, of a Gaussian p drawn set by set with exact conditionals (mar-parallel).

    Σ_k TC(X^k | X^1 … X^{k−1}), each the total correlation of a Schur complement; 0 for sets of one.

    Args:
        covariance: of p, (L, L).
        order: (L,), the tokens in the order of their generation.
        sizes: how many each step draws, in sum L.

    Raises:
        ValueError: the sizes do not sum to L.
    """
    if sum(sizes) != len(covariance):
        raise ValueError(f"the sizes must sum to {len(covariance)} tokens, got {sum(sizes)}")
    c, known, price = covariance[order][:, order], 0, covariance.new_zeros(())
    for size in sizes:
        past, now = slice(0, known), slice(known, known + size)
        left = c[now, now] - c[now, past] @ torch.linalg.solve(c[past, past], c[past, now])
        price, known = price + total_correlation(left), known + size
    return price
