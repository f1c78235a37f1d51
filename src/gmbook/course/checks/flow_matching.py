"""Checks of the exercises of chapter 12, flow matching. Time 0 is data, 1 is noise; velocities point to the noise."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from gmbook.core.denoiser import Truth
from gmbook.core.paths import LinearPath
from gmbook.course.draws import chance_std, learned, mean_is, normal_is
from gmbook.course.kit import (
    Given,
    Probe,
    Wrong,
    agree,
    between,
    close,
    column,
    exercise,
    gradient,
    hold,
    numbers,
    samples,
)
from gmbook.laws import plane


def from_score(law: Any, x: Tensor, t: Tensor) -> Tensor:
    """The velocity on the linear path, −(x + t∇log p_t)/(1 − t), with the score of `law` = p_t by autograd."""
    x = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    return -(x.detach() + t * score) / (1 - t)


@exercise(points=1, stars=1, kind="derive")
def constant_width(answer: Any) -> None:
    """constant_width(x (B, D), x0 (B, D), t (), s ()) -> (B, D): u_t(x | x_0) of x_t = (1 − t)x_0 + tε + sz.

    Looked at by differentiating a particle's position.
    """
    for _ in range(4):
        x0, unit, t, s = torch.randn(5, 2), torch.randn(5, 2), between(0.1, 0.9), between(0.2, 0.8)

        def position(time: Tensor, x0: Tensor = x0, unit: Tensor = unit, s: Tensor = s) -> Tensor:
            return (1 - time) * x0 + torch.hypot(time, s) * unit

        x = position(t)
        got = numbers(answer(x, x0, t, s), (5, 2), "the velocity")
        hints = {
            "That is the field of a path without the noise z.": (x - x0) / t,
            "That is the direction of a segment; the velocity at x is a function of x.": unit - x0,
            "What is the standard deviation of tε + sz? Standard deviations do not add.": (x - (1 - t) * x0) / (t + s)
            - x0,
        }
        agree(got, jacobian(position, t), "the velocity", hints=hints)


@exercise(points=2, stars=1, kind="code")
def vote(answer: Any) -> None:
    """vote(x (B, D), t (), points (K, D), weights (K,)) -> (B, D): u_t(x) for data that are K weighted points.

    Linear path, σ_min = 0. Looked at through the score of p_t; and at a small t, where densities underflow.
    """
    for t in (between(0.3, 0.5), between(0.6, 0.9), torch.tensor(0.01)):
        points, weights = 2 * torch.randn(4, 2), between(0.1, 1, 4).square()
        weights = weights / weights.sum()
        aside = torch.randn(3, 2)  # as far from the points as makes every density 0 in floating point at t = 0.01
        x = (1 - t) * points[:3] + between(0.5, 1.0, 3, 1) * aside / aside.norm(dim=1, keepdim=True)
        near = Independent(Normal((1 - t) * points, t.expand(4, 2)), 1)
        want = from_score(MixtureSameFamily(Categorical(weights), near), x, t)
        value = answer(x, t, points, weights)
        if t < 0.1 and isinstance(value, Tensor) and value.shape == x.shape and not bool(value.isfinite().all()):
            raise Wrong("At t = 0.01 it is not finite: all of the densities are 0 in floating point, their ratios not.")
        got = numbers(value, (3, 2), "the velocity")
        hints = {
            "Every point has the same vote. Which points may lie behind x?": (x - points.mean(0)) / t,
            "Every point has its prior weight. Which points may lie behind x?": (x - weights @ points) / t,
            "It looks like the posterior mean of x_0, not yet a velocity.": x - t * want,
        }
        agree(got, want, f"the velocity at t = {t.item():.2f}", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def gaussian_field(answer: Any) -> None:
    """gaussian_field(x (B, D), t (), mean (D,), covariance (D, D)) -> (B, D): u_t(x) for data N(mean, covariance).

    Linear path, σ_min = 0, any t in [0, 1]. Looked at through the score of p_t, by autograd, and at both ends.
    """
    for _ in range(4):
        root, mean, x, t = torch.randn(3, 3), 1 + torch.randn(3), torch.randn(4, 3), between(0.15, 0.85)
        covariance = root @ root.T + 0.2 * torch.eye(3)
        law = MultivariateNormal((1 - t) * mean, (1 - t) ** 2 * covariance + t**2 * torch.eye(3))
        got = numbers(answer(x, t, mean, covariance), (4, 3), "the velocity")
        paper = MultivariateNormal(t * mean, t**2 * covariance + (1 - t) ** 2 * torch.eye(3))
        hints = {"That is right for a time that runs from noise to data.": -from_score(paper, x, 1 - t)}
        agree(got, from_score(law, x, t), "the velocity", hints=hints)
        ends = {1.0: x - mean, 0.0: -x}  # ε is known at 1, x_0 at 0, and of the other only the mean
        for end, want in ends.items():
            got = numbers(answer(x, torch.tensor(end), mean, covariance), (4, 3), f"the velocity at t = {end:g}")
            agree(got, want, f"the velocity at t = {end:g}")


@exercise(points=3, stars=3, kind="derive")
def spread(answer: Any) -> None:
    """spread(t (), divergence (), dims) -> (): tr Cov[u_t(x_t | x_0) | x_t = x] from the divergence of u_t at x.

    Linear path, σ_min = 0. Looked at by enumerating the posterior of a few weighted points.
    """
    for dims in (1, 2, 3, 2):
        while True:
            points, t, x, prior = 1.5 * torch.randn(4, dims), between(0.4, 0.9), torch.randn(dims), between(0.2, 1, 4)

            def behind(x: Tensor, points: Tensor = points, prior: Tensor = prior, t: Tensor = t) -> Tensor:
                return (prior.log() - (x - (1 - t) * points).square().sum(1) / (2 * t**2)).softmax(0)

            def field(x: Tensor, points: Tensor = points, t: Tensor = t) -> Tensor:
                return behind(x) @ (x - points) / t

            want = behind(x) @ ((x - points) / t - field(x)).square().sum(1)
            if want > 0.05:  # else only the last digits of the divergence tell
                break
        least = numbers(answer(t, dims / t, dims), (), "the spread")
        hold(
            least.abs() < 1e-9, "If all data are one point, u_t(x) = (x − a)/t and nothing is undecided: it must be 0."
        )
        got = numbers(answer(t, torch.trace(jacobian(field, x)), dims), (), "the spread")
        agree(got, want, f"the spread in {dims} dimension(s)")


def only_call(net: Probe, x0: Tensor) -> tuple[Tensor, Tensor]:
    """What the network was given, in the one call that is enough."""
    hold(len(net.calls) == 1, f"One call of the network is enough, yours makes {len(net.calls)}.")
    x, t = net.calls[0]
    hold(x.shape == x0.shape, f"The network is given {tuple(x.shape)} where x_t has x_0's shape, {tuple(x0.shape)}.")
    hold(bool(((t >= 0) & (t <= 1)).all()), "A time outside [0, 1] is drawn.")
    return x, t


@exercise(points=3, stars=2, kind="code")
def cfm_loss(answer: Any) -> None:
    """cfm_loss(net, x0 (B, *S), sigma_min) -> (): L_CFM on the linear path, for a network net(x (B, *S), t (B,)).

    Looked at through a network that remembers what it was given.
    """
    width = between(0.1, 0.4).item()
    net, x0 = Probe(), torch.full((3, 2, 3), 1e9)  # so large that x_t/x_0 is the weight of x_0
    answer(net, x0, width)
    x, t = only_call(net, x0)
    kept = (x / x0).flatten(1)
    hold((kept - kept[:, :1]).abs().max() < 1e-6, "Within one point the pixels have different times: see axes.")
    hint = "The share of x_0 in x_t is that of time 1 − t: here t = 0 is data."
    hold(not close(kept[:, 0], t, 1e-6), hint)
    agree(kept[:, 0], 1 - t, "the share of x_0 in x_t", tolerance=1e-6)

    net, x0 = Probe(), 1.5 + torch.rand(20_000, 1, 2)
    loss = numbers(answer(net, x0, width), (), "the loss")
    x, t = only_call(net, x0)
    hold(len(t.unique()) > 1, "All points of the batch have the same time: draw one for each.")
    quarter = (4 * t).long().clamp(max=3)
    share = torch.nn.functional.one_hot(quarter, 4).double()
    mean_is(share, 0.25, "How often t falls into each quarter of [0, 1]", std=chance_std(0.25))
    noise = ((x - column(1 - t, x) * x0) / column(width + (1 - width) * t, x)).flatten(1)  # should be ε
    for part in range(4):
        what = f"x_t minus its share of x_0, over σ_t, t in quarter {part + 1}"
        normal_is(noise[quarter == part], 0.0, 1.0, what)
    noise = noise.reshape(x.shape)
    output = net(x, t)
    error = output - ((1 - width) * noise - x0)
    hints = {"A mean over the batch and over dimensions is due, not a sum.": error.square().sum(),
             "A mean over dimensions is due as well, not only over the batch.": error.square().sum() / len(x0),
             "It is the root of the mean square.": error.square().mean().sqrt(),
             "The target belongs to the path with σ_min = 0.": (output - (noise - x0)).square().mean(),
             "The target points from noise to data.": (output + ((1 - width) * noise - x0)).square().mean(),
             "The target lacks the data's part.": (output - (1 - width) * noise).square().mean()}  # fmt: skip
    agree(loss, error.square().mean(), "the loss", hints=hints)
    slope = gradient(loss, net.weights, "the network's parameters")
    agree(slope, gradient(error.square().mean(), net.weights, "them"), "the gradient with respect to the network")


@exercise(points=2, stars=2, kind="derive")
def turn(answer: Any) -> None:
    """turn(x (B, D), velocity (B, D), t (), s ()) -> (B, D): the step t -> s with x̂_0 and ε̂ held fast.

    The path is α_t = cos(πt/2), σ_t = sin(πt/2). Looked at from the pair (x_0, ε).
    """
    for _ in range(6):
        x0, eps, (t, s) = torch.randn(3, 2), torch.randn(3, 2), between(0.05, 0.95, 2)

        def position(time: Tensor, x0: Tensor = x0, eps: Tensor = eps) -> Tensor:
            return (math.pi * time / 2).cos() * x0 + (math.pi * time / 2).sin() * eps

        x, velocity = position(t), jacobian(position, t)
        got = numbers(answer(x, velocity, t.clone(), s.clone()), (3, 2), "x_s")
        hints = {
            "That is Euler's step, which leaves the circle.": x + (s - t) * velocity,
            "It turns the wrong way.": position(2 * t - s),
            "Does the velocity of x_t have the length of v = αε − σx_0?": ((s - t) * math.pi / 2).cos() * x
            + ((s - t) * math.pi / 2).sin() * velocity,
        }
        agree(got, position(s), "x_s", hints=hints)


class Bend(Given):
    """A smooth field v(x, t) = tanh(xMᵀ + tb)W with derivatives below 1."""

    def __init__(self, inner: Tensor, shift: Tensor, outer: Tensor):
        super().__init__(inner, shift, outer)
        self.inner, self.shift, self.outer = inner, shift, outer

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The velocity at x (B, D) and t (): (B, D)."""
        return torch.tanh(x @ self.inner.T + t * self.shift) @ self.outer


@exercise(points=3, stars=3, kind="code")
def euler_density(answer: Any) -> None:
    """euler_density(v, noise (B, D), steps) -> (x (B, D), log_p (B,)): Euler's samples and the density of their law.

    v(x (B, D), t ()) -> (B, D). Looked at through one determinant, of the whole map from noise to x.
    """
    for steps, dims in ((1, 2), (3, 2), (2, 3)):
        inner, outer = torch.randn(dims, dims), torch.randn(dims, dims)
        inner, outer = (0.9 * m / torch.linalg.matrix_norm(m, 2) for m in (inner, outer))
        v, noise = Bend(inner, torch.randn(dims), outer), torch.randn(4, dims)

        def walk(z: Tensor, v: Bend = v, steps: int = steps) -> Tensor:
            for k in range(steps):
                z = z - v(z[None], 1 - k / steps)[0] / steps
            return z

        value = answer(v, noise, steps)
        hold(isinstance(value, tuple | list) and len(value) == 2, "Return two things: x (B, D) and log_p (B,).")
        x = numbers(value[0], (4, dims), "x")
        agree(x, torch.stack([walk(z) for z in noise]), f"x after {steps} step(s)")
        stretch = torch.stack([torch.linalg.slogdet(jacobian(walk, z)).logabsdet for z in noise])
        prior = MultivariateNormal(torch.zeros(dims), torch.eye(dims)).log_prob(noise)
        hints = {
            "It is the density of the noise: by how much does the map stretch the space?": prior,
            "A map that stretches makes the density smaller: look at the sign of the determinant's part.": prior
            + stretch,
            "The normalising constant of the noise is missing.": prior - stretch + dims / 2 * math.log(2 * math.pi),
            "It is a density; its logarithm is due.": (prior - stretch).exp(),
        }
        got = numbers(value[1], (4,), "log_p")
        agree(got, prior - stretch, f"log_p after {steps} step(s)", hints=hints)


def best_cost(x0: Tensor, noise: Tensor, power: int) -> tuple[float, float]:
    """The least Σ‖x_0 − ε‖^power over all permutations, and Σ‖x_0 − ε‖² of the permutation that attains it."""
    distance = torch.cdist(x0.flatten(1), noise.flatten(1))
    orders = torch.tensor(list(permutations(range(len(x0)))))
    of_all = distance.pow(power)[torch.arange(len(x0)), orders].sum(1)
    best = orders[of_all.argmin()]
    return of_all.min().item(), distance.square()[torch.arange(len(x0)), best].sum().item()


@exercise(points=3, stars=2, kind="diagnose")
def paired(answer: Any) -> None:
    """paired(x0 (B, *S), y (B,), noise (B, *S)) -> the same three, paired at the least Σ‖x_0 − ε‖².

    Every data point keeps its label. Looked at by trying all 120 permutations of five points.
    """
    for shape in 4 * ((2,), (1, 2, 1)):
        while True:  # inputs for which the least sum of distances is attained elsewhere than that of squares
            x0, noise = 1 + 1.5 * torch.randn(5, *shape), torch.randn(5, *shape)
            least, other = best_cost(x0, noise, 2)[0], best_cost(x0, noise, 1)[1]
            if other > 1.001 * least:
                break
        y = torch.randperm(5)
        value = answer(x0, y, noise)
        hold(isinstance(value, tuple | list) and len(value) == 3, "Return three things: x0, y and noise.")
        data, z = (numbers(value[i], (5, *shape), name) for i, name in ((0, "x0"), (2, "noise")))
        labels = numbers(value[1].double() if isinstance(value[1], Tensor) else value[1], (5,), "y")
        for new, old, name in ((data, x0, "data"), (z, noise, "noise")):
            nearest = torch.cdist(new.flatten(1), old.flatten(1)).min(1)
            hold(nearest.values.max() < 1e-9, f"Some {name} that comes back was not given.")
            hold(len(nearest.indices.unique()) == 5, f"Some {name} is used twice, and some is lost.")
        place = torch.cdist(data.flatten(1), x0.flatten(1)).argmin(1)
        hold(torch.equal(labels, y[place].double()), "Some data points have lost their label.")
        cost = (data - z).square().sum().item()
        hold(abs(cost - other) > 1e-9 * cost, "The sum of the distances is least, not that of their squares.")
        hold(cost < least * (1 + 1e-9), f"Σ‖x_0 − ε‖² is {cost / least:.3f} times the least possible.")


@exercise(points=3, stars=3, kind="diagnose")
def repaired(answer: Any) -> None:
    """repaired(v, x (B, D), steps) -> x(0) (B, D): Heun's method from t = 1 to 0 in equal steps, v(x, t ()).

    Looked at with fields of which every step is known by hand: a constant, a + bt, cx and a + dtx.
    """
    for steps in (1, 2, 5):
        a, b, c, d = torch.randn(4)
        start, h = torch.randn(3, 2), 1 / steps
        cases = {
            "a constant": ((a, 0 * b, 0 * c, 0 * d), start - a),
            "a + bt, of which Heun's method makes no error": ((a, b, 0 * c, 0 * d), start - a - b / 2),
            "cx": ((0 * a, 0 * b, c, 0 * d), start * (1 - c * h + (c * h) ** 2 / 2) ** steps),
            "a + dtx": ((a, 0 * b, 0 * c, d), by_hand(start, a, d, steps)),
        }
        for name, (weights, want) in cases.items():
            asked: list[float] = []

            def v(x: Tensor, t: Tensor, weights: tuple[Tensor, ...] = weights, asked: list[float] = asked) -> Tensor:
                times = torch.as_tensor(t, dtype=x.dtype).reshape(-1)
                hold(len(times.unique()) == 1, "All points of a batch are at the same time.")
                asked.append(times[0].item())
                one, time, place, both = weights
                return one + time * asked[-1] + place * x + both * asked[-1] * x

            got = numbers(answer(v, start, steps), (3, 2), "x(0)")
            hold(len(asked) == 2 * steps, f"In {steps} step(s) the field is asked {len(asked)} times.")
            hold(min(asked) > -1e-6 and max(asked) < 1 + 1e-6, "The field is asked about a time outside [0, 1].")
            agree(got, want, f"x(0) after {steps} step(s) along the field v = {name}", tolerance=1e-6)


def by_hand(x: Tensor, a: Tensor, d: Tensor, steps: int) -> Tensor:
    """Heun's x(0) along v = a + dtx: every step is affine in x. (Without a, times could be swapped unnoticed.)"""
    h = 1 / steps
    for k in range(steps):
        before, after = d * (1 - k * h), d * (1 - (k + 1) * h)
        x = (1 - h / 2 * (before + after) + h**2 / 2 * before * after) * x - a * h * (1 - h / 2 * after)
    return x


@exercise(points=3, stars=2, kind="experiment")
def velocity(answer: Any) -> None:
    """velocity(x (B, 2), t (B,)) -> (B, 2): for the moons on the linear path, with L_FM per dimension below 0.04.

    L_FM is exact: the mean square distance from the marginal field, which is known.
    """
    law, path = plane.moons(), LinearPath()
    t = between(0.005, 1, 10_000)
    x = path.interpolate(law.sample(len(t)), torch.randn(len(t), 2), t)
    got = samples(answer(x, t), (len(t), 2), "the velocity")
    right = Truth(law, path, "velocity")(x, t).double()
    excess = (got - right).square().mean(1)
    total = excess.mean().item()
    if total < 0.04:
        return learned(total, 1e-4)
    late = excess[t > 0.5].mean() / excess[t <= 0.5].mean()
    where = "most of it near the data" if late < 0.5 else "most of it near the noise" if late > 2 else "at all times"
    flipped = " With its sign turned it would be nearer." if (got + right).square().mean() < total else ""
    raise Wrong(f"L_FM is {total:.3f} per dimension, not below 0.04; {where}.{flipped}")
