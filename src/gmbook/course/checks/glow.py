"""Checks of the exercises of chapter 04, Glow."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from gmbook.course.draws import learned
from gmbook.course.kit import Given, Wrong, agree, between, close, exercise, hold, numbers, samples


def two(value: Any, what: str) -> tuple[Any, Any]:
    """The two parts of an answer."""
    hold(value is not None, f"{what} is None: is a `return` missing?")
    hold(isinstance(value, (tuple, list)) and len(value) == 2, f"{what} is due: a tuple of two.")
    return value[0], value[1]


def slope_of(layer: Any, x: Tensor) -> Tensor:
    """The Jacobian (D, D) of a map from one point x (*S) to (*S), by automatic differentiation."""
    return torch.autograd.functional.jacobian(layer, x).reshape(x.numel(), x.numel())


def volume(layer: Any, x: Tensor) -> Tensor:
    """log |det| of that Jacobian."""
    return torch.linalg.slogdet(slope_of(layer, x))[1]


def mixed_by_hand(matrix: Tensor, x: Tensor) -> Tensor:
    """The matrix at every pixel of one image (C, H, W), pixel by pixel."""
    columns = [torch.stack([matrix @ x[:, i, j] for j in range(x.shape[2])], 1) for i in range(x.shape[1])]
    return torch.stack(columns, 1)


@exercise(points=1, stars=1, kind="derive")
def mixing(answer: Any) -> None:
    """mixing(matrix (C, C), height, width) -> (): log|det| of the 1×1 convolution on images of height × width pixels.

    Looked at by the Jacobian of all coordinates of an image.
    """
    for channels, height, width in ((1, 1, 1), (3, 1, 4), (2, 3, 2), (3, 2, 2)):
        matrix = torch.randn(channels, channels)
        if channels == 3:  # one with a negative determinant
            matrix[0] = matrix[0] * -torch.linalg.slogdet(matrix)[0]
        x = torch.randn(channels, height, width)
        want = volume(lambda v, matrix=matrix: mixed_by_hand(matrix, v), x)
        got = numbers(answer(matrix.clone(), height, width), (), "the log-determinant")
        hints = {"It is the determinant, not its logarithm.": want.exp()}
        if height * width > 1:
            hints |= {"Every pixel is mixed: how many are there?": want / (height * width),
                      "The pixels are counted along one axis only.": want / height,
                      "They are counted along one axis only.": want / width,
                      "It is counted for every channel too.": want * channels}  # fmt: skip
        agree(got, want, f"The log-determinant on {channels} channels of {height} × {width} pixels", hints=hints)


@exercise(points=2, stars=1, kind="code")
def first_batch(answer: Any) -> None:
    """first_batch(x (B, C, H, W)) -> (log_scale (C,), bias (C,)): x·e^log_scale + bias has mean 0 and variance 1.

    Over the batch and all pixels, for every channel; the variance is a mean of squares, divided by their number.
    Looked at by applying them.
    """
    for shape in ((4, 3, 2, 3), (2, 1, 1, 2), (6, 2, 3, 1)):
        width = 0.2 + 5 * torch.rand(shape[1])
        x = width[:, None, None] * torch.randn(shape) + 10 * torch.randn(shape[1])[:, None, None]
        log_scale, bias = two(answer(x.clone()), "(log_scale, bias)")
        log_scale = numbers(log_scale, (shape[1],), "log_scale")
        bias = numbers(bias, (shape[1],), "bias")
        z = x * log_scale.exp()[:, None, None] + bias[:, None, None]
        count = shape[0] * shape[2] * shape[3]
        for c in range(shape[1]):
            values = z[:, c].flatten()
            centred = values - values.sum() / count
            spread = (centred.square().sum() / count).item()
            true = (x[:, c] - x[:, c].mean()).square().mean().item()
            hold(
                abs(spread - true**3) > 1e-6 * true**3 or abs(true - 1) < 1e-3,
                "The channels get wider, not narrower: look at the sign of log_scale.",
            )
            hold(
                abs(spread * true - 1) > 1e-6 or abs(true - 1) < 1e-3,
                "A variance and a standard deviation are confused in log_scale.",
            )
            hold(
                abs(spread - (count - 1) / count) > 1e-6,
                "The variance is divided by one less than the number of values: divide by their number.",
            )
            hold(abs(spread - 1) < 1e-5, f"With your log_scale a channel has the variance {spread:.3g}, not 1.")
            hold(
                abs(values.sum().item() / count) < 1e-5 * (1 + x.abs().max().item()),
                "The variance is right, the mean is not 0: bias is added after the scale.",
            )


@exercise(points=2, stars=2, kind="derive")
def start(answer: Any) -> None:
    """start(channels, height, width, scales, steps) -> number: Σ log|det| of all couplings of a new Glow on images.

    `scales` levels of `steps` steps; a coupling moves half of its channels, with the scale 1/(1 + e^−2). Looked at by
    carrying an array of ones through all of it, and taking the logarithm of the product of what comes out.
    """
    for channels, height, width, scales, steps in ((1, 2, 2, 1, 1), (3, 4, 4, 1, 3), (1, 8, 4, 2, 2), (2, 8, 8, 3, 1)):
        scale = 1 / (1 + math.exp(-2))
        left, finished = torch.ones(channels * height * width), []
        for level in range(scales):
            for _ in range(steps):
                half = len(left) // 2
                left = torch.cat([left[:half], left[half:] * scale]).roll(half // 2)
            if level < scales - 1:
                left, done = left.chunk(2)
                finished.append(done)
        want = torch.cat([left, *finished]).log().sum()
        got = numbers(answer(channels, height, width, scales, steps), (), "the sum")
        size = channels * height * width
        unit = math.log(scale)
        hints = {"All coordinates are moved: half of them stay in a coupling.": 2 * want,
                 "A new coupling shrinks: its log-determinant is negative.": -want,
                 "That is the log-determinant of one coupling of the first level.": torch.tensor(size / 2 * unit),
                 "At every level all of the image's coordinates take part: half are finished before the next.":
                     torch.tensor(steps * scales * size / 2 * unit)}  # fmt: skip
        hints = {hint: value for hint, value in hints.items() if not close(value, want)}
        where = f"The sum for {channels}×{height}×{width}, {scales} levels of {steps} steps"
        agree(got, want, where, hints=hints)


@exercise(points=2, stars=2, kind="code")
def factors(answer: Any) -> None:
    """factors(order (C,), lower (C, C), upper (C, C), sign (C,), log_s (C,)) -> (W (C, C), log|det W| ()).

    W x = [L(U + diag(sign·e^log_s)) x] with the entries then put in the given order: entry i of the result is entry
    order[i]. L has ones on its diagonal, U zeros; of `lower` and `upper` only what lies strictly below and above the
    diagonal counts. Looked at row by row, on unit vectors.
    """
    for channels in (1, 2, 4):
        order, lower, upper = torch.randperm(channels), torch.randn(channels, channels), torch.randn(channels, channels)
        sign, log_s = torch.randn(channels).sign(), torch.randn(channels)
        if channels == 4:
            order = torch.tensor([2, 0, 3, 1])  # not its own inverse
            sign = torch.tensor([1.0, -1.0, 1.0, 1.0])[torch.randperm(4)]  # never all alike
        columns = []
        for unit in torch.eye(channels):
            a = [
                sign[i] * log_s[i].exp() * unit[i] + (upper[i, i + 1 :] * unit[i + 1 :]).sum() for i in range(channels)
            ]
            b = [a[i] + sum(lower[i, j] * a[j] for j in range(i)) for i in range(channels)]
            columns.append(torch.stack([torch.as_tensor(b[i]) for i in order]))
        want = torch.stack(columns, 1)
        got, log_det = two(answer(order, lower, upper, sign, log_s), "(W, log|det W|)")
        got, log_det = numbers(got, (channels, channels), "W"), numbers(log_det, (), "log|det W|")
        truth = torch.linalg.slogdet(want)[1]
        unit, scale = torch.eye(channels), torch.diag(sign * log_s.exp())
        low, high, plain = lower.tril(-1) + unit, upper.triu(1) + scale, want[order.argsort()]
        hints = {"The entries are put back, not in order: P is the inverse of yours.": plain[order.argsort()],
                 "The order is left out.": plain,
                 "The diagonal of `lower` is used: L has ones there.": (lower.tril() @ high)[order],
                 "The diagonal of `upper` is used as well.": (low @ (upper.triu() + scale))[order],
                 "The signs are left out.": (low @ (upper.triu(1) + scale.abs()))[order]}  # fmt: skip
        hints = {hint: value for hint, value in hints.items() if not close(value, want)}
        agree(got, want, f"W for {channels} channels", hints=hints)
        agree(log_det, truth, "log|det W|, against the determinant of the right W,",
              hints={"It is the sum of |s|, not of log|s|.": log_s.exp().sum()})  # fmt: skip


class Law(Given):
    """A network h (B, C) -> (μ, log σ), each (B, C), with weights (2, C, C)."""

    def __init__(self, weights: Tensor):
        super().__init__(weights)
        self.weights = weights

    def __call__(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """(μ, log σ)."""
        return torch.sin(h @ self.weights[0] + 1.0), 0.7 * torch.tanh(h @ self.weights[1] - 0.5)


@exercise(points=2, stars=2, kind="code")
def split(answer: Any) -> None:
    """split(prior, h (B, C), done (B, C)) -> (z (B, C), log_det (B,)): the finished half, standardised given h.

    prior(h) returns (μ, log σ), each (B, C). Looked at by the density: log N(z; 0, I) + log_det is log p(done | h).
    """
    for channels in (1, 3):
        prior = Law(torch.randn(2, channels, channels))
        h, done = torch.randn(5, channels), 2 * torch.randn(5, channels)
        z, log_det = two(answer(prior, h, done), "(z, log_det)")
        z, log_det = numbers(z, (5, channels), "z"), numbers(log_det, (5,), "log_det")
        mean, log_std = prior(h)
        conditional = torch.distributions.Normal(mean, log_std.exp())
        share = conditional.cdf(done)  # z is the point of N(0, 1) with the same share of mass below it
        want = torch.special.ndtri(share)
        inside = ((share > 1e-6) & (share < 1 - 1e-6)).all(1)
        other_mean, other_std = prior(done)
        hints = {"It is multiplied by σ, not divided.": ((done - mean) * log_std.exp())[inside],
                 "It is the sample, not its noise.": (mean + log_std.exp() * done)[inside],
                 "log σ is taken for σ.": ((done - mean) / log_std)[inside],
                 "The prior reads the half that is finished, not the one that goes on.":
                     ((done - other_mean) * (-other_std).exp())[inside]}  # fmt: skip
        agree(z[inside], want[inside], "z", tolerance=1e-5, hints=hints)
        base = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
        want = conditional.log_prob(done).sum(1)
        total = base + log_det
        hints = {"log_det has the wrong sign.": base + log_std.sum(1), "log_det is missing.": base}
        if channels > 1:
            hints["log_det is a mean where a sum is due."] = base - log_std.mean(1)
        agree(total, want, "log N(z; 0, I) + log_det, against log p(done | h),", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def tempered(answer: Any) -> None:
    """tempered(log_p (B,), log_det (B,), temperature, dims) -> (B,): log p_T(x) of x = f⁻¹(Tε), constant included.

    `log_p` is log p(x), `log_det` is log|det ∂f/∂x| at x, nats; the base is N(0, I). Looked at on the line and in
    space, with maps z = sinh(ax)/b whose density at temperature T is found from z itself.
    """
    for dims in (1, 3):
        temperature, a, b = between(0.4, 1.6).item(), 0.5 + torch.rand(dims), 0.5 + torch.rand(dims)
        x = torch.randn(6, dims)
        z, log_det = torch.sinh(a * x) / b, (a * torch.cosh(a * x) / b).log().sum(1)
        normal = torch.distributions.Normal(0.0, torch.tensor(1.0))
        wide = torch.distributions.Normal(0.0, torch.tensor(temperature))
        log_p, want = normal.log_prob(z).sum(1) + log_det, wide.log_prob(z).sum(1) + log_det
        got = numbers(answer(log_p.clone(), log_det.clone(), temperature, dims), (6,), "log p_T(x)")
        without = want - want.mean() + got.mean()
        hold(close(got, want) or not close(got, without), "Up to a constant it is right; the constant is not.")
        hints = {"That is the misprint, p to the power T².": log_p * temperature**2,
                 "That holds, up to a constant, where log_det is constant: here it is not.":
                     log_p / temperature**2}  # fmt: skip
        agree(got, want, f"log p_T(x) for D = {dims}", tolerance=1e-6, hints=hints)


class Bent(Given):
    """A bijection f of the plane and its inverse: z = R (x + shear(x)), with a matrix R (2, 2); `back` chooses."""

    def __init__(self, matrix: Tensor, back: int):
        super().__init__(matrix, back)
        self.matrix, self.back = matrix, back

    def __call__(self, x: Tensor) -> Tensor:
        """f(x), or f⁻¹(x): (B, 2) -> (B, 2)."""
        if self.back:
            v = torch.linalg.solve(self.matrix, x.T).T
            return torch.stack([v[:, 0], v[:, 1] - torch.sin(v[:, 0])], 1)
        v = torch.stack([x[:, 0], x[:, 1] + torch.sin(x[:, 0])], 1)
        return v @ self.matrix.T


@exercise(points=3, stars=2, kind="diagnose")
def attribute(answer: Any) -> None:
    """attribute(f, inverse, x (B, 2), has (B,) bool, a) -> (B, 2): x moved by a along the attribute, in the codes.

    The direction is the mean code of those that have it less that of those that have not. Looked at by encoding what
    comes back.
    """
    for a in (1.0, -0.7, 2.5):
        matrix = torch.linalg.qr(torch.randn(2, 2))[0] * between(0.5, 2.0)
        f, inverse, x = Bent(matrix, 0), Bent(matrix, 1), torch.randn(9, 2)
        has = torch.zeros(9, dtype=torch.bool)
        has[torch.randperm(9)[:3]] = True
        codes = f(x)
        weights = torch.where(has, 1 / 3, -1 / 6)
        apart = torch.stack([w * code for w, code in zip(weights, codes)]).sum(0)
        got = numbers(answer(f, inverse, x.clone(), has.clone(), a), (9, 2), "the moved points")
        moved = f(got) - codes
        hold(
            not close(got - x, (x[has].mean(0) - x[~has].mean(0)).expand(9, 2) * a, 1e-6),
            "The points are moved by a difference of points: move their codes.",
        )
        steps = moved - moved.mean(0)
        hold(steps.abs().max() < 1e-6 * (1 + moved.abs().max()), "In z not all points are moved by the same step.")
        step, all_mean = moved.mean(0), codes.mean(0)
        hints = {"It is the direction from the mean of all, not of those that have it not.":
                     a * (codes[has].mean(0) - all_mean),
                 "The direction has length 1: the attribute has a length of its own.": a * apart / apart.norm(),
                 "It is a sum where a mean is due.": a * (codes[has].sum(0) - codes[~has].sum(0)),
                 "`a` is left out.": apart}  # fmt: skip
        hints = {hint: value for hint, value in hints.items() if not close(value, a * apart)}
        agree(step, a * apart, "The step in z", tolerance=1e-6, hints=hints)


@exercise(points=3, stars=3, kind="diagnose")
def convolution(answer: Any) -> None:
    """convolution(matrix (C, C), x (B, C, H, W)) -> (z like x, log_det (B,)): z = W x at every pixel.

    Looked at pixel by pixel, and by the Jacobian of all coordinates.
    """
    for channels, height, width in ((1, 2, 2), (3, 1, 2), (2, 3, 2)):
        matrix, x = torch.randn(channels, channels), torch.randn(3, channels, height, width)
        if channels > 1:
            matrix[0] = matrix[0] * -torch.linalg.slogdet(matrix)[0]
        z, log_det = two(answer(matrix.clone(), x.clone()), "(z, log_det)")
        z, log_det = numbers(z, x.shape, "z"), numbers(log_det, (3,), "log_det")
        want = torch.stack([mixed_by_hand(matrix, image) for image in x])
        turned = torch.stack([mixed_by_hand(matrix.T, image) for image in x])
        hints = {} if channels == 1 else {"It is Wᵀx: which index of W is summed?": turned}
        agree(z, want, "z", hints=hints)
        truth = volume(lambda v, matrix=matrix: mixed_by_hand(matrix, v), x[0]).expand(3)
        hints = {"The matrix acts at every pixel: how many are there?": truth / (height * width),
                 "The pixels are counted along one axis only.": truth / width,
                 "They are counted along one axis only.": truth / height,
                 "It is summed over the batch: one number for each image.": 3 * truth}  # fmt: skip
        hints = {hint: value for hint, value in hints.items() if not close(value, truth)}
        agree(log_det, truth, "log_det, against the Jacobian,", hints=hints)


class Counting:
    """A causal network x (B, D) -> (s, t), each (B, D); entry i depends on those before it. It counts its calls."""

    def __init__(self, dims: int):
        self.weights, self.calls = torch.randn(2, dims, dims).tril(-1), 0

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(s, t)."""
        self.calls += 1
        return 0.7 * torch.tanh(x @ self.weights[0].T - 0.3), torch.sin(x @ self.weights[1].T + 0.5)


@exercise(points=3, stars=3, kind="code")
def backwards(answer: Any) -> None:
    """backwards(net, z (B, D)) -> x (B, D): the sample of the triangular flow z = x·e^s + t, (s, t) = net(x).

    Entry i of s and t depends on x_1 … x_{i−1} alone. At most D calls of the network. Looked at by mapping x to z.
    """
    for dims in (1, 2, 5):
        net = Counting(dims)
        z = torch.randn(4, dims)
        got = numbers(answer(net, z.clone()), (4, dims), "x")
        hold(net.calls <= dims, f"For D = {dims} the network is called {net.calls} times: D calls are enough.")
        s, t = net(got)
        back = got * s.exp() + t
        first = Counting.__call__(net, torch.zeros(4, dims))
        once = (z - first[1]) * (-first[0]).exp()
        hold(
            dims == 1 or not close(got, once, 1e-6),
            "All entries are computed at once from an empty x: only the first is right. The others need those before.",
        )
        s, t = net(z)
        hold(
            dims == 1 or not close(got, (z - t) * (-s).exp(), 1e-6),
            "The network is asked about z. It must see x, as far as it is known.",
        )
        if not close(back, z, 1e-6):
            right = [bool(close(back[:, i], z[:, i], 1e-6)) for i in range(dims)]
            where = next(i for i in range(dims) if not right[i]) + 1
            raise Wrong(f"Mapped to z again, entry {where} of {dims} is the first that does not come back.")


def microphones() -> Tensor:
    """A (3, 3) for `unmix`, drawn until neither A, nor a mixture mixed again, nor a transposed answer separates."""
    signs = [torch.tensor([1.0, *rest]) for rest in itertools.product((1.0, -1.0), repeat=2)]
    middles = [torch.eye(3)[list(order)] * sign for order in itertools.permutations(range(3)) for sign in signs]
    while True:
        turns = torch.linalg.qr(torch.randn(2, 3, 3))[0]
        mix = turns[0] @ torch.diag(between(0.5, 2.0, 3)) @ turns[1]
        wrong = [mix, *(side @ m @ mix for side in (mix, torch.linalg.inv(mix).T) for m in middles)]
        if min(crosstalk(w) for w in wrong) > 0.3:
            return mix


def crosstalk(product: Tensor) -> float:
    """The largest, over the rows of W A, of the second largest entry over the largest."""
    size = product.abs().sort(1).values
    return (size[:, -2] / size[:, -1]).max().item()


@exercise(points=3, stars=3, kind="experiment")
def unmix(answer: Any) -> None:
    """unmix(x (N, 3)) -> W (3, 3): a matrix such that the coordinates of W x are independent again.

    x = A s for an unknown matrix A and three independent sources s, each Laplace. Looked at by W A, which must be a
    permutation with scales: in every row one entry above all others, ten to one, and in another column each. Asked
    twice, since one rotation in a thousand separates by luck.
    """
    for _ in range(2):
        mix = microphones()
        sources = torch.distributions.Laplace(0.0, torch.tensor(1.0)).sample((4000, 3))
        got = samples(answer((sources @ mix.T).clone()), (3, 3), "W")
        hold(torch.linalg.slogdet(got)[1].isfinite(), "Your W is singular.")
        separates(got, mix.to(got))


def separates(got: Tensor, mix: Tensor) -> None:
    """Wrong unless W A is a permutation with scales, and was learned."""
    ratio = crosstalk(got @ mix)
    if ratio > 0.1:
        turned = min(crosstalk(w @ mix) for w in (torch.linalg.inv(got), got.T))
        hold(turned > 0.1, "It looks transposed, or it mixes the sources as A does: its inverse is due.")
        white = got @ mix @ mix.T @ got.T
        white = white / white.diagonal().sqrt().outer(white.diagonal().sqrt())
        related = (white - torch.eye(3)).abs().max() >= 0.1
        hold(related, "The coordinates of Wx are uncorrelated, but not independent: which base law can tell?")
    hold(ratio < 0.1, f"In some row of W A the second largest entry is {ratio:.2f} of the largest, not below 0.1.")
    hold(len(set((got @ mix).abs().argmax(1).tolist())) == 3, "Two rows of W find the same source.")
    learned(ratio, 1e-4)
