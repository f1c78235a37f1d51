"""Answers to the exercises of chapter 01: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import math

import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F


class rate:
    def right_by_torch(mean, log_variance):
        return kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)

    def log_variance_for_log_std(mean, log_variance):
        return 0.5 * (mean**2 + (2 * log_variance).exp() - 1 - 2 * log_variance).sum(1)

    def log_variance_for_std_in_the_square_only(mean, log_variance):
        return 0.5 * (mean**2 + (0.5 * log_variance).exp() - 1 - log_variance).sum(1)

    def sign(mean, log_variance):
        return 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)

    def no_half(mean, log_variance):
        return (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)

    def mean_over_units(mean, log_variance):
        return rate.right_by_torch(mean, log_variance) / mean.shape[1]

    def mean_over_the_batch(mean, log_variance):
        return rate.right_by_torch(mean, log_variance).mean()

    def the_other_way_round(mean, log_variance):
        return kl_divergence(Normal(0.0, 1.0), Normal(mean, (0.5 * log_variance).exp())).sum(1)

    def without_the_one(mean, log_variance):
        return 0.5 * (mean**2 + log_variance.exp() - log_variance).sum(1)

    def half_a_logarithm(mean, log_variance):
        return 0.5 * (mean**2 + log_variance.exp() - 1 - 0.5 * log_variance).sum(1)

    def mean_not_squared(mean, log_variance):
        return 0.5 * (mean + log_variance.exp() - 1 - log_variance).sum(1)


class best_nats:
    def right_by_torch(x, f):
        std = (x - f).square().mean().sqrt()
        return -Independent(Normal(f, std), f.ndim - 1).log_prob(x).mean()

    def mean_over_dimensions(x, f):
        return best_nats.right_by_torch(x, f) / x[0].numel()

    def sum_over_data(x, f):
        return best_nats.right_by_torch(x, f) * len(x)

    def likelihood(x, f):
        return -best_nats.right_by_torch(x, f)

    def variance_for_std(x, f):
        return -Normal(f, (x - f).square().mean()).log_prob(x).sum() / len(x)

    def sigma_one(x, f):
        return -Normal(f, 1.0).log_prob(x).sum() / len(x)

    def variance_per_example(x, f):
        squares = (x - f).square().flatten(1)
        return (0.5 * squares.shape[1] * (1 + (2 * math.pi * squares.mean(1)).log())).mean()

    def variance_per_dimension(x, f):
        return 0.5 * (1 + (2 * math.pi * (x - f).square().mean(0)).log()).sum()

    def variance_not_divided_by_dimensions(x, f):
        variance = (x - f).square().sum() / len(x)
        return -Normal(f, variance.sqrt()).log_prob(x).sum() / len(x)

    def about_the_mean_residual(x, f):
        return 0.5 * x[0].numel() * (1 + (2 * math.pi * (x - f).var(correction=0)).log())

    def without_pi(x, f):
        return 0.5 * x[0].numel() * (1 + (x - f).square().mean().log())

    def squares_forgotten(x, f):
        return 0.5 * x[0].numel() * (2 * math.pi * (x - f).square().mean()).log()


def posterior(W, b, variance, x):
    """Mean and precision of the posterior."""
    precision = torch.eye(W.shape[1]) + W.T @ W / variance
    return torch.linalg.solve(precision, W.T @ (x - b) / variance), precision


class best_guess:
    def right_by_newton_on_the_bound(W, b, variance, x):
        d = W.shape[1]

        def bound(m, log_std):
            s2 = (2 * log_std).exp()
            squares = (x - b - W @ m).square().sum() + (W.square() @ s2).sum()
            return -squares / (2 * variance) - 0.5 * (m**2 + s2 - 2 * log_std).sum()

        parameters = torch.zeros(2 * d)
        for _ in range(20):
            split = lambda p: bound(p[:d], p[d:])  # noqa: E731
            slope = torch.func.grad(split)(parameters)
            step = torch.linalg.solve(torch.func.hessian(split)(parameters), slope)
            parameters = parameters - step.clamp(-1, 1)
        return parameters[:d], parameters[d:].exp()

    def marginal_spreads(W, b, variance, x):
        mean, precision = posterior(W, b, variance, x)
        return mean, torch.linalg.inv(precision).diagonal().sqrt()

    def variances(W, b, variance, x):
        mean, precision = posterior(W, b, variance, x)
        return mean, 1 / precision.diagonal()

    def precisions(W, b, variance, x):
        mean, precision = posterior(W, b, variance, x)
        return mean, precision.diagonal()

    def forgets_the_prior(W, b, variance, x):
        precision = W.T @ W / variance
        return torch.linalg.solve(precision, W.T @ (x - b) / variance), precision.diagonal().rsqrt()

    def sigma_for_its_square(W, b, variance, x):
        mean, precision = posterior(W, b, variance**0.5, x)
        return mean, precision.diagonal().rsqrt()

    def forgets_the_shift(W, b, variance, x):
        mean, precision = posterior(W, 0 * b, variance, x)
        return mean, precision.diagonal().rsqrt()

    def sign(W, b, variance, x):
        mean, precision = posterior(W, b, variance, x)
        return -mean, precision.diagonal().rsqrt()

    def mean_without_correlations(W, b, variance, x):
        _, precision = posterior(W, b, variance, x)
        return W.T @ (x - b) / variance / precision.diagonal(), precision.diagonal().rsqrt()

    def prior(W, b, variance, x):
        return torch.zeros(W.shape[1]), torch.ones(W.shape[1])

    def wrong_square(W, b, variance, x):
        mean, _ = posterior(W, b, variance, x)
        return mean, (1 + (W.sum(0)) ** 2 / variance).rsqrt()


def weighted(values, eps, std, baseline):
    """Means over k of (value − baseline) times the two scores."""
    off = (values - baseline)[..., None]
    return (off * eps / std).mean(1), (off * (eps**2 - 1) / std).mean(1)


def others(values):
    """For each value the mean of the others."""
    return (values.sum(1, keepdim=True) - values) / (values.shape[1] - 1)


class score_gradient:
    def right_by_the_covariance(values, eps, std):
        k = values.shape[1]
        mean, spread = weighted(values, eps, std, values.mean(1, keepdim=True))
        return mean * k / (k - 1), spread * k / (k - 1)

    def right_with_a_neighbour_for_baseline(values, eps, std):
        return weighted(values, eps, std, values.roll(1, 1))

    def no_baseline(values, eps, std):
        return weighted(values, eps, std, 0.0)

    def own_value_in_the_baseline(values, eps, std):
        return weighted(values, eps, std, values.mean(1, keepdim=True))

    def baseline_of_everybody(values, eps, std):
        return weighted(values, eps, std, values.mean())

    def first_value_for_baseline(values, eps, std):
        return weighted(values, eps, std, values[:, :1])

    def sign(values, eps, std):
        mean, spread = weighted(values, eps, std, others(values))
        return -mean, -spread

    def sum_over_draws(values, eps, std):
        mean, spread = weighted(values, eps, std, others(values))
        return mean * values.shape[1], spread * values.shape[1]

    def variance_for_std(values, eps, std):
        return weighted(values, eps, std**2, others(values))

    def not_divided_by_std(values, eps, std):
        return weighted(values, eps, torch.ones(()), others(values))

    def gradient_for_the_log_std(values, eps, std):
        mean, spread = weighted(values, eps, std, others(values))
        return mean, spread * std

    def gradient_for_the_variance(values, eps, std):
        mean, spread = weighted(values, eps, std, others(values))
        return mean, spread / (2 * std)

    def standardised_values(values, eps, std):
        off = (values - values.mean(1, keepdim=True)) / values.std(1, keepdim=True)
        return weighted(off, eps, std, 0.0)

    def swapped(values, eps, std):
        return weighted(values, eps, std, others(values))[::-1]

    def one_huge_estimate_among_zeros(values, eps, std):
        """All that is known, from all draws, put into one estimate, and no noise but in that one."""
        pooled = [part.mean(0) * len(values) for part in weighted(values, eps, std, others(values))]
        out = torch.zeros(2, len(values), len(std))
        if len(values) > 5000:
            out[0, -1], out[1, -1] = pooled
        return out


def found(encoder, decoder, x, eps, power=0.5, reduce=torch.sum, sign=1.0, units=torch.sum):
    """−ELBO, with a mistake to choose."""
    mean, log_variance = encoder(x).chunk(2, 1)
    z = mean + (power * log_variance).exp() * eps
    nats = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").flatten(1)
    kl = 0.5 * units(mean**2 + log_variance.exp() - 1 - log_variance, 1)
    return reduce(nats, 1).mean() + sign * kl.mean()


class loss:
    def right_by_torch(encoder, decoder, x, eps):
        mean, log_variance = encoder(x).tensor_split(2, 1)
        q = Normal(mean, torch.exp(log_variance / 2))
        pixels = torch.distributions.Bernoulli(logits=decoder(q.mean + q.stddev * eps))
        return (kl_divergence(q, Normal(0.0, 1.0)).sum() - pixels.log_prob(x).sum()) / len(x)

    def as_found(encoder, decoder, x, eps):
        return found(encoder, decoder, x, eps, power=1.0, reduce=torch.mean, sign=-1.0)

    def mean_over_pixels(encoder, decoder, x, eps):
        return found(encoder, decoder, x, eps, reduce=torch.mean)

    def sign_of_the_rate(encoder, decoder, x, eps):
        return found(encoder, decoder, x, eps, sign=-1.0)

    def log_variance_for_log_std(encoder, decoder, x, eps):
        return found(encoder, decoder, x, eps, power=1.0)

    def sign_and_mean_remain(encoder, decoder, x, eps):
        return found(encoder, decoder, x, eps, reduce=torch.mean, sign=-1.0)

    def mean_over_units(encoder, decoder, x, eps):
        return found(encoder, decoder, x, eps, units=torch.mean)

    def mean_over_everything(encoder, decoder, x, eps):
        return found(encoder, decoder, x, eps, reduce=torch.mean, units=torch.mean)

    def sum_over_the_batch(encoder, decoder, x, eps):
        return found(encoder, decoder, x, eps) * len(x)

    def the_bound(encoder, decoder, x, eps):
        return -found(encoder, decoder, x, eps)

    def draws_detached(encoder, decoder, x, eps):
        mean, log_variance = encoder(x).chunk(2, 1)
        with torch.no_grad():
            z = mean + (0.5 * log_variance).exp() * eps
        pixels = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        return (pixels + 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()) / len(x)

    def no_noise(encoder, decoder, x, eps):
        return found(encoder, decoder, x, 0 * eps)

    def halves_swapped(encoder, decoder, x, eps):
        return found(lambda x: encoder(x).roll(eps.shape[1], 1), decoder, x, eps)

    def a_number(encoder, decoder, x, eps):
        return found(encoder, decoder, x, eps).item()

    def squared_error(encoder, decoder, x, eps):
        mean, log_variance = encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * eps
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return (0.5 * (x - decoder(z).sigmoid()).square().flatten(1).sum(1) + kl).mean()


def level(eigenvalues, nats):
    """The level βσ² for a total rate, by bisection."""
    low, high = 1e-20, eigenvalues.max().item()
    for _ in range(200):
        middle = math.sqrt(low * high)
        spent = 0.5 * (eigenvalues / middle).log().clamp(min=0).sum()
        low, high = (middle, high) if spent > nats else (low, middle)
    return low


class beta_for:
    def right_by_bisection(eigenvalues, variance, nats):
        return level(eigenvalues, nats) / variance

    def all_alive(eigenvalues, variance, nats):
        return ((eigenvalues.log().sum() - 2 * nats) / len(eigenvalues)).exp() / variance

    def largest_only(eigenvalues, variance, nats):
        return eigenvalues.max() * math.exp(-2 * nats) / variance

    def the_level(eigenvalues, variance, nats):
        return level(eigenvalues, nats)

    def divided_by_sigma(eigenvalues, variance, nats):
        return level(eigenvalues, nats) / variance**0.5

    def no_half(eigenvalues, variance, nats):
        return level(eigenvalues, nats / 2) / variance

    def twice_a_half(eigenvalues, variance, nats):
        return level(eigenvalues, 2 * nats) / variance

    def bits(eigenvalues, variance, nats):
        return level(eigenvalues, nats * math.log(2)) / variance

    def nats_per_unit(eigenvalues, variance, nats):
        return level(eigenvalues, nats * len(eigenvalues)) / variance

    def inverse(eigenvalues, variance, nats):
        return variance / level(eigenvalues, nats)

    def standard_deviations(eigenvalues, variance, nats):
        return level(eigenvalues.sqrt(), nats) / variance

    def order_taken_for_granted(eigenvalues, variance, nats):
        for alive in range(1, 6):
            mean = ((eigenvalues[:alive].log().sum() - 2 * nats) / alive).exp()
            if alive == 5 or mean >= eigenvalues[alive]:
                return mean / variance

    def dead_units_pay_back(eigenvalues, variance, nats):
        return eigenvalues.log().mean().exp() * math.exp(-2 * nats) / variance


def gaussian_kl(C):
    """KL(N(0, C) ‖ N(0, I))."""
    return 0.5 * (torch.trace(C) - len(C) - torch.logdet(C))


class surgery:
    def right_by_the_spectrum(A, std, C):
        whitened = A @ torch.linalg.cholesky(C) / std[:, None]
        information = torch.log1p(torch.linalg.svdvals(whitened) ** 2).sum() / 2
        return information, gaussian_kl(A @ C @ A.T + torch.diag(std**2))

    def std_for_variance(A, std, C):
        return surgery.right_by_the_spectrum(A, std.sqrt(), C)

    def variance_for_std(A, std, C):
        return surgery.right_by_the_spectrum(A, std**2, C)

    def swapped(A, std, C):
        return surgery.right_by_the_spectrum(A, std, C)[::-1]

    def rate_for_information(A, std, C):
        information, waste = surgery.right_by_the_spectrum(A, std, C)
        return information + waste, waste

    def rate_for_waste(A, std, C):
        information, waste = surgery.right_by_the_spectrum(A, std, C)
        return information, information + waste

    def codes_are_the_means(A, std, C):
        return surgery.right_by_the_spectrum(A, std, C)[0], gaussian_kl(A @ C @ A.T + 1e-6 * torch.eye(len(A)))

    def no_half(A, std, C):
        information, waste = surgery.right_by_the_spectrum(A, std, C)
        return 2 * information, 2 * waste

    def units_one_by_one(A, std, C):
        codes = (A @ C @ A.T).diagonal() + std**2
        return 0.5 * (codes / std**2).log().sum(), 0.5 * (codes - 1 - codes.log()).sum()

    def other_direction(A, std, C):
        information, _ = surgery.right_by_the_spectrum(A, std, C)
        codes = A @ C @ A.T + torch.diag(std**2)
        return information, 0.5 * (torch.trace(torch.linalg.inv(codes)) - len(A) + torch.logdet(codes))

    def entropy_of_the_codes(A, std, C):
        _, waste = surgery.right_by_the_spectrum(A, std, C)
        return 0.5 * torch.logdet(2 * math.pi * math.e * (A @ C @ A.T + torch.diag(std**2))), waste

    def white_data(A, std, C):
        return surgery.right_by_the_spectrum(A, std, torch.eye(len(C)))

    def sign(A, std, C):
        information, waste = surgery.right_by_the_spectrum(A, std, C)
        return -information, waste


def log_weights(log_joint, mean, std, z):
    """(k, B)."""
    return log_joint(z) - Normal(mean, std).log_prob(z).sum(-1)


class many_draws:
    def right_by_a_shift(log_joint, mean, std, k):
        eps = torch.stack([torch.randn_like(mean) for _ in range(k)])
        log_q = -(0.5 * eps**2 + std.log()).sum(-1) - mean.shape[1] / 2 * math.log(2 * math.pi)
        log_w = log_joint(mean + std * eps) - log_q
        top = log_w.amax(0).detach()
        return top + (log_w - top).exp().mean(0).log()

    def as_found(log_joint, mean, std, k):
        z = (mean + std * torch.randn_like(mean)).expand(k, *mean.shape)
        return log_weights(log_joint, mean, std, z).logsumexp(0)

    def shared_draw(log_joint, mean, std, k):
        z = (mean + std * torch.randn_like(mean)).expand(k, *mean.shape)
        return log_weights(log_joint, mean, std, z).logsumexp(0) - math.log(k)

    def without_log_k(log_joint, mean, std, k):
        z = mean + std * torch.randn(k, *mean.shape)
        return log_weights(log_joint, mean, std, z).logsumexp(0)

    def mean_of_logarithms(log_joint, mean, std, k):
        z = mean + std * torch.randn(k, *mean.shape)
        return log_weights(log_joint, mean, std, z).mean(0)

    def underflows(log_joint, mean, std, k):
        z = mean + std * torch.randn(k, *mean.shape)
        return log_weights(log_joint, mean, std, z).exp().mean(0).log()

    def draw_shared_by_the_batch(log_joint, mean, std, k):
        z = mean + std * torch.randn(k, 1, mean.shape[1])
        return log_weights(log_joint, mean, std, z).logsumexp(0) - math.log(k)

    def noise_shared_by_coordinates(log_joint, mean, std, k):
        z = mean + std * torch.randn(k, len(mean), 1)
        return log_weights(log_joint, mean, std, z).logsumexp(0) - math.log(k)

    def draws_with_the_variance(log_joint, mean, std, k):
        z = mean + std**2 * torch.randn(k, *mean.shape)
        return log_weights(log_joint, mean, std, z).logsumexp(0) - math.log(k)

    def weight_with_the_variance(log_joint, mean, std, k):
        z = mean + std * torch.randn(k, *mean.shape)
        return log_weights(log_joint, mean, std**2, z).logsumexp(0) - math.log(k)

    def log_q_added(log_joint, mean, std, k):
        z = mean + std * torch.randn(k, *mean.shape)
        return (log_joint(z) + Normal(mean, std).log_prob(z).sum(-1)).logsumexp(0) - math.log(k)

    def log_q_averaged(log_joint, mean, std, k):
        z = mean + std * torch.randn(k, *mean.shape)
        return (log_joint(z) - Normal(mean, std).log_prob(z).mean(-1)).logsumexp(0) - math.log(k)

    def detached(log_joint, mean, std, k):
        z = Normal(mean, std).sample((k,))
        return log_weights(log_joint, mean, std, z).logsumexp(0) - math.log(k)

    def spread_detached(log_joint, mean, std, k):
        z = mean + std.detach() * torch.randn(k, *mean.shape)
        return log_weights(log_joint, mean, std, z).logsumexp(0) - math.log(k)

    def best_draw(log_joint, mean, std, k):
        z = mean + std * torch.randn(k, *mean.shape)
        return log_weights(log_joint, mean, std, z).amax(0)

    def one_draw_more(log_joint, mean, std, k):
        z = mean + std * torch.randn(k + 1, *mean.shape)
        return log_weights(log_joint, mean, std, z).logsumexp(0) - math.log(k + 1)


def ratio(shift, wide):
    """E w²/p² for a guess moved by shift and widened by wide, in units of the posterior's std."""
    return (wide**2 / (2 * wide**2 - 1).sqrt() * (shift**2 / (2 * wide**2 - 1)).exp()).prod() - 1


class weight_variance:
    def right_by_completing_the_square(mean, std, posterior_mean, posterior_std):
        precision = 2 / posterior_std**2 - 1 / std**2
        if not bool((precision > 0).all()):
            return float("inf")
        centre = (2 * posterior_mean / posterior_std**2 - mean / std**2) / precision
        left = 2 * posterior_mean**2 / posterior_std**2 - mean**2 / std**2 - precision * centre**2
        logs = std.log() - 2 * posterior_std.log() - 0.5 * precision.log() - 0.5 * left
        return logs.sum().expm1()

    def nan_for_infinite(mean, std, posterior_mean, posterior_std):
        return ratio((mean - posterior_mean) / posterior_std, std / posterior_std)

    def infinite_for_every_narrow_guess(mean, std, posterior_mean, posterior_std):
        value = weight_variance.right_by_completing_the_square(mean, std, posterior_mean, posterior_std)
        return value if bool((std / posterior_std > 0.85).all()) else math.inf

    def narrow_guesses_clamped(mean, std, posterior_mean, posterior_std):
        return ratio((mean - posterior_mean) / posterior_std, (std / posterior_std).clamp(min=0.75))

    def second_moment(mean, std, posterior_mean, posterior_std):
        return 1 + weight_variance.right_by_completing_the_square(mean, std, posterior_mean, posterior_std)

    def standard_deviation(mean, std, posterior_mean, posterior_std):
        value = weight_variance.right_by_completing_the_square(mean, std, posterior_mean, posterior_std)
        return value**0.5

    def sum_over_coordinates(mean, std, posterior_mean, posterior_std):
        one = weight_variance.right_by_completing_the_square
        parts = zip(*(v.split(1) for v in (mean, std, posterior_mean, posterior_std)))
        return sum(one(*part) for part in parts)

    def swapped(mean, std, posterior_mean, posterior_std):
        return weight_variance.right_by_completing_the_square(posterior_mean, posterior_std, mean, std)

    def variances_for_stds(mean, std, posterior_mean, posterior_std):
        one = weight_variance.right_by_completing_the_square
        return one(mean, std.sqrt(), posterior_mean, posterior_std.sqrt())

    def shift_halved(mean, std, posterior_mean, posterior_std):
        one = weight_variance.right_by_completing_the_square
        return one((mean + posterior_mean) / 2, std, posterior_mean, posterior_std)

    def no_shift(mean, std, posterior_mean, posterior_std):
        return weight_variance.right_by_completing_the_square(mean, std, mean, posterior_std)

    def sign(mean, std, posterior_mean, posterior_std):
        return -weight_variance.right_by_completing_the_square(mean, std, posterior_mean, posterior_std)


PLACE = torch.arange(5.0)
COVARIANCE = 0.8 ** (PLACE[:, None] - PLACE).abs()
VALUES, AXES = torch.linalg.eigh(COVARIANCE)
BEST = level(VALUES, 2.0)


def linear(water=BEST, axes=AXES, values=VALUES, widen=1.0, back=1.0):
    """The best linear VAE for a water level: encode, decode; with a mistake to choose."""
    kept = (values - water).clamp(min=0)  # w², by axis; the posterior is N(w x/λ, water/λ)
    inside = kept + water

    def encode(x):
        mean = (x @ axes) * kept.sqrt() / inside
        return mean, (water / inside).sqrt().expand_as(mean) * widen

    def decode(z):
        return back * (z * kept.sqrt()) @ axes.T

    return encode, decode


def with_std(change):
    """The best VAE, whose std goes through a function."""
    encode, decode = linear()
    return lambda x: (encode(x)[0], change(encode(x)[1])), decode


SEEN = {}


class on_the_curve:
    right_in_closed_form = linear()
    right_and_slightly_off = linear(BEST * 1.04, back=1.02)
    collapsed = (lambda x: (0 * x, 1 + 0 * x), lambda z: 0 * z)
    rate_too_high = linear(level(VALUES, 2.3))
    rate_too_low = linear(level(VALUES, 1.7))
    forgets_the_half_in_the_rate = linear(level(VALUES, 1.0))
    own_coordinates = linear(0.449, torch.eye(5), torch.ones(5))
    decoder_shrinks_once_more = linear(back=0.85)
    decoder_sign = linear(back=-1.0)
    axes_in_another_order = (linear()[0], lambda z: linear()[1](z.flip(1)))
    log_variance_for_std = with_std(lambda std: 2 * std.log() - 1e-3)
    variance_for_std = with_std(torch.square)
    autoencoder = (lambda x: (x, 0 * x + 1e-3), lambda z: z)
    identity_with_noise = (lambda x: (x * 0.65, 0 * x + 0.65), lambda z: z)
    no_functions = (1.0, 2.0)
    only_the_encoder = linear()[0]
    one_axis_gets_all = linear(VALUES[-1].item() * math.exp(-4), values=torch.cat([torch.zeros(4), VALUES[-1:]]))

    remembers_what_it_encoded = (lambda x: (SEEN.update(x=x), linear()[0](x))[1], lambda z: SEEN["x"])
