"""Answers to the exercises of chapter 17: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import itertools
import math

import torch

from gmbook.course.checks.mar import bump_density, lost, same, two_bumps


class collapse:
    def right_by_moments(weights, means, stds):
        first, second = (weights * means).sum(), (weights * (means**2 + stds**2)).sum()
        return first, second - first**2

    def unweighted(weights, means, stds):
        return means.mean(), (weights * (stds**2 + (means - means.mean()) ** 2)).sum()

    def heaviest_mode(weights, means, stds):
        best = means[weights.argmax()]
        return best, (weights * (stds**2 + (means - best) ** 2)).sum()

    def within_only(weights, means, stds):
        return (weights * means).sum(), (weights * stds**2).sum()

    def between_only(weights, means, stds):
        best = (weights * means).sum()
        return best, (weights * (means - best) ** 2).sum()

    def mean_square(weights, means, stds):
        return (weights * means).sum(), (weights * (means**2 + stds**2)).sum()

    def standard_deviation(weights, means, stds):
        best = (weights * means).sum()
        return best, (weights * (stds**2 + (means - best) ** 2)).sum().sqrt()

    def stds_not_squared(weights, means, stds):
        best = (weights * means).sum()
        return best, (weights * (stds + (means - best) ** 2)).sum()


class floor:
    def right_by_a_solve(alpha_bar, covariance):
        eye = torch.eye(len(covariance), dtype=covariance.dtype)
        noisy = alpha_bar * covariance + (1 - alpha_bar) * eye
        return torch.linalg.solve(noisy, alpha_bar * covariance).trace()

    def diagonal_only(alpha_bar, covariance):
        spread = alpha_bar * covariance.diagonal()
        return (spread / (spread + 1 - alpha_bar)).sum()

    def what_is_told(alpha_bar, covariance):
        spread = alpha_bar * torch.linalg.eigvalsh(covariance)
        return ((1 - alpha_bar) / (spread + 1 - alpha_bar)).sum()

    def mean_over_numbers(alpha_bar, covariance):
        spread = alpha_bar * torch.linalg.eigvalsh(covariance)
        return (spread / (spread + 1 - alpha_bar)).mean()

    def exchanged(alpha_bar, covariance):
        spread = (1 - alpha_bar) * torch.linalg.eigvalsh(covariance)
        return (spread / (spread + alpha_bar)).sum()

    def alpha_squared(alpha_bar, covariance):
        spread = alpha_bar**2 * torch.linalg.eigvalsh(covariance)
        return (spread / (spread + 1 - alpha_bar**2)).sum()

    def eigenvalues_as_stds(alpha_bar, covariance):
        spread = alpha_bar * torch.linalg.eigvalsh(covariance) ** 2
        return (spread / (spread + 1 - alpha_bar)).sum()

    def loss_of_the_token(alpha_bar, covariance):
        values = torch.linalg.eigvalsh(covariance)
        return (values * (1 - alpha_bar) / (alpha_bar * values + 1 - alpha_bar)).sum()

    def zero(alpha_bar, covariance):
        return 0 * alpha_bar


class sizes:
    def right_by_search(tokens, curve, steps):
        left, found = tokens, []
        for k in range(1, steps + 1):
            wanted = math.floor(tokens * curve(k / steps) + 1e-12)
            after = min(range(steps - k, left), key=lambda m, wanted=wanted: abs(m - wanted)) if k < steps else 0
            found.append(left - after)
            left = after
        return found

    def plain(tokens, curve, steps):
        left = [math.floor(tokens * curve(k / steps) + 1e-12) for k in range(steps + 1)]
        return [a - b for a, b in itertools.pairwise(left)]

    def none_for_the_last(tokens, curve, steps):
        left = [tokens]
        for k in range(1, steps + 1):
            left.append(max(0, min(left[-1] - 1, math.floor(tokens * curve(k / steps) + 1e-12))))
        return [a - b for a, b in itertools.pairwise(left)]

    def empty_steps(tokens, curve, steps):
        left = [tokens]
        for k in range(1, steps + 1):
            left.append(max(steps - k, min(left[-1], math.floor(tokens * curve(k / steps) + 1e-12))))
        return [a - b for a, b in itertools.pairwise(left)]

    def rounded(tokens, curve, steps):
        left = [tokens]
        for k in range(1, steps + 1):
            left.append(max(steps - k, min(left[-1] - 1, math.ceil(tokens * curve(k / steps)))))
        left[-1] = 0
        return [a - b for a, b in itertools.pairwise(left)]

    def one_step_late(tokens, curve, steps):
        left = [tokens]
        for k in range(1, steps + 1):
            wanted = math.floor(tokens * curve((k - 1) / steps) + 1e-12)
            left.append(max(steps - k, min(left[-1] - 1, wanted)))
        left[-1] = 0
        return [a - b for a, b in itertools.pairwise(left)]

    def what_is_left(tokens, curve, steps):
        left = [tokens]
        for k in range(1, steps + 1):
            left.append(max(steps - k, min(left[-1] - 1, math.floor(tokens * curve(k / steps) + 1e-12))))
        return left[1:]

    def turned_around(tokens, curve, steps):
        return sizes.right_by_search(tokens, curve, steps)[::-1]

    def always_the_cosine(tokens, curve, steps):
        return sizes.right_by_search(tokens, lambda u: math.cos(math.pi * u / 2), steps)


class price:
    def right_by_determinants(rho, sizes):
        ends = list(itertools.accumulate(sizes, initial=0))
        return lost(same(ends[-1], rho), [list(range(a, b)) for a, b in itertools.pairwise(ends)])

    def forgets_what_is_known(rho, sizes):
        return -sum((d - 1) * math.log(1 - rho) + math.log(1 + (d - 1) * rho) for d in sizes) / 2

    def all_at_once(rho, sizes):
        return price.forgets_what_is_known(rho, [sum(sizes)])

    def bits(rho, sizes):
        return price.right_by_determinants(rho, sizes) / math.log(2)

    def twice(rho, sizes):
        return 2 * price.right_by_determinants(rho, sizes)

    def sign(rho, sizes):
        return -price.right_by_determinants(rho, sizes)

    def one_known_too_many(rho, sizes):
        total, known = 0.0, 1
        for d in sizes:
            r = rho / (1 + known * rho)
            total -= 0.5 * ((d - 1) * math.log(1 - r) + math.log(1 + (d - 1) * r))
            known += d
        return total

    def correlation_divided(rho, sizes):
        total, known = 0.0, 0
        for d in sizes:
            r = rho / (1 + known)
            total -= 0.5 * ((d - 1) * math.log(1 - r) + math.log(1 + (d - 1) * r))
            known += d
        return total

    def pairs_only(rho, sizes):
        return -sum(d * (d - 1) / 2 * math.log(1 - rho**2) / 2 for d in sizes)


def chain(betas, mean, std, tau, last=False, large=False, start=1.0, factor=2):
    bars = torch.cat([torch.ones_like(betas[:1]), torch.cumprod(1 - betas, 0)])
    centre, variance = torch.zeros_like(mean), start * torch.ones_like(mean)
    for i in range(len(betas), 0, -1):
        bar, before, beta = bars[i], bars[i - 1], betas[i - 1]
        law = bar * std**2 + 1 - bar
        slope = (1 - beta / law) / (1 - beta).sqrt()
        centre = slope * centre + beta * bar.sqrt() * mean / law / (1 - beta).sqrt()
        noise = beta if large or (last and i == 1) else (1 - before) / (1 - bar) * beta
        variance = slope**2 * variance + (tau**factor * noise if i > 1 or last else 0.0)
    return centre, variance


class cool:
    def right_through_x0(betas, mean, std, tau):
        bars = torch.cat([torch.ones_like(betas[:1]), torch.cumprod(1 - betas, 0)])
        centre, variance = torch.zeros_like(mean), torch.ones_like(mean)
        for i in range(len(betas), 0, -1):
            now, before, beta = bars[i], bars[i - 1], betas[i - 1]
            gain = now.sqrt() * std**2 / (now * std**2 + 1 - now)  # E[x_0 | x_i] = mean + gain (x_i − √ᾱ mean)
            to_x0, to_xi = before.sqrt() * beta / (1 - now), (1 - beta).sqrt() * (1 - before) / (1 - now)
            slope = to_x0 * gain + to_xi
            centre = slope * centre + to_x0 * (1 - gain * now.sqrt()) * mean
            variance = slope**2 * variance + (i > 1) * tau**2 * (1 - before) / (1 - now) * beta
        return centre, variance.sqrt()

    def the_token_itself(betas, mean, std, tau):
        return mean, std

    def scaled_token(betas, mean, std, tau):
        return chain(betas, mean, std, 1.0)[0], tau * chain(betas, mean, std, 1.0)[1].sqrt()

    def variance(betas, mean, std, tau):
        return chain(betas, mean, std, tau)

    def noise_in_the_last_step(betas, mean, std, tau):
        centre, variance = chain(betas, mean, std, tau, last=True)
        return centre, variance.sqrt()

    def large_variance(betas, mean, std, tau):
        centre, variance = chain(betas, mean, std, tau, large=True)
        return centre, variance.sqrt()

    def start_cooled_too(betas, mean, std, tau):
        centre, variance = chain(betas, mean, std, tau, start=tau**2)
        return centre, variance.sqrt()

    def temperature_not_squared(betas, mean, std, tau):
        centre, variance = chain(betas, mean, std, tau, factor=1)
        return centre, variance.sqrt()

    def no_temperature(betas, mean, std, tau):
        centre, variance = chain(betas, mean, std, 1.0)
        return centre, variance.sqrt()

    def mean_forgotten(betas, mean, std, tau):
        return 0 * mean, chain(betas, mean, std, tau)[1].sqrt()


class tilt:
    def right_by_completing_the_square(mean, variance, wide, s):
        # −a x²/2 + b x with a and b from both exponents
        a, b = (s * wide + (1 - s) * variance) / (variance * wide), s * mean / variance
        return b / a, 1 / a

    def means_extrapolated(mean, variance, wide, s):
        return s * mean, 1 / (s / variance + (1 - s) / wide)

    def mean_stays(mean, variance, wide, s):
        return mean, 1 / (s / variance + (1 - s) / wide)

    def only_sharpened(mean, variance, wide, s):
        return mean, variance / s

    def variances_extrapolated(mean, variance, wide, s):
        v = wide + s * (variance - wide)
        return s * mean / variance * v, v

    def precision(mean, variance, wide, s):
        p = s / variance + (1 - s) / wide
        return s * mean / variance / p, p

    def root(mean, variance, wide, s):
        p = s / variance + (1 - s) / wide
        return s * mean / variance / p, p.rsqrt()

    def sign_of_the_null(mean, variance, wide, s):
        p = s / variance + (s - 1) / wide
        return s * mean / variance / p, 1 / p

    def weight_of_the_paper(mean, variance, wide, s):
        p = (1 + s) / variance - s / wide
        return (1 + s) * mean / variance / p, 1 / p


def bell(u):
    return torch.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)


class mean_share:
    def right_by_quadrature(least, std):
        nodes = least + (1 - least) * (torch.arange(200_000) + 0.5) / 200_000
        weight = torch.exp(-(((nodes - 1) / std) ** 2) / 2)
        return (weight * nodes).sum() / weight.sum()

    def no_lower_cut(least, std):
        return 1 - std * math.sqrt(2 / math.pi) + 0 * least

    def middle(least, std):
        return (1 + least) / 2 + 0 * std

    def no_cut_at_all(least, std):
        return torch.ones_like(least)

    def not_normalised(least, std):
        low = (least - 1) / std
        return 1 + std * (bell(low) - bell(torch.zeros_like(low)))

    def sign(least, std):
        low = (least - 1) / std
        return 1 - std * (bell(low) - bell(torch.zeros_like(low))) / (0.5 - torch.special.ndtr(low))

    def std_forgotten(least, std):
        low = (least - 1) / std
        return 1 + (bell(low) - bell(torch.zeros_like(low))) / (0.5 - torch.special.ndtr(low))

    def mass_of_the_whole_left(least, std):
        low = (least - 1) / std
        return 1 + std * (bell(low) - bell(torch.zeros_like(low))) / 0.5

    def share_that_shows(least, std):
        low = (least - 1) / std
        return -std * (bell(low) - bell(torch.zeros_like(low))) / (0.5 - torch.special.ndtr(low))


def best(count, m, cost):
    return list(min(itertools.combinations(range(count), m), key=cost))


class first_set:
    def right_by_variances(covariance, m):
        # log det is the same for all choices: only the variances given the sets before matter
        def cost(part):
            rest, first = [j for j in range(len(covariance)) if j not in part], list(part)
            alone = covariance.diagonal()[first].log().sum()
            gain = covariance[rest][:, first] @ torch.linalg.inv(covariance[first][:, first])
            return (
                alone + (covariance[rest][:, rest] - gain @ covariance[first][:, rest]).diagonal().log().sum()
            ).item()

        return best(len(covariance), m, cost)

    def first_set_alone(covariance, m):
        return best(
            len(covariance), m, lambda part: lost(covariance[list(part)][:, list(part)], [list(range(m))]).item()
        )

    def second_set_unconditional(covariance, m):
        def cost(part):
            rest = [j for j in range(len(covariance)) if j not in part]
            return sum(lost(covariance[s][:, s], [list(range(len(s)))]).item() for s in (list(part), rest))

        return best(len(covariance), m, cost)

    def dearest(covariance, m):
        def cost(part):
            return -lost(covariance, [list(part), [j for j in range(len(covariance)) if j not in part]]).item()

        return best(len(covariance), m, cost)

    def largest_variances(covariance, m):
        return covariance.diagonal().argsort(descending=True)[:m]

    def the_first_ones(covariance, m):
        return list(range(m))

    def every_other(covariance, m):
        return (list(range(0, len(covariance), 2)) + list(range(1, len(covariance), 2)))[:m]

    def drawn_last(covariance, m):
        def cost(part):
            return lost(covariance, [[j for j in range(len(covariance)) if j not in part], list(part)]).item()

        return best(len(covariance), m, cost)

    def one_token_many_times(covariance, m):
        return [0] * m


def draw(backbone, head, n, sizes, order=None, back="inverse", known_first=0, fixed=False):
    total, known = sum(sizes), 0
    order = torch.rand(n, total).argsort(1) if order is None else order
    x = torch.zeros(n, total, 1)
    for size in sizes:
        z = backbone(x, order, max(0, known - known_first))[:, :size]
        x[:, known : known + size] = head(z.flatten(0, 1)).reshape(n, size, 1)
        known += size
    index = {"inverse": order.argsort(1), "order": order, "none": torch.arange(total).expand(n, -1)}[back]
    return x.gather(1, index[..., None])


class repaired:
    def right_by_scatter(backbone, head, n, sizes):
        total, known = sum(sizes), 0
        order, x = torch.rand(n, total).argsort(1), torch.zeros(n, total, 1)
        for size in sizes:
            drawn = head(backbone(x, order, known)[:, :size].flatten(0, 1)).reshape(n, size, 1)
            x = torch.cat([x[:, :known], drawn, x[:, known + size :]], 1)
            known += size
        return torch.zeros(n, total, 1).scatter(1, order[..., None], x)

    def as_found(backbone, head, n, sizes):
        return draw(backbone, head, n, sizes, back="order")

    def left_in_the_order_of_generation(backbone, head, n, sizes):
        return draw(backbone, head, n, sizes, back="none")

    def scattered_by_the_inverse(backbone, head, n, sizes):
        total, known = sum(sizes), 0
        order, x = torch.rand(n, total).argsort(1), torch.zeros(n, total, 1)
        for size in sizes:
            x[:, known : known + size] = head(backbone(x, order, known)[:, :size].flatten(0, 1)).reshape(n, size, 1)
            known += size
        return torch.zeros(n, total, 1).scatter(1, order.argsort(1)[..., None], x)

    def always_row_by_row(backbone, head, n, sizes):
        return draw(backbone, head, n, sizes, torch.arange(sum(sizes)).expand(n, -1).contiguous())

    def one_order_for_all(backbone, head, n, sizes):
        return draw(backbone, head, n, sizes, torch.randperm(sum(sizes)).expand(n, -1).contiguous())

    def one_known_too_few(backbone, head, n, sizes):
        return draw(backbone, head, n, sizes, known_first=1)

    def everything_in_one_step(backbone, head, n, sizes):
        return draw(backbone, head, n, [sum(sizes)])

    def last_places_of_z(backbone, head, n, sizes):
        total, known = sum(sizes), 0
        order, x = torch.rand(n, total).argsort(1), torch.zeros(n, total, 1)
        for size in sizes:
            z = backbone(x, order, known)[:, -size:]
            x[:, known : known + size] = head(z.flatten(0, 1)).reshape(n, size, 1)
            known += size
        return x.gather(1, order.argsort(1)[..., None])

    def not_by_order_at_all(backbone, head, n, sizes):
        return torch.rand(n, sum(sizes), 1)


def spoiled(xz, wobble=0.04):
    """The exact log-density, off by a little as what is learned is; still normalised for each z."""
    x, z = xz.double().unbind(1)
    weights, means, stds = two_bumps(z)
    stds = stds * (1 + wobble)
    parts = weights * torch.exp(-(((x[:, None] - means) / stds) ** 2) / 2) / (stds * math.sqrt(2 * math.pi))
    return parts.sum(1).clamp(min=1e-300).log()


def one_bump(x, mean, std):
    return -(((x - mean) / std) ** 2) / 2 - std.log() - 0.5 * math.log(2 * math.pi)


class density:
    def right_with_a_wobble(xz):
        return spoiled(xz)

    def exact(xz):
        x, z = xz.double().unbind(1)
        return bump_density(x, z).clamp(min=1e-300).log()

    def squared_error(xz):
        x, z = xz.double().unbind(1)
        weights, means, stds = two_bumps(z)
        mean = (weights * means).sum(1)
        std = ((weights * (means**2 + stds**2)).sum(1) - mean**2).sqrt()
        return one_bump(x, mean, std)

    def deaf_to_z(xz):
        x = xz[:, 0].double()
        z = torch.linspace(-1, 1, 41).double()
        table = torch.stack([bump_density(x, each.expand(len(x))) for each in z])
        return table.mean(0).clamp(min=1e-300).log()

    def one_mode(xz):
        x, z = xz.double().unbind(1)
        weights, means, stds = two_bumps(z)
        return one_bump(x, means[:, 1], stds[:, 1])

    def without_the_constant(xz):
        return spoiled(xz) + 0.5 * math.log(2 * math.pi)

    def density_not_its_logarithm(xz):
        return spoiled(xz).exp()

    def negative(xz):
        return -spoiled(xz)

    def weights_exchanged(xz):
        x, z = xz.double().unbind(1)
        weights, means, stds = two_bumps(z)
        parts = [w.log() + one_bump(x, means[:, k], stds[:, k]) for k, w in enumerate(weights.flip(1).unbind(1))]
        return torch.logaddexp(*parts)

    def far_too_wide(xz):
        return spoiled(xz, 0.9)
