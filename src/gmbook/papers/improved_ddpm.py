"""Improved Denoising Diffusion Probabilistic Models. Nichol & Dhariwal, ICML 2021, arXiv:2102.09672.

DDPM with four changes: a learned reverse variance, the cosine schedule, importance-sampled steps for the variational
bound, and sampling on a sub-sequence of the steps. Letters and indices as in `ddpm`: i = 1..T is the paper's t.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_output
from gmbook.core.paths import CosinePath, broadcast
from gmbook.papers.ddpm import DDPM


def cosine_betas(steps: int = 1000, s: float = 0.008, most: float = 0.999) -> Tensor:
    """β_i = min(1 − ᾱ_i/ᾱ_{i−1}, 0.999) for the ᾱ = f/f(0) of `CosinePath` (improved-cosine): (T,), float64.

    f(i) = cos²((i/T + s)/(1 + s) · π/2). The clip, which keeps the last step from being singular, touches only i = T.
    """
    log_alpha_bar = -CosinePath(s).integrated_beta(torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    return (-torch.expm1(log_alpha_bar.diff())).clamp(max=most)


class ImprovedDDPM(DDPM):
    """A DDPM whose network also outputs the reverse variance.

    As a Denoiser it is its first half, so that every sampler of other chapters runs it unchanged.

    Args:
        net: net(x_t (B, C, ...), t (B,), y) -> (B, 2C, ...): the quantity `predicts`, then r, which stands for
            v = (r + 1)/2 as in the authors' code. Vectors (B, D) give (B, 2D).
        shape: the event shape S.
        steps: T.
        betas: the table (T,); None for the cosine one.
        vlb_weight: λ in L_simple + λ L_vlb, 0.001 in the paper.
        history, uniform: of the sampler of steps, `LossSecondMoment`.
        options: predicts, clip, levels, as in DDPM. Clip, on the cosine schedule: its first step back multiplies an
            error of ε̂ by √(ᾱ_{T−1}/ᾱ_T) = 32, and that of a sub-sequence by more.

    Raises:
        ValueError: (when called) the network does not output 2C channels.
    """

    def __init__(
        self,
        net: nn.Module,
        shape: tuple[int, ...],
        steps: int = 1000,
        betas: Tensor | None = None,
        vlb_weight: float = 0.001,
        history: int = 10,
        uniform: float = 0.001,
        **options: Any,
    ):
        super().__init__(net, shape, betas=cosine_betas(steps) if betas is None else betas, variance="small", **options)
        self.vlb_weight = vlb_weight
        self.importance = LossSecondMoment(self.steps, history, uniform)

    # ----------------------------------------------------------------------------------------- the reverse variance

    def halves(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The network's two outputs: the quantity `predicts`, and r, each (B, *S)."""
        both = self.output(xt, t, y)
        if both.ndim > 1 and both.shape[1] != 2 * xt.shape[1]:
            raise ValueError(
                f"a learned variance needs a network with {2 * xt.shape[1]} output channels, got {both.shape[1]}: "
                "build it with out or out_channels twice the input's"
            )
        check_output(both, (len(xt), 2 * xt.shape[1], *xt.shape[2:]))
        first, second = both.chunk(2, 1)
        return first, second

    def forward(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The first half, the quantity `predicts`: (B, *S)."""
        return self.halves(xt, t, y)[0]

    def reverse_variance(self, r: Tensor, i: Tensor) -> Tensor:
        """Σ_θ = exp(v log β_i + (1 − v) log β̃_i), v = (r + 1)/2 (improved-variance): a *variance*, like r.

        v is not bounded; the optimum lies in [0, 1] where Var(x_0 | x_i) is at most that of unit-Gaussian data. At
        i = 1, where β̃ = 0, β̃_2 takes its place, as in the authors' code.
        """
        low, high = (broadcast(table[i].log(), r) for table in (self.least_variance, self.beta))
        return torch.exp(low + (r + 1) / 2 * (high - low))

    def reverse(self, xt: Tensor, i: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """p_θ(x_{i−1} | x_i) = N(μ_θ, diag Σ_θ): mean and *variance*, each (B, *S). One network call."""
        output, r = self.halves(xt, i.double() / self.steps, y)
        return self._mean_from(output, xt, i)[0], self.reverse_variance(r, i)

    # ------------------------------------------------------------------------------------------------- training

    def _bits_per_dim(self, terms: Tensor) -> Tensor:
        """Terms of the bound, nats summed over dimensions, in bits per dimension."""
        return terms / (math.prod(self.shape) * math.log(2))

    def _trained_mean(self, output: Tensor, xt: Tensor, i: Tensor) -> Tensor:
        """μ_θ as the losses see it, (B, *S): x̂_0 is not clipped. Where it is cut off it would have no gradient."""
        return self.posterior(self.read("x0", output, xt, i.double() / self.steps), xt, i)[0]

    def loss(self, x0: Tensor, y: Tensor | None = None) -> Tensor:
        """L_hybrid = L_simple + λ L_vlb (improved-hybrid), i uniform.

        L_simple is a mean over dimensions, so L_vlb, a *sum* over the T steps, is taken in bits per dimension: T times
        the drawn term. Its gradient reaches only the variance: the mean enters it detached. Nothing is clipped here,
        only in sampling and in the bound of `nelbo`.
        """
        self.check_data(x0)
        i = torch.randint(1, self.steps + 1, (len(x0),), device=x0.device)
        t, eps = i.double() / self.steps, torch.randn_like(x0)
        xt = self.path.interpolate(x0, eps, t)
        output, r = self.halves(xt, t, y)
        simple = (output - self.path.target(self.predicts, x0, eps, t)).square().mean()
        terms = self._bound_term(x0, xt, i, self._trained_mean(output.detach(), xt, i), self.reverse_variance(r, i))
        return simple + self.vlb_weight * self.steps * self._bits_per_dim(terms).mean()

    def vlb_loss(self, x0: Tensor, y: Tensor | None = None) -> Tensor:
        """L_vlb in bits per dimension, without the constant L_T, with importance-sampled steps (improved-importance).

        E over i ~ p of L_i/p_i = Σ_i L_i, unbiased for any p; its gradient reaches mean and variance. Train with it by
        `objectives={"vlb": Objective(model.vlb_loss, list(model.parameters()))}`.
        """
        self.check_data(x0)
        i, probability = self.importance.draw(len(x0))
        t = i.double() / self.steps
        xt = self.path.interpolate(x0, torch.randn_like(x0), t)
        output, r = self.halves(xt, t, y)
        terms = self._bound_term(x0, xt, i, self._trained_mean(output, xt, i), self.reverse_variance(r, i))
        self.importance.record(i, terms.detach())
        return (self._bits_per_dim(terms) / probability.to(x0.dtype)).mean()

    # ------------------------------------------------------------------------------------------- fewer steps

    def strided(self, steps: int) -> ImprovedDDPM:
        """The model of the sub-sequence of `steps` steps, with the same network (improved-strided): it samples in that
        many calls, and has its own variational bound."""
        kept = sub_sequence(self.steps, steps)
        net, betas = Respaced(self.net, kept.to(self.alpha_bar) / self.steps), strided_betas(self.alpha_bar, kept)
        options: dict[str, Any] = {"predicts": self.predicts, "clip": self.clip, "levels": self.levels}
        return ImprovedDDPM(net, self.shape, betas=betas, vlb_weight=self.vlb_weight, **options).to(self.device)


# --------------------------------------------------------------------------------------- strided sub-sequences


def sub_sequence(steps: int, keep: int) -> Tensor:
    """S_1, …, S_K: K numbers evenly spaced from 1 to T, rounded, int64 (K,). K = 1 keeps T.

    Raises:
        ValueError: keep lies outside 1..steps.
    """
    if not 1 <= keep <= steps:
        raise ValueError(f"a sub-sequence of {steps} steps keeps 1 to {steps} of them, got {keep}")
    return torch.linspace(steps, 1, keep, dtype=torch.float64).round().long().flip(0)


def strided_betas(alpha_bar: Tensor, kept: Tensor) -> Tensor:
    """β_{S_k} = 1 − ᾱ_{S_k}/ᾱ_{S_{k−1}} (improved-strided): (K,). β̃ follows from these betas.

    Args:
        alpha_bar: (T + 1,), with ᾱ_0 = 1, as DDPM keeps it.
        kept: (K,) int64, rising.
    """
    chosen = alpha_bar[torch.cat([kept.new_zeros(1), kept])]
    return 1 - chosen[1:] / chosen[:-1]


class Respaced(nn.Module):
    """A network trained on T steps, told the time k/K of a chain of K of them: it looks up that step's own time.

    Args:
        net: net(x (B, *S), t (B,), y).
        times: (K,), rising, the network's times of the steps kept.
    """

    times: Tensor

    def __init__(self, net: nn.Module, times: Tensor):
        super().__init__()
        self.net = net
        self.register_buffer("times", times, persistent=False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        last = len(self.times) - 1
        place = (t.double() * (last + 1) - 1).clamp(0, last)  # between the steps, where ODE solvers look, linear
        left = place.floor().long()
        times = torch.lerp(self.times[left], self.times[(left + 1).clamp(max=last)], place - left)
        return self.net(x, times.to(t.dtype), y)


# ------------------------------------------------------------------------------------------ importance sampling


class LossSecondMoment(nn.Module):
    """Draws steps with p_i ∝ √E[L_i²], which minimises the variance of L_i/p_i (improved-importance).

    E[L_i²] is estimated from the last `history` losses of each step. Until every step has so many, p is uniform. The
    memory is part of the model's state, and is saved with it.

    Args:
        steps: T.
        history: 10 in the paper.
        uniform: the share of the uniform law mixed in, so that no step is forgotten: 0.001.
    """

    losses: Tensor  # (T, history), the latest losses of each step, a ring
    counts: Tensor  # (T,), how many losses each step has seen

    def __init__(self, steps: int, history: int = 10, uniform: float = 0.001):
        super().__init__()
        self.history, self.uniform = history, uniform
        self.register_buffer("losses", torch.zeros(steps, history, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(steps, dtype=torch.long))

    def probabilities(self) -> Tensor:
        """p_1, …, p_T: (T,), float64."""
        even = torch.full_like(self.losses[:, 0], 1 / len(self.losses))
        if bool((self.counts < self.history).any()):
            return even
        root = self.losses.square().mean(1).sqrt()
        return (1 - self.uniform) * root / root.sum() + self.uniform * even

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """n steps i in 1..T and their probabilities p_i: (n,) int64, (n,) float64."""
        p = self.probabilities()
        place = torch.multinomial(p, n, replacement=True)
        return place + 1, p[place]

    @torch.no_grad()
    def record(self, i: Tensor, losses: Tensor) -> None:
        """Remember one loss (n,) for each step i (n,) in 1..T, in the batch's order."""
        place, order = (i - 1).sort(stable=True)
        rank = torch.arange(len(i), device=i.device) - torch.searchsorted(place, place)  # among equals, from 0
        total = torch.bincount(place, minlength=len(self.counts))
        newest = rank >= total[place] - self.history  # so that no slot is written twice
        slot = (self.counts[place] + rank) % self.history
        self.losses[place[newest], slot[newest]] = losses.to(self.losses)[order][newest]
        self.counts += total
