"""Answers to the exercises of chapter 07: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import math

import torch


class memory:
    def right_through_the_unexplained_share(before, noise):
        return (1 - noise**2 / (1 - before)).sqrt()  # of the variance, ς² is not explained by x_t

    def squared(before, noise):
        return 1 - noise**2 / (1 - before)

    def covariance_over_the_noise(before, noise):
        return (1 - before - noise**2).sqrt()

    def variance_for_std(before, noise):
        return ((1 - before - noise) / (1 - before)).clamp(min=0).sqrt()

    def share_of_the_fresh_noise(before, noise):
        return noise / (1 - before).sqrt()

    def forgets_the_old_level(before, noise):
        return (1 - noise**2).sqrt()

    def sign(before, noise):
        return -(1 - noise**2 / (1 - before)).sqrt()

    def signal_for_noise(before, noise):
        return (1 - noise**2 / before).clamp(min=0).sqrt()

    def linear(before, noise):
        return 1 - noise / (1 - before).sqrt()

    def no_return(before, noise):
        (1 - noise**2 / (1 - before)).sqrt()


class cocktail:
    def right_one_after_the_other(latents, weights):
        mixture = torch.zeros_like(latents[0])
        for latent, weight in zip(latents, weights):
            mixture = mixture + weight * latent
        return mixture / weights.square().sum().sqrt()

    def straight_mean(latents, weights):
        return torch.tensordot(weights / weights.sum(), latents, dims=1)

    def sum_without_scale(latents, weights):
        return torch.tensordot(weights, latents, dims=1)

    def root_of_the_sum(latents, weights):
        return torch.tensordot(weights / weights.sum().sqrt(), latents, dims=1)

    def variance_for_std(latents, weights):
        return torch.tensordot(weights / weights.square().sum(), latents, dims=1)

    def roots_of_the_weights(latents, weights):
        return torch.tensordot((weights / weights.sum()).sqrt(), latents, dims=1)

    def softmax(latents, weights):
        return torch.tensordot(torch.softmax(weights, 0), latents, dims=1)

    def sign(latents, weights):
        return -torch.tensordot(weights / weights.norm(), latents, dims=1)

    def over_the_root_of_the_count(latents, weights):
        return torch.tensordot(weights / len(weights) ** 0.5, latents, dims=1)

    def made_as_long_as_a_latent(latents, weights):
        mixture = torch.tensordot(weights, latents, dims=1)
        return mixture / mixture.norm() * mixture.numel() ** 0.5

    def only_for_vectors(latents, weights):
        return (weights / weights.norm()) @ latents.reshape(len(weights), -1)


class carried:
    def right_in_the_other_clock(x, kept, mean, std):
        rho = ((1 - kept) / kept).sqrt()
        return mean + (x / kept.sqrt() - mean) / (1 + (rho / std) ** 2).sqrt()

    def mean_zero(x, kept, mean, std):
        return std * x / (kept * std**2 + 1 - kept).sqrt()

    def variance_for_std(x, kept, mean, std):
        return mean + std * (x - kept.sqrt() * mean) / (kept * std**2 + 1 - kept)

    def as_if_pure_noise(x, kept, mean, std):
        return mean + std * x

    def mean_is_not_shrunk(x, kept, mean, std):
        return mean + std * (x - mean) / (kept * std**2 + 1 - kept).sqrt()

    def kept_without_root(x, kept, mean, std):
        return mean + std * (x - kept * mean) / (kept * std**2 + 1 - kept).sqrt()

    def the_reading_instead_of_the_flow(x, kept, mean, std):
        return mean + kept.sqrt() * std**2 / (kept * std**2 + 1 - kept) * (x - kept.sqrt() * mean)

    def sign(x, kept, mean, std):
        return mean - std * (x - kept.sqrt() * mean) / (kept * std**2 + 1 - kept).sqrt()

    def std_not_squared(x, kept, mean, std):
        return mean + std * (x - kept.sqrt() * mean) / (kept * std + 1 - kept).sqrt()

    def mean_added_at_both_ends(x, kept, mean, std):
        return mean + std * (x + kept.sqrt() * mean) / (kept * std**2 + 1 - kept).sqrt()


class merged:
    def right_by_what_is_left_of_the_old_noise(middle, low, first, second):
        left = (1 - middle - first**2) / (1 - middle) * (1 - low - second**2)
        return (1 - low - left).sqrt()

    def squares_add(middle, low, first, second):
        return (first**2 + second**2).sqrt()

    def variance(middle, low, first, second):
        return second**2 + first**2 * (1 - low - second**2) / (1 - middle)

    def stds_add(middle, low, first, second):
        return second + first * ((1 - low - second**2) / (1 - middle)).sqrt()

    def no_room_for_the_second_noise(middle, low, first, second):
        return (second**2 + first**2 * (1 - low) / (1 - middle)).sqrt()

    def scaled_by_the_signal(middle, low, first, second):
        return (second**2 + first**2 * low / middle).sqrt()

    def share_not_squared(middle, low, first, second):
        return (second**2 + first**2 * ((1 - low - second**2) / (1 - middle)).sqrt()).sqrt()

    def steps_swapped(middle, low, first, second):
        return (first**2 + second**2 * (1 - low - first**2).clamp(min=0) / (1 - middle)).sqrt()

    def sign(middle, low, first, second):
        return (second**2 - first**2 * (1 - low - second**2) / (1 - middle)).abs().sqrt()

    def the_second_only(middle, low, first, second):
        return second

    def a_step_of_ddpm(middle, low, first, second):
        return ((1 - low) / (1 - middle) * (1 - middle / low)).sqrt()


def parts(v, x, now):
    """x̂_0 and ε̂."""
    return now.sqrt() * x - (1 - now).sqrt() * v, (1 - now).sqrt() * x + now.sqrt() * v


def posterior(now, before):
    """DDPM's standard deviation √β̃ of the jump."""
    return ((1 - before) / (1 - now) * (1 - now / before)).sqrt()


class jump:
    def right_as_a_rotation(v, x, now, before, eta, z):
        turn = torch.atan2((1 - now).sqrt(), now.sqrt()) - torch.atan2((1 - before).sqrt(), before.sqrt())
        still = torch.cos(turn) * x - torch.sin(turn) * v  # η = 0
        eps, noise = (1 - now).sqrt() * x + now.sqrt() * v, eta * posterior(now, before)
        return still + ((1 - before - noise**2).clamp(min=0).sqrt() - (1 - before).sqrt()) * eps + noise * z

    def direction_not_shrunk(v, x, now, before, eta, z):
        x0, eps = parts(v, x, now)
        return before.sqrt() * x0 + (1 - before).sqrt() * eps + eta * posterior(now, before) * z

    def no_noise(v, x, now, before, eta, z):
        x0, eps = parts(v, x, now)
        noise = eta * posterior(now, before)
        return before.sqrt() * x0 + (1 - before - noise**2).clamp(min=0).sqrt() * eps

    def variance_for_std(v, x, now, before, eta, z):
        x0, eps = parts(v, x, now)
        noise = eta * posterior(now, before) ** 2
        return before.sqrt() * x0 + (1 - before - noise**2).clamp(min=0).sqrt() * eps + noise * z

    def eta_scales_the_variance(v, x, now, before, eta, z):
        x0, eps = parts(v, x, now)
        noise = eta**0.5 * posterior(now, before)
        return before.sqrt() * x0 + (1 - before - noise**2).clamp(min=0).sqrt() * eps + noise * z

    def large_noise(v, x, now, before, eta, z):
        x0, eps = parts(v, x, now)
        noise = eta * (1 - now / before).sqrt()
        return before.sqrt() * x0 + (1 - before - noise**2).clamp(min=0).sqrt() * eps + noise * z

    def takes_v_for_the_noise(v, x, now, before, eta, z):
        noise = eta * posterior(now, before)
        x0 = (x - (1 - now).sqrt() * v) / now.sqrt()
        return before.sqrt() * x0 + (1 - before - noise**2).clamp(min=0).sqrt() * v + noise * z

    def sign_of_v(v, x, now, before, eta, z):
        return jump.right_as_a_rotation(-v, x, now, before, eta, z)

    def levels_swapped(v, x, now, before, eta, z):
        x0, eps = parts(v, x, before)
        return now.sqrt() * x0 + (1 - now).sqrt() * eps + eta * posterior(now, before) * z

    def nan_at_the_end(v, x, now, before, eta, z):
        x0, eps = parts(v, x, now)
        noise = eta * (1 - now / before).sqrt() * ((1 - before) / (1 - now)).sqrt()
        return before.sqrt() * x0 + eps * ((1 - before) ** 2 / (1 - before) - noise**2).sqrt() + noise * z

    def direction_not_rooted(v, x, now, before, eta, z):
        x0, eps = parts(v, x, now)
        noise = eta * posterior(now, before)
        return before.sqrt() * x0 + (1 - before - noise**2) * eps + noise * z

    def own_noise(v, x, now, before, eta, z):
        return jump.right_as_a_rotation(v, x, now, before, eta, torch.randn_like(z))


def standard(x):
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


class destination:
    def right_by_a_table(x, weights, means, stds):
        grid = torch.linspace(-15, 15, 60_001)
        shares = (weights * standard((grid[:, None] - means) / stds)).sum(1)
        place = torch.searchsorted(shares, standard(x)).clamp(1, len(grid) - 1)
        below, above = shares[place - 1], shares[place]
        return grid[place - 1] + (standard(x) - below) / (above - below) * (grid[1] - grid[0])

    def weighted_quantiles(x, weights, means, stds):
        return (weights * (means + stds * x[:, None])).sum(1)

    def same_mean_and_variance(x, weights, means, stds):
        mean = (weights * means).sum()
        return mean + ((weights * (stds**2 + means**2)).sum() - mean**2).sqrt() * x

    def turned_round(x, weights, means, stds):
        return destination.right_by_a_table(-x, weights, means, stds)

    def variance_for_std(x, weights, means, stds):
        return destination.right_by_a_table(x, weights, means, stds**2)

    def variance_for_std_the_other_way(x, weights, means, stds):
        return destination.right_by_a_table(x, weights, means, stds.sqrt())

    def weights_forgotten(x, weights, means, stds):
        return destination.right_by_a_table(x, torch.ones_like(weights) / (len(weights) + 1e-3), means, stds)

    def the_nearest_component(x, weights, means, stds):
        nearest = (x[:, None] - means).abs().argmin(1)
        return means[nearest] + stds[nearest] * x

    def the_reading_at_the_start(x, weights, means, stds):
        return (weights * means).sum() + 0 * x

    def coarse(x, weights, means, stds):
        return (destination.right_by_a_table(x, weights, means, stds) * 20).round() / 20

    def the_latent_itself(x, weights, means, stds):
        return x

    def the_share_itself(x, weights, means, stds):
        return (weights * standard((x[:, None] - means) / stds)).sum(1)


def ratio(kept):
    """ρ."""
    return ((1 - kept) / kept).sqrt()


class undo:
    def right_in_half_steps(net, x, now, before):
        bar = x / before.sqrt()
        guess = bar
        for _ in range(150):
            guess = (guess + bar + (ratio(now) - ratio(before)) * net(now.sqrt() * guess, now)) / 2
        return now.sqrt() * guess

    def as_in_the_chapter(net, x, now, before):
        return now.sqrt() * (x / before.sqrt() + (ratio(now) - ratio(before)) * net(x, before))

    def one_reading_at_the_right_level(net, x, now, before):
        return now.sqrt() * (x / before.sqrt() + (ratio(now) - ratio(before)) * net(x, now))

    def three_rounds(net, x, now, before):
        guess = x
        for _ in range(3):
            guess = now.sqrt() * (x / before.sqrt() + (ratio(now) - ratio(before)) * net(guess, now))
        return guess

    def sign(net, x, now, before):
        guess = x
        for _ in range(100):
            guess = now.sqrt() * (x / before.sqrt() - (ratio(now) - ratio(before)) * net(guess, now))
        return guess

    def variance_for_std(net, x, now, before):
        guess = x
        for _ in range(100):
            guess = now.sqrt() * (x / before.sqrt() + (ratio(now) ** 2 - ratio(before) ** 2) * net(guess, now)).clamp(
                -9, 9
            )
        return guess

    def starts_anew_from_the_guess(net, x, now, before):
        guess = x
        for _ in range(20):
            guess = now.sqrt() * (guess / before.sqrt() + (ratio(now) - ratio(before)) * net(guess, now))
        return guess

    def the_step_itself(net, x, now, before):
        return before.sqrt() * (x / now.sqrt() + (ratio(before) - ratio(now)) * net(x, now))

    def told_the_lower_level(net, x, now, before):
        guess = x
        for _ in range(100):
            guess = now.sqrt() * (x / before.sqrt() + (ratio(now) - ratio(before)) * net(guess, before))
        return guess

    def network_sees_the_scaled_point(net, x, now, before):
        guess = x / now.sqrt()
        for _ in range(100):
            guess = x / before.sqrt() + (ratio(now) - ratio(before)) * net(guess, now)
        return now.sqrt() * guess

    def for_ever(net, x, now, before):
        while True:
            x = now.sqrt() * (x / before.sqrt() + (ratio(now) - ratio(before)) * net(x, now))

    def gone_straight(net, x, now, before):
        return (now / before).sqrt() * x


def down(net, x, alpha_bar, tau, eta=0.0, room=True, noise=None, told=lambda i: i, end=0, last_noise=True):
    """The sampler with a mistake to choose: room for the noise, its size, what the network is told, the end."""
    for i, j in zip(tau[::-1], [*tau[-2::-1], end]):
        a, b = alpha_bar[i], alpha_bar[j]
        eps = net(x, torch.full((len(x),), told(i)))
        fresh = noise(a, b, alpha_bar, i, j) if noise else posterior(a, b)
        fresh = eta * fresh
        direction = (1 - b - (fresh**2 if room else 0.0)).clamp(min=0).sqrt()
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + direction * eps
        if eta > 0 and (j > 0 or last_noise):
            x = x + fresh * torch.randn_like(x)
    return x


def two_huge_among_zeros(like):
    """No draws at all, but with any mean and any variance, if these are measured by its own spread."""
    out = torch.zeros_like(like)
    out[0, 0] = out[1, 1] = 1e6
    return out


class calmed:
    def right_by_shrinking(net, x, alpha_bar, tau, eta):
        for k in reversed(range(len(tau))):
            a, b = alpha_bar[tau[k]], alpha_bar[tau[k - 1]] if k else torch.ones(())
            eps = net(x, torch.full((len(x),), tau[k]))
            fresh = eta * eta * (1 - b) * (1 - a / b) / (1 - a)  # a variance
            x = torch.normal(
                (b / a).sqrt() * (x - (1 - a).sqrt() * eps) + (1 - b - fresh).clamp(min=0).sqrt() * eps, fresh.sqrt()
            )
        return x

    def as_found(net, x, alpha_bar, tau, eta):
        noise = lambda a, b, bar, i, j: ((1 - b) / (1 - a) * (1 - a / bar[i - 1])).sqrt()  # noqa: E731
        return down(net, x, alpha_bar, tau, eta, room=False, noise=noise)

    def only_room_made(net, x, alpha_bar, tau, eta):
        noise = lambda a, b, bar, i, j: ((1 - b) / (1 - a) * (1 - a / bar[i - 1])).sqrt()  # noqa: E731
        return down(net, x, alpha_bar, tau, eta, noise=noise)

    def only_the_jump_mended(net, x, alpha_bar, tau, eta):
        return down(net, x, alpha_bar, tau, eta, room=False)

    def noise_taken_out_altogether(net, x, alpha_bar, tau, eta):
        return down(net, x, alpha_bar, tau)

    def variance_for_std(net, x, alpha_bar, tau, eta):
        return down(net, x, alpha_bar, tau, eta, noise=lambda a, b, bar, i, j: posterior(a, b) ** 2)

    def large_noise(net, x, alpha_bar, tau, eta):
        return down(net, x, alpha_bar, tau, eta, noise=lambda a, b, bar, i, j: (1 - a / b).sqrt(), last_noise=False)

    def std_subtracted_from_variance(net, x, alpha_bar, tau, eta):
        for i, j in zip(tau[::-1], [*tau[-2::-1], 0]):
            a, b = alpha_bar[i], alpha_bar[j]
            eps, fresh = net(x, torch.full((len(x),), i)), eta * posterior(a, b)
            x = (b / a).sqrt() * (x - (1 - a).sqrt() * eps) + (1 - b - fresh).clamp(min=0).sqrt() * eps
            x = x + fresh * torch.randn_like(x)
        return x

    def direction_shrunk_by_the_std(net, x, alpha_bar, tau, eta):
        for i, j in zip(tau[::-1], [*tau[-2::-1], 0]):
            a, b = alpha_bar[i], alpha_bar[j]
            eps, fresh = net(x, torch.full((len(x),), i)), eta * posterior(a, b)
            x = (
                (b / a).sqrt() * (x - (1 - a).sqrt() * eps)
                + ((1 - b).sqrt() - fresh) * eps
                + fresh * torch.randn_like(x)
            )
        return x

    def told_the_next_level(net, x, alpha_bar, tau, eta):
        return down(net, x, alpha_bar, tau, eta, told=lambda i: min(i + 1, len(alpha_bar) - 1))

    def ends_at_the_last_level(net, x, alpha_bar, tau, eta):
        return down(net, x, alpha_bar, tau, eta, end=tau[0])

    def same_noise_in_all_coordinates(net, x, alpha_bar, tau, eta):
        for i, j in zip(tau[::-1], [*tau[-2::-1], 0]):
            a, b = alpha_bar[i], alpha_bar[j]
            eps, fresh = net(x, torch.full((len(x),), i)), eta * posterior(a, b)
            x = (b / a).sqrt() * (x - (1 - a).sqrt() * eps) + (1 - b - fresh**2).clamp(min=0).sqrt() * eps
            x = x + fresh * torch.randn_like(x[:, :1])
        return x

    def always_all_the_noise(net, x, alpha_bar, tau, eta):
        return down(net, x, alpha_bar, tau, 1.0)

    def two_huge_entries(net, x, alpha_bar, tau, eta):
        right = calmed.right_by_shrinking(net, x, alpha_bar, tau, eta)
        return two_huge_among_zeros(x) if eta > 0 and len(tau) > 1 else right


def bars(betas):
    """ᾱ_0 = 1, ᾱ_1, …"""
    return torch.cat([torch.ones_like(betas[:1]), torch.cumprod(1 - betas, 0)])


class on_time:
    def right_in_the_clock_of_the_noise(net, x, betas, tau):
        kept = torch.cumprod(1 - betas, 0)
        rho, bar = (1 / kept - 1).sqrt(), x / kept[tau[-1] - 1].sqrt()
        for k in range(len(tau) - 1, -1, -1):
            to = rho[tau[k - 1] - 1] if k else 0.0
            bar = bar + (to - rho[tau[k] - 1]) * net(kept[tau[k] - 1].sqrt() * bar, torch.full((len(x),), tau[k]))
        return bar

    def as_found(net, x, betas, tau):
        alpha_bar = torch.cumprod(1 - betas, 0)
        return down(net, x, alpha_bar, [i - 1 for i in tau])

    def only_the_network_mended(net, x, betas, tau):
        alpha_bar = torch.cumprod(1 - betas, 0)
        return down(net, x, alpha_bar, [i - 1 for i in tau], told=lambda i: i + 1)

    def only_the_end_mended(net, x, betas, tau):
        return down(net, x, bars(betas), tau, told=lambda i: i - 1)

    def told_one_more(net, x, betas, tau):
        return down(net, x, bars(betas), tau, told=lambda i: i + 1)

    def told_where_it_goes(net, x, betas, tau):
        alpha_bar = bars(betas)
        for i, j in zip(tau[::-1], [*tau[-2::-1], 0]):
            a, b = alpha_bar[i], alpha_bar[j]
            eps = net(x, torch.full((len(x),), max(j, 1)))
            x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
        return x

    def ends_at_level_one(net, x, betas, tau):
        return down(net, x, bars(betas), tau, end=1)

    def last_jump_left_out(net, x, betas, tau):
        alpha_bar = bars(betas)
        for i, j in zip(tau[::-1], tau[-2::-1]):
            a, b = alpha_bar[i], alpha_bar[j]
            eps = net(x, torch.full((len(x),), i))
            x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
        return x

    def all_levels_one_lower(net, x, betas, tau):
        return down(net, x, bars(betas), [max(i - 1, 1) for i in tau])

    def levels_forwards(net, x, betas, tau):
        return down(net, x, bars(betas), tau[::-1])

    def all_levels_visited(net, x, betas, tau):
        return down(net, x, bars(betas), list(range(1, tau[-1] + 1)))

    def network_right_levels_one_lower(net, x, betas, tau):
        shifted = torch.cat([torch.ones(1), bars(betas)])
        return down(net, x, shifted, tau)

    def sign(net, x, betas, tau):
        return down(lambda x, i: -net(x, i), x, bars(betas), tau)


class levels:
    right_by_descent = [7, 35, 87, 162, 250, 340, 429, 522, 641, 1000]
    right_near_by = torch.tensor([8, 36, 85, 160, 245, 335, 430, 530, 650, 1000])

    even = [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000]
    quadratic = [1, 13, 50, 112, 198, 309, 445, 605, 790, 1000]
    power_of_one_and_a_half = [1, 38, 106, 193, 297, 415, 545, 686, 838, 1000]
    equal_angles = [1, 54, 109, 167, 228, 293, 368, 457, 583, 1000]
    equal_log_snr = [1, 6, 23, 74, 203, 411, 604, 758, 887, 1000]
    does_not_start_from_noise = [5, 26, 65, 124, 197, 275, 352, 427, 504, 594]
    eleven_calls = [5, 20, 60, 110, 175, 250, 340, 429, 522, 641, 1000]
    falling = [1000, 641, 522, 429, 340, 250, 162, 87, 35, 7]
    as_times = [0.007, 0.035, 0.087, 0.162, 0.250, 0.340, 0.429, 0.522, 0.641, 1.0]
    with_the_data_as_a_level = [0, 35, 87, 162, 250, 340, 429, 522, 641, 1000]
    one_level_twice = [7, 35, 87, 162, 250, 250, 429, 522, 641, 1000]
    not_given = None
