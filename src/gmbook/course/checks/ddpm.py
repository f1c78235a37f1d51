"""Checks of the exercises of chapter 06, denoising diffusion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmbook.core.denoiser import Truth
from gmbook.core.paths import TablePath
from gmbook.course.draws import chance_std, learned, mean_is, normal_is
from gmbook.course.kit import Probe, Wrong, agree, close, column, exercise, gradient, hold, numbers, samples, whole
from gmbook.laws import plane
from gmbook.papers.ddpm import linear_betas


def random_betas(steps: int) -> Tensor:
    """A table β_1..β_T of large, uneven steps, so that formulas which nearly agree do not: (T,)."""
    return 0.05 + 0.5 * torch.rand(steps)


@exercise(points=1, stars=1, kind="derive")
def steps_to_noise(answer: Any) -> None:
    """steps_to_noise(beta, snr) -> int: with β_i = beta for all i, the first i at which ᾱ_i/(1 − ᾱ_i) ≤ snr.

    Looked at by running the chain's mean and variance, step by step.
    """
    for _ in range(12):
        beta, snr = 10 ** (-2.5 * torch.rand(()).item() - 0.5), 10 ** (1 - 3 * torch.rand(()).item())
        mean, variance, step = 1.0, 0.0, 0
        while step == 0 or mean**2 > snr * variance:
            mean, variance, step = (1 - beta) ** 0.5 * mean, (1 - beta) * variance + beta, step + 1
        got = whole(answer(beta, snr), "the number of steps")
        hold(abs(got - step) != 1, f"For beta = {beta:.4g}, snr = {snr:.4g} it is off by one.")
        hold(got > step / 3, "Far too few steps. Does the signal's variance or its standard deviation fall by 1 − β?")
        hold(got < 3 * step, "Far too many steps. Which of the two variances is compared with which?")
        hold(got == step, f"For beta = {beta:.4g}, snr = {snr:.4g} the chain reaches the ratio at another step.")


@exercise(points=2, stars=2, kind="derive")
def bridge(answer: Any) -> None:
    """bridge(before, now) -> (w_0, w_i, variance): q(x_j | x_i, x_0) = N(w_0 x_0 + w_i x_i, variance I) for j < i.

    `before` and `now` are ᾱ_j and ᾱ_i. Looked at by conditioning the joint Gaussian of (x_j, x_i).
    """
    for _ in range(5):
        betas = random_betas(6)
        alpha_bar = torch.cumprod(1 - betas, 0)
        noise = torch.linalg.solve_triangular(  # x_1..x_6 = (signal of x_0) + noise z, from the chain alone
            torch.eye(6) - torch.diag((1 - betas[1:]).sqrt(), -1), torch.diag(betas.sqrt()), upper=False
        )
        covariance, j, i = noise @ noise.T, 1 + int(torch.randint(3, ())), 5
        slope = covariance[j, i] / covariance[i, i]
        start = alpha_bar[j].sqrt() - slope * alpha_bar[i].sqrt()
        want = torch.stack([start, slope, covariance[j, j] - slope * covariance[i, j]])
        got = numbers(answer(alpha_bar[j].clone(), alpha_bar[i].clone()), (3,), "the answer (w_0, w_i, variance)")
        agree(got[1], want[1], "the weight of x_i", hints={"It is the weight of x_0: see the order.": want[0]})
        agree(got[0], want[0], "the weight of x_0")
        agree(got[2], want[2], "the variance", hints={"It looks like the standard deviation.": want[2].sqrt()})


@exercise(points=3, stars=2, kind="code")
def simple_loss(answer: Any) -> None:
    """simple_loss(net, x0, alpha_bar) -> (): L_simple of a batch x0 (B, *S), for a network net(x (B, *S), i (B,)).

    `alpha_bar` is (T + 1,), with ᾱ_0 = 1 first. Looked at through a network that remembers what it was given.
    """
    alpha_bar = torch.cat([torch.ones(1), torch.cumprod(1 - random_betas(4), 0)])
    net, x0 = Probe("i"), 1.5 + torch.rand(40_000, 1, 2)
    loss = numbers(answer(net, x0, alpha_bar), (), "the loss")
    hold(len(net.calls) == 1, f"One call of the network is enough, yours makes {len(net.calls)}.")
    x, i = net.calls[0]
    hold(
        x.shape == x0.shape, f"The network is given {tuple(x.shape)} where x_i has the shape of x_0, {tuple(x0.shape)}."
    )
    hold(not i.is_floating_point() and bool((i == i.round()).all()), "The network's i must be whole steps, int64.")
    hold(len(i.unique()) > 1, "All points of the batch have the same step: draw one for each.")
    hold(i.min() >= 1, "Step 0 is drawn, at which there is no noise at all: steps are 1..T.")
    hold(i.max() <= 4, "A step beyond T is drawn: steps are 1..T, and alpha_bar has T + 1 entries.")
    hold(i.max() == 4, "Step T is never drawn.")
    share = torch.stack([(i == step).double() for step in range(1, 5)], 1)
    mean_is(share, 0.25, "How often each step is drawn", std=chance_std(0.25))
    kept = column(alpha_bar[i], x0)
    scaled = (x - kept.sqrt() * x0).flatten(1)  # should be √(1 − ᾱ_i) ε
    for step in range(1, 5):
        normal_is(scaled[i == step], 0.0, (1 - alpha_bar[step]).sqrt(), f"x_{step} minus its share of x_0")
    output = net(x, i)
    error = output - (scaled.reshape(x.shape) / (1 - kept).sqrt())
    hints = {"A mean over the batch and over dimensions is due, not a sum.": error.square().sum(),
             "A mean over dimensions is due as well, not only over the batch.": error.square().sum() / len(x0),
             "It is the root of the mean square.": error.square().mean().sqrt(),
             "The network is compared with x_0, not with the noise.": (output - x0).square().mean(),
             "It is the mean absolute error.": error.abs().mean()}  # fmt: skip
    agree(loss, error.square().mean(), "the loss", hints=hints)
    slope = gradient(loss, net.weights, "the network's parameters")
    agree(slope, gradient(error.square().mean(), net.weights, "them"), "the gradient with respect to the network")


@exercise(points=3, stars=3, kind="diagnose")
def repaired(answer: Any) -> None:
    """repaired(net, x, betas) -> x_0: Algorithm 2 from x_T = x (B, D), with σ_i² = β_i, for net(x, i), i in 1..T.

    For a linear network every x_i is Gaussian: its mean and variance are carried through the chain by hand.
    """
    for steps in (1, 2, 5):
        betas, slopes = random_betas(steps), torch.randn(steps)
        alpha_bar = torch.cumprod(1 - betas, 0)
        asked: list[int] = []

        def net(x: Tensor, i: Tensor | int, slopes: Tensor = slopes, asked: list[int] = asked) -> Tensor:
            steps = torch.as_tensor(i).reshape(-1)
            hold(len(steps.unique()) == 1, "All points of a batch are at the same step.")
            hold(1 <= steps[0] <= len(slopes), f"The network is asked about step {int(steps[0])}: steps are 1..T.")
            asked.append(int(steps[0]))
            return slopes[asked[-1] - 1] * x

        start = torch.tensor([[2.0, -1.0]])
        got = samples(answer(net, start.repeat(20_000, 1), betas.clone()), (20_000, 2), "x_0")
        hold(asked == list(range(steps, 0, -1)), f"With T = {steps} the network is asked about the steps {asked}.")
        factor, variance = torch.ones(()), torch.zeros(())
        for i in reversed(range(steps)):  # x ← k x + σ z, with no noise in the last step
            shrink = (1 - betas[i] / (1 - alpha_bar[i]).sqrt() * slopes[i]) / (1 - betas[i]).sqrt()
            factor, variance = factor * shrink, variance * shrink**2 + (betas[i] if i else 0.0)
        if steps == 1:
            hold(got.std(0).max() < 1e-9, "With T = 1 the only step is the last, and x_0 still has noise in it.")
        where = f"x_0 with T = {steps} and a linear network"
        normal_is(got, factor * start[0], variance.sqrt(), where)


@exercise(points=2, stars=3, kind="derive")
def spread(answer: Any) -> None:
    """spread(before, now, s) -> (): the variance of x_j given x_i, j < i, for data N(m, s²); ᾱ_j = before, ᾱ_i = now.

    Looked at by regressing x_j on x_i in the joint Gaussian of the chain; and for a point (s = 0).
    """
    for s in (0.0, 1.0, 0.4, 2.5):
        betas = random_betas(5)
        alpha_bar = torch.cumprod(1 - betas, 0)
        variances = [torch.tensor(s) ** 2]
        for beta in betas:
            variances.append((1 - beta) * variances[-1] + beta)
        j, i = 1 + int(torch.randint(3, ())), 5
        shared = torch.prod((1 - betas[j:i]).sqrt()) * variances[j]
        want = variances[j] - shared**2 / variances[i]
        got = numbers(answer(alpha_bar[j - 1].clone(), alpha_bar[i - 1].clone(), s), (), "the variance")
        apart = 1 - alpha_bar[i - 1] / alpha_bar[j - 1]
        point = (1 - alpha_bar[j - 1]) * apart / (1 - alpha_bar[i - 1])
        hints = {"That is the variance when x_0 is known as well.": point,
                 "That is the variance when the data are N(0, 1).": apart,
                 "That is the variance of x_j alone.": variances[j]}  # fmt: skip
        agree(got, want, f"The variance for s = {s}", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def floor(answer: Any) -> None:
    """floor(covariance (D, D), alpha_bar (T + 1,)) -> (): the least L_simple, per dimension, for data N(0, covariance).

    Looked at through the joint precision matrix of (ε, x_i), step by step.
    """
    for dimension in (1, 2, 3):
        root = torch.randn(dimension, dimension)
        covariance = root @ root.T + 0.05 * torch.eye(dimension)
        alpha_bar = torch.cat([torch.ones(1), torch.cumprod(1 - random_betas(6), 0)])
        left, data, unit = [], [], torch.eye(dimension)
        for kept in alpha_bar[1:]:
            cross, noise = (1 - kept).sqrt() * unit, (1 - kept) * unit
            joint = torch.cat([torch.cat([unit, cross], 1), torch.cat([cross, kept * covariance + noise], 1)])
            left.append(torch.linalg.inv(torch.linalg.inv(joint)[:dimension, :dimension]).trace() / dimension)
            data.append(left[-1] * (1 - kept) / kept)
        want, got = torch.stack(left).mean(), numbers(answer(covariance.clone(), alpha_bar.clone()), (), "the floor")
        hints = {"Step 0, at which there is no noise to guess, is none of the T steps.": want * 6 / 7,
                 "That is the sum over dimensions.": want * dimension,
                 "That is the sum over steps.": want * 6,
                 "That is what the best network explains, not what it leaves.": 1 - want,
                 "That is the error of the best guess of x_0, not of the noise.": torch.stack(data).mean()}  # fmt: skip
        agree(got, want, f"The floor for D = {dimension}", hints=hints)


@exercise(points=2, stars=2, kind="code")
def respaced(answer: Any) -> None:
    """respaced(betas (T,), steps) -> (K,): the β of a chain that visits only these steps, increasing in 1..T.

    Looked at by running both chains: signal and variance must be the same at every step that both visit.
    """
    for chosen in ([7], [1, 2, 3, 4, 5, 6, 7], [2, 3, 7], [3, 6], [1, 5, 6]):
        betas = random_betas(7)
        mean, variance, at = torch.ones(()), torch.zeros(()), {}
        for i, beta in enumerate(betas, 1):
            mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
            at[i] = (mean, variance)
        got = numbers(answer(betas.clone(), list(chosen)), (len(chosen),), "the new table")
        hold(((got > 0) & (got < 1)).all(), f"For the steps {chosen} some β is not between 0 and 1.")
        mean, variance = torch.ones(()), torch.zeros(())
        for place, (i, beta) in enumerate(zip(chosen, got)):
            mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
            where = f"For the steps {chosen}, after {place + 1} of them, the chain"
            hold(close(mean, at[i][0]) or mean < at[i][0], f"{where} has more signal left than the long one at {i}.")
            hold(close(mean, at[i][0]), f"{where} has less signal left than the long one at {i}.")
            hold(close(variance, at[i][1]), f"{where} has another variance than the long one at {i}.")


@exercise(points=3, stars=2, kind="diagnose")
def tables(answer: Any) -> None:
    """tables(betas (T,)) -> (w_0, w_i, log_variance), each (T,): q(x_{i-1} | x_i, x_0) for i = 1..T, i = 1 first.

    log_variance is log β̃_i, at i = 1 that of i = 2. Looked at by adding the precisions of prior and likelihood.
    """
    for steps in (2, 3, 8):
        betas = random_betas(steps)
        got = numbers(answer(betas.clone()), (3, steps), "(w_0, w_i, log_variance)")
        hold(close(got[0, 0], torch.ones(())), "At i = 1, x_{i-1} is x_0 itself: its weight is not 1 there.")
        hold(got[1, 0].abs() < 1e-9, "At i = 1, x_{i-1} is x_0 itself, but x_1 has a weight.")
        want, kept = torch.zeros(3, steps), 1 - betas[0]
        want[0, 0] = 1.0
        for i in range(1, steps):
            precision = (1 - betas[i]) / betas[i] + 1 / (1 - kept)
            want[0, i] = kept.sqrt() / (1 - kept) / precision
            want[1, i] = (1 - betas[i]).sqrt() / betas[i] / precision
            want[2, i] = -precision.log()
            kept = kept * (1 - betas[i])
        want[2, 0] = want[2, 1]
        agree(got[0], want[0], "The table of weights of x_0")
        agree(got[1], want[1], "The table of weights of x_i")
        agree(got[2, 1:], want[2, 1:], "The log of the variance from i = 2 on")
        agree(got[2, 0], want[2, 0], "The log of the variance at i = 1, which is taken from i = 2,")


@exercise(points=2, stars=2, kind="code")
def pixel_mass(answer: Any) -> None:
    """pixel_mass(mean, std) -> (256,): the mass that N(mean, std²) gives to each pixel level −1 + 2k/255, k = 0..255.

    Bins reach half way to the next level; the outermost two reach to ±∞. Looked at by quadrature.
    """
    for centre in (-1.05, 1.05, 0.0, 0.5):
        mean, std = centre + 0.2 * (torch.rand(()).item() - 0.5), 10 ** (-1.5 * torch.rand(()).item() - 0.2)
        got = numbers(answer(mean, std), (256,), "the masses")
        nodes, weights = legendre(12)
        levels = -1 + 2 * torch.arange(256) / 255
        points = levels[:, None] + nodes / 255
        want = (torch.exp(-0.5 * ((points - mean) / std) ** 2) @ weights) / (255 * std * (2 * torch.pi) ** 0.5)
        below, above = ((-1 - 1 / 255 - mean) / std, (mean - 1 - 1 / 255) / std)
        tails = torch.tensor([normal_below(below), normal_below(above)])
        hints = {"The outermost bins must reach to ±∞.": want.clone(), "It is a density; a mass is due.": want * 127.5}
        want[0], want[-1] = want[0] + tails[0], want[-1] + tails[1]
        agree(got, want, f"The list of masses for mean {mean:.3f} and standard deviation {std:.3f}", hints=hints)


def legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss's quadrature on [−1, 1], from the eigenvalues of the Jacobi matrix."""
    k = torch.arange(1, count)
    beside = k / (4 * k.double() ** 2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return values, 2 * vectors[0] ** 2


def normal_below(bound: float) -> float:
    """P(z ≤ bound) for z ~ N(0, 1), by quadrature over forty standard deviations."""
    nodes, weights = legendre(200)
    low = min(bound, 0.0) - 20
    points = low + (bound - low) * (nodes + 1) / 2
    return ((-0.5 * points**2).exp() @ weights).item() * (bound - low) / 2 / (2 * torch.pi) ** 0.5


@exercise(points=3, stars=2, kind="experiment")
def denoise(answer: Any) -> None:
    """denoise(x (B, 2), i (B,)) -> (B, 2): the noise in x_i for the moons, T = 100, with an excess loss below 0.02.

    The excess over the least possible loss is exact: the mean square distance from E[ε | x_i], which is known.
    """
    law, path, steps = plane.moons(), TablePath(linear_betas(100)), 100
    i = torch.randint(1, steps + 1, (20_000,))
    x = path.interpolate(law.sample(len(i)), torch.randn(len(i), 2), i.double() / steps)
    got = samples(answer(x, i), (len(i), 2), "the estimate")
    right = Truth(law, path, "eps")(x, i.double() / steps).double()
    excess = (got - right).square().mean(1)
    total = excess.mean().item()
    if total < 0.02:
        return learned(total, 2e-5)
    late = excess[i > 50].mean() / excess[i <= 50].mean()
    where = (
        "most of it at the first" if late < 0.5 else "most of it at the last" if late > 2 else "much the same at all"
    )
    flipped = " With its sign turned it would be nearer." if (got + right).square().mean() < total else ""
    raise Wrong(f"The excess loss is {total:.3f}, not below 0.02; {where} steps.{flipped}")
