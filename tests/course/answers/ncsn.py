"""Answers to the exercises of chapter 09: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import math

import torch

from gmbook.laws import plane


class posterior_mean:
    def right_by_the_sigmoid(x, a, sigma, p):
        return a * (2 * torch.sigmoid(2 * a * x / sigma**2 + math.log(p / (1 - p))) - 1)

    def chances_left_out(x, a, sigma, p):
        return a * torch.tanh(a * x / sigma**2)

    def whole_log_odds(x, a, sigma, p):
        return a * torch.tanh(a * x / sigma**2 + math.log(p / (1 - p)))

    def odds_upside_down(x, a, sigma, p):
        return a * torch.tanh(a * x / sigma**2 - math.log(p / (1 - p)) / 2)

    def standard_deviation_for_variance(x, a, sigma, p):
        return a * torch.tanh(a * x / sigma + math.log(p / (1 - p)) / 2)

    def twice_the_slope(x, a, sigma, p):
        return a * torch.tanh(2 * a * x / sigma**2 + math.log(p / (1 - p)) / 2)

    def not_scaled(x, a, sigma, p):
        return torch.tanh(a * x / sigma**2 + math.log(p / (1 - p)) / 2)

    def the_score(x, a, sigma, p):
        return (posterior_mean.right_by_the_sigmoid(x, a, sigma, p) - x) / sigma**2

    def the_chance(x, a, sigma, p):
        return torch.sigmoid(2 * a * x / sigma**2 + math.log(p / (1 - p)))

    def best_linear(x, a, sigma, p):
        variance = 4 * p * (1 - p) * a**2
        mean = (2 * p - 1) * a
        return mean + variance / (variance + sigma**2) * (x - mean)


class constant:
    def right_by_eigenvalues(covariance, sigma):
        spectrum = torch.linalg.eigvalsh(covariance)
        return (spectrum / (sigma**2 * (spectrum + sigma**2))).sum() / 2

    def without_the_half(covariance, sigma):
        return 2 * constant.right_by_eigenvalues(covariance, sigma)

    def per_dimension(covariance, sigma):
        return constant.right_by_eigenvalues(covariance, sigma) / len(covariance)

    def target_only(covariance, sigma):
        return len(covariance) / (2 * sigma**2) + 0 * covariance.sum()

    def clean_law(covariance, sigma):
        return (len(covariance) / sigma**2 - torch.linalg.inv(covariance).trace()) / 2

    def sign(covariance, sigma):
        return -constant.right_by_eigenvalues(covariance, sigma)

    def variance_for_std(covariance, sigma):
        return constant.right_by_eigenvalues(covariance, sigma**0.5)

    def diagonal_only(covariance, sigma):
        if len(covariance) == 1:
            return constant.right_by_eigenvalues(covariance, sigma)
        return constant.right_by_eigenvalues(torch.diag(covariance.diagonal()), sigma)

    def unit_data(covariance, sigma):
        return constant.right_by_eigenvalues(torch.eye(len(covariance)), sigma)

    def inverse_of_the_trace(covariance, sigma):
        if len(covariance) == 1:
            return constant.right_by_eigenvalues(covariance, sigma)
        blurred = covariance + sigma**2 * torch.eye(len(covariance))
        return (len(covariance) / sigma**2 - len(covariance) ** 2 / blurred.trace()) / 2


def pulled(score, x, v):
    """s(x) and ∇s(x)ᵀv."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = score(x)
        (pull,) = torch.autograd.grad((s * v).sum(), x)
    return s.detach(), pull


class sliced:
    def right_forwards(score, x, v):
        s, push = torch.func.jvp(score, (x,), (v,))
        return (v * push).sum(1) + s.square().sum(1) / 2

    def without_the_half(score, x, v):
        s, pull = pulled(score, x, v)
        return (pull * v).sum(1) + s.square().sum(1)

    def without_the_square(score, x, v):
        s, pull = pulled(score, x, v)
        return (pull * v).sum(1)

    def unit_length(score, x, v):
        s, pull = pulled(score, x, v / v.norm(dim=1, keepdim=True))
        return (pull * v / v.norm(dim=1, keepdim=True)).sum(1) + s.square().sum(1) / 2

    def projected_score(score, x, v):
        s, pull = pulled(score, x, v)
        return (pull * v).sum(1) + (s * v).sum(1) ** 2 / 2

    def exact_trace(score, x, v):
        total = torch.zeros(len(x))
        for k in range(x.shape[1]):
            e = torch.zeros_like(x)
            e[:, k] = 1
            total = total + pulled(score, x, e)[1][:, k]
        return total + score(x).square().sum(1) / 2

    def sign_of_the_trace(score, x, v):
        s, pull = pulled(score, x, v)
        return s.square().sum(1) / 2 - (pull * v).sum(1)

    def one_side_only(score, x, v):
        s, pull = pulled(score, x, v)
        return pull.sum(1) + s.square().sum(1) / 2

    def sum_over_the_batch(score, x, v):
        return sliced.right_forwards(score, x, v).sum()

    def mean_over_dimensions(score, x, v):
        s, pull = pulled(score, x, v)
        return (pull * v).mean(1) + s.square().mean(1) / 2

    def ones_for_v(score, x, v):
        return sliced.right_forwards(score, x, torch.ones_like(v))


def noisy(x0, sigmas, shared=False):
    """x̃, k, ε, and σ with axes."""
    k = torch.randint(len(sigmas), (1 if shared else len(x0),)).expand(len(x0)).clone()
    sigma = sigmas[k].reshape(-1, *[1] * (x0.ndim - 1))
    eps = torch.randn_like(x0)
    return x0 + sigma * eps, k, eps, sigma


class denoising:
    def right_through_the_clean_point(net, x0, sigmas):
        flat = x0.flatten(1)
        k = torch.multinomial(torch.ones(len(sigmas)), len(x0), replacement=True)
        sigma = sigmas[k].unsqueeze(1)
        moved = torch.normal(flat, sigma.expand_as(flat))
        guess = moved + sigma**2 * net(moved.view_as(x0), k).flatten(1)
        return (((guess - flat) / sigma) ** 2).mean(1).mean() / 2

    def without_the_half(net, x0, sigmas):
        return 2 * denoising.right_through_the_clean_point(net, x0, sigmas)

    def sum_over_dimensions(net, x0, sigmas):
        return denoising.right_through_the_clean_point(net, x0, sigmas) * x0[0].numel()

    def not_weighed(net, x0, sigmas):
        x, k, eps, sigma = noisy(x0, sigmas)
        return (net(x, k) + eps / sigma).square().mean() / 2

    def weighed_by_sigma(net, x0, sigmas):
        x, k, eps, sigma = noisy(x0, sigmas)
        return (sigma * (net(x, k) + eps / sigma).square()).mean() / 2

    def sign(net, x0, sigmas):
        x, k, eps, sigma = noisy(x0, sigmas)
        return (sigma * net(x, k) - eps).square().mean() / 2

    def target_is_the_noise(net, x0, sigmas):
        x, k, eps, sigma = noisy(x0, sigmas)
        return (sigma * (net(x, k) + eps)).square().mean() / 2

    def variance_for_std(net, x0, sigmas):
        x, k, eps, sigma = noisy(x0, sigmas**2)
        return (sigma.sqrt() * net(x, k) + eps).square().mean() / 2

    def one_level_for_all(net, x0, sigmas):
        x, k, eps, sigma = noisy(x0, sigmas, shared=True)
        return (sigma * net(x, k) + eps).square().mean() / 2

    def never_the_last_level(net, x0, sigmas):
        x, k, eps, sigma = noisy(x0, sigmas[:-1])
        return (sigma * net(x, k) + eps).square().mean() / 2

    def detached(net, x0, sigmas):
        x, k, eps, sigma = noisy(x0, sigmas)
        return (sigma * net(x, k).detach() + eps).square().mean() / 2

    def same_noise_in_all_coordinates(net, x0, sigmas):
        _, k, _, sigma = noisy(x0, sigmas)
        eps = torch.randn(len(x0), *[1] * (x0.ndim - 1)).expand_as(x0)
        return (sigma * net(x0 + sigma * eps, k) + eps).square().mean() / 2


def fitted(x, divide=None, minus=True):
    """A and b, with a mistake to choose."""
    mean = x.mean(0)
    apart = x - mean if minus else x
    matrix = -torch.linalg.inv(apart.T @ apart / (divide or len(x)))
    return matrix, -matrix @ mean


class best_linear:
    def right_by_eigenvectors(x):
        mean = x.mean(0)
        _, values, axes = torch.linalg.svd(x - mean, full_matrices=False)
        matrix = -(axes.T * (len(x) / values**2)) @ axes
        return matrix, -matrix @ mean

    def divided_by_one_less(x):
        return fitted(x, len(x) - 1)

    def sum_for_mean(x):
        return fitted(x, 1)

    def mean_not_taken_off(x):
        return fitted(x, minus=False)

    def sign(x):
        matrix, shift = fitted(x)
        return -matrix, -shift

    def covariance_not_inverted(x):
        matrix, shift = fitted(x)
        return torch.linalg.inv(matrix), torch.linalg.inv(matrix) @ matrix @ shift

    def b_is_the_mean(x):
        return fitted(x)[0], x.mean(0)

    def b_with_the_wrong_sign(x):
        matrix, shift = fitted(x)
        return matrix, -shift

    def b_left_out(x):
        return fitted(x)[0], torch.zeros(x.shape[1])

    def diagonal_only(x):
        matrix = -torch.diag(1 / (x - x.mean(0)).square().mean(0))
        return matrix, -matrix @ x.mean(0)

    def matrix_alone(x):
        return fitted(x)[0]


def walk(score, x, sigmas, per_level, step, power=2, push=0.5, kick=1.0, end=2, flip=False):
    """Algorithm 1 with a mistake to choose."""
    for sigma in sigmas.flip(0) if flip else sigmas:
        size = step * (sigma / sigmas[-1]) ** power
        for _ in range(per_level):
            x = x + push * size * score(x, sigma) + (kick * size) ** 0.5 * torch.randn_like(x)
    return x if end is None else x + sigmas[-1] ** end * score(x, sigmas[-1])


class repaired:
    def right_in_half_steps(score, x, sigmas, per_level, step):
        for sigma in sigmas.tolist():
            delta = step / sigmas[-1].item() ** 2
            for _ in range(per_level):
                ahead = x + delta * sigma**2 * score(x, sigma) / 2
                x = torch.normal(ahead, delta**0.5 * sigma)
        return x + sigmas[-1].item() ** 2 * score(x, sigmas[-1].item())

    def as_found(score, x, sigmas, per_level, step):
        return walk(score, x, sigmas, per_level, step, power=1, push=1.0)

    def only_the_square(score, x, sigmas, per_level, step):
        return walk(score, x, sigmas, per_level, step, push=1.0)

    def only_the_half(score, x, sigmas, per_level, step):
        return walk(score, x, sigmas, per_level, step, power=1)

    def code_form(score, x, sigmas, per_level, step):
        return walk(score, x, sigmas, per_level, step, push=1.0, kick=2.0)

    def noise_without_root(score, x, sigmas, per_level, step):
        for sigma in sigmas:
            size = step * (sigma / sigmas[-1]) ** 2
            for _ in range(per_level):
                x = x + size / 2 * score(x, sigma) + size * torch.randn_like(x)
        return x + sigmas[-1] ** 2 * score(x, sigmas[-1])

    def one_step_a_level(score, x, sigmas, per_level, step):
        return walk(score, x, sigmas, 1, step)

    def not_denoised(score, x, sigmas, per_level, step):
        return walk(score, x, sigmas, per_level, step, end=None)

    def denoised_by_sigma(score, x, sigmas, per_level, step):
        return walk(score, x, sigmas, per_level, step, end=1)

    def upside_down(score, x, sigmas, per_level, step):
        return walk(score, x, sigmas, per_level, step, flip=True)

    def same_step_everywhere(score, x, sigmas, per_level, step):
        return walk(score, x, sigmas, per_level, step, power=0)

    def no_noise(score, x, sigmas, per_level, step):
        return walk(score, x, sigmas, per_level, step, kick=0.0)

    def one_noise_for_all(score, x, sigmas, per_level, step):
        for sigma in sigmas:
            size = step * (sigma / sigmas[-1]) ** 2
            for _ in range(per_level):
                x = x + size / 2 * score(x, sigma) + size**0.5 * torch.randn_like(x[:1])
        return x + sigmas[-1] ** 2 * score(x, sigmas[-1])


def settled(v, total, alpha, steps):
    """The variance after the steps, for a level's law of this variance."""
    rest = total / (1 - alpha / (4 * total))
    return (1 - alpha / (2 * total)) ** (2 * steps) * (v - rest) + rest


class after:
    def right_by_a_geometric_sum(v, s, sigma, alpha, steps):
        kept = (1 - alpha / (2 * (s**2 + sigma**2))) ** 2
        return kept**steps * v + alpha * (1 - kept**steps) / (1 - kept)

    def single_point(v, s, sigma, alpha, steps):
        return settled(v, sigma**2, alpha, steps)

    def clean_data(v, s, sigma, alpha, steps):
        return settled(v, s**2, alpha, steps)

    def power_of_the_mean(v, s, sigma, alpha, steps):
        total = s**2 + sigma**2
        rest = total / (1 - alpha / (4 * total))
        return (1 - alpha / (2 * total)) ** steps * (v - rest) + rest

    def settles_at_the_law(v, s, sigma, alpha, steps):
        total = s**2 + sigma**2
        return (1 - alpha / (2 * total)) ** (2 * steps) * (v - total) + total

    def step_of_the_code(v, s, sigma, alpha, steps):
        return settled(v, s**2 + sigma**2, 2 * alpha, steps)

    def standard_deviation(v, s, sigma, alpha, steps):
        return settled(v, s**2 + sigma**2, alpha, steps) ** 0.5

    def already_settled(v, s, sigma, alpha, steps):
        total = s**2 + sigma**2
        return total / (1 - alpha / (4 * total)) + 0 * v

    def one_step_more(v, s, sigma, alpha, steps):
        return settled(v, s**2 + sigma**2, alpha, steps + 1)

    def standard_deviations_add(v, s, sigma, alpha, steps):
        return settled(v, (s + sigma) ** 2, alpha, steps)


class levels:
    def right_by_trying(most, least, ratio):
        count = 2
        while (most / least) ** (1 / (count - 1)) > ratio:
            count += 1
        return torch.logspace(math.log10(most), math.log10(least), count)

    def one_too_few(most, least, ratio):
        return levels.right_by_trying(most, least, ratio)[:-1]

    def steps_for_levels(most, least, ratio):
        count = max(1, math.ceil(math.log(most / least) / math.log(ratio)))
        return torch.logspace(math.log10(most), math.log10(least), count)

    def one_too_many(most, least, ratio):
        count = 2 + math.ceil(math.log(most / least) / math.log(ratio))
        return torch.logspace(math.log10(most), math.log10(least), count)

    def rising(most, least, ratio):
        return levels.right_by_trying(most, least, ratio).flip(0)

    def even(most, least, ratio):
        return torch.linspace(most, least, len(levels.right_by_trying(most, least, ratio)))

    def overshoots(most, least, ratio):
        count = len(levels.right_by_trying(most, least, ratio))
        return most * ratio ** -torch.arange(count, dtype=torch.float64)

    def variances(most, least, ratio):
        return levels.right_by_trying(most, least, ratio) ** 2

    def logarithms(most, least, ratio):
        return levels.right_by_trying(most, least, ratio).log()


class blend:
    def right_by_softmax(log_1, log_2, s_1, s_2, weight):
        logits = torch.stack([log_1 + math.log(weight), log_2 + math.log(1 - weight)], 1)
        share = torch.softmax(logits, 1)
        return share[:, :1] * s_1 + share[:, 1:] * s_2

    def fixed_weights(log_1, log_2, s_1, s_2, weight):
        return weight * s_1 + (1 - weight) * s_2

    def weights_left_out(log_1, log_2, s_1, s_2, weight):
        share = torch.sigmoid(log_1 - log_2)[:, None]
        return share * s_1 + (1 - share) * s_2

    def swapped(log_1, log_2, s_1, s_2, weight):
        return blend.right_by_softmax(log_1, log_2, s_2, s_1, weight)

    def weight_swapped(log_1, log_2, s_1, s_2, weight):
        return blend.right_by_softmax(log_1, log_2, s_1, s_2, 1 - weight)

    def densities_underflow(log_1, log_2, s_1, s_2, weight):
        one, other = weight * log_1.exp(), (1 - weight) * log_2.exp()
        return (one[:, None] * s_1 + other[:, None] * s_2) / (one + other)[:, None]

    def underflow_hidden(log_1, log_2, s_1, s_2, weight):
        one, other = weight * log_1.exp(), (1 - weight) * log_2.exp()
        return (one[:, None] * s_1 + other[:, None] * s_2) / (one + other + 1e-30)[:, None]

    def nearer_one_only(log_1, log_2, s_1, s_2, weight):
        return torch.where((log_1 > log_2)[:, None], s_1, s_2)

    def gradient_of_the_density(log_1, log_2, s_1, s_2, weight):
        return weight * log_1.exp()[:, None] * s_1 + (1 - weight) * log_2.exp()[:, None] * s_2

    def log_of_a_mean(log_1, log_2, s_1, s_2, weight):
        share = torch.sigmoid(weight * log_1 - (1 - weight) * log_2)[:, None]
        return share * s_1 + (1 - share) * s_2


def known(x, sigma):
    """The score of the blurred moons."""
    return (plane.moons().posterior_mean(x, torch.ones(()), sigma) - x) / sigma[:, None] ** 2


class slope:
    def the_law_itself(x, sigma):
        return known(x, sigma)

    def right_and_slightly_off(x, sigma):
        return known(x, sigma) + 0.1 * torch.sin(5 * x) / sigma[:, None]

    def nothing_learned(x, sigma):
        return torch.zeros_like(x)

    def sign(x, sigma):
        return -known(x, sigma)

    def the_noise(x, sigma):
        return -sigma[:, None] * known(x, sigma)

    def sigma_twice(x, sigma):
        return known(x, sigma) / sigma[:, None]

    def the_data(x, sigma):
        return x + sigma[:, None] ** 2 * known(x, sigma)

    def one_level_for_all(x, sigma):
        return known(x, torch.full_like(sigma, 0.4))

    def levels_turned_round(x, sigma):
        return known(x, 0.2 / sigma)

    def best_linear(x, sigma):
        return -x / (1 + sigma[:, None] ** 2)

    def coordinates_swapped(x, sigma):
        return known(x, sigma).flip(1)

    def diverged(x, sigma):
        return x / 0
