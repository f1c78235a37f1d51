"""Checks of the exercises of chapter 09, scores at many levels of noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmbook.core.paths import VEPath
from gmbook.course.draws import chance_std, learned, mean_is, normal_is
from gmbook.course.kit import (
    Given,
    Probe,
    Wrong,
    agree,
    between,
    column,
    exercise,
    gradient,
    hold,
    numbers,
    samples,
)
from gmbook.laws import plane


@exercise(points=1, stars=1, kind="derive")
def posterior_mean(answer: Any) -> None:
    """posterior_mean(x (B,), a, sigma, p) -> (B,): E[x_0 | x], x = x_0 + σε, for x_0 = a with chance p and −a else.

    Looked at by Bayes's rule on the two points.
    """
    for p in (0.5, 0.2, 0.85):
        a, sigma, x = between(0.5, 2.0), between(0.4, 1.5), 2 * torch.randn(9)
        logs = torch.stack([p * torch.ones(9), (1 - p) * torch.ones(9)]).log()
        logs = logs - torch.stack([(x - a) ** 2, (x + a) ** 2]) / (2 * sigma**2)
        share = torch.softmax(logs, 0)
        want = a * (share[0] - share[1])
        got = numbers(answer(x.clone(), a.item(), sigma.item(), p), (9,), "the conditional mean")
        hints = {"That is the chance of +a.": share[0],
                 "That is the score of the blurred law.": (want - x) / sigma**2,
                 "That is the answer for p = ½.": a * torch.tanh(a * x / sigma**2)}  # fmt: skip
        agree(got, want, f"The conditional mean for p = {p}", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def constant(answer: Any) -> None:
    """constant(covariance (D, D), sigma) -> (): denoising minus explicit score matching, for data N(m, covariance).

    Looked at through the exact moments of both losses of a random affine score.
    """
    for dims in (1, 2, 3):
        root, sigma = torch.randn(dims, dims), between(0.3, 1.5)
        covariance, unit = root @ root.T + 0.1 * torch.eye(dims), torch.eye(dims)
        blurred = covariance + sigma**2 * unit
        matrix, off = torch.randn(dims, dims), torch.randn(dims)  # s(x̃) = A(x̃ − m) + c
        target = sigma * matrix + unit / sigma  # what multiplies ε in s + ε/σ
        denoising = (matrix @ covariance @ matrix.T).trace() + (target @ target.T).trace() + off @ off
        apart = matrix + torch.linalg.inv(blurred)
        explicit = (apart @ blurred @ apart.T).trace() + off @ off
        want = (denoising - explicit) / 2
        got = numbers(answer(covariance.clone(), sigma.item()), (), "the constant")
        hints = {"Both losses begin with a half.": 2 * want,
                 "That is the constant per dimension.": want / dims,
                 "That is the whole of the target's mean square; the score's own has to go.": dims / (2 * sigma**2),
                 "The law in the explicit loss is the blurred one.":
                     (dims / sigma**2 - torch.linalg.inv(covariance).trace()) / 2}  # fmt: skip
        agree(got, want, f"The constant for D = {dims}", hints=hints)


class Bend(Given):
    """A score network s(x) = tanh(xM)W + xR, whose Jacobian is not symmetric."""

    def __init__(self, inner: Tensor, outer: Tensor, rest: Tensor):
        super().__init__(inner, outer, rest)
        self.inner, self.outer, self.rest = inner, outer, rest

    def __call__(self, x: Tensor) -> Tensor:
        """Its value at x (B, D): (B, D)."""
        return torch.tanh(x @ self.inner) @ self.outer + x @ self.rest


@exercise(points=2, stars=2, kind="code")
def sliced(answer: Any) -> None:
    """sliced(score, x (B, D), v (B, D)) -> (B,): vᵀ∇s(x)v + ½‖s(x)‖² for each point, score(x (B, D)) -> (B, D).

    Looked at with a network whose Jacobian is written out.
    """
    for dims in (2, 4):
        inner, outer, rest = torch.randn(dims, 5), torch.randn(5, dims), torch.randn(dims, dims)
        score, x, v = Bend(inner, outer, rest), torch.randn(7, dims), torch.randn(7, dims)
        bend = 1 - torch.tanh(x @ inner) ** 2  # (7, 5)
        jacobian = torch.einsum("ik,bk,kj->bji", inner, bend, outer) + rest.T  # ∂s_j/∂x_i
        form, half = torch.einsum("bj,bji,bi->b", v, jacobian, v), score(x).square().sum(1) / 2
        got = numbers(answer(score, x.clone(), v.clone()), (7,), "the loss of each point").detach()
        hints = {"The half of ‖s‖² is missing.": form + 2 * half,
                 "‖s‖² is missing.": form,
                 "That is with the exact trace; v is not used.": jacobian.diagonal(dim1=1, dim2=2).sum(1) + half,
                 "v has been brought to unit length.": form / v.square().sum(1) + half,
                 "In the place of ‖s‖² stands (vᵀs)².": form + (score(x) * v).sum(1) ** 2 / 2}  # fmt: skip
        agree(got, form + half, f"The loss for D = {dims}", hints=hints)


@exercise(points=3, stars=2, kind="code")
def denoising(answer: Any) -> None:
    """denoising(net, x0 (B, *S), sigmas (L,)) -> (): mean of σ²·½‖s + ε/σ‖² per dimension, a level for each point.

    net(x (B, *S), k (B,)) is the score at level sigmas[k], k int64, all levels alike. Looked at through a network that
    remembers what it was given.
    """
    sigmas = (between(0.1, 0.3, 4) * torch.tensor([1.0, 2.0, 4.0, 8.0])).flip(0)
    net, x0 = Probe("k"), 1.5 + torch.rand(40_000, 1, 2)
    loss = numbers(answer(net, x0, sigmas.clone()), (), "the loss")
    hold(len(net.calls) == 1, f"One call of the network is enough, yours makes {len(net.calls)}.")
    x, k = net.calls[0]
    hold(x.shape == x0.shape, f"The network is given {tuple(x.shape)} where x̃ has x_0's shape, {tuple(x0.shape)}.")
    hold(not k.is_floating_point() and bool((k >= 0).all() and (k < 4).all()), "k must be places in sigmas, 0..L − 1.")
    hold(len(k.unique()) > 1, "All points of the batch have the same level: draw one for each.")
    mean_is(torch.stack([(k == level).double() for level in range(4)], 1), 0.25, "How often each level is drawn",
            std=chance_std(0.25))  # fmt: skip
    sigma = column(sigmas[k], x0)
    noise = (x - x0).flatten(1)
    for level in range(4):
        normal_is(noise[k == level], 0.0, sigmas[level], f"x̃ minus x_0 at level {level}")
    output = net(x, k)
    error = sigma * output + (x - x0) / sigma
    hints = {"The half is missing.": error.square().mean(),
             "A mean over dimensions is due as well.": error.square().sum() / len(x0) / 2,
             "The levels are not weighed by σ².": (error / sigma).square().mean() / 2,
             "Look at the sign of the target: it points back to x_0.":
                 (sigma * output - (x - x0) / sigma).square().mean() / 2,
             "The target is ε/σ, not ε.": (sigma * (output + (x - x0) / sigma)).square().mean() / 2}  # fmt: skip
    agree(loss, error.square().mean() / 2, "the loss", hints=hints)
    slope = gradient(loss, net.weights, "the network's parameters")
    agree(slope, gradient(error.square().mean() / 2, net.weights, "them"), "the gradient with respect to the network")


@exercise(points=2, stars=2, kind="derive")
def best_linear(answer: Any) -> None:
    """best_linear(x (N, D)) -> (A (D, D), b (D,)): the s(x) = Ax + b of least implicit score matching on these points.

    Looked at as one linear system, in the points' raw second moments.
    """
    for dims in (1, 2, 4):
        x = torch.randn(9 * dims, dims) @ torch.randn(dims, dims) + 2 * torch.randn(dims)
        ones = torch.cat([x, torch.ones(len(x), 1)], 1)
        want = -torch.linalg.inv(ones.T @ ones / len(x))[:dims]  # from I + mean of (Ax + b)(x, 1)ᵀ = 0
        value = answer(x.clone())
        hold(type(value) in (tuple, list) and len(value) == 2, "Two things are due: the matrix A and the vector b.")
        got, shift = numbers(value[0], (dims, dims), "A"), numbers(value[1], (dims,), "b")
        raw = -torch.linalg.inv(x.T @ x / len(x))
        hints = {"Is the covariance divided by N or by N − 1? The loss is a mean over N points.":
                     want[:, :dims] * (len(x) - 1) / len(x),
                 "The mean has not been taken off before the second moments.": raw}  # fmt: skip
        agree(got, want[:, :dims], f"A for D = {dims}", hints=hints)
        agree(shift, want[:, dims], f"b for D = {dims}", hints={"b is added to Ax: it is not the mean.": x.mean(0)})


@exercise(points=3, stars=3, kind="diagnose")
def repaired(answer: Any) -> None:
    """repaired(score, x (B, D), sigmas (L,), per_level, step) -> (B, D): Algorithm 1 and the denoising step.

    score(x, sigma) is the score at one of the sigmas, which fall. For a linear score all states are Gaussian: mean and
    variance are carried through the walk by hand.
    """
    for levels, per_level in ((1, 1), (2, 1), (3, 4)):
        sigmas = torch.cumprod(between(0.3, 0.7, levels), 0) * 3
        slopes, step = between(0.2, 1.0, levels) / sigmas**2, 0.3 * sigmas[-1].item() ** 2
        asked: list[int] = []

        def score(
            x: Tensor, sigma: Tensor | float, s: Tensor = sigmas, k: Tensor = slopes, asked: list[int] = asked
        ) -> Tensor:
            off = (s - torch.as_tensor(sigma).double().reshape(-1)[0]).abs()
            hold(off.min() < 1e-6, "The score is asked at a σ that is none of the levels.")
            asked.append(int(off.argmin()))
            return -k[asked[-1]] * x

        start = torch.tensor([[2.0, -1.0]])
        value = answer(score, start.repeat(20_000, 1), sigmas.clone(), per_level, step)
        got = samples(value, (20_000, 2), "what comes out")
        due = [i for i in range(levels) for _ in range(per_level)]
        hold(asked[: len(due)] == due, f"With L = {levels}, T = {per_level} the levels asked, from 0, are {asked}.")
        hold(asked == [*due, levels - 1], "After the walk one call at the last level is due, for the denoising step.")
        factor, variance = torch.ones(()), torch.zeros(())
        for i in due:
            size = step * (sigmas[i] / sigmas[-1]) ** 2
            shrink = 1 - size / 2 * slopes[i]
            factor, variance = factor * shrink, variance * shrink**2 + size
        end = 1 - sigmas[-1] ** 2 * slopes[-1]
        where = f"the end with L = {levels}, T = {per_level} and a linear score"
        normal_is(got, factor * end * start[0], variance.sqrt() * end, where)


@exercise(points=2, stars=2, kind="derive")
def after(answer: Any) -> None:
    """after(v, s, sigma, alpha, steps) -> (): the variance after Langevin steps of size α at level σ, from variance v.

    Data are N(0, s²) on the line, the score is exact. Looked at by carrying the variance from step to step.
    """
    for steps in (1, 2, 7):
        v, s, sigma = between(0.1, 9.0), between(0.2, 1.5), between(0.2, 2.0)
        total = s**2 + sigma**2
        alpha = between(0.1, 0.9) * total
        want = v
        for _ in range(steps):
            want = (1 - alpha / (2 * total)) ** 2 * want + alpha
        got = numbers(answer(v.clone(), s.item(), sigma.item(), alpha.item(), steps), (), "the variance")
        alone = v
        for _ in range(steps):
            alone = (1 - alpha / (2 * sigma**2)) ** 2 * alone + alpha
        hints = {"That is for a single data point: the data have a spread of their own.": alone,
                 "That is where the chain settles.": total / (1 - alpha / (4 * total)),
                 "That is the law that is meant.": total}  # fmt: skip
        agree(got, want, f"The variance after {steps} steps", hints=hints)


@exercise(points=1, stars=1, kind="code")
def levels(answer: Any) -> None:
    """levels(most, least, ratio) -> (L,): the fewest geometric levels from most to least with neighbours ≤ ratio apart.

    Looked at by trying one number of levels after the other.
    """
    for _ in range(8):
        most, least, ratio = between(1.0, 60.0).item(), between(0.005, 0.5).item(), between(1.02, 3.0).item()
        count = 2
        while (most / least) ** (1 / (count - 1)) > ratio:
            count += 1
        value = torch.as_tensor(answer(most, least, ratio)) + 0.0
        hold(value.ndim == 1, "A list of levels is due, one number for each.")
        hold(len(value) <= count, f"{len(value)} levels where {count} are enough.")
        hold(len(value) >= count, f"With {len(value)} levels some neighbours are further apart than the ratio.")
        got = numbers(value, (count,), "the levels")
        want = torch.stack([torch.tensor(most * (least / most) ** (i / (count - 1))) for i in range(count)])
        hints = {"They rise: the noisiest level comes first.": want.flip(0),
                 "They are evenly spaced; geometric is due.": torch.linspace(most, least, count)}  # fmt: skip
        agree(got, want, "The list of levels", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def blend(answer: Any) -> None:
    """blend(log_1, log_2, s_1, s_2, weight) -> (B, D): the score of weight·p_1 + (1 − weight)·p_2.

    From both log-densities (B,) and both scores (B, D). Looked at by autograd of the mixture's
    log-density; and far out, where both densities are 0 in floating point.
    """
    for far in (1.0, 60.0):
        centres, stds, weight = torch.randn(2, 3), between(0.5, 1.5, 2), between(0.05, 0.35)
        weight = weight if torch.rand(()) < 0.5 else 1 - weight
        x = (centres.mean(0) + far * torch.randn(16, 3)).requires_grad_()
        logs = [-(((x - m) / s) ** 2).sum(1) / 2 - 3 * s.log() for m, s in zip(centres, stds)]
        whole = torch.logsumexp(torch.stack([weight.log() + logs[0], (1 - weight).log() + logs[1]]), 0)
        (want,) = torch.autograd.grad(whole.sum(), x)
        parts = [(m - x.detach()) / s**2 for m, s in zip(centres, stds)]
        given = [*(value.detach().clone() for value in logs), *(part.clone() for part in parts), weight.item()]
        got = numbers(answer(*given), (16, 3), "the score" if far == 1 else "the score far out")
        hints = {"The densities at x do not enter: only the fixed weights do.":
                     weight * parts[0] + (1 - weight) * parts[1],
                 "The weights do not enter.": torch.sigmoid(logs[0] - logs[1]).detach()[:, None] * (parts[0] - parts[1])
                     + parts[1]}  # fmt: skip
        agree(got, want, "The score" if far == 1 else "The score far out", hints=hints)


@exercise(points=3, stars=2, kind="experiment")
def slope(answer: Any) -> None:
    """slope(x (B, 2), sigma (B,)) -> (B, 2): the score of the moons blurred by σ in [0.1, 2], error below 0.03.

    The error is the mean of σ²‖s − s*‖²/2, with the exact s*, over log-uniform σ.
    """
    law, path = plane.moons(), VEPath(0.1, 2.0)
    t = torch.rand(20_000)
    sigma = path.sigma(t)
    x = law.sample(len(t)) + sigma[:, None] * torch.randn(len(t), 2)
    got = samples(answer(x, sigma), (len(t), 2), "the score")
    exact = (law.posterior_mean(x, torch.ones(()), sigma) - x) / sigma[:, None] ** 2
    error = (sigma[:, None] * (got - exact.double())).square().mean(1)
    total = error.mean().item()
    if total < 0.03:
        return learned(total, 2e-5)
    large = error[t > 0.5].mean() / error[t <= 0.5].mean()
    where = "most of it at the large levels" if large > 2 else "most of it at the small levels" if large < 0.5 else ""
    flipped = (sigma[:, None] * (got + exact.double())).square().mean().item() < total
    end = " With its sign turned it would be nearer." if flipped else ""
    raise Wrong(f"The error is {total:.3f}, not below 0.03{'; ' * bool(where)}{where}.{end}")
