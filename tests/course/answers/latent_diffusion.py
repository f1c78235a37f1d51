"""Answers to the exercises of chapter 11: `right_…` by another road, the others wrong as their name says."""

import math

import torch
from torch.nn.functional import scaled_dot_product_attention

from gmbook.course.checks.latent_diffusion import sheet


class sizes:
    def right_by_counting(side, f, channels):
        small = side // f
        return 3 * side * side / (channels * small * small), (side * side) ** 2 / (small * small) ** 2

    def side_for_area(side, f, channels):
        return 3 * f / channels, f**2

    def without_colours(side, f, channels):
        return f**2 / channels, f**4

    def without_channels(side, f, channels):
        return 3 * f**2, f**4

    def upside_down(side, f, channels):
        return channels / (3 * f**2), f**-4

    def places_for_pairs(side, f, channels):
        return 3 * f**2 / channels, f**2

    def channels_as_places(side, f, channels):
        return 3 * f**2 / channels, (3 * f**2 / channels) ** 2

    def only_the_example(side, f, channels):
        return 48.0, 8.0**4


def halves(output):
    return output.chunk(2, 1)


class kl_term:
    def right_by_torch(output, weight):
        mean, log_variance = halves(output)
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(normal(mean, torch.exp(log_variance / 2)), normal(0.0, 1.0))
        return weight * kl.sum((1, 2, 3))

    def mean_over_entries(output, weight):
        mean, log_variance = halves(output)
        return weight * (mean**2 + log_variance.exp() - 1 - log_variance).flatten(1).mean(1) / 2

    def without_the_half(output, weight):
        return 2 * kl_term.right_by_torch(output, weight)

    def halves_swapped(output, weight):
        mean, log_variance = halves(output)
        return kl_term.right_by_torch(torch.cat([log_variance, mean], 1), weight)

    def log_std(output, weight):
        mean, log_std = halves(output)
        return weight * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).flatten(1).sum(1) / 2

    def channels_interleaved(output, weight):
        mean, log_variance = output[:, 0::2], output[:, 1::2]
        return weight * (mean**2 + log_variance.exp() - 1 - log_variance).flatten(1).sum(1) / 2

    def without_the_weight(output, weight):
        return kl_term.right_by_torch(output, 1.0)

    def without_minus_one(output, weight):
        mean, log_variance = halves(output)
        return weight * (mean**2 + log_variance.exp() - log_variance).flatten(1).sum(1) / 2

    def reversed_divergence(output, weight):
        mean, log_variance = halves(output)
        return weight * ((1 + mean**2) / log_variance.exp() - 1 + log_variance).flatten(1).sum(1) / 2

    def mean_over_the_batch(output, weight):
        return kl_term.right_by_torch(output, weight).mean()

    def summed_over_channels_only(output, weight):
        mean, log_variance = halves(output)
        return weight * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean((1, 2)) / 2


def nearest(z, table):
    return table[torch.cdist(z, table).argmin(1)]


def penalty(z, e, at_table, at_encoder):
    return at_table * (z.detach() - e).square().sum(1) + at_encoder * (z - e.detach()).square().sum(1)


class quantise:
    def right_with_one_hot(z, table, beta):
        far = z.square().sum(1, keepdim=True) - 2 * z @ table.T + table.square().sum(1)
        choice = torch.nn.functional.one_hot(far.argmin(1), len(table)).to(z.dtype)
        e = choice @ table
        return e.detach() + z - z.detach(), penalty(z, e, 1, beta)

    def not_rounded(z, table, beta):
        return z, penalty(z, nearest(z, table), 1, beta)

    def plain_rounding(z, table, beta):
        e = nearest(z, table)
        return e, penalty(z, e, 1, beta)

    def detached_rounding(z, table, beta):
        e = nearest(z, table)
        return e.detach(), penalty(z, e, 1, beta)

    def gradient_to_both(z, table, beta):
        e = nearest(z, table)
        return e + z - z.detach(), penalty(z, e, 1, beta)

    def beta_at_the_table(z, table, beta):
        e = nearest(z, table)
        return z + (e - z).detach(), penalty(z, e, beta, 1)

    def nothing_stopped(z, table, beta):
        e = nearest(z, table)
        return z + (e - z).detach(), (1 + beta) * (z - e).square().sum(1)

    def farthest(z, table, beta):
        e = table[torch.cdist(z, table).argmax(1)]
        return z + (e - z).detach(), penalty(z, e, 1, beta)

    def by_inner_product(z, table, beta):
        e = table[(z @ table.T).argmax(1)]
        return z + (e - z).detach(), penalty(z, e, 1, beta)

    def mean_over_entries(z, table, beta):
        e = nearest(z, table)
        return z + (e - z).detach(), penalty(z, e, 1, beta) / (2 if z.shape[1] == 1 else z.shape[1])

    def only_the_tables_term(z, table, beta):
        e = nearest(z, table)
        return z + (e - z).detach(), penalty(z, e, 1, 0)

    def sides_swapped(z, table, beta):
        e = nearest(z, table)
        return z + (e - z).detach(), penalty(z, e, beta, 1)

    def both_without_beta(z, table, beta):
        e = nearest(z, table)
        return z + (e - z).detach(), penalty(z, e, 1, 1)


class scale_of:
    def right_by_moments(means, stds):
        return ((means.square() + stds.square()).mean() - means.mean().square()) ** -0.5

    def means_alone(means, stds):
        return 1 / means.std(correction=0)

    def stds_alone(means, stds):
        return 1 / stds.square().mean().sqrt()

    def square_of_the_mean_std(means, stds):
        return 1 / (means.var(correction=0) + stds.mean() ** 2).sqrt()

    def stds_added(means, stds):
        return 1 / (means.std(correction=0) + stds.mean())

    def upside_down(means, stds):
        return 1 / scale_of.right_by_moments(means, stds)

    def squared(means, stds):
        return scale_of.right_by_moments(means, stds) ** 2

    def mean_not_taken_off(means, stds):
        return 1 / (means.square() + stds.square()).mean().sqrt()

    def each_entry_by_itself(means, stds):
        return 1 / (means.var(0, correction=0).mean() + stds.square().mean()).sqrt()

    def first_picture_only(means, stds):
        return scale_of.right_by_moments(means[:1], stds[:1])

    def one_draw(means, stds):
        return 1 / (means + stds * torch.randn_like(stds)).std(correction=0)


class same_snr:
    def right_by_logits(alpha_bar, std):
        return torch.sigmoid(torch.logit(alpha_bar) - 2 * math.log(std))

    def other_way(alpha_bar, std):
        return same_snr.right_by_logits(alpha_bar, 1 / std)

    def std_for_variance(alpha_bar, std):
        return torch.sigmoid(torch.logit(alpha_bar) - math.log(std))

    def signal_divided(alpha_bar, std):
        return alpha_bar / std**2

    def the_ratio_itself(alpha_bar, std):
        return alpha_bar / (1 - alpha_bar) / std**2

    def unchanged(alpha_bar, std):
        return alpha_bar

    def noise_multiplied(alpha_bar, std):
        return 1 - (1 - alpha_bar) * std**2

    def fourth_power(alpha_bar, std):
        return torch.sigmoid(torch.logit(alpha_bar) - 4 * math.log(std))


def weighted(q, k, v, keep, factor=None, fill=-math.inf, after=None):
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if factor is None else factor)
    weights = scores.masked_fill(keep[:, None] == 0, fill).softmax(-1)
    return (weights if after is None else weights * after[:, None]) @ v


class attend:
    def right_by_torch(q, k, v, keep):
        return scaled_dot_product_attention(q, k, v, attn_mask=keep.bool()[:, None].expand(-1, q.shape[1], -1))

    def right_by_renormalising(q, k, v, keep):
        weights = (q @ k.mT / q.shape[-1] ** 0.5).exp() * keep[:, None]
        return weights / weights.sum(-1, keepdim=True) @ v

    def without_keep(q, k, v, keep):
        return weighted(q, k, v, torch.ones_like(keep))

    def weights_zeroed_afterwards(q, k, v, keep):
        return weighted(q, k, v, torch.ones_like(keep), after=keep)

    def score_zero_for_filling(q, k, v, keep):
        return weighted(q, k, v, keep, fill=0.0)

    def values_zeroed(q, k, v, keep):
        return weighted(q, k, v * keep[..., None], torch.ones_like(keep))

    def without_root(q, k, v, keep):
        return weighted(q, k, v, keep, factor=1 / q.shape[-1])

    def not_scaled(q, k, v, keep):
        return weighted(q, k, v, keep, factor=1.0)

    def keep_the_other_way(q, k, v, keep):
        return weighted(q, k, v, torch.where(keep.sum(1, keepdim=True) == keep.shape[1], keep, 1 - keep))

    def softmax_over_places(q, k, v, keep):
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(keep[:, None] == 0, -1e9)
        return scores.softmax(1) @ v

    def root_of_the_values_width(q, k, v, keep):
        return weighted(q, k, v, keep, factor=v.shape[-1] ** -0.5)

    def mean_of_kept(q, k, v, keep):
        return weighted(0 * q, k, v, keep)


def limit(v_c, v_u):
    return v_c / (v_c - v_u) if v_c > v_u else math.inf


class tilted:
    def right_by_completing_the_square(s, m_c, v_c, m_u, v_u):
        curvature = (s * v_u + (1 - s) * v_c) / (v_c * v_u)
        slope = (s * m_c * v_u + (1 - s) * m_u * v_c) / (v_c * v_u)
        return slope / curvature, 1 / curvature, limit(v_c, v_u)

    def variances_mixed(s, m_c, v_c, m_u, v_u):
        return s * m_c + (1 - s) * m_u, s * v_c + (1 - s) * v_u, limit(v_c, v_u)

    def mean_without_precisions(s, m_c, v_c, m_u, v_u):
        right = tilted.right_by_completing_the_square(s, m_c, v_c, m_u, v_u)
        return s * m_c + (1 - s) * m_u, *right[1:]

    def standard_deviation(s, m_c, v_c, m_u, v_u):
        mean, variance, largest = tilted.right_by_completing_the_square(s, m_c, v_c, m_u, v_u)
        return mean, variance**0.5, largest

    def w_for_s(s, m_c, v_c, m_u, v_u):
        return tilted.right_by_completing_the_square(s - 1, m_c, v_c, m_u, v_u)

    def weights_one_and_s(s, m_c, v_c, m_u, v_u):
        precision = 1 / v_u + s / v_c
        return (m_u / v_u + s * m_c / v_c) / precision, 1 / precision, limit(v_c, v_u)

    def what_is_sampled(s, m_c, v_c, m_u, v_u):
        mean, _, largest = tilted.right_by_completing_the_square(s, m_c, v_c, m_u, v_u)
        return mean, v_c**s * v_u ** (1 - s), largest

    def always_infinite(s, m_c, v_c, m_u, v_u):
        return *tilted.right_by_completing_the_square(s, m_c, v_c, m_u, v_u)[:2], math.inf

    def largest_is_w(s, m_c, v_c, m_u, v_u):
        mean, variance, largest = tilted.right_by_completing_the_square(s, m_c, v_c, m_u, v_u)
        return mean, variance, largest - 1

    def largest_negative(s, m_c, v_c, m_u, v_u):
        return *tilted.right_by_completing_the_square(s, m_c, v_c, m_u, v_u)[:2], v_c / (v_c - v_u)


class shrink:
    def right_by_logarithms(s, v_c, v_u, w):
        return math.exp(-0.5 * (s * math.log1p(w / v_c) + (1 - s) * math.log1p(w / v_u)))

    def of_variances(s, v_c, v_u, w):
        return shrink.right_by_logarithms(s, v_c, v_u, w) ** 2

    def upside_down(s, v_c, v_u, w):
        return 1 / shrink.right_by_logarithms(s, v_c, v_u, w)

    def at_the_end_from_infinity(s, v_c, v_u, w):
        return v_c ** (s / 2) * v_u ** ((1 - s) / 2)

    def conditional_only(s, v_c, v_u, w):
        return (v_c / (v_c + w)) ** (s / 2)

    def without_guidance(s, v_c, v_u, w):
        return (v_c / (v_c + w)) ** 0.5

    def swapped(s, v_c, v_u, w):
        return shrink.right_by_logarithms(1 - s, v_c, v_u, w)

    def of_the_tilted_law(s, v_c, v_u, w):
        precision = lambda w: s / (v_c + w) + (1 - s) / (v_u + w)  # noqa: E731
        return abs(precision(w) / precision(0.0)) ** 0.5

    def exponents_not_to_one(s, v_c, v_u, w):
        return (v_c / (v_c + w)) ** (s / 2) * (v_u / (v_u + w)) ** (s / 2)

    def noise_as_a_standard_deviation(s, v_c, v_u, w):
        return shrink.right_by_logarithms(s, v_c, v_u, w**2)


def walk(noise, decode, z, y, null, alpha_bar, guide, out, first=0):
    for i in range(len(alpha_bar) - 1, first, -1):
        eps = guide(noise(z, i, y), noise(z, i, null))
        x0 = (z - (1 - alpha_bar[i]).sqrt() * eps) / alpha_bar[i].sqrt()
        z = alpha_bar[i - 1].sqrt() * x0 + (1 - alpha_bar[i - 1]).sqrt() * eps
    return decode(out(z))


class repaired:
    def right_with_two_weights(noise, decode, z, y, null, s, alpha_bar, std):
        return walk(noise, decode, z, y, null, alpha_bar, lambda c, u: s * c + (1 - s) * u, lambda z: z * std)

    def as_found(noise, decode, z, y, null, s, alpha_bar, std):
        return walk(noise, decode, z, y, null, alpha_bar, lambda c, u: c + s * (c - u), lambda z: z / std)

    def only_the_scale(noise, decode, z, y, null, s, alpha_bar, std):
        return walk(noise, decode, z, y, null, alpha_bar, lambda c, u: c + s * (c - u), lambda z: z * std)

    def only_the_guidance(noise, decode, z, y, null, s, alpha_bar, std):
        return walk(noise, decode, z, y, null, alpha_bar, lambda c, u: u + s * (c - u), lambda z: z / std)

    def scale_left_out(noise, decode, z, y, null, s, alpha_bar, std):
        return walk(noise, decode, z, y, null, alpha_bar, lambda c, u: u + s * (c - u), lambda z: z)

    def scale_after_decoding(noise, decode, z, y, null, s, alpha_bar, std):
        return std * walk(noise, decode, z, y, null, alpha_bar, lambda c, u: u + s * (c - u), lambda z: z)

    def no_guidance(noise, decode, z, y, null, s, alpha_bar, std):
        return walk(noise, decode, z, y, null, alpha_bar, lambda c, u: c, lambda z: z * std)

    def wrong_way(noise, decode, z, y, null, s, alpha_bar, std):
        return walk(noise, decode, z, y, null, alpha_bar, lambda c, u: c + s * (u - c), lambda z: z * std)

    def not_decoded(noise, decode, z, y, null, s, alpha_bar, std):
        return walk(noise, lambda z: z, z, y, null, alpha_bar, lambda c, u: u + s * (c - u), lambda z: z * std)

    def stops_at_step_one(noise, decode, z, y, null, s, alpha_bar, std):
        return walk(noise, decode, z, y, null, alpha_bar, lambda c, u: u + s * (c - u), lambda z: z * std, first=1)

    def guidance_on_conditions(noise, decode, z, y, null, s, alpha_bar, std):
        mixed = null.sqrt().nan_to_num() + s * (y - null)
        return walk(noise, decode, z, mixed, null, alpha_bar, lambda c, u: c, lambda z: z * std)


def coordinates(x):
    """The two degrees of freedom of a point of the sheet."""
    return x[:, :2]


def bend(z):
    """A point of the sheet for its two degrees of freedom."""
    u, v = z.unbind(1)
    bent = torch.stack([u, v, u**2 - v**2, u * v, torch.sin(2.5 * u), torch.cos(2.5 * v), u**3, torch.tanh(2 * v)], 1)
    return bent * torch.tensor([1.0, 1.0, 1.0, 1.5, 0.8, 0.8, 0.7, 0.7], dtype=z.dtype)


def principal(count=2):
    g = torch.random.get_rng_state()
    torch.manual_seed(0)
    x = sheet(4000)
    torch.random.set_rng_state(g)
    mean = x.mean(0)
    axes = torch.linalg.eigh(torch.cov(x.T))[1][:, -count:]
    return mean, axes


MEAN, AXES = principal()
SEEN: dict[str, torch.Tensor] = {}


class rebuild:
    right_and_slightly_off = (coordinates, lambda z: bend(z) + 0.03 * torch.sin(9 * z.sum(1, keepdim=True)))
    right_in_other_coordinates = (
        lambda x: torch.stack([x[:, 0] + x[:, 1], 2 * x[:, 0] - x[:, 1]], 1),
        lambda z: 1.02 * bend(torch.stack([z.sum(1) / 3, (2 * z[:, 0] - z[:, 1]) / 3], 1)),
    )
    the_law_itself = (coordinates, bend)
    best_plane = (lambda x: (x - MEAN) @ AXES, lambda z: MEAN + z @ AXES.T)
    all_eight_numbers = (lambda x: x, lambda z: z)
    one_number_twice = (lambda x: x[:, :1].expand(-1, 2), lambda z: bend(z))
    the_mean = (lambda x: x[:, :2], lambda z: MEAN.expand(len(z), 8))
    decoder_sign = (coordinates, lambda z: -bend(z))
    axes_swapped = (coordinates, lambda z: bend(z.flip(1)))
    only_the_decoder = bend
    quarter_off = (coordinates, lambda z: 0.75 * bend(z))
    remembers_what_it_encoded = (lambda x: (SEEN.update(x=x), coordinates(x))[1], lambda z: SEEN["x"])
