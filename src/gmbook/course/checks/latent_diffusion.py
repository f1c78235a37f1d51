"""Checks of the exercises of chapter 11, latent diffusion."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gmbook.course.draws import learned
from gmbook.course.kit import Wrong, agree, between, close, exercise, gradient, hold, numbers, samples


@exercise(points=1, stars=1, kind="derive")
def sizes(answer: Any) -> None:
    """sizes(side, f, channels) -> (ratio of numbers, ratio of pairs of places), for pictures of three colours.

    Looked at by counting the entries of a picture and of its code.
    """
    for _ in range(6):
        f, channels = 2 ** int(torch.randint(1, 6, ())), int(torch.randint(1, 20, ()))
        side = f * int(torch.randint(2, 9, ()))
        picture, code = torch.empty(3, side, side), torch.empty(channels, side // f, side // f)
        got = numbers(answer(side, f, channels), (2,), "the answer (numbers, pairs)")
        places = picture[0].numel() / code[0].numel()
        count = torch.tensor(picture.numel() / code.numel(), dtype=torch.float64)
        hints = {"Each side is f times smaller: how much smaller is the area?": count / f,
                 "The three colours count, too.": count / 3,
                 "The channels of the code count, too.": torch.tensor(3 * places, dtype=torch.float64),
                 "It is upside down.": 1 / count}  # fmt: skip
        agree(got[0], count, "The ratio of numbers", hints=hints)
        hints = {"It is the ratio of places; pairs of them are asked for.": torch.tensor(places, dtype=torch.float64),
                 "Channels are no places.": count**2}  # fmt: skip
        agree(got[1], torch.tensor(places**2, dtype=torch.float64), "The ratio of pairs of places", hints=hints)


@exercise(points=2, stars=2, kind="code")
def kl_term(answer: Any) -> None:
    """kl_term(output (B, 2c, h, w), weight) -> (B,): weight · KL(N(μ, diag σ²) ‖ N(0, I)), means before log-variances.

    Looked at through torch.distributions.
    """
    for shape in ((3, 2, 3), (1, 4, 1)):
        channels, height, width = shape
        mean, log_variance = torch.randn(5, *shape), torch.randn(5, *shape) - 1
        weight = between(0.2, 3.0).item()
        normal = torch.distributions.Normal
        entries = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0))
        want = weight * entries.flatten(1).sum(1)
        got = numbers(answer(torch.cat([mean, log_variance], 1), weight), (5,), "the KL term")
        swapped = torch.distributions.kl_divergence(normal(log_variance, (mean / 2).exp()), normal(0.0, 1.0))
        as_std = torch.distributions.kl_divergence(normal(mean, log_variance.exp()), normal(0.0, 1.0))
        reverse = torch.distributions.kl_divergence(normal(0.0, 1.0), normal(mean, (log_variance / 2).exp()))
        hints = {"A sum over the entries of the code is due, not a mean.": want / (channels * height * width),
                 "The weight is missing.": want / weight,
                 "Means come first, log-variances second.": weight * swapped.flatten(1).sum(1),
                 "The second half are logarithms of variances, not of standard deviations.":
                     weight * as_std.flatten(1).sum(1),
                 "It is the divergence the other way round.": weight * reverse.flatten(1).sum(1)}  # fmt: skip
        agree(got, want, "The KL term", hints=hints)


@exercise(points=3, stars=3, kind="code")
def quantise(answer: Any) -> None:
    """quantise(z (B, c), table (K, c), beta) -> (what the decoder is given (B, c), the penalty (B,)).

    The first has the value of the nearest row and the gradient of z; ‖sg[z] − e‖² + β‖z − sg[e]‖² is the second. Values
    by going through all rows, gradients against the exact ones.
    """
    for codes, dim in ((7, 3), (2, 1)):
        beta = between(0.1, 0.6).item()
        z = torch.randn(24, dim).requires_grad_()
        # rows of uneven length: the nearest is not the one of the largest inner product
        table = (
            torch.linspace(0.3, 2.0, codes)[torch.randperm(codes), None] * torch.randn(codes, dim)
        ).requires_grad_()
        rows = [min(range(codes), key=lambda k: (z[b] - table[k]).square().sum().item()) for b in range(24)]
        e = table.detach()[rows]
        pair = answer(z, table, beta)
        hold(isinstance(pair, (tuple, list)) and len(pair) == 2, "Return a pair: what the decoder is given, penalty.")
        given, penalty = (
            numbers(pair[0], (24, dim), "what the decoder is given"),
            numbers(pair[1], (24,), "the penalty"),
        )
        agree(given, e, "What the decoder is given", hints={"It is not rounded.": z.detach()})
        apart = (z.detach() - e).square().sum(1)
        hints = {"The weight β stands at one of the two terms only.": 2 * apart,
                 "A sum over the entries of a code is due, not a mean.": (1 + beta) * apart / dim,
                 "One of the two terms is missing.": apart,
                 "One of the two terms is missing or has the other's weight.": beta * apart}  # fmt: skip
        agree(penalty, (1 + beta) * apart, "The penalty", hints=hints)
        pull = torch.randn(24, dim)
        # one backward pass carries both: the decoder's pull and the penalty, with a weight for each code
        worth = between(0.5, 2.0, 24)
        total = (given * pull).sum() + (penalty * worth).sum()
        to_z = gradient(total, z, "the codes z")
        to_table = gradient(total, table, "the table")
        away = 2 * (z.detach() - e) * worth[:, None]
        hints = {"The decoder's gradient does not reach it.": beta * away,
                 "The penalty does not reach it.": pull,
                 "β is at the wrong term.": pull + away,
                 "A gradient is not stopped: both terms pull at it.": pull + (1 + beta) * away}  # fmt: skip
        agree(to_z, pull + beta * away, "The gradient with respect to z", hints=hints)

        def gathered(values: Tensor, rows: list[int] = rows, table: Tensor = table) -> Tensor:
            return torch.zeros_like(table).index_add(0, torch.tensor(rows), values)

        hints = {"The decoder's gradient reaches it too: only the penalty should.": gathered(pull - away),
                 "β is at the wrong term.": gathered(-beta * away),
                 "A gradient is not stopped: both terms pull at it.": gathered(-(1 + beta) * away)}  # fmt: skip
        agree(to_table, gathered(-away), "The gradient with respect to the table", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def scale_of(answer: Any) -> None:
    """scale_of(means, stds) -> (): 1/σ̂ for codes drawn from N(means, diag stds²), each (B, c, h, w), entries together.

    Looked at through first and second moments of all entries.
    """
    for _ in range(3):
        means = between(0.5, 2.0) * torch.randn(9, 2, 3, 2) + between(0.3, 1.5) * torch.randn(2, 1, 1)
        stds = between(0.05, 1.5, *means.shape)
        first, second = means.mean(), (means**2 + stds**2).mean()
        want = 1 / (second - first**2).sqrt()
        each = means.var(0, correction=0).mean() + stds.square().mean()
        rooted = 1 / (means.var(correction=0) + stds.mean() ** 2).sqrt()
        hints = {"The spread within a posterior is missing.": 1 / means.std(correction=0),
                 "Only the spread within a posterior is there.": 1 / stds.square().mean().sqrt(),
                 "The mean of the squared standard deviations is due, not the square of their mean.": rooted,
                 "Standard deviations do not add; variances do.": 1 / (means.std(correction=0) + stds.mean()),
                 "It is σ̂, not 1/σ̂.": 1 / want,
                 "It is 1/σ̂².": want**2,
                 "The codes' mean is not taken off.": 1 / second.sqrt(),
                 "All entries count together: their means differ, too.": 1 / each.sqrt()}  # fmt: skip
        agree(numbers(answer(means, stds), (), "the scale"), want, "The scale", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def same_snr(answer: Any) -> None:
    """same_snr(alpha_bar (T,), std) -> (T,): ᾱ' for codes of this std, with the signal over noise of ᾱ for std 1.

    Looked at by bisection in ᾱ'.
    """
    for low, high in ((0.05, 0.6), (2.0, 7.0)):
        std, alpha_bar = between(low, high).item(), torch.cumprod(1 - between(0.02, 0.4, 8), 0)
        got = numbers(answer(alpha_bar, std), (8,), "ᾱ'")

        def solved(ratio: Tensor) -> Tensor:
            least, most = torch.zeros(8), torch.ones(8)
            for _ in range(60):
                half = (least + most) / 2
                over = half > ratio * (1 - half)
                least, most = torch.where(over, least, half), torch.where(over, half, most)
            return (least + most) / 2

        snr = alpha_bar / (1 - alpha_bar)
        hints = {"It is the table for codes that are 1/σ̂ wide: which way does the ratio go?": solved(snr * std**2),
                 "Signal over noise is a ratio of variances: the codes' variance is σ̂².": solved(snr / std),
                 "That is ᾱ/σ̂²: the noise changes along with the signal.": alpha_bar / std**2}  # fmt: skip
        agree(got, solved(snr / std**2), "The new table", tolerance=1e-6, hints=hints)


@exercise(points=2, stars=2, kind="code")
def attend(answer: Any) -> None:
    """attend(q (B, N, d), k (B, M, d), v (B, M, e), keep (B, M)) -> (B, N, e): attention to the kept tokens only.

    Looked at by giving each caption its true tokens alone, one query at a time.
    """
    batch, places, tokens, dim, width = 3, 4, 5, 6, 2
    q, k, v = torch.randn(batch, places, dim), torch.randn(batch, tokens, dim), torch.randn(batch, tokens, width)
    keep = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1]])
    k, v = k + 3 * (1 - keep[..., None]), v + 5 * (1 - keep[..., None])  # what is filled in is nothing like zero
    got = numbers(answer(q, k, v, keep), (batch, places, width), "the answer")

    def each(factor: float, rows: Tensor) -> Tensor:
        out = torch.zeros(batch, places, width)
        for b in range(batch):
            kept = rows[b].nonzero()[:, 0]
            for n in range(places):
                scores = torch.stack([(q[b, n] * k[b, m]).sum() * factor for m in kept])
                weights = torch.exp(scores - scores.max())
                out[b, n] = (weights[:, None] * v[b, kept]).sum(0) / weights.sum()
        return out

    root = dim**-0.5
    hints = {"Filling tokens have weight.": each(root, torch.ones_like(keep)),
             "The scores must be divided by √d.": each(1.0, keep),
             "The scores are divided by d, not by its root.": each(1 / dim, keep)}  # fmt: skip
    agree(got, each(root, keep), "The answer of attention", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def tilted(answer: Any) -> None:
    """tilted(s, m_c, v_c, m_u, v_u) -> (mean, variance, largest scale) of p(x|c)^s p(x)^{1−s} on the line.

    Looked at through moments of the density on a grid; the largest scale by looking where its tails grow.
    """
    for wider in (True, False, True):
        m_c, m_u = (torch.randn(2)).tolist()
        v_u = between(0.5, 2.0).item()
        v_c = v_u * (between(1.3, 3.0) if wider else between(0.2, 0.8)).item()
        limit = 1 / (1 - v_u / v_c) if wider else math.inf
        s = between(0.3, 0.8).item() * limit if wider else between(1.5, 5.0).item()
        triple = answer(s, m_c, v_c, m_u, v_u)
        hold(isinstance(triple, (tuple, list)) and len(triple) == 3, "Return three numbers: mean, variance, scale.")
        span = 40 * (s / v_c + (1 - s) / v_u) ** -0.5 + 40 * (abs(m_c) + abs(m_u))
        x = torch.linspace(-span, span, 400_001)
        log = -s * (x - m_c) ** 2 / (2 * v_c) - (1 - s) * (x - m_u) ** 2 / (2 * v_u)
        mass = torch.softmax(log, 0)
        mean = (mass * x).sum()
        variance = (mass * (x - mean) ** 2).sum()
        got = numbers(triple[:2], (2,), "mean and variance")
        where = f"for s = {s:.3f}, N({m_c:.3f}, {v_c:.3f}) and N({m_u:.3f}, {v_u:.3f})"
        hints = {"That is the standard deviation.": variance.sqrt(), "That is the precision.": 1 / variance,
                 "Precisions are weighted and added, not variances.":
                     torch.tensor(s * v_c + (1 - s) * v_u, dtype=torch.float64)}  # fmt: skip
        agree(got[1], variance, f"The variance {where}", tolerance=1e-6, hints=hints)
        hints = {"Means are weighted by precisions as well as by s.":
                     torch.tensor(s * m_c + (1 - s) * m_u, dtype=torch.float64)}  # fmt: skip
        agree(got[0], mean, f"The mean {where}", tolerance=1e-6, hints=hints)
        largest = infinite(triple[2])
        if not wider:
            hold(largest == math.inf, "For a condition narrower than the whole every scale has its law: infinity.")
            continue
        hold(largest < math.inf, "For a condition wider than the whole there is a largest scale.")
        low, high = 1.0, 1e3
        for _ in range(80):
            half = (low + high) / 2
            low, high = (half, high) if half / v_c + (1 - half) / v_u > 0 else (low, half)
        agree(torch.tensor(largest, dtype=torch.float64), torch.tensor(low, dtype=torch.float64), "The largest scale",
              hints={"It is w, not s = 1 + w.": torch.tensor(low - 1, dtype=torch.float64)})  # fmt: skip


def infinite(value: Any) -> float:
    """A number that may be infinite."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(f"The largest scale is a {type(value).__name__} where one number is due.") from error


@exercise(points=3, stars=3, kind="derive")
def shrink(answer: Any) -> None:
    """shrink(s, v_c, v_u, w) -> (): distance of two walkers at noise 0 over that at noise variance w, guided flow.

    Looked at by walking two points down with a fourth-order solver, about arbitrary means.
    """
    for _ in range(4):
        s, w = between(0.0, 4.0).item(), between(0.5, 20.0).item()
        v_c, v_u = between(0.2, 1.0).item(), between(0.8, 2.0).item()
        m_c, m_u = torch.randn(2).tolist()
        got = numbers(answer(s, v_c, v_u, w), (), "the factor")

        def field(x: Tensor, w: float, s: float = s, law: tuple[float, ...] = (m_c, v_c, m_u, v_u)) -> Tensor:
            m_c, v_c, m_u, v_u = law
            return (s * (x - m_c) / (v_c + w) + (1 - s) * (x - m_u) / (v_u + w)) / 2

        edges = torch.expm1(torch.linspace(math.log1p(w / 0.05), 0, 801)) * 0.05
        x = torch.tensor([-1.0, 2.0])
        for now, then in zip(edges[:-1].tolist(), edges[1:].tolist()):
            step = then - now
            a = field(x, now)
            b = field(x + step / 2 * a, now + step / 2)
            c = field(x + step / 2 * b, now + step / 2)
            x = x + step / 6 * (a + 2 * b + 2 * c + field(x + step * c, then))
        want = x.diff()[0] / 3
        alone = torch.tensor((v_c / (v_c + w)) ** 0.5)
        hints = {"It is the square: a ratio of variances.": want**2, "It is upside down.": 1 / want,
                 "That is the factor at s = 1, whatever s is.": alone,
                 "That is the end's standard deviation, which is the factor only if the walk begins at w = ∞.":
                     torch.tensor(v_c ** (s / 2) * v_u ** ((1 - s) / 2))}  # fmt: skip
        agree(got, want, f"The factor for s = {s:.3f}", tolerance=1e-6, hints=hints)


@exercise(points=3, stars=3, kind="diagnose")
def repaired(answer: Any) -> None:
    """repaired(noise, decode, z (B, D), y, null, s, alpha_bar (T + 1,), std) -> (B, D): guided DDIM, and decoding.

    For a network that knows the points it goes to the law is known: every walker ends at std times the guided point.
    And for a linear network all steps are carried along by hand.
    """
    for steps in (1, 3):
        alpha_bar = torch.cat([torch.ones(1), torch.cumprod(1 - between(0.1, 0.6, steps), 0)])
        std, s = between(1.5, 4.0).item(), between(1.5, 4.0).item()
        y, null, start = torch.randn(5, 2), torch.randn(5, 2), torch.randn(5, 2)
        slopes, weights = torch.randn(steps + 1), torch.randn(steps + 1)
        asked: list[int] = []

        def noise(
            z: Tensor, i: int, y: Tensor, slopes: Tensor = slopes, weights: Tensor = weights, asked: list[int] = asked
        ) -> Tensor:
            asked.append(int(i))
            hold(1 <= asked[-1] < len(slopes), f"The network is asked about step {asked[-1]}: steps are 1..T.")
            return slopes[int(i)] * z + weights[int(i)] * y

        got = numbers(answer(noise, lambda z: 3 * z + 1, start, y, null, s, alpha_bar, std), (5, 2), "the pictures")
        hold(sorted(asked, reverse=True) == asked, "The walk goes from step T down to step 1.")

        walk = partial(guided_walk, noise, start, y, null, alpha_bar)

        def walked(told: float, untold: float, out: float = std, walk: Any = walk) -> Tensor:
            return 3 * out * walk(told, untold) + 1

        hints = {"The scale is still divided by, where the codes were divided already.": walked(s, 1 - s, 1 / std),
                 "The scale is left out.": walked(s, 1 - s, 1.0),
                 "At s = 1 it is not the conditional walk.": walked(1 + s, -s),
                 "Nothing is repaired yet.": walked(1 + s, -s, 1 / std),
                 "At s = 0 the condition is not left out.": walked(1.0, 0.0),
                 "Guidance goes the wrong way.": walked(1 - s, s)}  # fmt: skip
        hold(len(asked) >= 2 * steps, "Both answers of the network, with the condition and without, are needed.")
        agree(got, walked(s, 1 - s), f"What comes out with T = {steps}", hints=hints)


def guided_walk(
    noise: Any, z: Tensor, y: Tensor, null: Tensor, alpha_bar: Tensor, told: float, untold: float
) -> Tensor:
    """The deterministic walk from z at step T, with told · ε_c + untold · ε_u as the noise: (B, D) -> (B, D)."""
    for i in range(len(alpha_bar) - 1, 0, -1):
        eps = told * noise(z, i, y) + untold * noise(z, i, null)
        now, then = alpha_bar[i], alpha_bar[i - 1]
        z = (then / now).sqrt() * z + ((1 - then).sqrt() - (then * (1 - now) / now).sqrt()) * eps
    return z


def sheet(n: int) -> Tensor:
    """n points of a bent sheet in R^8, float32: two degrees of freedom, (n, 8)."""
    u, v = (2 * torch.rand(2, n, dtype=torch.float32) - 1).unbind(0)
    bent = torch.stack([u, v, u**2 - v**2, u * v, torch.sin(2.5 * u), torch.cos(2.5 * v), u**3, torch.tanh(2 * v)], 1)
    return bent * torch.tensor([1.0, 1.0, 1.0, 1.5, 0.8, 0.8, 0.7, 0.7])


@exercise(points=3, stars=3, kind="experiment")
def rebuild(answer: Any) -> None:
    """rebuild = (encode, decode): encode(x (B, 8)) -> (B, 2), decode(z (B, 2)) -> (B, 8), for points of `sheet`.

    The squared error on fresh points must be at most 2 % of the data's variance. The codes are shuffled in between.
    """
    hold(isinstance(answer, (tuple, list)) and len(answer) == 2, "The answer is a pair of functions (encode, decode).")
    encode, decode = answer
    hold(callable(encode) and callable(decode), "The answer is a pair of functions (encode, decode).")
    count = 4000
    x, order = sheet(count), torch.randperm(count)
    z = samples(encode(x), (count, 2), "The code").detach().to(x.dtype)
    back = samples(decode(z[order]), (count, 8), "What is read back").detach()
    error = (back - x[order]).square().sum(1).mean() / x.var(0).sum()
    if error <= 0.02:
        return learned(error, 1e-7)
    undone = (back - x).square().sum(1).mean() / x.var(0).sum()
    hold(undone > 0.02, "The decoder gives back what the encoder saw last, whatever code it is given.")
    hold(not close(z[:, :1], z[:, 1:]), "Both numbers of the code are the same.")
    plane = torch.linalg.eigvalsh(torch.cov(x.double().T))[:-2].sum() / x.var(0).sum()
    word = "no better than a plane" if error > 0.9 * plane else "better than a plane"
    raise Wrong(f"The error is {100 * error:.1f} % of the variance, {word}; at most 2 % are allowed.")
