"""Answers to the exercises of chapter 08: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import math

import torch

from gmbook.core.denoiser import Truth
from gmbook.core.paths import TablePath
from gmbook.laws import plane
from gmbook.papers.ddpm import DDPM
from gmbook.papers.improved_ddpm import cosine_betas
from gmbook.papers.theory import improved_ddpm as theory


def signal(steps, s, divide=True):
    """ᾱ_0..ᾱ_T of the cosine schedule."""
    f = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + s) / (1 + s) * math.pi / 2) ** 2
    return f / f[0] if divide else f


class cosine:
    def right_in_a_loop(steps, s):
        f = [math.cos((i / steps + s) / (1 + s) * math.pi / 2) ** 2 for i in range(steps + 1)]
        return torch.tensor([min(0.999, 1 - after / before) for before, after in zip(f, f[1:])])

    def not_cut(steps, s):
        kept = signal(steps, s)
        return 1 - kept[1:] / kept[:-1]

    def all_cut(steps, s):
        return cosine.right_in_a_loop(steps, s).clamp(max=0.5)

    def not_squared(steps, s):
        kept = signal(steps, s).sqrt()
        return (1 - kept[1:] / kept[:-1]).clamp(max=0.999)

    def differences(steps, s):
        return (-signal(steps, s).diff()).clamp(1e-9, 0.999)

    def without_the_shift(steps, s):
        return cosine.right_in_a_loop(steps, 0.0)

    def shift_not_normalised(steps, s):
        f = torch.cos((torch.arange(steps + 1) / steps + s).clamp(max=1.0) * math.pi / 2) ** 2
        return (1 - f[1:] / f[:-1].clamp(min=1e-12)).clamp(max=0.999)

    def back_to_front(steps, s):
        return cosine.right_in_a_loop(steps, s).flip(0)

    def one_too_many(steps, s):
        return torch.cat([torch.zeros(1), cosine.right_in_a_loop(steps, s)])

    def linear(steps, s):
        return torch.linspace(1e-4, 0.02, steps)


class moment:
    def right_by_arcsine(signal, s):
        first = math.sin(math.pi / 2 - s / (1 + s) * math.pi / 2)
        return (1 + s) * (1 - 2 / math.pi * math.asin(signal * first)) - s

    def of_alpha_bar(signal, s):
        return moment.right_by_arcsine(signal**0.5, s)

    def squared(signal, s):
        return moment.right_by_arcsine(signal**2, s)

    def not_divided(signal, s):
        return (1 + s) * 2 / math.pi * math.acos(signal) - s

    def without_the_shift(signal, s):
        return 2 / math.pi * math.acos(signal)

    def shift_added(signal, s):
        return moment.right_by_arcsine(signal, s) + 2 * s

    def from_the_end(signal, s):
        return 1 - moment.right_by_arcsine(signal, s)

    def in_degrees(signal, s):
        return math.degrees(moment.right_by_arcsine(signal, s))

    def sine(signal, s):
        return (1 + s) * 2 / math.pi * math.asin(signal) - s


def diagonal(denoise, x):
    """∂E[x_0]_k/∂x_k (B, D)."""
    columns = []
    for k in range(x.shape[1]):
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(denoise(z)[:, k].sum(), z)
        columns.append(slope[:, k])
    return torch.stack(columns, 1)


class doubt:
    def right_forwards(denoise, x, kept):
        columns = []
        for k in range(x.shape[1]):
            e = torch.zeros_like(x)
            e[:, k] = 1
            columns.append(torch.func.jvp(denoise, (x,), (e,))[1][:, k])
        return torch.stack(columns, 1) * (1 - kept) / kept**0.5

    def factor_left_out(denoise, x, kept):
        return diagonal(denoise, x)

    def without_the_signal(denoise, x, kept):
        return diagonal(denoise, x) * (1 - kept)

    def signal_without_root(denoise, x, kept):
        return diagonal(denoise, x) * (1 - kept) / kept

    def standard_deviation_of_the_noise(denoise, x, kept):
        return diagonal(denoise, x) * (1 - kept) ** 0.5 / kept**0.5

    def standard_deviation(denoise, x, kept):
        return (diagonal(denoise, x) * (1 - kept) / kept**0.5).sqrt()

    def whole_row(denoise, x, kept):
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(denoise(z).sum(), z)
        return slope * (1 - kept) / kept**0.5 if x.shape[1] > 1 else doubt.right_forwards(denoise, x, kept)

    def noise_and_signal_swapped(denoise, x, kept):
        return diagonal(denoise, x) * kept / (1 - kept) ** 0.5

    def trace(denoise, x, kept):
        return (diagonal(denoise, x) * (1 - kept) / kept**0.5).sum(1)

    def sign(denoise, x, kept):
        return -diagonal(denoise, x) * (1 - kept) / kept**0.5


class output_for:
    def right_by_halves(variance, beta, tilde):
        middle = (beta * tilde).sqrt()
        return 2 * torch.log(variance / middle) / torch.log(beta / tilde)

    def v_for_r(variance, beta, tilde):
        return torch.log(variance / tilde) / torch.log(beta / tilde)

    def linear(variance, beta, tilde):
        return 2 * (variance - tilde) / (beta - tilde) - 1

    def ends_swapped(variance, beta, tilde):
        return -output_for.right_by_halves(variance, beta, tilde)

    def of_the_standard_deviation(variance, beta, tilde):
        return output_for.right_by_halves(variance.sqrt(), beta, tilde)

    def clamped(variance, beta, tilde):
        return torch.full_like(variance, 1.5)

    def shifted_the_other_way(variance, beta, tilde):
        return output_for.right_by_halves(variance, beta, tilde) + 2

    def not_normalised(variance, beta, tilde):
        return 2 * torch.log(variance / tilde) - 1

    def upside_down(variance, beta, tilde):
        return 1 / output_for.right_by_halves(variance, beta, tilde)


def kl_term(eps, guess, r, beta, bar, detach=True, misread=False, half=True, mean=False, weight=None):
    """L_{i−1} with a mistake to choose."""
    guess = guess.detach() if detach else guess
    tilde = (1 - bar / (1 - beta)) / (1 - bar) * beta
    v = r if misread else (r + 1) / 2
    variance = torch.exp(v * math.log(beta) + (1 - v) * math.log(tilde))
    gap = beta**2 / (1 - beta) / (1 - bar) if weight is None else weight(beta, bar)
    value = (tilde + gap * (eps - guess) ** 2) / variance - 1 + variance.log() - math.log(tilde)
    value = value / 2 if half else value
    return value.mean(1) if mean else value.sum(1)


class term:
    def right_by_its_parts(eps, guess, r, beta, bar):
        before = bar / (1 - beta)
        tilde = (1 - before) / (1 - bar) * beta
        ratio = ((r + 1) / 2 * math.log(beta / tilde)).exp()  # Σ over β̃
        pull = beta * (eps - guess.detach()) / math.sqrt((1 - beta) * (1 - bar) * tilde)
        return ((1 + pull**2) / ratio - 1 + ratio.log()).sum(1) / 2

    def mean_not_detached(eps, guess, r, beta, bar):
        return kl_term(eps, guess, r, beta, bar, detach=False)

    def everything_detached(eps, guess, r, beta, bar):
        return kl_term(eps, guess, r.detach(), beta, bar)

    def r_for_v(eps, guess, r, beta, bar):
        return kl_term(eps, guess, r, beta, bar, misread=True)

    def without_the_half(eps, guess, r, beta, bar):
        return kl_term(eps, guess, r, beta, bar, half=False)

    def mean_over_dimensions(eps, guess, r, beta, bar):
        return kl_term(eps, guess, r, beta, bar, mean=True)

    def simple_weight(eps, guess, r, beta, bar):
        return kl_term(eps, guess, r, beta, bar, weight=lambda beta, bar: 1.0)

    def noise_without_root(eps, guess, r, beta, bar):
        return kl_term(eps, guess, r, beta, bar, weight=lambda beta, bar: beta**2 / (1 - beta) / (1 - bar) ** 2)

    def not_rescaled(eps, guess, r, beta, bar):
        return kl_term(eps, guess, r, beta, bar, weight=lambda beta, bar: beta**2 / (1 - bar))

    def ends_swapped(eps, guess, r, beta, bar):
        return kl_term(eps, guess, -r, beta, bar)

    def kl_the_other_way(eps, guess, r, beta, bar):
        tilde = (1 - bar / (1 - beta)) / (1 - bar) * beta
        variance = torch.exp((r + 1) / 2 * math.log(beta) + (1 - r) / 2 * math.log(tilde))
        gap = beta**2 / (1 - beta) / (1 - bar) * (eps - guess.detach()) ** 2
        return ((variance + gap) / tilde - 1 - variance.log() + math.log(tilde)).sum(1) / 2

    def summed_over_the_batch(eps, guess, r, beta, bar):
        return kl_term(eps, guess, r, beta, bar).sum()


class chances:
    def right_by_multipliers(losses, uniform):
        root = (losses**2).mean(1) ** 0.5
        return uniform / len(losses) + (1 - uniform) * root / root.sum()

    def no_root(losses, uniform):
        second = losses.square().mean(1)
        return (1 - uniform) * second / second.sum() + uniform / len(losses)

    def of_the_mean(losses, uniform):
        mean = losses.mean(1).abs()
        return (1 - uniform) * mean / mean.sum() + uniform / len(losses)

    def of_the_spread(losses, uniform):
        std = losses.std(1)
        return (1 - uniform) * std / std.sum() + uniform / len(losses)

    def even(losses, uniform):
        return torch.full((len(losses),), 1 / len(losses))

    def not_mixed(losses, uniform):
        root = losses.square().mean(1).sqrt()
        p = root / root.sum()
        return p if uniform else chances.no_root(losses, uniform)

    def shares_swapped(losses, uniform):
        root = losses.square().mean(1).sqrt()
        return uniform * root / root.sum() + (1 - uniform) / len(losses)

    def not_normalised(losses, uniform):
        return losses.square().mean(1).sqrt()

    def even_law_added(losses, uniform):
        root = losses.square().mean(1).sqrt()
        return root / root.sum() + uniform / len(losses)

    def upside_down(losses, uniform):
        root = 1 / losses.square().mean(1).sqrt()
        return (1 - uniform) * root / root.sum() + uniform / len(losses)


class short_variance:
    def right_by_logarithms(before, now, v):
        beta = 1 - now / before
        share = torch.log((1 - before) / (1 - now))  # of log β̃ over log β
        return torch.exp(torch.log(beta) + (1 - v) * share)

    def large(before, now, v):
        return 1 - now / before

    def small(before, now, v):
        return (1 - before) / (1 - now) * (1 - now / before)

    def linear(before, now, v):
        return v * short_variance.large(before, now, v) + (1 - v) * short_variance.small(before, now, v)

    def ends_swapped(before, now, v):
        return short_variance.right_by_logarithms(before, now, 1 - v)

    def standard_deviation(before, now, v):
        return short_variance.right_by_logarithms(before, now, v).sqrt()

    def times_swapped(before, now, v):
        return short_variance.right_by_logarithms(now, before, v).nan_to_num(0.5)

    def difference(before, now, v):
        beta = before - now
        return beta * ((1 - before) / (1 - now)) ** (1 - v)

    def r_for_v(before, now, v):
        return short_variance.right_by_logarithms(before, now, 2 * v - 1)

    def roots(before, now, v):
        return short_variance.right_by_logarithms(before.sqrt(), now.sqrt(), v)


def chain(net, x, betas, place=lambda r: (r + 1) / 2, root=0.5, last=1, tilde_of=None, swap=False):
    """Sampling with a learned variance, with a mistake to choose."""
    kept = torch.cat([torch.ones(1), torch.cumprod(1 - betas, 0)])
    for i in range(len(betas), 0, -1):
        eps, r = net(x, torch.full((len(x),), i))
        beta, now, before = betas[i - 1], kept[i], kept[i - 1]
        x = (x - beta / (1 - now).sqrt() * eps) / (1 - beta).sqrt()
        if i > last:
            tilde = (1 - before) / (1 - now) * beta if tilde_of is None else tilde_of(beta, before, now)
            low, high = (beta, tilde) if swap else (tilde, beta)
            v = place(r)
            x = x + (v * high.log() + (1 - v) * low.log()).exp() ** root * torch.randn_like(x)
    return x


class repaired:
    def right_through_the_posterior(net, x, betas):
        kept = torch.cat([torch.ones(1), torch.cumprod(1 - betas, 0)])
        for i in range(len(betas), 0, -1):
            eps, r = net(x, torch.full((len(x),), i))
            beta, now, before = betas[i - 1], kept[i], kept[i - 1]
            x0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
            mean = before.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * x
            if i == 1:
                return mean
            share = (1 - before) / (1 - now)
            x = torch.normal(mean, (beta * share ** ((1 - r) / 2)).sqrt())

    def as_found(net, x, betas):
        return chain(net, x, betas, place=lambda r: r, root=1.0)

    def only_the_place(net, x, betas):
        return chain(net, x, betas, root=1.0)

    def only_the_root(net, x, betas):
        return chain(net, x, betas, place=lambda r: r)

    def noise_at_the_last_step(net, x, betas):
        return chain(net, x, betas, last=0, tilde_of=lambda beta, before, now: beta)

    def no_noise_in_the_last_two(net, x, betas):
        return chain(net, x, betas, last=2)

    def always_large(net, x, betas):
        return chain(net, x, betas, place=lambda r: torch.ones_like(r))

    def always_small(net, x, betas):
        return chain(net, x, betas, place=lambda r: torch.zeros_like(r))

    def clamped(net, x, betas):
        return chain(net, x, betas, place=lambda r: torch.zeros_like(r) + 0.5)

    def ends_swapped(net, x, betas):
        return chain(net, x, betas, swap=True)

    def tilde_of_the_next_step(net, x, betas):
        return chain(net, x, betas, tilde_of=lambda beta, before, now: beta * (1 - now) / (1 - now * (1 - beta)))

    def squashed(net, x, betas):
        return chain(net, x, betas, place=torch.sigmoid)


class extra:
    def right_by_the_divergence(used, best):
        normal = torch.distributions.Normal
        return torch.distributions.kl_divergence(normal(0.0 * used, best.sqrt()), normal(0.0 * used, used.sqrt()))

    def without_the_half(used, best):
        return best / used - 1 - torch.log(best / used)

    def the_other_way(used, best):
        return (used / best - 1 - torch.log(used / best)) / 2

    def standard_deviations(used, best):
        return (best**2 / used**2 - 1 - 2 * torch.log(best / used)) / 2

    def sign_of_the_logarithm(used, best):
        return (best / used - 1 + torch.log(best / used)) / 2

    def logarithm_only(used, best):
        return torch.log(used / best) / 2

    def ratio_only(used, best):
        return (best / used - 1) / 2

    def without_the_one(used, best):
        return (best / used - torch.log(best / used)) / 2

    def in_bits(used, best):
        return extra.right_by_the_divergence(used, best) / math.log(2)

    def squared_difference(used, best):
        return (used - best) ** 2 / (4 * best**2)


CHAIN = DDPM(Truth(plane.moons(), TablePath(cosine_betas(20)), "eps"), (2,), betas=cosine_betas(20))


def known(x, i):
    """The best variance."""
    return theory.optimal_variance(CHAIN, theory.posterior_variance(CHAIN, x, i), i)


class width:
    def the_law_itself(x, i):
        return known(x, i)

    def right_and_slightly_off(x, i):
        return known(x, i) * torch.exp(0.05 * torch.sin(5 * x))

    def large(x, i):
        return CHAIN.beta[i][:, None].expand(x.shape)

    def small(x, i):
        return CHAIN.beta_tilde[i][:, None].expand(x.shape)

    def standard_deviation(x, i):
        return known(x, i).sqrt()

    def half_way(x, i):
        return (CHAIN.beta * CHAIN.beta_tilde)[i][:, None].sqrt().expand(x.shape)

    def doubled(x, i):
        return 2 * known(x, i)

    def one_number(x, i):
        return torch.full_like(x, 0.05)

    def negative(x, i):
        return -known(x, i)

    def of_the_clean_point(x, i):
        return theory.posterior_variance(CHAIN, x, i)

    def logarithm(x, i):
        return known(x, i).log()

    def coordinates_swapped(x, i):
        return known(x, i).flip(1) * torch.exp(0.4 * torch.sin(5 * x))
