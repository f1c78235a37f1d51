"""Answers to the exercises of chapter 15: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F

from gmbook.course.checks.sedd import noised_law


def uniform_rates(vocab, like):
    return torch.full((vocab, vocab), 1 / vocab, dtype=like.dtype) - torch.eye(vocab, dtype=like.dtype)


class ratios:
    def right_by_the_matrix(p, noise, x):
        law = p @ torch.linalg.matrix_exp(noise * uniform_rates(len(p), p))
        return law / law[x]

    def without_noise(p, noise, x):
        return p / p[x]

    def logarithms(p, noise, x):
        return ratios.right_by_the_matrix(p, noise, x).log()

    def exchanged(p, noise, x):
        return 1 / ratios.right_by_the_matrix(p, noise, x)

    def the_law(p, noise, x):
        return ratios.right_by_the_matrix(p, noise, x) * (p[x] * (-noise).exp() + (1 - (-noise).exp()) / len(p))

    def zero_at_the_present(p, noise, x):
        return ratios.right_by_the_matrix(p, noise, x) * (torch.arange(len(p)) != x)

    def noise_for_probability(p, noise, x):
        law = noise * p + (1 - noise) / len(p)
        return law / law[x]

    def jumps_elsewhere_only(p, noise, x):
        keep = (-noise).exp()
        law = keep * p + (1 - keep) * (1 - p) / (len(p) - 1)
        return law / law[x]

    def twice_the_noise(p, noise, x):
        return ratios.right_by_the_matrix(p, 2 * noise, x)


class leaving:
    def right_by_flows(p, slope, exits):
        return (slope + exits * p) / p

    def forwards(p, slope, exits):
        return exits + 0 * p

    def sign(p, slope, exits):
        return exits - slope / p

    def slope_of_p(p, slope, exits):
        return exits + slope

    def no_way_out(p, slope, exits):
        return slope / p

    def times_p(p, slope, exits):
        return exits + slope * p

    def exits_by_p(p, slope, exits):
        return slope / p + exits / p

    def mean_exit(p, slope, exits):
        return slope / p + exits.mean()

    def difference_of_logs(p, slope, exits):
        return (p + slope).clamp(min=1e-3).log() - p.log() + exits


class entropy_loss:
    def right_by_the_ratio(log_s, r):
        safe = r.clamp(min=1e-300)
        off = log_s - safe.log()  # e^off − off − 1, times r
        return torch.where(r > 0, safe * (off.exp() - off - 1), log_s.exp())

    def without_k(log_s, r):
        return log_s.exp() - r * log_s

    def not_a_number_at_zero(log_s, r):
        return log_s.exp() - r * log_s + r * r.log() - r

    def s_for_its_logarithm(log_s, r):
        return log_s - r * log_s.abs().log() + torch.xlogy(r, r) - r

    def linear(log_s, r):
        return r.exp() - log_s.exp() * r.exp() + log_s.exp()

    def squared(log_s, r):
        return (log_s.exp() - r) ** 2

    def squared_logarithms(log_s, r):
        return (log_s - r.clamp(min=1e-9).log()) ** 2

    def sign_of_k(log_s, r):
        return log_s.exp() - r * log_s - torch.xlogy(r, r) + r

    def arguments_exchanged(log_s, r):
        return r - log_s.exp() * r.clamp(min=1e-9).log() + log_s.exp() * (log_s - 1)

    def mean(log_s, r):
        return (log_s.exp() - r * log_s + torch.xlogy(r, r) - r).mean().expand(log_s.shape)

    def detached(log_s, r):
        return (log_s.exp() - r * log_s + torch.xlogy(r, r) - r).detach()


class least:
    def right_by_covariance(r, chance):
        s = (chance * r).sum()
        return s, (chance * r * (r / s).log()).sum()

    def geometric_mean(r, chance):
        s = (chance * r.log()).sum().exp()
        return s, (chance * (s - r * s.log() + r * (r.log() - 1))).sum()

    def plain_mean(r, chance):
        s = r.mean()
        return s, (chance * (s - r * s.log() + r * (r.log() - 1))).sum()

    def nothing_left(r, chance):
        return (chance * r).sum(), 0.0 * r[0]

    def without_k(r, chance):
        s = (chance * r).sum()
        return s, s - s * s.log()

    def variance(r, chance):
        s = (chance * r).sum()
        return s, (chance * (r - s) ** 2).sum()

    def likeliest(r, chance):
        s = r[chance.argmax()]
        return s, (chance * (s - r * s.log() + r * (r.log() - 1))).sum()

    def sign(r, chance):
        s, loss = least.right_by_covariance(r, chance)
        return s, -loss

    def the_other_way_round(r, chance):
        s = (chance * r).sum()
        return s, -(chance * (r / s).log()).sum()


class clocks:
    def right_by_score_entropy(friend, model):
        ratio = model / friend
        return (friend * (ratio - 1 - ratio.log())).sum()

    def jumps_only(friend, model):
        return (friend * (friend / model).log()).sum()

    def other_way(friend, model):
        return (model * (model / friend).log() - model + friend).sum()

    def sign_of_the_rest(friend, model):
        return (friend * (friend / model).log() + friend - model).sum()

    def as_if_probabilities(friend, model):
        p, q = friend / friend.sum(), model / model.sum()
        return (p * (p / q).log()).sum()

    def total_rates_only(friend, model):
        a, b = friend.sum(), model.sum()
        return a * (a / b).log() - a + b + 0.05

    def squared(friend, model):
        return ((friend - model) ** 2 / model).sum() / 2

    def mean_over_states(friend, model):
        return (friend * (friend / model).log() - friend + model).mean() * (len(friend) + 1) / 2

    def averaged_by_the_model(friend, model):
        return (model * (friend / model).log() - friend + model).sum()


def bayes(before, xt, into):
    weights = before * into[:, xt].permute(1, 2, 0)
    return weights / weights.sum(-1, keepdim=True)


class undo:
    def right_by_matrices(s, xt, step):
        rates = uniform_rates(s.shape[-1], s)
        return bayes(s @ torch.linalg.matrix_exp(-step * rates), xt, torch.linalg.matrix_exp(step * rates))

    def not_undone(s, xt, step):
        return bayes(s, xt, torch.linalg.matrix_exp(step * uniform_rates(s.shape[-1], s)))

    def noised_once_more(s, xt, step):
        kernel = torch.linalg.matrix_exp(step * uniform_rates(s.shape[-1], s))
        return bayes(s @ kernel, xt, kernel)

    def law_before(s, xt, step):
        before = s @ torch.linalg.matrix_exp(-step * uniform_rates(s.shape[-1], s))
        return before / before.sum(-1, keepdim=True)

    def not_normalised(s, xt, step):
        rates = uniform_rates(s.shape[-1], s)
        kernel = torch.linalg.matrix_exp(step * rates)
        return 1.01 * (s @ torch.linalg.matrix_exp(-step * rates)) * kernel[:, xt].permute(1, 2, 0)

    def eulers_step(s, xt, step):
        jumps = (step * s / s.shape[-1]) * (1 - F.one_hot(xt, s.shape[-1]))
        law = jumps + F.one_hot(xt, s.shape[-1]) * (1 - jumps.sum(-1, keepdim=True)).clamp(min=0)
        return law / law.sum(-1, keepdim=True)

    def step_for_probability(s, xt, step):
        rates = uniform_rates(s.shape[-1], s)
        back, into = torch.linalg.matrix_exp(step.log() * rates), torch.linalg.matrix_exp(-step.log() * rates)
        return bayes(s @ back, xt, into)

    def undone_twice(s, xt, step):
        rates = uniform_rates(s.shape[-1], s)
        return bayes(s @ torch.linalg.matrix_exp(-2 * step * rates), xt, torch.linalg.matrix_exp(step * rates))

    def ratios_as_the_law(s, xt, step):
        return s / s.sum(-1, keepdim=True)


def masks(net, x, keep, mask):
    hidden = torch.rand(x.shape, dtype=keep.dtype) >= keep[:, None]
    log_s, odds = net(torch.where(hidden, mask, x)), (keep / (1 - keep))[:, None]
    return hidden, log_s, odds, log_s.gather(-1, x[..., None])[..., 0]


class masked_loss:
    def right_token_by_token(net, x, keep, rate, mask):
        hidden = torch.bernoulli(1 - keep[:, None].expand(-1, 2)).bool()
        log_s = net(torch.where(hidden, mask, x))
        r = (keep / (1 - keep))[:, None, None] * F.one_hot(x, log_s.shape[-1])
        loss = log_s.exp() - r * log_s + torch.xlogy(r, r) - r
        return (rate[:, None] * hidden * loss.sum(-1)).sum() / len(x)

    def true_token_only(net, x, keep, rate, mask):
        hidden, log_s, odds, own = masks(net, x, keep, mask)
        return (rate * (hidden * (own.exp() - odds * own + odds * (odds.log() - 1))).sum(1)).mean()

    def without_k(net, x, keep, rate, mask):
        hidden, log_s, odds, own = masks(net, x, keep, mask)
        return (rate * (hidden * (log_s.exp().sum(-1) - odds * own)).sum(1)).mean()

    def no_rate(net, x, keep, rate, mask):
        hidden, log_s, odds, own = masks(net, x, keep, mask)
        return (hidden * (log_s.exp().sum(-1) - odds * own + odds * (odds.log() - 1))).sum(1).mean()

    def all_places(net, x, keep, rate, mask):
        hidden, log_s, odds, own = masks(net, x, keep, mask)
        return (rate * (log_s.exp().sum(-1) - odds * own + odds * (odds.log() - 1)).sum(1)).mean()

    def of_a_token(net, x, keep, rate, mask):
        hidden, log_s, odds, own = masks(net, x, keep, mask)
        return (rate * (hidden * (log_s.exp().sum(-1) - odds * own + odds * (odds.log() - 1))).mean(1)).mean()

    def ratio_of_one(net, x, keep, rate, mask):
        hidden, log_s, _, own = masks(net, x, keep, mask)
        return (rate * (hidden * (log_s.exp().sum(-1) - own - 1)).sum(1)).mean()

    def ratio_upside_down(net, x, keep, rate, mask):
        hidden, log_s, odds, own = masks(net, x, keep, mask)
        return (rate * (hidden * (log_s.exp().sum(-1) - own / odds - (1 + odds.log()) / odds)).sum(1)).mean()

    def cross_entropy(net, x, keep, rate, mask):
        hidden, log_s, odds, own = masks(net, x, keep, mask)
        return (rate * (hidden * odds * (log_s.logsumexp(-1) - own)).sum(1)).mean()

    def hides_what_should_show(net, x, keep, rate, mask):
        return masked_loss.right_token_by_token(net, x, 1 - keep, rate, mask)

    def mean_over_masks(net, x, keep, rate, mask):
        hidden, log_s, odds, own = masks(net, x, keep, mask)
        loss = log_s.exp().sum(-1) - odds * own + odds * (odds.log() - 1)
        return (rate[:, None] * hidden * loss).sum() / hidden.sum()

    def detached(net, x, keep, rate, mask):
        hidden, log_s, odds, own = masks(net, x, keep, mask)
        return (rate * (hidden * (log_s.exp().sum(-1) - odds * own + odds * (odds.log() - 1))).sum(1)).mean().detach()


def by_loops(p, rates, entry):
    vocab = len(p)
    table = torch.zeros([vocab] * 4, dtype=p.dtype)
    for a, b, c, d in itertools.product(range(vocab), repeat=4):
        if (a == c) != (b == d):
            table[a, b, c, d] = entry(a, b, c, d)
    for a, b in itertools.product(range(vocab), repeat=2):
        table[a, b, a, b] = -table[a, b].sum()
    return table


class way_back:
    def right_by_loops(p, rates):
        def entry(a, b, c, d):
            return p[c, d] / p[a, b] * (rates[c, a] if b == d else rates[d, b])

        return by_loops(p, rates, entry)

    def forwards(p, rates):
        return by_loops(p, rates, lambda a, b, c, d: rates[a, c] if b == d else rates[b, d])

    def rates_transposed(p, rates):
        def entry(a, b, c, d):
            return p[c, d] / p[a, b] * (rates[a, c] if b == d else rates[b, d])

        return by_loops(p, rates, entry)

    def ratio_upside_down(p, rates):
        def entry(a, b, c, d):
            return p[a, b] / p[c, d] * (rates[c, a] if b == d else rates[d, b])

        return by_loops(p, rates, entry)

    def no_ratio(p, rates):
        return by_loops(p, rates, lambda a, b, c, d: rates[c, a] if b == d else rates[d, b])

    def marginal_ratios(p, rates):
        one, two = p.sum(1), p.sum(0)

        def entry(a, b, c, d):
            return one[c] / one[a] * rates[c, a] if b == d else two[d] / two[b] * rates[d, b]

        return by_loops(p, rates, entry)

    def no_diagonal(p, rates):
        table = way_back.right_by_loops(p, rates)
        for a, b in itertools.product(range(len(p)), repeat=2):
            table[a, b, a, b] = 0.0
        return table

    def forward_diagonal(p, rates):
        table = way_back.right_by_loops(p, rates)
        for a, b in itertools.product(range(len(p)), repeat=2):
            table[a, b, a, b] = rates[a, a] + rates[b, b]
        return table

    def columns_sum_to_zero(p, rates):
        return way_back.right_by_loops(p, rates).permute(2, 3, 0, 1)

    def second_token_stays(p, rates):
        return by_loops(p, rates, lambda a, b, c, d: p[c, d] / p[a, b] * rates[c, a] if b == d else 0.0)


def walk(net, n, pi, noise, *, start=None, jump=None, stay=None):
    vocab = len(pi)
    begin = pi if start is None else start
    x = torch.distributions.Categorical(probs=begin.expand(n, 2, vocab)).sample()
    for k in range(len(noise) - 1, 0, -1):
        here = F.one_hot(x, vocab).bool()
        weight = pi[x][..., None] if jump is None else jump(pi, x)
        jumps = ((noise[k] - noise[k - 1]) * net(x).detach().exp() * weight).masked_fill(here, 0.0)
        rest = (1 - jumps.sum(-1, keepdim=True)).clamp(min=0) if stay is None else stay(jumps)
        x = torch.distributions.Categorical(probs=torch.where(here, rest, jumps)).sample()
    return x


class repaired_sampler:
    def right_by_a_coin(net, n, pi, noise):
        vocab = len(pi)
        x = torch.multinomial(pi.expand(n, vocab), 2, replacement=True)
        for k in range(len(noise) - 1, 0, -1):
            rates = net(x).detach().exp().scatter(-1, x[..., None], 0.0) * pi[x][..., None]
            total = rates.sum(-1)
            leaves = torch.rand(x.shape, dtype=pi.dtype) < (noise[k] - noise[k - 1]) * total
            where = torch.multinomial(rates.flatten(0, 1), 1).reshape(x.shape)
            x = torch.where(leaves, where, x)
        return x

    def as_found(net, n, pi, noise):
        start = torch.full_like(pi, 1 / len(pi))
        return walk(net, n, pi, noise, start=start, jump=lambda pi, x: pi, stay=torch.ones_like)

    def starts_uniform(net, n, pi, noise):
        return walk(net, n, pi, noise, start=torch.full_like(pi, 1 / len(pi)))

    def pi_of_the_target(net, n, pi, noise):
        return walk(net, n, pi, noise, jump=lambda pi, x: pi)

    def stays_with_weight_one(net, n, pi, noise):
        return walk(net, n, pi, noise, stay=torch.ones_like)

    def uniform_rates(net, n, pi, noise):
        return walk(net, n, pi, noise, jump=lambda pi, x: torch.full_like(pi, 1 / len(pi)))

    def ratios_upside_down(net, n, pi, noise):
        return walk(lambda x: -net(x), n, pi, noise)

    def ratios_for_logarithms(net, n, pi, noise):
        return walk(lambda x: (net(x).detach().abs() + 1e-6).log(), n, pi, noise)

    def never_leaves_surely(net, n, pi, noise):
        return walk(net, n, pi, noise, stay=lambda jumps: (-jumps.sum(-1, keepdim=True)).exp())

    def one_step_short(net, n, pi, noise):
        return walk(net, n, pi, noise[1:])

    def tokens_alike(net, n, pi, noise):
        return walk(net, n, pi, noise)[:, :1].expand(-1, 2)


def exact(xt):
    """Log-ratios of the noisy law."""
    law = noised_law()
    one, two = law[:, xt[:, 1]].T, law[xt[:, 0]]
    return (torch.stack([one, two], 1) / law[xt[:, 0], xt[:, 1]][:, None, None]).log()


class guess:
    def right_and_slightly_off(xt):
        return (exact(xt) + 0.02 * torch.sin(7 * exact(xt))).float()

    def the_ratios_themselves(xt):
        return exact(xt).exp()

    def the_truth_itself(xt):
        return exact(xt)

    def nothing_learned(xt):
        return torch.zeros(len(xt), 2, 5)

    def places_exchanged(xt):
        return exact(xt).flip(1)

    def sign(xt):
        return -exact(xt)

    def marginals_only(xt):
        law = noised_law()
        one, two = law.sum(1), law.sum(0)
        return torch.stack([(one / one[xt[:, :1]]).log(), (two / two[xt[:, 1:]]).log()], 1)

    def too_large(xt):
        return exact(xt) + 0.3

    def too_cautious(xt):
        return 0.7 * exact(xt)

    def normalised(xt):
        return exact(xt).log_softmax(-1)

    def diverged(xt):
        return exact(xt) * math.nan
