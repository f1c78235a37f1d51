"""Checks of the exercises of chapter 13, rectified flow. Time 0 is data, 1 the source; velocities point to it."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from gmbook.course.draws import chance_std, learned, mean_is
from gmbook.course.kit import (
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


def normal_cdf(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """P(N(mean, std²) ≤ x)."""
    return torch.special.ndtr((x - mean) / std)


@exercise(points=1, stars=1, kind="derive")
def bend(answer: Any) -> None:
    """bend(m (), s (), r ()) -> (): S of the 1-RF from the source N(0, r²) to data N(m, s²), independent pairs.

    Looked at by quadrature of the speed along the flow's paths, which keep their quantile.
    """
    nodes, weights = plane.legendre(80)
    for _ in range(4):
        m, s, r = 2 * torch.randn(()), between(0.3, 2.0), between(0.3, 2.0)

        def path(t: Tensor, m: Tensor = m, s: Tensor = s, r: Tensor = r) -> Tensor:
            return ((1 - t) ** 2 * s**2 + t**2 * r**2).sqrt()  # for z = 1, the mean's straight way left out

        speed = torch.stack([jacobian(path, t) for t in nodes])
        want = weights @ speed.square() - (path(torch.ones(())) - path(torch.zeros(()))) ** 2
        v = r * s * math.pi / 2
        hints = {
            "That is V, the part of the lines that cross.": v,
            "That is the whole decrease of the cost, S + V.": want + v,
            "That is the action ∫E‖dz/dt‖² of the part that bends; the straight line's must go.": want + (r - s) ** 2,
        }
        agree(numbers(answer(m, s, r), (), "S"), want, "S", hints=hints, tolerance=1e-6)


@exercise(points=2, stars=1, kind="code")
def partners(answer: Any) -> None:
    """partners(x0 (N,), x1 (N,)) -> (N,): the datum of x0 that the rectified coupling gives to each of x1.

    On the line, N data and N points of the source. Looked at by trying all permutations at a strictly convex cost.
    """
    for count in (2, 5, 6, 6):
        x0, x1 = 1 + 1.5 * torch.randn(count), torch.randn(count)
        orders = torch.tensor(list(permutations(range(count))))
        want = x0[orders[(x0[orders] - x1).abs().pow(3).sum(1).argmin()]]
        got = numbers(answer(x0.clone(), x1.clone()), (count,), "the partners")
        hold(close(got.sort().values, x0.sort().values), "Each datum must be used exactly once.")
        rank = x1.argsort()
        hints = {
            "It is right only if x1 comes sorted: which place has each x1?": x0.sort().values,
            "A sort's indices say where an element came from, not where it went.": x0.sort().values[rank],
            "The order is turned round: the lines cross.": x0.sort(descending=True).values[rank.argsort()],
        }
        agree(got, want, "the partners", hints=hints)


@exercise(points=2, stars=1, kind="derive")
def meeting(answer: Any) -> None:
    """meeting(a (2,), b (2,)) -> the time in (0, 1) at which two segments on the line are at one place, or None.

    a and b are pairs (x_0, x_1). Looked at by bisection of the distance.
    """
    seen = {True: 0, False: 0}
    while min(seen.values()) < 4:
        a, b = 2 * torch.randn(2), 2 * torch.randn(2)
        low, high = 0.0, 1.0
        apart = lambda t, a=a, b=b: ((1 - t) * (a[0] - b[0]) + t * (a[1] - b[1])).item()  # noqa: E731
        meets = apart(low) * apart(high) < 0
        seen[meets] += 1
        value = answer(a.clone(), b.clone())
        if not meets:
            hold(value is None, "These two keep their order from t = 0 to 1, so they never meet: None is due.")
            continue
        hold(value is not None, "These two change their order, so they meet: a time is due.")
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if apart(low) * apart(middle) > 0 else (low, middle)
        want = torch.tensor(low)
        got = numbers(value, (), "the time")
        agree(got, want, "the time", hints={"That is right for a time that runs the other way.": 1 - want})


@exercise(points=3, stars=3, kind="derive")
def mean_velocity(answer: Any) -> None:
    """mean_velocity(x (B,), t (), w, m0, s0, m1, s1: each (K,)) -> (B,): v(x, t) on the line.

    With probability w_k the pair is from kind k: x_0 ~ N(m0, s0²), x_1 ~ N(m1, s1²), independent. Looked at through
    the continuity equation: p v is minus the derivative of the distribution function in time.
    """
    for _ in range(4):
        w = between(0.2, 1.0, 3)
        w, (m0, m1) = w / w.sum(), 1.5 * torch.randn(2, 3)
        (s0, s1), t, x = between(0.3, 1.2, 2, 3), between(0.15, 0.85), torch.randn(5)

        def cdf(x: Tensor, t: Tensor, w: Tensor = w, parts: tuple[Tensor, ...] = (m0, s0, m1, s1)) -> Tensor:
            m0, s0, m1, s1 = parts
            mean, std = (1 - t) * m0 + t * m1, ((1 - t) ** 2 * s0**2 + t**2 * s1**2).sqrt()
            return normal_cdf(x[:, None], mean, std) @ w

        density = jacobian(lambda x, cdf=cdf, t=t: cdf(x, t), x).diagonal()
        want = -jacobian(lambda t, cdf=cdf, x=x: cdf(x, t), t) / density
        got = numbers(answer(x, t, w, m0, s0, m1, s1), (5,), "the velocity")
        hints = {"That is dx/dt for a time that runs from the source to the data.": -want,
                 "Every kind has its prior weight. Which kinds may lie behind x?": by_prior(x, t, w, m0, s0, m1, s1),
                 "Within a kind the direction depends on x, too.": (w @ (m1 - m0)).expand(5)}  # fmt: skip
        agree(got, want, "the velocity", hints=hints, tolerance=1e-6)


def by_prior(x: Tensor, t: Tensor, w: Tensor, m0: Tensor, s0: Tensor, m1: Tensor, s1: Tensor) -> Tensor:
    """The kinds' velocities, each with its prior weight: wrong."""
    mean, variance = (1 - t) * m0 + t * m1, (1 - t) ** 2 * s0**2 + t**2 * s1**2
    return (m1 - m0 + (t * s1**2 - (1 - t) * s0**2) / variance * (x[:, None] - mean)) @ w


@exercise(points=2, stars=2, kind="derive")
def fall(answer: Any) -> None:
    """fall(s (), r (), rho ()) -> (): by how much one rectification lowers E|x_1 − x_0|², on the line.

    x_0 has standard deviation s, x_1 r, and they are jointly normal with correlation rho. Looked at through the
    covariance matrix before, and the quantiles of both laws after.
    """
    levels = (torch.arange(200_000) + 0.5) / 200_000
    normal = torch.special.ndtri(levels)
    normal = normal / normal.square().mean().sqrt()
    for _ in range(4):
        s, r, rho = between(0.3, 2.0), between(0.3, 2.0), between(-0.9, 0.9)
        covariance = torch.stack([torch.stack([s * s, rho * s * r]), torch.stack([rho * s * r, r * r])])
        ends = torch.tensor([-1.0, 1.0])
        want = ends @ covariance @ ends - (r * normal - s * normal).square().mean()
        hints = {
            "That is right for independent pairs only.": 2 * r * s,
            "That is the cost before, not its decrease.": ends @ covariance @ ends,
            "That is the cost after, not its decrease.": (r - s) ** 2,
        }
        agree(numbers(answer(s, r, rho), (), "the decrease"), want, "the decrease", hints=hints)


def euler_end(s: Tensor, steps: int) -> Tensor:
    """Where steps of Euler's method along the exact 1-RF of N(0, s²) carry x = 1."""
    x = torch.ones(())
    for k in range(steps):
        t = 1 - k / steps
        x = x - (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2) * x / steps
    return x


@exercise(points=2, stars=2, kind="derive")
def inherited(answer: Any) -> None:
    """inherited(s (), steps) -> (): W_2 between N(0, s²) and what the exact 2-RF draws, pairs by `steps` of Euler.

    The source is N(0, 1), the 1-RF exact, the 2-RF trained without fault and solved exactly. Looked at by running
    Euler's method on quantiles.
    """
    for steps in (1, 2, 5, 16):
        s = between(0.3, 2.5)
        end = euler_end(s, steps)
        want = (end - s).abs()
        got = numbers(answer(s, steps), (), "the distance")
        hints = {
            "It is the standard deviation at which the pairs end, not yet a distance.": end,
            "W_2 is the root of the least mean square.": want.square(),
            "Between two centred normal laws W_2 is a difference of standard deviations.": (end**2 - s**2).abs(),
            "It is never negative.": end - s,
        }
        agree(got, want, f"the distance for {steps} step(s)", hints=hints)


@exercise(points=3, stars=2, kind="code")
def chord_loss(answer: Any) -> None:
    """chord_loss(net, z0 (B, *S), x1 (B, *S), k) -> (): distillation into k Euler steps, a mean over all entries.

    net(x (B, *S), t (B,)). Looked at through a network that remembers what it was given.
    """
    for k in (1, 3, 4):
        net, z0, x1 = Probe(), torch.randn(8000, 1, 2), 3 + torch.randn(8000, 1, 2)
        loss = numbers(answer(net, z0, x1, k), (), "the loss")
        hold(len(net.calls) == 1, f"One call of the network is enough, yours makes {len(net.calls)}.")
        x, t = net.calls[0]
        hold(x.shape == z0.shape, f"The network is given {tuple(x.shape)} where x_t has z_0's shape.")
        place = t * k
        hold((place - place.round()).abs().max() < 1e-6, f"At k = {k} some t is no multiple of 1/{k}.")
        hold(place.min() > 0.5, "Some t is 0: there Euler's sampler has arrived, and asks nothing.")
        hold(place.max() < k + 0.5, "Some t is above 1.")
        share = torch.nn.functional.one_hot(place.round().long() - 1, k).double()
        mean_is(share, 1 / k, f"How often each of the {k} starts is drawn", std=chance_std(1 / k))
        want = (1 - column(t, z0)) * z0 + column(t, z0) * x1
        turned = column(t, z0) * z0 + (1 - column(t, z0)) * x1
        hold(not (k > 1 and close(x, turned, 1e-6)), "The shares of z_0 and x_1 in x_t are exchanged: t = 0 is data.")
        agree(x, want, "x_t", tolerance=1e-6, hints={"At t = 1 it is the noise.": z0.clone()})
        output = net(x, t)
        error = output - (x1 - z0)
        hints = {"The target points from the source to the data.": (output + x1 - z0).square().mean(),
                 "The target is z_0, where the velocity is due.": (output - z0).square().mean(),
                 "A mean over the batch and over dimensions is due, not a sum.": error.square().sum(),
                 "A mean over dimensions is due as well.": error.square().sum() / len(z0),
                 "The chord is that of the whole path, not of one step.": (output - (x1 - z0) / k).square().mean(),
                 "It is the root of the mean square.": error.square().mean().sqrt()}  # fmt: skip
        agree(loss, error.square().mean(), "the loss", hints=hints)
        slope = gradient(loss, net.weights, "the network's parameters")
        agree(slope, gradient(error.square().mean(), net.weights, "them"), "the gradient with respect to the network")


@exercise(points=2, stars=2, kind="derive")
def turned(answer: Any) -> None:
    """turned(angle ()) -> (cost, narrowest): of the coupling x_0 = R x_1 in the plane, x_1 ~ N(0, I), R a rotation.

    cost is E‖x_1 − x_0‖²; narrowest is the least standard deviation, over t, of a coordinate of x_t. Looked at
    through the matrices, at many times.
    """
    for _ in range(5):
        angle = between(0.3, 2.8) * (1 if torch.rand(()) < 0.5 else -1)
        c, s, eye = angle.cos(), angle.sin(), torch.eye(2)
        turn = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
        cost = (eye - turn).square().sum()  # tr (I − R)(I − R)ᵀ
        times = torch.linspace(0, 1, 2001)
        widths = torch.stack([((1 - t) * turn + t * eye)[0].norm() for t in times])
        got = numbers(answer(angle), (2,), "the answer (cost, narrowest)")
        agree(got[0], cost, "the cost", hints={"That is the cost of one coordinate.": cost / 2})
        least = widths.min()
        hints = {"That is a variance.": least**2, "That is the variance of both coordinates together.": 2 * least**2}
        agree(got[1], least, "the narrowest width", hints=hints)


@exercise(points=3, stars=2, kind="diagnose")
def repaired(answer: Any) -> None:
    """repaired(v, source, n, steps) -> (z0 (n, D), x1 (n, D)): pairs of a flow, by `steps` steps of Heun's method.

    v(x (n, D), t ()) is the velocity, source(n) draws (n, D). Looked at with fields of which every step is known.
    """
    for steps in (1, 3):
        a, b, c = torch.randn(3)
        h = 1 / steps
        given: list[Tensor] = []

        def source(n: int, given: list[Tensor] = given) -> Tensor:
            hold(float(n) == 6, "The source is asked for another number of points.")
            given.append(torch.randn(6, 2))
            return given[-1].clone()

        def v(x: Tensor, t: Any, weights: tuple[Tensor, ...] = (a, b, c)) -> Tensor:
            time = torch.as_tensor(t, dtype=x.dtype).reshape(-1)[0].item()
            hold(-1e-6 < time < 1 + 1e-6, "The field is asked about a time outside [0, 1].")
            one, slope, place = weights
            return one + slope * time + place * x

        value = answer(v, source, 6, steps)
        hold(isinstance(value, tuple | list) and len(value) == 2, "Return two things: z0 and x1.")
        z0, x1 = (numbers(part, (6, 2), name) for part, name in zip(value, ("z0", "x1")))
        hold(len(given) > 0, "The source was never asked.")
        x = given[0]
        for k in range(steps):
            t = 1 - k * h
            first = a + b * t + c * x
            x = x - h / 2 * (first + a + b * (t - h) + c * (x - h * first))
        start = given[0]
        hold(not close(x1, z0), "Both are the same: what became of the points that the source drew?")
        hold(not close(x1, x, 1e-6), "x1 is where the path ends; in which order are the two due?")
        hold(close(x1.sort(0).values, start.sort(0).values), "x1 is not what the paths started from.")
        hold(close(x1, start), "Some partners are exchanged.")
        agree(z0, x, f"z0 after {steps} step(s)", tolerance=1e-6)


@exercise(points=3, stars=3, kind="experiment")
def straight(answer: Any) -> None:
    """straight(x (B, 1), t (B,)) -> (B, 1): the velocity of a 2-rectified flow on the line, nearly exact.

    From N(0, 1) to .3 N(1, ½²) + .7 N(3.5, ½²). Looked at on the exact lines z_t of the quantile map: the mean square
    distance from z_1 − z_0, and one Euler step.
    """
    heights = torch.linspace(-1.5, 6.0, 20_001)
    level = normal_cdf(heights[:, None], torch.tensor([1.0, 3.5]), torch.tensor(0.5)) @ torch.tensor([0.3, 0.7])
    u, t = between(0.0005, 0.9995, 8000), between(0, 1, 8000)
    z1 = torch.special.ndtri(u)
    z0 = torch.from_numpy(np.interp(u.numpy(), level.numpy(), heights.numpy()))
    xt = (1 - t) * z0 + t * z1
    both = samples(
        answer(torch.cat([xt, z1])[:, None].float(), torch.cat([t, torch.ones_like(t)]).float()), (16_000, 1), "v"
    )
    along, first = both[:8000, 0], both[8000:, 0]
    excess = (along - (z1 - z0)).square().mean().item()
    landed = (z1 - first - z0).square().mean().item()
    if excess < 0.05 and landed < 0.08:
        return learned(excess, 1e-6)
    flipped = " With its sign turned it would be nearer." if (along + z1 - z0).square().mean() < excess else ""
    mean = " One step lands on one spot: is it a 1-RF?" if (z1 - first).std() < 0.3 * z0.std() else ""
    raise Wrong(
        f"Mean square distance to the straight lines' velocity {excess:.3f} (below 0.05 is due), of one Euler step to "
        f"the flow's end {landed:.3f} (below 0.08 is due).{flipped}{mean}"
    )
