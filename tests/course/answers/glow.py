"""Answers to the exercises of chapter 04: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import math

import torch


class mixing:
    def right_by_eigenvalues(matrix, height, width):
        return height * width * torch.linalg.eigvals(matrix).abs().log().sum()

    def one_pixel(matrix, height, width):
        return torch.linalg.slogdet(matrix)[1]

    def height_only(matrix, height, width):
        return height * torch.linalg.slogdet(matrix)[1]

    def width_only(matrix, height, width):
        return width * torch.linalg.slogdet(matrix)[1]

    def determinant(matrix, height, width):
        return torch.linalg.det(matrix).abs() ** (height * width)

    def without_absolute_value(matrix, height, width):
        return height * width * torch.linalg.det(matrix).log()

    def inverse(matrix, height, width):
        return -height * width * torch.linalg.slogdet(matrix)[1]

    def channels_too(matrix, height, width):
        return height * width * len(matrix) * torch.linalg.slogdet(matrix)[1]

    def sum_of_the_diagonal(matrix, height, width):
        return height * width * matrix.diagonal().abs().log().sum()

    def trace(matrix, height, width):
        return height * width * matrix.trace()


class first_batch:
    def right_by_moments(x):
        rows = x.transpose(0, 1).flatten(1)
        mean = rows.mean(1)
        std = (rows.square().mean(1) - mean.square()).sqrt()
        return torch.log(1 / std), -mean / std

    def variance_for_deviation(x):
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return -variance.log(), -mean / variance

    def bias_not_scaled(x):
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return -variance.log() / 2, -mean

    def one_less(x):
        variance, mean = torch.var_mean(x, (0, 2, 3))
        return -variance.log() / 2, -mean / variance.sqrt()

    def sign_of_the_scale(x):
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return variance.log() / 2, -mean * variance.sqrt()

    def sign_of_the_bias(x):
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return -variance.log() / 2, mean / variance.sqrt()

    def scale_for_log_scale(x):
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return 1 / variance.sqrt(), -mean / variance.sqrt()

    def all_channels_together(x):
        variance, mean = torch.var_mean(x, correction=0)
        ones = torch.ones(x.shape[1], dtype=x.dtype)
        return -variance.log() / 2 * ones, -mean / variance.sqrt() * ones

    def first_image_only(x):
        variance, mean = torch.var_mean(x[0], (1, 2), correction=0)
        return -(variance + 1e-6).log() / 2, -mean / (variance + 1e-6).sqrt()

    def batch_only(x):
        variance, mean = torch.var_mean(x, 0, correction=0)
        return -variance.mean((1, 2)).log() / 2, -mean.mean((1, 2)) / variance.mean((1, 2)).sqrt()


class start:
    def right_level_by_level(channels, height, width, scales, steps):
        total, left = 0.0, channels * height * width
        for _ in range(scales):
            total += steps * left / 2 * math.log(torch.sigmoid(torch.tensor(2.0, dtype=torch.float64)).item())
            left /= 2
        return total

    def sign(channels, height, width, scales, steps):
        return steps * channels * height * width * (1 - 2.0**-scales) * math.log1p(math.exp(-2))

    def all_move(channels, height, width, scales, steps):
        return -2 * steps * channels * height * width * (1 - 2.0**-scales) * math.log1p(math.exp(-2))

    def nothing_is_finished(channels, height, width, scales, steps):
        return -steps * scales * channels * height * width / 2 * math.log1p(math.exp(-2))

    def one_level(channels, height, width, scales, steps):
        return -steps * channels * height * width / 2 * math.log1p(math.exp(-2))

    def one_step(channels, height, width, scales, steps):
        return -channels * height * width * (1 - 2.0**-scales) * math.log1p(math.exp(-2))

    def quarters(channels, height, width, scales, steps):
        return -steps * channels * height * width * (1 - 4.0**-scales) * math.log1p(math.exp(-2))

    def one_level_more(channels, height, width, scales, steps):
        return -steps * channels * height * width * (1 - 2.0 ** -(scales + 1)) * math.log1p(math.exp(-2))

    def identity(channels, height, width, scales, steps):
        return 0.0

    def exponential(channels, height, width, scales, steps):
        return -2.0 * steps * channels * height * width * (1 - 2.0**-scales)


def product(order, lower, upper, sign, log_s):
    unit = torch.eye(len(order), dtype=lower.dtype)
    return (lower.tril(-1) + unit) @ (upper.triu(1) + torch.diag(sign * log_s.exp()))


class factors:
    def right_by_a_permutation_matrix(order, lower, upper, sign, log_s):
        permutation = torch.nn.functional.one_hot(order, len(order)).to(lower.dtype)
        return permutation @ product(order, lower, upper, sign, log_s), log_s.exp().prod().log()

    def inverse_permutation(order, lower, upper, sign, log_s):
        return product(order, lower, upper, sign, log_s)[order.argsort()], log_s.sum()

    def columns(order, lower, upper, sign, log_s):
        return product(order, lower, upper, sign, log_s)[:, order], log_s.sum()

    def no_order(order, lower, upper, sign, log_s):
        return product(order, lower, upper, sign, log_s), log_s.sum()

    def free_diagonal_of_l(order, lower, upper, sign, log_s):
        return (lower.tril() @ (upper.triu(1) + torch.diag(sign * log_s.exp())))[order], log_s.sum()

    def diagonal_of_u_too(order, lower, upper, sign, log_s):
        unit = torch.eye(len(order), dtype=lower.dtype)
        return ((lower.tril(-1) + unit) @ (upper.triu() + torch.diag(sign * log_s.exp())))[order], log_s.sum()

    def no_signs(order, lower, upper, sign, log_s):
        return product(order, lower, upper, torch.ones_like(sign), log_s)[order], log_s.sum()

    def factors_swapped(order, lower, upper, sign, log_s):
        unit = torch.eye(len(order), dtype=lower.dtype)
        return ((upper.triu(1) + torch.diag(sign * log_s.exp())) @ (lower.tril(-1) + unit))[order], log_s.sum()

    def sum_of_s(order, lower, upper, sign, log_s):
        return product(order, lower, upper, sign, log_s)[order], log_s.exp().sum()

    def sign_in_the_logarithm(order, lower, upper, sign, log_s):
        return product(order, lower, upper, sign, log_s)[order], (sign * log_s).sum()

    def strictly_lower(order, lower, upper, sign, log_s):
        return (lower.tril(-1) @ (upper.triu(1) + torch.diag(sign * log_s.exp())))[order], log_s.sum()


class split:
    def right_by_variance(prior, h, done):
        mean, log_std = prior(h)
        variance = torch.exp(2 * log_std)
        return (done - mean) / variance.sqrt(), -0.5 * variance.log().sum(1)

    def multiplied(prior, h, done):
        mean, log_std = prior(h)
        return (done - mean) * log_std.exp(), log_std.sum(1)

    def sign_of_log_det(prior, h, done):
        mean, log_std = prior(h)
        return (done - mean) * (-log_std).exp(), log_std.sum(1)

    def mean_for_sum(prior, h, done):
        mean, log_std = prior(h)
        return (done - mean) * (-log_std).exp(), -log_std.mean(1)

    def no_log_det(prior, h, done):
        mean, log_std = prior(h)
        return (done - mean) * (-log_std).exp(), torch.zeros(len(h), dtype=h.dtype)

    def log_for_scale(prior, h, done):
        mean, log_std = prior(h)
        return (done - mean) / log_std, -log_std.sum(1)

    def log_variance(prior, h, done):
        mean, log_std = prior(h)
        return (done - mean) * (-log_std / 2).exp(), -log_std.sum(1) / 2

    def reads_the_finished_half(prior, h, done):
        mean, log_std = prior(done)
        return (done - mean) * (-log_std).exp(), -log_std.sum(1)

    def halves_swapped(prior, h, done):
        mean, log_std = prior(done)
        return (h - mean) * (-log_std).exp(), -log_std.sum(1)

    def sample(prior, h, done):
        mean, log_std = prior(h)
        return mean + done * log_std.exp(), log_std.sum(1)

    def mean_added(prior, h, done):
        mean, log_std = prior(h)
        return (done + mean) * (-log_std).exp(), -log_std.sum(1)


class tempered:
    def right_in_one_line(log_p, log_det, temperature, dims):
        power = 1 / temperature**2
        constant = dims / 2 * (power - 1) * math.log(2 * math.pi) - dims * math.log(temperature)
        return power * log_p + (1 - power) * log_det + constant

    def misprint(log_p, log_det, temperature, dims):
        return temperature**2 * log_p

    def power_alone(log_p, log_det, temperature, dims):
        return log_p / temperature**2

    def no_constant(log_p, log_det, temperature, dims):
        return log_p / temperature**2 + (1 - 1 / temperature**2) * log_det

    def sign_of_log_det(log_p, log_det, temperature, dims):
        power = 1 / temperature**2
        constant = dims / 2 * (power - 1) * math.log(2 * math.pi) - dims * math.log(temperature)
        return power * log_p - (1 - power) * log_det + constant

    def temperature_for_its_square(log_p, log_det, temperature, dims):
        power = 1 / temperature
        constant = dims / 2 * (power - 1) * math.log(2 * math.pi) - dims * math.log(temperature)
        return power * log_p + (1 - power) * log_det + constant

    def one_dimension(log_p, log_det, temperature, dims):
        power = 1 / temperature**2
        constant = (power - 1) * math.log(2 * math.pi) / 2 - math.log(temperature)
        return power * log_p + (1 - power) * log_det + constant

    def no_volume(log_p, log_det, temperature, dims):
        power = 1 / temperature**2
        return power * log_p + (1 - power) * log_det + dims / 2 * (power - 1) * math.log(2 * math.pi)

    def volume_the_wrong_way(log_p, log_det, temperature, dims):
        power = 1 / temperature**2
        constant = dims / 2 * (power - 1) * math.log(2 * math.pi) + dims * math.log(temperature)
        return power * log_p + (1 - power) * log_det + constant

    def log_det_cooled_too(log_p, log_det, temperature, dims):
        power = 1 / temperature**2
        return power * log_p + dims / 2 * (power - 1) * math.log(2 * math.pi) - dims * math.log(temperature)


class attribute:
    def right_by_sums(f, inverse, x, has, a):
        z, share = f(x), has.double() / has.sum() - (~has).double() / (~has).sum()
        return inverse(z + a * (share.to(z.dtype) @ z))

    def as_found(f, inverse, x, has, a):
        z = f(x)
        direction = z[has].mean(0) - z.mean(0)
        return inverse(z + a * direction / direction.norm())

    def only_the_length_repaired(f, inverse, x, has, a):
        z = f(x)
        return inverse(z + a * (z[has].mean(0) - z.mean(0)))

    def only_the_mean_repaired(f, inverse, x, has, a):
        z = f(x)
        direction = z[has].mean(0) - z[~has].mean(0)
        return inverse(z + a * direction / direction.norm())

    def in_pixels(f, inverse, x, has, a):
        return x + a * (x[has].mean(0) - x[~has].mean(0))

    def direction_of_points(f, inverse, x, has, a):
        return inverse(f(x) + a * (x[has].mean(0) - x[~has].mean(0)))

    def sign(f, inverse, x, has, a):
        z = f(x)
        return inverse(z - a * (z[has].mean(0) - z[~has].mean(0)))

    def sums(f, inverse, x, has, a):
        z = f(x)
        return inverse(z + a * (z[has].sum(0) - z[~has].sum(0)))

    def only_those_without(f, inverse, x, has, a):
        z = f(x)
        return inverse(z + a * (~has)[:, None] * (z[has].mean(0) - z[~has].mean(0)))

    def whole_step(f, inverse, x, has, a):
        z = f(x)
        return inverse(z + z[has].mean(0) - z[~has].mean(0))

    def to_the_mean(f, inverse, x, has, a):
        z = f(x)
        return inverse(z + a * (z[has].mean(0) - z))

    def stays_in_z(f, inverse, x, has, a):
        z = f(x)
        return z + a * (z[has].mean(0) - z[~has].mean(0))


class convolution:
    def right_by_torch(matrix, x):
        z = torch.nn.functional.conv2d(x, matrix[:, :, None, None])
        log_det = matrix.det().abs().log() * (x[0].numel() / len(matrix))
        return z, log_det.repeat(len(x))

    def as_found(matrix, x):
        z = torch.einsum("ij,bihw->bjhw", matrix, x)
        return z, (torch.linalg.slogdet(matrix)[1] * x.shape[2]).expand(len(x))

    def only_the_pixels_repaired(matrix, x):
        z = torch.einsum("ij,bihw->bjhw", matrix, x)
        return z, (torch.linalg.slogdet(matrix)[1] * x.shape[2] * x.shape[3]).expand(len(x))

    def only_the_index_repaired(matrix, x):
        z = torch.einsum("ij,bjhw->bihw", matrix, x)
        return z, (torch.linalg.slogdet(matrix)[1] * x.shape[2]).expand(len(x))

    def width_only(matrix, x):
        z = torch.einsum("ij,bjhw->bihw", matrix, x)
        return z, (torch.linalg.slogdet(matrix)[1] * x.shape[3]).expand(len(x))

    def once(matrix, x):
        return torch.einsum("ij,bjhw->bihw", matrix, x), torch.linalg.slogdet(matrix)[1].expand(len(x))

    def inverse(matrix, x):
        z = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(matrix), x)
        return z, (-torch.linalg.slogdet(matrix)[1] * x.shape[2] * x.shape[3]).expand(len(x))

    def sign(matrix, x):
        z = torch.einsum("ij,bjhw->bihw", matrix, x)
        return z, (-torch.linalg.slogdet(matrix)[1] * x.shape[2] * x.shape[3]).expand(len(x))

    def without_absolute_value(matrix, x):
        z = torch.einsum("ij,bjhw->bihw", matrix, x)
        return z, (torch.linalg.det(matrix).log() * x.shape[2] * x.shape[3]).expand(len(x))

    def channels_too(matrix, x):
        z = torch.einsum("ij,bjhw->bihw", matrix, x)
        return z, (torch.linalg.slogdet(matrix)[1] * x[0].numel()).expand(len(x))

    def whole_batch(matrix, x):
        z = torch.einsum("ij,bjhw->bihw", matrix, x)
        return z, (torch.linalg.slogdet(matrix)[1] * len(x) * x.shape[2] * x.shape[3]).expand(len(x))


class backwards:
    def right_without_writing_in_place(net, z):
        known = z[:, :0]
        while known.shape[1] < z.shape[1]:
            i = known.shape[1]
            s, t = net(torch.cat([known, z[:, i:]], 1))
            known = torch.cat([known, ((z[:, i] - t[:, i]) / s[:, i].exp())[:, None]], 1)
        return known

    def right_all_at_once_many_times(net, z):
        x = torch.zeros_like(z)
        for _ in range(z.shape[1]):
            s, t = net(x)
            x = (z - t) * torch.exp(-s)
        return x

    def once(net, z):
        s, t = net(torch.zeros_like(z))
        return (z - t) * torch.exp(-s)

    def from_z(net, z):
        s, t = net(z)
        return (z - t) * torch.exp(-s)

    def last_first(net, z):
        x = torch.zeros_like(z)
        for i in reversed(range(z.shape[1])):
            s, t = net(x)
            x[:, i] = (z[:, i] - t[:, i]) * torch.exp(-s[:, i])
        return x

    def sees_z(net, z):
        x = torch.zeros_like(z)
        for i in range(z.shape[1]):
            s, t = net(z)
            x[:, i] = (z[:, i] - t[:, i]) * torch.exp(-s[:, i])
        return x

    def forwards(net, z):
        s, t = net(z)
        return z * s.exp() + t

    def sign_of_s(net, z):
        x = torch.zeros_like(z)
        for i in range(z.shape[1]):
            s, t = net(x)
            x[:, i] = (z[:, i] - t[:, i]) * torch.exp(s[:, i])
        return x

    def shift_after_scale(net, z):
        x = torch.zeros_like(z)
        for i in range(z.shape[1]):
            s, t = net(x)
            x[:, i] = z[:, i] * torch.exp(-s[:, i]) - t[:, i]
        return x

    def one_too_few(net, z):
        x = torch.zeros_like(z)
        for i in range(z.shape[1] - 1):
            s, t = net(x)
            x[:, i] = (z[:, i] - t[:, i]) * torch.exp(-s[:, i])
        return x

    def too_many_calls(net, z):
        x = torch.zeros_like(z)
        for _ in range(3 * z.shape[1] + 3):
            s, t = net(x)
            x = (z - t) * torch.exp(-s)
        return x


def whitened(x):
    return torch.linalg.inv(torch.linalg.cholesky(x.T.cov()))


def separated(x):
    """By fixed points: FastICA with the cube, then by the likelihood of Laplace's law."""
    x = x.double()
    w = whitened(x)
    z = x @ w.T
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    for _ in range(200):
        y = z @ turn.T
        g = torch.tanh(2 * y)
        new = g.T @ z / len(z) - torch.diag((2 * (1 - g.square())).mean(0)) @ turn
        u, _, v = torch.linalg.svd(new)
        turn = u @ v
    return turn @ w


class unmix:
    def right_by_fixed_points(x):
        return separated(x)

    def gaussian_base(x):
        return whitened(x)

    def principal_axes(x):
        values, vectors = torch.linalg.eigh(x.T.cov())
        return torch.diag(values.rsqrt()) @ vectors.T

    def mixes_again(x):
        return torch.linalg.inv(separated(x))

    def transposed(x):
        return separated(x).T

    def nothing(x):
        return torch.eye(3, dtype=x.dtype)

    def one_voice_three_times(x):
        return separated(x)[:1].repeat(3, 1) + 1e-6 * torch.eye(3)

    def one_voice_missing(x):
        w = separated(x)
        return torch.stack([w[0], w[1], w[0] + 1e-3 * w[2]])

    def singular(x):
        return torch.zeros(3, 3, dtype=x.dtype)

    def random_rotation(x):
        return torch.linalg.qr(torch.randn(3, 3, dtype=x.dtype))[0] @ whitened(x)

    def half_way(x):
        w = separated(x)
        return w + 0.4 * w.roll(1, 0)
