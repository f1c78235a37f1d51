"""The three forms of the score entropy, of which SEDD trains on the last."""

from __future__ import annotations

import torch
from torch import Tensor

from gmbook.papers.sedd import score_entropy


def weighted_score_entropy(log_score: Tensor, p: Tensor, weights: Tensor) -> Tensor:
    """E_{x∼p} Σ_{y≠x} w_{xy} SE(s(x)_y, p(y)/p(x)): (). Definition 3.1 (def-sedd-score-entropy).

    Args:
        log_score: log s(x)_y, (K, K), row x.
        p: the law, (K,).
        weights: w_{xy}, (K, K); the diagonal is ignored.
    """
    entropy = score_entropy(log_score, p / p[:, None])
    return (p[:, None] * weights * entropy).fill_diagonal_(0).sum()


def implicit_score_entropy(log_score: Tensor, p: Tensor, weights: Tensor) -> Tensor:
    """E_{x∼p} Σ_{y≠x} w_{xy} s(x)_y − w_{yx} log s(y)_x: (). Proposition 3.3 (sedd-implicit).

    The same but for a constant, and no ratio of p in it: x is drawn, never weighed.
    """
    terms = weights * log_score.exp() - weights.T * log_score.T
    return (p[:, None] * terms).fill_diagonal_(0).sum()


def denoising_score_entropy(log_score: Tensor, p0: Tensor, kernel: Tensor, weights: Tensor) -> Tensor:
    """E_{x_0∼p_0, x∼q(·|x_0)} Σ_{y≠x} w_{xy} SE(s(x)_y, q(y | x_0)/q(x | x_0)): (). Theorem 3.4 (sedd-denoising).

    The same but for a constant, for p = p_0 q. kernel: q(x | x_0), (K, K), row x_0.
    """
    ratio = kernel[:, None, :] / kernel[:, :, None]  # (x_0, x, y)
    same = torch.eye(len(p0), dtype=torch.bool, device=p0.device)
    entropy = (weights * score_entropy(log_score, ratio)).masked_fill(same, 0.0)
    return torch.einsum("a,ax,axy->", p0, kernel, entropy)
