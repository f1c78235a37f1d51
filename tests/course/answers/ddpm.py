"""Answers to the exercises of chapter 06: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import math

import torch

from gmbook.core.denoiser import Truth
from gmbook.core.paths import TablePath
from gmbook.lab import toys
from gmbook.papers.ddpm import linear_betas


class steps_to_noise:
    def right_by_search(beta, snr):
        step = 1
        while (1 - beta) ** step > snr * (1 - (1 - beta) ** step):
            step += 1
        return step

    def rounds_down(beta, snr):
        return max(1, math.floor(math.log(snr / (1 + snr)) / math.log(1 - beta)))

    def one_too_many(beta, snr):
        return 1 + math.ceil(math.log(snr / (1 + snr)) / math.log(1 - beta))

    def takes_the_ratio_for_alpha_bar(beta, snr):
        return max(1, math.ceil(math.log(snr) / math.log(1 - beta)))

    def standard_deviation_shrinks_by_1_minus_beta(beta, snr):
        return max(1, math.ceil(math.log(snr / (1 + snr)) / math.log(1 - beta) / 2))

    def shrinks_by_the_root(beta, snr):
        return max(1, math.ceil(2 * math.log(snr / (1 + snr)) / math.log(1 - beta)))

    def ratio_upside_down(beta, snr):
        return max(1, math.ceil(math.log(1 / (1 + snr)) / math.log(1 - beta)))

    def small_beta_approximation(beta, snr):
        return max(1, math.ceil(math.log((1 + snr) / snr) / beta))

    def negative(beta, snr):
        return -max(1, math.ceil(math.log(snr / (1 + snr)) / math.log(1 - beta)))

    def not_whole(beta, snr):
        return math.log(snr / (1 + snr)) / math.log(1 - beta)

    def noise_adds_up(beta, snr):
        return math.ceil(1 / (snr * beta))


class bridge:
    def right_by_precisions(before, now):
        shrink, noise = (now / before).sqrt(), 1 - now / before
        precision = shrink**2 / noise + 1 / (1 - before)
        return before.sqrt() / (1 - before) / precision, shrink / noise / precision, 1 / precision

    def one_step_only(before, now):
        beta = 1 - now / before
        return before.sqrt() * beta / (1 - now), (1 - beta) * (1 - before) / (1 - now), beta

    def weights_swapped(before, now):
        w_0, w_i, v = bridge.right_by_precisions(before, now)
        return w_i, w_0, v

    def standard_deviation(before, now):
        w_0, w_i, v = bridge.right_by_precisions(before, now)
        return w_0, w_i, v.sqrt()

    def large_variance(before, now):
        w_0, w_i, _ = bridge.right_by_precisions(before, now)
        return w_0, w_i, 1 - now / before

    def sign(before, now):
        w_0, w_i, v = bridge.right_by_precisions(before, now)
        return w_0, -w_i, v

    def no_roots(before, now):
        ratio = now / before
        return (
            before * (1 - ratio) / (1 - now),
            ratio * (1 - before) / (1 - now),
            (1 - ratio) * (1 - before) / (1 - now),
        )

    def forgets_x0(before, now):
        _, w_i, v = bridge.right_by_precisions(before, now)
        return torch.zeros(()), w_i, v

    def ddim_without_noise(before, now):
        w_i = ((1 - before) / (1 - now)).sqrt()
        return before.sqrt() - w_i * now.sqrt(), w_i, torch.zeros(())

    def variance_left_out(before, now):
        return bridge.right_by_precisions(before, now)[:2]

    def times_swapped(before, now):
        return bridge.right_by_precisions(now, before)

    def in_place(before, now):
        answer = bridge.right_by_precisions(before, now)
        now.div_(before)
        return answer


def noisy(x0, alpha_bar, low=1, high=None):
    """(x_i, i, ε) as they should be."""
    i = torch.randint(low, high or len(alpha_bar), (len(x0),))
    kept = alpha_bar[i].reshape(-1, *[1] * (x0.ndim - 1))
    eps = torch.randn_like(x0)
    return kept.sqrt() * x0 + (1 - kept).sqrt() * eps, i, eps


class simple_loss:
    def right_point_by_point(net, x0, alpha_bar):
        steps = torch.multinomial(torch.ones(len(alpha_bar) - 1), len(x0), replacement=True) + 1
        flat = x0.flatten(1)
        eps = torch.distributions.Normal(0.0, 1.0).sample(flat.shape)
        signal, noise = alpha_bar[steps].sqrt().unsqueeze(1), (1 - alpha_bar[steps]).sqrt().unsqueeze(1)
        out = net((signal * flat + noise * eps).view_as(x0), steps).flatten(1)
        return ((out - eps) ** 2).mean(1).mean()

    def variance_for_std(net, x0, alpha_bar):
        i = torch.randint(1, len(alpha_bar), (len(x0),))
        kept = alpha_bar[i].reshape(-1, *[1] * (x0.ndim - 1))
        eps = torch.randn_like(x0)
        return (net(kept.sqrt() * x0 + (1 - kept) * eps, i) - eps).square().mean()

    def signal_without_root(net, x0, alpha_bar):
        i = torch.randint(1, len(alpha_bar), (len(x0),))
        kept = alpha_bar[i].reshape(-1, *[1] * (x0.ndim - 1))
        eps = torch.randn_like(x0)
        return (net(kept * x0 + (1 - kept).sqrt() * eps, i) - eps).square().mean()

    def predicts_the_data(net, x0, alpha_bar):
        x, i, _ = noisy(x0, alpha_bar)
        return (net(x, i) - x0).square().mean()

    def sign_of_the_noise(net, x0, alpha_bar):
        x, i, eps = noisy(x0, alpha_bar)
        return (net(x, i) + eps).square().mean()

    def from_step_zero(net, x0, alpha_bar):
        x, i, eps = noisy(x0, alpha_bar, low=0)
        return (net(x, i) - eps).square().mean()

    def never_the_last_step(net, x0, alpha_bar):
        x, i, eps = noisy(x0, alpha_bar, high=len(alpha_bar) - 1)
        return (net(x, i) - eps).square().mean()

    def network_is_told_one_less(net, x0, alpha_bar):
        x, i, eps = noisy(x0, alpha_bar)
        return (net(x, i - 1) - eps).square().mean()

    def one_step_for_all(net, x0, alpha_bar):
        i = torch.randint(1, len(alpha_bar), (1,)).expand(len(x0))
        eps = torch.randn_like(x0)
        return (net(alpha_bar[i[0]].sqrt() * x0 + (1 - alpha_bar[i[0]]).sqrt() * eps, i) - eps).square().mean()

    def sum_for_mean(net, x0, alpha_bar):
        x, i, eps = noisy(x0, alpha_bar)
        return (net(x, i) - eps).square().sum()

    def sum_over_dimensions(net, x0, alpha_bar):
        x, i, eps = noisy(x0, alpha_bar)
        return (net(x, i) - eps).square().flatten(1).sum(1).mean()

    def detached(net, x0, alpha_bar):
        x, i, eps = noisy(x0, alpha_bar)
        return (net(x, i).detach() - eps).square().mean()

    def a_number(net, x0, alpha_bar):
        x, i, eps = noisy(x0, alpha_bar)
        return (net(x, i) - eps).square().mean().item()

    def same_noise_in_all_coordinates(net, x0, alpha_bar):
        i = torch.randint(1, len(alpha_bar), (len(x0),))
        kept = alpha_bar[i].reshape(-1, *[1] * (x0.ndim - 1))
        eps = torch.randn(len(x0), *[1] * (x0.ndim - 1)).expand_as(x0)
        return (net(kept.sqrt() * x0 + (1 - kept).sqrt() * eps, i) - eps).square().mean()

    def no_return(net, x0, alpha_bar):
        x, i, eps = noisy(x0, alpha_bar)
        (net(x, i) - eps).square().mean()


def chain(net, x, betas, noise, last=1, mean=None, first=1):
    """Algorithm 2 with a mistake to choose: noise(β, β̃), the steps that get none, the mean, the network's first i."""
    alpha_bar = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1), alpha_bar[:-1]])
    for i in reversed(range(len(betas))):
        eps = net(x, torch.full((len(x),), i + first))
        if mean is None:
            x = (x - betas[i] / (1 - alpha_bar[i]).sqrt() * eps) / (1 - betas[i]).sqrt()
        else:
            x = mean(x, eps, betas[i], alpha_bar[i])
        if i >= last:
            x = x + noise(betas[i], betas[i] * (1 - before[i]) / (1 - alpha_bar[i])) * torch.randn_like(x)
    return x


class repaired:
    def right_through_the_posterior(net, x, betas):
        alpha_bar = torch.cat([torch.ones(1), torch.cumprod(1 - betas, 0)])
        for i in range(len(betas), 0, -1):
            now, before, beta = alpha_bar[i], alpha_bar[i - 1], betas[i - 1]
            x0 = (x - (1 - now).sqrt() * net(x, torch.full((len(x),), i))) / now.sqrt()
            mean = before.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * x
            x = torch.normal(mean, beta.sqrt().expand_as(mean)) if i > 1 else mean
        return x

    def as_found(net, x, betas):
        return chain(net, x, betas, lambda beta, tilde: beta, last=0)

    def noise_at_the_last_step(net, x, betas):
        return chain(net, x, betas, lambda beta, tilde: beta.sqrt(), last=0)

    def variance_for_std(net, x, betas):
        return chain(net, x, betas, lambda beta, tilde: beta)

    def no_noise_in_the_last_two_steps(net, x, betas):
        return chain(net, x, betas, lambda beta, tilde: beta.sqrt(), last=2)

    def no_noise_in_the_first_step(net, x, betas):
        return chain(net, x, betas, lambda beta, tilde: beta.sqrt() if beta is not betas[-1] else 0 * beta, last=99)

    def small_variance(net, x, betas):
        return chain(net, x, betas, lambda beta, tilde: tilde.sqrt())

    def network_is_told_one_less(net, x, betas):
        return chain(net, x, betas, lambda beta, tilde: beta.sqrt(), first=0)

    def no_rescaling(net, x, betas):
        mean = lambda x, eps, beta, bar: x - beta / (1 - bar).sqrt() * eps  # noqa: E731
        return chain(net, x, betas, lambda beta, tilde: beta.sqrt(), mean=mean)

    def sign_of_the_noise_estimate(net, x, betas):
        mean = lambda x, eps, beta, bar: (x + beta / (1 - bar).sqrt() * eps) / (1 - beta).sqrt()  # noqa: E731
        return chain(net, x, betas, lambda beta, tilde: beta.sqrt(), mean=mean)

    def std_of_the_estimate_without_root(net, x, betas):
        mean = lambda x, eps, beta, bar: (x - beta / (1 - bar) * eps) / (1 - beta).sqrt()  # noqa: E731
        return chain(net, x, betas, lambda beta, tilde: beta.sqrt(), mean=mean)

    def forwards(net, x, betas):
        return chain(lambda x, i: net(x, len(betas) + 1 - i), x, betas.flip(0), lambda beta, tilde: beta.sqrt())

    def one_noise_for_all(net, x, betas):
        alpha_bar = torch.cumprod(1 - betas, 0)
        for i in reversed(range(len(betas))):
            eps = net(x, torch.full((len(x),), i + 1))
            x = (x - betas[i] / (1 - alpha_bar[i]).sqrt() * eps) / (1 - betas[i]).sqrt()
            x = x + (betas[i].sqrt() * torch.randn_like(x[:1]) if i else 0.0)
        return x

    def same_noise_in_all_coordinates(net, x, betas):
        alpha_bar = torch.cumprod(1 - betas, 0)
        for i in reversed(range(len(betas))):
            eps = net(x, torch.full((len(x),), i + 1))
            x = (x - betas[i] / (1 - alpha_bar[i]).sqrt() * eps) / (1 - betas[i]).sqrt()
            x = x + (betas[i].sqrt() * torch.randn_like(x[:, :1]) if i else 0.0)
        return x


PATH = TablePath(linear_betas(100))


def known(quantity, x, i):
    """E[quantity | x_i] for the moons."""
    return Truth(toys.moons(), PATH, quantity)(x, i.double() / 100)


class denoise:
    def right_because_it_knows(x, i):
        return known("eps", x, i)

    def right_and_slightly_off(x, i):
        return known("eps", x, i) + 0.1 * torch.sin(5 * x)

    def nothing_learned(x, i):
        return torch.zeros_like(x)

    def all_noise(x, i):
        return x

    def the_data(x, i):
        return known("x0", x, i)

    def the_score(x, i):
        return known("score", x, i)

    def sign(x, i):
        return -known("eps", x, i)

    def half(x, i):
        return 0.5 * known("eps", x, i)

    def step_off_by_ten(x, i):
        return known("eps", x, (i + 10).clamp(max=100))

    def time_runs_the_other_way(x, i):
        return known("eps", x, 101 - i)

    def best_linear(x, i):
        t = i.double() / 100
        alpha, sigma = PATH.alpha(t)[:, None], PATH.sigma(t)[:, None]
        return (sigma / (alpha**2 + sigma**2) * x).float()

    def coordinates_swapped(x, i):
        return known("eps", x, i).flip(1)

    def untrained(x, i):
        return x @ torch.randn(2, 2)

    def diverged(x, i):
        return x / 0
