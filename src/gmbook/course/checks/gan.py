"""Checks of the exercises of chapter 02, generative adversarial nets."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gmbook.course.draws import learned
from gmbook.course.kit import Given, Wrong, agree, between, exercise, gradient, hold, numbers, samples


def normal(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The density of N(mean, std²) at x, like x."""
    return (-0.5 * ((x - mean) / std) ** 2).exp() / (std * math.sqrt(2 * math.pi))


@exercise(points=1, stars=1, kind="derive")
def lopsided(answer: Any) -> None:
    """lopsided(x (B,), share, data, model) -> (B,): the best logit where a batch holds this share of data, in 0..1.

    `data` and `model` are pairs (mean, std) of normals. Looked at through Bayes' rule for the densities.
    """
    for share in (0.5, 0.2 + 0.2 * torch.rand(()).item(), 0.6 + 0.3 * torch.rand(()).item()):
        x, data, model = torch.randn(6), (torch.randn(()), between(0.5, 2)), (torch.randn(()), between(0.5, 2))
        real, fake = share * normal(x, *data), (1 - share) * normal(x, *model)
        seen = real + fake
        want = (real / seen).log() - (fake / seen).log()
        got = numbers(answer(x, share, data, model), (6,), "the logit")
        hints = {"It is the probability, not its logit.": want.sigmoid(),
                 "The share is not in it.": want - math.log(share / (1 - share))}  # fmt: skip
        agree(got, want, f"the logit with a share of {share:.2f}", hints=hints)


def best(real: Tensor, fake: Tensor) -> Tensor:
    """max over ℓ of real log σ(ℓ) + fake log(1 − σ(ℓ)), atom by atom, found by a search: like both."""
    worth = lambda logit: -real * torch.nn.functional.softplus(-logit) - fake * torch.nn.functional.softplus(logit)  # noqa: E731
    low, high = torch.full_like(real, -60.0), torch.full_like(real, 60.0)
    for _ in range(120):
        third = (high - low) / 3
        left = worth(low + third) < worth(high - third)
        low, high = torch.where(left, low + third, low), torch.where(left, high, high - third)
    return worth((low + high) / 2)


@exercise(points=2, stars=2, kind="derive")
def worth(answer: Any) -> None:
    """worth(p (K,), q (K,), share) -> (): the value of the game on K atoms under the best discriminator.

    It is share · E_p log D + (1 − share) · E_q log(1 − D). Looked at by searching for the best D, atom by atom.
    """
    for case in range(4):
        share = 0.5 if case == 0 else 0.15 + 0.7 * torch.rand(()).item()
        p, q = torch.softmax(torch.randn(5), 0), torch.softmax(torch.randn(5), 0)
        if case == 2:
            p = p * torch.tensor([0.0, 1, 1, 1, 1]) / p[1:].sum()
        if case == 3:
            p, q = torch.tensor([0.3, 0.7, 0.0, 0, 0]), torch.tensor([0.0, 0, 0.2, 0.3, 0.5])
        where = ("the value at a share of one half", "the value", "the value where an atom has p = 0",
                 "the value for laws without a common atom")[case]  # fmt: skip
        want = best(share * p, (1 - share) * q).sum()
        got = numbers(answer(p, q, share), (), where)
        if case == 3:
            hold(abs(got) < 1e-9, f"{where} should be 0: the best discriminator makes no mistake.")
        else:
            agree(got, want, where, tolerance=1e-6)


class Line:
    """ℓ(x) = x·w + b with weights that a gradient may reach; it counts its calls."""

    def __init__(self, scale: float):
        self.weights = (scale * torch.randn(3)).requires_grad_()
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B,) of x (B, 2)."""
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != 2:
            raise Wrong("The discriminator is given points (B, 2).")
        self.calls += 1
        return x @ self.weights[:2] + self.weights[2]


def minus_log_sigmoid(logit: Tensor) -> Tensor:
    """−log σ(ℓ), like ℓ, for any ℓ."""
    return torch.logaddexp(torch.zeros_like(logit), -logit)


@exercise(points=3, stars=2, kind="code")
def losses(answer: Any) -> None:
    """losses(generator, discriminator, x (B, 2), z (B, 2)) -> (L_D, L_G) of the non-saturating game.

    Looked at with a linear generator and a linear discriminator: values, gradients, and logits of some thousands.
    """
    for scale in (1.0, 2000.0):
        shift, net, x, z = torch.randn(2, requires_grad=True), Line(scale), torch.randn(7, 2) + 1, torch.randn(7, 2)

        def generator(z: Tensor, shift: Tensor = shift) -> Tensor:
            return 1.5 * z + shift

        value = answer(generator, net, x, z)
        hold(isinstance(value, (tuple, list)) and len(value) == 2, "Two losses are due: (L_D, L_G).")
        where = "" if scale == 1 else " at logits of some thousands"
        loss_d, loss_g = (numbers(v, (), f"{name}{where}") for v, name in zip(value, ("L_D", "L_G")))
        real, fake = net(x), net(generator(z))
        want_d, want_g = (minus_log_sigmoid(real) + minus_log_sigmoid(-fake)).mean(), minus_log_sigmoid(fake).mean()
        agree(loss_d, want_d, f"L_D{where}", hints={"It is half of it: a sum of two means is due.": want_d / 2,
              "It is minus that: both players minimise.": -want_d,
              "Real and fake are swapped.": (minus_log_sigmoid(-real) + minus_log_sigmoid(fake)).mean()})  # fmt: skip
        agree(loss_g, want_g, f"L_G{where}", hints={"It is the saturating one.": -minus_log_sigmoid(-fake).mean()})
        agree(gradient(loss_d, net.weights, "the discriminator"), gradient(want_d, net.weights, "it"), "D's gradient")
        agree(gradient(loss_g, shift, "the generator"), gradient(want_g, shift, "it"), "G's gradient")
        (moved,) = torch.autograd.grad(loss_d, shift, allow_unused=True, retain_graph=True)
        hold(moved is None or not bool(moved.any()), "L_D moves the generator too: its samples are constants for D.")


@exercise(points=2, stars=2, kind="code")
def reweighted(answer: Any) -> None:
    """reweighted(logits (N,), values (N,)) -> (): E_data of a function, from its values at N samples of the generator.

    Looked at where the generator's law is uniform on N atoms and each is drawn once, so that the sum is exact.
    """
    for shift in (0.0, 1.7, 900.0, -900.0):
        data, values = torch.softmax(1.5 * torch.randn(9), 0), torch.randn(9) + 2
        logits = (data * 9).log() + shift  # of a discriminator that is right up to a constant
        got = numbers(answer(logits, values), (), f"the mean with all logits shifted by {shift:g}")
        wrong = {"The weights are the probabilities D, not the ratio of the densities.":
                 (logits.sigmoid() * values).sum() / logits.sigmoid().sum().clamp(min=1e-300),
                 "The weights are turned round.": (values / data).sum() / (1 / data).sum(),
                 "It is the plain mean.": values.mean()}  # fmt: skip
        agree(got, (data * values).sum(), f"the mean with all logits shifted by {shift:g}", hints=wrong)


@exercise(points=2, stars=2, kind="code")
def transport(answer: Any) -> None:
    """transport(x (N,), y (M,)) -> (): W1 between two sets of points on the line, N and M may differ.

    Looked at through quantiles, with each point as often as makes the numbers equal.
    """
    for n, m, falling in ((4, 4, False), (6, 3, True), (3, 5, False), (1, 4, False)):  # told in the worst plan's order
        x = between(-2, 2, n).sort(descending=falling).values
        y = torch.cat([between(-3, -2.5, 1), between(-3, 3, m - 2), between(2.5, 4, 1)])  # some on either side of x
        y = y.sort(descending=not falling).values
        even = [torch.sort(points.repeat_interleave(math.lcm(n, m) // len(points))).values for points in (x, y)]
        want = (even[0] - even[1]).abs().mean()
        got = numbers(answer(x, y), (), f"W1 of {n} and {m} points")
        pairs = (x[:, None] - y).abs().mean()
        hints = {"It is W2.": (even[0] - even[1]).square().mean().sqrt(),
                 "It is the difference of the means.": (x.mean() - y.mean()).abs()}  # fmt: skip
        hints |= {"All pairs are in it, not the best plan.": pairs} if min(n, m) > 1 else {}
        agree(got, want, f"W1 of {n} and {m} points", hints=hints)


class Bowl(Given):
    """ℓ(x) = ½ x·A x + b·x for x (B, 2, 2), flattened; A is symmetric, so ∇ℓ = A x + b."""

    def __init__(self, matrix: Tensor, tilt: Tensor):
        super().__init__(matrix, tilt)
        self.matrix, self.tilt = matrix, tilt

    def __call__(self, x: Tensor) -> Tensor:
        """Scores (B,)."""
        flat = x.flatten(1)
        return 0.5 * ((flat @ self.matrix) * flat).sum(1) + flat @ self.tilt


@exercise(points=3, stars=2, kind="code")
def one_sided(answer: Any) -> None:
    """one_sided(critic, real (B, *S), fake (B, *S), u (B,)) -> (): E max(0, ‖∇ℓ(x̂)‖ − 1)², x̂ = (1 − u) real + u fake.

    Looked at with a quadratic critic, whose slope is linear.
    """
    for flat in (3, 5):  # of the 8 points, those whose slope is below 1
        half = torch.randn(4, 4)
        matrix, tilt = half + half.T, 2 * torch.randn(4)
        real, fake, u = torch.randn(8, 2, 2), torch.randn(8, 2, 2) + 1, torch.rand(8)
        points = (1 - u)[:, None] * real.flatten(1) + u[:, None] * fake.flatten(1)
        slope = points @ matrix + tilt
        middle = slope.norm(dim=1).sort().values[flat - 1 : flat + 1].mean()
        matrix, tilt, norm = matrix / middle, tilt / middle, slope.norm(dim=1) / middle
        got = numbers(answer(Bowl(matrix, tilt), real, fake, u), (), "the penalty")
        other = (u[:, None] * real.flatten(1) + (1 - u)[:, None] * fake.flatten(1)) @ matrix + tilt
        hints = {"It has two sides: small slopes are punished too.": (norm - 1).square().mean(),
                 "It is a sum over the batch.": (norm - 1).clamp(min=0).square().sum(),
                 "u = 0 is the data.": (other.norm(dim=1) - 1).clamp(min=0).square().mean()}  # fmt: skip
        agree(got, (norm - 1).clamp(min=0).square().mean(), "the penalty", hints=hints, tolerance=1e-6)


@exercise(points=3, stars=3, kind="derive")
def largest_step(answer: Any) -> None:
    """largest_step(gamma) -> (): below this size simultaneous steps of the Dirac-GAN with R1 come in, near the middle.

    Looked at through the eigenvalues of a step a little smaller and a little larger.
    """
    for gamma in (0.0, between(0.1, 0.9).item(), 1.0, between(1.1, 3.0).item(), between(0.3, 0.9).item()):
        got = numbers(answer(gamma), (), "the largest step").item()
        if gamma == 0:
            hold(abs(got) < 1e-9, "Without a penalty simultaneous steps spiral out, however small they are.")
            continue
        hold(got > 0, f"For γ = {gamma:.3f} some steps are small enough, and yours is {got:.3g}.")
        flow = torch.tensor([[0.0, 0.5], [-0.5, -gamma]])
        for size, inside in ((0.999 * got, True), (1.001 * got, False)):
            grows = torch.linalg.eigvals(torch.eye(2) + size * flow).abs().max() >= 1
            word = "smaller than yours still spiral out or jump over" if inside else "larger than yours still come in"
            hold(bool(grows) != inside, f"For γ = {gamma:.3f} steps {word}.")


@exercise(points=3, stars=2, kind="diagnose")
def parzen(answer: Any) -> None:
    """parzen(points (N, D), x (B, D), width) -> (B,): the log density of the window estimate.

    Looked at by adding up densities, one coordinate and one point at a time.
    """
    for count, dims in ((1, 1), (1, 3), (4, 1), (5, 3)):
        points, x, width = torch.randn(count, dims), torch.randn(3, dims), between(0.4, 2.0)
        density = torch.zeros(3)
        for point in points:
            share = torch.ones(3) / count
            for d in range(dims):
                share = share * normal(x[:, d], point[d], width)
            density = density + share
        where = (
            f"the log density for {count} point{'s' if count > 1 else ''} in {dims} dimension{'s' if dims > 1 else ''}"
        )
        agree(numbers(answer(points, x, width), (3,), where), density.log(), where)
    far = numbers(
        answer(torch.zeros(2, 3), torch.full((1, 3), 200.0), 1.0), (1,), "the log density far from all points"
    )
    agree(far, torch.tensor([-60_000 - 1.5 * math.log(2 * math.pi)]), "the log density far from all points")


@exercise(points=3, stars=3, kind="diagnose")
def fair_round(answer: Any) -> None:
    """fair_round(theta, psi (2,), x (k, B), z (k + 1, B), size) -> (θ, ψ_0, ψ_1): k moves of D, then one of G.

    G(z) = z + θ, ℓ(x) = ψ_0 + ψ_1 x. Looked at by moving the players with gradients that are worked out by hand.
    """
    for k in (1, 2, 4):
        theta, psi, size = torch.randn(()), torch.randn(2), between(0.1, 0.5).item()
        x, z = torch.randn(k, 6) + 1, torch.randn(k + 1, 6)
        want, line = theta, psi
        for real, noise in zip(x, z):
            fake = noise + want
            caught, missed = torch.sigmoid(line[0] + line[1] * fake), torch.sigmoid(-line[0] - line[1] * real)
            slope = torch.stack([(caught - missed).mean(), (caught * fake - missed * real).mean()])
            line = line - size * slope
        fake = z[-1] + want
        want = want + size * (torch.sigmoid(-line[0] - line[1] * fake) * line[1]).mean()
        got = numbers(answer(theta.clone(), psi.clone(), x, z, size), (3,), "the answer (θ, ψ_0, ψ_1)")
        agree(got[1:], line, f"ψ after a round with k = {k}", hints={"D has not moved.": psi})
        agree(got[0], want, f"θ after a round with k = {k}", hints={"G has not moved.": theta})


@exercise(points=3, stars=2, kind="experiment")
def judge(answer: Any) -> None:
    """judge(x (B, 1)) -> (B,): logits for the sheet's two laws, with a loss at most 0.01 above the least possible one.

    Both losses are integrals, taken on a grid.
    """
    x, steps = torch.linspace(-9, 9, 3601).double(), 18 / 3600
    place, wide = torch.tensor(1.5).double(), torch.tensor(0.3).double()
    data = 0.7 * normal(x, -place, wide) + 0.3 * normal(x, place, wide)
    model = normal(x, torch.zeros(()).double(), place)
    loss = lambda logit: (data * minus_log_sigmoid(logit) + model * minus_log_sigmoid(-logit)).sum().item() * steps  # noqa: E731
    got = samples(answer(x[:, None].float()), (3601,), "what judge(x) returns for x (3601, 1)").detach()
    least = -best(data, model).sum().item() * steps
    excess = loss(got) - least
    if excess > 0.01:
        flipped = " With its sign turned it would be nearer." if loss(-got) < loss(got) else ""
        raise Wrong(f"The loss is {least + excess:.4f}, which is {excess:.4f} above the least possible one.{flipped}")
    learned(excess, 1e-7)
