"""How noisy a trace's estimate is, and what a step of finite size loses."""

from __future__ import annotations

import torch
from torch import Tensor


def hutchinson_variance(matrix: Tensor, fourth_moment: float) -> Tensor:
    """The variance of εᵀAε for independent entries of ε with mean 0, variance 1 and this E ε_i⁴: (D, D) -> ().

    2‖A_s‖_F² + (E ε⁴ − 3) Σ a_ii² with A_s = (A + Aᵀ)/2: 2‖A_s‖_F² for normal probes, whose fourth moment is 3, and
    2(‖A_s‖_F² − Σ a_ii²) for signs, whose fourth moment is 1, the least there is (ffjord-hutchinson-variance).
    """
    symmetric = (matrix + matrix.mT) / 2
    return 2 * symmetric.square().sum() + (fourth_moment - 3) * matrix.diagonal().square().sum()


def step_excess(jacobian: Tensor, h: float) -> Tensor:
    """h tr J − log|det(I + hJ)|: by how much the trace overstates the log-determinant of an Euler step, (D, D) -> ().

    It is h²/2 tr J² + O(h³), and positive where J has real eigenvalues: log(1 + u) ≤ u (ffjord-step).
    """
    eye = torch.eye(len(jacobian), dtype=jacobian.dtype, device=jacobian.device)
    return h * jacobian.trace() - torch.linalg.slogdet(eye + h * jacobian)[1]
