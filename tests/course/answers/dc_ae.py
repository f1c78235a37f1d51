"""Answers to the exercises of chapter 18: `right_…` by another road, the others wrong as their name says."""

import math

import torch
import torch.nn.functional as F

from gmbook.course.checks.dc_ae import best, pairs


class count:
    def right_by_places(height, width, f, p, c):
        places = (height // f) * (width // f)
        return places // p**2, c * p * p

    def without_the_patch(height, width, f, p, c):
        return height * width / f**2, c

    def sides_for_areas(height, width, f, p, c):
        return height * width / (f * p), c * p

    def numbers_for_tokens(height, width, f, p, c):
        return c * height * width / (f * p) ** 2, c * p**2

    def token_of_one_place(height, width, f, p, c):
        return height * width / (f * p) ** 2, c

    def token_without_channels(height, width, f, p, c):
        return height * width / (f * p) ** 2, p**2

    def token_of_pixels(height, width, f, p, c):
        return height * width / (f * p) ** 2, 3 * (f * p) ** 2

    def squares_only(height, width, f, p, c):
        return (height / (f * p)) ** 2, c * p**2

    def swapped(height, width, f, p, c):
        return c * p**2, height * width / (f * p) ** 2


class faster:
    def right_by_the_sum(n, d, s):
        cost = lambda n: 4 * n * n * d + 24 * n * d * d  # noqa: E731
        return cost(n) / cost(n / s)

    def tokens_alone(n, d, s):
        return float(s)

    def pairs_of_tokens(n, d, s):
        return float(s**2)

    def upside_down(n, d, s):
        return (n / s + 6 * d) / (s * (n + 6 * d))

    def without_feed_forward(n, d, s):
        return s * (n + 2 * d) / (n / s + 2 * d)

    def without_projections(n, d, s):
        return s * (n + 4 * d) / (n / s + 4 * d)

    def one_product_of_attention(n, d, s):
        return s * (n + 12 * d) / (n / s + 12 * d)

    def feed_forward_as_wide_as_the_block(n, d, s):
        return s * (n + 3 * d) / (n / s + 3 * d)

    def mean_of_both_limits(n, d, s):
        return (s + s**2) / 2


def groups(x, out, f):
    return F.pixel_unshuffle(x, f).unflatten(1, (out, -1))


class halve:
    def right_by_unfold(x, out, f):
        b, c, h, w = x.shape
        rows = F.unfold(x, f, stride=f)  # (B, c·f², places), channel by channel, row by row
        return rows.reshape(b, out, -1, h // f, w // f).mean(2)

    def sum_of_the_group(x, out, f):
        return groups(x, out, f).sum(2)

    def every_so_many_th(x, out, f):
        return F.pixel_unshuffle(x, f).unflatten(1, (-1, out)).mean(1)

    def rows_and_columns_exchanged(x, out, f):
        return groups(x.mT, out, f).mean(2).mT

    def largest_of_the_group(x, out, f):
        return groups(x, out, f).amax(2)

    def first_of_the_group(x, out, f):
        return groups(x, out, f)[:, :, 0]

    def pooled_and_copied(x, out, f):
        pooled = F.avg_pool2d(x, f)
        return pooled.repeat(1, -(-out // x.shape[1]), 1, 1)[:, :out]

    def cell_before_channel(x, out, f):
        b, c, h, w = x.shape
        cells = x.reshape(b, c, h // f, f, w // f, f).permute(0, 3, 5, 1, 2, 4)
        return cells.reshape(b, out, -1, h // f, w // f).mean(2)

    def quadrants_for_cells(x, out, f):
        b, c, h, w = x.shape
        parts = x.reshape(b, c, f, h // f, f, w // f).permute(0, 1, 2, 4, 3, 5)
        return parts.reshape(b, out, -1, h // f, w // f).mean(2)


class double:
    def right_by_expanding(z, out, f):
        b, c, h, w = z.shape
        copies = z[:, :, None].expand(b, c, out * f * f // c, h, w).reshape(b, out, f, f, h, w)
        return copies.permute(0, 1, 4, 2, 5, 3).reshape(b, out, f * h, f * w)

    def tiled(z, out, f):
        return F.pixel_shuffle(z.repeat(1, out * f * f // z.shape[1], 1, 1), f)

    def divided(z, out, f):
        size = out * f * f // z.shape[1]
        return F.pixel_shuffle(z.repeat_interleave(size, 1) / size, f)

    def first_of_the_group_only(z, out, f):
        size = out * f * f // z.shape[1]
        spread = torch.zeros(len(z), z.shape[1], size, *z.shape[2:], dtype=z.dtype)
        spread[:, :, 0] = size * z
        return F.pixel_shuffle(spread.flatten(1, 2), f)

    def rows_and_columns_exchanged(z, out, f):
        return double.right_by_expanding(z.mT, out, f).mT

    def enlarged_and_copied(z, out, f):
        large = F.interpolate(z, scale_factor=f)
        return large.repeat(1, -(-out // z.shape[1]), 1, 1)[:, :out]

    def root_of_the_group(z, out, f):
        size = out * f * f // z.shape[1]
        return F.pixel_shuffle(z.repeat_interleave(size, 1) / size**0.5, f)

    def alternating_signs(z, out, f):
        size = out * f * f // z.shape[1]
        ramp = torch.linspace(-1, 1, size, dtype=z.dtype) if size > 1 else torch.zeros(1, dtype=z.dtype)
        copies = z[:, :, None] * (1 + ramp - ramp.mean())[:, None, None]
        return F.pixel_shuffle(copies.flatten(1, 2), f)


class kept:
    def right_by_cases(rows, columns, g):
        return {1: 1.0, 2: (1 + columns) / 2, 4: (1 + rows) * (1 + columns) / 4}[g]

    def white_noise(rows, columns, g):
        return 1 / g

    def pairs_one_above_the_other(rows, columns, g):
        return {1: 1.0, 2: (1 + rows) / 2, 4: (1 + rows) * (1 + columns) / 4}[g]

    def lost(rows, columns, g):
        return 1 - kept.right_by_cases(rows, columns, g)

    def standard_deviation(rows, columns, g):
        return kept.right_by_cases(rows, columns, g) ** 0.5

    def without_the_diagonal(rows, columns, g):
        return {1: 1.0, 2: (1 + columns) / 2, 4: (1 + rows + columns) / 4}[g]

    def correlation_itself(rows, columns, g):
        return {1: 1.0, 2: columns, 4: rows * columns}[g]

    def mean_of_both(rows, columns, g):
        return {1: 1.0, 2: (2 + rows + columns) / 4, 4: (1 + rows) * (1 + columns) / 4}[g]

    def four_as_two(rows, columns, g):
        return {1: 1.0, 2: (1 + columns) / 2, 4: (1 + columns) / 2}[g]


def centre(weight, pattern):
    out = weight.clone()
    out[:, :, 1, 1] += pattern
    return out


def side_by_side(weight):
    rows, channels = weight.shape[:2]
    return torch.eye(channels, dtype=weight.dtype).repeat_interleave(rows // channels, 0)


class fold:
    def right_by_counting(weight, out):
        folded = weight.clone()
        size = 4 * out // weight.shape[1]
        for k in range(4 * out):
            folded[k, k // size, 1, 1] += 1
        return folded

    def tiled(weight, out):
        rows, channels = weight.shape[:2]
        return centre(weight, torch.eye(channels, dtype=weight.dtype).repeat(rows // channels, 1))

    def first_tap(weight, out):
        folded = weight.clone()
        folded[:, :, 0, 0] += side_by_side(weight)
        return folded

    def all_taps(weight, out):
        return weight + side_by_side(weight)[:, :, None, None]

    def learned_part_gone(weight, out):
        return centre(torch.zeros_like(weight), side_by_side(weight))

    def set_for_added(weight, out):
        folded = weight.clone()
        folded[:, :, 1, 1] = side_by_side(weight)
        return folded

    def divided(weight, out):
        return centre(weight, side_by_side(weight) * weight.shape[1] / (4 * out))

    def every_channel(weight, out):
        return centre(weight, torch.ones_like(weight[:, :, 1, 1]))

    def nothing_added(weight, out):
        return weight.clone()


class in_order:
    def right_with_a_mask(q, k, v):
        scores = (q.relu() @ k.relu().T).tril()
        return scores @ v / scores.sum(1, keepdim=True)

    def sees_everything(q, k, v):
        scores = q.relu() @ k.relu().T
        return scores @ v / scores.sum(1, keepdim=True)

    def backwards(q, k, v):
        scores = (q.relu() @ k.relu().T).triu()
        return scores @ v / scores.sum(1, keepdim=True)

    def not_itself(q, k, v):
        scores = (q.relu() @ k.relu().T).tril(-1)
        return scores @ v / (scores.sum(1, keepdim=True) + 1e-15)

    def denominator_of_all(q, k, v):
        scores = q.relu() @ k.relu().T
        return scores.tril() @ v / scores.sum(1, keepdim=True)

    def without_phi(q, k, v):
        scores = (q @ k.T).tril()
        return scores @ v / scores.sum(1, keepdim=True)

    def softmax(q, k, v):
        scores = q @ k.T / q.shape[1] ** 0.5
        hidden = torch.ones_like(scores).triu(1).bool()
        return scores.masked_fill(hidden, -math.inf).softmax(1) @ v

    def not_divided(q, k, v):
        return (q.relu() @ k.relu().T).tril() @ v

    def relu_of_the_products(q, k, v):
        scores = (q @ k.T).relu().tril()
        return scores @ v / (scores.sum(1, keepdim=True) + 1e-15)

    def divided_by_the_count(q, k, v):
        scores = (q.relu() @ k.relu().T).tril()
        return scores @ v / torch.arange(1, len(q) + 1, dtype=q.dtype)[:, None]


def soft_weight(n, d, score):
    same = n // d
    return 1 / (same + (n - same) * math.exp(-score))


class sharpest:
    def right_by_matrices(n, d, scale):
        keys = scale * torch.eye(d, dtype=torch.float64).repeat(n // d, 1)
        soft = (keys @ keys.T / d**0.5).softmax(1)
        return d / n, soft[0, 0]

    def alone_on_its_axis(n, d, scale):
        return 1.0, 1 / (1 + (n - 1) * math.exp(-(scale**2) / d**0.5))

    def whole_axis(n, d, scale):
        return d / n, n / d * soft_weight(n, d, scale**2 / d**0.5)

    def uniform(n, d, scale):
        return 1 / n, soft_weight(n, d, scale**2 / d**0.5)

    def without_root(n, d, scale):
        return d / n, soft_weight(n, d, scale**2)

    def divided_by_d(n, d, scale):
        return d / n, soft_weight(n, d, scale**2 / d)

    def only_the_query_scaled(n, d, scale):
        return d / n, soft_weight(n, d, scale / d**0.5)

    def swapped(n, d, scale):
        return soft_weight(n, d, scale**2 / d**0.5), d / n

    def others_have_no_weight(n, d, scale):
        return d / n, d / n

    def scale_in_the_linear_one(n, d, scale):
        return scale**2 * d / n, soft_weight(n, d, scale**2 / d**0.5)


class mended:
    def right_quadratic(q, k, v):
        scores = q.relu() @ k.relu().T
        return scores / scores.sum(1, keepdim=True) @ v

    def as_found(q, k, v):
        q, k = q.relu(), k.relu()
        return q @ (k.T @ v) / ((q @ k.T).sum(0)[:, None] + 1e-2)

    def only_the_axis(q, k, v):
        q, k = q.relu(), k.relu()
        return q @ (k.T @ v) / ((q @ k.T).sum(1, keepdim=True) + 1e-2)

    def only_the_constant(q, k, v):
        q, k = q.relu(), k.relu()
        return q @ (k.T @ v) / ((q @ k.T).sum(0)[:, None] + 1e-15)

    def weights_over_queries(q, k, v):
        scores = q.relu() @ k.relu().T
        return scores / scores.sum(0) @ v

    def not_divided(q, k, v):
        return q.relu() @ (k.relu().T @ v)

    def divided_by_the_number(q, k, v):
        return q.relu() @ (k.relu().T @ v) / len(k)

    def without_phi(q, k, v):
        return q @ (k.T @ v) / (q @ k.sum(0)[:, None])

    def clamped_below(q, k, v):
        q, k = q.relu(), k.relu()
        return q @ (k.T @ v) / (q @ k.sum(0)[:, None]).clamp(min=1e-2)

    def softmax(q, k, v):
        return (q @ k.T / q.shape[1] ** 0.5).softmax(1) @ v


EXACT = best().float()


class decode:
    def right_and_slightly_off(z):
        return z @ (EXACT + 0.003 * torch.ones_like(EXACT)).T

    def right_with_a_wave(z):
        return z @ EXACT.T + 0.01 * torch.sin(5 * z.sum(1, keepdim=True))

    def the_law_itself(z):
        return z @ EXACT.T

    def shortcut(z):
        return z.repeat_interleave(2, 1)

    def tiled(z):
        return z.repeat(1, 2)

    def nothing(z):
        return torch.zeros(len(z), 8)

    def straight_lines(z):
        return F.interpolate(z[:, None], size=8, mode="linear", align_corners=True)[:, 0]

    def least_norm(z):
        a = pairs(torch.eye(8)).T
        return z @ torch.linalg.pinv(a).T

    def shrunk(z):
        return 0.9 * z @ EXACT.T

    def other_way_round(z):
        return z @ EXACT.flip(0).T
