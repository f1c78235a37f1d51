"""Answers to the exercises of chapter 16: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F

from gmbook.course.checks.mdlm import sum_law


class came:
    def right_in_two_steps_back(first, middle, last):
        stays = (1 - middle) / (1 - last)
        return stays * (first - middle) / (1 - middle)

    def not_conditioned(first, middle, last):
        return first - middle + 0 * last

    def conditioned_on_the_middle(first, middle, last):
        return (first - middle) / (1 - middle) + 0 * last

    def first_step_back(first, middle, last):
        return (middle - last) / (1 - last) + 0 * first

    def either_step(first, middle, last):
        return (first - last) / (1 - last) + 0 * middle

    def sign(first, middle, last):
        return (middle - first) / (1 - last)

    def keep_and_mask_swapped(first, middle, last):
        return (first - middle) / last

    def steps_independent_of_each_other(first, middle, last):
        return (1 - middle) * (first - middle) / (1 - middle) / (1 - last + middle)

    def both_come(first, middle, last):
        return (middle - last) / (1 - last) * (first - middle) / (1 - middle)

    def ratio_of_kernels(first, middle, last):
        return 1 - middle / first + 0 * last


def shares(keep):
    return keep[:-1] - keep[1:]


class calls:
    def right_one_letter_after_the_other(keep, length):
        # the sum over steps of the chance that letter l is the first in it
        share = shares(keep)
        return sum((share * (1 - share) ** l).sum() for l in range(length))

    def empty_steps(keep, length):
        return ((1 - shares(keep)) ** length).sum()

    def equal_steps(keep, length):
        steps = len(keep) - 1
        return steps * (1 - (1 - 1 / steps) ** length)

    def the_smaller_number(keep, length):
        return min(len(keep) - 1, length) + 0 * keep.sum()

    def all_letters_come(keep, length):
        return (shares(keep) ** length).sum()

    def one_letter_too_many(keep, length):
        return (1 - (1 - shares(keep)) ** (length + 1)).sum()

    def one_letter_too_few(keep, length):
        return (1 - (1 - shares(keep)) ** (length - 1)).sum()

    def last_step_left_out(keep, length):
        return (1 - (1 - shares(keep)[1:]) ** length).sum()

    def keep_for_the_share(keep, length):
        return (1 - (1 - keep[:-1]) ** length).sum()

    def no_ones(keep, length):
        return 1 - ((1 - shares(keep)) ** length).prod()

    def ratio_for_difference(keep, length):
        return (1 - (keep[1:] / keep[:-1]) ** length).sum()

    def expected_letters(keep, length):
        return (length * shares(keep)).sum()


def ghost(p, weight):
    return (1 - weight) * p + weight * p.sum(1)[:, None] * p.sum(0)


class pair_law:
    def right_by_who_comes_first(p, keep):
        # token 1 in an earlier step (of the sampler's), token 2 in an earlier one, or both in the same
        share = shares(keep).flip(0)
        later = share.flip(0).cumsum(0).flip(0) - share
        one, two = p.sum(1, keepdim=True), p.sum(0, keepdim=True)
        apart = (share * later).sum()
        return apart * one * (p / one) + apart * two * (p / two) + (1 - 2 * apart) * one * two

    def equal_steps(p, keep):
        return ghost(p, 1 / (len(keep) - 1)) if len(keep) > 2 else p

    def the_data(p, keep):
        return p

    def the_product(p, keep):
        return ghost(p, 1.0)

    def weights_swapped(p, keep):
        return ghost(p, 1 - shares(keep).square().sum())

    def cubes(p, keep):
        return ghost(p, (shares(keep) ** 3).sum())

    def root(p, keep):
        return ghost(p, shares(keep).square().sum().sqrt())

    def largest_step(p, keep):
        return ghost(p, shares(keep).max())

    def transposed(p, keep):
        return ghost(p, shares(keep).square().sum()).T

    def marginals_swapped(p, keep):
        weight = shares(keep).square().sum()
        return (1 - weight) * p + weight * p.sum(0)[:, None] * p.sum(1)

    def squares_of_keep(p, keep):
        return ghost(p, keep.square().mean())

    def not_a_law(p, keep):
        return p + shares(keep).square().sum() * p.sum(1)[:, None] * p.sum(0)

    def sign(p, keep):
        return ghost(p, -shares(keep).square().sum())

    def only_the_last_step(p, keep):
        return ghost(p, shares(keep)[0] ** 2)


def hide_counts(x, low=1, high=None):
    """(k (B, 1), hidden (B, L)), as they should be."""
    count = torch.randint(low, (high or x.shape[1]) + 1, (len(x), 1))
    return count, torch.rand(x.shape).argsort(1).argsort(1) < count


def spent(net, x, hidden, mask):
    return F.cross_entropy(net(torch.where(hidden, mask, x)).mT, x, reduction="none")


class count_loss:
    def right_with_even_counts_and_a_gather(net, x, mask):
        n, length = x.shape
        u = (torch.arange(n) + torch.rand(n)) / n
        count = 1 + (u * length).long()
        hidden = torch.zeros(x.shape, dtype=torch.bool)
        hidden.scatter_(1, torch.rand(x.shape).argsort(1), torch.arange(length) < count[:, None])
        log_probs = net(x.masked_fill(hidden, mask)).log_softmax(-1)
        right = log_probs.gather(-1, x.unsqueeze(-1)).squeeze(-1)
        return -(right.masked_fill(~hidden, 0.0).sum(1) / count).sum() / n

    def mean_over_masked(net, x, mask):
        _, hidden = hide_counts(x)
        return spent(net, x, hidden, mask)[hidden].mean()

    def mean_over_letters(net, x, mask):
        _, hidden = hide_counts(x)
        return (hidden * spent(net, x, hidden, mask)).mean()

    def sum_over_masked(net, x, mask):
        _, hidden = hide_counts(x)
        return (hidden * spent(net, x, hidden, mask)).sum(1).mean()

    def of_the_line(net, x, mask):
        count, hidden = hide_counts(x)
        return x.shape[1] * (hidden * spent(net, x, hidden, mask) / count).sum(1).mean()

    def divided_twice(net, x, mask):
        count, hidden = hide_counts(x)
        return (hidden * spent(net, x, hidden, mask) / count).mean()

    def weight_of_a_set(net, x, mask):
        count, hidden = hide_counts(x)
        length = x.shape[1]
        weight = torch.exp(torch.lgamma(count.double()) + torch.lgamma(length - count + 1.0) - math.lgamma(length + 1))
        return (weight * hidden * spent(net, x, hidden, mask)).sum(1).mean()

    def letters_that_show_too(net, x, mask):
        _, hidden = hide_counts(x)
        return spent(net, x, hidden, mask).mean()

    def sign(net, x, mask):
        count, hidden = hide_counts(x)
        return -(hidden * spent(net, x, hidden, mask) / count).sum(1).mean()

    def detached(net, x, mask):
        count, hidden = hide_counts(x)
        return (hidden * spent(net, x, hidden, mask).detach() / count).sum(1).mean()

    def from_zero_masks(net, x, mask):
        count, hidden = hide_counts(x, low=0)
        return (hidden * spent(net, x, hidden, mask) / count.clamp(min=1)).sum(1).mean()

    def never_all(net, x, mask):
        count, hidden = hide_counts(x, high=x.shape[1] - 1)
        return (hidden * spent(net, x, hidden, mask) / count).sum(1).mean()

    def first_letters_are_hidden(net, x, mask):
        count = torch.randint(1, x.shape[1] + 1, (len(x), 1))
        hidden = torch.arange(x.shape[1]) < count
        return (hidden * spent(net, x, hidden, mask) / count).sum(1).mean()

    def window_of_masks(net, x, mask):
        length = x.shape[1]
        count = torch.randint(1, length + 1, (len(x), 1))
        start = (torch.rand(len(x), 1) * (length - count + 1)).long()
        place = torch.arange(length)
        hidden = (place >= start) & (place < start + count)
        return (hidden * spent(net, x, hidden, mask) / count).sum(1).mean()

    def one_count_for_all(net, x, mask):
        count = torch.randint(1, x.shape[1] + 1, ())
        hidden = torch.rand(x.shape).argsort(1).argsort(1) < count
        return (hidden * spent(net, x, hidden, mask) / count).sum(1).mean()

    def counts_from_a_coin(net, x, mask):
        hidden = torch.rand(x.shape) < 0.5
        hidden[~hidden.any(1)] = True
        return (hidden * spent(net, x, hidden, mask) / hidden.sum(1, keepdim=True)).sum(1).mean()

    def one_argsort(net, x, mask):
        count = torch.randint(1, x.shape[1] + 1, (len(x), 1))
        hidden = torch.rand(x.shape) < count / x.shape[1]
        return (hidden * spent(net, x, hidden, mask) / count).sum(1).mean()


def hide_times(x, t):
    return torch.rand(x.shape) < t[:, None]


class repaired_loss:
    def right_letter_by_letter(net, x, t, mask):
        hidden = torch.bernoulli(t[:, None].expand(x.shape)).bool()
        right = net(x.masked_fill(hidden, mask)).log_softmax(-1).gather(-1, x[..., None]).squeeze(-1)
        return -torch.where(hidden, right, 0.0).sum(1).div(t * x.shape[1]).mean()

    def as_found(net, x, t, mask):
        hidden = torch.rand(x.shape) < 1 - t[:, None]
        return spent(net, x, hidden, mask)[hidden].mean()

    def only_the_mean_repaired(net, x, t, mask):
        hidden = hide_times(x, 1 - t)
        return (hidden * spent(net, x, hidden, mask) / t[:, None]).mean()

    def only_the_share_repaired(net, x, t, mask):
        hidden = hide_times(x, t)
        return spent(net, x, hidden, mask)[hidden].mean()

    def mean_over_masked_of_each_line(net, x, t, mask):
        hidden = hide_times(x, t)
        return ((hidden * spent(net, x, hidden, mask)).sum(1) / hidden.sum(1).clamp(min=1)).mean()

    def weighted_mean_over_masked(net, x, t, mask):
        hidden = hide_times(x, t)
        return (spent(net, x, hidden, mask) / t[:, None])[hidden].mean()

    def no_weight(net, x, t, mask):
        hidden = hide_times(x, t)
        return (hidden * spent(net, x, hidden, mask)).mean()

    def weight_of_the_share_that_shows(net, x, t, mask):
        hidden = hide_times(x, t)
        return (hidden * spent(net, x, hidden, mask) / (1 - t[:, None])).mean()

    def keep_and_mask_swapped_twice(net, x, t, mask):
        hidden = hide_times(x, 1 - t)
        return (hidden * spent(net, x, hidden, mask) / (1 - t[:, None])).mean()

    def weights_sign(net, x, t, mask):
        hidden = hide_times(x, t)
        return (hidden * spent(net, x, hidden, mask) / -t[:, None]).mean()

    def one_weight_for_the_batch(net, x, t, mask):
        hidden = hide_times(x, t)
        return (hidden * spent(net, x, hidden, mask)).mean() / t.mean()

    def of_the_line(net, x, t, mask):
        hidden = hide_times(x, t)
        return (hidden * spent(net, x, hidden, mask) / t[:, None]).sum(1).mean()

    def a_sum(net, x, t, mask):
        hidden = hide_times(x, t)
        return (hidden * spent(net, x, hidden, mask) / t[:, None]).sum()

    def letters_that_show_too(net, x, t, mask):
        hidden = hide_times(x, t)
        return (spent(net, x, hidden, mask) / t[:, None]).mean()

    def only_letters_that_show(net, x, t, mask):
        hidden = hide_times(x, t)
        return (~hidden * spent(net, x, hidden, mask) / t[:, None]).mean()

    def whole_lines_hidden(net, x, t, mask):
        hidden = (torch.rand(len(x), 1) < t[:, None]).expand(x.shape)
        return (hidden * spent(net, x, hidden, mask) / t[:, None]).mean()

    def nothing_hidden_from_the_network(net, x, t, mask):
        hidden = hide_times(x, t)
        return (hidden * F.cross_entropy(net(x).mT, x, reduction="none") / t[:, None]).mean()

    def detached(net, x, t, mask):
        hidden = hide_times(x, t)
        return (hidden * spent(net, x, hidden, mask) / t[:, None]).mean().detach()

    def weighted_root(net, x, t, mask):
        hidden = hide_times(x, t)
        return (hidden * spent(net, x, hidden, mask) / t[:, None].sqrt()).mean()


def by_sets(net, x, mask, weight):
    """Σ_S weight(k, L) Σ_{l in S} nats, with a weight to get wrong."""
    length, total = x.shape[1], 0.0
    for hidden in list(itertools.product([False, True], repeat=length))[1:]:
        k, hidden = sum(hidden), torch.tensor(hidden)
        total = total + weight(k, length) * (hidden * spent(net, x, hidden, mask)).sum(1)
    return total


def of_a_set(k, length):
    """The weight of a set of k masks, as it should be."""
    return math.factorial(k - 1) * math.factorial(length - k) / math.factorial(length)


class exact_bound:
    def right_by_quadrature(net, x, mask):
        u, w = torch.linspace(0, 1, 5), torch.tensor([7.0, 32, 12, 32, 7]) / 90  # Boole: exact for degrees up to 5
        return by_sets(net, x, mask, lambda k, length: (w * u ** (k - 1) * (1 - u) ** (length - k)).sum())

    def right_by_orders(net, x, mask):
        orders, total = list(itertools.permutations(range(x.shape[1]))), 0.0
        for order in orders:
            for i, place in enumerate(order):
                hidden = torch.zeros(x.shape[1], dtype=torch.bool)
                hidden[list(order[i:])] = True
                total = total + spent(net, x, hidden, mask)[:, place] / len(orders)
        return total

    def all_sets_alike(net, x, mask):
        return by_sets(net, x, mask, lambda k, length: 1 / 2 ** (length - 1))

    def all_counts_alike_without_1_over_k(net, x, mask):
        return by_sets(net, x, mask, lambda k, length: 1 / math.comb(length, k))

    def mean_per_count_and_length(net, x, mask):
        return by_sets(net, x, mask, lambda k, length: 1 / (length * math.comb(length, k)))

    def no_weight_in_time(net, x, mask):
        return by_sets(net, x, mask, lambda k, length: k / (length + 1) * of_a_set(k, length))

    def one_off_in_the_beta_function(net, x, mask):
        return by_sets(net, x, mask, lambda k, length: of_a_set(k, length + 1))

    def per_letter(net, x, mask):
        return exact_bound.right_by_orders(net, x, mask) / x.shape[1]

    def sign(net, x, mask):
        return -exact_bound.right_by_orders(net, x, mask)

    def left_to_right(net, x, mask):
        length = x.shape[1]
        places = torch.arange(length)
        return sum(spent(net, x, places >= l, mask)[:, l] for l in range(length)) + torch.zeros(len(x))

    def all_at_once(net, x, mask):
        return spent(net, x, torch.ones_like(x, dtype=torch.bool), mask).sum(1)

    def each_letter_from_all_others(net, x, mask):
        places = torch.arange(x.shape[1])
        return sum(spent(net, x, places == l, mask)[:, l] for l in range(x.shape[1]))

    def without_the_set_of_all(net, x, mask):
        return by_sets(net, x, mask, lambda k, length: of_a_set(k, length) if k < length else 0.0)

    def letters_that_show_too(net, x, mask):
        length, total = x.shape[1], 0.0
        for hidden in list(itertools.product([False, True], repeat=length))[1:]:
            k, hidden = sum(hidden), torch.tensor(hidden)
            total = total + of_a_set(k, length) * spent(net, x, hidden, mask).sum(1)
        return total

    def shown_and_hidden_swapped(net, x, mask):
        length, total = x.shape[1], 0.0
        for hidden in list(itertools.product([False, True], repeat=length))[1:]:
            k, hidden = sum(hidden), torch.tensor(hidden)
            total = total + of_a_set(k, length) * (hidden * spent(net, x, ~hidden, mask)).sum(1)
        return total

    def log_of_the_mean_over_orders(net, x, mask):
        orders, places = list(itertools.permutations(range(x.shape[1]))), torch.arange(x.shape[1])
        logs = []
        for order in orders:
            left = [torch.isin(places, torch.tensor(order[i:])) for i in range(len(order))]
            logs.append(-sum(spent(net, x, hidden, mask)[:, place] for hidden, place in zip(left, order)))
        return math.log(len(orders)) - torch.stack(logs).logsumexp(0)

    def a_random_draw(net, x, mask):
        count, hidden = hide_counts(x)
        return x.shape[1] * (hidden * spent(net, x, hidden, mask) / count).sum(1)

    def mean_over_the_batch(net, x, mask):
        return exact_bound.right_by_orders(net, x, mask).mean()


def binomial(length, least):
    return torch.distributions.Binomial(length, torch.tensor(least)).log_prob(torch.arange(length + 1.0)).exp()


class cut:
    def right_by_quadrature(length, least):
        total, points = [], least + (1 - least) * (torch.arange(400_000) + 0.5) / 400_000
        for k in range(1, length + 1):
            density = k * math.comb(length, k) * points ** (k - 1) * (1 - points) ** (length - k)
            total.append((1 - least) * density.mean())
        return torch.stack(total)

    def right_from_the_other_end(length, least):
        return 1 - binomial(length, least).flip(0).cumsum(0).flip(0)[1:]

    def at_most_k(length, least):
        return binomial(length, least).cumsum(0)[1:]

    def the_lost_part(length, least):
        return 1 - binomial(length, least).cumsum(0)[:-1]

    def fewer_than_k_by_one_more(length, least):
        chance = binomial(length, least).cumsum(0)
        return torch.cat([torch.zeros(1), chance[:-2]])

    def keep_and_mask_swapped(length, least):
        return binomial(length, 1 - least).cumsum(0)[:-1]

    def normalised_by_the_interval(length, least):
        return binomial(length, least).cumsum(0)[:-1] / (1 - least)

    def nothing_lost(length, least):
        return torch.ones(length)

    def interval(length, least):
        return torch.full((length,), 1 - least)

    def powers(length, least):
        return 1 - least ** torch.arange(1.0, length + 1)

    def back_to_front(length, least):
        got = binomial(length, least).cumsum(0)[:-1].flip(0)
        return got if length > 1 else 1 - got / 3

    def poisson(length, least):
        k = torch.arange(length)
        return torch.exp(k * math.log(length * least) - length * least - torch.lgamma(k + 1.0)).cumsum(0)

    def one_set(length, least):
        k = torch.arange(1.0, length + 1)
        sets = torch.tensor([math.comb(length, int(each)) for each in k], dtype=torch.float64)
        got = binomial(length, least).cumsum(0)[:-1] / (k * sets)
        return got if length > 1 else got / 2

    def binomial_of_one_letter_less(length, least):
        chance = binomial(max(length - 1, 1), least).cumsum(0)
        return chance[:length] if length > 1 else torch.ones(1)

    def probabilities_for_their_sums(length, least):
        return binomial(length, least)[1:]


def rounds(net, n, length, mask, steps, share=lambda i, steps: 1 / i, carry=True, draw=None):
    """The sampler with a mistake to choose: the share that comes, whether letters stay, how one is drawn."""
    draw = draw or (lambda logits: torch.distributions.Categorical(logits=logits).sample())
    x = torch.full((n, length), mask)
    for i in range(steps, 0, -1):
        comes = torch.rand(x.shape) < share(i, steps)
        letters = draw(net(x))
        x = torch.where(comes & (x == mask) if carry else comes, letters, x)
    return x


def filled(x, net, mask):
    return torch.where(x == mask, net(x).argmax(-1), x)


class repaired_sampler:
    def right_with_steps_drawn_beforehand(net, n, length, mask, steps):
        x, when = torch.full((n, length), mask), torch.randint(steps, (n, length))
        for i in range(steps):
            probabilities = net(x).softmax(-1).flatten(0, 1)
            letters = torch.multinomial(probabilities, 1).reshape(n, length)
            x = torch.where(when == i, letters, x)
        return x

    def right_asking_only_when_needed(net, n, length, mask, steps):
        x = torch.full((n, length), mask)
        for i in range(steps, 0, -1):
            comes = (torch.rand(x.shape) * i < 1) & (x == mask)
            rows = comes.any(1)
            if rows.any():
                logits = net(x[rows])
                letters = (logits - torch.rand(logits.shape).log().neg().log()).argmax(-1)
                x[rows] = torch.where(comes[rows], letters, x[rows])
        return x

    def as_found(net, n, length, mask, steps):
        x = rounds(net, n, length, mask, steps, lambda i, steps: 1 / steps, carry=False)
        return filled(x, net, mask)

    def only_carried_over(net, n, length, mask, steps):
        return filled(rounds(net, n, length, mask, steps, lambda i, steps: 1 / steps), net, mask)

    def only_the_share_repaired(net, n, length, mask, steps):
        return rounds(net, n, length, mask, steps, carry=False)

    def carried_over_and_the_rest_drawn_at_the_end(net, n, length, mask, steps):
        x = rounds(net, n, length, mask, steps, lambda i, steps: 1 / steps)
        return torch.where(x == mask, torch.distributions.Categorical(logits=net(x)).sample(), x)

    def argmax_in_the_last_step(net, n, length, mask, steps):
        return filled(rounds(net, n, length, mask, steps, lambda i, steps: 1 / i if i > 1 else 0.0), net, mask)

    def always_the_best_guess(net, n, length, mask, steps):
        return rounds(net, n, length, mask, steps, draw=lambda logits: logits.argmax(-1))

    def sharpened(net, n, length, mask, steps):
        return rounds(
            net, n, length, mask, steps, draw=lambda logits: torch.distributions.Categorical(logits=2 * logits).sample()
        )

    def masks_left(net, n, length, mask, steps):
        return rounds(net, n, length, mask, steps, lambda i, steps: 1 / (i + 1))

    def keep_and_mask_swapped(net, n, length, mask, steps):
        x = rounds(net, n, length, mask, steps, lambda i, steps: 1 - 1 / i)
        return torch.where(x == mask, torch.distributions.Categorical(logits=net(x)).sample(), x)

    def everything_in_the_first_step(net, n, length, mask, steps):
        return rounds(net, n, length, mask, steps, lambda i, steps: 1.0)

    def asked_once(net, n, length, mask, steps):
        logits = net(torch.full((n, length), mask))
        return rounds(lambda x: logits, n, length, mask, steps)

    def one_coin_for_the_line(net, n, length, mask, steps):
        x = torch.full((n, length), mask)
        for i in range(steps, 0, -1):
            letters = torch.distributions.Categorical(logits=net(x)).sample()
            x = torch.where((torch.rand(n, 1) < 1 / i) & (x == mask), letters, x)
        return x

    def one_letter_at_a_time(net, n, length, mask, steps):
        x, order = torch.full((n, length), mask), torch.rand(n, length).argsort(1)
        for place in order.T:
            letters = torch.distributions.Categorical(logits=net(x)).sample()
            x = x.scatter(1, place[:, None], letters.gather(1, place[:, None]))
        return x

    def left_to_right(net, n, length, mask, steps):
        x = torch.full((n, length), mask)
        for place in range(length):
            x[:, place] = torch.distributions.Categorical(logits=net(x)[:, place]).sample()
        return x

    def all_lines_alike(net, n, length, mask, steps):
        return rounds(net, 1, length, mask, steps).expand(n, length)

    def mask_can_be_drawn(net, n, length, mask, steps):
        return filled(
            rounds(lambda x: torch.cat([net(x), torch.zeros(len(x), length, 1)], -1), n, length, mask, steps), net, mask
        )


class race:
    def right_as_a_ladder(q, bits):
        # the letter wins against E_m = e if u > exp(−q e): a ladder of rungs, from one value of u to the next
        delta, total = 2.0**-bits, 0.0
        for j in range(1, 2**bits):
            total += delta * math.exp(math.log(j * delta) / q)
        return total

    def the_weight(q, bits):
        return q

    def without_grain(q, bits):
        return q / (1 + q)

    def for_small_weights(q, bits):
        delta = 2.0**-bits
        return delta / math.expm1(min(delta / q, 700))

    def one_is_among_the_values(q, bits):
        return ((torch.arange(2**bits) + 1) / 2**bits).pow(1 / q).mean()

    def middles(q, bits):
        return ((torch.arange(2**bits) + 0.5) / 2**bits).pow(1 / q).mean()

    def weight_upside_down(q, bits):
        return (torch.arange(2**bits) / 2**bits).pow(q).mean()

    def the_mask_wins(q, bits):
        return 1 - (torch.arange(2**bits) / 2**bits).pow(1 / q).mean()

    def zero_is_left_out(q, bits):
        return (torch.arange(1, 2**bits) / 2**bits).pow(1 / q).mean()

    def one_bit_more(q, bits):
        return (torch.arange(2 ** (bits + 1)) / 2 ** (bits + 1)).pow(1 / q).mean()

    def a_sum(q, bits):
        return (torch.arange(2**bits) / 2**bits).pow(1 / q).sum()

    def single_value(q, bits):
        return 2.0**-bits * math.exp(-(2.0**-bits) / q)

    def a_draw(q, bits):
        u = torch.randint(2**bits, (1000,)) / 2**bits
        return (-u.log() / q < -torch.rand(1000).log()).double().mean()


WORDS = torch.cartesian_prod(*[torch.arange(5)] * 3)


def known(xt, p=None):
    """log p(x^l = v | what shows), by going through all words: (B, 3, 5)."""
    p = sum_law().pmf.flatten() if p is None else p
    fits = ((xt[:, None] == WORDS) | (xt[:, None] == 5)).all(-1) * p  # (B, 125)
    return torch.stack([fits @ F.one_hot(WORDS[:, l], 5).double() for l in range(3)], 1).clamp(min=1e-9).log()


class guess:
    def the_law_itself(xt):
        return known(xt)

    def right_and_slightly_off(xt):
        return (known(xt) + 0.05 * torch.sin(7 * known(xt))).float()

    def nothing_learned(xt):
        return torch.zeros(len(xt), 3, 5)

    def marginals_only(xt):
        return known(torch.full_like(xt, 5))

    def only_from_the_left(xt):
        places = torch.arange(3)
        return torch.stack([known(torch.where(places < l, xt, 5))[:, l] for l in range(3)], 1)

    def difference_for_sum(xt):
        pmf = sum_law().pmf
        turned = pmf[:, (-torch.arange(5)) % 5]
        return known(xt, (pmf + 1e-3).flatten() * 0 + turned.flatten())

    def letters_back_to_front(xt):
        return known(xt).flip(2)

    def places_back_to_front(xt):
        return known(xt).flip(1)

    def sign(xt):
        return -known(xt).clamp(min=-7)

    def probabilities_for_logits(xt):
        return known(xt).softmax(-1)

    def too_sure(xt):
        return 2.5 * known(xt)

    def too_unsure(xt):
        return 0.6 * known(xt)

    def the_sum_without_mistakes(xt):
        return 30 * F.one_hot(known(xt).argmax(-1), 5).double()

    def trained_at_fifteen_percent(xt):
        several = (xt == 5).sum(1) > 1  # it never saw so many masks
        return torch.where(several[:, None, None], torch.zeros(()), known(xt))

    def mask_read_as_a_letter(xt):
        return known(torch.where(xt == 5, 0, xt))

    def one_place_missing(xt):
        return known(xt)[:, :2]

    def diverged(xt):
        return known(xt) * math.nan

    def reads_the_place_in_the_batch(xt):
        """The words stand in a known order there: what is hidden can be counted out."""
        return 30 * F.one_hot(WORDS[torch.arange(len(xt)) % 125], 5).double()
