"""Checks of the exercises of chapter 08, a learned variance and a better clock."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gmbook.core.denoiser import Truth
from gmbook.core.paths import TablePath
from gmbook.course.draws import learned, normal_is
from gmbook.course.kit import Given, Wrong, agree, between, exercise, gradient, hold, numbers, samples
from gmbook.laws import plane
from gmbook.papers.ddpm import DDPM
from gmbook.papers.improved_ddpm import cosine_betas
from gmbook.papers.theory import improved_ddpm as theory


def random_betas(steps: int) -> Tensor:
    """A table β_1..β_T of large, uneven steps, so that formulas which nearly agree do not: (T,)."""
    return 0.05 + 0.5 * torch.rand(steps)


@exercise(points=1, stars=1, kind="code")
def cosine(answer: Any) -> None:
    """cosine(steps, s) -> (T,): β_1..β_T for ᾱ_i = f(i)/f(0), f = cos²((i/T + s)/(1 + s)·π/2), cut at 0.999.

    Looked at through the products of 1 − β.
    """
    for steps in (5, 30, 200):
        s = between(0.004, 0.05).item()
        f = [math.cos((i / steps + s) / (1 + s) * math.pi / 2) ** 2 for i in range(steps + 1)]
        got = numbers(answer(steps, s), (steps,), "the table")
        hold((got > 0).all() and (got < 1).all(), "Some β is not between 0 and 1.")
        hold((got <= 0.999 + 1e-12).all(), "The last β is not cut at 0.999.")
        kept, want = torch.cumprod(1 - got, 0), torch.tensor(f[1:]) / f[0]
        hints = {"ᾱ is not divided by f(0).": torch.tensor(f[1:]),
                 "It looks like the signal √ᾱ, not its square.": want.sqrt(),
                 "It is shifted by one step.": torch.tensor(f[:-1]) / f[0]}  # fmt: skip
        hints = {hint: wrong[:-1] for hint, wrong in hints.items()}
        agree(kept[:-1], want[:-1], "The product of 1 − β before the last step", hints=hints)
        agree(got[-1], torch.tensor(min(0.999, 1 - f[-1] / f[-2])), "The last β")


@exercise(points=2, stars=2, kind="derive")
def moment(answer: Any) -> None:
    """moment(signal, s) -> (): the time t in [0, 1] at which √ᾱ has fallen to `signal`, for the cosine schedule.

    Looked at by bisection.
    """
    for _ in range(4):
        signal, s = between(0.1, 0.95).item(), between(0.0, 0.1).item()

        def left(t: float, s: float = s) -> float:
            return math.cos((t + s) / (1 + s) * math.pi / 2) / math.cos(s / (1 + s) * math.pi / 2)

        low, high = 0.0, 1.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if left(middle) > signal else (low, middle)
        want = torch.tensor(low)
        got = numbers(answer(signal, s), (), "the time")
        hints = {"That is where ᾱ, not its root, has fallen so far.": wrong_level(signal**0.5, s),
                 "ᾱ is divided by f(0), which is not quite 1.": wrong_level(signal, s, False),
                 "It is counted from t = 1.": 1 - want}  # fmt: skip
        agree(got, want, f"The time at which {signal:.3f} of the signal is left", hints=hints)


def wrong_level(signal: float, s: float, divided: bool = True) -> Tensor:
    """The time for another signal, or without f(0)."""
    first = math.cos(s / (1 + s) * math.pi / 2) if divided else 1.0
    return torch.tensor((1 + s) * 2 / math.pi * math.acos(signal * first) - s)


class TwoPoints(Given):
    """E[x_0 | x] for x_0 = a with chance p and −a else, x = √ᾱ x_0 + √(1 − ᾱ) ε."""

    def __init__(self, a: Tensor, p: float, kept: float):
        super().__init__(a, p, kept)
        self.a, self.p, self.kept = a, p, kept

    def __call__(self, x: Tensor) -> Tensor:
        """The conditional mean at x (B, D): (B, D)."""
        odds = self.kept**0.5 / (1 - self.kept) * (x @ self.a) + math.log(self.p / (1 - self.p)) / 2
        return torch.tanh(odds)[:, None] * self.a


@exercise(points=2, stars=2, kind="code")
def doubt(answer: Any) -> None:
    """doubt(denoise, x (B, D), kept) -> (B, D): Var(x_0 | x_i = x) of each coordinate, ᾱ_i = kept.

    denoise(x (B, D)) -> (B, D) is E[x_0 | x_i = x], and can be differentiated. Looked at by enumerating two points.
    """
    for dims in (1, 3):
        a, p, kept = between(0.3, 1.5, dims), between(0.2, 0.8).item(), between(0.2, 0.9).item()
        denoise, x = TwoPoints(a, p, kept), torch.randn(6, dims)
        points = torch.stack([a, -a])
        logs = torch.tensor([p, 1 - p]).log() - torch.cdist(x, kept**0.5 * points) ** 2 / 2 / (1 - kept)
        share = logs.softmax(1)
        mean = share @ points
        want = share @ points**2 - mean**2
        got = numbers(answer(denoise, x.clone(), kept), (6, dims), "the variance").detach()
        hints = {"The factor is (1 − ᾱ)/√ᾱ.": want * kept**0.5,
                 "It is σ²/α with σ² = 1 − ᾱ: a variance.": want / (1 - kept) ** 0.5,
                 "It looks like the standard deviation.": want.sqrt()}  # fmt: skip
        if dims > 1:
            cross = (share @ points) * 0 + (want.sqrt().sum(1, keepdim=True) * want.sqrt())
            hints["It is the sum over a row of the Jacobian; only its diagonal is due."] = cross
        agree(got, want, f"The variance for D = {dims}", hints=hints)


@exercise(points=1, stars=1, kind="derive")
def output_for(answer: Any) -> None:
    """output_for(variance, beta, tilde) -> (): the network's r that stands for this variance, between β̃ and β.

    Looked at by bisection of the paper's interpolation.
    """
    for _ in range(4):
        tilde = between(0.01, 0.3)
        beta = tilde * between(1.2, 3.0)
        variance = tilde * between(0.8, 3.5)
        low, high = torch.tensor(-40.0), torch.tensor(40.0)
        for _ in range(100):
            v = ((low + high) / 2 + 1) / 2
            below = v * beta.log() + (1 - v) * tilde.log() < variance.log()
            low, high = ((low + high) / 2, high) if below else (low, (low + high) / 2)
        got = numbers(answer(variance.clone(), beta.clone(), tilde.clone()), (), "r")
        hints = {"That is v; the network outputs r = 2v − 1.": (low + 1) / 2,
                 "The interpolation is one of logarithms.": 2 * (variance - tilde) / (beta - tilde) - 1,
                 "β̃ is at v = 0.": -low}  # fmt: skip
        agree(got, low, "r", hints=hints)


@exercise(points=3, stars=3, kind="code")
def term(answer: Any) -> None:
    """term(eps, guess, r, beta, bar) -> (B,): L_{i−1} of the hybrid loss for i ≥ 2, nats, summed over D.

    eps, guess, r (B, D); beta = β_i and bar = ᾱ_i are numbers. The mean gets no gradient. Looked at through torch's KL
    of two normals, whose means come from x_0 and from the guess of it.
    """
    for _ in range(3):
        beta, before = between(0.05, 0.5).item(), between(0.2, 0.9).item()
        bar = before * (1 - beta)
        eps, guess, r = torch.randn(5, 3), torch.randn(5, 3).requires_grad_(), torch.randn(5, 3).requires_grad_()
        x0 = torch.randn(5, 3)
        x = bar**0.5 * x0 + (1 - bar) ** 0.5 * eps
        tilde = (1 - before) / (1 - bar) * beta
        of_x0, of_x = before**0.5 * beta / (1 - bar), (1 - beta) ** 0.5 * (1 - before) / (1 - bar)
        said = (x - (1 - bar) ** 0.5 * guess.detach()) / bar**0.5
        log_variance = (r + 1) / 2 * math.log(beta) + (1 - r) / 2 * math.log(tilde)
        normal = torch.distributions.Normal
        want = torch.distributions.kl_divergence(
            normal(of_x0 * x0 + of_x * x, torch.tensor(tilde**0.5)),
            normal(of_x0 * said + of_x * x, (log_variance / 2).exp()),
        ).sum(1)
        value = numbers(answer(eps.clone(), guess, r, beta, bar), (5,), "the term")
        misread = r.detach() * math.log(beta) + (1 - r.detach()) * math.log(tilde)
        other = torch.distributions.kl_divergence(
            normal(of_x0 * x0 + of_x * x, torch.tensor(tilde**0.5)),
            normal(of_x0 * said + of_x * x, (misread / 2).exp()),
        ).sum(1)
        hints = {"v is (r + 1)/2, not r.": other, "A sum over coordinates is due, not a mean.": want.detach() / 3}
        agree(value, want, "The term", hints=hints)
        slope = gradient(value.sum(), r, "r")
        agree(slope, gradient(want.sum(), r, "r"), "The gradient with respect to r")
        through = torch.autograd.grad(value.sum(), guess, allow_unused=True, retain_graph=True)[0]
        hold(through is None or not bool(through.any()), "The noise guess gets a gradient: the mean must be detached.")


@exercise(points=2, stars=2, kind="code")
def chances(answer: Any) -> None:
    """chances(losses (T, H), uniform) -> (T,): the law of steps with the least variance, mixed with the even law.

    From the last H losses of each step, `uniform` the share of the even law. Looked at by what makes the variance
    least: no shift of probability from one step to another may lower it.
    """
    for share in (0.0, 0.1):
        losses = torch.randn(6, 4) * between(0.2, 2.0, 6)[:, None] + between(-1.0, 3.0, 6)[:, None]
        second = losses.square().mean(1)
        got = numbers(answer(losses.clone(), share), (6,), "the law of steps")
        hold((got > 0).all() and (got.sum() - 1).abs() < 1e-9, "Probabilities must be positive and sum to 1.")
        pure = (got - share / 6) / (1 - share)
        hold((pure > 0).all(), "The even law has too small a share.")
        pull = second / pure**2  # minus the derivative of Σ E[L²]/p: equal for all steps at the least variance
        hints = {"The even law has another share.": second / got**2,
                 "That is in proportion to the mean loss.": second * pull.mean() / losses.mean(1) ** 2}  # fmt: skip
        agree(pull / pull.mean(), torch.ones(6), f"The law of steps for uniform = {share}", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def short_variance(answer: Any) -> None:
    """short_variance(before, now, v) -> (): the short chain's variance between two kept steps, for v.

    before and now are ᾱ of the kept steps j < i of a long chain. Looked at by conditioning the long chain.
    """
    for _ in range(5):
        betas, v = random_betas(7), between(0.0, 1.0)
        noise = torch.linalg.solve_triangular(
            torch.eye(7) - torch.diag((1 - betas[1:]).sqrt(), -1), torch.diag(betas.sqrt()), upper=False
        )
        covariance, kept = noise @ noise.T, torch.cumprod(1 - betas, 0)  # of x_1..x_7 given x_0
        j = int(torch.randint(4, ()))
        i = j + 1 + int(torch.randint(1, 3, ()))
        low = covariance[j, j] - covariance[j, i] ** 2 / covariance[i, i]  # Var(x_j | x_i, x_0)
        high = covariance[i, i] - covariance[i, j] ** 2 / covariance[j, j]  # Var(x_i | x_j)
        want = (v * high.log() + (1 - v) * low.log()).exp()
        got = numbers(answer(kept[j].clone(), kept[i].clone(), v.item()), (), "the variance")
        hints = {"It is β̃ alone.": low, "It is β alone.": high, "v = 0 is β̃.": low * high / want,
                 "The interpolation is one of logarithms.": v * high + (1 - v) * low,
                 "It looks like the standard deviation.": want.sqrt()}  # fmt: skip
        agree(got, want, "The variance", hints=hints)


@exercise(points=3, stars=3, kind="diagnose")
def repaired(answer: Any) -> None:
    """repaired(net, x (B, D), betas) -> x_0: sampling with a learned variance; net(x, i) -> (ε, r), each (B, D).

    No noise at i = 1. For a linear ε and an r of its own at each step all states are Gaussian, and are carried by hand.
    """
    # Little is shrunk on the way, and r is far from 0 on both sides: each step's noise shows. Where r > 0 the variance
    # hardly feels β̃, so half of the rounds have r < 0 at the step whose noise comes last.
    for steps, last in ((2, 1), (2, -1), (3, 1), (3, -1), (4, 1), (4, -1)):
        betas, slopes = between(0.15, 0.5, steps), between(-0.3, 0.3, steps)
        places = last * between(0.8, 1.6, steps) * (-1.0) ** (torch.arange(steps) + 1)  # of i = 2 the sign is `last`
        alpha_bar = torch.cumprod(1 - betas, 0)
        asked: list[int] = []

        def net(
            x: Tensor, i: Tensor | int, k: Tensor = slopes, r: Tensor = places, asked: list[int] = asked
        ) -> tuple[Tensor, Tensor]:
            at = torch.as_tensor(i).reshape(-1)
            hold(len(at.unique()) == 1 and 1 <= at[0] <= len(k), "The network is asked about no step of 1..T.")
            asked.append(int(at[0]))
            return k[asked[-1] - 1] * x, r[asked[-1] - 1] + 0 * x

        start = torch.tensor([[2.0, -1.0]])
        got = samples(answer(net, start.repeat(20_000, 1), betas.clone()), (20_000, 2), "x_0")
        hold(asked == list(range(steps, 0, -1)), f"With T = {steps} the network is asked about the steps {asked}.")
        factor, variance = torch.ones(()), torch.zeros(())
        for i in reversed(range(steps)):
            shrink = (1 - betas[i] / (1 - alpha_bar[i]).sqrt() * slopes[i]) / (1 - betas[i]).sqrt()
            factor, variance = factor * shrink, variance * shrink**2
            if i:
                tilde = (1 - alpha_bar[i - 1]) / (1 - alpha_bar[i]) * betas[i]
                v = (places[i] + 1) / 2
                variance = variance + (v * betas[i].log() + (1 - v) * tilde.log()).exp()
        normal_is(got, factor * start[0], variance.sqrt(), f"x_0 with T = {steps} and a linear network")


@exercise(points=2, stars=2, kind="derive")
def extra(answer: Any) -> None:
    """extra(used, best) -> (): nats lost per coordinate when a step back has the variance `used` and the right mean,

    and the law has that mean and the variance `best`. Looked at as a difference of two mean log-densities over points.
    """
    for _ in range(4):
        best = between(0.05, 1.0)
        used = best * 10 ** between(-0.7, 0.7)
        points = best.sqrt() * torch.tensor([-1.5, -0.5, 0.5, 1.5]) / 1.25**0.5  # mean 0 and variance `best`, no normal
        law = torch.distributions.Normal
        want = (law(0.0, best.sqrt()).log_prob(points) - law(0.0, used.sqrt()).log_prob(points)).mean()
        got = numbers(answer(used.clone(), best.clone()), (), "the loss")
        hints = {"The half is missing.": 2 * want,
                 "Which variance is used, and which is right?":
                     (used / best - 1 - (used / best).log()) / 2,
                 "These are variances, not standard deviations.":
                     (best**2 / used**2 - 1 - 2 * (best / used).log()) / 2}  # fmt: skip
        agree(got, want, "The loss", hints=hints)


@exercise(points=3, stars=2, kind="experiment")
def width(answer: Any) -> None:
    """width(x (B, 2), i (B,)) -> (B, 2): the best variance of x_{i−1} given x_i = x, moons, cosine table, T = 20.

    For i = 2..20. The loss of all nineteen steps, ½Σ(σ*²/Σ − 1 − log σ*²/Σ), must be below 0.12 nats; β has 0.24.
    """
    law, betas = plane.moons(), cosine_betas(20)
    path = TablePath(betas)
    chain = DDPM(Truth(law, path, "eps"), (2,), betas=betas)
    i = torch.arange(2, 21).repeat_interleave(400)
    x = path.interpolate(law.sample(len(i)), torch.randn(len(i), 2), i.double() / 20).float()
    got = samples(answer(x, i), (len(i), 2), "the variance")
    hold((got > 0).all(), "A variance is positive.")
    best = theory.optimal_variance(chain, theory.posterior_variance(chain, x, i), i).double()
    ratio = best / got
    lost = (ratio - 1 - ratio.log()).sum(1) / 2
    total = lost.mean().item() * 19
    if total < 0.12:
        return learned(total, 1e-5)
    late = "most of it at the last steps" if lost[i > 10].sum() > 4 * lost[i <= 10].sum() else "most of it early"
    raise Wrong(f"The loss is {total:.3f} nats, not below 0.12; {late} in the table.")
