"""Races of optimal pairings and of distances between samples."""

from __future__ import annotations

import ot
import torch
from benchmarks.contestants import Contestant
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor
from torchcfm.optimal_transport import OTPlanSampler

from gmbook import metrics
from gmbook.core.transport import optimal_pairing


def ring(n: int) -> Tensor:
    """n points on eight Gaussians."""
    angle = torch.randint(8, (n,)) * torch.pi / 4
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(n, 2)


def pairings(n: int) -> dict[str, Contestant]:
    """n points on eight Gaussians with n of noise, by squared distance: the least sum."""
    x, z, plan = ring(n), torch.randn(n, 2), OTPlanSampler("exact")
    weights = torch.full((n,), 1 / n, dtype=torch.float64).numpy()
    return {
        "gmbook": Contestant(lambda: z[optimal_pairing(torch.cdist(x.double(), z.double()).square())]),
        "torchcfm": Contestant(lambda: plan.sample_plan(x, z)),
        "POT": Contestant(lambda: ot.emd(weights, weights, torch.cdist(x, z).square().double().numpy())),
    }


def ot_pairing_256() -> dict[str, Contestant]:
    """256 pairs: the book's coupling beside torchcfm's plan and POT's solver."""
    return pairings(256)


def ot_pairing_1024() -> dict[str, Contestant]:
    """1,024 pairs."""
    return pairings(1024)


def exact_w2() -> dict[str, Contestant]:
    """The exact 2-Wasserstein distance of two samples of 5,000 points."""
    x, z = ring(5000), torch.randn(5000, 2)

    def theirs() -> float:
        return ot.emd2([], [], ot.dist(x.double().numpy(), z.double().numpy()), numItermax=10**7) ** 0.5

    return {"gmbook": Contestant(lambda: metrics.w2(x, z)), "POT": Contestant(theirs)}


def rbf_mmd() -> dict[str, Contestant]:
    """Squared maximum mean discrepancy of two samples of 2,000 points, one Gaussian kernel of width 1."""
    x, z = ring(2000), torch.randn(2000, 2)
    a, b = x.numpy(), z.numpy()

    def by_sklearn() -> float:
        within = sum((rbf_kernel(s, s, 0.5).sum() - len(s)) / (len(s) * (len(s) - 1)) for s in (a, b))
        return within - 2 * rbf_kernel(a, b, 0.5).mean()

    def plain() -> Tensor:
        def kernel(s: Tensor, r: Tensor) -> Tensor:
            return torch.exp(-0.5 * torch.cdist(s, r).square())

        within = [(kernel(s, s).sum() - len(s)) / (len(s) * (len(s) - 1)) for s in (x, z)]
        return within[0] + within[1] - 2 * kernel(x, z).mean()

    return {
        "gmbook": Contestant(lambda: metrics.mmd2(x, z, (1.0,))),
        "scikit-learn": Contestant(by_sklearn),
        "torch": Contestant(plain),
    }


RACES = (ot_pairing_256, ot_pairing_1024, exact_w2, rbf_mmd)
