"""Checks of the exercises of chapter 05, FFJORD. Time 0 is data, 1 the base; log p(x) = log p_base(z(1)) + ∫ tr."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from gmbook.course.draws import learned_density, mean_is
from gmbook.course.kit import agree, between, exercise, hold, numbers
from gmbook.course.oracles import runge_kutta
from gmbook.laws import plane

STEPS = 150  # of Runge and Kutta in the oracles: their error is below 1e-9


def solved(f: Any, z: Tensor) -> Tensor:
    """Where ż = f(z, t) carries z from t = 0 to 1."""
    return runge_kutta(f, z, 0.0, 1.0, STEPS)


@exercise(points=1, stars=1, kind="derive")
def data_law(answer: Any) -> None:
    """data_law(a (), b (), m ()) -> (mean, std): of the data whose flow ż = −(a + bt)(z − m) ends in N(0, 1).

    Looked at by solving from two points; the map is affine.
    """
    for _ in range(4):
        a, b, m = between(0.3, 1.5), between(0.4, 1.5), 1 + torch.rand(())
        ends = solved(lambda z, t, a=a, b=b, m=m: -(a + b * t) * (z - m), torch.tensor([0.0, 1.0]))
        scale = ends[1] - ends[0]  # z(1) = scale · x + ends[0]
        mean, std = -ends[0] / scale, 1 / scale
        got = numbers(answer(a, b, m), (2,), "the answer (mean, std)")
        hints = {
            "That is where N(0, 1) arrives when the flow runs from it; here the flow runs to it.": scale,
            "It is a variance.": std**2,
            "The rate changes with t: integrate it.": (a + b).exp(),
        }
        agree(got[1], std, "the standard deviation", hints=hints)
        hints = {"The mean of the data is not m: at t = 1 the mean must be 0.": m}
        agree(got[0], mean, "the mean", hints=hints)


def risen(x: Tensor, t: Tensor) -> Tensor:
    """Where ż = sin z carries x up to time t: in the time τ = t·u it is dz/du = t sin z."""
    return solved(lambda z, _: t * z.sin(), x)


@exercise(points=2, stars=1, kind="derive")
def sine(answer: Any) -> None:
    """sine(x (B,), t ()) -> (z, log_det), each (B,): of ż = sin z, with x in (0, π).

    Looked at by a Runge–Kutta solve, and by its derivative.
    """
    for _ in range(3):
        x, t = between(0.2, 2.9, 5), between(0.4, 1.6)
        z = risen(x, t)
        slope = jacobian(risen, (x, t))[0].diagonal()
        got = numbers(answer(x, t), (2, 5), "the answer (z, log_det)")
        agree(got[0], z, "z", tolerance=1e-6, hints={"It is right at time 1 only.": risen(x, t / t)})
        hints = {
            "It is the derivative; its logarithm is due.": slope,
            "That is log|dx/dz|, of the way back.": -slope.log(),
            "The trace changes along the path: cos x is its value at the start.": x.cos() * t,
        }
        agree(got[1], slope.log(), "the log-determinant", hints=hints, tolerance=1e-6)


def sphere_variance(matrix: Tensor) -> Tensor:
    """Var εᵀAε for ε even on the sphere of radius √D, D = 2 or 3, by quadrature."""
    nodes, weights = plane.legendre(40)
    turn = 2 * math.pi * torch.arange(64) / 64
    if len(matrix) == 2:
        points, chances = math.sqrt(2) * torch.stack([turn.cos(), turn.sin()], 1), torch.full((64,), 1 / 64)
    else:  # the height of an even point on the 2-sphere is even
        height = (2 * nodes.to(turn) - 1)[:, None].expand(-1, 64)
        ring = (1 - height**2).sqrt()
        points = math.sqrt(3) * torch.stack([ring * turn.cos(), ring * turn.sin(), height], -1).reshape(-1, 3)
        chances = (weights.to(turn)[:, None] / 64).expand(-1, 64).reshape(-1)
    values = ((points @ matrix) * points).sum(1)
    return chances @ values**2 - (chances @ values) ** 2


@exercise(points=3, stars=3, kind="derive")
def sphere(answer: Any) -> None:
    """sphere(A (D, D)) -> (): Var εᵀAε for a probe ε that lies evenly on the sphere of radius √D.

    Looked at by quadrature over the circle and the sphere.
    """
    for dims in (2, 3, 3, 2):
        a = torch.randn(dims, dims)
        want, symmetric = sphere_variance(a), (a + a.T) / 2
        normal = 2 * symmetric.square().sum()
        hints = {
            "That is the variance of normal probes.": normal,
            "That is the variance of signs.": normal - 2 * a.diagonal().square().sum(),
            "Only the symmetric part of A counts.": 2 * dims / (dims + 2) * (a.square().sum() - a.trace() ** 2 / dims),
            "That is the mean of the squares; the square of the mean goes off.": want + a.trace() ** 2,
        }
        got = numbers(answer(a), (), "the variance")
        agree(got, want, f"the variance in {dims} dimensions", hints=hints, tolerance=1e-6)


@exercise(points=3, stars=2, kind="code")
def log_density(answer: Any) -> None:
    """log_density(f, log_base, x (B, D), epsilon (B, D), steps) -> (B,): log p(x) by Heun's method and one probe.

    f(z (B, D), t ()) can be differentiated once. Looked at with fields f = A_t z + b_t, of which every step is known.
    """
    for dims, steps in ((3, 1), (2, 4), (3, 3)):
        a, c, b = 0.7 * torch.randn(dims, dims), torch.randn(dims, dims), torch.randn(dims)
        x, eps = torch.randn(5, dims), torch.randn(5, dims)
        times: list[float] = []

        def f(z: Tensor, t: Any, a: Tensor = a, c: Tensor = c, b: Tensor = b, times: list[float] = times) -> Tensor:
            time = torch.as_tensor(t, dtype=z.dtype).reshape(-1)[0]
            times.append(time.item())
            return z @ (a + time * c).T + b * time

        mean = torch.randn(dims)
        log_base = lambda z, mean=mean: -(z - mean).square().sum(1) / 3  # noqa: E731
        got = numbers(answer(f, log_base, x, eps, steps), (5,), "log p")
        hold(all(-1e-9 < t < 1 + 1e-9 for t in times), "The field is asked about a time outside [0, 1].")
        z, h, trace = x, 1 / steps, torch.zeros(5)
        first = torch.zeros(5)
        for k in range(steps):
            t, s = k * h, (k + 1) * h
            slope = z @ (a + t * c).T + b * t
            z = z + h / 2 * (slope + (z + h * slope) @ (a + s * c).T + b * s)
            rates = [((eps @ (a + u * c)) * eps).sum(1) for u in (t, s)]
            trace, first = trace + h / 2 * (rates[0] + rates[1]), first + h * rates[0]
        want = log_base(z) + trace
        hints = {
            "The trace has the sign of a flow that runs from the base to the data.": log_base(z) - trace,
            "The trace must be averaged over both ends of the step, as the velocity is.": log_base(z) + first,
            "Where is the integral of the trace?": log_base(z),
            "Where is the base?": trace,
            "The base looks at z(1), not at x.": log_base(x) + trace,
        }
        agree(got, want, f"log p after {steps} step(s)", hints=hints, tolerance=1e-6)


def carried(theta: Tensor, x: Tensor) -> Tensor:
    """Where ż = θz² carries x in unit time."""
    return solved(lambda z, _: theta * z**2, x)


@exercise(points=3, stars=3, kind="derive")
def sensitivity(answer: Any) -> None:
    """sensitivity(theta (), x ()) -> (a, slope): a(0) = dL/dx and dL/dθ of ż = θz², z(0) = x, L = log z(1); θx < 1.

    Looked at by automatic differentiation of a Runge–Kutta solve.
    """
    for _ in range(4):
        theta, x = between(-1.5, 0.6), between(0.4, 1.2)

        by_theta, by_x = jacobian(lambda theta, x: carried(theta, x).log(), (theta, x))
        got = numbers(answer(theta, x), (2,), "the answer (a, slope)")
        z = carried(theta, x)
        hints = {
            "That is the adjoint at t = 1, 1/z(1): carry it back to 0.": 1 / z,
            "That is dz(1)/dx; L is its logarithm's.": by_x * z,
        }
        agree(got[0], by_x, "a(0)", hints=hints, tolerance=1e-6)
        hints = {"The adjoint changes along the path: this holds it at its value at t = 0.": by_x * x**2,
                 "That is dz(1)/dθ; L is its logarithm.": by_theta * z}  # fmt: skip
        agree(got[1], by_theta, "dL/dθ", hints=hints, tolerance=1e-6)


@exercise(points=2, stars=2, kind="derive")
def flattery(answer: Any) -> None:
    """flattery(A (D, D), n) -> (): nats by which n Euler steps of ż = Az overstate the log-density of their own map.

    They add up n traces where the log-determinant of the map is due. Looked at by the map's Jacobian.
    """
    for dims, n in ((1, 1), (2, 3), (4, 2), (3, 7)):
        a = 0.6 * torch.randn(dims, dims) + 0.4 * torch.eye(dims)

        def walk(z: Tensor, a: Tensor = a, n: int = n) -> Tensor:
            for _ in range(n):
                z = z + a @ z / n
            return z

        true = torch.linalg.slogdet(jacobian(walk, torch.randn(dims)))[1]
        want = a.trace() - true
        hints = {
            "Turn it round: how much too high is what they see?": -want,
            "That is for one step; there are n.": want / n,
            "That is the log-determinant itself.": true,
            "That is only the first term of a series in 1/n.": (a @ a).trace() / (2 * n),
            "In one step the matrix is A/n.": a.trace() - torch.linalg.slogdet(torch.eye(dims) + a)[1],
        }
        if n == 1:
            del hints["That is for one step; there are n."], hints["In one step the matrix is A/n."]
        agree(numbers(answer(a, n), (), "the surplus"), want, f"the surplus for n = {n}", hints=hints, tolerance=1e-6)


@exercise(points=2, stars=2, kind="derive")
def energies(answer: Any) -> None:
    """energies(s (), r ()) -> (least, constant): ∫E‖f‖² dt of flows on the line that carry N(0, s²) to N(0, r²).

    least: of the best flow whose maps are all linear; constant: of ż = −kz with a constant k. Looked at by minimising
    the sum of squares over the standard deviation at 200 times, and by quadrature.
    """
    nodes, weights = plane.legendre(60)
    nodes, weights = nodes.double(), weights.double()
    for _ in range(4):
        s, r = between(0.4, 2.5), between(0.4, 2.5)
        count = 200  # the least Σ (σ_{k+1} − σ_k)² · 200 with both ends held: a linear system
        laplace = (
            2 * torch.eye(count - 1) - torch.diag(torch.ones(count - 2), 1) - torch.diag(torch.ones(count - 2), -1)
        )
        ends = torch.zeros(count - 1)
        ends[0], ends[-1] = s, r
        inner = torch.linalg.solve(laplace, ends)
        least = torch.cat([s[None], inner, r[None]]).diff().square().sum() * count
        k = (s / r).log()
        constant = weights @ (k * s * torch.exp(-k * nodes)).square()
        got = numbers(answer(s, r), (2,), "the answer (least, constant)")
        hints = {"That is a difference of variances.": (s**2 - r**2).abs(), "It is the square of that.": least.sqrt()}
        agree(got[0], least, "the least energy", hints=hints, tolerance=1e-6)
        hints = {
            "The standard deviation changes along the path: that holds it at s.": (k * s) ** 2,
            "That is the square of a mean speed.": (s - r) ** 2,
            "E z² is a variance: it shrinks by e^{−2kt}.": weights @ (k**2 * s**2 * torch.exp(-k * nodes)),
        }
        agree(got[1], constant, "the energy at a constant rate", hints=hints, tolerance=1e-6)


@exercise(points=3, stars=2, kind="diagnose")
def trace(answer: Any) -> None:
    """trace(f, x (B, D)) -> (B,): Hutchinson's estimate of tr ∂f/∂x at every point of x, one probe for each.

    Looked at with f = Ax of known A in some rows and another in others: means and variances over many rows.
    """
    count = 20_000
    for dims in (2, 4):
        a = torch.randn(dims, dims)
        c = a + torch.randn(dims, dims)  # alike: one probe for two rows would show in both
        half = torch.arange(2 * count) % 2 == 0
        place = half.double()[:, None]

        def f(x: Tensor, a: Tensor = a, c: Tensor = c, place: Tensor = place) -> Tensor:
            return place * (x @ a.T) + (1 - place) * (x @ c.T)

        got = numbers(answer(f, torch.randn(2 * count, dims)), (2 * count,), "the estimates")
        for rows, matrix in ((half, a), (~half, c)):
            symmetric = (matrix + matrix.T) / 2
            hold(got[rows].std() > 1e-6, "All estimates are alike: each row has its own probe.")
            std = (2 * symmetric.square().sum()).sqrt()  # of a normal probe; no sign is noisier
            mean_is(got[rows], matrix.trace(), "The estimates' mean", std)
            hold(got[rows].var() < 1.35 * std**2, "The estimates scatter more than those of a normal probe.")
        pairs = (got[half][:count] - got[half].mean()) * (got[~half][:count] - got[~half].mean())
        scale = got[half].std() * got[~half].std()
        hold(pairs.mean().abs() < 8 * scale / math.sqrt(count), "Neighbouring rows have the same probe.")


@exercise(points=3, stars=3, kind="diagnose")
def repaired(answer: Any) -> None:
    """repaired(f, trace, z (B, D), steps) -> (x (B, D), log_p (B,)): samples and their log-densities by Euler's method.

    z is drawn from N(0, I), at t = 1; f(z, t) and trace(z, t) are the field and its exact trace. Looked at with fields
    of which every step is known.
    """
    for dims, steps in ((2, 1), (3, 4), (1, 3)):
        a, c, z = 0.5 * torch.randn(dims), torch.randn(dims), torch.randn(6, dims)
        asked: list[float] = []

        def f(z: Tensor, t: Any, a: Tensor = a, c: Tensor = c, asked: list[float] = asked) -> Tensor:
            time = torch.as_tensor(t, dtype=z.dtype).reshape(-1)[0]
            asked.append(time.item())
            return a * z + c * time * z.sin()

        def divergence(z: Tensor, t: Any, a: Tensor = a, c: Tensor = c) -> Tensor:
            time = torch.as_tensor(t, dtype=z.dtype).reshape(-1)[0]
            return (a + c * time * z.cos()).sum(1)

        value = answer(f, divergence, z.clone(), steps)
        hold(isinstance(value, tuple | list) and len(value) == 2, "Return two things: x and log_p.")
        x, log_p = numbers(value[0], (6, dims), "x"), numbers(value[1], (6,), "log_p")
        hold(all(-1e-9 < t < 1 + 1e-9 for t in asked), "The field is asked about a time outside [0, 1].")
        where, total, h = z, torch.zeros(6), 1 / steps
        for k in range(steps):
            t = 1 - k * h
            total = total + h * divergence(where, t)
            where = where - h * f(where, t)
        ahead = z
        for k in range(steps):
            ahead = ahead + h * f(ahead, k * h)
        agree(x, where, f"x after {steps} step(s)", hints={"That is where the flow leads from t = 0 to 1.": ahead})
        base = -z.square().sum(1) / 2 - dims / 2 * math.log(2 * math.pi)
        moved = -where.square().sum(1) / 2 - dims / 2 * math.log(2 * math.pi)
        hints = {
            "Where the field shrinks towards the base, data are wider than the base and less dense: see the sign.": base
            - total,
            "The base knows z, the draw; it is asked about x.": moved + total,
            "It is asked about x, and the trace has the wrong sign.": moved - total,
            "The base has a constant.": base + total + dims / 2 * math.log(2 * math.pi),
            "Each step has its length.": base + total * steps,
        }
        if steps == 1:
            del hints["Each step has its length."]
        agree(log_p, base + total, f"log p after {steps} step(s)", hints=hints)


@exercise(points=3, stars=2, kind="experiment")
def moons(answer: Any) -> None:
    """moons(x (B, 2)) -> (B,): the log-density of a continuous flow for the moons, KL below 0.35 nats.

    It integrates to 1. Looked at on 10,000 points of the law, whose density is known, and by an integral.
    """
    learned_density(answer, plane.moons(), 10_000, half=5.0, cells=110, surplus=0.06, bar=0.35)
