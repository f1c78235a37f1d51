"""The probability flow of a denoiser: its field, and log-likelihoods along it."""

from __future__ import annotations

import torch
from torch import Tensor

from gmbook.core.checks import check_event
from gmbook.core.denoiser import Denoiser
from gmbook.core.divergence import log_likelihood as ode_log_likelihood
from gmbook.core.gaussians import log_normal
from gmbook.core.solvers import Field, Solver, dopri5


def flow_field(denoiser: Denoiser, y: Tensor | None = None) -> Field:
    """The field of dx/dt = f x − ½g²∇log p_t, which is the `velocity` reading (sde-probability-flow).

    arXiv:2011.13456, Eq. 13. Its solutions have the marginals of the path at every t.
    """
    return lambda x, t: denoiser.predict("velocity", x, t, y)


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    ts: Tensor | None = None,
    probe: Tensor | None = None,
    solver: Solver = dopri5,
    y: Tensor | None = None,
) -> Tensor:
    """log p(x) of the probability-flow model, nats, (B,). arXiv:2011.13456, Eq. 39 (ode-likelihood).

    The flow carries x from t_min, as if it were already at that time, to t_max, where the law is taken as N(0,
    σ(t_max)² I).

    Args:
        ts: rising times; by default (t_min, t_max).
        probe: (B, *S) for Hutchinson's trace; None for the exact one.
    """
    check_event(x, denoiser.shape)
    path = denoiser.path
    ts = torch.tensor([path.t_min, path.t_max], dtype=torch.float64, device=x.device) if ts is None else ts
    std = path.sigma(ts[-1]).to(x.dtype)
    return ode_log_likelihood(flow_field(denoiser, y), x, ts, lambda z: log_normal(z, 0.0, std), probe, solver)[0]
