"""Checks of the exercises of chapter 01, the variational autoencoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gmbook.course.draws import mean_is, normal_is
from gmbook.course.kit import Wrong, agree, between, exercise, gradient, hold, numbers, samples


def covariance(dimension: int) -> Tensor:
    """A random covariance with correlations: (D, D)."""
    root = torch.randn(dimension, dimension)
    return root @ root.T + 0.2 * torch.eye(dimension)


def rate_by_quadrature(mean: Tensor, std: Tensor) -> Tensor:
    """∫ q log(q/p) dz for q = N(mean, std²), p = N(0, 1), each (B, d), summed over d: (B,)."""
    u = torch.linspace(-12, 12, 1201)
    mass = (-0.5 * u**2).exp() * (u[1] - u[0]) / math.sqrt(2 * math.pi)
    z = mean[..., None] + std[..., None] * u
    return ((0.5 * z**2 - 0.5 * u**2 - std.log()[..., None]) @ mass).sum(-1)


@exercise(points=1, stars=1, kind="derive")
def rate(answer: Any) -> None:
    """rate(mean (B, d), log_variance (B, d)) -> (B,): KL(N(mean, diag σ²) ‖ N(0, I)) in nats. By quadrature."""
    for dimension in (1, 3):
        mean, log_variance = torch.randn(2, 4, dimension)
        got = numbers(answer(mean, log_variance), (4,), "the rate")
        want = rate_by_quadrature(mean, (0.5 * log_variance).exp())
        hints = {"The argument is the log of the variance; it is taken for the log of the standard deviation.":
                 rate_by_quadrature(mean, log_variance.exp()),
                 "It is the mean over the units of the code where their sum is due.": want / dimension}  # fmt: skip
        agree(got, want, f"The rate for d = {dimension}", hints=hints)


@exercise(points=1, stars=1, kind="code")
def best_nats(answer: Any) -> None:
    """best_nats(x (N, *S), f (N, *S)) -> (): −log p(x | z), nats per example, for a Gaussian with the best σ².

    One σ² for all data and dimensions. Looked at by searching σ² for the least.
    """
    for shape in ((7, 1), (6, 2, 3), (5, 4)):
        f = torch.randn(shape)
        x = f + between(0.2, 2.5) * torch.randn(shape) + 0.3

        def nats(log_variance: float, x: Tensor = x, f: Tensor = f) -> Tensor:
            return -torch.distributions.Normal(f, math.exp(0.5 * log_variance)).log_prob(x).sum() / len(x)

        low, high = -12.0, 8.0
        for _ in range(60):  # thirds: the function falls, then rises
            left, right = low + (high - low) / 3, high - (high - low) / 3
            low, high = (low, right) if nats(left) < nats(right) else (left, high)
        want = nats((low + high) / 2)
        hints = {"That is the mean over dimensions as well: sum over them.": want / x[0].numel(),
                 "That is the sum over the data: nats per example are due.": want * len(x),
                 "That is for σ = 1: with the best σ² it is less.": nats(0.0),
                 "That is the best variance, not the nats.": torch.tensor(math.exp((low + high) / 2))}  # fmt: skip
        agree(numbers(answer(x, f), (), "the answer"), want, f"The answer for x of shape {shape}", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def best_guess(answer: Any) -> None:
    """best_guess(W (D, d), b (D,), variance, x (D,)) -> (mean (d,), std (d,)): the q that maximises the bound.

    Among all with independent coordinates, for x = Wz + b + σε. Looked at through the joint covariance of (z, x).
    """
    for dimension in (1, 2, 3):
        W, b, x, variance = torch.randn(4, dimension), torch.randn(4), torch.randn(4), between(0.3, 1.5).item()
        inside = W @ W.T + variance * torch.eye(4)
        joint = torch.cat([torch.cat([torch.eye(dimension), W.T], 1), torch.cat([W, inside], 1)])
        precision = torch.linalg.inv(joint)[:dimension, :dimension]  # of z, when x is known
        mean, std = W.T @ torch.linalg.solve(inside, x - b), precision.diagonal().rsqrt()
        got = numbers(answer(W, b, variance, x), (2, dimension), "the answer (mean, std)")
        agree(got[0], mean, f"The mean for d = {dimension}")
        hints = {"These are the spreads of the posterior's coordinates. A guess without correlations does better.":
                 torch.linalg.inv(precision).diagonal().sqrt(),
                 "It looks like the variance.": std**2}  # fmt: skip
        agree(got[1], std, f"The standard deviation for d = {dimension}", hints=hints)


@exercise(points=3, stars=3, kind="code")
def score_gradient(answer: Any) -> None:
    """score_gradient(values (n, k), eps (n, k, d), std (d,)) -> two (n, d): for the mean and for the std.

    n estimates of the gradient of E f(z), each from the values of f at k draws z = mean + std ⊙ eps, with a baseline
    that leaves the estimate without bias. Looked at for a quadratic f, whose expectation is known.
    """
    for k in (2, 4):
        n, d = 20_000, 2
        mean, std, bend = torch.randn(d), between(0.65, 0.85, d), 3 * torch.eye(d) + 0.3 * covariance(d)
        slope = (1.5 + torch.rand(d)) * torch.tensor([1.0, -1.0])  # of E f, in the mean
        eps = torch.randn(n, k, d)
        z = mean + std * eps
        values = z @ (slope - bend @ mean) + 0.5 * ((z @ bend) * z).sum(-1)
        known = slope @ mean - 0.5 * mean @ bend @ mean + 0.5 * (bend.diagonal() * std**2).sum()  # E f
        off = (values - known)[..., None] / std  # with the best constant for a baseline: a scale for the estimates
        noise = torch.stack([(off * eps).mean(1), (off * (eps.square() - 1)).mean(1)]).std(1)  # (2, d)
        got = numbers(answer(values, eps, std), (2, n, d), "the answer (gradient for the mean, for the std)")
        raised = numbers(answer(values + 7.0, eps, std), (2, n, d), "the answer")
        hint = "With 7 added to every value of f the estimates change: the noise of a constant is not removed."
        hold((got - raised).abs().max() < 1e-6 * noise.max(), hint)
        half = torch.randperm(n)[: n // 2]
        few = numbers(answer(values[half], eps[half], std), (2, n // 2, d), "the answer for half of the estimates")
        hint = "An estimate depends on the draws of the other estimates: each has its own k draws only."
        hold((few - got[:, half]).abs().max() < 1e-6 * noise.max(), hint)
        hint = "The estimates scatter much more than with any sensible baseline."
        hold(
            (got.square().mean(1).sqrt() < 4 * noise + 4 * torch.stack([slope, bend.diagonal() * std]).abs()).all(),
            hint,
        )
        targets = ((got[0], slope, "mean", noise[0]), (got[1], bend.diagonal() * std, "std", noise[1]))
        for part, want, name, scatter in targets:
            share = ((part.mean(0) * want).sum() / want.square().sum()).item()
            hint = f"With k = {k} draws the estimates are too small by 1/k: a value must not be in its own baseline."
            hold(abs(share - (1 - 1 / k)) > 0.03, hint)
            mean_is(
                part,
                want,
                f"The gradient for the {name}, with k = {k} draws",
                std=part.detach().std(0).minimum(2 * scatter),
            )


class Linear:
    """A linear network with parameters that a gradient must reach, that remembers what it was given."""

    def __init__(self, inputs: int, shape: tuple[int, ...]):
        self.shape, outputs = shape, math.prod(shape)
        self.weights = (torch.randn(inputs, outputs) / math.sqrt(inputs)).requires_grad_()
        self.bias = torch.randn(outputs).requires_grad_()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Its outputs (B, *shape) for inputs (B, …)."""
        if inputs[0].numel() != len(self.weights):
            raise Wrong(f"A network is given {tuple(inputs.shape)}: encoder(x) and decoder(z) are the calls.")
        return (inputs.flatten(1) @ self.weights + self.bias).reshape(-1, *self.shape)


@exercise(points=3, stars=2, kind="diagnose")
def loss(answer: Any) -> None:
    """loss(encoder, decoder, x (B, *S), eps (B, d)) -> (): −ELBO, nats per example, of a Bernoulli decoder.

    encoder(x) is (B, 2d): mean, then log-variance; decoder(z) are logits (B, *S). By masses, quadrature and autograd.
    """
    batch, d, shape = 5, 2, (1, 3, 2)
    x, eps = (torch.rand(batch, *shape) < 0.4).double(), torch.randn(batch, d)
    encoder, decoder = Linear(6, (2 * d,)), Linear(d, shape)

    def parts(factor: float) -> tuple[Tensor, Tensor]:
        """Distortion and rate, for a std of exp(factor · log-variance)."""
        mean, log_variance = encoder(x).split(d, 1)
        std = (factor * log_variance).exp()
        ones = torch.sigmoid(decoder(mean + std * eps))
        masses = torch.where(x > 0.5, ones, 1 - ones)
        return -masses.log().sum() / batch, rate_by_quadrature(mean, std).mean()

    def blind(z: Tensor) -> Tensor:
        return torch.zeros(len(z), *shape)

    _, nats = parts(0.5)
    got, coin = numbers(answer(encoder, blind, x, eps), (), "the loss"), 6 * math.log(2)
    where = "With a decoder that always says one half, the loss"
    hints = {"The pixels are averaged where their sum is due.": coin / 6 + nats,
             "The rate has the wrong sign.": coin - nats,
             "The units of the code are averaged where their sum is due.": coin + nats / d,
             "The rate is summed over the batch.": coin + nats * batch,
             "The sign of the rate and the mean over pixels are still there.": coin / 6 - nats,
             "The whole has the wrong sign: it is the bound, not the loss.": -coin - nats}  # fmt: skip
    agree(got, coin + nats, where, hints=hints)
    (distortion, nats), (wide, _) = parts(0.5), parts(1.0)
    got = numbers(answer(encoder, decoder, x, eps), (), "the loss")
    hints = {"The draw z takes the log-variance for the log of the standard deviation.": wide + nats}
    agree(got, distortion + nats, "The loss", hints=hints)
    for name, network in (("encoder", encoder), ("decoder", decoder)):
        what = f"the {name}'s parameters"
        want = gradient(distortion + nats, network.weights, what)
        agree(gradient(got, network.weights, what), want, f"The loss is right, but the gradient for {what}")


@exercise(points=2, stars=2, kind="derive")
def beta_for(answer: Any) -> None:
    """beta_for(eigenvalues (D,), variance, nats) -> (): the β at which the best linear VAE has this total rate.

    The eigenvalues of the data's covariance come in any order. Looked at by the rates of that VAE's own encoder.
    """

    def total(values: Tensor, level: Tensor) -> Tensor:
        alive = values[values > level]
        left = level / alive  # the variance of q; its mean has the variance 1 − left over the data
        return 0.5 * ((1 - left) + left - 1 - left.log()).sum()

    for place, nats in enumerate((0.15, 0.15, 1.0, 3.0, 12.0)):
        values, variance = (torch.linspace(-1, 1.5, 5) + between(0, 0.3, 5)).exp(), between(0.2, 0.8).item()
        values = values if place == 0 else values.flip(0) if place == 1 else values[torch.randperm(5)]
        low, high = values.min() * math.exp(-2 * nats - 1), values.max()
        for _ in range(80):
            middle = (low * high).sqrt()
            low, high = (middle, high) if total(values, middle) > nats else (low, middle)
        got = numbers(answer(values, variance, nats), (), "β")
        hold(got > 0, f"For {nats} nats, β is not positive.")
        hints = {"It is βσ²: divide by the decoder's variance.": low,
                 "It is divided by σ, not by σ².": low / math.sqrt(variance),
                 "Units that are dead are taken to be alive.": ((values.log().sum() - 2 * nats) / 5).exp() / variance,
                 "It is its inverse.": variance / low}  # fmt: skip
        agree(got, low / variance, f"β for {nats} nats", tolerance=1e-6, hints=hints)


@exercise(points=2, stars=2, kind="derive")
def surgery(answer: Any) -> None:
    """surgery(A (d, D), std (d,), covariance (D, D)) -> (information, waste), nats: the two parts of the mean rate.

    For data N(0, covariance) and the encoder N(Ax, diag std²). Looked at through the joint covariance of (x, z).
    """
    for d, D in ((1, 3), (2, 3), (3, 4)):
        A, std, C = 0.6 * torch.randn(d, D), between(0.2, 0.9, d), covariance(D)
        codes = A @ C @ A.T + torch.diag(std**2)
        joint = torch.cat([torch.cat([C, C @ A.T], 1), torch.cat([A @ C, codes], 1)])
        information = 0.5 * (torch.logdet(C) + torch.logdet(codes) - torch.logdet(joint))
        mean_rate = 0.5 * (codes.diagonal() - 1 - 2 * std.log()).sum()
        got = numbers(answer(A, std, C), (2,), "the answer (information, waste)")
        hints = {"It is the whole rate.": mean_rate, "That is the waste.": mean_rate - information}
        agree(got[0], information, f"The information for d = {d}", hints=hints)
        agree(got[1], mean_rate - information, f"The waste for d = {d}", hints={"It is the whole rate.": mean_rate})


class Joint:
    """log p(x, z) − 3000 for x = z + N(0, s²) in each coordinate, and what it was asked about."""

    def __init__(self, x: Tensor, s: float):
        self.x, self.s, self.calls = x, s, list[Tensor]()

    def __call__(self, z: Tensor) -> Tensor:
        """(k, B) for z (k, B, d)."""
        if z.ndim != 3 or z.shape[1:] != self.x.shape:
            raise Wrong(f"log_joint is given {tuple(z.shape)} where (k, B, d) is due.")
        self.calls.append(z)
        return self.value(z)

    def value(self, z: Tensor) -> Tensor:
        """The same, unrecorded."""
        squares = z.square() + ((self.x - z) / self.s).square()
        return (-0.5 * squares - math.log(2 * math.pi * self.s)).sum(-1) - 3000


@exercise(points=3, stars=3, kind="diagnose")
def many_draws(answer: Any) -> None:
    """many_draws(log_joint, mean (B, d), std (B, d), k) -> (B,): log of the mean weight of k draws from q.

    log_joint(z (k, B, d)) is log p(x, z), (k, B). Looked at with the true posterior, and by the draws that it is asked
    about: their law, the weights made from them, and the gradient.
    """
    s = between(0.5, 1.5).item()
    joint = Joint(2 * torch.randn(4, 2), s)
    mean, std = joint.x / (1 + s**2), torch.full((4, 2), s / math.sqrt(1 + s**2))
    evidence = (-0.5 * joint.x**2 / (1 + s**2) - 0.5 * math.log(2 * math.pi * (1 + s**2))).sum(-1)
    for k in (1, 4):
        got = numbers(answer(joint, mean, std, k), (4,), "the bound")
        hints = {"It is too large by log k.": evidence + math.log(k)}
        where = f"With the posterior for a guess every weight is p(x). For k = {k} the bound"
        agree(got + 3000, evidence, where, tolerance=1e-6, hints=hints)
    batch, k = 8000, 3
    joint = Joint(torch.randn(batch, 2), s)
    mean, std = torch.randn(batch, 2).requires_grad_(), between(0.3, 0.8, batch, 2).requires_grad_()
    got = numbers(answer(joint, mean, std, k), (batch,), "the bound")
    hold(len(joint.calls) == 1, f"One call of log_joint is enough, for all k draws; yours makes {len(joint.calls)}.")
    z = joint.calls[0].detach()
    hold(len(z) == k, f"log_joint is asked about {len(z)} draws where k = {k} are due.")
    eps = (z - mean.detach()) / std.detach()
    hold((eps[0] - eps[1]).abs().max() > 1e-9, "All k draws are the same: then k draws are worth no more than one.")
    flat = eps.transpose(0, 1).flatten(1)
    normal_is(flat, 0.0, 1.0, "The draws, less the guess's mean, over its std")
    moved = mean + std * eps
    log_q = (-0.5 * eps.square() - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    log_w = joint.value(moved) - log_q
    top = log_w.detach().max(0).values
    want = ((log_w - top).exp().sum(0) / k).log() + top
    agree(got + 3000, want + 3000, "The bound", hints={"It is the mean of the logarithms.": log_w.mean(0) + 3000})
    for name, inputs in (("mean", mean), ("std", std)):
        what = f"the guess's {name}"
        due = gradient(want.sum(), inputs, what)
        agree(gradient(got.sum(), inputs, what), due, f"The bound is right, but the gradient for {what}")


@exercise(points=2, stars=3, kind="derive")
def weight_variance(answer: Any) -> None:
    """weight_variance(mean, std, posterior_mean, posterior_std), each (d,) -> (): Var_q[w]/p(x)², or math.inf.

    For a guess and a posterior with independent coordinates. Looked at by quadrature.
    """
    for d in (1, 2, 3):
        a, b = torch.randn(d), between(0.5, 2.0, d)
        m, s = a + 0.5 * b * torch.randn(d), b * between(0.85, 1.5, d)
        z = a[:, None] + b[:, None] * torch.linspace(-30, 30, 6001)
        log_p, log_q = (-0.5 * ((z - c[:, None]) / v[:, None]) ** 2 - v[:, None].log() for c, v in ((a, b), (m, s)))
        second = ((2 * log_p - log_q).exp().sum(1) * 0.01 * b / math.sqrt(2 * math.pi)).prod()
        got = numbers(answer(m, s, a, b), (), "the variance")
        hints = {"It is the mean of w²/p²: subtract the square of the mean.": second,
                 "It is the standard deviation.": (second - 1).sqrt()}  # fmt: skip
        agree(got, second - 1, f"The variance for d = {d}", tolerance=1e-6, hints=hints)
    s[1] = between(0.3, 0.69) * b[1]
    hint = "One coordinate's guess has less than half of the posterior's variance: no finite number is right."
    hold(number(answer(m, s, a, b)) == math.inf, hint)
    s[1] = between(0.72, 0.8) * b[1]
    hint = "A coordinate's guess with a little more than half of the posterior's variance: still finite."
    hold(math.isfinite(number(answer(m, s, a, b))), hint)


def number(value: Any) -> float:
    """A number that may be infinite."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(f"The variance is a {type(value).__name__} where one number is due.") from error


@exercise(points=3, stars=2, kind="experiment")
def on_the_curve(answer: Any) -> None:
    """on_the_curve = (encode, decode): encode(x (B, 5)) -> (mean, std), each (B, 5); decode(z (B, 5)) -> (B, 5).

    Data N(0, C) with C_ij = 0.8^|i−j|. The mean rate must be 2 nats within 0.1, and the mean squared error at most
    5 % above the least at that rate, which Shannon's reverse water-filling gives.
    """
    hold(isinstance(answer, (tuple, list)) and len(answer) == 2, "The answer is a pair of functions (encode, decode).")
    encode, decode = answer
    hold(callable(encode) and callable(decode), "The answer is a pair of functions (encode, decode).")
    place, count = torch.arange(5.0), 20_000
    C = 0.8 ** (place[:, None] - place).abs()
    x = torch.randn(count, 5) @ torch.linalg.cholesky(C).T
    pair = encode(x)
    hold(isinstance(pair, (tuple, list)) and len(pair) == 2, "encode(x) must return a pair (mean, std).")
    mean, std = (samples(v, (count, 5), f"The {name}") for v, name in zip(pair, ("mean", "std")))
    hold((std > 0).all(), "A std is not positive: is it a log-variance?")
    nats = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).sum(1).mean().item()
    order = torch.randperm(count)  # so that all that is known of a point is its code
    z = (mean + std * torch.randn(count, 5)).to(x.dtype)[order]
    error = (samples(decode(z), (count, 5), "The decoded x") - x[order]).square().sum(1).mean().item()
    hold(nats > 1.9, f"The rate is {nats:.2f} nats, below 1.9.")
    hold(nats < 2.1, f"The rate is {nats:.2f} nats, above 2.1.")
    values = torch.linalg.eigvalsh(C.double())
    low, high = 1e-6, values.max().item()
    for _ in range(60):
        level = math.sqrt(low * high)
        spent = 0.5 * (values / level).log().clamp(min=0).sum().item()
        low, high = (level, high) if spent > nats else (low, level)
    least = values.clamp(max=low).sum().item()
    excess = 100 * (error / least - 1)
    hold(excess < 5, f"At {nats:.2f} nats the squared error can be {least:.3f}; yours is {excess:.0f} % above it.")
