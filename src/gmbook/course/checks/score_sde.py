"""Checks of the exercises of chapter 10, score SDEs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gmbook.core.denoiser import Truth
from gmbook.core.paths import VPPath
from gmbook.course.draws import learned, normal_is
from gmbook.course.kit import Wrong, agree, between, close, exercise, hold, numbers, samples
from gmbook.course.oracles import runge_kutta
from gmbook.laws import plane


def simpson(f: Any, low: float, high: float, cells: int = 400) -> Tensor:
    """∫ f by Simpson's rule."""
    x = torch.linspace(low, high, 2 * cells + 1)
    weights = torch.ones(2 * cells + 1)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    return (weights * f(x)).sum() * (high - low) / (6 * cells)


@exercise(points=1, stars=1, kind="derive")
def remains(answer: Any) -> None:
    """remains(a, b, p, t) -> (alpha, sigma): standard deviations of signal and noise for VP with β(t) = a + b t^p.

    Looked at by integrating β numerically, and α'= −½βα.
    """
    for t in (0.3, 0.7, 1.0):
        a, b, p = between(0.1, 1.0), between(1.0, 8.0), between(0.5, 3.0)
        total = simpson(lambda s, a=a, b=b, p=p: 2 * s * (a + b * s ** (2 * p)), 0.0, math.sqrt(t))  # with s² for t
        want = torch.stack([torch.exp(-total / 2), torch.sqrt(-torch.expm1(-total))])
        got = numbers(answer(a, b, p, t), (2,), "the answer (alpha, sigma)")
        hints = {
            "The first is the variance that is left, not the standard deviation.": torch.exp(-total),
            "That is e^{-B}: the drift is −½β x.": torch.exp(-total),
        }
        agree(got[0], want[0], f"alpha at t = {t}", hints=hints, tolerance=1e-5)
        agree(got[1], want[1], f"sigma at t = {t}", hints={"It looks like the variance.": want[1] ** 2}, tolerance=1e-5)


@exercise(points=3, stars=2, kind="code")
def back(answer: Any) -> None:
    """back(x, score, f, g, lam, h, z) -> like x: one Euler–Maruyama step of length h down in time, noise λ g, draw z.

    The forward drift is f x. Looked at by what a step does to Gaussian laws: for every λ the variance must retrace.
    """
    for lam in (0.0, 1.0, 0.5, 1.7):
        f, g, h = between(-2.0, 1.0), between(0.5, 2.0), 1e-7
        parts = torch.eye(3).unbind(1)  # of x, of the score, of z
        columns = [part.reshape(3, 1) for part in parts]
        value = answer(columns[0], columns[1], f, g, lam, h, columns[2])
        found = numbers(value, (3, 1), "the new x")[:, 0]
        kept, pull, kick = found
        hold(
            abs(kick) > 0 or lam == 0, "No noise is added. The draw is z, and its standard deviation is what it is for."
        )
        noise = kick**2 / h
        hold(close(noise, lam**2 * g**2, 1e-4) or lam > 0, "At λ = 0 nothing is random.")
        if lam > 0:
            hints = {
                "The noise's standard deviation is proportional to h: its variance should be.": (lam * g) ** 2 * h,
                "Its size does not depend on λ.": g**2,
            }
            agree(noise, (lam * g) ** 2, f"The variance of the noise per unit of time, λ = {lam},", hints=hints)
        variance = torch.tensor([0.5, 3.0])  # at once: the rate of one alone may be 0, that of both may not
        rate = ((kept - pull / variance) ** 2 * variance + kick**2 - variance) / h
        want = -(2 * f * variance + g**2)
        hints = {
            "It moves with the forward drift: time runs down.": want + 4 * f * variance,
            "The score's factor does not make up for the noise that is added.": want + (lam**2 - 1) * g**2,
            "The score pushes out instead of pulling in.": -2 * f * variance + (1 + 2 * lam**2) * g**2,
        }
        agree(rate, want, f"At λ = {lam} the rate at which a variance changes", hints=hints, tolerance=1e-4)


def ridden(x: Tensor, alpha: float, sigma: float, mean: float, std: float, steps: int = 400) -> Tensor:
    """x carried by the flow from (α, σ) to the data, N(mean, std²), along α(u) = 1 − (1 − α)u, σ(u) = σu."""

    def speed(x: Tensor, u: float) -> Tensor:
        a, s = 1 - (1 - alpha) * u, sigma * u
        total = (a * std) ** 2 + s**2
        x0, eps = mean + a * std**2 / total * (x - a * mean), s / total * (x - a * mean)
        return -(1 - alpha) * x0 + sigma * eps

    return runge_kutta(speed, x, 1.0, 0.0, steps)


@exercise(points=2, stars=2, kind="derive")
def decoded(answer: Any) -> None:
    """decoded(x (B,), alpha, sigma, mean, std) -> (B,): where the probability flow carries x at (α, σ), data
    N(mean, std²).

    Looked at by solving the flow along another path that ends at the same (α, σ).
    """
    for _ in range(3):
        alpha, sigma = between(0.1, 0.9).item(), between(0.3, 2.0).item()
        mean, std = between(-2.0, 2.0).item(), between(0.3, 1.5).item()
        total = (alpha * std) ** 2 + sigma**2
        x = alpha * mean + 1.3 * math.sqrt(total) * torch.randn(5)  # no further out: a road by quantiles has its digits
        got = numbers(answer(x, alpha, sigma, mean, std), (5,), "x_0")
        hints = {
            "That is the conditional mean, where one long jump leads.": mean
            + alpha * std**2 / total * (x - alpha * mean),
            "It forgets the mean of the data.": std * x / math.sqrt(total),
            "It takes the law at (α, σ) for N(αm, σ²).": mean + std / sigma * (x - alpha * mean),
        }
        agree(got, ridden(x, alpha, sigma, mean, std), "x_0", hints=hints, tolerance=1e-5)


@exercise(points=3, stars=3, kind="derive")
def price(answer: Any) -> None:
    """price(std, low, high, c) -> (): the variance at σ = low that VE's flow draws, with the score times c.

    Data N(0, std²), the start is the right law at σ = high. Looked at by carrying the variance along the flow.
    """
    for c in (0.9, 1.1, 0.5, 1.0):
        std, low, high = between(0.3, 1.5), between(0.01, 0.1), between(5.0, 20.0)
        top, bottom = math.log(high.item()), math.log(low.item())
        rate = lambda v, u, std=std, c=c: 2 * c * math.exp(2 * u) * v / (std**2 + math.exp(2 * u))  # noqa: E731
        variance = runge_kutta(rate, std**2 + high**2, top, bottom, 1000)  # in u = log σ: dV/du = 2σ² c V/v
        got = numbers(answer(std, low, high, c), (), "the variance")
        v0, v1 = std**2 + low**2, std**2 + high**2
        hints = {
            "It looks like the standard deviation.": variance.sqrt(),
            "The exponent has the wrong sign.": v0 * (v0 / v1) ** (1 - c),
            "It is a ratio; the variance itself is asked for.": variance / v0,
            "That is what very much noise on the way leaves.": v0 / c,
        }
        agree(got, variance, f"The variance for c = {c}", hints=hints, tolerance=1e-5)


@exercise(points=2, stars=2, kind="code")
def corrected(answer: Any) -> None:
    """corrected(x (B, D), score (B, D), z (B, D), r) -> (B, D): one correction, with z for the norm and for the noise.

    Looked at by taking the step apart: what of it lies along the score, what along z, and in which ratio.
    """
    for _ in range(3):
        batch, dims, r = 6, 5, between(0.05, 0.6).item()
        x, score, z = torch.randn(batch, dims), between(0.2, 3.0) * torch.randn(batch, dims), torch.randn(batch, dims)
        moved = numbers(answer(x, score, z, r), (batch, dims), "the corrected x") - x
        basis = torch.stack([score.flatten(), z.flatten()], 1)
        parts = torch.linalg.lstsq(basis, moved.flatten()[:, None]).solution[:, 0]
        rest = (basis @ parts - moved.flatten()).abs().max()
        if rest >= 1e-7:
            single = [torch.stack([score[k], z[k]], 1) for k in range(batch)]
            alone = [part @ torch.linalg.lstsq(part, moved[k][:, None]).solution for k, part in enumerate(single)]
            own = (torch.stack(alone)[..., 0] - moved).abs().max() < 1e-6
            hold(not own, "Each point of the batch has its own size: the norms are means over the batch.")
        hold(rest < 1e-7, "What is added is not a multiple of the score plus a multiple of z.")
        drift, kick = parts
        hold(drift > 0, "It goes against the score.")
        hold(kick.abs() > 1e-12, "No noise is added.")
        hold(not close(kick**2, drift, 1e-6), "Noise of variance ε: the law that this leaves alone is p².")
        agree(kick**2, 2 * drift, "The variance of the noise, beside the factor of the score,", tolerance=1e-6)
        sizes = [v.norm(dim=1).mean() for v in (score, z)]
        got = drift * sizes[0] / (kick.abs() * sizes[1])
        hints = {
            "It is the ratio's square.": torch.tensor(r**2),
            "The norm is that of the whole batch.": torch.tensor(r) * (z.norm() / score.norm()) / (sizes[1] / sizes[0]),
        }
        agree(got, torch.tensor(r), "The score's part of the step over the noise's", hints=hints, tolerance=1e-6)


class Pendulum:
    """dx/dt = Q a sin(Qᵀx): a field in two dimensions whose flow and density have a closed form."""

    def __init__(self) -> None:
        angle = between(0.3, 1.27)  # off the axes, and unlike rates: else the Jacobian's entries add up to its trace
        self.turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
        sign = 1 - 2 * torch.randint(2, ())
        self.rates = sign * torch.stack([between(0.5, 1.2), between(-0.6, 0.2)])
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The velocity at x (B, 2) and time t, which changes with t as 2t."""
        self.calls += 1
        hold(self.calls <= 5000, "After 5,000 calls of the field it has not come to an end.")
        hold(torch.as_tensor(t).numel() == 1, "The field is called as field(x, t) with one time for all points.")
        return 2 * torch.as_tensor(t) * (self.rates * torch.sin(x @ self.turn)) @ self.turn.T

    def carried(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x at t = 1 from x at t = 0, and log|det|: (B, 2), (B,). tan(y/2) grows by e^a."""
        y = x @ self.turn
        grown = self.rates.exp()
        end = 2 * torch.atan(torch.tan(y / 2) * grown)
        slope = grown / (torch.cos(y / 2) ** 2 + (grown * torch.sin(y / 2)) ** 2)
        return end @ self.turn.T, slope.log().sum(1)


@exercise(points=3, stars=3, kind="code")
def log_density(answer: Any) -> None:
    """log_density(field, x (B, 2), ts, log_prior) -> (B,): log p(x), carried by dx/dt = field(x, t) along ts to the
    prior.

    For ts of 200 even steps from 0 to 1, to 2e-3 nats. Looked at with a field whose flow has a closed form.
    """
    field, x = Pendulum(), (0.8 * torch.randn(6, 2)).clamp(-2, 2)  # within half a turn
    scale = between(0.7, 1.5)
    log_prior = lambda z: -(z / scale).square().sum(1) / 2 - 2 * scale.log() - math.log(2 * math.pi)  # noqa: E731
    got = numbers(answer(field, x, torch.linspace(0, 1, 201), log_prior), (6,), "log p(x)").detach()
    end, change = field.carried(x)
    want = log_prior(end) + change
    if bool(((got - want).abs() < 2e-3).all()):
        return
    wrongs = {
        "The divergence has the wrong sign.": log_prior(end) - change,
        "The divergence is missing.": log_prior(end),
        "The prior is evaluated at x, not where the flow carries it.": log_prior(x) + change,
        "That is the change alone, without the prior.": change,
    }
    for hint, wrong in wrongs.items():
        if bool(((got - wrong).abs() < 2e-2).all()):
            raise Wrong(hint)
    raise Wrong(f"log p(x) is off by up to {(got - want).abs().max().item():.2g} nats.")


@exercise(points=2, stars=1, kind="diagnose")
def bits(answer: Any) -> None:
    """bits(log_p (B,), dims, levels) -> (B,): bits per dimension of images whose log-density, nats, is for pixels
    scaled to [−1, 1].

    Looked at with densities that are constant on grey levels: their masses are known, so their code lengths are.
    """
    for levels in (2, 17, 256):
        dims = 3 + int(torch.randint(5, ()))
        masses = torch.softmax(2 * torch.randn(4, dims), 0)[0]  # of one grey level, for each dimension
        width = torch.tensor(2.0 / levels)
        log_p = (masses / width).log().sum()[None].repeat(2)
        want = -(masses.log().sum() / dims / math.log(2))[None].repeat(2)
        got = numbers(answer(log_p, dims, levels), (2,), "bits/dim")
        hints = {
            "It is as if pixels were scaled to [0, 1].": want + 1,
            "The levels do not enter.": want - math.log2(levels) + 1,
            "That is for 256 levels, whatever their number.": want - math.log2(levels) + 8,
            "It is in nats.": want * math.log(2),
            "It is for the whole image, not per dimension.": want * dims,
        }
        agree(got, want, f"Bits/dim for {levels} levels", hints=hints)


@exercise(points=3, stars=3, kind="diagnose")
def repaired(answer: Any) -> None:
    """repaired(score, x (B, D), ts, beta_min, beta_max) -> x at ts[-1]: Euler–Maruyama for the reverse SDE of sub-VP.

    Times ts run down; the last step has noise too. For a linear score every state is Gaussian, and known.
    """
    for steps in (1, 2, 5):
        low, high = between(0.1, 1.0).item(), between(4.0, 12.0).item()
        ts = 0.35 - 0.3 * torch.sort(torch.rand(steps + 1)).values  # where B is small, so that g² is not β
        slopes = -between(0.3, 1.5, steps)
        asked: list[int] = []

        def score(
            x: Tensor, t: Tensor | float, ts: Tensor = ts, slopes: Tensor = slopes, asked: list[int] = asked
        ) -> Tensor:
            t = torch.as_tensor(t).reshape(-1)
            hold(len(t.unique()) == 1, "All points of a batch are at the same time.")
            place = int((ts - t[0]).abs().argmin())
            hold((ts[place] - t[0]).abs() < 1e-9, "The score is asked about a time that is not on the grid.")
            asked.append(place)
            hold(place < len(slopes), "The score is asked at the end of a step: Euler's step is made of its start.")
            return slopes[place] * x

        start = torch.tensor([[2.0, -1.0]])
        got = samples(answer(score, start.repeat(20_000, 1), ts.clone(), low, high), (20_000, 2), "x at the end")
        hold(asked == list(range(steps)), f"With {steps} steps the score is asked at the times number {asked}.")
        factor, variance = torch.ones(()), torch.zeros(())
        for k in range(steps):
            t, h = ts[k].item(), (ts[k] - ts[k + 1]).item()
            beta = low + (high - low) * t
            # g² from the variance of the path itself: (σ²)' = −βσ² + g²
            spread = lambda t, low=low, high=high: (1 - math.exp(-(low * t + (high - low) * t**2 / 2))) ** 2  # noqa: E731
            g2 = (spread(t + 1e-5) - spread(t - 1e-5)) / 2e-5 + beta * spread(t)
            shrink = 1 + h * beta / 2 + h * g2 * slopes[k].item()
            factor, variance = factor * shrink, variance * shrink**2 + h * g2
        normal_is(got, factor * start[0], variance.sqrt(), f"x after {steps} step{'s' if steps > 1 else ''}")


@exercise(points=2, stars=2, kind="code")
def important(answer: Any) -> None:
    """important(u (B,), low, high, beta_min, beta_max) -> (B,): times with density ∝ g²/σ² on [low, high], for VP.

    u is even on [0, 1]. Looked at by the share of ∫g²/σ² that lies below the answer, by quadrature.
    """
    for _ in range(3):
        low, high = (10 ** between(-4.0, -2.0)).item(), between(0.7, 1.0).item()
        least, most = between(0.1, 1.0).item(), between(5.0, 20.0).item()
        u = torch.rand(5)
        got = numbers(answer(u, low, high, least, most), (5,), "the times")
        hold((got >= low * (1 - 1e-9)).all() and (got <= high * (1 + 1e-9)).all(), "Some time is out of [low, high].")

        def mass(a: float, b: float, least: float = least, most: float = most) -> Tensor:
            """∫ g²/σ² from a to b, in log t."""

            def rate(x: Tensor) -> Tensor:
                t = x.exp()
                return t * (least + (most - least) * t) / -torch.expm1(-(least * t + (most - least) * t**2 / 2))

            return simpson(rate, math.log(a), math.log(b))

        total = mass(low, high)
        share = torch.stack([mass(low, max(t, low * (1 + 1e-12))) / total for t in got.tolist()])
        even = (got - low) / (high - low)
        hold(not close(even, u, 1e-6), "The times are even on the interval.")
        hold(
            not close((got / low).log() / math.log(high / low), u, 1e-6),
            "It is log t that is even: near, but the weight is not exactly 1/t.",
        )
        agree(
            share, u, "The share of the weight below the times", hints={"It runs the other way.": 1 - u}, tolerance=1e-4
        )


@exercise(points=3, stars=3, kind="experiment")
def noise(answer: Any) -> None:
    """noise(x (B, 2), t (B,)) -> (B, 2): the noise in x_t for the moons on VP, t in [0.001, 1].

    Excess loss below 0.02, and below 0.0004 for t above 0.7, where the flow multiplies each error. Both are exact: mean
    square distances from E[ε | x_t].
    """
    law, path = plane.moons(), VPPath()
    t = path.t_min + (1 - path.t_min) * torch.rand(20_000, dtype=torch.float64)
    x = path.interpolate(law.sample(len(t)), torch.randn(len(t), 2), t)
    got = samples(answer(x, t.to(x.dtype)), (len(t), 2), "the estimate")
    right = Truth(law, path, "eps")(x, t).double()
    excess = (got - right).square().mean(1)
    total, late = excess.mean().item(), excess[t > 0.7].mean().item()
    if total < 0.02 and late < 4e-4:
        return learned(total, 2e-5)
    flipped = " With its sign turned it would be nearer." if (got + right).square().mean() < total else ""
    if total >= 0.02:
        raise Wrong(f"The excess loss is {total:.3f}, not below 0.02.{flipped}")
    raise Wrong(f"The excess loss is {total:.3f}, which will do; above t = 0.7 it is {late:.4f}, not below 0.0004.")
