"""Checks of the exercises of chapter 17, autoregression without a codebook."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from gmbook.course.draws import at_once, chance_std, learned, mean_is
from gmbook.course.kit import Wrong, agree, between, exercise, hold, numbers, samples, whole


def random_covariance(count: int, own: float = 0.3) -> Tensor:
    """Of correlated numbers with uneven variances: (count, count)."""
    root = torch.randn(count, count)
    return root @ root.T / count + own * torch.eye(count)


def integral(low: float, high: float, cells: int = 20_000) -> tuple[Tensor, float]:
    """Midpoints of an interval, (cells,), and their width."""
    side = (high - low) / cells
    return low + side * (torch.arange(cells) + 0.5), side


def normal(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The density of N(mean, std²) at x."""
    return (-(((x - mean) / std) ** 2) / 2).exp() / (std * math.sqrt(2 * math.pi))


@exercise(points=1, stars=1, kind="derive")
def collapse(answer: Any) -> None:
    """collapse(weights (K,), means (K,), stds (K,)) -> (best, loss): the best prediction of a mixture, and its loss.

    In squared error, Σ_k w_k N(m_k, s_k²). Looked at by quadrature.
    """
    for _ in range(4):
        weights, means, stds = torch.rand(3) + 0.2, between(-2, 2, 3), between(0.2, 0.8, 3)
        weights = weights / weights.sum()
        at, side = integral(-9, 9)
        mass = (weights * normal(at[:, None], means, stds)).sum(1) * side
        best = (mass * at).sum()
        loss = (mass * (at - best) ** 2).sum()
        inside = (weights * stds**2).sum()
        got = numbers(answer(weights.clone(), means.clone(), stds.clone()), (2,), "the answer (best, loss)")
        agree(got[0], best, "the best prediction", hints={"Weigh the components.": means.mean(),
              "That is the mode of the heaviest component: the loss is squared.": means[weights.argmax()]})  # fmt: skip
        agree(got[1], loss, "the loss", hints={"The components' means differ too.": inside,
              "That is the spread of the means only; each component has its own.": loss - inside,
              "It is the mean square of the token, not about the prediction.": loss + best**2,
              "That is its root.": loss.sqrt()})  # fmt: skip


@exercise(points=2, stars=2, kind="derive")
def floor(answer: Any) -> None:
    """floor(alpha_bar, covariance (C, C)) -> (): min E‖ε − ε_θ‖² for a token N(a, covariance), summed over numbers.

    Looked at by conditioning ε on x_i in their joint Gaussian.
    """
    for channels in (1, 3, 2, 4):
        covariance, alpha_bar = random_covariance(channels), between(0.05, 0.95)
        eye = torch.eye(channels)
        cross = (1 - alpha_bar).sqrt() * eye  # Cov(ε, x_i)
        noisy = alpha_bar * covariance + (1 - alpha_bar) * eye
        want = (eye - cross @ torch.linalg.inv(noisy) @ cross).trace()
        spread = alpha_bar * covariance
        alone = (spread.diagonal() / (spread.diagonal() + 1 - alpha_bar)).sum()
        hints = {"It takes the numbers of a token one by one; they are correlated.": alone,
                 "That is the part of ε that x_i tells, not the part that stays open.": channels - want,
                 "It is the mean over the numbers; the norm is their sum.": want / channels,
                 "ᾱ and 1 − ᾱ are exchanged.": ((1 - alpha_bar) * covariance @ torch.linalg.inv(
                     (1 - alpha_bar) * covariance + alpha_bar * eye)).trace()}  # fmt: skip
        got = numbers(answer(alpha_bar.clone(), covariance.clone()), (), "the least loss")
        agree(got, want, f"The least loss of a token of {channels} numbers", hints=hints)


def ways(left: int, share: list[float]) -> list[int]:
    """How many tokens are left after each step: each time the nearest possible number, by search."""
    found, steps = [], len(share)
    for k, part in enumerate(share, 1):
        possible = [m for m in range(left) if m >= steps - k and (m == 0) <= (k == steps)]
        left = min(possible, key=lambda m: abs(m - part))
        found.append(left)
    return found


@exercise(points=2, stars=2, kind="code")
def sizes(answer: Any) -> None:
    """sizes(tokens, curve, steps) -> (steps,): what each step draws, where ⌊tokens · curve(k/steps)⌋ should be left.

    Every step draws one at least. Looked at by searching, step by step, the nearest number that leaves enough.
    """
    bends = (0.35, 1.0, 3.0, 6.0)
    for tokens, steps in ((49, 16), (30, 30), (20, 7), (5, 1), (12, 9)):
        for bend in bends:
            power = bend * (1 + 0.1 * torch.rand(()).item())
            curve = lambda u, power=power: (1 - float(u)) ** power  # noqa: E731
            left = ways(tokens, [math.floor(tokens * curve(k / steps) + 1e-12) for k in range(1, steps + 1)])
            want = torch.tensor([a - b for a, b in itertools.pairwise([tokens, *left])])
            got = numbers(answer(tokens, curve, steps), (steps,), "the list of sizes")
            what = f"With {tokens} tokens, {steps} steps and the curve (1 − u)^{power:.2f}"
            hold((got == got.round()).all(), f"{what} a size is not a whole number.")
            hold(got.sum() == tokens, f"{what} the sizes sum to {got.sum():.0f}.")
            hold((got >= 1).all(), f"{what} some step draws nothing: a curve may be flat at first, or fall too early.")
            agree(
                got, want.double(), f"{what} the list", hints={"It is the list turned around.": want.flip(0).double()}
            )


def same(count: int, rho: float) -> Tensor:
    """Tokens of variance 1, every two with correlation rho: (count, count)."""
    return torch.full((count, count), rho) + (1 - rho) * torch.eye(count)


def lost(covariance: Tensor, parts: list[list[int]]) -> Tensor:
    """KL of a Gaussian from what is drawn in these sets: ½(Σ log of the variances given the sets before − log det)."""
    known: list[int] = []
    total = -torch.logdet(covariance)
    for part in parts:
        rest = covariance[part][:, part]
        if known:
            gain = torch.linalg.solve(covariance[known][:, known], covariance[known][:, part])
            rest = rest - covariance[part][:, known] @ gain
        total, known = total + rest.diagonal().log().sum(), known + part
    return total / 2


@exercise(points=2, stars=2, kind="derive")
def price(answer: Any) -> None:
    """price(rho, sizes) -> (): nats lost by drawing equicorrelated Gaussian tokens in sets of these sizes.

    In closed form, no matrices. Looked at by determinants of the whole covariance and its parts.
    """
    for counts in ([2], [1, 3], [2, 3, 1], [1, 1, 2, 4], [5, 1, 2]):
        rho = between(0.1, 0.9).item()
        ends = list(itertools.accumulate(counts, initial=0))
        parts = [list(range(a, b)) for a, b in itertools.pairwise(ends)]
        want = lost(same(ends[-1], rho), parts)
        alone = sum((lost(same(size, rho), [list(range(size))]) for size in counts), torch.zeros(()))
        hints = {"What is known lowers the correlation of the rest.": alone,
                 "That is the price of drawing all at once.": lost(same(ends[-1], rho), [list(range(ends[-1]))]),
                 "That is in bits.": want / math.log(2)}  # fmt: skip
        got = numbers(answer(rho, list(counts)), (), "the price")
        agree(got, want, f"The price of the sets {counts}", hints=hints)


@exercise(points=3, stars=2, kind="derive")
def cool(answer: Any) -> None:
    """cool(betas (T,), mean, std, tau) -> (mean, std) of what the head's sampler draws for a token N(mean, std²).

    σ_i² = β̃_i, ε* exact, start N(0, 1), no noise in the last step. Looked at through the sampler as a linear map: what
    it makes of nothing, of a unit start, and of a unit of noise in each step.
    """
    for steps, tau in ((3, 1.0), (6, 0.7), (4, 0.0), (1, 1.0), (9, 1.3)):
        betas, mean, std = between(0.05, 0.6, steps), between(-2, 2), between(0.2, 1.5)
        bars = torch.cat([torch.ones(1), torch.cumprod(1 - betas, 0)])
        x = torch.cat([torch.zeros(2, steps + 1), torch.eye(steps + 1)])[1:]  # nothing; then a unit in each place
        state = x[:, 0].clone()
        for i in range(steps, 0, -1):
            bar, before, beta = bars[i], bars[i - 1], betas[i - 1]
            eps = (1 - bar).sqrt() * (state - bar.sqrt() * mean) / (bar * std**2 + 1 - bar)
            state = (state - beta / (1 - bar).sqrt() * eps) / (1 - beta).sqrt()
            if i > 1:
                state = state + tau * ((1 - before) / (1 - bar) * beta).sqrt() * x[:, i]
        want_mean, want_std = state[0], (state[1:] - state[0]).square().sum().sqrt()
        got = numbers(answer(betas.clone(), mean.clone(), std.clone(), tau), (2,), "the answer (mean, std)")
        what = f"With T = {steps} and τ = {tau}"
        agree(got[0], want_mean, f"{what} the mean", hints={"With few steps the sampler misses the token's.": mean})
        agree(got[1], want_std, f"{what} the std", hints={"That is the variance.": want_std**2,
              "With few steps the sampler misses the token's.": std,
              "The temperature scales the noise of each step, not what comes out.": tau * std})  # fmt: skip


@exercise(points=2, stars=2, kind="derive")
def tilt(answer: Any) -> None:
    """tilt(mean, variance, wide, s) -> (mean, variance) of the law ∝ p_c^s p_u^{1−s}.

    p_c = N(mean, variance), p_u = N(0, wide), variance < wide, s > 1. Looked at by quadrature.
    """
    for _ in range(4):
        mean, variance, wide, s = between(-1.5, 1.5), between(0.2, 0.9), between(1.0, 2.5), between(1.2, 4.0)
        at, _ = integral(-25, 25, 40_000)
        c, u = -((at - mean) ** 2) / (2 * variance), -(at**2) / (2 * wide)
        mass = (s * c + (1 - s) * u).softmax(0)
        want = (mass * at).sum()
        spread = (mass * (at - want) ** 2).sum()
        got = numbers(answer(mean.clone(), variance.clone(), wide.clone(), s.clone()), (2,), "the answer")
        agree(got[0], want, "the mean", hints={"That extrapolates the means themselves.": s * mean,
              "Guidance moves the mean.": mean})  # fmt: skip
        agree(got[1], spread, "the variance", hints={"That is its square root.": spread.sqrt(),
              "Divide by s only if p_u is flat.": variance / s, "That is the precision.": 1 / spread,
              "That extrapolates the variances.": wide + s * (variance - wide)})  # fmt: skip


@exercise(points=2, stars=2, kind="derive")
def mean_share(answer: Any) -> None:
    """mean_share(least, std) -> (): E r for r from N(1, std²) on [least, 1]. Looked at by quadrature."""
    for _ in range(5):
        least, std = between(0.0, 0.9), between(0.1, 0.8)
        at, _ = integral(least.item(), 1.0)
        mass = (-(((at - 1) / std) ** 2) / 2).softmax(0)
        want = (mass * at).sum()
        got = numbers(answer(least.clone(), std.clone()), (), "the mean share")
        hints = {"That is the mean if nothing is cut off below: a half normal.": 1 - std * math.sqrt(2 / math.pi),
                 "That is the mean without any cut.": torch.ones(()),
                 "That is the middle of the interval.": (1 + least) / 2,
                 "It is the share that shows.": 1 - want}  # fmt: skip
        agree(got, want, f"The mean for [{least:.2f}, 1] and std {std:.2f}", tolerance=1e-6, hints=hints)


@exercise(points=3, stars=3, kind="code")
def first_set(answer: Any) -> None:
    """first_set(covariance (L, L), m) -> (m,): which m tokens to draw first, so that two sets cost least.

    The rest comes in the second step. Looked at by trying all sets.
    """
    for count, m in 4 * ((5, 2), (6, 3), (7, 3), (6, 1), (6, 5)):  # a wrong rule picks the best set now and then
        covariance = random_covariance(count, 0.15)
        got = numbers(answer(covariance.clone(), m), (m,), "the list of tokens")
        hold(
            (got == got.round()).all() and got.min() >= 0 and got.max() < count, f"Tokens are numbered 0..{count - 1}."
        )
        chosen = [int(j) for j in got]
        hold(len(set(chosen)) == m, "A token stands in the list twice.")
        paid = {}
        for part in itertools.combinations(range(count), m):
            rest = [j for j in range(count) if j not in part]
            paid[part] = lost(covariance, [list(part), rest])
        mine, least = paid[tuple(sorted(chosen))], min(paid.values())
        hold(mine <= least * (1 + 1e-9) + 1e-12, f"With {m} of {count} tokens first it costs {mine:.3f} nats; another "
             f"choice costs {least:.3f}.")  # fmt: skip


class Places:
    """A backbone whose z says which place is asked for and what is known; it remembers its calls."""

    def __init__(self, count: int):
        self.pull = torch.randn(count)
        self.calls: list[tuple[Tensor, Tensor, int]] = []

    def __call__(self, x: Tensor, order: Tensor, known: int) -> Tensor:
        """(B, L, 1), (B, L), known -> (B, L − known, 2)."""
        known = whole(known, "the number of known tokens")
        hold(x.shape == (*order.shape, 1), f"The backbone reads tokens (B, L, 1), it was given {tuple(x.shape)}.")
        self.calls.append((x.clone(), order.clone(), known))
        place = order[:, known:].long()
        said = (x[:, :known, 0] * self.pull[order[:, :known].long()]).sum(1, keepdim=True)
        return torch.stack([place.double(), said.expand(place.shape)], 2)


@exercise(points=3, stars=2, kind="diagnose")
def repaired(answer: Any) -> None:
    """repaired(backbone, head, n, sizes) -> (n, L, 1): draws set by set in random orders, each token at its place.

    Looked at with a head that draws 10 · place plus what the backbone saw, token by token.
    """
    for counts in ([1, 1, 1], [1, 2, 3], [4], [2, 1, 1, 1]):
        total, n = sum(counts), 300
        backbone = Places(total)
        head = lambda z: 10.0 * z[:, :1] + z[:, 1:]  # noqa: E731
        got = samples(answer(backbone, head, n, list(counts)), (n, total, 1), "the draws")
        hold(len(backbone.calls) == len(counts), f"One call of the backbone for each set: yours makes "
             f"{len(backbone.calls)} for {counts}.")  # fmt: skip
        known = [call[2] for call in backbone.calls]
        told = f"For the sets {counts} the backbone was told that {known} tokens are known."
        hold(known == list(itertools.accumulate([0, *counts[:-1]])), told)
        order = backbone.calls[0][1].long()
        hold((order.sort(1).values == torch.arange(total)).all(), "Some order is not a permutation of the places.")
        hold(all(torch.equal(call[1].long(), order) for call in backbone.calls), "The order changes on the way.")
        if total > 1:
            share = torch.nn.functional.one_hot(order[:, 0], total).double()
            mean_is(share, 1 / total, "How often each place comes first", chance_std(1 / total))
        want = torch.zeros(n, total)
        for row in range(n):
            done: list[int] = []
            for size in counts:
                now = order[row, len(done) : len(done) + size].tolist()
                said = sum(float(want[row, j] * backbone.pull[j]) for j in done)
                for j in now:
                    want[row, j] = 10.0 * j + said
                done += now
        turned = torch.zeros(n, total).scatter(1, order.argsort(1), want)
        agree(got[..., 0], want, f"The draw for the sets {counts}", tolerance=1e-6, hints={
              "Tokens stand at wrong places.": want.gather(1, order),
              "They are moved by the order where its inverse is due, or the other way round.": turned})  # fmt: skip


def two_bumps(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means, standard deviations (N, 2) of p(x | z), z (N,) in [−1, 1]."""
    right = 0.5 + 0.35 * z
    weights = torch.stack([1 - right, right], 1)
    means = torch.stack([-1.2 + 0.4 * torch.cos(3 * z), 1.0 + 0.5 * z], 1)
    return weights, means, torch.stack([0.35 + 0 * z, 0.2 + 0.1 * z.abs()], 1)


def bump_density(x: Tensor, z: Tensor) -> Tensor:
    """p(x | z): (N,), (N,) -> (N,)."""
    weights, means, stds = two_bumps(z)
    return (weights * normal(x[:, None], means, stds)).sum(1)


def bump_pairs(n: int) -> Tensor:
    """n pairs (x, z), z uniform on [−1, 1]: (n, 2)."""
    z = 2 * torch.rand(n) - 1
    weights, means, stds = two_bumps(z)
    rows, which = torch.arange(n), torch.multinomial(weights, 1)[:, 0]
    return torch.stack([means[rows, which] + stds[rows, which] * torch.randn(n), z], 1)


@exercise(points=3, stars=2, kind="experiment")
def density(answer: Any) -> None:
    """density(xz (N, 2)) -> (N,): log p(x | z) of a trained head, within 0.06 nats of `bump_density`, and normalised.

    The mean over z of the KL divergence, and the integral over x, by quadrature.
    """
    cells, places = 300, 24
    z = (2 * (torch.arange(places) + torch.rand(places)) / places - 1).float()
    side = 10.0 / cells
    x = -5 + side * (torch.arange(cells) + torch.rand(places, cells))
    pairs = torch.stack([x, z[:, None].expand_as(x)], 2).reshape(-1, 2).float()
    (got,) = at_once(answer, [pairs], "the log-density")
    q, p = got.double().reshape(places, cells), bump_density(*pairs.double().unbind(1)).reshape(places, cells)
    mass = q.exp().sum(1) * side
    off = (mass - 1).abs().max()
    hold(off < 0.1, f"Its density integrates over x to {mass.min():.2f} … {mass.max():.2f}, by z, and not to 1.")
    excess = (p * (p.clamp(min=1e-300).log() - q)).sum(1) * side + mass - p.sum(1) * side
    worst = excess.argmax()
    if excess.mean() >= 0.06:
        raise Wrong(f"It is {excess.mean():.3f} nats from the truth, not within 0.06; worst, {excess[worst]:.2f}, near "
                    f"z = {z[worst]:.2f}.")  # fmt: skip
    learned(excess.mean(), 2e-5)
