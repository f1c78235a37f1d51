"""Checks of the exercises of chapter 03, couplings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gmbook.course.draws import learned_density
from gmbook.course.kit import Given, agree, between, exercise, gradient, hold, numbers
from gmbook.laws import plane


def some_mask(shape: Sequence[int]) -> Tensor:
    """1 at some places, at one at least, and 0 at the others, at one at least."""
    size = math.prod(shape)
    mask = torch.zeros(size)
    mask[torch.randperm(size)[: 1 + int(torch.randint(size - 1, ()))]] = 1.0
    return mask.reshape(*shape)


class Conditioner(Given):
    """The network of a layer, net(x) -> (s, t), each like x: all depends on all of x. Its weights are (2, D, D)."""

    def __init__(self, weights: Tensor):
        super().__init__(weights)
        self.weights = weights

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(s, t) for x (B, *S)."""
        flat = x.flatten(1)
        s, t = 0.8 * torch.tanh(flat @ self.weights[0] + 0.4), torch.sin(flat @ self.weights[1] + 1.0)
        return s.reshape(x.shape), t.reshape(x.shape)


def conditioner(dims: int) -> Conditioner:
    """One with random weights."""
    return Conditioner(torch.randn(2, dims, dims))


def two(value: Any, what: str) -> tuple[Any, Any]:
    """The two parts of an answer."""
    hold(value is not None, f"{what} is None: is a `return` missing?")
    hold(isinstance(value, (tuple, list)) and len(value) == 2, f"{what} is due: a tuple of two.")
    return value[0], value[1]


def slope_of(answer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Jacobian (D, D) of a map from one point x (*S) to (*S), by automatic differentiation."""
    rows = torch.autograd.functional.jacobian(answer, x)
    return rows.reshape(x.numel(), x.numel())


@exercise(points=1, stars=1, kind="derive")
def bits(answer: Any) -> None:
    """bits(nats, dims, low, high, levels) -> number: bits/dim of integers 0..levels − 1, dequantised to [low, high).

    `nats` is log p of the scaled point. Looked at with a density that is flat in each cell: its masses are known.
    """
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5), (0.0, 256.0), (-3.0, 4.0)):
        dims, levels = 2 + int(torch.randint(5, ())), 2 + int(torch.randint(300, ()))
        mass = torch.softmax(torch.randn(dims, levels), 1)[:, int(torch.randint(levels, ()))]
        nats = (mass / ((high - low) / levels)).log().sum().item()
        want = -mass.log2().mean()
        got = numbers(answer(nats, dims, low, high, levels), (), "bits/dim")
        size = math.log2((high - low) / levels)
        other = want + math.log2(high - low)
        hints = {"The size of a cell is upside down.": want + 2 * size,
                 "A density is no probability: what is the size of a cell?": want + size,
                 "It is the number of bits of all dimensions together.": want * dims,
                 "It is in nats.": want * math.log(2),
                 f"For pixels on [{low:g}, {high:g}) a cell has another size.": other}  # fmt: skip
        agree(got, want, f"bits/dim of {levels} levels on [{low:g}, {high:g})", hints=hints)


@exercise(points=1, stars=1, kind="derive")
def merged(answer: Any) -> None:
    """merged(s1, t1, s2, t2) -> (s, t): one layer x·e^s + t for (x + t1)·e^s1 and then x·e^s2 + t2, same mask.

    All are tensors (B, D). Looked at by sending two points through both layers.
    """
    for shape in ((4, 3), (1, 6)):
        s1, t1, s2, t2 = torch.randn(4, *shape)
        ends = [((torch.full(shape, x) + t1) * s1.exp()) * s2.exp() + t2 for x in (0.0, 1.0)]
        s, t = two(answer(s1, t1, s2, t2), "(s, t)")
        want = (ends[1] - ends[0]).log()
        agree(numbers(s, shape, "s"), want, "s", tolerance=1e-6, hints={"It is the factor e^s.": want.exp()})
        hints = {"The first layer is taken in the paper's form.": t1 * s2.exp() + t2,
                 "The second layer's t is scaled too.": (t1 + t2) * (s1 + s2).exp(),
                 "The second layer's scale acts on the first layer's t as well.": t1 * s1.exp() + t2}  # fmt: skip
        agree(numbers(t, shape, "t"), ends[0], "t", hints=hints)


def stretched(net: Conditioner, mask: Tensor, x: Tensor) -> Tensor:
    """log |det ∂z/∂x| (B,) of the layer x·e^s + t at x (B, *S), by the Jacobian of one that is written out here."""

    def layer(v: Tensor) -> Tensor:
        s, t = net(torch.where(mask == 1, v, 0.0)[None])
        return torch.where(mask == 1, v, v * s[0].exp() + t[0])

    return torch.stack([torch.linalg.slogdet(slope_of(layer, point))[1] for point in x])


@exercise(points=2, stars=2, kind="code")
def coupling(answer: Any) -> None:
    """coupling(net, x (B, *S), mask (*S)) -> (z (B, *S), log_det (B,)): z = x·e^s + t where the mask is 0.

    net(x) returns (s, t), each like x. Looked at by probing z at 0 and 1, and by the Jacobian.
    """
    for shape in ((5,), (2, 1), (2, 2, 2)):
        mask, net, x = some_mask(shape), conditioner(math.prod(shape)), torch.randn(3, *shape)
        stays = (mask == 1).expand_as(x)
        z, log_det = two(answer(net, x, mask), "(z, log_det)")
        z, log_det = numbers(z, x.shape, "z"), numbers(log_det, (3,), "log_det")
        flipped = bool((z == x)[~stays].all()) and not bool((z == x)[stays].any())
        hold(not flipped, "The mask is the wrong way round: 1 stays, 0 moves.")
        agree(z[stays], x[stays], "z where the mask is 1")
        s, t = net(torch.where(stays, x, 0.0))
        at = [two(answer(net, torch.where(stays, x, v), mask), "(z, log_det)")[0] for v in (0.0, 1.0)]
        ends = [numbers(value, x.shape, "z") for value in at]
        agree(ends[0][~stays], t[~stays], "z of points that are 0 where they move")
        factor = (ends[1] - ends[0])[~stays]
        seen = net(torch.where(stays, x, 1.0))
        agree(factor, s.exp()[~stays], "By what z grows when x grows by 1, where the mask is 0: it", hints={
              "The network may see only what stays.": (seen[0].exp() + seen[1] - t)[~stays]})  # fmt: skip
        line = ends[0] + (ends[1] - ends[0]) * x
        agree(z[~stays], line[~stays], "z where the mask is 0, which should be linear there: it",
              hints={"The network may see only what stays.": (x * net(x)[0].exp() + net(x)[1])[~stays]})  # fmt: skip
        truth = stretched(net, mask, x)
        hints = {"It sums s where the mask is 1.": torch.where(stays, s, 0.0).flatten(1).sum(1),
                 "It sums s over all coordinates.": s.flatten(1).sum(1),
                 "It is a mean where a sum is due.": truth / math.prod(shape),
                 "It is the determinant, not its logarithm.": truth.exp()}  # fmt: skip
        agree(log_det, truth, "log_det, against the Jacobian,", hints=hints)
        if math.prod(shape) == 5:
            start, steps = x.clone().requires_grad_(), 1e-5 * torch.eye(5)
            found = gradient(two(answer(net, start, mask), "(z, log_det)")[1].sum(), start, "log_det")
            rise = [stretched(net, mask, x + step) - stretched(net, mask, x - step) for step in steps]
            agree(found, torch.stack(rise, 1) / 2e-5, "the gradient of log_det", tolerance=1e-5)


def by_the_code(nets: Sequence[Conditioner], masks: Sequence[Tensor], x: Tensor) -> Tensor:
    """The stack of the exercise `undone`, data to noise."""
    for net, mask in zip(nets, masks):
        s, t = net(torch.where(mask == 1, x, 0.0))
        x = torch.where(mask == 1, x, (x + t) * s.exp())
    return x


@exercise(points=3, stars=2, kind="diagnose")
def undone(answer: Any) -> None:
    """undone(nets, masks, z (B, D)) -> x: the inverse of a stack of layers (x + t)·e^s, nets and masks from x to z.

    Looked at by going there and back, in both orders.
    """
    for count in (1, 2, 4):
        nets, masks = [conditioner(4) for _ in range(count)], [some_mask((4,)) for _ in range(count)]
        if count == 2:
            masks[0] = torch.tensor([1.0, 1.0, 0.0, 0.0])
            masks[1] = 1 - masks[0]
        x = torch.randn(5, 4)
        z = by_the_code(nets, masks, x)
        got = numbers(answer(nets, masks, z), (5, 4), "x")
        if count == 1:
            stays = (masks[0] == 1).expand_as(x)
            agree(got[stays], x[stays], "What stays (mask 1) in a stack of one layer", tolerance=1e-6)
            s, t = net_at(nets[0], x, masks[0])
            hints = {"The scale is not undone but done once more.": (z * s.exp() - t)[~stays],
                     "It is the inverse of x·e^s + t.": ((z - t) * (-s).exp())[~stays],
                     "The shift is not undone.": (z * (-s).exp())[~stays],
                     "The scale is not undone.": (z - t)[~stays]}  # fmt: skip
            agree(got[~stays], x[~stays], "What moves (mask 0), with one layer,", tolerance=1e-6, hints=hints)
        agree(got, x, f"One layer comes back; x from {count} layers", tolerance=1e-5)
        z = torch.randn(5, 4)
        there = by_the_code(nets, masks, numbers(answer(nets, masks, z), (5, 4), "x"))
        agree(there, z, f"back, and there again, through {count} layers: z", tolerance=1e-5)


def net_at(net: Conditioner, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(s, t) of what stays."""
    return net(torch.where(mask == 1, x, 0.0))


@exercise(points=2, stars=2, kind="code")
def reaches(answer: Any) -> None:
    """reaches(masks (K, D)) -> (D, D): 1 where output i of the stack can depend on input j, else 0; first mask first.

    Looked at by the autograd Jacobian of a random stack with these masks: which entries are not 0?
    """
    half = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    odd = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    stacks = [[half], [odd, 1 - odd], [odd, odd], [odd, 1 - odd, odd], [half, odd], [half, odd, half]]
    for masks in [*stacks, *([some_mask((5,)) for _ in range(k)] for k in (2, 3, 3))]:
        nets = [conditioner(5) for _ in masks]

        def stack(v: Tensor, nets: list[Conditioner] = nets, masks: list[Tensor] = masks) -> Tensor:
            return by_the_code(nets, masks, v[None])[0]

        jacobian = slope_of(stack, 0.5 * torch.randn(5))
        want = (jacobian != 0).double()
        got = numbers(answer(torch.stack(masks)), (5, 5), "the pattern")
        hold(((got == 0) | (got == 1)).all(), "The entries must be 0 or 1.")
        hold((got.diagonal() == 1).all(), "A coordinate always depends on itself: the layer is invertible.")
        where = f"The pattern for the masks {[[int(v) for v in mask] for mask in masks]}"
        agree(got, want, where)


@exercise(points=2, stars=2, kind="derive")
def gap(answer: Any) -> None:
    """gap(rates (D,)) -> (): log P(k) − E_u log p(k + u) in nats, for p(x) = Π_d λ_d e^{−λ_d x_d}, x ≥ 0.

    Looked at by quadrature within the cells of random integers.
    """
    u, weights = plane.legendre(40)
    for dims in (1, 3, 4):
        rates = 0.3 + 4 * torch.rand(dims)
        k = torch.randint(4, (dims,))
        log_p = rates[:, None].log() - rates[:, None] * (k[:, None] + u)
        parts = (log_p.exp() @ weights).log() - log_p @ weights
        got = numbers(answer(rates), (), "the gap")
        hold(got >= 0, "It is negative: which of the two is the bound?")
        hints = {"It is in bits.": parts.sum() / math.log(2),
                 "It is its leading term for small rates only.": (rates.square() / 24).sum()}  # fmt: skip
        if dims > 1:
            hints["It is a mean over dimensions where a sum is due."] = parts.mean()
        agree(got, parts.sum(), f"The gap for D = {dims}", hints=hints)


class Logistics(Given):
    """log p of independent logistic coordinates, with places and widths (*S): y (B, *S) -> (B,)."""

    def __init__(self, places: Tensor, widths: Tensor):
        super().__init__(places, widths)
        self.places, self.widths = places, widths

    def below(self, y: Tensor) -> Tensor:
        """The distribution function of every coordinate, like y."""
        return torch.sigmoid((y - self.places) / self.widths)

    def __call__(self, y: Tensor) -> Tensor:
        """log p (B,)."""
        share = self.below(y)
        return (share * (1 - share) / self.widths).log().flatten(1).sum(1)


@exercise(points=3, stars=3, kind="diagnose")
def counted(answer: Any) -> None:
    """counted(log_prob, k (B, *S), u (B, *S), alpha) -> (B,): bits/dim of integers k in 0..255 with the noise u.

    log_prob(y (B, *S)) -> (B,) is the model behind the logit. Looked at by differentiating distribution functions.
    """
    for shape in ((1,), (2, 3), (1, 2, 2)):
        alpha = between(0.02, 0.15).item()
        base = Logistics(torch.randn(shape), 0.5 + torch.rand(shape))
        k, u = torch.randint(256, (4, *shape)), 0.05 + 0.9 * torch.rand(4, *shape)
        k[0], k[1] = 0, 255

        def cost(u: Tensor, k: Tensor = k, alpha: float = alpha, base: Logistics = base) -> Tensor:
            place = u.clone().requires_grad_()
            share = alpha + (1 - 2 * alpha) * (k + place) / 256
            below = base.below(share.log() - (1 - share).log())
            (density,) = torch.autograd.grad(below.sum(), place)  # per unit of k: a cell has the size 1
            return -density.log2().flatten(1).mean(1)

        want, got = cost(u), numbers(answer(base, k, u, alpha), (4,), "bits/dim")
        again = numbers(answer(base, k, 1 - u, alpha), (4,), "bits/dim")
        hold((again - got).abs().max() > 1e-9, "The noise u makes no difference to your result: it is lost on the way.")
        dims, share = math.prod(shape), alpha + (1 - 2 * alpha) * (k + u) / 256
        logit = (share * (1 - share)).log2().flatten(1).mean(1)  # minus the slope of logit(share), in bits
        inner = math.log2(1 - 2 * alpha)
        hints = {"One factor of the slope dy/dx is missing, the one that does not depend on y.": want + inner,
                 "The slope of the logit is missing.": want + inner - logit,
                 "The slope of the logit has the wrong sign.": want + 2 * inner - 2 * logit,
                 "The size of the cells is missing.": want - 8,
                 "The size of the cells is that of pixels on [−1, 1).": want - 1,
                 "It is in nats.": want * math.log(2),
                 "It is the log-likelihood: bits/dim is the negative one.": -want,
                 "It is the sum over dimensions.": want * dims}  # fmt: skip
        agree(got, want, f"bits/dim of images of shape {tuple(shape)}", hints=hints)


@exercise(points=2, stars=2, kind="diagnose")
def normalised(answer: Any) -> None:
    """normalised(h (B, C, H, W), mean (C,), variance (C,), eps) -> (z like h, log_det (B,)): batch norm as a layer.

    In evaluation mode: the statistics are given numbers. Looked at by scaling z back, and by the Jacobian.
    """
    for channels, height, width in ((2, 1, 1), (3, 1, 2), (2, 2, 3)):
        mean, variance, eps = torch.randn(channels), 0.2 + 2 * torch.rand(channels), between(0.05, 0.2).item()
        h = torch.randn(3, channels, height, width)
        z, log_det = two(answer(h, mean, variance, eps), "(z, log_det)")
        z, log_det = numbers(z, h.shape, "z"), numbers(log_det, (3,), "log_det")
        back = torch.stack([z[:, c] * (variance[c] + eps) ** 0.5 + mean[c] for c in range(channels)], 1)
        agree(back, h, "z, scaled and shifted back,")

        def layer(v: Tensor, mean: Tensor = mean, variance: Tensor = variance, eps: float = eps) -> Tensor:
            return torch.stack([(plane - m) / (w + eps) ** 0.5 for plane, m, w in zip(v, mean, variance)])

        want = torch.linalg.slogdet(slope_of(layer, h[0]))[1].expand(3)
        pixels = height * width
        hints = {"Variance and standard deviation are confused.": 2 * want,
                 "ε is left out.": -0.5 * pixels * variance.log().sum().expand(3)}  # fmt: skip
        if pixels > 1:
            hints |= {"With one pixel it is right: all pixels of a channel are scaled.": want / pixels,
                      "The pixels are counted for one axis only.": want / width}  # fmt: skip
        agree(log_det, want, f"log_det for channels of {height} × {width}", hints=hints)


def normal_below(x: float) -> float:
    """Φ(x)."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def normal_quantile(share: float) -> float:
    """Φ^{-1}, by bisection."""
    low, high = -9.0, 9.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if normal_below(middle) < share else (low, middle)
    return (low + high) / 2


@exercise(points=3, stars=3, kind="derive")
def slope(answer: Any) -> None:
    """slope(weight, m, s) -> (): g'(z) at g(z) = 0 for the increasing g that makes N(0, 1) two modes at −m and m.

    The law is weight·N(−m, s²) + (1 − weight)·N(m, s²). Looked at by matching distribution functions beside 0.
    """
    for weight in (0.5, 0.2, 0.75, 0.1 + 0.8 * torch.rand(()).item()):
        s = between(0.3, 1.5).item()
        m = s * between(0.8, 2.2).item()

        def code(x: float, weight: float = weight, m: float = m, s: float = s) -> float:
            return normal_quantile(weight * normal_below((x + m) / s) + (1 - weight) * normal_below((x - m) / s))

        step = 1e-3 * s
        want = torch.tensor(2 * step / (code(step) - code(-step)))
        hints = {"It is the slope of the inverse.": 1 / want}
        if weight != 0.5:
            hints["It is the slope for equal weights: which z is mapped to 0?"] = want * math.exp(code(0.0) ** 2 / 2)
        got = numbers(answer(weight, m, s), (), "the slope")
        agree(got, want, f"The slope for weight {weight:.3g}", tolerance=1e-4, hints=hints)


@exercise(points=3, stars=2, kind="experiment")
def log_density(answer: Any) -> None:
    """log_density(x (B, 2)) -> (B,): a density for the moons, KL below 0.25 nats, that integrates to 1.

    Looked at on 20,000 points of the law, whose density is known, and by an integral over a grid.
    """
    learned_density(answer, plane.moons(), 20_000, half=6.0, cells=210, surplus=0.03, bar=0.25)
