"""Checks of the exercises of chapter 14, diffusion on tokens."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from gmbook.course.draws import SIGMAS, chance_std, learned, mean_is
from gmbook.course.kit import agree, between, exercise, gradient, hold, numbers, samples
from gmbook.course.tables import TableNet


def matrices(steps: int, vocab: int, noise: float = 0.5) -> Tensor:
    """Q_1..Q_T without any symmetry, rows sum to 1: (T, V, V)."""
    weights = torch.rand(steps, vocab, vocab) ** 2 + 0.05
    return (1 - noise) * torch.eye(vocab) + noise * weights / weights.sum(-1, keepdim=True)


def products(tables: Tensor) -> Tensor:
    """Q̄_0 = I, Q̄_1, …, Q̄_T: (T + 1, V, V)."""
    found = [torch.eye(tables.shape[-1], dtype=tables.dtype)]
    for table in tables:
        found.append(found[-1] @ table)
    return torch.stack(found)


def some_law(*shape: int) -> Tensor:
    """Uneven probabilities, all above zero."""
    weights = torch.rand(shape) ** 2 + 0.05
    return weights / weights.sum()


@exercise(points=1, stars=1, kind="derive")
def stayed(answer: Any) -> None:
    """stayed(keep, vocab) -> (): P(the token never jumped | x_t = x_0), uniform chain, from ᾱ at t and V.

    Looked at by a chain of pairs (value, has it jumped?), multiplied out over uneven steps.
    """
    for vocab in (2, 3, 5, 4):
        betas = between(0.05, 0.4, 4)
        state = torch.zeros(vocab, 2)  # of a token that is 0 at the start
        state[0, 0] = 1.0
        for beta in betas:
            jumps = beta * state.sum() / vocab
            state = (1 - beta) * state
            state[:, 1] += jumps
        keep, want = (1 - betas).prod(), state[0, 0] / state[0].sum()
        got = numbers(answer(keep.clone(), vocab), (), "the probability")
        hints = {"That is the chance not to have jumped, before anything was seen.": keep,
                 "That is the chance to look the same.": state[0].sum(),
                 "A jump may end where it began: one of V.": torch.ones(()),
                 "That is the chance that it did jump.": 1 - want}  # fmt: skip
        agree(got, want, f"The probability for V = {vocab}", hints=hints)


@exercise(points=1, stars=1, kind="derive")
def forget(answer: Any) -> None:
    """forget(keep, vocab) -> (): I(x_0; x_t) of the uniform chain with x_0 uniform on V values, in nats.

    Looked at by the joint table, as a divergence from the product of its marginals.
    """
    for vocab in (2, 3, 7, 5):
        keep = between(0.1, 0.9)
        joint = (keep * torch.eye(vocab) + (1 - keep) / vocab) / vocab
        want = (joint * (joint / (joint.sum(1, keepdim=True) * joint.sum(0))).log()).sum()
        entropy = torch.tensor(float(vocab)).log()
        got = numbers(answer(keep.clone(), vocab), (), "the information")
        hints = {"That is in bits.": want / torch.tensor(2.0).log(),
                 "That is what is lost, not what is left.": entropy - want,
                 "That is right with a mask; here a jump is not seen.": keep * entropy,
                 "A jump may end where it began: q(x_t = x_0) is more than ᾱ.": entropy
                 + keep * keep.log() + (1 - keep) * ((1 - keep) / (vocab - 1)).log()}  # fmt: skip
        agree(got, want, f"The information for V = {vocab}", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def bridge(answer: Any) -> None:
    """bridge(first, last, pi (V,), before, now) -> (V,): q(x_s = · | x_0 = first, x_t = last), jumps to the law π.

    Looked at by the table of (x_s, x_t) for a token that starts at `first`, and division.
    """
    for trial in range(6):
        vocab, keep = 4, between(0.3, 0.9, 2)
        pi, before, now = some_law(4), keep[0], keep.prod()
        first, last = (trial % 4, trial % 4) if trial < 3 else (trial % 4, (trial + 1) % 4)
        q_s, q_ts = (k * torch.eye(vocab) + (1 - k) * pi for k in keep)
        joint = q_s[first][:, None] * q_ts
        want = joint[:, last] / joint[:, last].sum()
        got = numbers(answer(first, last, pi.clone(), before.clone(), now.clone()), (vocab,), "the law of x_s")
        unscaled = joint[:, last]
        wrong = q_s[first] * (now * torch.eye(vocab) + (1 - now) * pi)[:, last]
        back = q_s[:, first] * q_ts[last]
        hints = {"It does not sum to 1.": unscaled,
                 "From s to t the token is kept with probability ᾱ_t/ᾱ_s, not ᾱ_t.": wrong / wrong.sum(),
                 "Rows and columns are exchanged: π belongs to where a jump ends.": back / back.sum(),
                 "It forgets that x_t is known.": q_s[first]}  # fmt: skip
        agree(got, want, f"The law with x_0 = {first} and x_t = {last}", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def two_noises(answer: Any) -> None:
    """two_noises(hide (T,), swap (T,), vocab) -> (3,): P(x_T is x_0), P(it is one other given letter), P(mask).

    Looked at by multiplying the matrices of the steps.
    """
    for vocab in (2, 3, 5):
        hide, swap = between(0.02, 0.2, 5), between(0.05, 0.4, 5)
        law = torch.zeros(vocab + 1)
        law[0] = 1.0
        for h, g in zip(hide, swap):
            step = (1 - h - g) * torch.eye(vocab + 1)
            step[:vocab, :vocab] += g / vocab
            step[:vocab, vocab] += h
            step[vocab] = torch.eye(vocab + 1)[vocab]
            law = law @ step
        want = torch.stack([law[0], law[1], law[vocab]])
        got = numbers(answer(hide.clone(), swap.clone(), vocab), (3,), "the three probabilities")
        never = (1 - hide - swap).prod()
        mask_hints = {"A letter is not safe from the mask because it was swapped.": 1 - (1 - hide / (1 - swap)).prod(),
                      "It comes once: chances of several steps do not add.": hide.sum()}  # fmt: skip
        agree(got[2], want[2], "The probability of the mask", hints=mask_hints)
        hints = {"A swapped letter may be what it was.": torch.stack([never, want[1]])}
        agree(got[:2], want[:2], "The pair (x_0 again, one other letter)", hints=hints)


@exercise(points=2, stars=2, kind="code")
def joint_step(answer: Any) -> None:
    """joint_step(logits (B, L, V), xt (B, L), first (V, V), then (V, V)) -> (B, L, V): p(x_s | x_t), the joint form.

    Looked at by a sum over the table of all triples, one token at a time, for matrices without symmetry.
    """
    first, then = matrices(2, 4)
    logits, xt = 2 * torch.randn(5, 3, 4), torch.randint(4, (5, 3))
    want, mixed = torch.zeros(5, 3, 4), torch.zeros(5, 3, 4)
    triple = first[:, :, None] * then[None]  # q(x_s, x_t | x_0): [x_0, x_s, x_t]
    given = triple / triple.sum(1, keepdim=True)
    for b, l in itertools.product(range(5), range(3)):
        guess = logits[b, l].exp() / logits[b, l].exp().sum()
        seen = sum(guess[v] * triple[v, :, xt[b, l]] for v in range(4))
        want[b, l] = seen / seen.sum()
        mixed[b, l] = sum(guess[v] * given[v, :, xt[b, l]] for v in range(4))
    got = numbers(answer(logits.clone(), xt.clone(), first.clone(), then.clone()), (5, 3, 4), "the law of x_s")
    hints = {"That is the mixture form: the mean of the friend's steps.": mixed,
             "The law of x_s does not look at x_t.": logits.softmax(-1) @ first}  # fmt: skip
    agree(got, want, "The law of x_s", hints=hints)


@exercise(points=2, stars=2, kind="derive")
def leave_one_out(answer: Any) -> None:
    """leave_one_out(posterior (L, V), xt (L,), kernel (V, V)) -> (L, V): p(x_0^l = v | x_t^{−l}), every place.

    Looked at on a law of two tokens: the joint table of the clean token and the other noisy one.
    """
    for _ in range(3):
        p, kernel, xt = some_law(4, 4), matrices(1, 4, 0.7)[0], torch.randperm(4)[:2]  # two that differ
        one, two = p @ kernel[:, xt[1]], kernel[:, xt[0]] @ p  # p(x_0^1, x_t^2), p(x_0^2, x_t^1)
        want = torch.stack([one / one.sum(), two / two.sum()])
        posterior = want * kernel[:, xt].T
        posterior = posterior / posterior.sum(1, keepdim=True)
        got = numbers(answer(posterior.clone(), xt.clone(), kernel.clone()), (2, 4), "the law")
        twice = posterior * kernel[:, xt].T
        rows = posterior / kernel[xt]
        hints = {"That counts the evidence of x_t^l twice.": twice / twice.sum(1, keepdim=True),
                 "q(x_t = w | x_0 = v), as a function of v, is a column.": rows / rows.sum(1, keepdim=True),
                 "It does not sum to 1.": posterior / kernel[:, xt].T}  # fmt: skip
        agree(got, want, "The leave-one-out law", hints=hints)


@exercise(points=3, stars=2, kind="code")
def masked_loss(answer: Any) -> None:
    """masked_loss(net, x (B, 2), i (B,), keep (T + 1,), mask) -> (): T times the mean of L_{i−1}, per token, any pace.

    Looked at through a network that remembers what was hidden, and the KL of two laws on all states.
    """
    steps, count = 5, 20_000
    keep = torch.cat([torch.ones(1), (1 - between(0.1, 0.5, steps)).cumprod(0)])
    net, x, i = TableNet(5, 4, size=1.5), torch.randint(4, (count, 2)), torch.randint(1, steps + 1, (count,))
    loss = numbers(answer(net, x, i, keep.clone(), 4), (), "the loss")
    hold(len(net.calls) == 1, f"One call of the network is enough, yours makes {len(net.calls)}.")
    xi = net.calls[0]
    hold(xi.shape == x.shape, f"The network is given {tuple(xi.shape)} where x is {tuple(x.shape)}.")
    hidden = xi == 4
    hold((hidden | (xi == x)).all(), "A token that shows is not the token of x.")
    for step in range(1, steps + 1):
        share = hidden[i == step].double()
        mean_is(share, 1 - keep[step], f"The share of masks at i = {step}", chance_std(keep[step]))
    both = hidden.all(1).double() - (1 - keep[i]) ** 2
    mean_is(both, 0.0, "How often both tokens of a pair are hidden", 0.5)
    now, before = keep[i], keep[i - 1]
    law = net.table[tuple(xi.unbind(1))].softmax(-1)
    guess = torch.cat([law, torch.zeros(count, 2, 1)], -1)
    truth = torch.nn.functional.one_hot(x, 5).double()
    rest = torch.nn.functional.one_hot(torch.tensor(4), 5).double()
    share = ((before - now) / (1 - now))[:, None, None]
    friend, ours = (share * each + (1 - share) * rest for each in (truth, guess))
    kl = (torch.xlogy(friend, friend) - torch.xlogy(friend, ours.clamp(min=1e-300))).sum(-1)  # (B, 2)
    nats = -law.gather(-1, x[..., None])[..., 0].log()
    want = steps * (kl * hidden).mean()
    hints = {"The weight 1/i belongs to the even pace only.": steps * (nats * hidden / i[:, None]).mean(),
             "The weight is missing.": steps * (nats * hidden).mean(),
             "The factor T is missing: i is one of T steps.": (kl * hidden).mean(),
             "Tokens that show are charged as well.": steps * (nats * share[..., 0]).mean(),
             "It is the bound of a pair, not of a token.": 2 * want}  # fmt: skip
    agree(loss, want, "the loss", hints=hints)
    slope = gradient(loss, net.table, "the network's parameters")
    agree(slope, gradient(want, net.table, "them"), "the gradient with respect to the network")


@exercise(points=3, stars=3, kind="code")
def bound(answer: Any) -> None:
    """bound(tables (T, V, V), steps (T, V, V), start (V,)) -> (V,): the bound on −log p_θ(x_0) of every x_0, in nats.

    Looked at by going through all paths x_0, …, x_T: the mean of log q(path | x_0)/p(path).
    """
    for count, vocab in ((1, 3), (2, 3), (4, 2)):
        tables, start = matrices(count, vocab), some_law(vocab)
        back = matrices(count, vocab, 0.8)  # back[i − 1, w, u] = p(x_{i−1} = u | x_i = w)
        want, last = torch.zeros(vocab), torch.zeros(vocab)
        for first, *later in itertools.product(range(vocab), repeat=count + 1):
            path = [first, *later]
            q = torch.stack([tables[i, path[i], path[i + 1]] for i in range(count)]).prod()
            p = start[path[-1]] * torch.stack([back[i, path[i + 1], path[i]] for i in range(count)]).prod()
            want[first] += q * (q / p).log()
        ends = products(tables)[-1]
        last = (ends * (ends / start).log()).sum(1)
        got = numbers(answer(tables.clone(), back.clone(), start.clone()), (vocab,), "the bound of every value")
        hints = {"L_T is left out.": want - last, "That is L_T alone.": last}
        agree(got, want, f"The bound for T = {count}", hints=hints)


def carried(guess: Tensor, tables: Tensor) -> Tensor:
    """The law (V, V) of pairs after all steps back from uniform pairs, joint form.

    Args:
        guess: (V, V, 2, V), p̃ at both places for every pair, the same in all steps; or (T, V, V, 2, V), one per step.
        tables: Q_1..Q_T.
    """
    vocab, kept = guess.shape[-1], products(tables)
    state = torch.full((vocab, vocab), 1 / vocab**2, dtype=guess.dtype)
    for i in range(len(tables), 0, -1):
        weights = (guess[i - 1] if guess.ndim == 5 else guess) @ kept[i - 1]
        into = tables[i - 1].T  # [w, u]: who could have become w
        one, two = weights[:, :, 0] * into[:, None], weights[:, :, 1] * into[None]
        one, two = one / one.sum(-1, keepdim=True), two / two.sum(-1, keepdim=True)
        state = torch.einsum("ab,abc,abd->cd", state, one, two)
    return state


@exercise(points=3, stars=3, kind="diagnose")
def repaired_sampler(answer: Any) -> None:
    """repaired_sampler(net, n, tables (T, V, V)) -> (n, 2): pairs by the joint form, from uniform ones, in T steps.

    The law of the pair is carried through all states, for a network whose answers contradict each other.
    """
    count, vocab = 40_000, 3
    for steps in (1, 2, 5):
        net, tables = TableNet(vocab, vocab, size=1.5), matrices(steps, vocab)
        value = samples(answer(net, count, tables.clone()), (count, 2), "the samples")
        hold((value == value.round()).all() and value.min() >= 0 and value.max() < vocab, "The samples are not tokens.")
        hold(len(net.calls) == steps, f"With T = {steps} the network is asked {len(net.calls)} times.")
        share = torch.bincount((vocab * net.calls[0][:, 0] + net.calls[0][:, 1]), minlength=9) / count
        even = (share - 1 / 9).abs() < SIGMAS * (8 / 81 / count) ** 0.5
        hold(even.all(), "The walk does not start from uniform pairs.")
        want = carried(net.table.detach().softmax(-1), tables).flatten()
        share = torch.bincount((vocab * value[:, 0] + value[:, 1]).long(), minlength=9) / count
        luck = SIGMAS * (want * (1 - want) / count).sqrt() + 10 / count
        off, worst = ((share - want).abs() - luck).max(0)
        found = f"is drawn in {100 * share[worst]:.1f} % of the cases where {100 * want[worst]:.1f} % are due."
        hold(off <= 0, f"With T = {steps} the pair ({worst // 3}, {worst % 3}) {found}")


STEPS, VOCAB = 10, 6


def ring_law() -> Tensor:
    """Two tokens of six: the second is a neighbour of the first on a ring, upwards three times as often: (6, 6)."""
    first = torch.tensor([5.0, 4, 1, 3, 2, 1]).double() / 16
    law = torch.full((VOCAB, VOCAB), 0.01, dtype=torch.float64)
    for v in range(VOCAB):
        law[v, (v + 1) % VOCAB] += 0.7
        law[v, (v - 1) % VOCAB] += 0.24
    return first[:, None] * law


def uniform_tables() -> Tensor:
    """Q_1..Q_10 of the uniform chain whose tokens have not jumped after i steps with probability 1 − i/10."""
    keep = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    stay = keep[1:] / keep[:-1]
    return stay[:, None, None] * torch.eye(VOCAB).double() + (1 - stay)[:, None, None] / VOCAB


@exercise(points=3, stars=2, kind="experiment")
def guess(answer: Any) -> None:
    """guess(xi (B, 2), i (B,)) -> (B, 2, 6): logits of p̃ for the joint form, for `ring_law` and `uniform_tables`.

    The law of the pairs that come of it is enumerated, and lies within 0.04 in TV of that of the exact guess.
    """
    states = torch.cartesian_prod(torch.arange(VOCAB), torch.arange(VOCAB)).repeat(STEPS, 1)
    when = torch.arange(1, STEPS + 1).repeat_interleave(VOCAB**2)
    order = torch.randperm(len(when))
    asked = samples(answer(states[order], when[order]), (len(when), 2, VOCAB), "the answer")
    tilde = asked[order.argsort()].detach().softmax(-1).reshape(STEPS, VOCAB, VOCAB, 2, VOCAB)
    law, tables = ring_law(), uniform_tables()
    ends = [carried(given, tables) for given in (tilde, exact_guess(law, tables))]
    off = (ends[0] - ends[1]).abs().sum().item() / 2
    hold(off < 0.04, f"The pairs' law is {off:.3f} in TV from that of the exact guess, not below 0.04.")
    learned(off, 1e-5)


def exact_guess(law: Tensor, tables: Tensor) -> Tensor:
    """The leave-one-out law of every step, (T, V, V, 2, V)."""
    found = []
    for kernel in products(tables)[1:]:
        one = (law @ kernel).T  # p(x_0^1 = v, x_i^2 = b): [b, v]
        two = kernel.T @ law  # p(x_i^1 = a, x_0^2 = v): [a, v]
        one, two = one / one.sum(1, keepdim=True), two / two.sum(1, keepdim=True)
        vocab = len(law)
        found.append(torch.stack([one[None].expand(vocab, -1, -1), two[:, None].expand(-1, vocab, -1)], 2))
    return torch.stack(found)
