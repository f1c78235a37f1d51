"""Answers to the exercises of chapter 14: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F

from gmbook.course.checks.d3pm import exact_guess, ring_law, uniform_tables


class stayed:
    def right_by_odds(keep, vocab):
        odds = vocab * keep / (1 - keep)  # never jumped against jumped and back
        return odds / (1 + odds)

    def before_it_is_seen(keep, vocab):
        return keep + 0.0

    def same_value(keep, vocab):
        return keep + (1 - keep) / vocab

    def surely(keep, vocab):
        return torch.ones((), dtype=torch.float64) + 0 * keep

    def jumped(keep, vocab):
        return (1 - keep) / vocab / (keep + (1 - keep) / vocab)

    def never_back_where_it_was(keep, vocab):
        return keep / (keep + (1 - keep) / (vocab - 1))

    def jumps_count_fully(keep, vocab):
        return keep / (keep + (1 - keep))

    def one_value_more(keep, vocab):
        return keep / (keep + (1 - keep) / (vocab + 1))

    def root(keep, vocab):
        return keep.sqrt() / (keep.sqrt() + (1 - keep.sqrt()) / vocab)


class forget:
    def right_by_divergence(keep, vocab):
        row = torch.full((vocab,), 1 / vocab, dtype=keep.dtype) * (1 - keep)
        row = row + keep * F.one_hot(torch.tensor(0), vocab)
        return (row * (vocab * row).log()).sum()

    def in_bits(keep, vocab):
        return forget.right_by_divergence(keep, vocab) / math.log(2)

    def lost(keep, vocab):
        return math.log(vocab) - forget.right_by_divergence(keep, vocab)

    def with_a_mask(keep, vocab):
        return keep * math.log(vocab)

    def jumps_elsewhere_only(keep, vocab):
        return math.log(vocab) + keep * keep.log() + (1 - keep) * ((1 - keep) / (vocab - 1)).log()

    def one_other_only(keep, vocab):
        same, other = keep + (1 - keep) / vocab, (1 - keep) / vocab
        return math.log(vocab) + same * same.log() + other * other.log()

    def sign(keep, vocab):
        return -forget.right_by_divergence(keep, vocab)

    def counts_itself_twice(keep, vocab):
        same, other = keep + (1 - keep) / vocab, (1 - keep) / vocab
        return math.log(vocab) + same * same.log() + vocab * other * other.log()

    def divergence_the_other_way(keep, vocab):
        row = torch.full((vocab,), 1 / vocab, dtype=keep.dtype) * (1 - keep)
        row = row + keep * F.one_hot(torch.tensor(0), vocab)
        return -(vocab * row).log().mean()


def ahead(v, pi, keep):
    return keep * torch.eye(len(pi), dtype=pi.dtype)[v] + (1 - keep) * pi


class bridge:
    def right_by_matrices(first, last, pi, before, now):
        eye = torch.eye(len(pi), dtype=pi.dtype)
        q_s, q_t = (k * eye + (1 - k) * pi for k in (before, now))
        between = torch.linalg.solve(q_s, q_t)  # Q̄_s^{-1} Q̄_t
        return q_s[first] * between[:, last] / q_t[first, last]

    def not_normalised(first, last, pi, before, now):
        into = (now / before) * torch.eye(len(pi), dtype=pi.dtype)[last] + (1 - now / before) * pi[last]
        return ahead(first, pi, before) * into

    def kernel_from_the_start(first, last, pi, before, now):
        into = now * torch.eye(len(pi), dtype=pi.dtype)[last] + (1 - now) * pi[last]
        weights = ahead(first, pi, before) * into
        return weights / weights.sum()

    def row_for_column(first, last, pi, before, now):
        weights = ahead(first, pi, before) * ahead(last, pi, now / before)
        return weights / weights.sum()

    def forgets_the_end(first, last, pi, before, now):
        return ahead(first, pi, before)

    def forgets_the_start(first, last, pi, before, now):
        into = (now / before) * torch.eye(len(pi), dtype=pi.dtype)[last] + (1 - now / before) * pi[last]
        return into / into.sum()

    def difference_for_ratio(first, last, pi, before, now):
        k = 1 - (before - now)
        weights = ahead(first, pi, before) * (k * torch.eye(len(pi), dtype=pi.dtype)[last] + (1 - k) * pi[last])
        return weights / weights.sum()

    def uniform_jumps(first, last, pi, before, now):
        return bridge.right_by_matrices(first, last, torch.full_like(pi, 1 / len(pi)), before, now)

    def ends_swapped(first, last, pi, before, now):
        return bridge.right_by_matrices(last, first, pi, before, now)

    def linear(first, last, pi, before, now):
        eye = torch.eye(len(pi), dtype=pi.dtype)
        return before * eye[first] + (1 - before) * eye[last]


class two_noises:
    def right_step_by_step(hide, swap, vocab):
        same, other, mask = torch.ones((), dtype=hide.dtype), torch.zeros((), dtype=hide.dtype), 0.0 * hide[0]
        for h, g in zip(hide, swap):
            shows = same + (vocab - 1) * other
            same, other, mask = (
                (1 - h - g) * same + g * shows / vocab,
                (1 - h - g) * other + g * shows / vocab,
                mask + h * shows,
            )
        return torch.stack([same, other, mask])

    def swapped_letters_are_safe(hide, swap, vocab):
        untouched = (1 - hide - swap).prod()
        mask = 1 - (1 - hide / (1 - swap)).prod()
        return torch.stack([untouched + (1 - mask - untouched) / vocab, (1 - mask - untouched) / vocab, mask])

    def sums_for_products(hide, swap, vocab):
        return torch.stack([1 - hide.sum() - swap.sum() * (1 - 1 / vocab), swap.sum() / vocab, hide.sum()])

    def a_swap_never_returns(hide, swap, vocab):
        shows, untouched = (1 - hide).prod(), (1 - hide - swap).prod()
        return torch.stack([untouched, (shows - untouched) / (vocab - 1), 1 - shows])

    def independent_noises(hide, swap, vocab):
        shows, still = (1 - hide).prod(), (1 - swap).prod()
        return torch.stack([shows * (still + (1 - still) / vocab), shows * (1 - still) / vocab, 1 - shows])

    def all_other_letters(hide, swap, vocab):
        right = two_noises.right_step_by_step(hide, swap, vocab)
        return torch.stack([right[0], (vocab - 1) * right[1] * vocab / (vocab - 0.999), right[2]])

    def only_untouched(hide, swap, vocab):
        right = two_noises.right_step_by_step(hide, swap, vocab)
        return torch.stack([(1 - hide - swap).prod(), right[1], right[2]])

    def mask_among_the_letters(hide, swap, vocab):
        shows, untouched = (1 - hide).prod(), (1 - hide - swap).prod()
        drawn = (shows - untouched) / (vocab + 1)
        return torch.stack([untouched + drawn, drawn, 1 - shows])

    def order_of_the_answer(hide, swap, vocab):
        return two_noises.right_step_by_step(hide, swap, vocab).flip(0)


class joint_step:
    def right_by_triples(logits, xt, first, then):
        triple = torch.einsum("vu,uw->vuw", first, then)  # q(x_s = u, x_t = w | x_0 = v)
        weights = torch.einsum("blv,vubl->blu", logits.softmax(-1), triple[:, :, xt])
        return weights / weights.sum(-1, keepdim=True)

    def mixture(logits, xt, first, then):
        triple = torch.einsum("vu,uw->vuw", first, then)
        given = triple / triple.sum(1, keepdim=True)
        return torch.einsum("blv,vubl->blu", logits.softmax(-1), given[:, :, xt])

    def row_for_column(logits, xt, first, then):
        weights = (logits.softmax(-1) @ first) * then[xt]
        return weights / weights.sum(-1, keepdim=True)

    def transposed_first(logits, xt, first, then):
        weights = (logits.softmax(-1) @ first.T) * then.T[xt]
        return weights / weights.sum(-1, keepdim=True)

    def not_normalised(logits, xt, first, then):
        return (logits.softmax(-1) @ first) * then.T[xt]

    def blind(logits, xt, first, then):
        return logits.softmax(-1) @ first

    def no_first(logits, xt, first, then):
        weights = logits.softmax(-1) * then.T[xt]
        return weights / weights.sum(-1, keepdim=True)

    def logits_for_probabilities(logits, xt, first, then):
        weights = (logits.exp() @ first).softmax(-1) * then.T[xt]
        return weights / weights.sum(-1, keepdim=True)

    def normalised_over_places(logits, xt, first, then):
        weights = (logits.softmax(1) @ first) * then.T[xt]
        return weights / weights.sum(-1, keepdim=True)

    def the_likeliest_guess(logits, xt, first, then):
        guess = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(first)
        weights = (guess @ first) * then.T[xt]
        return weights / weights.sum(-1, keepdim=True)

    def kernel_from_the_start(logits, xt, first, then):
        weights = (logits.softmax(-1) @ first) * (first @ then).T[xt]
        return weights / weights.sum(-1, keepdim=True)


class leave_one_out:
    def right_in_logarithms(posterior, xt, kernel):
        return torch.stack([(row.log() - kernel[:, w].log()).softmax(0) for row, w in zip(posterior, xt)])

    def evidence_twice(posterior, xt, kernel):
        weights = posterior * kernel[:, xt].T
        return weights / weights.sum(1, keepdim=True)

    def row_for_column(posterior, xt, kernel):
        weights = posterior / kernel[xt]
        return weights / weights.sum(1, keepdim=True)

    def not_normalised(posterior, xt, kernel):
        return posterior / kernel[:, xt].T

    def as_it_was(posterior, xt, kernel):
        return posterior

    def places_exchanged(posterior, xt, kernel):
        weights = posterior / kernel[:, xt.flip(0)].T
        return weights / weights.sum(1, keepdim=True)

    def normalised_over_places(posterior, xt, kernel):
        weights = posterior / kernel[:, xt].T
        return weights / weights.sum(0, keepdim=True)

    def difference_for_ratio(posterior, xt, kernel):
        weights = (posterior - kernel[:, xt].T).abs()
        return weights / weights.sum(1, keepdim=True)

    def noised_instead(posterior, xt, kernel):
        return posterior @ kernel


def hidden_nats(net, x, i, keep, mask):
    hidden = torch.rand(x.shape, dtype=keep.dtype) >= keep[i][:, None]
    nats = F.cross_entropy(net(torch.where(hidden, mask, x)).mT, x, reduction="none")
    return hidden, nats, keep[i][:, None], keep[i - 1][:, None]


class masked_loss:
    def right_by_counting(net, x, i, keep, mask):
        hidden = torch.bernoulli(1 - keep[i][:, None].expand(-1, 2)).bool()
        law = net(torch.where(hidden, mask, x)).softmax(-1)
        total = 0.0
        for step in range(1, len(keep)):
            rows = i == step
            chance = 1 - (1 - keep[step - 1]) / (1 - keep[step])  # not yet hidden a step before
            nats = -law[rows].gather(-1, x[rows][..., None])[..., 0].log()
            total = total + chance * nats[hidden[rows]].sum()
        return (len(keep) - 1) * total / x.numel()

    def the_even_pace(net, x, i, keep, mask):
        hidden, nats, _, _ = hidden_nats(net, x, i, keep, mask)
        return (len(keep) - 1) * (hidden * nats / i[:, None]).mean()

    def no_weight(net, x, i, keep, mask):
        hidden, nats, _, _ = hidden_nats(net, x, i, keep, mask)
        return (len(keep) - 1) * (hidden * nats).mean()

    def without_the_number_of_steps(net, x, i, keep, mask):
        hidden, nats, now, before = hidden_nats(net, x, i, keep, mask)
        return (hidden * nats * (before - now) / (1 - now)).mean()

    def all_tokens(net, x, i, keep, mask):
        _, nats, now, before = hidden_nats(net, x, i, keep, mask)
        return (len(keep) - 1) * (nats * (before - now) / (1 - now)).mean()

    def of_a_pair(net, x, i, keep, mask):
        hidden, nats, now, before = hidden_nats(net, x, i, keep, mask)
        return (len(keep) - 1) * (hidden * nats * (before - now) / (1 - now)).sum(1).mean()

    def mean_over_masks(net, x, i, keep, mask):
        hidden, nats, now, before = hidden_nats(net, x, i, keep, mask)
        return (len(keep) - 1) * (hidden * nats * (before - now) / (1 - now)).sum() / hidden.sum()

    def not_given_that_it_is_hidden(net, x, i, keep, mask):
        hidden, nats, now, before = hidden_nats(net, x, i, keep, mask)
        return (len(keep) - 1) * (hidden * nats * (before - now)).mean()

    def weight_of_the_step_before(net, x, i, keep, mask):
        hidden, nats, now, before = hidden_nats(net, x, i, keep, mask)
        return (len(keep) - 1) * (hidden * nats * (before - now) / (1 - before).clamp(min=0.1)).mean()

    def hides_both_or_none(net, x, i, keep, mask):
        hidden = (torch.rand(len(x), 1, dtype=keep.dtype) >= keep[i][:, None]).expand(-1, 2)
        nats = F.cross_entropy(net(torch.where(hidden, mask, x)).mT, x, reduction="none")
        now, before = keep[i][:, None], keep[i - 1][:, None]
        return (len(keep) - 1) * (hidden * nats * (before - now) / (1 - now)).mean()

    def hides_what_should_show(net, x, i, keep, mask):
        hidden = torch.rand(x.shape, dtype=keep.dtype) < keep[i][:, None]
        nats = F.cross_entropy(net(torch.where(hidden, mask, x)).mT, x, reduction="none")
        now, before = keep[i][:, None], keep[i - 1][:, None]
        return (len(keep) - 1) * (hidden * nats * (before - now) / (1 - now)).mean()

    def sees_the_truth(net, x, i, keep, mask):
        hidden, nats, now, before = hidden_nats(lambda xt: net(x), x, i, keep, mask)
        return (len(keep) - 1) * (hidden * nats * (before - now) / (1 - now)).mean()

    def detached(net, x, i, keep, mask):
        hidden, nats, now, before = hidden_nats(net, x, i, keep, mask)
        return ((len(keep) - 1) * (hidden * nats * (before - now) / (1 - now)).mean()).detach()


def paths(tables, steps, start, ratio):
    """The mean of ratio(q, p) over the paths from every x_0."""
    count, vocab = len(tables), len(start)
    total = torch.zeros(vocab, dtype=start.dtype)
    for path in itertools.product(range(vocab), repeat=count + 1):
        q = p = torch.ones((), dtype=start.dtype)
        for i in range(count):
            q, p = q * tables[i, path[i], path[i + 1]], p * steps[i, path[i + 1], path[i]]
        total[path[0]] += ratio(q, p, start[path[-1]])
    return total


class bound:
    def right_by_paths(tables, steps, start):
        return paths(tables, steps, start, lambda q, p, end: q * (q.log() - p.log() - end.log()))

    def without_the_prior(tables, steps, start):
        kept = torch.linalg.multi_dot(list(tables)) if len(tables) > 1 else tables[0]
        return bound.right_by_paths(tables, steps, start) - (kept * (kept / start).log()).sum(1)

    def what_the_chain_pays(tables, steps, start):
        law = start
        for step in steps.flip(0):
            law = law @ step
        return -law.log()

    def steps_transposed(tables, steps, start):
        return bound.right_by_paths(tables, steps.mT, start)

    def without_the_last_step(tables, steps, start):
        # −log p(x_0 | x_1), the term of i = 1, is left out
        first = -(tables[0] * steps[0].T.log()).sum(1)
        return bound.right_by_paths(tables, steps, start) - first

    def in_bits(tables, steps, start):
        return bound.right_by_paths(tables, steps, start) / math.log(2)

    def divergences_the_other_way(tables, steps, start):
        return paths(tables, steps, start, lambda q, p, end: p * end * (p * end / q).log())

    def without_the_noise(tables, steps, start):
        return paths(tables, steps, start, lambda q, p, end: -q * (p * end).log())

    def uniform_start(tables, steps, start):
        return bound.right_by_paths(tables, steps, torch.full_like(start, 1 / len(start)))

    def sign(tables, steps, start):
        return -bound.right_by_paths(tables, steps, start)

    def averaged_over_steps(tables, steps, start):
        return bound.right_by_paths(tables, steps, start) / (len(tables) + 1)


def walk(net, n, tables, law, last=None):
    """Pairs by a rule for one step: law(guess, tables, i, x) -> weights."""
    x = torch.randint(tables.shape[-1], (n, 2))
    for i in range(len(tables), 0, -1):
        weights = law(net(x).softmax(-1).detach(), tables, i, x)
        choose = last if last is not None and i == 1 else lambda w: torch.distributions.Categorical(probs=w).sample()
        x = choose(weights)
    return x


def until(tables, i):
    kept = torch.eye(tables.shape[-1], dtype=tables.dtype)
    for table in tables[:i]:
        kept = kept @ table
    return kept


def joint(guess, tables, i, x):
    return (guess @ until(tables, i - 1)) * tables[i - 1].T[x]


class repaired_sampler:
    def right_by_a_guess_of_the_start(net, n, tables):
        # draw (x_0, x_{i−1}) together: the guess's own posterior, then the friend's step
        x = torch.randint(tables.shape[-1], (n, 2))
        for i in range(len(tables), 0, -1):
            triple = until(tables, i - 1)[:, :, None] * tables[i - 1][None]
            weights = net(x).softmax(-1).detach() * triple.sum(1).T[x]  # p̃(v) q(x_i | v)
            start = torch.distributions.Categorical(probs=weights).sample()
            x = torch.distributions.Categorical(probs=triple.permute(0, 2, 1)[start, x]).sample()
        return x

    def as_found(net, n, tables):
        def law(guess, tables, i, x):
            return (guess @ until(tables, i)) * tables[i - 1][x]

        return walk(net, n, tables, law, lambda w: w.argmax(-1))

    def argmax_at_the_end(net, n, tables):
        return walk(net, n, tables, joint, lambda w: w.argmax(-1))

    def one_step_too_far(net, n, tables):
        return walk(net, n, tables, lambda g, tables, i, x: (g @ until(tables, i)) * tables[i - 1].T[x])

    def row_for_column(net, n, tables):
        return walk(net, n, tables, lambda g, tables, i, x: (g @ until(tables, i - 1)) * tables[i - 1][x])

    def mixture(net, n, tables):
        def law(guess, tables, i, x):
            triple = until(tables, i - 1)[:, :, None] * tables[i - 1][None]
            given = triple / triple.sum(1, keepdim=True)
            return torch.einsum("blv,vubl->blu", guess, given[:, :, x])

        return walk(net, n, tables, law)

    def the_guess_itself(net, n, tables):
        return walk(net, n, tables, lambda g, tables, i, x: g)

    def blind(net, n, tables):
        return walk(net, n, tables, lambda g, tables, i, x: g @ until(tables, i - 1))

    def matrix_of_the_next_step(net, n, tables):
        return walk(net, n, tables, lambda g, tables, i, x: (g @ until(tables, i - 1)) * tables[i % len(tables)].T[x])

    def one_step_short(net, n, tables):
        x = torch.randint(tables.shape[-1], (n, 2))
        for i in range(len(tables), 1, -1):
            x = torch.distributions.Categorical(probs=joint(net(x).softmax(-1).detach(), tables, i, x)).sample()
        return x

    def tokens_alike(net, n, tables):
        x = walk(net, n, tables, joint)
        return x[:, :1].expand(-1, 2)


def exact(xi, i):
    """Logits of the leave-one-out law."""
    return exact_guess(ring_law(), uniform_tables())[i - 1, xi[:, 0], xi[:, 1]].log()


def posterior(xi, i):
    """Logits of p(x_0^l | x_i), evidence of the place itself included."""
    kept = 1 - i.double() / 10
    likelihood = kept[:, None, None] * F.one_hot(xi, 6) + (1 - kept[:, None, None]) / 6
    return exact(xi, i) + likelihood.log()


class guess:
    def right_and_slightly_off(xi, i):
        return (exact(xi, i) + 0.05 * torch.sin(7 * exact(xi, i))).float()

    def the_law_itself(xi, i):
        return exact(xi, i)

    def trained_by_cross_entropy(xi, i):
        return posterior(xi, i)

    def nothing_learned(xi, i):
        return torch.zeros(len(xi), 2, 6)

    def marginals_only(xi, i):
        return torch.stack([ring_law().sum(1), ring_law().sum(0)]).log().expand(len(xi), 2, 6)

    def places_exchanged(xi, i):
        return exact(xi, i).flip(1)

    def blind_to_time(xi, i):
        return exact(xi, torch.full_like(i, 10))

    def time_back_to_front(xi, i):
        return exact(xi, 11 - i)

    def no_noise_assumed(xi, i):
        return exact(xi, torch.ones_like(i))

    def reads_its_own_place(xi, i):
        return exact(xi.flip(1), i)

    def too_sure(xi, i):
        return 3 * exact(xi, i)

    def too_unsure(xi, i):
        return 0.6 * exact(xi, i)

    def probabilities_for_logits(xi, i):
        return exact(xi, i).softmax(-1)

    def diverged(xi, i):
        return exact(xi, i) * math.nan
