"""Answers to the exercises of chapter 00: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import itertools
import math

import torch

from gmbook.laws import plane


class covering:
    def right_by_pairs(weights, means, stds):
        """The variance between components as half the mean squared distance of two of them."""
        between = (weights[:, None] * weights * (means[:, None] - means) ** 2).sum() / 2
        return torch.dot(weights, means), torch.sqrt(torch.dot(weights, stds * stds) + between)

    def variance_for_std(weights, means, stds):
        m, s = covering.right_by_pairs(weights, means, stds)
        return m, s**2

    def forgets_the_spread_of_the_means(weights, means, stds):
        return (weights * means).sum(), (weights * stds**2).sum().sqrt()

    def mean_of_the_stds(weights, means, stds):
        return (weights * means).sum(), (weights * stds).sum()

    def second_moment_about_zero(weights, means, stds):
        return (weights * means).sum(), (weights * (stds**2 + means**2)).sum().sqrt()

    def only_the_spread_of_the_means(weights, means, stds):
        m = (weights * means).sum()
        return m, (weights * (means - m) ** 2).sum().sqrt() + 1e-3

    def forgets_the_weights(weights, means, stds):
        return covering.right_by_pairs(torch.full_like(weights, 1 / len(weights)), means, stds)

    def seeks_one_mode(weights, means, stds):
        heavy = weights.argmax()
        return means[heavy], stds[heavy]

    def sign(weights, means, stds):
        m, s = covering.right_by_pairs(weights, means, stds)
        return -m, s

    def exchanged(weights, means, stds):
        m, s = covering.right_by_pairs(weights, means, stds)
        return s, m

    def adds_stds(weights, means, stds):
        m = (weights * means).sum()
        return m, (weights * stds).sum() + (weights * (means - m) ** 2).sum().sqrt()

    def far_away_where_slopes_are_small(weights, means, stds):
        m, s = covering.right_by_pairs(weights, means, stds)
        return m + 1e7, (s**2 + 1e14).sqrt()


LOG_2 = math.log(2)


def bits_with(pixels, u, log_prob, scale=0.9, sign=1, offset=8.0, base=LOG_2, mean=False, whole=False, logit=1):
    """Bits per dimension, with a mistake to choose."""
    inside = 0.05 + 0.9 * (pixels + u) / 256
    logits = inside.log() - (1 - inside).log()
    change = (math.log(scale) - logit * (inside.log() + (1 - inside).log())).flatten(1)
    change = change.mean(1) if mean else change.sum(1)
    return -(log_prob(logits) + sign * change) / ((1 if whole else pixels[0].numel()) * base) + offset


class bits:
    def right_by_autograd(pixels, u, log_prob):
        raw = (pixels + u).requires_grad_()
        logits = torch.logit(0.05 + 0.9 * raw / 256)
        (slope,) = torch.autograd.grad(logits.sum(), raw)  # each logit depends on its own pixel alone
        return -(log_prob(logits.detach()) + slope.log().flatten(1).sum(1)) / math.log(2) / pixels[0].numel()

    def as_found(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob, scale=1.0, mean=True)

    def only_the_sum_repaired(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob, scale=1.0)

    def only_the_scale_repaired(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob, mean=True)

    def scale_upside_down(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob, scale=1 / 0.9)

    def sign_of_the_jacobian(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob, sign=-1)

    def no_jacobian(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob, sign=0)

    def no_jacobian_of_the_logit(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob, logit=0)

    def no_offset(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob, offset=0.0)

    def offset_of_seven(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob, offset=7.0)

    def nats(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob, base=1.0, offset=8 * math.log(2))

    def whole_image(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob, whole=True, offset=8.0 * pixels[0].numel())

    def divided_by_255(pixels, u, log_prob):
        return bits_with(pixels * (256 / 255), u * (256 / 255), log_prob)

    def no_noise(pixels, u, log_prob):
        return bits_with(pixels, 0 * u, log_prob)

    def mean_over_the_batch(pixels, u, log_prob):
        return bits_with(pixels, u, log_prob).mean()


class settled:
    def right_by_doubling(covariance, step, noise):
        """V ← V + MVMᵀ, M ← M²: the sum over all past steps, twice as many each time."""
        unit = torch.eye(len(covariance))
        m, v = unit - step / 2 * torch.linalg.inv(covariance), noise**2 * step * unit
        for _ in range(40):
            m, v = m @ m, v + m @ v @ m.T
        return v

    def the_law_itself(covariance, step, noise):
        return noise**2 * covariance

    def half_the_correction(covariance, step, noise):
        return settled.right_by_doubling(covariance, step / 2, noise)

    def twice_the_correction(covariance, step, noise):
        unit = torch.eye(len(covariance))
        return noise**2 * covariance @ torch.linalg.inv(unit - step / 2 * torch.linalg.inv(covariance))

    def sign_of_the_correction(covariance, step, noise):
        unit = torch.eye(len(covariance))
        return noise**2 * covariance @ torch.linalg.inv(unit + step / 4 * torch.linalg.inv(covariance))

    def noise_not_squared(covariance, step, noise):
        return noise * settled.right_by_doubling(covariance, step, 1.0)

    def forgets_the_noise(covariance, step, noise):
        return settled.right_by_doubling(covariance, step, 1.0)

    def entry_by_entry(covariance, step, noise):
        return noise**2 * covariance / (1 - step / (4 * covariance))

    def diagonal_only(covariance, step, noise):
        return torch.diag(settled.right_by_doubling(covariance, step, noise).diagonal())

    def average_variance(covariance, step, noise):
        v = covariance.trace() / len(covariance)
        return noise**2 * covariance / (1 - step / (4 * v))

    def added_not_multiplied(covariance, step, noise):
        return noise**2 * (covariance + step / 4 * torch.eye(len(covariance)))

    def inverse(covariance, step, noise):
        return torch.linalg.inv(settled.right_by_doubling(covariance, step, noise))

    def covariance_for_precision(covariance, step, noise):
        unit = torch.eye(len(covariance))
        return noise**2 * torch.linalg.inv(unit - step / 4 * covariance) @ covariance

    def one_step_from_the_law(covariance, step, noise):
        m = torch.eye(len(covariance)) - step / 2 * torch.linalg.inv(covariance)
        return m @ covariance @ m.T + noise**2 * step * torch.eye(len(covariance))


def climb(score, x, sigmas, c, count, step=lambda c, s: c * s**2, drift=0.5, noise=torch.sqrt, draw=torch.randn_like):
    """Annealed Langevin dynamics, with a mistake to choose."""
    for sigma in sigmas:
        eps = step(c, sigma)
        for _ in range(count):
            x = x + drift * eps * score(x, sigma) + noise(eps) * draw(x)
    return x


def two_huge_among_zeros(like):
    """No draws at all, but with any mean and any variance, if these are measured by its own spread."""
    out = torch.zeros_like(like)
    out[0, 0] = out[1, 1] = 1e6
    return out


class annealed:
    def right_by_the_authors_convention(score, x, sigmas, c, count):
        """x + as + √(2a) z with a = ε/2, drawn by torch.normal."""
        for sigma in sigmas.tolist():
            a = c * sigma * sigma / 2
            for _ in range(count):
                x = torch.normal(x + a * score(x, sigma), math.sqrt(2 * a))
        return x

    def as_found(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count, step=lambda c, s: c * s, drift=1.0)

    def only_the_step_repaired(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count, drift=1.0)

    def only_the_drift_repaired(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count, step=lambda c, s: c * s)

    def variance_for_std(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count, noise=lambda eps: eps)

    def two_conventions_mixed(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count, noise=lambda eps: (2 * eps).sqrt())

    def half_the_noise(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count, noise=lambda eps: (eps / 2).sqrt())

    def no_noise(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count, noise=lambda eps: 0 * eps)

    def downhill(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count, drift=-0.5)

    def levels_reversed(score, x, sigmas, c, count):
        return climb(score, x, sigmas.flip(0), c, count)

    def one_step_more(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count + 1)

    def last_level_left_out(score, x, sigmas, c, count):
        return climb(score, x, sigmas[:-1], c, count)

    def no_noise_in_the_last_step(score, x, sigmas, c, count):
        x = climb(score, x, sigmas[:-1], c, count)
        x = climb(score, x, sigmas[-1:], c, count - 1)
        return x + 0.5 * c * sigmas[-1] ** 2 * score(x, sigmas[-1])

    def same_noise_in_all_coordinates(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count, draw=lambda x: torch.randn_like(x[:, :1]))

    def one_noise_for_all(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count, draw=lambda x: torch.randn_like(x[:1]))

    def uniform_noise(score, x, sigmas, c, count):
        return climb(score, x, sigmas, c, count, draw=torch.rand_like)

    def two_huge_entries(score, x, sigmas, c, count):
        annealed.right_by_the_authors_convention(score, x, sigmas, c, count)
        return two_huge_among_zeros(x)


def log_blurred(x, weights, means, stds):
    """The log-density of a mixture of these standard deviations, safely."""
    return torch.logsumexp(weights.log() + torch.distributions.Normal(means, stds).log_prob(x[:, None]), 1)


class blurred:
    def right_largest_term_first(x, weights, means, stds, alpha, sigma):
        variance = alpha**2 * stds**2 + sigma**2
        terms = weights.log() - (x.unsqueeze(1) - alpha * means) ** 2 / (2 * variance)
        terms = terms - torch.log(2 * torch.pi * variance) / 2
        top = terms.max(1, keepdim=True).values
        return (terms - top).exp().sum(1).log() + top.squeeze(1)

    def as_found(x, weights, means, stds, alpha, sigma):
        part = torch.distributions.Normal(alpha * means, (alpha * stds) ** 2 + sigma**2)
        return (weights * part.log_prob(x[:, None]).exp()).sum(1).log()

    def only_the_spread_repaired(x, weights, means, stds, alpha, sigma):
        part = torch.distributions.Normal(alpha * means, ((alpha * stds) ** 2 + sigma**2).sqrt())
        return (weights * part.log_prob(x[:, None]).exp()).sum(1).log()

    def only_the_logarithm_repaired(x, weights, means, stds, alpha, sigma):
        return log_blurred(x, weights, alpha * means, (alpha * stds) ** 2 + sigma**2)

    def clamped_far_out(x, weights, means, stds, alpha, sigma):
        part = torch.distributions.Normal(alpha * means, ((alpha * stds) ** 2 + sigma**2).sqrt())
        return (weights * part.log_prob(x[:, None]).exp()).sum(1).clamp(min=1e-300).log()

    def standard_deviations_added(x, weights, means, stds, alpha, sigma):
        return log_blurred(x, weights, alpha * means, alpha * stds + sigma)

    def centres_do_not_shrink(x, weights, means, stds, alpha, sigma):
        return log_blurred(x, weights, means, ((alpha * stds) ** 2 + sigma**2).sqrt())

    def spread_does_not_shrink(x, weights, means, stds, alpha, sigma):
        return log_blurred(x, weights, alpha * means, (stds**2 + sigma**2).sqrt())

    def alpha_not_squared(x, weights, means, stds, alpha, sigma):
        return log_blurred(x, weights, alpha * means, (alpha * stds**2 + sigma**2).sqrt())

    def noise_as_a_variance(x, weights, means, stds, alpha, sigma):
        return log_blurred(x, weights, alpha * means, ((alpha * stds) ** 2 + sigma).sqrt())

    def mean_of_the_logarithms(x, weights, means, stds, alpha, sigma):
        part = torch.distributions.Normal(alpha * means, ((alpha * stds) ** 2 + sigma**2).sqrt())
        return (weights * part.log_prob(x[:, None])).sum(1)

    def one_gaussian(x, weights, means, stds, alpha, sigma):
        m, s = covering.right_by_pairs(weights, alpha * means, ((alpha * stds) ** 2 + sigma**2).sqrt())
        return torch.distributions.Normal(m, s).log_prob(x)

    def weights_not_in_logarithm(x, weights, means, stds, alpha, sigma):
        part = torch.distributions.Normal(alpha * means, ((alpha * stds) ** 2 + sigma**2).sqrt())
        return torch.logsumexp(weights + part.log_prob(x[:, None]), 1)

    def the_density(x, weights, means, stds, alpha, sigma):
        return blurred.right_largest_term_first(x, weights, means, stds, alpha, sigma).exp()


class doubt:
    def right_by_differences(score, x, alpha, sigma):
        """The variance is σ²/α times the slope of the best guess of x_0."""
        h = 1e-4
        up, down = ((z + sigma**2 * score(z)) / alpha for z in (x + h, x - h))
        return sigma**2 / alpha * (up - down) / (2 * h)

    def score_not_differentiated(score, x, alpha, sigma):
        return sigma**2 / alpha**2 * (1 + sigma**2 * score(x))

    def sign(score, x, alpha, sigma):
        return 2 * sigma**2 / alpha**2 - doubt.right_by_differences(score, x, alpha, sigma)

    def alpha_not_squared(score, x, alpha, sigma):
        return alpha * doubt.right_by_differences(score, x, alpha, sigma)

    def of_the_noise(score, x, alpha, sigma):
        return (alpha / sigma) ** 2 * doubt.right_by_differences(score, x, alpha, sigma)

    def standard_deviation(score, x, alpha, sigma):
        return doubt.right_by_differences(score, x, alpha, sigma).sqrt()

    def slope_of_the_guess(score, x, alpha, sigma):
        return doubt.right_by_differences(score, x, alpha, sigma) * alpha / sigma**2

    def the_guess(score, x, alpha, sigma):
        return (x + sigma**2 * score(x)) / alpha

    def sigma_for_its_square(score, x, alpha, sigma):
        slope = (doubt.right_by_differences(score, x, alpha, sigma) * alpha**2 / sigma**2 - 1) / sigma**2
        return sigma / alpha**2 * (1 + sigma * slope)

    def detached(score, x, alpha, sigma):
        return torch.full_like(x, sigma**2 / alpha**2)

    def only_the_curvature(score, x, alpha, sigma):
        return doubt.right_by_differences(score, x, alpha, sigma) - sigma**2 / alpha**2

    def squared_score_added(score, x, alpha, sigma):
        return doubt.right_by_differences(score, x, alpha, sigma) + sigma**4 / alpha**2 * score(x) ** 2

    def mean_over_the_batch(score, x, alpha, sigma):
        return doubt.right_by_differences(score, x, alpha, sigma).mean().expand_as(x)


def on_the_line(eps, x, alpha, sigma, t):
    x0 = (x - sigma * eps) / alpha
    return t, (1 - t) * x0 + t * eps, eps - x0


class straight:
    def right_by_scaling(eps, x, alpha, sigma):
        """y is x made smaller, and y + (1 − t)·velocity is ε."""
        y = x / (alpha + sigma)
        return sigma / (alpha + sigma), y, (eps - y) * (alpha + sigma) / alpha

    def time_runs_the_other_way(eps, x, alpha, sigma):
        return on_the_line(eps, x, alpha, sigma, alpha / (alpha + sigma))

    def share_of_the_variance(eps, x, alpha, sigma):
        return on_the_line(eps, x, alpha, sigma, sigma**2 / (alpha**2 + sigma**2))

    def sigma_as_time(eps, x, alpha, sigma):
        return on_the_line(eps, x, alpha, sigma, sigma)

    def point_not_rescaled(eps, x, alpha, sigma):
        t, _, velocity = straight.right_by_scaling(eps, x, alpha, sigma)
        return t, x, velocity

    def rescaled_by_the_length(eps, x, alpha, sigma):
        t, _, velocity = straight.right_by_scaling(eps, x, alpha, sigma)
        return t, x / math.hypot(alpha, sigma), velocity

    def velocity_towards_the_data(eps, x, alpha, sigma):
        t, y, velocity = straight.right_by_scaling(eps, x, alpha, sigma)
        return t, y, -velocity

    def v_for_velocity(eps, x, alpha, sigma):
        t, y, _ = straight.right_by_scaling(eps, x, alpha, sigma)
        return t, y, alpha * eps - sigma * (x - sigma * eps) / alpha

    def x_for_x0(eps, x, alpha, sigma):
        t, y, _ = straight.right_by_scaling(eps, x, alpha, sigma)
        return t, y, eps - x

    def signal_not_divided(eps, x, alpha, sigma):
        t, y, _ = straight.right_by_scaling(eps, x, alpha, sigma)
        return t, y, eps - (x - sigma * eps)

    def variance_for_std(eps, x, alpha, sigma):
        t, y, _ = straight.right_by_scaling(eps, x, alpha, sigma)
        return t, y, eps - (x - sigma**2 * eps) / alpha

    def without_the_time(eps, x, alpha, sigma):
        return straight.right_by_scaling(eps, x, alpha, sigma)[1:]


class moved:
    def right_with_two_fingers(x, y):
        """Give mass away from the lowest to the lowest, as much as both have."""
        left, right = sorted(x.tolist()), sorted(y.tolist())
        i, j, total = 0, 0, 0.0
        have, want = len(right), len(left)  # in units of 1/(N M)
        while i < len(left):
            mass = min(have, want)
            total += mass * (left[i] - right[j]) ** 2
            have, want = have - mass, want - mass
            if have == 0:
                i, have = i + 1, len(right)
            if want == 0:
                j, want = j + 1, len(left)
        return math.sqrt(total / (len(left) * len(right)))

    def squared(x, y):
        return moved.right_with_two_fingers(x, y) ** 2

    def sum_for_mean(x, y):
        return moved.right_with_two_fingers(x, y) * math.sqrt(len(x) * len(y))

    def not_sorted(x, y):
        return (x.repeat_interleave(len(y)) - y.repeat_interleave(len(x))).square().mean().sqrt()

    def tiled(x, y):
        return (x.sort().values.repeat(len(y)) - y.sort().values.repeat(len(x))).square().mean().sqrt()

    def cut_to_the_shorter(x, y):
        n = min(len(x), len(y))
        return (x.sort().values[:n] - y.sort().values[:n]).square().mean().sqrt()

    def thinned_to_the_shorter(x, y):
        n = min(len(x), len(y))
        a, b = (z.sort().values[torch.linspace(0, len(z) - 1, n).round().long()] for z in (x, y))
        return (a - b).square().mean().sqrt()

    def interpolated_quantiles(x, y):
        u = torch.linspace(0, 1, 1001)
        return (torch.quantile(x, u) - torch.quantile(y, u)).square().mean().sqrt()

    def first_wasserstein(x, y):
        a, b = x.sort().values.repeat_interleave(len(y)), y.sort().values.repeat_interleave(len(x))
        return (a - b).abs().mean()

    def one_of_them_falling(x, y):
        a, b = x.sort().values, y.sort(descending=True).values
        return (a.repeat_interleave(len(y)) - b.repeat_interleave(len(x))).square().mean().sqrt()

    def all_pairs(x, y):
        return (x[:, None] - y).square().mean().sqrt()

    def nearest_neighbours(x, y):
        return (x[:, None] - y).square().min(1).values.mean().sqrt()

    def distance_of_the_means(x, y):
        return (x.mean() - y.mean()).abs()


class apart:
    def right_over_pairs(x, y):
        """The mean of (x_i − y_k)·(x_j − y_l) over i ≠ j, k ≠ l: four different points in each."""
        pairs = itertools.product(itertools.permutations(range(len(x)), 2), itertools.permutations(range(len(y)), 2))
        i, j, k, l = torch.tensor([(*a, *b) for a, b in pairs]).T
        return ((x[i] - y[k]) * (x[j] - y[l])).sum(1).mean()

    def as_found(x, y):
        return (x.mean(0) - y.mean(0)).square().mean()

    def only_the_sum_repaired(x, y):
        return (x.mean(0) - y.mean(0)).square().sum()

    def only_the_floor_repaired(x, y):
        return (x.mean(0) - y.mean(0)).square().mean() - x.var(0).mean() / len(x) - y.var(0).mean() / len(y)

    def variance_with_n(x, y):
        floor = x.var(0, correction=0).sum() / len(x) + y.var(0, correction=0).sum() / len(y)
        return (x.mean(0) - y.mean(0)).square().sum() - floor

    def floor_of_one_sample(x, y):
        return (x.mean(0) - y.mean(0)).square().sum() - x.var(0).sum() / len(x)

    def floor_added(x, y):
        return (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() / len(x) + y.var(0).sum() / len(y)

    def never_below_zero(x, y):
        gap = (x.mean(0) - y.mean(0)).square().sum() - x.var(0).sum() / len(x) - y.var(0).sum() / len(y)
        return gap.clamp(min=0)

    def standard_deviations(x, y):
        return (x.mean(0) - y.mean(0)).square().sum() - x.std(0).sum() / len(x) - y.std(0).sum() / len(y)

    def sizes_exchanged(x, y):
        return (x.mean(0) - y.mean(0)).square().sum() - x.var(0).sum() / len(y) - y.var(0).sum() / len(x)

    def root(x, y):
        return (x.mean(0) - y.mean(0)).norm()

    def floor_of_equal_laws(x, y):
        both = torch.cat([x, y]).var(0).sum()
        return (x.mean(0) - y.mean(0)).square().sum() - both * (1 / len(x) + 1 / len(y))

    def only_the_first_two(x, y):
        """Right on average, but it throws data away."""
        return torch.dot(x[0] - y[0], x[1] - y[1])


LAW = plane.moons()
GENERATOR = torch.Generator().manual_seed(5)
PLACES = torch.randint(72, (2000,), generator=GENERATOR)
SEEN = LAW.law.means[PLACES].float() + 0.12 * torch.randn(2000, 2, generator=GENERATOR)


def kernels(x, h, normaliser=None):
    """A kernel density estimate from the samples, with a mistake to choose."""
    normaliser = len(SEEN) * 2 * math.pi * h**2 if normaliser is None else normaliser
    return torch.logsumexp(-torch.cdist(x, SEEN).square() / (2 * h**2), 1) - math.log(normaliser)


class density:
    def right_by_few_gaussians(x):
        """The truth, with its 72 components put into 24 that are a little wider."""
        centres = LAW.law.means.float().reshape(24, 3, 2)
        middle = centres.mean(1)
        spread = 0.12**2 + (centres - middle[:, None]).square().sum((1, 2)).mean() / 6
        distance = torch.cdist(x, middle).square()
        return torch.logsumexp(-distance / (2 * spread), 1) - torch.log(2 * math.pi * spread * 24)

    def the_law_itself(x):
        return LAW.log_prob(x)

    def one_gaussian(x):
        return torch.distributions.MultivariateNormal(SEEN.mean(0), SEEN.T.cov()).log_prob(x)

    def too_wide(x):
        return kernels(x, 0.2)

    def too_narrow(x):
        return kernels(x, 0.02)

    def variance_for_std(x):
        return kernels(x, 0.07**0.5)

    def not_normalised(x):
        return kernels(x, 0.07, normaliser=1.0)

    def forgets_the_number_of_samples(x):
        return kernels(x, 0.07, normaliser=2 * math.pi * 0.07**2)

    def normaliser_of_one_dimension(x):
        return kernels(x, 0.07, normaliser=len(SEEN) * math.sqrt(2 * math.pi) * 0.07)

    def normaliser_without_the_square(x):
        return kernels(x, 0.07, normaliser=len(SEEN) * 2 * math.pi * 0.07)

    def the_density(x):
        return kernels(x, 0.07).exp()

    def mean_of_the_logarithms(x):
        h = 0.07
        return (-torch.cdist(x, SEEN).square() / (2 * h**2)).mean(1) - math.log(2 * math.pi * h**2)

    def coordinates_exchanged(x):
        return kernels(x.flip(1), 0.07)

    def sign(x):
        return -kernels(x, 0.07)

    def one_moon_only(x):
        return kernels(x, 0.07) + torch.where(x.sum(1) > 0, math.log(1.9), math.log(0.1))

    def better_than_the_truth(x):
        return LAW.log_prob(x) + 0.5

    def no_density_but_on_a_lattice(x):
        """Told from samples by the few values that its first coordinates have."""
        return kernels(x, 0.07) + (1.0 if len(x[:, 0].unique()) > len(x) / 2 else 0.0)

    def one_value_for_all_others(x):
        log_p = kernels(x, 0.2)
        return torch.cat([log_p[:-1], log_p[-1:] + (4000.0 if kernels(x, 0.07).median() > -4 else 0.0)])
