"""Checks of the exercises of chapter 18, DC-AE."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gmbook.course.draws import learned
from gmbook.course.kit import Wrong, agree, between, close, exercise, hold, numbers, samples


def cells(x: Tensor, factor: int) -> Tensor:
    """Pixels of f×f cells as channels, entry by entry: (B, C, H, W) -> (B, f²C, H/f, W/f)."""
    batch, channels, height, width = x.shape
    out = torch.empty(batch, channels * factor**2, height // factor, width // factor)
    for c, i, j in itertools.product(range(channels), range(factor), range(factor)):
        out[:, c * factor**2 + i * factor + j] = x[:, c, i::factor, j::factor]
    return out


def halved(x: Tensor, out: int, factor: int) -> Tensor:
    """The encoder's shortcut, one channel of the result at a time: (B, C, H, W) -> (B, out, H/f, W/f)."""
    channels = cells(x, factor)
    size = channels.shape[1] // out
    return torch.stack([channels[:, k * size : (k + 1) * size].mean(1) for k in range(out)], 1)


def matrix(out: int, shape: tuple[int, int, int], factor: int = 2) -> Tensor:
    """The encoder's shortcut as a matrix, column by column: (numbers of the code, numbers of the picture)."""
    units = torch.eye(math.prod(shape)).reshape(-1, *shape)
    return halved(units, out, factor).flatten(1).T


@exercise(points=1, stars=1, kind="derive")
def count(answer: Any) -> None:
    """count(height, width, f, p, c) -> (tokens, numbers of a token): a transformer of patch p on codes of c channels.

    Looked at by cutting an empty code into its patches.
    """
    for _ in range(6):
        f, p, c = 2 ** int(torch.randint(1, 5, ())), int(torch.randint(2, 4, ())), int(torch.randint(2, 20, ()))
        height, width = (f * p * int(torch.randint(2, 7, ())) for _ in range(2))
        patches = F.unfold(torch.empty(1, c, height // f, width // f), p, stride=p)
        want = torch.tensor([patches.shape[2], patches.shape[1]]).double()
        got = numbers(answer(height, width, f, p, c), (2,), "the answer (tokens, numbers of a token)")
        hints = {"A token is a patch of p×p places of the code.": want[0] * p**2,
                 "f and p count along each side.": torch.tensor(height * width / (f * p), dtype=torch.float64),
                 "Channels are no tokens.": want[0] * c}  # fmt: skip
        agree(got[0], want[0], "The number of tokens", hints=hints)
        hints = {"A token has the channels of all its places.": torch.tensor(float(c), dtype=torch.float64),
                 "Each place has c channels.": torch.tensor(float(p**2), dtype=torch.float64)}  # fmt: skip
        agree(got[1], want[1], "The numbers of a token", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def faster(answer: Any) -> None:
    """faster(n, d, s) -> (): operations of a transformer block on n tokens of width d over those on n/s tokens.

    Looked at by listing the block's products of matrices and counting each.
    """

    def operations(n: float, d: float) -> tuple[float, float, float]:
        projections, attention = [(n, d, d)] * 4, [(n, d, n), (n, n, d)]
        feed_forward = [(n, d, 4 * d), (n, 4 * d, d)]
        one, two, three = (sum(2 * a * b * c for a, b, c in part) for part in (attention, projections, feed_forward))
        return one, two, three

    for _ in range(5):
        s, d = 2 ** int(torch.randint(1, 6, ())), int(torch.randint(20, 200, ()))
        n = s * int(torch.randint(10, 200, ()))
        before, after = operations(n, d), operations(n / s, d)
        ratio = lambda *parts, a=before, b=after: torch.tensor(  # noqa: E731
            sum(a[k] for k in parts) / sum(b[k] for k in parts), dtype=torch.float64
        )
        got = numbers(answer(n, d, s), (), "the factor")
        hints = {"It is upside down.": 1 / ratio(0, 1, 2),
                 "The feed-forward part counts, too.": ratio(0, 1),
                 "Attention's four projections count, too.": ratio(0, 2),
                 "Attention's products of all pairs count, too.": ratio(1, 2),
                 "That is attention's two products alone.": ratio(0)}  # fmt: skip
        agree(got, ratio(0, 1, 2), f"The factor for n = {n}, d = {d}, s = {s}", hints=hints)


@exercise(points=2, stars=2, kind="code")
def halve(answer: Any) -> None:
    """halve(x (B, C, H, W), out, f) -> (B, out, H/f, W/f): the encoder's shortcut. Looked at entry by entry."""
    for channels, out, f in ((2, 4, 2), (6, 3, 3), (4, 2, 1), (3, 3, 2)):
        x = torch.randn(2, channels, 3 * f, 2 * f)
        got = numbers(answer(x, out, f), (2, out, 3, 2), "the shortcut")
        spread = cells(x, f)
        turned = cells(x.mT, f).mT
        size = spread.shape[1] // out
        hints = {"A mean is due, not a sum.": size * halved(x, out, f),
                 "Neighbouring channels form a group, not every so-and-so-many-th.":
                     spread.unflatten(1, (size, out)).mean(1),
                 "Rows and columns of a cell are exchanged: j runs faster than i.":
                     turned.unflatten(1, (out, size)).mean(2)}  # fmt: skip
        agree(got, halved(x, out, f), f"The shortcut from {channels} to {out} channels at f = {f}", hints=hints)


@exercise(points=2, stars=2, kind="code")
def double(answer: Any) -> None:
    """double(z (B, c, h, w), out, f) -> (B, out, fh, fw): the decoder's shortcut, for halvings of `halve`.

    Looked at through the halving as a matrix A: double must be linear, AU = 1, and UA symmetric.
    """
    for channels, out, f in ((4, 2, 2), (3, 6, 3), (2, 4, 1), (3, 3, 2)):
        z = torch.randn(2, channels, 3, 2)
        got = numbers(answer(z, out, f), (2, out, 3 * f, 2 * f), "the shortcut")
        again = halved(got, channels, f)
        tiled = F.pixel_shuffle(z.repeat(1, out * f**2 // channels, 1, 1), f)
        size = out * f**2 // channels
        hold(not close(got, tiled) or size in (1, out * f**2), "Copies of one channel must stand side by side.")
        hold(not close(again, z / size), "Copies are not divided: a mean of equal numbers is that number.")
        agree(again, z, f"What `halve` makes of it, at {channels} to {out} channels and f = {f},")
        a = matrix(channels, (out, 3 * f, 2 * f), f)
        want = size * (z.flatten(1) @ a).reshape(got.shape)
        hold(close(got, want), "It is undone by `halve`, but as a map it is not the one that carries most: every "
             "pixel of a group must get the same.")  # fmt: skip


@exercise(points=2, stars=2, kind="derive")
def kept(answer: Any) -> None:
    """kept(rows, columns, g) -> (): share of E‖x‖² that one halving's shortcut keeps, g = 1, 2 or 4, of pictures whose
    pixels have variance 1 and correlation rows^|Δu| columns^|Δv|, Δu the distance in rows, Δv in columns.

    Looked at through the projection's matrix and the pixels' covariance.
    """
    places = list(itertools.product(range(2), range(4)))
    for g in (2, 4, 1, 2):
        rows, columns = between(0.2, 0.9, 2).tolist()
        sigma = torch.tensor([[rows ** abs(a[0] - b[0]) * columns ** abs(a[1] - b[1]) for b in places] for a in places])
        a = matrix(4 // g, (1, 2, 4))
        projection = g * a.T @ a
        want = (projection @ sigma @ projection).trace() / sigma.trace()
        got = numbers(answer(rows, columns, g), (), "the share")
        hints = {"That is the share of white noise.": torch.tensor(1 / g),
                 "Which pixels form a pair? See the order of channels.": torch.tensor((1 + rows) / 2),
                 "That is what is lost.": 1 - want,
                 "That is the share of a standard deviation: energy is squared.": want.sqrt()}  # fmt: skip
        agree(got, want, f"The share for g = {g}", hints=hints)


@exercise(points=3, stars=3, kind="code")
def fold(answer: Any) -> None:
    """fold(weight (4·out, c, 3, 3), out) -> weight of the same shape: a doubling's convolution with its shortcut in it.

    Looked at by convolving random maps with both, and adding the shortcut entry by entry.
    """
    for channels, out in ((4, 2), (8, 2), (3, 3)):
        weight, z = torch.randn(4 * out, channels, 3, 3), torch.randn(2, channels, 4, 3)
        got = numbers(answer(weight, out), tuple(weight.shape), "the folded weight")
        size = 4 * out // channels
        straight = torch.stack([z[:, k // size] for k in range(4 * out)], 1)
        want = F.conv2d(z, weight, padding=1) + straight
        shown = F.conv2d(z, got, padding=1)
        tiled = F.conv2d(z, weight, padding=1) + torch.stack([z[:, k % channels] for k in range(4 * out)], 1)
        hints = {"Copies of one channel must stand side by side.": tiled,
                 "The learned part is gone.": straight,
                 "Nothing is added yet.": want - straight,
                 "A copy is the channel itself, not divided.": want - straight + straight / size}  # fmt: skip
        agree(shown, want, "What the folded convolution makes of a map", hints=hints)


@exercise(points=2, stars=2, kind="code")
def in_order(answer: Any) -> None:
    """in_order(q (N, d), k (N, d), v (N, e)) -> (N, e): linear attention, φ = ReLU, where i sees the places j ≤ i only.

    Looked at one query at a time, with all weights written out.
    """
    n, d, e = 9, 4, 3
    q, k = torch.randn(n, d) + 0.5, torch.randn(n, d) + 0.5
    q[:, 0], k[:, 0] = q[:, 0].abs() + 0.2, k[:, 0].abs() + 0.2  # no query sees nothing
    v = torch.randn(n, e)

    def each(until: Any, positive: Any = torch.relu, over: Any = None) -> Tensor:
        rows = []
        for i in range(n):
            seen = list(until(i))
            scores = [(positive(q[i]) * positive(k[j])).sum() for j in seen]
            whole = [(positive(q[i]) * positive(k[j])).sum() for j in (over or until)(i)]
            rows.append(sum(s * v[j] for s, j in zip(scores, seen)) / sum(whole))
        return torch.stack(rows)

    got = numbers(answer(q, k, v), (n, e), "the answer")
    before, everywhere = (lambda i: range(i + 1)), (lambda i: range(n))
    hints = {"Each place sees all others.": each(everywhere),
             "Places see those behind them, not those before.": each(lambda i: range(i, n)),
             "The sum in the denominator runs over all places.": each(before, over=everywhere),
             "φ is missing: weights may be negative.": each(before, lambda a: a)}  # fmt: skip
    agree(got, each(before), "The answer of attention", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def sharpest(answer: Any) -> None:
    """sharpest(n, d, scale) -> (linear, softmax): the weight of a query's own key among n keys, where key j is `scale`
    times the unit vector of axis j mod d, the query is its key, and d divides n.

    Looked at with all weights written out.
    """
    for _ in range(4):
        d = int(torch.randint(2, 6, ()))
        n, scale = d * int(torch.randint(2, 6, ())), between(0.5, 3.0).item()
        keys = scale * torch.eye(d).repeat(n // d, 1)
        products = keys @ keys.T
        linear = products / products.sum(1, keepdim=True)
        soft = lambda scores: (scores.exp() / scores.exp().sum(1, keepdim=True))[0, 0]  # noqa: E731
        got = numbers(answer(n, d, scale), (2,), "the answer (linear, softmax)")
        hints = {"Other keys lie along the same axis.": torch.tensor(1.0),
                 "It is the share of all keys of the axis together.": torch.tensor(n / d),
                 "Keys along other axes have weight 0, not 1.": torch.tensor(1 / n)}  # fmt: skip
        agree(got[0], linear[0, 0], "The weight of linear attention", hints=hints)
        hints = {"The scores are divided by √d.": soft(products),
                 "The scores are divided by √d, not by d.": soft(products / d),
                 "Query and key are both scaled.": soft(products / scale / d**0.5),
                 "Keys along other axes have score 0: what is exp 0?": linear[0, 0]}  # fmt: skip
        agree(got[1], soft(products / d**0.5), "The weight of softmax attention", hints=hints)


@exercise(points=3, stars=3, kind="diagnose")
def mended(answer: Any) -> None:
    """mended(q (N, d), k (N, d), v (N, e)) -> (N, e): linear attention with φ = ReLU.

    Looked at with all weights written out, for queries of ordinary size and for very small ones.
    """
    n, d, e = 8, 4, 3
    for size in (1.0, 1e-4):
        q, k = torch.randn(n, d), torch.randn(n, d)
        q[:, 1], k[:, 1] = q[:, 1].abs() + 0.3, k[:, 1].abs() + 0.3
        q, v = size * q, torch.randn(n, e)
        scores = torch.stack([torch.stack([(a.relu() * b.relu()).sum() for b in k]) for a in q])
        want = scores / scores.sum(1, keepdim=True) @ v
        got = numbers(answer(q, k, v), (n, e), "the answer")
        hints = {"Weights sum to 1 over the queries: they should over the keys.": scores / scores.sum(0) @ v,
                 "Each answer is divided by what the keys got, not by what the query gave.":
                     scores @ v / scores.sum(0)[:, None],
                 "Small queries are answered with less: what is added to the denominator?":
                     scores @ v / (scores.sum(1, keepdim=True) + 1e-2),
                 "Nothing is divided.": scores @ v}  # fmt: skip
        agree(got, want, f"The answer for queries of size {size:g}", tolerance=1e-6, hints=hints)


LENGTH = 8  # of a signal


def covariance() -> Tensor:
    """Of the signals: exp(−(Δ/3)²) between places at distance Δ, and 0.01 more on the diagonal: (8, 8), float64."""
    at = torch.arange(LENGTH, dtype=torch.float64)
    return torch.exp(-(((at[:, None] - at) / 3) ** 2)) + 0.01 * torch.eye(LENGTH, dtype=torch.float64)


def signals(n: int) -> Tensor:
    """n smooth signals of eight numbers, float32: (n, 8)."""
    return (torch.randn(n, LENGTH, dtype=torch.float64) @ torch.linalg.cholesky(covariance()).T).float()


def pairs(x: Tensor) -> Tensor:
    """The code: the means of neighbours, (n, 8) -> (n, 4)."""
    return x.unflatten(1, (-1, 2)).mean(2)


def best() -> Tensor:
    """The decoder with the least expected squared error, ΣAᵀ(AΣAᵀ)⁻¹, as a matrix (8, 4), float64."""
    sigma, a = covariance(), pairs(torch.eye(LENGTH, dtype=torch.float64)).T
    return sigma @ a.T @ torch.linalg.inv(a @ sigma @ a.T)


@exercise(points=3, stars=3, kind="experiment")
def decode(answer: Any) -> None:
    """decode(z (B, 4)) -> (B, 8): signals from the means of pairs. Error at most 3 % above the least possible.

    The least error is that of the conditional mean, which is linear here and known.
    """
    count = 4000
    x = signals(count)
    z = pairs(x)
    back = samples(answer(z), (count, LENGTH), "what is read back").detach()
    right = z.double() @ best().T
    error, least = ((x - v).square().sum(1).mean() for v in (back, right))
    off = (back - right).square().mean() / right.square().mean()
    if error <= 1.03 * least:
        one = samples(answer(z[:1]), (1, LENGTH), "what is read back from one code").detach()
        hold(close(one, back[:1], 1e-4), "What is read back from a code depends on the other codes.")
        return learned(off, 1e-10)
    copies = z.repeat_interleave(2, 1)
    alone = (x - copies).square().sum(1).mean()
    hold(not close(back, copies.double(), 1e-4), "That is the shortcut alone: it copies, and says nothing of slopes.")
    word = "worse than the shortcut alone" if error > alone else "better than the shortcut alone"
    raise Wrong(f"The error is {error / least:.2f} times the least possible one, {word}; at most 1.03 is allowed.")
