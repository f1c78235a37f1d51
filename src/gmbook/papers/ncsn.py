"""Noise Conditional Score Networks. Song & Ermon, NeurIPS 2019, arXiv:1907.05600; with the rules of NCSNv2,
Song & Ermon, NeurIPS 2020, arXiv:2006.09011.

The paper's levels run from σ_1, the largest, to σ_L, the smallest, a geometric sequence: the times t = 1, …, 0 of the
book's `VEPath`, on which x_t = x_0 + σ_t ε. Its score networks s_θ(x, σ) are `Denoiser`s, read as "score".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_count, check_event
from gmbook.core.control import Hook
from gmbook.core.denoiser import Denoiser
from gmbook.core.model import sampling
from gmbook.core.paths import Quantity, VEPath, broadcast
from gmbook.core.solvers import langevin, last

Score = Callable[[Tensor], Tensor]

# ------------------------------------------------------------------------------------------------ score matching
# One number per example, (B,), summed over dimensions as in the papers; the objective is its mean over data.


def half_square(x: Tensor) -> Tensor:
    """½‖x‖², (B, *S) -> (B,)."""
    return x.square().flatten(1).sum(1) / 2


def denoising_score_matching(score: Score, x: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    """½‖s(x̃) + (x̃ − x)/σ²‖² at x̃ = x + σε (dsm-loss): (B,). Vincent 2011.

    The target −(x̃ − x)/σ² = −ε/σ is the score of N(x, σ²I) at x̃. The mean differs by a constant from the explicit
    objective for the blurred law q_σ, so its minimiser is ∇log q_σ, not ∇log p (dsm-equivalence).

    Args:
        sigma: () or (B,), a standard deviation.
        eps: (B, *S), draws from N(0, I).
    """
    sigma = broadcast(sigma, x)
    return half_square(score(x + sigma * eps) + eps / sigma)


# ------------------------------------------------------------------------------------------------------ the model


class LevelPath(VEPath):
    """A VE path whose samplers stop at the L levels on which a network was trained.

    σ_i = σ_1 (σ_L/σ_1)^{(i−1)/(L−1)}, at t = (L − i)/(L − 1) (ncsn-levels).
    """

    def __init__(self, sigma_max: float, sigma_min: float, levels: int):
        super().__init__(sigma_min, sigma_max)
        if levels < 2:
            raise ValueError(f"a path with noise levels needs at least 2 of them, got {levels}")
        self.levels = levels

    def times(self, steps: int, power: float = 1.0) -> Tensor:
        """As `GaussianPath.times`, on the levels. More steps than levels stand still at some; samplers allow it."""
        return (super().times(steps, power) * (self.levels - 1)).round() / (self.levels - 1)

    def karras_times(self, steps: int, rho: float = 7.0) -> Tensor:
        """As `GaussianPath.karras_times`, on the levels."""
        return (super().karras_times(steps, rho) * (self.levels - 1)).round() / (self.levels - 1)


class NCSN(Denoiser):
    """A score network for L geometric noise levels σ_1 > … > σ_L.

    It is a Denoiser on a VE path, so every sampler of `score_sde` and `ddim` runs it. These want a fine grid (some
    hundred levels; those of order 4 and adaptive ones also read between the levels) and a σ_1 beside which the data
    are small; the paper's own sampler is content with ten levels.

    Args:
        net: net(x (B, *S), t (B,), y) -> (B, *S), told the level as t = (L − i)/(L − 1).
        sigma_max, sigma_min: σ_1 and σ_L, standard deviations in units of the data. The defaults are the paper's, for
            images in [0, 1]; for images in [−1, 1] they are twice as large. NCSNv2's: `widest_pair` and 0.01.
        levels: L, 10 in the paper; NCSNv2's: `levels_between(σ_1, σ_L, level_ratio(D))`.
        per_level, step: T and ε of Algorithm 1, for `sample`.
        predicts: "eps" is NCSNv2's s_θ(x, σ) = −net/σ, targets of one size at all levels; "score" the first paper's.
        power: λ(σ) = σ^power weighs the levels in the loss.
    """

    path: LevelPath

    def __init__(
        self,
        net: nn.Module,
        shape: tuple[int, ...],
        sigma_max: float = 1.0,
        sigma_min: float = 0.01,
        levels: int = 10,
        per_level: int = 100,
        step: float = 2e-5,
        predicts: Quantity = "eps",
        power: float = 2.0,
    ):
        super().__init__(net, LevelPath(sigma_max, sigma_min, levels), predicts, shape)
        self.per_level, self.step, self.power = per_level, step, power

    @property
    def times(self) -> Tensor:
        """The levels' times from σ_1 to σ_L, 1 to 0, (L,), float64."""
        return self.path.times(self.path.levels - 1)

    def loss(self, x0: Tensor, y: Tensor | None = None) -> Tensor:
        """(1/L) Σ_i λ(σ_i) ℓ(θ; σ_i) with λ = σ² (ncsn-loss), one level drawn per example, mean over
        dimensions.

        λ = σ² makes every level count alike: the term is ½‖σs_θ + ε‖², and ‖s‖ is of the order 1/σ.
        """
        check_event(x0, self.shape)
        levels = self.path.levels
        t = torch.randint(levels, (len(x0),), device=x0.device).double() / (levels - 1)
        sigma = self.path.sigma(t)
        score = lambda x: self.predict("score", x, t, y)  # noqa: E731
        terms = denoising_score_matching(score, x0, sigma, torch.randn_like(x0))
        return (sigma.to(x0.dtype) ** self.power * terms).mean() / x0[0].numel()

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """n samples by Algorithm 1 and a denoising step, L·T + 1 network calls: (n, *S)."""
        states = annealed_langevin(self, self.prior(n), self.times, self.per_level, self.step, y=y)
        return last(states)


class Unconditional(nn.Module):
    """NCSNv2's noise conditioning: a network that never sees the level, for use with predicts="eps".

    The score is then −net(x)/σ. That suffices where x itself tells σ, as an image does: ‖ε‖/√D is 1 to
    within 1/√(2D). In two dimensions it does not, and such a network fails.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, torch.zeros_like(t), y)


# ----------------------------------------------------------------------------------------------------- sampling


def paper_step(epsilon: float, ratio: float) -> float:
    """α = ε (σ_i/σ_L)² for x ← x + (α/2)s + √α z: Algorithm 1 as printed."""
    return epsilon * ratio**2


def code_step(epsilon: float, ratio: float) -> float:
    """The authors' code, and NCSNv2, write x ← x + αs + √(2α) z with that α: Algorithm 1 with ε twice as large."""
    return 2 * paper_step(epsilon, ratio)


@sampling
def annealed_langevin(
    denoiser: Denoiser,
    x: Tensor,
    ts: Tensor,
    per_level: int = 100,
    step: float = 2e-5,
    rule: Callable[[float, float], float] = paper_step,
    denoise: bool = True,
    y: Tensor | None = None,
    guide: Hook | None = None,
    project: Hook | None = None,
) -> Iterator[Tensor]:
    """Algorithm 1 (ncsn-annealed): T Langevin steps at every level, from σ_1 down to σ_L; yields every state.

    It runs any denoiser. Off the VE paths the laws of two levels differ in scale too: on the way from level to level x
    is multiplied by the ratio of the α_t, which is 1 on VE.

    Args:
        x: (B, *S), the start; the paper's is uniform noise, the book's `denoiser.prior(n)`.
        ts: (L,), the times of the levels, falling.
        per_level: T.
        step: ε, in squared units of the data; the step in units of the level's variance is ε/σ_L² at all levels.
        rule: `paper_step` or `code_step`.
        denoise: end with the x_0 reading x + σ_L² s(x, σ_L), which takes the last level's noise away (NCSNv2; the
            first paper has it not).
        guide: ∇_x log p_t(y | x), added to the score.
        project: moves the state before each step and before the denoising, as the paper's inpainting does with
            `core.control.replace_known`.
    """
    check_count("per_level", per_level)
    path = denoiser.path
    sigmas, alphas = path.sigma(ts), path.alpha(ts)

    def score(x: Tensor, t: Tensor) -> Tensor:
        value = denoiser.predict("score", x, t, y)
        return value if guide is None else value + guide(x, t)

    for i, t in enumerate(ts):
        if i > 0:
            x = alphas[i] / alphas[i - 1] * x
        size = rule(step, (sigmas[i] / sigmas[-1]).item())
        for _ in range(per_level):
            x = x if project is None else project(x, t)
            x = last(langevin(functools.partial(score, t=t), x, size, 1))
            yield x
    if denoise:
        yield denoiser.predict("x0", x if project is None else project(x, ts[-1]), ts[-1], y)


# -------------------------------------------------------------------------------------------------- NCSNv2's rules


def widest_pair(x: Tensor) -> Tensor:
    """NCSNv2's Technique 1: σ_1 is the largest distance between two training points x (N, *S), (). Some thousand do.

    So far apart that Langevin dynamics at σ_1 travels between any two of the data's modes.
    """
    flat = x.flatten(1)
    return torch.cdist(flat, flat).max()


def level_overlap(ratio: float, dims: int) -> float:
    """Φ(√(2D)(γ − 1) + 3γ) − Φ(√(2D)(γ − 1) − 3γ), for γ = σ_{i−1}/σ_i (ncsn-overlap). NCSNv2's rule for the levels.

    ‖x‖ at level i is N(√D σ_i, σ_i²/2) for large D and data at the origin. This is the mass that level i puts within
    three standard deviations of level i−1's shell: how much of a level the samples of the one before already cover.
    """
    shift = math.sqrt(2 * dims) * (ratio - 1)
    cdf = lambda z: (1 + math.erf(z / math.sqrt(2))) / 2  # noqa: E731
    return cdf(shift + 3 * ratio) - cdf(shift - 3 * ratio)


def level_ratio(dims: int, overlap: float = 0.5) -> float:
    """The γ at which `level_overlap` is a half, by bisection: 1.0398 for CIFAR-10's D = 3072.

    Raises:
        ValueError: D < 5: there the shells of any two levels overlap, and the rule has no solution.
    """
    if dims < 5:
        raise ValueError(f"levels of any ratio overlap in {dims} dimensions: choose the ratio by hand, for example 1.5")
    low, high = 1.0, 1e3
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if level_overlap(middle, dims) > overlap else (low, middle)
    return low


def levels_between(sigma_max: float, sigma_min: float, ratio: float) -> int:
    """The least L for which neighbouring levels differ by at most `ratio`."""
    return 1 + math.ceil(math.log(sigma_max / sigma_min) / math.log(ratio) - 1e-9)


def level_variance(relative: float, ratio: float, per_level: int) -> float:
    """The variance after T steps at one level, in units of σ_i², for a single data point (ncsn-level-variance).

    It enters with γ², keeps (1 − δ/2)² of it at each step and gains δ: (1 − δ/2)^{2T}(γ² − v_∞) + v_∞, with the
    stationary v_∞ = 1/(1 − δ/4), which is `langevin-bias`'s.

    Args:
        relative: δ, Algorithm 1's step over the level's variance: ε/σ_L² by `paper_step`, twice that by `code_step`.
        ratio: γ.
        per_level: T.
    """
    settled = 1 / (1 - relative / 4)
    return (1 - relative / 2) ** (2 * per_level) * (ratio**2 - settled) + settled


def best_step(sigma_min: float, ratio: float, per_level: int) -> float:
    """NCSNv2's ε: the one for which `level_variance` is nearest 1, given T, in NCSNv2's form, for `code_step`.

    Take T as large as the time allows, γ from the levels. It is never below 1: the function falls, then rises.
    """
    low, high = 0.0, 2.0  # of δ; at 2 the old variance is forgotten in one step
    for _ in range(200):
        a, b = (2 * low + high) / 3, (low + 2 * high) / 3
        a_better = level_variance(a, ratio, per_level) < level_variance(b, ratio, per_level)
        low, high = (low, b) if a_better else (a, high)
    return low / 2 * sigma_min**2
