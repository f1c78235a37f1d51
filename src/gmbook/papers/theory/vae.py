"""What is known exactly of VAEs: the linear one's optimum, and the price of a mean-field posterior."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_vae_rates(eigenvalues: Tensor, variance: float, beta: float = 1.0) -> Tensor:
    """The optimal rates of a linear VAE, nats per unit (vae-collapse): max(0, ½ log(λ_i/(βσ²))).

    Unit i stays active iff the data's i-th principal variance λ_i exceeds βσ², with σ² the decoder's *variance*:
    posterior collapse is a threshold, as in probabilistic PCA.
    """
    return (torch.log(eigenvalues / (beta * variance)) / 2).clamp(min=0)


def mean_field_gap(precision: Tensor) -> Tensor:
    """KL from the best diagonal Gaussian to a Gaussian posterior of precision Λ (..., d, d): (...), nats
    (vae-mean-field-gap).

    ½[Σ_j log Λ_jj − log det Λ]: the best one has the posterior's mean and the variances 1/Λ_jj. It is 0 iff Λ is
    diagonal.
    """
    return (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(precision)) / 2
