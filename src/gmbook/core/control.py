"""Control of samplers that were trained without it: what is known is put in place, or pulls as a gradient.

Two hooks serve every score-based sampler. `project(x, t)` moves a state after each step. `guide(x, t)` is ∇_x log
p_t(y | x_t), which is added to the score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmbook.core.paths import GaussianPath, broadcast

Hook = Callable[[Tensor, Tensor], Tensor]  # (x (B, *S), t ()) -> (B, *S)


def replace_known(path: GaussianPath, known: Tensor, mask: Tensor, basis: Tensor | None = None) -> Hook:
    """A `project` that puts α_t known + σ_t ε, with fresh ε, where `mask` is 1 (def-control-replace).

    arXiv:2011.13456, Appendix I.2. The law at the end is only near the conditional one: what is drawn at time t does
    not see the known part through its own noise.

    Args:
        known: (*S) or (B, *S), clean; only its values under the mask matter.
        mask: broadcastable to x, 1 where the value is known.
        basis: (C, C) orthogonal, rows the directions of channels in which `known` and `mask` are written; None for the
            channels themselves. `grey_basis` is that of colourisation.
    """

    def project(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (broadcast(c, x) for c in path.alpha_sigma(t))
        turned = x if basis is None else torch.einsum("kc,bc...->bk...", basis.to(x), x)
        placed = torch.lerp(turned, alpha * known.to(x) + sigma * torch.randn_like(x), mask.to(x))
        return placed if basis is None else torch.einsum("kc,bk...->bc...", basis.to(x), placed)

    return project


def grey_basis() -> Tensor:
    """An orthogonal basis of colours, (3, 3), whose first row is grey, (1, 1, 1)/√3: for colourisation."""
    basis = torch.linalg.qr(torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 1.0], [1.0, 0.0, -1.0]])).Q.T
    return basis * basis[:1, :1].sign()
