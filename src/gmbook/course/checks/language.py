"""Checks of the exercises of chapter 00, the language."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gmbook.course.draws import at_once, learned, normal_is, over_the_square
from gmbook.course.kit import Given, agree, between, close, exercise, hold, numbers, samples
from gmbook.laws import plane


def mixture(count: int, low: float = 0.4, high: float = 1.2) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and standard deviations of a mixture on the line, (count,) each."""
    weights = torch.softmax(torch.randn(count), 0)
    return weights, (1.5 * torch.randn(count)).clamp(-3, 3), low + (high - low) * torch.rand(count)


def log_mixture(x: Tensor, weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """log p(x) for x (B,): (B,)."""
    parts = -0.5 * ((x[:, None] - means) / stds) ** 2 - stds.log() - 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(weights.log() + parts, 1)


@exercise(points=1, stars=1, kind="derive")
def covering(answer: Any) -> None:
    """covering(weights (K,), means (K,), stds (K,)) -> (m, s): the N(m, s²) with the least KL(p ‖ N(m, s²)).

    p is that mixture on the line. Looked at through the slope of the divergence, by quadrature and autograd.
    """
    z = torch.linspace(-14, 14, 4001)
    for count in (1, 2, 3, 4):
        weights, means, stds = mixture(count)
        p = log_mixture(z, weights, means, stds).exp()
        got = numbers(answer(weights, means, stds), (2,), "the answer (m, s)").detach()
        hold(got[1] > 0, "A standard deviation is positive.")
        m, log_s = got[0].clone().requires_grad_(), got[1].log().requires_grad_()
        loss = -torch.trapezoid(p * (-0.5 * ((z - m) / log_s.exp()) ** 2 - log_s), z)
        by_m, by_s = torch.autograd.grad(loss, (m, log_s))
        where = f"For {count} component{'s' if count > 1 else ''}, a "
        by_m = by_m * got[1]  # in units of s: by itself it falls to 0 far away
        hold(by_m.abs() < 1e-6, f"{where}{'smaller' if by_m > 0 else 'larger'} m has a smaller divergence.")
        hold(by_s.abs() < 1e-6, f"{where}{'smaller' if by_s > 0 else 'larger'} s has a smaller divergence.")


@exercise(points=3, stars=3, kind="diagnose")
def bits(answer: Any) -> None:
    """bits(pixels (B, *S) in 0..255, u (B, *S) in [0, 1), log_prob) -> (B,): bits/dim, a bound, of integer pixels.

    log_prob is the model's log-density, in nats, of the logits of 0.05 + 0.9 (pixels + u)/256: (B, *S) -> (B,). Looked
    at through models that were made from a known density of (pixels + u)/256.
    """
    for shape, plain in (((1,), True), ((1,), False), ((5,), False), ((2, 3), False)):
        power = torch.ones(shape) if plain else 1.2 + 2 * torch.rand(shape)
        pixels, u = torch.randint(0, 256, (6, *shape)), 0.01 + 0.98 * torch.rand(6, *shape)
        level = (pixels + u) / 256
        inside, calls = torch.logit(0.05 + 0.9 * level), [0]

        def of_level(y: Tensor, power: Tensor = power) -> Tensor:
            return (power.log() + (power - 1) * y.log()).flatten(1).sum(1)

        def log_prob(
            logits: Tensor, inside: Tensor = inside, calls: list[int] = calls, power: Tensor = power
        ) -> Tensor:
            calls[0] += 1
            hold(calls[0] <= 10, "The model is asked again and again.")
            hold(logits.shape == inside.shape, "The model is given another shape than that of the pixels.")
            hold(close(logits, inside, 1e-9), "The model is not given the logits of 0.05 + 0.9 (pixels + u)/256.")
            y = (torch.sigmoid(inside) - 0.05) / 0.9
            chain = torch.sigmoid(inside) * torch.sigmoid(-inside) / 0.9  # dy/dlogit
            return (power.log() + (power - 1) * y.log() + chain.log()).flatten(1).sum(1)

        size = math.prod(shape)
        want = 8 - of_level(level) / (size * math.log(2))
        got = numbers(answer(pixels, u, log_prob), (6,), "the list of bits per dimension")
        squeezed = 0.05 + 0.9 * level
        lost = (squeezed * (1 - squeezed)).log().flatten(1)
        rescaled = math.log(0.9) / math.log(2)
        where = f"The bits per dimension of {'uniform ' if plain else ''}pixels of shape {tuple(shape)}"
        hints = {"One of the maps between pixel and logit changes volume, and is not counted.": want + rescaled,
                 "One of the maps between pixel and logit is counted with the wrong sign.": want + 2 * rescaled,
                 "The step from 256 levels to the unit interval is not counted.": want - 8,
                 "The logarithm's base is e: that are nats.": want * math.log(2),
                 "The logit's change of volume is not counted.": want - lost.mean(1) / math.log(2),
                 "That is the whole image, not one dimension of it.": want * size}  # fmt: skip
        agree(got, want, where, hints=hints)


@exercise(points=2, stars=2, kind="derive")
def settled(answer: Any) -> None:
    """settled(covariance C (D, D), step, noise) -> (D, D): where x ← x + (ε/2)∇log p(x) + τ√ε z settles, p = N(0, C).

    ε is `step` and τ is `noise`. Looked at by solving for a covariance that one step leaves as it is.
    """
    for size, noise in ((1, 1.0), (2, 1.0), (3, 1.0), (2, between(0.4, 0.8).item()), (3, between(1.3, 2.0).item())):
        root = torch.randn(size, size)
        covariance = root @ root.T + 0.4 * torch.eye(size)
        step = between(0.4, 2.0).item() * torch.linalg.eigvalsh(covariance)[0].item()
        shrink = torch.eye(size) - step / 2 * torch.linalg.inv(covariance)
        system = torch.eye(size**2) - torch.kron(shrink, shrink)
        want = torch.linalg.solve(system, noise**2 * step * torch.eye(size).flatten()).reshape(size, size)
        got = numbers(answer(covariance.clone(), step, noise), (size, size), "the covariance")
        hints = {"That is the law itself, the limit of small steps.": covariance,
                 "The walk is hotter or colder than that: look at what `noise` does.": want / noise**2,
                 "`noise` multiplies a standard deviation.": want / noise}  # fmt: skip
        agree(got, want, f"The covariance in {size} dimensions with noise {noise:.2f}", tolerance=1e-6, hints=hints)


@exercise(points=3, stars=2, kind="diagnose")
def annealed(answer: Any) -> None:
    """annealed(score, x (B, D), sigmas (L,), c, count) -> (B, D): Langevin steps, `count` at each σ in turn, ε = cσ².

    score(x, sigma) is that of the law blurred by σ. For a linear one every x is Gaussian: its mean and variance are
    carried through the steps by hand.
    """
    for levels, count in ((1, 1), (1, 2), (3, 1), (3, 2)):
        sigmas = (2.0 + torch.rand(levels)) * torch.tensor([1.0, 0.5, 0.2])[:levels]
        c = between(0.1, 0.5).item()
        asked: list[float] = []
        slopes = {sigma: between(0.4, 1.4).item() / (c * sigma**2) for sigma in sigmas.tolist()}

        def score(
            x: Tensor, sigma: Tensor | float, slopes: dict[float, float] = slopes, asked: list[float] = asked
        ) -> Tensor:
            told = torch.as_tensor(sigma).reshape(-1).double()
            hold(len(told.unique()) == 1, "All points of a batch are at the same level of noise.")
            near = min(slopes, key=lambda known: abs(known - told[0].item()))
            hold(abs(near - told[0].item()) < 1e-5, "The score is asked about a σ that is not in the list.")
            hold(len(asked) < 100, "The score is asked again and again.")
            asked.append(near)
            return -slopes[near] * x

        start = torch.tensor([[2.0, -1.0]])
        got = samples(answer(score, start.repeat(20_000, 1), sigmas.clone(), c, count), (20_000, 2), "the end")
        due = [sigma for sigma in sigmas.tolist() for _ in range(count)]
        hold(len(asked) == len(due), f"{levels} levels with {count} steps each: the score is asked {len(asked)} times.")
        hold(asked == due, "The levels are not visited in the order of the list.")
        factor, variance = 1.0, 0.0
        for sigma in due:
            step = c * sigma**2
            shrink = 1 - step / 2 * slopes[sigma]
            factor, variance = factor * shrink, variance * shrink**2 + step
        where = f"The end of {levels} level{'s' if levels > 1 else ''} with {count} step{'s' if count > 1 else ''} each"
        normal_is(got, factor * start[0], math.sqrt(variance), where)


@exercise(points=2, stars=2, kind="diagnose")
def blurred(answer: Any) -> None:
    """blurred(x (B,), weights (K,), means (K,), stds (K,), alpha, sigma) -> (B,): log p_t(x) of a blurred mixture.

    Looked at by folding the mixture with the noise, by quadrature; near the data and far from them.
    """
    x0 = torch.linspace(-45, 45, 16_001)
    for count in (1, 2, 3):
        weights, means, stds = mixture(count, 0.2, 0.5)
        alpha, sigma = between(0.5, 0.9).item(), between(0.3, 0.5).item()
        near = alpha * means[torch.randint(count, (8,))] + 0.6 * torch.randn(8)
        x = torch.cat([near, torch.tensor([-30.0, 30.0])])
        noise = -0.5 * ((x[:, None] - alpha * x0) / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))
        want = torch.logsumexp(log_mixture(x0, weights, means, stds) + noise, 1) + math.log(90 / 16_000)
        where = f"The log-density for {count} component{'s' if count > 1 else ''}"
        close_by = numbers(answer(near, weights, means, stds, alpha, sigma), (8,), where)
        spread = ((alpha * stds) ** 2 + sigma**2).sqrt()
        hints = {"The blurred components have another standard deviation.":
                 log_mixture(near, weights, alpha * means, spread**2),
                 "Independent noise adds variances, not standard deviations.":
                 log_mixture(near, weights, alpha * means, alpha * stds + sigma),
                 "The signal shrinks, and the centres with it.": log_mixture(near, weights, means, spread),
                 "It is the density, not its logarithm.": want[:8].exp()}  # fmt: skip
        agree(close_by, want[:8], where, tolerance=1e-6, hints=hints)
        far = numbers(answer(x, weights, means, stds, alpha, sigma), (10,), f"{where}, far from the data,")
        agree(far, want, f"{where}, far from the data,", tolerance=1e-6)


class MixtureScore(Given):
    """d/dx log p(x) of a mixture on the line, for x of any shape."""

    def __init__(self, weights: Tensor, means: Tensor, variances: Tensor):
        super().__init__(weights, means, variances)
        self.weights, self.means, self.variances = weights, means, variances

    def __call__(self, x: Tensor) -> Tensor:
        """Its value, like x."""
        off = x[..., None] - self.means
        logits = self.weights.log() - 0.5 * self.variances.log() - 0.5 * off**2 / self.variances
        return -(torch.softmax(logits, -1) * off / self.variances).sum(-1)


@exercise(points=3, stars=3, kind="derive")
def doubt(answer: Any) -> None:
    """doubt(score, x (B,), alpha, sigma) -> (B,): the variance of x_0 given x_t = x, on the line.

    score(x) is that of p_t, which can be differentiated. Looked at by quadrature over x_0.
    """
    x0 = torch.linspace(-14, 14, 4001)
    for count in (1, 2, 3):
        weights, means, stds = mixture(count)
        alpha, sigma = between(0.4, 0.95).item(), between(0.3, 1.5).item()
        x = alpha * (means[torch.randint(count, (7,))] + 0.5 * torch.randn(7)) + sigma * torch.randn(7).clamp(-2, 2)
        logs = log_mixture(x0, weights, means, stds) - 0.5 * ((x[:, None] - alpha * x0) / sigma) ** 2
        chance = torch.softmax(logs, 1)
        guess = chance @ x0
        want = (chance * (x0 - guess[:, None]) ** 2).sum(1)
        score = MixtureScore(weights, alpha * means, (alpha * stds) ** 2 + sigma**2)
        got = numbers(answer(score, x, alpha, sigma), (7,), "the variance").detach()
        hints = {"It is the variance of the noise, given x_t.": want * (alpha / sigma) ** 2,
                 "It is the variance of α x_0.": want * alpha**2,
                 "It is the mean of x_0, given x_t.": guess,
                 "Nothing depends on the law: is the score differentiated?":
                 torch.full_like(want, (sigma / alpha) ** 2)}  # fmt: skip
        agree(got, want, f"The variance for {count} component{'s' if count > 1 else ''}", tolerance=1e-5, hints=hints)


@exercise(points=2, stars=2, kind="derive")
def straight(answer: Any) -> None:
    """straight(eps (B, D), x (B, D), alpha, sigma) -> (t (), y, velocity), x taken to the linear path.

    All but t are (B, D). x = αx_0 + σε, and ε is known. t is the time at which (1 − t)x_0 + tε has the same ratio of
    signal to noise, y is that point, and the velocity is its. Looked at with hidden x_0.
    """
    for _ in range(4):
        alpha, sigma = between(0.2, 1.5).item(), between(0.2, 3.0).item()
        x0, eps = torch.randn(2, 4, 3)
        low, high = 0.0, 1.0
        for _ in range(60):  # the ratio falls with t
            t = (low + high) / 2
            low, high = (t, high) if (1 - t) * sigma > alpha * t else (low, t)
        got = answer(eps.clone(), alpha * x0 + sigma * eps, alpha, sigma)
        hold(type(got) in (tuple, list) and len(got) == 3, "Three things are due: (t, y, velocity).")
        time = numbers(got[0], (), "t")
        right = torch.tensor(t)
        hold(close(time, right, 1e-9) or not close(time, 1 - right, 1e-9), "t runs the wrong way: 0 is data.")
        variance = torch.tensor(sigma**2 / (alpha**2 + sigma**2))
        agree(time, right, "t", tolerance=1e-9, hints={"It is the share of the noise in the variance.": variance,
              "It is the noise, as if the signal's were such that they sum to 1.": torch.tensor(sigma)})  # fmt: skip
        y = numbers(got[1], (4, 3), "y")
        hints = {"It is x itself: the other path has another size.": alpha * x0 + sigma * eps,
                 "It has t and 1 − t exchanged.": t * x0 + (1 - t) * eps}  # fmt: skip
        agree(y, (1 - t) * x0 + t * eps, "y", hints=hints)
        velocity = numbers(got[2], (4, 3), "the velocity")
        hints = {"It is αε − σx_0, the v of the path that was left.": alpha * eps - sigma * x0,
                 "It is the way from x, not from x_0.": eps - (alpha * x0 + sigma * eps)}  # fmt: skip
        agree(velocity, eps - x0, "the velocity", hints=hints)


@exercise(points=2, stars=2, kind="code")
def moved(answer: Any) -> None:
    """moved(x (N,), y (M,)) -> (): the exact distance W_2 of two heaps on the line, each of mass 1, evenly shared.

    Looked at by cutting each point into equal crumbs and pairing them at least cost.
    """
    for n, m in ((4, 4), (1, 3), (3, 5), (6, 4), (5, 2)):
        x, y = 2 * torch.randn(n), 1.0 + torch.randn(m)
        cost = (x.repeat_interleave(m)[:, None] - y.repeat_interleave(n)[None, :]).square()
        rows, columns = linear_sum_assignment(cost.numpy())
        want = cost[torch.as_tensor(rows), torch.as_tensor(columns)].mean().sqrt()
        got = numbers(answer(x.clone(), y.clone()), (), "the distance")
        hints = {"It looks like the square of the distance.": want**2,
                 "The mass of a heap is 1, however many points it has.": want * math.sqrt(n * m),
                 "The points are not moved at least cost.": (x[: min(n, m)] - y[: min(n, m)]).square().mean().sqrt(),
                 "It is only the distance of the means.": (x.mean() - y.mean()).abs()}  # fmt: skip
        agree(got, want, f"The distance of {n} points from {m}", hints=hints)


@exercise(points=3, stars=2, kind="diagnose")
def apart(answer: Any) -> None:
    """apart(x (N, D), y (M, D)) -> (): an estimate of ‖E x − E y‖², right on average at any N ≥ 2, M ≥ 2.

    Looked at by enumeration: the average over *all* samples from small laws with chances that are known.
    """
    for n, m, size, dims in ((2, 3, 2, 2), (2, 2, 3, 3)):
        points = torch.randn(1, size, dims) + 0.1 * torch.randn(2, size, dims)  # near: some estimates are negative
        chances = torch.softmax(torch.randn(2, size), 1)
        total = torch.zeros(())
        for places in itertools.product(range(size), repeat=n + m):
            i, j = torch.tensor(places[:n]), torch.tensor(places[n:])
            got = numbers(answer(points[0, i], points[1, j]), (), "the estimate").detach()
            total = total + chances[0, i].prod() * chances[1, j].prod() * got
        means = torch.einsum("ls,lsd->ld", chances, points)
        spread = torch.einsum("ls,lsd->l", chances, (points - means[:, None]) ** 2)
        want = (means[0] - means[1]).square().sum()
        hints = {"It is too large by what two samples of the same law differ: its floor is not 0.":
                 want + spread[0] / n + spread[1] / m,
                 "It is too large by a floor, and a mean over dimensions stands where a sum is due.":
                 (want + spread[0] / n + spread[1] / m) / dims,
                 "A mean over dimensions stands where a sum is due.": want / dims,
                 "It still holds part of the floor: which variance is divided by what?":
                 want + spread[0] / n**2 + spread[1] / m**2}  # fmt: skip
        agree(total, want, f"Over all samples of {n} and {m} points, the average", hints=hints)
    x, y = torch.randn(7, 3), 0.5 + torch.randn(5, 3)
    first = numbers(answer(x.clone(), y.clone()), (), "the estimate")
    again = numbers(answer(x[torch.randperm(7)], y.flip(0)), (), "the estimate")
    hold((first - again).abs() < 1e-9, "It depends on the order of the points: some pairs are not used.")


@exercise(points=3, stars=2, kind="experiment")
def density(answer: Any) -> None:
    """density(x (B, 2)) -> (B,): a normalised log-density, made from samples of the moons, within 0.1 nats of theirs.

    Looked at by its integral over the plane, and by the mean log-ratio to the truth on new samples.
    """
    law = plane.moons()
    square, area = over_the_square(-4.0, 4.0, 120)
    x = law.sample(6000).float()
    logs, found = at_once(answer, (square, x), "the log-density")
    mass = logs.exp().sum().item() * area
    hold(mass < 1.03, f"It integrates to {mass:.3g} over the plane: more than 1 is no density.")
    hold(mass > 0.9, f"It integrates to {mass:.3g} over the square from −4 to 4, where all the data are.")
    ratio = law.log_prob(x).double() - found
    hold(ratio.mean() < 0.1, f"It is {ratio.mean().item():.2f} nats below the truth on new samples; 0.1 are allowed.")
    learned(ratio.abs().mean(), 0.01)
