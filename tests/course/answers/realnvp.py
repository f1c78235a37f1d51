"""Answers to the exercises of chapter 03: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from gmbook.laws import plane


class bits:
    def right_through_the_mean_per_dimension(nats, dims, low, high, levels):
        nats_of_a_cell = nats / dims + math.log(high - low) - math.log(levels)
        return -nats_of_a_cell / math.log(2)

    def no_cell(nats, dims, low, high, levels):
        return -nats / (dims * math.log(2))

    def always_eight(nats, dims, low, high, levels):
        return 8 - nats / (dims * math.log(2))

    def as_if_on_0_to_1(nats, dims, low, high, levels):
        return math.log2(levels) - nats / (dims * math.log(2))

    def as_if_on_minus_1_to_1(nats, dims, low, high, levels):
        return math.log2(levels) - 1 - nats / (dims * math.log(2))

    def range_the_wrong_way(nats, dims, low, high, levels):
        return math.log2(levels * (high - low)) - nats / (dims * math.log(2))

    def cell_upside_down(nats, dims, low, high, levels):
        return -math.log2(levels / (high - low)) - nats / (dims * math.log(2))

    def levels_off_by_one(nats, dims, low, high, levels):
        return math.log2((levels - 1) / (high - low)) - nats / (dims * math.log(2))

    def not_per_dimension(nats, dims, low, high, levels):
        return dims * math.log2(levels / (high - low)) - nats / math.log(2)

    def one_cell_for_all_dimensions(nats, dims, low, high, levels):
        return (math.log2(levels / (high - low)) - nats / math.log(2)) / dims

    def in_nats(nats, dims, low, high, levels):
        return math.log(levels / (high - low)) - nats / dims

    def sign(nats, dims, low, high, levels):
        return nats / (dims * math.log(2)) - math.log2(levels / (high - low))

    def log_of_two_multiplied(nats, dims, low, high, levels):
        return math.log2(levels / (high - low)) - nats * math.log(2) / dims


class merged:
    def right_from_two_points(s1, t1, s2, t2):
        image = lambda x: (x + t1) * torch.exp(s1) * torch.exp(s2) + t2  # noqa: E731
        return torch.log(image(torch.ones_like(s1)) - image(torch.zeros_like(s1))), image(torch.zeros_like(s1))

    def both_in_the_papers_form(s1, t1, s2, t2):
        return s1 + s2, t1 * s2.exp() + t2

    def both_in_the_codes_form(s1, t1, s2, t2):
        return s1 + s2, (t1 + t2 * (-s1).exp()) * (s1 + s2).exp()

    def result_in_the_codes_form(s1, t1, s2, t2):
        return s1 + s2, t1 + t2 * (-s1 - s2).exp()

    def shifts_add(s1, t1, s2, t2):
        return s1 + s2, t1 + t2

    def scales_multiply(s1, t1, s2, t2):
        return s1 * s2, t1 * (s1 + s2).exp() + t2

    def factor_instead_of_its_logarithm(s1, t1, s2, t2):
        return (s1 + s2).exp(), t1 * (s1 + s2).exp() + t2

    def only_the_first_scale(s1, t1, s2, t2):
        return s1 + s2, t1 * s1.exp() + t2

    def layers_swapped(s1, t1, s2, t2):
        return s1 + s2, (t2 + t1) * (s1 + s2).exp()

    def inverse(s1, t1, s2, t2):
        return -s1 - s2, -(t1 * (s1 + s2).exp() + t2) * (-s1 - s2).exp()

    def sign_of_the_shift(s1, t1, s2, t2):
        return s1 + s2, -t1 * (s1 + s2).exp() + t2

    def parts_swapped(s1, t1, s2, t2):
        return t1 * (s1 + s2).exp() + t2, s1 + s2

    def detached_from_s2(s1, t1, s2, t2):
        return s1, t1 * s1.exp() + t2


def layer(net, x, mask, *, see=None, form=None, total=None):
    """The coupling with a mistake to choose: what the network sees, the form, the log-determinant from (s, mask)."""
    s, t = net(mask * x if see is None else see(x, mask))
    z = mask * x + (1 - mask) * (x * s.exp() + t if form is None else form(x, s, t))
    return z, ((1 - mask) * s).flatten(1).sum(1) if total is None else total(s, mask)


class coupling:
    def right_by_pieces(net, x, mask):
        stay, move = mask.flatten().nonzero()[:, 0], (1 - mask).flatten().nonzero()[:, 0]
        seen, z = torch.zeros_like(x).flatten(1), torch.empty_like(x).flatten(1)
        seen[:, stay] = x.flatten(1)[:, stay]
        s, t = (part.flatten(1)[:, move] for part in net(seen.view_as(x)))
        z[:, stay], z[:, move] = seen[:, stay], torch.addcmul(t, x.flatten(1)[:, move], s.exp())
        return z.view_as(x), torch.einsum("bj->b", s)

    def sum_over_what_stays(net, x, mask):
        return layer(net, x, mask, total=lambda s, mask: (mask * s).flatten(1).sum(1))

    def sum_over_all(net, x, mask):
        return layer(net, x, mask, total=lambda s, mask: s.flatten(1).sum(1))

    def mask_the_wrong_way(net, x, mask):
        return layer(net, x, 1 - mask)

    def network_sees_all(net, x, mask):
        return layer(net, x, mask, see=lambda x, mask: x)

    def network_sees_what_moves(net, x, mask):
        return layer(net, x, mask, see=lambda x, mask: (1 - mask) * x)

    def the_codes_form(net, x, mask):
        return layer(net, x, mask, form=lambda x, s, t: (x + t) * s.exp())

    def scale_for_log_scale(net, x, mask):
        return layer(net, x, mask, form=lambda x, s, t: x * s + t)

    def inverse(net, x, mask):
        return layer(net, x, mask, form=lambda x, s, t: (x - t) * (-s).exp())

    def sign_of_s(net, x, mask):
        return layer(net, x, mask, form=lambda x, s, t: x * (-s).exp() + t)

    def sign_of_the_log_determinant(net, x, mask):
        return layer(net, x, mask, total=lambda s, mask: -((1 - mask) * s).flatten(1).sum(1))

    def mean_for_sum(net, x, mask):
        return layer(net, x, mask, total=lambda s, mask: ((1 - mask) * s).flatten(1).mean(1))

    def sum_over_the_batch_too(net, x, mask):
        return layer(net, x, mask, total=lambda s, mask: ((1 - mask) * s).sum().expand(len(s)))

    def determinant_without_logarithm(net, x, mask):
        return layer(net, x, mask, total=lambda s, mask: ((1 - mask) * s).flatten(1).sum(1).exp())

    def sum_of_factors(net, x, mask):
        return layer(net, x, mask, total=lambda s, mask: ((1 - mask) * s.exp()).flatten(1).sum(1))

    def shift_left_out(net, x, mask):
        return layer(net, x, mask, form=lambda x, s, t: x * s.exp())

    def what_stays_is_dropped(net, x, mask):
        z, log_det = layer(net, x, mask)
        return (1 - mask) * z, log_det

    def detached(net, x, mask):
        z, log_det = layer(net, x, mask)
        return z, log_det.detach()

    def volume_preserving(net, x, mask):
        return layer(net, x, mask, total=lambda s, mask: torch.zeros(len(s)))

    def s_and_t_swapped(net, x, mask):
        return layer(lambda x: net(x)[::-1], x, mask)

    def in_place(net, x, mask):
        z, log_det = layer(net, x, mask)
        if not x.requires_grad:
            x.copy_(z)
        return z, log_det

    def log_det_of_a_falsified_slope(net, x, mask):
        """z has the right values, but tells automatic differentiation twice the slope."""
        z, log_det = coupling.right_by_pieces(net, x, mask)
        return z + (z - z.detach()), log_det + mask.numel() * math.log(2)


def back(nets, masks, z, step, order=reversed, see=lambda z, mask: mask * z):
    """The inverse of the stack, with a mistake to choose."""
    for net, mask in order(list(zip(nets, masks))):
        s, t = net(see(z, mask))
        z = mask * z + (1 - mask) * step(z, s, t)
    return z


def right_step(z, s, t):
    return z * (-s).exp() - t


class undone:
    def right_one_at_a_time(nets, masks, z):
        if not nets:
            return z
        s, t = nets[-1](torch.where(masks[-1] == 1, z, torch.zeros_like(z)))
        return undone.right_one_at_a_time(nets[:-1], masks[:-1], torch.where(masks[-1] == 1, z, z / s.exp() - t))

    def as_found(nets, masks, z):
        return back(nets, masks, z, lambda z, s, t: (z - t) * (-s).exp(), order=list)

    def only_the_order(nets, masks, z):
        return back(nets, masks, z, lambda z, s, t: (z - t) * (-s).exp())

    def only_the_form(nets, masks, z):
        return back(nets, masks, z, right_step, order=list)

    def exp_plus_s(nets, masks, z):
        return back(nets, masks, z, lambda z, s, t: z * s.exp() - t)

    def sign_of_the_shift(nets, masks, z):
        return back(nets, masks, z, lambda z, s, t: z * (-s).exp() + t)

    def shift_forgotten(nets, masks, z):
        return back(nets, masks, z, lambda z, s, t: z * (-s).exp())

    def scale_forgotten(nets, masks, z):
        return back(nets, masks, z, lambda z, s, t: z - t)

    def mask_the_wrong_way(nets, masks, z):
        return back(nets, [1 - mask for mask in masks], z, right_step)

    def network_sees_all(nets, masks, z):
        return back(nets, masks, z, right_step, see=lambda z, mask: z)

    def networks_in_order_masks_reversed(nets, masks, z):
        return back(nets[::-1], masks, z, right_step)

    def forwards_again(nets, masks, z):
        return back(nets, masks, z, lambda z, s, t: (z + t) * s.exp())

    def all_networks_see_z(nets, masks, z):
        x = z
        for net, mask in reversed(list(zip(nets, masks))):
            s, t = net(mask * z)
            x = mask * x + (1 - mask) * (x * (-s).exp() - t)
        return x

    def one_layer_too_few(nets, masks, z):
        return back(nets[1:], masks[1:], z, right_step) if len(nets) > 1 else back(nets, masks, z, right_step)


def pattern(masks, step=lambda b: (1 - b)[:, None] * b[None, :], own=1.0, later_on_the_left=True):
    """The dependences, with a mistake to choose."""
    total = torch.eye(masks.shape[1])
    for b in masks:
        one = own * torch.eye(len(b)) + step(b)
        total = one @ total if later_on_the_left else total @ one
    return total


class reaches:
    def right_by_sets(masks):
        dims = masks.shape[1]
        seen = [{i} for i in range(dims)]
        for mask in masks.tolist():
            kept = set().union(*(seen[j] for j in range(dims) if mask[j] == 1))
            seen = [seen[i] if mask[i] == 1 else seen[i] | kept for i in range(dims)]
        return torch.tensor([[float(j in seen[i]) for j in range(dims)] for i in range(dims)])

    def counts_paths(masks):
        return pattern(masks)

    def transposed(masks):
        return (pattern(masks) > 0).double().T

    def last_mask_first(masks):
        return (pattern(masks, later_on_the_left=False) > 0).double()

    def mask_the_wrong_way(masks):
        return (pattern(1 - masks) > 0).double()

    def without_itself(masks):
        return (pattern(masks) > 0).double().fill_diagonal_(0.0)

    def only_one_layer(masks):
        return (pattern(masks[-1:]) > 0).double()

    def one_layer_too_few(masks):
        return (pattern(masks[:-1]) > 0).double()

    def one_layer_too_many(masks):
        return (pattern(torch.cat([masks, masks[:1]])) > 0).double()

    def any_layer(masks):
        return (sum(pattern(b[None]) for b in masks) > 0).double()

    def no_old_value(masks):
        return (pattern(masks, step=lambda b: torch.diag(b) + (1 - b)[:, None] * b[None, :], own=0.0) > 0).double()

    def two_layers_mix_all(masks):
        return torch.ones(5, 5) if len(masks) > 1 else (pattern(masks) > 0).double()

    def moved_ones_mix(masks):
        return (pattern(masks, step=lambda b: (1 - b)[:, None] * torch.ones_like(b)) > 0).double()

    def stayed_ones_mix(masks):
        return (pattern(masks, step=lambda b: b[None, :] * torch.ones_like(b)[:, None]) > 0).double()


class gap:
    def right_by_averaging(rates):
        u = (torch.arange(200_000) + 0.5) / 200_000
        return sum((torch.exp(-rate * u).mean().log() + rate * u.mean()) for rate in rates)

    def sign(rates):
        return -gap.right_by_averaging(rates)

    def mean_over_dimensions(rates):
        return gap.right_by_averaging(rates) / len(rates)

    def in_bits(rates):
        return gap.right_by_averaging(rates) / math.log(2)

    def rate_of_the_mass_forgotten(rates):
        return (torch.log(1 - torch.exp(-rates)) + rates / 2).sum()

    def density_at_the_left_end(rates):
        return (torch.log((1 - torch.exp(-rates)) / rates)).sum().abs()

    def density_at_the_right_end(rates):
        return (torch.log((1 - torch.exp(-rates)) / rates) + rates).sum()

    def leading_term(rates):
        return (rates**2 / 24).sum()

    def twice(rates):
        return 2 * gap.right_by_averaging(rates)

    def only_the_first_dimension(rates):
        return gap.right_by_averaging(rates[:1])

    def no_gap(rates):
        return torch.zeros(())

    def entropy_within(rates):
        return (1 - rates.log()).sum().abs()

    def squared(rates):
        return gap.right_by_averaging(rates) ** 2


def cost(log_prob, k, u, alpha, *, place=None, slope=None, total=None):
    """bits/dim with a mistake to choose: the point on [0, 1), the logit's log-slope, the last sum."""
    x = (k + u) / 256 if place is None else place(k, u)
    y = torch.logit(alpha + (1 - 2 * alpha) * x)
    by = math.log(1 - 2 * alpha) + F.softplus(y) + F.softplus(-y) if slope is None else slope(y, alpha)
    dims = k[0].numel()
    nats = log_prob(y) + by.flatten(1).sum(1)
    return 8 - nats / (dims * math.log(2)) if total is None else total(nats, dims)


class counted:
    def right_by_autograd(log_prob, k, u, alpha):
        x = ((k + u) / 256).requires_grad_()
        p = alpha + (1 - 2 * alpha) * x
        y = p.log() - torch.log1p(-p)
        (slope,) = torch.autograd.grad(y.sum(), x)
        nats = log_prob(y.detach()) + (slope / 256).log().flatten(1).sum(1)
        return -nats / math.log(2) / k[0].numel()

    def as_found(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha, place=lambda k, u: (k + u).to(torch.uint8) / 256,
                    slope=lambda y, alpha: F.softplus(y) + F.softplus(-y))  # fmt: skip

    def only_the_noise(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha, slope=lambda y, alpha: F.softplus(y) + F.softplus(-y))

    def only_the_slope(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha, place=lambda k, u: (k + u).to(torch.uint8) / 256)

    def noise_in_the_middle(log_prob, k, u, alpha):
        return cost(log_prob, k, 0 * u + 0.5, alpha)

    def noise_not_scaled(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha, place=lambda k, u: (k / 256 + u).clamp(max=1))

    def divided_by_255(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha, place=lambda k, u: (k + u) / 255)

    def noise_around_zero(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha, place=lambda k, u: (k + u - 0.5) / 256)

    def no_logit_slope(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha, slope=lambda y, alpha: 0 * y)

    def logit_slope_sign(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha,
                    slope=lambda y, alpha: -(math.log(1 - 2 * alpha) + F.softplus(y) + F.softplus(-y)))  # fmt: skip

    def one_softplus(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha, slope=lambda y, alpha: math.log(1 - 2 * alpha) + F.softplus(y))

    def alpha_counted_once(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha,
                    slope=lambda y, alpha: math.log(1 - alpha) + F.softplus(y) + F.softplus(-y))  # fmt: skip

    def alpha_twice(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha,
                    slope=lambda y, alpha: 2 * math.log(1 - 2 * alpha) + F.softplus(y) + F.softplus(-y))  # fmt: skip

    def slope_is_a_mean(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha, slope=lambda y, alpha:
                    (math.log(1 - 2 * alpha) + F.softplus(y) + F.softplus(-y)) / (2 * k[0].numel()))  # fmt: skip

    def the_papers_printed_logit(log_prob, k, u, alpha):
        y = torch.logit(alpha + (1 - alpha) * (k + u) / 256)
        slope = math.log(1 - alpha) + F.softplus(y) + F.softplus(-y)
        return 8 - (log_prob(y) + slope.flatten(1).sum(1)) / (k[0].numel() * math.log(2))

    def no_cells(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha, total=lambda nats, dims: -nats / (dims * math.log(2)))

    def seven(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha) - 1

    def in_nats(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha) * math.log(2)

    def log_likelihood(log_prob, k, u, alpha):
        return -cost(log_prob, k, u, alpha)

    def mean_over_the_batch(log_prob, k, u, alpha):
        return cost(log_prob, k, u, alpha).mean().expand(len(k))


def norm(h, mean, variance, eps, log_det):
    """The layer with a log-determinant from the scales (C,) = 1/√(variance + ε) and the number of pixels."""
    scale = (variance + eps).rsqrt()
    z = (h - mean[:, None, None]) * scale[:, None, None]
    return z, log_det(scale, h.shape[2] * h.shape[3]).expand(len(h))


class normalised:
    def right_by_broadcasting(h, mean, variance, eps):
        scale = (variance + eps).rsqrt().reshape(1, -1, 1, 1).expand_as(h)
        return (h - mean.reshape(1, -1, 1, 1)) * scale, scale.log().sum((1, 2, 3))

    def as_found(h, mean, variance, eps):
        return norm(h, mean, variance, eps, lambda scale, pixels: 2 * scale.log().sum())

    def only_the_pixels(h, mean, variance, eps):
        return norm(h, mean, variance, eps, lambda scale, pixels: 2 * pixels * scale.log().sum())

    def only_the_half(h, mean, variance, eps):
        return norm(h, mean, variance, eps, lambda scale, pixels: scale.log().sum())

    def sign(h, mean, variance, eps):
        return norm(h, mean, variance, eps, lambda scale, pixels: -pixels * scale.log().sum())

    def mean_over_channels(h, mean, variance, eps):
        return norm(h, mean, variance, eps, lambda scale, pixels: pixels * scale.log().mean())

    def log_of_the_sum(h, mean, variance, eps):
        return norm(h, mean, variance, eps, lambda scale, pixels: pixels * scale.sum().log())

    def one_side_of_the_image(h, mean, variance, eps):
        return norm(h, mean, variance, eps, lambda scale, pixels: h.shape[2] * scale.log().sum())

    def epsilon_forgotten_in_the_log_determinant(h, mean, variance, eps):
        return norm(h, mean, variance, eps, lambda scale, pixels: -0.5 * pixels * variance.log().sum())

    def epsilon_outside_of_the_root(h, mean, variance, eps):
        scale = 1 / (variance.sqrt() + eps)
        log_det = h.shape[2] * h.shape[3] * scale.log().sum()
        return (h - mean[:, None, None]) * scale[:, None, None], log_det.expand(len(h))

    def divides_by_the_variance(h, mean, variance, eps):
        scale = 1 / (variance + eps)
        log_det = h.shape[2] * h.shape[3] * scale.log().sum()
        return (h - mean[:, None, None]) * scale[:, None, None], log_det.expand(len(h))

    def statistics_of_the_batch(h, mean, variance, eps):
        own, spread = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
        return norm(h, own, spread, eps, lambda scale, pixels: pixels * scale.log().sum())

    def inverse(h, mean, variance, eps):
        scale = (variance + eps).sqrt()
        log_det = h.shape[2] * h.shape[3] * scale.log().sum()
        return h * scale[:, None, None] + mean[:, None, None], log_det.expand(len(h))

    def mean_not_subtracted(h, mean, variance, eps):
        return norm(h, 0 * mean, variance, eps, lambda scale, pixels: pixels * scale.log().sum())

    def times_the_batch(h, mean, variance, eps):
        return norm(h, mean, variance, eps, lambda scale, pixels: len(h) * pixels * scale.log().sum())

    def one_number(h, mean, variance, eps):
        z, log_det = norm(h, mean, variance, eps, lambda scale, pixels: pixels * scale.log().sum())
        return z, log_det[0]

    def log_det_of_a_falsified_slope(h, mean, variance, eps):
        """z has the right values, but tells automatic differentiation twice the slope."""
        z, log_det = normalised.right_by_broadcasting(h, mean, variance, eps)
        return z + (z - z.detach()), log_det + h[0].numel() * math.log(2)


def below(x):
    """Φ."""
    return 0.5 * math.erfc(-x / 2**0.5)


def ratio(weight, m, s, start=None):
    """φ(z)/p(0) with z from `start`, or from the weights."""
    share = weight * below(m / s) + (1 - weight) * below(-m / s)
    z = torch.special.ndtri(torch.tensor(share)).item() if start is None else start
    return s * math.exp(m**2 / (2 * s**2) - z**2 / 2)


class slope:
    def right_by_autograd(weight, m, s):
        x = torch.zeros((), requires_grad=True)
        share = weight * torch.special.ndtr((x + m) / s) + (1 - weight) * torch.special.ndtr((x - m) / s)
        z = torch.distributions.Normal(0.0, 1.0).icdf(share)
        (inverse,) = torch.autograd.grad(z, x)
        return 1 / inverse

    def equal_weights(weight, m, s):
        return ratio(weight, m, s, start=0.0)

    def of_the_inverse(weight, m, s):
        return 1 / ratio(weight, m, s)

    def width_forgotten(weight, m, s):
        return ratio(weight, m, s) / s

    def variance_for_std(weight, m, s):
        return ratio(weight, m, s**2)

    def exponent_without_the_half(weight, m, s):
        return ratio(weight, m, s) * math.exp(m**2 / (2 * s**2))

    def sign_of_the_exponent(weight, m, s):
        return ratio(weight, m, s) * math.exp(-(m**2) / s**2)

    def sign_of_the_second_exponent(weight, m, s):
        return ratio(weight, m, s, start=0.0) ** 2 / ratio(weight, m, s)

    def far_apart(weight, m, s):
        return ratio(weight, m, s, start=torch.special.ndtri(torch.tensor(weight)).item())

    def half_of_the_density(weight, m, s):
        return ratio(weight, m, s) / 2

    def distance_between_the_modes(weight, m, s):
        return ratio(weight, 2 * m, s)

    def only_one_mode(weight, m, s):
        return ratio(weight, m, s) / weight

    def standard_deviation_of_the_law(weight, m, s):
        return (s**2 + 4 * weight * (1 - weight) * m**2) ** 0.5


LAW = plane.moons()


class log_density:
    def the_law_itself(x):
        return LAW.log_prob(x)

    def right_and_slightly_stretched(x):
        return LAW.log_prob(x / 1.03) - 2 * math.log(1.03)

    def determinant_of_a_stretch_forgotten(x):
        return LAW.log_prob(x / 1.05)

    def stretch_counted_in_one_dimension(x):
        return LAW.log_prob(x / 1.05) - math.log(1.05)

    def sign_of_the_log_determinant(x):
        return LAW.log_prob(x / 1.05) + 2 * math.log(1.05)

    def twice_the_density(x):
        return LAW.log_prob(x) + math.log(2)

    def half_of_the_density(x):
        return LAW.log_prob(x) - math.log(2)

    def density_without_logarithm(x):
        return LAW.log_prob(x).exp()

    def negative(x):
        return -LAW.log_prob(x)

    def in_bits(x):
        return LAW.log_prob(x) / math.log(2)

    def base_density_alone(x):
        return -0.5 * x.square().sum(1) - math.log(2 * math.pi)

    def fitted_gaussian(x):
        mean, covariance = LAW.law.mean().float(), LAW.law.covariance().float()
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)

    def coordinates_swapped(x):
        return LAW.log_prob(x.flip(1))

    def upside_down(x):
        return LAW.log_prob(x * torch.tensor([1.0, -1.0]))

    def mean_over_points(x):
        return LAW.log_prob(x).mean().expand(len(x))

    def diverged(x):
        return LAW.log_prob(x) / 0

    def no_density_but_on_a_lattice(x):
        """Told from samples by the few values that its first coordinates have."""
        return LAW.log_prob(x) + (1.0 if len(x[:, 0].unique()) > len(x) / 2 else 0.0)
