"""Checks of the exercises of chapter 15, ratios of probabilities."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from gmbook.course.draws import SIGMAS, chance_std, learned, mean_is
from gmbook.course.kit import agree, between, exercise, gradient, hold, numbers, samples
from gmbook.course.tables import TableNet
from gmbook.laws import plane


def some_law(*shape: int) -> Tensor:
    """Uneven probabilities, all above zero."""
    weights = torch.rand(shape) ** 2 + 0.05
    return weights / weights.sum()


def generator(vocab: int) -> Tensor:
    """Rates without symmetry, rows sum to 0: (V, V)."""
    rates = (torch.rand(vocab, vocab) + 0.1).fill_diagonal_(0.0)
    return rates - torch.diag(rates.sum(1))


@exercise(points=1, stars=1, kind="derive")
def ratios(answer: Any) -> None:
    """ratios(p (V,), noise, x) -> (V,): p_t(y)/p_t(x) of one token for every y, uniform chain, from p_0 and σ̄(t).

    Looked at by the exponential of the matrix of rates.
    """
    for vocab in (2, 4, 5):
        p, noise, x = some_law(vocab), between(0.2, 2.0), vocab - 2
        law = p @ torch.linalg.matrix_exp(noise * (torch.full((vocab, vocab), 1 / vocab) - torch.eye(vocab)))
        want = law / law[x]
        got = numbers(answer(p.clone(), noise.clone(), x), (vocab,), "the ratios")
        hints = {"That is without noise.": p / p[x], "They are ratios, not logarithms.": want.log(),
                 "Present and neighbour are exchanged.": 1 / want, "That is p_t itself.": law}  # fmt: skip
        agree(got, want, f"The ratios for V = {vocab}", hints=hints)


@exercise(points=1, stars=1, kind="derive")
def leaving(answer: Any) -> None:
    """leaving(p (V,), slope (V,), exits (V,)) -> (V,): rate at which the reverse chain leaves each x, any matrix.

    Looked at by summing ratios times rates over all other values, for rates without symmetry.
    """
    for vocab in (3, 5, 4):
        rates, p = generator(vocab), some_law(vocab)
        slope, exits = p @ rates, -rates.diagonal()
        want = torch.stack(
            [sum(p[y] / p[x] * rates[y, x] for y in range(vocab) if y != x) for x in range(vocab)]  # type: ignore[misc]
        )
        got = numbers(answer(p.clone(), slope.clone(), exits.clone()), (vocab,), "the rates")
        hints = {"That is how often it leaves forwards.": exits, "What grows is left backwards: see the sign.": exits
                 - slope / p, "The slope is of p, not of log p.": exits + slope,
                 "The way out forwards is missing.": slope / p}  # fmt: skip
        agree(got, want, "The rate of leaving", hints=hints)


@exercise(points=2, stars=2, kind="code")
def entropy_loss(answer: Any) -> None:
    """entropy_loss(log_s, r) -> like them: score entropy, elementwise, r = 0 allowed, fit for gradients.

    Looked at by quadrature of ∫_r^s (1 − r/u) du, and the gradient by differences of it.
    """
    nodes, weights = (each.double() for each in plane.legendre(60))
    log_s = (2 * torch.randn(7, 3)).requires_grad_()
    r = torch.rand(7, 3) * 3 + 0.05
    got = numbers(answer(log_s, r.clone()), (7, 3), "the loss")
    low, high = r.log()[..., None], log_s.detach()[..., None]
    u = low + (high - low) * nodes  # in logarithms: du = e^u d log u
    want = (((u.exp() - r[..., None]) * weights).sum(-1) * (high - low)[..., 0]).clamp(min=0)
    plain = log_s.detach().exp() - r * log_s.detach()
    hints = {"K(r) is missing: the least value must be 0.": plain,
             "The network emits log s: see where s itself is due.": log_s.detach() - r * log_s.detach().abs().log(),
             "It is linear in s.": r.exp() - log_s.detach().exp() * r.exp() + log_s.detach().exp()}  # fmt: skip
    agree(got, want, "The loss", hints=hints)
    slope = gradient(got.sum(), log_s, "log s")
    agree(slope, log_s.detach().exp() - r, "The gradient with respect to log s")
    zero = numbers(answer(torch.tensor([0.3, -2.0]), torch.zeros(2)), (2,), "the loss at r = 0")
    agree(zero, torch.tensor([0.3, -2.0]).exp(), "The loss at r = 0")


@exercise(points=2, stars=2, kind="derive")
def least(answer: Any) -> None:
    """least(r (K,), chance (K,)) -> (s, loss): the best single s for a random target, and E SE(s, r) there.

    Looked at by search along log s.
    """
    for count in (2, 4, 6):
        r, chance = torch.rand(count) ** 3 * 4 + 0.02, some_law(count)

        def mean_loss(a: Tensor, r: Tensor = r, chance: Tensor = chance) -> Tensor:
            se = a[:, None].exp() - r * a[:, None] + r * (r.log() - 1)
            return (chance * se).sum(1)

        low, high = torch.tensor(-8.0), torch.tensor(4.0)
        for _ in range(12):  # a finer and finer grid around the least value
            grid = torch.linspace(low.item(), high.item(), 101, dtype=torch.float64)
            k = mean_loss(grid).argmin().clamp(1, 99)
            low, high = grid[k - 1], grid[k + 1]
        best = (low + high) / 2
        got = numbers(answer(r.clone(), chance.clone()), (2,), "the answer (s, loss)")
        geometric = (chance * r.log()).sum().exp()
        hints = {"That is the best for errors of log s.": geometric}
        agree(got[0], best.exp(), "The best s", tolerance=1e-5, hints=hints)
        agree(got[1], mean_loss(best[None])[0], "The loss there", tolerance=1e-5)


@exercise(points=2, stars=2, kind="derive")
def clocks(answer: Any) -> None:
    """clocks(friend (K,), model (K,)) -> (): KL per unit of time between two processes that jump at these K rates.

    Looked at by the KL of one short step, jump or none, over its length, in the limit.
    """
    for count in (1, 3, 5):
        friend, apart = torch.rand(count) * 2 + 0.1, between(0.3, 1.5, count)  # equal rates would leave rounding alone
        model = friend * torch.exp(apart * torch.where(torch.rand(count) < 0.5, 1.0, -1.0))

        def step(dt: float, a: Tensor = friend, b: Tensor = model) -> Tensor:
            p, q = (torch.cat([1 - dt * r.sum()[None], dt * r]) for r in (a, b))
            return (p * (p / q).log()).sum() / dt

        want = 2 * step(0.5e-5) - step(1e-5)  # without the error of first order
        got = numbers(answer(friend.clone(), model.clone()), (), "the divergence")
        hints = {"Not jumping tells something as well: the rates themselves are missing.": (friend
                 * (friend / model).log()).sum(), "Whose rates are averaged over?": 2 * (model * (model / friend).log()
                 - model + friend).sum() / 2}  # fmt: skip
        agree(got, want, f"The divergence for K = {count}", tolerance=1e-5, hints=hints)


@exercise(points=2, stars=2, kind="code")
def undo(answer: Any) -> None:
    """undo(s (B, L, V), xt (B, L), step) -> (B, L, V): Tweedie's step of length Δσ̄, uniform chain; 1 at the present.

    Looked at by Bayes' rule for single tokens whose laws are known at the earlier time.
    """
    vocab, step = 4, between(0.1, 1.5)
    before = some_law(5 * 3, vocab).reshape(5, 3, vocab)
    before = before / before.sum(-1, keepdim=True)
    kernel = torch.linalg.matrix_exp(step * (torch.full((vocab, vocab), 1 / vocab) - torch.eye(vocab)))
    xt, after = torch.randint(vocab, (5, 3)), before @ kernel
    scores = after / after.gather(-1, xt[..., None])
    joint = before * kernel[:, xt].permute(1, 2, 0)
    want = joint / joint.sum(-1, keepdim=True)
    got = numbers(answer(scores.clone(), xt.clone(), step.clone()), (5, 3, vocab), "the law of x_s")
    redone = scores * kernel[:, xt].permute(1, 2, 0)
    further = (scores @ kernel) * kernel[:, xt].permute(1, 2, 0)
    hints = {"The noise of the ratios is not undone.": redone / redone.sum(-1, keepdim=True),
             "That noises the ratios once more: the step goes back.": further / further.sum(-1, keepdim=True),
             "It forgets that x_t is known.": before}  # fmt: skip
    agree(got, want, "The law of x_s", hints=hints)


@exercise(points=3, stars=2, kind="code")
def masked_loss(answer: Any) -> None:
    """masked_loss(net, x (B, 2), keep (B,), rate (B,), mask) -> (): the denoising loss of an absorbing chain, per pair.

    Looked at through a network that remembers what was hidden, with the sum over all neighbours written out.
    """
    count = 20_000
    net, x = TableNet(5, 4), torch.randint(4, (count, 2))
    which = torch.randint(3, (count,))
    level = torch.tensor([0.2, 0.5, 0.85]) + 0.1 * torch.rand(3)
    keep, rate = level[which], 0.5 + torch.rand(count)
    loss = numbers(answer(net, x, keep.clone(), rate.clone(), 4), (), "the loss")
    hold(len(net.calls) == 1, f"One call of the network is enough, yours makes {len(net.calls)}.")
    xt = net.calls[0]
    hold(xt.shape == x.shape, f"The network is given {tuple(xt.shape)} where x is {tuple(x.shape)}.")
    hidden = xt == 4
    hold((hidden | (xt == x)).all(), "A token that shows is not the token of x.")
    for k, kept in enumerate(level):
        mean_is(hidden[which == k].double(), 1 - kept, f"The share of masks at keep = {kept:.2f}", chance_std(kept))
    mean_is(hidden.all(1).double() - (1 - keep) ** 2, 0.0, "How often both tokens of a pair are hidden", 0.5)
    log_s = net.table[tuple(xt.unbind(1))]
    total, plain, everywhere = torch.zeros(count), torch.zeros(count), torch.zeros(count)
    for place, y in itertools.product(range(2), range(4)):
        r = torch.where(x[:, place] == y, keep / (1 - keep), 0.0)
        a = log_s[:, place, y]
        value = a.exp() - r * a + torch.where(r > 0, r * (r.clamp(min=1e-9).log() - 1), 0.0)
        total = total + hidden[:, place] * value
        everywhere = everywhere + value
        plain = plain + hidden[:, place] * (a.exp() - r * a)
    want = (rate * total).mean()
    hints = {"K(r) is missing.": (rate * plain).mean(), "The rate is missing.": total.mean(),
             "Only masks go back; tokens that show have no rates.": (rate * everywhere).mean(),
             "It is the loss of a token, not of a pair.": want / 2}  # fmt: skip
    agree(loss, want, "the loss", hints=hints)
    slope = gradient(loss, net.table, "the network's parameters")
    agree(slope, gradient(want, net.table, "them"), "the gradient with respect to the network")


@exercise(points=3, stars=3, kind="code")
def way_back(answer: Any) -> None:
    """way_back(p (V, V), rates (V, V)) -> (V, V, V, V): the reverse chain's rates from every pair to every other.

    Both tokens jump by the same rates, independently. Looked at by a detailed balance of flows over all pairs.
    """
    for vocab in (2, 3):
        p, rates = some_law(vocab, vocab), generator(vocab)
        want = torch.zeros(*[vocab] * 4)
        for a, b, c, d in itertools.product(range(vocab), repeat=4):
            if (a == c) == (b == d):
                continue  # not one jump
            forwards = rates[c, a] if b == d else rates[d, b]  # of the pair (c, d) into (a, b)
            want[a, b, c, d] = p[c, d] * forwards / p[a, b]
        for a, b in itertools.product(range(vocab), repeat=2):
            want[a, b, a, b] = -want[a, b].sum()
        got = numbers(answer(p.clone(), rates.clone()), (vocab,) * 4, "the rates")
        off = got.clone()
        for a, b in itertools.product(range(vocab), repeat=2):
            off[a, b, a, b] = want[a, b, a, b]
        if bool((off - want).abs().max() < 1e-9):
            agree(got, want, "The rates are right but for the diagonal, which makes rows sum to 0: it")
        agree(got, want, f"The table for V = {vocab}")


@exercise(points=3, stars=3, kind="diagnose")
def repaired_sampler(answer: Any) -> None:
    """repaired_sampler(net, n, pi (V,), noise (N + 1,)) -> (n, 2): Euler's steps from σ̄_N down to σ̄_0, jumps to π.

    The law of the pair is carried through all states, for a network whose answers contradict each other.
    """
    count, vocab = 40_000, 3
    for steps in (1, 2, 4):
        net, pi = TableNet(vocab, vocab), some_law(vocab)
        noise = torch.cat([torch.zeros(1), (0.1 + 0.9 * torch.rand(steps)).cumsum(0)])
        value = samples(answer(net, count, pi.clone(), noise.clone()), (count, 2), "the samples")
        whole = (value == value.round()).all() and value.min() >= 0 and value.max() < vocab
        hold(whole, "The samples are not tokens.")
        hold(len(net.calls) == steps, f"With N = {steps} the network is asked {len(net.calls)} times.")
        state = pi[:, None] * pi
        first = torch.bincount(vocab * net.calls[0][:, 0] + net.calls[0][:, 1], minlength=9) / count
        start = state.flatten()
        even = (first - start).abs() < SIGMAS * (start * (1 - start) / count).sqrt() + 10 / count
        hold(even.all(), "The walk does not start from pairs drawn by π.")
        scores = net.table.detach().exp()
        for k in range(steps, 0, -1):
            state = euler(state, scores, pi, noise[k] - noise[k - 1])
        want = state.flatten()
        share = torch.bincount((vocab * value[:, 0] + value[:, 1]).long(), minlength=9) / count
        luck = SIGMAS * (want * (1 - want) / count).sqrt() + 10 / count
        off, worst = ((share - want).abs() - luck).max(0)
        found = f"is drawn in {100 * share[worst]:.1f} % of the cases where {100 * want[worst]:.1f} % are due."
        hold(off <= 0, f"With N = {steps} the pair ({worst // 3}, {worst % 3}) {found}")


def euler(state: Tensor, scores: Tensor, pi: Tensor, step: Tensor) -> Tensor:
    """The law (V, V) of pairs after one of Euler's steps of length Δσ̄, cut off at 0 and normalised."""
    vocab, after = len(pi), torch.zeros_like(state)
    for a, b in itertools.product(range(vocab), repeat=2):
        laws = []
        for place, here in ((0, a), (1, b)):
            law = step * scores[a, b, place] * pi[here]
            law[here] = 0.0
            law[here] = (1 - law.sum()).clamp(min=0)
            laws.append(law / law.sum())
        after = after + state[a, b] * laws[0][:, None] * laws[1]
    return after


KEEP, VOCAB = 0.6, 5


def chain_law() -> Tensor:
    """Two tokens of five: the second is the first or the one after it: (5, 5)."""
    first = torch.tensor([4.0, 1, 3, 2, 2]).double() / 12
    law = torch.full((VOCAB, VOCAB), 0.02, dtype=torch.float64)
    for v in range(VOCAB):
        law[v, v] += 0.5
        law[v, (v + 1) % VOCAB] += 0.4
    return first[:, None] * law


def noised_law() -> Tensor:
    """`chain_law` after uniform noise that keeps a token with probability 0.6: (5, 5)."""
    kernel = KEEP * torch.eye(VOCAB).double() + (1 - KEEP) / VOCAB
    return kernel.T @ chain_law() @ kernel


@exercise(points=3, stars=2, kind="experiment")
def guess(answer: Any) -> None:
    """guess(xt (B, 2)) -> (B, 2, 5): log-ratios of `noised_law`, with a mean score entropy below 0.01 nats.

    The mean over x_t and the sum over its eight neighbours are enumerated. No drawing.
    """
    states = torch.cartesian_prod(torch.arange(VOCAB), torch.arange(VOCAB))
    order = torch.randperm(VOCAB**2)
    asked = samples(answer(states[order]), (VOCAB**2, 2, VOCAB), "the answer")[order.argsort()].detach()
    law, total = noised_law(), 0.0
    for (a, b), log_s in zip(states.tolist(), asked):
        for y in range(VOCAB):
            for place, r in ((0, law[y, b] / law[a, b]), (1, law[a, y] / law[a, b])):
                if y != (a, b)[place]:
                    log = log_s[place, y]
                    total = total + law[a, b] * (log.exp() - r * log + r * (r.log() - 1))
    off = float(total)
    hold(off < 0.01, f"The mean score entropy is {off:.4f} nats, not below 0.01.")
    learned(off, 1e-7)
    hold(math.isfinite(off), "The answer holds numbers that are not finite.")
