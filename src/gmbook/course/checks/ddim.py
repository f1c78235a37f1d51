"""Checks of the exercises of chapter 07, DDIM."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gmbook.course.draws import normal_is
from gmbook.course.kit import Wrong, agree, between, close, exercise, hold, numbers, samples, whole
from gmbook.course.oracles import runge_kutta


def table(count: int) -> Tensor:
    """ᾱ_1 > ᾱ_2 > … with large, uneven steps: (count,)."""
    return torch.cumprod(0.4 + 0.5 * torch.rand(count), 0)


@exercise(points=1, stars=1, kind="derive")
def memory(answer: Any) -> None:
    """memory(before, noise) -> (): the correlation of x_{t−1} with x_t, given x_0, in the family of the chapter.

    `before` is ᾱ_{t−1} and `noise` is the standard deviation ς. Looked at through what each of the two is made of.
    """
    for _ in range(4):
        before, now = table(2)
        noise = between(0.2, 0.9) * (1 - before).sqrt()
        made_of = torch.tensor([[(1 - before - noise**2).sqrt(), noise], [(1 - now).sqrt(), 0.0]])  # of ε and of z
        covariance = made_of @ made_of.T
        want = covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()
        got = numbers(answer(before.clone(), noise), (), "the correlation")
        agree(got, want, "the correlation", hints={"It looks like the covariance.": covariance[0, 1],
              "It looks like the slope of x_{t−1} on x_t.": covariance[0, 1] / covariance[1, 1]})  # fmt: skip
    for share, limit in ((0.0, 1.0), (1 - 1e-6, 0.0)):  # at 1 itself a root of 0 may be one of −1e-16
        got = numbers(answer(before.clone(), share * (1 - before).sqrt()), (), "the correlation")
        hold(abs(got - limit) < 0.01, f"With {'no' if limit else 'all the'} noise fresh it should be {limit:g}.")


@exercise(points=1, stars=1, kind="code")
def cocktail(answer: Any) -> None:
    """cocktail(latents (K, *S), weights (K,)) -> (*S): a latent again, in which the parts stand like the weights.

    The factors are read off from latents that are unit vectors; the law of the mixture must be standard normal.
    """
    for count in (2, 3, 5):
        weights = 0.3 + 2 * torch.rand(count)
        factors = numbers(answer(torch.eye(count), weights), (count,), "the mixture of K latents (K,)")
        unit = factors / factors.sum()
        hold(close(unit, weights / weights.sum()), "The parts do not stand to each other like the weights.")
        size = factors.square().sum()
        hold(size > 1e-9 and factors.sum() > 0, "Look at its sign.")
        hint = f"The variance of the mixture of independent standard normals is {size.item():.3f}."
        hold(abs(size - 1) < 1e-9, hint)
        latents = torch.randn(count, 2, 3)
        want = torch.einsum("k,kij->ij", factors, latents)
        agree(numbers(answer(latents, weights), (2, 3), "the mixture of latents (K, 2, 3)"), want, "the mixture")


def velocity(x: Tensor, angle: float, weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """E[cos φ ε − sin φ x_0 | x] for x (B,) and data from a mixture of normals (K,): component by component."""
    cosine, sine = math.cos(angle), math.sin(angle)
    variance, off = (cosine * stds) ** 2 + sine**2, x[:, None] - cosine * means  # (K,), (B, K)
    shares = torch.softmax(weights.log() - 0.5 * variance.log() - 0.5 * off**2 / variance, 1)
    parts = cosine * sine / variance * off - sine * (means + cosine * stds**2 / variance * off)
    return (shares * parts).sum(1)


def flow(x: Tensor, kept: Tensor, weights: Tensor, means: Tensor, stds: Tensor, steps: int) -> Tensor:
    """DDIM's limit of many steps, from ᾱ = kept to the data: Runge and Kutta's method in the angle, (B,)."""
    speed = lambda x, angle: velocity(x, angle, weights, means, stds)  # noqa: E731
    return runge_kutta(speed, x, math.acos(math.sqrt(kept.item())), 0.0, steps)


@exercise(points=2, stars=2, kind="derive")
def carried(answer: Any) -> None:
    """carried(x (B,), kept, mean, std) -> (B,): where many noiseless steps lead, for data N(mean, std²).

    From x at ᾱ_T = kept. Looked at by solving the differential equation with the exact velocity.
    """
    for _ in range(3):
        kept, mean, std = between(0.05, 0.4), between(0.5, 2.0), between(0.4, 2.0)
        x = torch.randn(5)
        want = flow(x, kept, torch.ones(1), mean[None], std[None], 60)
        got = numbers(answer(x, kept, mean, std), (5,), "x_0")
        agree(got, want, "x_0", tolerance=1e-4)


@exercise(points=2, stars=2, kind="derive")
def merged(answer: Any) -> None:
    """merged(middle, low, first, second) -> (): the noise ς of the one step from t to r that two steps t → s → r make.

    `middle` and `low` are ᾱ_s and ᾱ_r; `first` and `second` the ς of the two steps. Looked at by conditioning.
    """
    for _ in range(4):
        low, middle, high = table(3)
        first, second = (between(0.2, 0.95) * (1 - a).sqrt() for a in (middle, low))
        kept = ((1 - low - second**2) / (1 - middle)).sqrt()  # of the noise in x_s, by the second step
        made_of = torch.stack([  # of ε, z_1, z_2
            torch.stack([(1 - high).sqrt(), torch.zeros(()), torch.zeros(())]),
            torch.stack([kept * (1 - middle - first**2).sqrt(), kept * first, second])])  # fmt: skip
        covariance = made_of @ made_of.T
        want = covariance[1, 1] - covariance[0, 1] ** 2 / covariance[0, 0]
        got = numbers(answer(middle.clone(), low.clone(), first, second), (), "the noise")
        hints = {"It looks like the variance.": want, "The second step also scales the noise of the first.":
                 (first**2 + second**2).sqrt()}  # fmt: skip
        agree(got, want.sqrt(), "the noise", hints=hints)


@exercise(points=3, stars=2, kind="code")
def jump(answer: Any) -> None:
    """jump(v, x, now, before, eta, z) -> like x: a step of the sampler for a network that has predicted v.

    `now`, `before` are ᾱ_t, ᾱ_s; z is the fresh noise to use. Looked at with hidden x_0 and ε, and by conditioning.
    """
    for eta, last in ((0.0, False), (1.0, False), (0.6, False), (0.3, False), (0.0, True), (1.0, True)):
        before, now = table(2)
        if last:
            before = torch.ones(())
        x0, eps, z = torch.randn(3, 2, 3, 2)
        x, v = now.sqrt() * x0 + (1 - now).sqrt() * eps, now.sqrt() * eps - (1 - now).sqrt() * x0
        joint = torch.stack([1 - before, (now / before).sqrt() * (1 - before), 1 - now])  # variances of DDPM's chain
        noise = eta * (joint[0] - joint[1] ** 2 / joint[2]).clamp(min=0).sqrt()
        where = "x_s in the last jump, to ᾱ = 1," if last else f"x_s at η = {eta}"
        got = numbers(answer(v, x, now.clone(), before.clone(), eta, z), x.shape, where)
        signal, room = before.sqrt() * x0, (1 - before - noise**2).clamp(min=0).sqrt()
        mistaken = (before / now).sqrt() * (x - (1 - now).sqrt() * v) + room * v + noise * z
        hints = {"The old noise does not make room for the fresh.": signal + (1 - before).sqrt() * eps + noise * z,
                 "There is no fresh noise in it.": signal + room * eps,
                 "It is as if the network had predicted the noise.": mistaken,
                 "It looks like the point at the level where it started.": x}  # fmt: skip
        agree(got, signal + room * eps + noise * z, where, hints=hints, tolerance=1e-6)


@exercise(points=3, stars=3, kind="derive")
def destination(answer: Any) -> None:
    """destination(x (B,), weights (K,), means (K,), stds (K,)) -> (B,): where x_T is led, for a mixture of normals.

    T is so high that ᾱ_T = 0. Looked at by solving the differential equation with the exact velocity.
    """
    for count in (1, 2, 3):
        weights = torch.softmax(torch.randn(count), 0)
        means, stds = 1.5 * torch.randn(count), 0.4 + 0.8 * torch.rand(count)
        x = torch.randn(8).clamp(-2, 2)
        want = flow(x, torch.zeros(()), weights, means, stds, 100)
        got = numbers(answer(x, weights, means, stds), (8,), "x_0")
        flat = (weights * means).sum() + (weights * (stds**2 + means**2)).sum().sub(
            (weights * means).sum() ** 2
        ).sqrt() * x
        hints = {"It takes the mixture for one normal law.": flat} if count > 1 else {}
        agree(got, want, f"x_0 for {count} component{'s' if count > 1 else ''}", tolerance=1e-3, hints=hints)


@exercise(points=3, stars=3, kind="code")
def undo(answer: Any) -> None:
    """undo(net, x (B, D), now, before) -> (B, D): the x_t that a noiseless step carries to x = x_s, exactly.

    net(x, kept) is ε̂ at the level ᾱ = kept; it changes slowly with x. Looked at by taking the step.
    """
    for _ in range(3):
        before, now = table(2)
        slope = torch.linalg.qr(torch.randn(3, 3)).Q
        calls = [0]

        def net(
            x: Tensor, kept: Tensor, slope: Tensor = slope, level: Tensor = now, calls: list[int] = calls
        ) -> Tensor:
            kept = torch.as_tensor(kept)
            calls[0] += 1
            hold(calls[0] <= 500, "After 500 calls of the network it has not come to an end.")
            hold(kept.numel() == 1, "The network is told one number, the level ᾱ of the points that it is given.")
            hold(abs(kept - level).max() < 1e-9, "The network is told another level than that of x_t.")
            return 0.6 * torch.sin(x @ slope + 1.0)

        x = torch.randn(4, 3)
        got = numbers(answer(net, x, now.clone(), before.clone()), (4, 3), "x_t")
        ratio = lambda kept: ((1 - kept) / kept).sqrt()  # noqa: E731
        back = before.sqrt() * (got / now.sqrt() + (ratio(before) - ratio(now)) * 0.6 * torch.sin(got @ slope + 1.0))
        error = (back - x).abs().max().item()
        hold(error < 0.3, f"The step from your x_t ends {error:.2g} away from x_s.")
        hold(error < 1e-6, f"The step from your x_t ends {error:.2g} away from x_s: near, but not an inverse.")


class Linear:
    """A network slope_i · x that remembers the steps that it was asked about."""

    def __init__(self, slopes: Tensor):
        self.slopes = slopes  # (T,), of the steps 1..T
        self.asked: list[int] = []

    def __call__(self, x: Tensor, i: Tensor) -> Tensor:
        """Its output for x (B, D) and i (B,)."""
        steps = torch.as_tensor(i).reshape(-1)
        hold(len(steps.unique()) == 1, "All points of a batch are at the same step.")
        step = whole(steps[0], "the network's step")
        hold(1 <= step <= len(self.slopes), f"The network is asked about step {step}: steps are 1..T.")
        hold(len(self.asked) < 100, "The network is asked again and again.")
        self.asked.append(step)
        return self.slopes[step - 1] * x


def sparse(steps: int, count: int) -> list[int]:
    """`count` different levels of 1..steps, rising, the last one is `steps`; if any is left out, so is steps − 1."""
    below = steps - 1 if count == steps else steps - 2
    return sorted((torch.randperm(below)[: count - 1] + 1).tolist()) + [steps]


@exercise(points=3, stars=2, kind="diagnose")
def calmed(answer: Any) -> None:
    """calmed(net, x (B, D), alpha_bar (T + 1,), tau, eta) -> x_0: the sampler on the levels tau, for net(x, i).

    For a linear network every x is Gaussian: its mean and variance are carried through the steps by hand.
    """
    for eta, count in ((0.0, 4), (1.0, 1), (1.0, 7), (0.7, 3), (1.0, 3)):
        alpha_bar, tau = torch.cat([torch.ones(1), table(7)]), sparse(7, count)
        net = Linear(0.5 + 0.5 * torch.rand(7))
        start = torch.tensor([[2.0, -1.0]])
        where = f"x_0 with a linear network at η = {eta}, {count} of 7 steps"
        got = samples(answer(net, start.repeat(20_000, 1), alpha_bar.clone(), list(tau), eta), (20_000, 2), "x_0")
        hold(net.asked == tau[::-1], f"With the levels {tau} the network is asked about {net.asked}.")
        factor, variance = torch.ones(()), torch.zeros(())
        for i, j in zip(tau[::-1], [*tau[-2::-1], 0]):
            a, b = alpha_bar[i], alpha_bar[j]
            fresh = eta**2 / (a / b / (1 - a / b) + 1 / (1 - b)) if j else 0 * a  # η² over a precision of DDPM's
            slope = net.slopes[i - 1]
            shrink = (b / a).sqrt() * (1 - (1 - a).sqrt() * slope) + (1 - b - fresh).clamp(min=0).sqrt() * slope
            factor, variance = factor * shrink, variance * shrink**2 + fresh
        if eta == 0 or count == 1:
            hold(got.std(0).max() < 1e-9, f"{where}: nothing should be random, and it is.")
        normal_is(got, factor * start[0], variance.sqrt(), where)


@exercise(points=3, stars=3, kind="diagnose")
def on_time(answer: Any) -> None:
    """on_time(net, x (B, D), betas (T,), tau) -> x_0: the noiseless sampler on the levels tau of 1..T, for net(x, i).

    A linear network only multiplies: looked at in the coordinates in which a step is one of Euler's.
    """
    for steps, count in ((1, 1), (6, 6), (6, 3), (6, 4)):
        alpha_bar, tau = table(steps), sparse(steps, count)
        betas = 1 - alpha_bar / torch.cat([torch.ones(1), alpha_bar[:-1]])
        net, x = Linear(torch.randn(steps)), torch.randn(3, 2)
        got = numbers(answer(net, x, betas, list(tau)), (3, 2), "x_0")
        hold(net.asked == tau[::-1], f"With the levels {tau} the network is asked about the steps {net.asked}.")
        rho = torch.cat([torch.zeros(1), (1 / alpha_bar - 1).sqrt()])
        want, ends = x / alpha_bar[-1].sqrt(), []
        for i, j in zip(tau[::-1], [*tau[-2::-1], 0]):
            want = want + (rho[j] - rho[i]) * net.slopes[i - 1] * alpha_bar[i - 1].sqrt() * want
            ends.append(want * (alpha_bar[j - 1] if j else torch.ones(())).sqrt())
        hints = {"It is still at the last level of tau: a jump is missing.": ends[-2]} if count > 1 else {}
        agree(got, want, f"x_0 with {count} of {steps} levels", hints=hints)


@exercise(points=3, stars=2, kind="experiment")
def levels(answer: Any) -> None:
    """levels: ten rising whole numbers, the last 1000: the τ for which the exact W2 is below 0.42.

    Looked at by carrying the standard deviation of each direction through the ten steps.
    """
    hold(not callable(answer), "The answer is a list of ten numbers, not a function.")
    tau = [whole(value, "a level") for value in samples(answer, (10,), "the list of levels")]
    hold(all(a < b for a, b in zip(tau, tau[1:])), "The levels must rise: τ_1 < … < τ_10.")
    hold(tau[0] >= 1 and tau[-1] <= 1000, "Levels are 1..1000.")
    hold(tau[-1] == 1000, "The latents are standard normal: the first call is at level 1000.")
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000).double(), 0)
    spread = 2 / torch.arange(1, 201).double()
    rho, factor = (1 / alpha_bar - 1).sqrt(), torch.ones(200).double() / alpha_bar[999].sqrt()
    for i, j in zip(tau[::-1], [*tau[-2::-1], 0]):
        target = rho[j - 1] if j else 0.0
        factor = factor * (1 + (target - rho[i - 1]) * rho[i - 1] / (spread**2 + rho[i - 1] ** 2))
    errors = (factor - spread).square()
    total = errors.sum().sqrt().item()
    if total >= 0.42:
        share = errors[:5].sum() / errors.sum()
        where = "the five widest directions" if share > 0.5 else "the quiet directions"
        raise Wrong(f"W2 is {total:.3f}, not below 0.42; most of its square comes from {where}.")
