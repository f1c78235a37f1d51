"""Answers to the exercises of chapter 06: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import math

import torch

from gmbook.core.denoiser import Truth
from gmbook.core.paths import TablePath
from gmbook.laws import plane
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


def two_huge_among_zeros(like):
    """No draws at all, but with any mean and any variance, if these are measured by its own spread."""
    out = torch.zeros_like(like)
    out[0, 0] = out[1, 1] = 1e6
    return out


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

    def two_huge_entries(net, x, betas):
        right = repaired.right_through_the_posterior(net, x, betas)
        return two_huge_among_zeros(x) if len(betas) > 1 else right


class spread:
    def right_by_precisions(before, now, s):
        shrink, noise = (now / before).sqrt(), 1 - now / before
        return 1 / (shrink**2 / noise + 1 / (before * s**2 + 1 - before))

    def large_variance(before, now, s):
        return 1 - now / before

    def small_variance(before, now, s):
        return (1 - before) * (1 - now / before) / (1 - now)

    def standard_deviation(before, now, s):
        return spread.right_by_precisions(before, now, s).sqrt()

    def s_for_its_square(before, now, s):
        return spread.right_by_precisions(before, now, s**0.5)

    def times_swapped(before, now, s):
        return spread.right_by_precisions(now, before, s)

    def mean_of_both_choices(before, now, s):
        return (1 - now / before) * (1 + (1 - before) / (1 - now)) / 2

    def of_x_0(before, now, s):
        return s**2 * (1 - now) / (now * s**2 + 1 - now) + 0 * before

    def not_conditioned(before, now, s):
        return before * s**2 + 1 - before

    def signal_without_root(before, now, s):
        return spread.right_by_precisions(before**2, now**2, s)


class floor:
    def right_by_regression(covariance, alpha_bar):
        unit, left = torch.eye(len(covariance)), []
        for kept in alpha_bar[1:]:
            whole = kept * covariance + (1 - kept) * unit
            left.append((unit - (1 - kept) * torch.linalg.inv(whole)).trace() / len(covariance))
        return sum(left) / len(left)

    def from_step_zero(covariance, alpha_bar):
        signal = alpha_bar[:, None] * torch.linalg.eigvalsh(covariance)
        return (signal / (signal + 1 - alpha_bar[:, None]))[1:].sum() / signal.numel()

    def sum_over_dimensions(covariance, alpha_bar):
        return floor.right_by_regression(covariance, alpha_bar) * len(covariance)

    def sum_over_steps(covariance, alpha_bar):
        return floor.right_by_regression(covariance, alpha_bar) * (len(alpha_bar) - 1)

    def what_is_explained(covariance, alpha_bar):
        return 1 - floor.right_by_regression(covariance, alpha_bar)

    def diagonal_only(covariance, alpha_bar):
        return floor.right_by_regression(torch.diag(covariance.diagonal()), alpha_bar)

    def average_variance(covariance, alpha_bar):
        mean = covariance.trace() / len(covariance)
        return floor.right_by_regression(mean * torch.eye(len(covariance)), alpha_bar)

    def standard_deviations(covariance, alpha_bar):
        values = torch.linalg.eigvalsh(covariance).sqrt()
        return floor.right_by_regression(torch.diag(values), alpha_bar)

    def error_of_the_data(covariance, alpha_bar):
        signal = alpha_bar[1:, None] * torch.linalg.eigvalsh(covariance)
        return (signal / (signal + 1 - alpha_bar[1:, None]) * (1 / alpha_bar[1:, None] - 1)).mean()

    def roots_of_alpha_bar(covariance, alpha_bar):
        return floor.right_by_regression(covariance, alpha_bar.sqrt())

    def nothing_learned(covariance, alpha_bar):
        return torch.ones(())


class respaced:
    def right_by_products(betas, steps):
        gaps = zip([0, *steps[:-1]], steps)
        return torch.stack([1 - torch.prod(1 - betas[start:end]) for start, end in gaps])

    def every_nth(betas, steps):
        return betas[[step - 1 for step in steps]]

    def sums(betas, steps):
        total = torch.cat([torch.zeros(1), betas.cumsum(0)])[[0, *steps]]
        return (total.diff() / (1 + total.diff())).clamp(max=0.99)

    def one_step_late(betas, steps):
        later = [min(step + 1, len(betas)) if step != steps[-1] else step for step in steps]
        return respaced.right_by_products(betas, later).clamp(0.01, 0.99)

    def one_step_early(betas, steps):
        alpha_bar = torch.cumprod(1 - betas, 0)[[step - 1 for step in steps]]
        return 1 - torch.cat([alpha_bar[:1] / alpha_bar[:1].sqrt(), alpha_bar[1:] / alpha_bar[:-1]])

    def roots(betas, steps):
        return 1 - (1 - respaced.right_by_products(betas, steps)).sqrt()

    def the_signal(betas, steps):
        return 1 - respaced.right_by_products(betas, steps)

    def back_to_front(betas, steps):
        return respaced.right_by_products(betas, steps).flip(0)

    def upside_down(betas, steps):
        return 1 - 1 / (1 - respaced.right_by_products(betas, steps))

    def forgets_the_first_gap(betas, steps):
        return torch.cat([betas[:1], respaced.right_by_products(betas, steps)[1:]])

    def with_step_zero(betas, steps):
        return torch.cat([torch.zeros(1), respaced.right_by_products(betas, steps)])


def posterior(betas, first=1.0, variance=lambda tilde, beta: tilde):
    """The tables, with a mistake to choose: ᾱ_0, and what is taken for the variance."""
    alpha_bar = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.as_tensor([first]), alpha_bar[:-1]])
    tilde = variance((1 - before) * betas / (1 - alpha_bar), betas)
    tilde = torch.cat([tilde[1:2], tilde[1:]])
    return before.sqrt() * betas / (1 - alpha_bar), (1 - betas).sqrt() * (1 - before) / (1 - alpha_bar), tilde.log()


class tables:
    def right_in_a_loop(betas):
        rows, kept = [(1.0, 0.0)], 1 - betas[0].item()
        logs = []
        for beta in betas[1:].tolist():
            now = kept * (1 - beta)
            rows.append((kept**0.5 * beta / (1 - now), (1 - beta) ** 0.5 * (1 - kept) / (1 - now)))
            logs.append(math.log(beta) + math.log1p(-kept) - math.log1p(-now))
            kept = now
        return [row[0] for row in rows], [row[1] for row in rows], [logs[0], *logs]

    def as_found(betas):
        alpha_bar = torch.cumprod(1 - betas, 0)
        before = alpha_bar.roll(1)
        w_0 = before.sqrt() * betas / (1 - alpha_bar)
        w_i = (1 - betas).sqrt() * (1 - before) / (1 - alpha_bar)
        return w_0, w_i, torch.log((1 - before) * betas / (1 - alpha_bar))

    def only_the_logarithm(betas):
        w_0, w_i, log = tables.as_found(betas)
        return w_0, w_i, torch.cat([log[1:2], log[1:]])

    def log_of_zero_clamped(betas):
        w_0, w_i, log = posterior(betas)
        return w_0, w_i, torch.cat([torch.tensor([math.log(1e-20)]), log[1:]])

    def log_of_zero(betas):
        w_0, w_i, log = posterior(betas)
        return w_0, w_i, torch.cat([torch.tensor([-math.inf]), log[1:]])

    def beta_at_the_first(betas):
        w_0, w_i, log = posterior(betas)
        return w_0, w_i, torch.cat([betas[:1].log(), log[1:]])

    def large_variance(betas):
        return posterior(betas, variance=lambda tilde, beta: beta)

    def log_of_the_standard_deviation(betas):
        w_0, w_i, log = posterior(betas)
        return w_0, w_i, log / 2

    def variance_without_log(betas):
        w_0, w_i, log = posterior(betas)
        return w_0, w_i, log.exp()

    def starts_at_zero(betas):
        return posterior(betas, first=0.0)

    def shifted_by_one(betas):
        w_0, w_i, log = posterior(torch.cat([betas, betas[-1:]]))
        return w_0[1:], w_i[1:], log[1:]

    def weights_swapped(betas):
        w_0, w_i, log = posterior(betas)
        return w_i, w_0, log


def masses(mean, std, half=1 / 255, low=0.0, high=1.0):
    """The masses, with a mistake to choose: half a bin, and what the ends take."""
    edges = torch.linspace(-1, 1, 256)
    normal = torch.distributions.Normal(torch.tensor(float(mean)), torch.tensor(float(std)))
    upper, lower = normal.cdf(edges + half), normal.cdf(edges - half)
    if low == 0.0:
        lower[0] = 0.0
    if high == 1.0:
        upper[-1] = 1.0
    return upper - lower


class pixel_mass:
    def right_by_erfc(mean, std):
        edges = (-1 + (2 * torch.arange(257) - 1) / 255 - mean) / (std * 2**0.5)
        above = torch.erfc(edges) / 2
        above[0], above[256] = 1.0, 0.0
        return above[:-1] - above[1:]

    def ends_are_bins(mean, std):
        return masses(mean, std, low=None, high=None)

    def only_the_upper_end(mean, std):
        return masses(mean, std, low=None)

    def whole_bin_each_way(mean, std):
        return masses(mean, std, half=2 / 255)

    def half_of_256(mean, std):
        return masses(mean, std, half=1 / 256)

    def density(mean, std):
        return torch.distributions.Normal(mean, std).log_prob(torch.linspace(-1, 1, 256)).exp()

    def density_times_width(mean, std):
        return pixel_mass.density(mean, std) * 2 / 255

    def variance_for_std(mean, std):
        return masses(mean, std**2)

    def back_to_front(mean, std):
        return masses(mean, std).flip(0)

    def levels_from_zero_to_one(mean, std):
        return masses(2 * mean - 1, 2 * std)

    def normalised_afterwards(mean, std):
        inside = masses(mean, std, low=None, high=None)
        return inside / inside.sum()

    def logarithms(mean, std):
        return masses(mean, std).clamp(min=1e-12).log()


PATH = TablePath(linear_betas(100))


def known(quantity, x, i):
    """E[quantity | x_i] for the moons."""
    return Truth(plane.moons(), PATH, quantity)(x, i.double() / 100)


class denoise:
    def the_law_itself(x, i):
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
