"""Checks of the exercises of chapter 16, masked diffusion."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from gmbook.course.draws import SIGMAS, chance_std, learned, mean_is, uncorrelated
from gmbook.course.kit import Wrong, agree, exercise, gradient, hold, numbers, samples
from gmbook.course.tables import TableNet
from gmbook.laws import pairs, plane


def grid(steps: int) -> Tensor:
    """ᾱ at 0 = t_0 < … < t_N = 1, from 1 down to exactly 0, in uneven steps: (N + 1,)."""
    parts = 0.2 + torch.rand(steps)
    return torch.cat([torch.ones(1), 1 - parts.cumsum(0)[:-1] / parts.sum(), torch.zeros(1)])


@exercise(points=1, stars=1, kind="derive")
def came(answer: Any) -> None:
    """came(first, middle, last) -> (): P(a letter at r, a mask at s | a mask at t), r < s < t, from ᾱ at the three.

    Looked at by the two-state chain, letter and mask, whose joint law of three times is a product of matrices.
    """
    for _ in range(5):
        first, middle, last = grid(4)[1:4]
        hide = [torch.tensor([[k, 1 - k], [0.0, 1.0]]) for k in (first, middle / first, last / middle)]
        joint = hide[0][0, 0] * hide[1][0, 1] * hide[2][1, 1]
        masked = (hide[0] @ hide[1] @ hide[2])[0, 1]
        hints = {"It forgets that the letter is known to be masked at t.": joint,
                 "That is the chance when the letter is known to be masked at s.": joint / (1 - middle),
                 "That is the chance to come in the step from t to s.": (middle - last) / masked,
                 "That is the chance to have come by r, in either step.": (first - last) / masked}  # fmt: skip
        got = numbers(answer(first.clone(), middle.clone(), last.clone()), (), "the probability")
        agree(got, joint / masked, "The probability", hints=hints)


@exercise(points=1, stars=1, kind="derive")
def calls(answer: Any) -> None:
    """calls(keep (N + 1,), length) -> (): the expected number of steps in which at least one of the letters comes.

    Looked at by going through all ways in which the letters may fall into the steps.
    """
    for steps, length in ((3, 4), (4, 3), (5, 2), (2, 1), (1, 3)):
        keep = grid(steps)
        share = keep[:-1] - keep[1:]  # the chance of one letter to come in each step
        ways = torch.cartesian_prod(*[torch.arange(steps)] * length).reshape(-1, length)
        chance = share[ways].prod(1)
        used = torch.stack([(ways == step).any(1) for step in range(steps)], 1).sum(1)
        want = (chance * used).sum()
        got = numbers(answer(keep.clone(), length), (), "the expected number of calls")
        hints = {"That is the number of steps in which nothing comes.": steps - want,
                 "That is right for equal steps.": torch.tensor(steps * (1 - (1 - 1 / steps) ** length))}  # fmt: skip
        agree(got, want, f"The number for L = {length} and N = {steps} uneven steps", hints=hints)


def written(guess: Tensor, keep: Tensor) -> Tensor:
    """The law (V, V) of two tokens after all steps of the sampler, carried through all its states.

    Args:
        guess: (V + 1, V + 1, 2, V), probabilities of the letters at both places, for each state x_t.
        keep: ᾱ at the times of the grid, 1 first and 0 last.
    """
    vocab = guess.shape[-1]
    state, stay = torch.zeros(vocab + 1, vocab + 1), torch.eye(vocab + 1)
    state[vocab, vocab] = 1.0
    letter = torch.cat([guess, torch.zeros(*guess.shape[:-1], 1)], -1)
    for now, before in itertools.pairwise(keep.flip(0)):
        share = (before - now) / (1 - now)
        move = share * letter + (1 - share) * stay[vocab]
        one, two = move[:, :, 0].clone(), move[:, :, 1].clone()
        one[:vocab], two[:, :vocab] = stay[:vocab, None], stay[None, :vocab]  # what shows stays
        state = torch.einsum("ab,abc,abd->cd", state, one, two)
    return state[:vocab, :vocab]


def conditionals(p: Tensor) -> Tensor:
    """What a perfect network says for the law p (V, V) of two tokens: (V + 1, V + 1, 2, V)."""
    vocab = len(p)
    guess = torch.full((vocab + 1, vocab + 1, 2, vocab), 1 / vocab)
    guess[vocab, vocab, 0], guess[vocab, vocab, 1] = p.sum(1), p.sum(0)
    guess[:vocab, vocab, 1] = p / p.sum(1, keepdim=True)
    guess[vocab, :vocab, 0] = (p / p.sum(0)).T
    return guess


@exercise(points=2, stars=2, kind="derive")
def pair_law(answer: Any) -> None:
    """pair_law(p (V, V), keep (N + 1,)) -> (V, V): what a perfect network writes in N uneven steps.

    Looked at by carrying the law of (x_t^1, x_t^2), masks included, from step to step.
    """
    for steps in (3, 6, 2, 1):
        p, keep = torch.rand(3, 3) ** 2 + 0.02, grid(steps)
        p = p / p.sum()
        want = written(conditionals(p), keep)
        product = p.sum(1)[:, None] * p.sum(0)
        got = numbers(answer(p.clone(), keep.clone()), (3, 3), "the law of the pair")
        hints = {"That is the law of the data: what happens when both letters come in one step?": p,
                 "That is the product of marginals, right for one step only.": product,
                 "That is right only for steps of equal size.": p + (product - p) / steps}  # fmt: skip
        agree(got, want, f"The law for N = {steps}, uneven,", hints=hints)


@exercise(points=3, stars=2, kind="code")
def count_loss(answer: Any) -> None:
    """count_loss(net, x (B, L), mask) -> (): the bound per letter through the number of masks, nats.

    Looked at through a network that remembers which sets of letters were hidden.
    """
    net = TableNet(5, 4, 3)
    x = torch.randint(4, (30_000, 3))
    loss = numbers(answer(net, x, 4), (), "the loss")
    hold(len(net.calls) == 1, f"One call of the network is enough, yours makes {len(net.calls)}.")
    xt = net.calls[0]
    hold(xt.shape == x.shape, f"The network is given {tuple(xt.shape)} where x is {tuple(x.shape)}.")
    hidden = xt == 4
    hold((hidden | (xt == x)).all(), "A letter that shows is not the letter of x.")
    count = hidden.sum(1)
    hold(count.min() > 0, "Some line has nothing hidden: the number of masks is one of 1..L.")
    hold(count.max() == 3, "No line has all letters hidden: the number of masks is one of 1..L.")
    third = chance_std(1 / 3)
    share = torch.stack([count == k for k in (1, 2, 3)], 1).double()
    mean_is(share, 1 / 3, "How often each number of masks is drawn", third)
    names = hidden.long() @ torch.tensor([1, 2, 4])
    for k, sets in ((1, (1, 2, 4)), (2, (3, 5, 6))):
        share = torch.stack([names[count == k] == name for name in sets], 1).double()
        mean_is(share, 1 / 3, f"How often each set of {k} letters is hidden", third)
    nats = net.nats(x, xt)
    masked = hidden * nats
    want = (masked.sum(1) / count).mean()
    hints = {"All hidden letters of the batch count alike; each line should.": masked.sum() / count.sum(),
             "The number of masks does not divide: that is the sum over the hidden letters.": masked.sum(1).mean(),
             "It is divided by L; with a number of masks drawn evenly something else is due.": masked.mean(),
             "Letters that show are charged as well.": nats.mean(),
             "It is the bound of a line, not of a letter.": 3 * want,
             "A mean over lines is due, not a sum.": len(x) * want}  # fmt: skip
    agree(loss, want, "the loss", hints=hints)
    slope = gradient(loss, net.table, "the network's parameters")
    agree(slope, gradient(want, net.table, "them"), "the gradient with respect to the network")


@exercise(points=3, stars=2, kind="diagnose")
def repaired_loss(answer: Any) -> None:
    """repaired_loss(net, x (B, L), t (B,), mask) -> (): the mean over lines of sum/(t L), for ᾱ = 1 − t, nats.

    Looked at through a network that remembers what was hidden from it.
    """
    net, times = TableNet(5, 4, 3), torch.tensor([0.15, 0.4, 0.75]) + 0.1 * torch.rand(3)
    x, which = torch.randint(4, (20_000, 3)), torch.randint(3, (20_000,))
    t = times[which]
    loss = numbers(answer(net, x, t, 4), (), "the loss")
    hold(len(net.calls) == 1, f"One call of the network is enough, yours makes {len(net.calls)}.")
    xt = net.calls[0]
    hold(xt.shape == x.shape, f"The network is given {tuple(xt.shape)} where x is {tuple(x.shape)}.")
    hidden = xt == 4
    hold((hidden | (xt == x)).all(), "A letter that shows is not the letter of x.")
    for place, time in enumerate(times):
        share = hidden[which == place].double()
        mean_is(share, time, f"The share of letters hidden at t = {time:.2f}", chance_std(time))
    uncorrelated((hidden.double() - t[:, None]) / chance_std(t)[:, None], "Which letters are hidden")
    nats, weight = net.nats(x, xt), 1 / t[:, None]
    masked = hidden * nats
    want = (masked * weight).mean()
    hints = {"That is the mean over masked letters: what does each letter count?": masked.sum() / hidden.sum(),
             "That is the mean over masked letters, weighted as well.": (masked * weight).sum() / hidden.sum(),
             "The weight is missing.": masked.mean(),
             "The weight is one over the share that shows.": (masked / (1 - t[:, None])).mean(),
             "Letters that show are charged as well.": (nats * weight).mean(),
             "Each line has its own t: one weight for all lines is not enough.": masked.mean() / t.mean(),
             "It is the bound of a line, not of a letter.": 3 * want,
             "A mean is due, not a sum.": masked.numel() * want}  # fmt: skip
    agree(loss, want, "the loss", hints=hints)
    slope = gradient(loss, net.table, "the network's parameters")
    agree(slope, gradient(want, net.table, "them"), "the gradient with respect to the network")


@exercise(points=3, stars=3, kind="code")
def exact_bound(answer: Any) -> None:
    """exact_bound(net, x (B, L), mask) -> (B,): the bound of each line without any drawing, in nats, for small L.

    Looked at by writing the letters in all orders, with a network whose answers contradict each other.
    """
    for vocab, length in ((3, 1), (3, 2), (2, 3), (2, 4)):
        net, x = TableNet(vocab + 1, vocab, length, 3.0), torch.randint(vocab, (6, length))
        orders = list(itertools.permutations(range(length)))
        total, forward = torch.zeros(6), torch.zeros(6)
        for order in orders:
            seen = torch.full_like(x, vocab)
            for place in order:
                spent = net.nats(x, seen)[:, place].detach()
                total = total + spent
                forward = forward + spent * (order == orders[0])
                seen[:, place] = x[:, place]
        want = total / len(orders)
        at_once = net.nats(x, torch.full_like(x, vocab)).sum(1).detach()
        got = numbers(answer(net, x, vocab), (6,), "the bound of each line").detach()
        hints = {"That is its share for one letter.": want / length,
                 "That writes from left to right only.": forward,
                 "That hides all letters at once and nothing else.": at_once}  # fmt: skip
        agree(got, want, f"The bound for L = {length}", hints=hints)


@exercise(points=2, stars=3, kind="derive")
def cut(answer: Any) -> None:
    """cut(length, least) -> (L,): c_1..c_L, what L(x) still counts of k masks if its times start at `least`, not at 0.

    L_cut(x) = Σ_k c_k E_{|S|=k}[(1/k) Σ_{l in S} −log x_θ]. Looked at by quadrature in time.
    """
    nodes, weights = plane.legendre(40)
    for length in (2, 5, 20, 1):
        least = 10 ** (-1.5 * torch.rand(()).item() - 0.3)
        u = least + (1 - least) * nodes.double()
        k = torch.arange(1, length + 1)[:, None]
        sets = torch.tensor([math.comb(length, int(each)) for each in k], dtype=torch.float64)
        area = (u ** (k - 1) * (1 - u) ** (length - k)) @ weights.double() * (1 - least)
        want = k[:, 0] * sets * area
        got = numbers(answer(length, least), (length,), "the list c_1..c_L")
        hints = {"That is what is lost, not what is left.": 1 - want,
                 "The bound is an integral; nothing divides it by the length of the interval.": want / (1 - least),
                 "That is the weight of one set of k masks, and of one letter in it.": area,
                 "That is the list without a cut.": torch.ones(length)}  # fmt: skip
        agree(got, want, f"The list for L = {length} and ε = {least:.3f}", hints=hints)


@exercise(points=3, stars=3, kind="diagnose")
def repaired_sampler(answer: Any) -> None:
    """repaired_sampler(net, n, length, mask, steps) -> (n, length): the ancestral sampler on an even grid, ᾱ = 1 − t.

    The law of two tokens is carried through all states, for a network whose answers contradict each other.
    """
    count = 40_000
    for steps in (1, 2, 5):
        net = bonded()
        value = samples(answer(net, count, 2, 3, steps), (count, 2), "the samples")
        hold((value == value.round()).all() and value.min() >= 0 and value.max() <= 3, "The samples are not tokens.")
        hold(value.max() < 3, f"With N = {steps} there are still masks in the samples.")
        pairs = [(a, b) for a, b in itertools.pairwise(net.calls) if a.shape == b.shape == (count, 2)]
        changed = any(bool(((a != 3) & (a != b)).any()) for a, b in pairs)
        hold(not changed, "A letter that showed in one call of the network has changed in the next.")
        want = written(net.table.detach().softmax(-1), torch.linspace(1, 0, steps + 1)).flatten()
        share = torch.bincount((3 * value[:, 0] + value[:, 1]).long(), minlength=9) / count
        luck = SIGMAS * (want * (1 - want) / count).sqrt() + 10 / count  # the second for cells that are hardly visited
        off, worst = ((share - want).abs() - luck).max(0)
        found = f"is written in {100 * share[worst]:.1f} % of the lines where {100 * want[worst]:.1f} % are due."
        hold(off <= 0, f"With N = {steps} the pair ({worst // 3}, {worst % 3}) {found}")


def bonded() -> TableNet:
    """A network on two letters of three that is nearly sure of one when the other shows."""
    net, other = TableNet(4, 3), torch.randperm(3)
    with torch.no_grad():
        net.table[3, 3] *= 0.3
        for letter in range(3):
            net.table[letter, 3, 1, other[letter]] += 4
            net.table[3, other[letter], 0, letter] += 4
    return net


@exercise(points=2, stars=2, kind="derive")
def race(answer: Any) -> None:
    """race(q, bits) -> (): P(E/q < E_m), E = −log u with u uniform on 0, δ, …, 1 − δ, δ = 2^−bits; E_m exact.

    Looked at from the mask's side: for each E_m, count the u that win.
    """
    v = (torch.arange(2**19) + 0.5) / 2**19  # E_m = −log v
    for bits, ratio in ((5, 0.6), (6, 1.5), (4, 3.0), (6, 12.0)):
        delta = 2.0**-bits
        q = ratio * delta * (1 + 0.3 * torch.rand(()).item())
        want = delta * ((1 - v**q) / delta).floor().mean()  # the share of u = 1 − jδ, j ≥ 1, with u > v^q
        got = numbers(answer(q, bits), (), "the chance to win")
        hints = {"That is the weight itself, as if numbers had no grain.": torch.tensor(q),
                 "That is the chance with exact numbers.": torch.tensor(q / (1 + q)),
                 "It is nearly that, but small weights and fine grains are supposed.":
                 torch.tensor(delta / math.expm1(delta / q))}  # fmt: skip
        agree(got, want, f"The chance for weight {q:.4f} and {bits} bits", tolerance=3e-3, hints=hints)
    q = 0.1 + torch.rand(()).item()
    got = numbers(answer(q, 16), (), "the chance to win")
    agree(got, torch.tensor(q / (1 + q)), f"The chance for weight {q:.3f} and 16 bits", tolerance=1e-3)


def sum_law() -> pairs.TokenLaw:
    """Three letters of five: two drawn unevenly, the third their sum modulo 5, but in three cases of twenty any."""
    one, two = torch.tensor([5.0, 4, 3, 2, 1]).double() / 15, torch.tensor([1.0, 1, 1, 3, 4]).double() / 10
    places = torch.arange(5)
    total = (places[:, None] + places)[..., None] % 5 == places
    return pairs.TokenLaw(one[:, None, None] * two[:, None] * (0.85 * total.double() + 0.15 / 5))


@exercise(points=3, stars=2, kind="experiment")
def guess(answer: Any) -> None:
    """guess(xt (B, 3)) -> (B, 3, 5): logits of a network for `sum_law`, with a bound within 0.03 nats of the entropy.

    The mean bound is enumerated: all words, all sets of masks. No drawing.
    """
    pmf = sum_law().pmf
    words = torch.cartesian_prod(*[torch.arange(5)] * 3)
    seen = torch.tensor(list(itertools.product([False, True], repeat=3))[1:])  # the sets of masks
    states = torch.cartesian_prod(*[torch.arange(6)] * 3)
    order = torch.randperm(216)  # each line that can be seen, once, where it betrays nothing of the word behind it
    logits = samples(answer(states[order]), (216, 3, 5), "the answer")[order.argsort()].reshape(6, 6, 6, 3, 5)
    xt = torch.where(seen[:, None], 5, words)  # (7, 125, 3)
    guesses = logits[tuple(xt.unbind(-1))].detach().log_softmax(-1)
    nats = -guesses.gather(-1, words.expand(7, 125, 3)[..., None])[..., 0]
    excess: dict[str, float] = {}
    for hidden, spent in zip(seen.tolist(), (pmf.flatten()[:, None] * nats).sum(1)):
        places = [place for place in range(3) if hidden[place]]
        for place in places:  # p(x^place | what shows), by sums over the hidden axes
            ideal = pmf.sum([p for p in places if p != place], keepdim=True) if len(places) > 1 else pmf
            least = -(pmf * (ideal / pmf.sum(places, keepdim=True)).log()).sum()
            weight = math.factorial(len(places) - 1) * math.factorial(3 - len(places)) / 6
            name = f"letter {place + 1}, when hidden are {[each + 1 for each in places]}"
            excess[name] = weight * (spent[place] - least).item()
    total = sum(excess.values())
    if total >= 0.03:
        worst = max(excess, key=lambda name: excess[name])
        raise Wrong(f"The bound is {total:.3f} nats above the entropy, not below 0.03. Worst: {worst}.")
    learned(total, 1e-7)
