"""The floor of DDPM's loss on Gaussian data."""

from __future__ import annotations

from torch import Tensor


def gaussian_floor(std: float, alpha_bar: Tensor) -> Tensor:
    """The least L_simple per dimension that any network can reach on x_0 ~ N(m, std² I), () (ddpm-floor).

    (1/T) Σ_i ᾱ_i s²/(ᾱ_i s² + 1 − ᾱ_i), over ᾱ_1..ᾱ_T: the variance of ε that x_i leaves undecided.
    """
    signal = alpha_bar * std**2
    return (signal / (signal + 1 - alpha_bar)).mean()
