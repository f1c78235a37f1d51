"""Answers to the exercises of chapter 12: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import math
from itertools import permutations

import torch
from scipy.optimize import linear_sum_assignment

from gmbook.core.denoiser import Truth
from gmbook.core.paths import LinearPath, VPPath
from gmbook.laws import plane


class constant_width:
    def right_through_the_expected_noise(x, x0, t, s):
        left = x - (1 - t) * x0  # tε + sz: regress ε on it
        return t * left / (t * t + s * s) - x0

    def the_linear_path(x, x0, t, s):
        return (x - x0) / t

    def standard_deviations_add(x, x0, t, s):
        return (x - (1 - t) * x0) / (t + s) - x0

    def variance_for_std(x, x0, t, s):
        return 2 * t / (t**2 + s**2) * (x - (1 - t) * x0) - x0

    def std_in_the_denominator(x, x0, t, s):
        return t / (t**2 + s**2).sqrt() * (x - (1 - t) * x0) - x0

    def sign(x, x0, t, s):
        return x0 - t / (t**2 + s**2) * (x - (1 - t) * x0)

    def sign_of_the_data(x, x0, t, s):
        return t / (t**2 + s**2) * (x - (1 - t) * x0) + x0

    def paper_time(x, x0, t, s):
        return x0 - (1 - t) / ((1 - t) ** 2 + s**2) * (x - t * x0)

    def mean_not_scaled(x, x0, t, s):
        return t / (t**2 + s**2) * (x - x0) - x0

    def mean_does_not_move(x, x0, t, s):
        return t / (t**2 + s**2) * (x - (1 - t) * x0)

    def inverted(x, x0, t, s):
        return (t**2 + s**2) / t * (x - (1 - t) * x0) - x0

    def in_place(x, x0, t, s):
        return x.sub_((1 - t) * x0).mul_(t / (t**2 + s**2)).sub_(x0)


def ballot(x, t, points, weights, power=2, scale=0.5, shrink=True, dim=1):
    """The posterior's weights (B, K) with a mistake to choose."""
    centres = (1 - t) * points if shrink else points
    squares = (x[:, None] - centres).square().sum(-1)
    return (weights.log() - scale * squares / t**power).softmax(dim)


class vote:
    def right_point_by_point(x, t, points, weights):
        rows = []
        for one in x:
            logs = torch.stack(
                [w.log() - ((one - (1 - t) * a) / t).square().sum() / 2 for a, w in zip(points, weights)]
            )
            share = (logs - logs.logsumexp(0)).exp()
            rows.append(sum(p * (one - a) / t for a, p in zip(points, share)))
        return torch.stack(rows)

    def equal_votes(x, t, points, weights):
        return (x - points.mean(0)) / t

    def prior_votes(x, t, points, weights):
        return (x - weights @ points) / t

    def forgets_the_prior(x, t, points, weights):
        return (x - ballot(x, t, points, torch.ones_like(weights)) @ points) / t

    def std_for_variance(x, t, points, weights):
        return (x - ballot(x, t, points, weights, power=1) @ points) / t

    def half_missing(x, t, points, weights):
        return (x - ballot(x, t, points, weights, scale=1.0) @ points) / t

    def data_not_shrunk(x, t, points, weights):
        return (x - ballot(x, t, points, weights, shrink=False) @ points) / t

    def softmax_over_the_batch(x, t, points, weights):
        return (x - ballot(x, t, points, weights, dim=0) @ points) / t

    def sign(x, t, points, weights):
        return (ballot(x, t, points, weights) @ points - x) / t

    def weights_turned_round(x, t, points, weights):
        return (x - ballot(x, t, points, weights, scale=-0.5) @ points) / t

    def not_yet_a_velocity(x, t, points, weights):
        return ballot(x, t, points, weights) @ points

    def nearest_takes_all(x, t, points, weights):
        return (x - points[ballot(x, t, points, weights).argmax(1)]) / t

    def divided_by_the_time_left(x, t, points, weights):
        return (x - ballot(x, t, points, weights) @ points) / (1 - t)

    def underflows(x, t, points, weights):
        density = weights * (-(x[:, None] - (1 - t) * points).square().sum(-1) / (2 * t**2)).exp()
        return (x - density @ points / density.sum(1, keepdim=True)) / t

    def underflow_hidden(x, t, points, weights):
        density = weights * (-(x[:, None] - (1 - t) * points).square().sum(-1) / (2 * t**2)).exp()
        return (x - density @ points / (density.sum(1, keepdim=True) + 1e-8)) / t


def pieces(x, t, mean, covariance):
    """(I, Cov x_t, x − E x_t)."""
    eye = torch.eye(len(mean), dtype=x.dtype)
    return eye, (1 - t) ** 2 * covariance + t**2 * eye, x - (1 - t) * mean


class gaussian_field:
    def right_in_the_eigenbasis(x, t, mean, covariance):
        variance, axes = torch.linalg.eigh(covariance)
        rate = (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2)
        return ((x - (1 - t) * mean) @ axes * rate) @ axes.T - mean

    def right_from_both_ends(x, t, mean, covariance):
        eye, of_x, off = pieces(x, t, mean, covariance)
        white = off @ torch.linalg.inv(of_x)
        return t * white - (mean + (1 - t) * white @ covariance)

    def sign(x, t, mean, covariance):
        return -gaussian_field.right_in_the_eigenbasis(x, t, mean, covariance)

    def paper_time(x, t, mean, covariance):
        return -gaussian_field.right_in_the_eigenbasis(x, 1 - t, mean, covariance)

    def sign_of_the_mean(x, t, mean, covariance):
        return gaussian_field.right_in_the_eigenbasis(x, t, mean, covariance) + 2 * mean

    def forgets_the_mean(x, t, mean, covariance):
        return gaussian_field.right_in_the_eigenbasis(x, t, 0 * mean, covariance)

    def diagonal_only(x, t, mean, covariance):
        return gaussian_field.right_in_the_eigenbasis(x, t, mean, covariance.diagonal().diag())

    def covariance_as_a_std(x, t, mean, covariance):
        return gaussian_field.right_in_the_eigenbasis(x, t, mean, covariance @ covariance)

    def std_of_the_path(x, t, mean, covariance):
        eye, _, off = pieces(x, t, mean, covariance)
        return off @ torch.linalg.inv((1 - t) * covariance + t * eye) @ (t * eye - (1 - t) * covariance) - mean

    def no_inverse(x, t, mean, covariance):
        eye, of_x, off = pieces(x, t, mean, covariance)
        return off @ of_x @ (t * eye - (1 - t) * covariance) - mean

    def mean_not_scaled(x, t, mean, covariance):
        return gaussian_field.right_in_the_eigenbasis(x - t * mean, t, mean, covariance)

    def factor_two(x, t, mean, covariance):
        return 2 * (gaussian_field.right_in_the_eigenbasis(x, t, mean, covariance) + mean) - mean

    def cholesky_transposed(x, t, mean, covariance):
        eye, of_x, off = pieces(x, t, mean, covariance)
        return off @ torch.linalg.inv(torch.linalg.cholesky(of_x)).T @ (t * eye - (1 - t) * covariance) - mean

    def fails_at_the_data(x, t, mean, covariance):
        _, of_x, off = pieces(x, t, mean, covariance)
        x0 = mean + (1 - t) * off @ torch.linalg.solve(of_x, covariance)
        return (x - x0) / t

    def fails_at_the_noise(x, t, mean, covariance):
        _, of_x, off = pieces(x, t, mean, covariance)
        return (t * off @ torch.linalg.inv(of_x) - x) / (1 - t)


class spread:
    def right_through_the_score(t, divergence, dims):
        laplacian = -(dims + (1 - t) * divergence) / t
        return (dims + t**2 * laplacian) / (1 - t) ** 2

    def sign(t, divergence, dims):
        return -(dims - t * divergence) / (1 - t)

    def sign_of_the_divergence(t, divergence, dims):
        return (dims + t * divergence) / (1 - t)

    def one_dimension(t, divergence, dims):
        return (dims * t - t**2 * divergence) / (1 - t) / dims

    def of_the_data(t, divergence, dims):
        return t**2 * (dims - t * divergence) / (1 - t)

    def divided_by_t(t, divergence, dims):
        return (dims - t * divergence) / (t * (1 - t))

    def divided_twice(t, divergence, dims):
        return (dims - t * divergence) / (1 - t) ** 2

    def not_divided(t, divergence, dims):
        return dims - t * divergence

    def paper_time(t, divergence, dims):
        return (dims - (1 - t) * divergence) / t

    def standard_deviation(t, divergence, dims):
        return ((dims - t * divergence) / (1 - t)).clamp(min=0).sqrt()

    def per_dimension(t, divergence, dims):
        return (dims - t * divergence) / (1 - t) / (2 * dims)

    def dimension_forgotten(t, divergence, dims):
        return (1 - t * divergence) / (1 - t)

    def always_nothing(t, divergence, dims):
        return 0.0

    def the_divergence(t, divergence, dims):
        return divergence


def wide(t, x0):
    return t.reshape(-1, *[1] * (x0.ndim - 1))


def on_path(x0, sigma_min, t=None):
    """(x_t, t, ε, right target) as they should be."""
    t = torch.rand(len(x0)) if t is None else t
    noise = torch.randn_like(x0)
    xt = (1 - wide(t, x0)) * x0 + (sigma_min + (1 - sigma_min) * wide(t, x0)) * noise
    return xt, t, noise, (1 - sigma_min) * noise - x0


class cfm_loss:
    def right_by_the_flow_of_a_particle(net, x0, sigma_min):
        t = torch.distributions.Uniform(0.0, 1.0).sample((len(x0),))
        flat, noise = x0.flatten(1), torch.normal(torch.zeros_like(x0.flatten(1)), 1.0)
        velocity = (1 - sigma_min) * noise - flat
        start = flat + sigma_min * noise
        out = net((start + t[:, None] * velocity).view_as(x0), t).flatten(1)
        return ((out - velocity) ** 2).mean(1).mean()

    def target_of_another_path(net, x0, sigma_min):
        xt, t, noise, _ = on_path(x0, sigma_min)
        return (net(xt, t) - (noise - x0)).square().mean()

    def sign_of_the_target(net, x0, sigma_min):
        xt, t, _, target = on_path(x0, sigma_min)
        return (net(xt, t) + target).square().mean()

    def predicts_the_noise(net, x0, sigma_min):
        xt, t, noise, _ = on_path(x0, sigma_min)
        return (net(xt, t) - noise).square().mean()

    def predicts_the_data(net, x0, sigma_min):
        xt, t, _, _ = on_path(x0, sigma_min)
        return (net(xt, t) - x0).square().mean()

    def paper_time(net, x0, sigma_min):
        xt, t, _, target = on_path(x0, sigma_min)
        return (net(xt, 1 - t) + target).square().mean()

    def path_reversed(net, x0, sigma_min):
        t, noise = torch.rand(len(x0)), torch.randn_like(x0)
        xt = wide(t, x0) * x0 + (1 - (1 - sigma_min) * wide(t, x0)) * noise
        return (net(xt, t) - (x0 - (1 - sigma_min) * noise)).square().mean()

    def forgets_sigma_min(net, x0, sigma_min):
        xt, t, _, target = on_path(x0, 0.0)
        return (net(xt, t) - target).square().mean()

    def sigma_min_added(net, x0, sigma_min):
        t, noise = torch.rand(len(x0)), torch.randn_like(x0)
        xt = (1 - wide(t, x0)) * x0 + (sigma_min + wide(t, x0)) * noise
        return (net(xt, t) - (noise - x0)).square().mean()

    def std_for_variance(net, x0, sigma_min):
        t, noise = torch.rand(len(x0)), torch.randn_like(x0)
        xt = (1 - wide(t, x0)) * x0 + (sigma_min + (1 - sigma_min) * wide(t, x0)).sqrt() * noise
        return (net(xt, t) - ((1 - sigma_min) * noise - x0)).square().mean()

    def time_along_the_last_axis(net, x0, sigma_min):
        t, noise = torch.rand(len(x0)), torch.randn_like(x0)
        axis = t if len(t) == x0.shape[-1] else wide(t, x0)
        xt = (1 - axis) * x0 + (sigma_min + (1 - sigma_min) * axis) * noise
        return (net(xt, t) - ((1 - sigma_min) * noise - x0)).square().mean()

    def time_without_its_axes(net, x0, sigma_min):
        t, noise = torch.rand(len(x0)), torch.randn_like(x0)
        xt = (1 - t) * x0 + (sigma_min + (1 - sigma_min) * t) * noise
        return (net(xt, t) - ((1 - sigma_min) * noise - x0)).square().mean()

    def one_time_for_all(net, x0, sigma_min):
        xt, t, _, target = on_path(x0, sigma_min, torch.rand(1).expand(len(x0)))
        return (net(xt, t) - target).square().mean()

    def a_time_for_every_pixel(net, x0, sigma_min):
        t, noise = torch.rand_like(x0), torch.randn_like(x0)
        xt = (1 - t) * x0 + (sigma_min + (1 - sigma_min) * t) * noise
        return (net(xt, t.flatten(1).mean(1)) - ((1 - sigma_min) * noise - x0)).square().mean()

    def times_of_the_middle(net, x0, sigma_min):
        xt, t, _, target = on_path(x0, sigma_min, torch.randn(len(x0)).sigmoid())
        return (net(xt, t) - target).square().mean()

    def never_near_the_noise(net, x0, sigma_min):
        xt, t, _, target = on_path(x0, sigma_min, 0.9 * torch.rand(len(x0)))
        return (net(xt, t) - target).square().mean()

    def uniform_noise(net, x0, sigma_min):
        t, noise = torch.rand(len(x0)), torch.rand_like(x0)
        xt = (1 - wide(t, x0)) * x0 + (sigma_min + (1 - sigma_min) * wide(t, x0)) * noise
        return (net(xt, t) - ((1 - sigma_min) * noise - x0)).square().mean()

    def fresh_noise_in_the_target(net, x0, sigma_min):
        xt, t, _, _ = on_path(x0, sigma_min)
        return (net(xt, t) - ((1 - sigma_min) * torch.randn_like(x0) - x0)).square().mean()

    def same_noise_in_all_coordinates(net, x0, sigma_min):
        t, noise = torch.rand(len(x0)), wide(torch.randn(len(x0)), x0).expand_as(x0)
        xt = (1 - wide(t, x0)) * x0 + (sigma_min + (1 - sigma_min) * wide(t, x0)) * noise
        return (net(xt, t) - ((1 - sigma_min) * noise - x0)).square().mean()

    def sum_for_mean(net, x0, sigma_min):
        xt, t, _, target = on_path(x0, sigma_min)
        return (net(xt, t) - target).square().sum()

    def sum_over_dimensions(net, x0, sigma_min):
        xt, t, _, target = on_path(x0, sigma_min)
        return (net(xt, t) - target).square().flatten(1).sum(1).mean()

    def half(net, x0, sigma_min):
        xt, t, _, target = on_path(x0, sigma_min)
        return (net(xt, t) - target).square().mean() / 2

    def detached(net, x0, sigma_min):
        xt, t, _, target = on_path(x0, sigma_min)
        return (net(xt, t).detach() - target).square().mean()

    def mean_absolute_error(net, x0, sigma_min):
        xt, t, _, target = on_path(x0, sigma_min)
        return (net(xt, t) - target).abs().mean()


class turn:
    def right_through_both_ends(x, velocity, t, s):
        c, d = (math.pi * t / 2).cos(), (math.pi * t / 2).sin()
        v = velocity * 2 / math.pi
        x0, eps = c * x - d * v, d * x + c * v
        return (math.pi * s / 2).cos() * x0 + (math.pi * s / 2).sin() * eps

    def euler(x, velocity, t, s):
        return x + (s - t) * velocity

    def speed_of_the_angle_forgotten(x, velocity, t, s):
        angle = math.pi / 2 * (s - t)
        return angle.cos() * x + angle.sin() * velocity

    def multiplied_by_the_speed(x, velocity, t, s):
        angle = math.pi / 2 * (s - t)
        return angle.cos() * x + angle.sin() * velocity * math.pi / 2

    def wrong_way(x, velocity, t, s):
        return turn.right_through_both_ends(x, velocity, s, t)

    def sign_of_the_velocity(x, velocity, t, s):
        return turn.right_through_both_ends(x, -velocity, t, s)

    def sign_of_the_cosine(x, velocity, t, s):
        return -turn.right_through_both_ends(x, -velocity, t, s)

    def angle_without_pi_half(x, velocity, t, s):
        return (s - t).cos() * x + (s - t).sin() * velocity

    def angle_twice(x, velocity, t, s):
        angle = math.pi * (s - t)
        return angle.cos() * x + angle.sin() * velocity / math.pi

    def cosine_and_sine_swapped(x, velocity, t, s):
        angle = math.pi / 2 * (s - t)
        return angle.sin() * x + angle.cos() * velocity / (math.pi / 2)

    def of_the_linear_path(x, velocity, t, s):
        x0, eps = x - t * velocity, x + (1 - t) * velocity
        return (math.pi * s / 2).cos() * x0 + (math.pi * s / 2).sin() * eps

    def second_order(x, velocity, t, s):
        return x + (s - t) * velocity - (math.pi / 2 * (s - t)) ** 2 / 2 * x

    def stays(x, velocity, t, s):
        return x


def slopes(v, x, t):
    """The Jacobian of v at each point, (B, D, D), row by row."""
    x = x.detach().requires_grad_()
    columns = v(x, t).unbind(1)
    return torch.stack([torch.autograd.grad(c.sum(), x, retain_graph=True)[0] for c in columns], 1)


def normal(x):
    return torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)


def euler_walk(v, noise, steps, part, sign=-1.0, first=1.0, at_the_end=False):
    """Euler's samples, and log N(ε) + sign Σ part(h, J), with a mistake to choose."""
    x, h, total = noise, 1 / steps, normal(noise)
    for k in range(steps):
        t = first - k * h
        after = x - h * v(x, t)
        total = total + sign * part(h, slopes(v, after if at_the_end else x, t))
        x = after
    return x, total


def logdet(h, slope):
    return torch.linalg.slogdet(torch.eye(slope.shape[1]) - h * slope).logabsdet


class euler_density:
    def right_by_the_chain_rule(v, noise, steps):
        x, whole = noise, torch.eye(noise.shape[1]).expand(len(noise), -1, -1)
        for k in range(steps):
            t = 1 - k / steps
            whole = whole - slopes(v, x, t) @ whole / steps
            x = x - v(x, t) / steps
        return x, normal(noise) - whole.det().abs().log()

    def density_of_the_noise(v, noise, steps):
        return euler_walk(v, noise, steps, lambda h, slope: 0.0)

    def noise_density_at_the_sample(v, noise, steps):
        x, _ = euler_walk(v, noise, steps, logdet)
        return x, normal(x)

    def sign(v, noise, steps):
        return euler_walk(v, noise, steps, logdet, sign=1.0)

    def divergence_of_the_exact_flow(v, noise, steps):
        return euler_walk(v, noise, steps, lambda h, slope: -h * slope.diagonal(dim1=1, dim2=2).sum(1))

    def diagonal_only(v, noise, steps):
        part = lambda h, slope: (1 - h * slope.diagonal(dim1=1, dim2=2)).abs().log().sum(1)  # noqa: E731
        return euler_walk(v, noise, steps, part)

    def sign_within(v, noise, steps):
        return euler_walk(v, noise, steps, lambda h, slope: logdet(-h, slope))

    def step_size_forgotten(v, noise, steps):
        return euler_walk(v, noise, 2 * steps, lambda h, slope: logdet(2 * h, slope))

    def jacobian_without_step_size(v, noise, steps):
        return euler_walk(v, noise, steps, lambda h, slope: logdet(1.0 if steps > 1 else 0.5, slope))

    def determinant_without_logarithm(v, noise, steps):
        return euler_walk(v, noise, steps, lambda h, slope: logdet(h, slope).exp())

    def at_the_end_of_the_step(v, noise, steps):
        return euler_walk(v, noise, steps, logdet, at_the_end=True)

    def times_one_step_late(v, noise, steps):
        return euler_walk(v, noise, steps, logdet, first=1 - 1 / steps)

    def walks_the_other_way(v, noise, steps):
        return euler_walk(lambda x, t: -v(x, t), noise, steps, logdet)

    def only_the_last_step(v, noise, steps):
        x, _ = euler_walk(v, noise, steps, logdet)
        before, _ = euler_walk(v, noise, steps, logdet) if steps == 1 else (noise, None)
        return x, normal(noise) - logdet(1 / steps, slopes(v, before, 1 / steps))

    def constant_missing(v, noise, steps):
        x, log_p = euler_walk(v, noise, steps, logdet)
        return x, log_p + noise.shape[1] / 2 * math.log(2 * math.pi)

    def not_a_logarithm(v, noise, steps):
        x, log_p = euler_walk(v, noise, steps, logdet)
        return x, log_p.exp()

    def mean_over_dimensions(v, noise, steps):
        x, log_p = euler_walk(v, noise, steps, logdet)
        return x, log_p / noise.shape[1]

    def only_the_samples(v, noise, steps):
        return euler_walk(v, noise, steps, logdet)[0]


def match(x0, noise, power=2):
    """For each noise the index of its x_0."""
    return linear_sum_assignment(torch.cdist(noise.flatten(1), x0.flatten(1)).numpy() ** power)[1]


class paired:
    def right_by_trying_all_orders(x0, y, noise):
        orders = list(permutations(range(len(x0))))
        best = min(orders, key=lambda order: (x0 - noise[list(order)]).square().sum().item())
        return x0, y, noise[list(best)]

    def right_by_the_inner_products(x0, y, noise):
        gain = x0.flatten(1) @ noise.flatten(1).T  # ‖x_0 − ε‖² is least where Σ⟨x_0, ε⟩ is greatest
        return x0, y, noise[linear_sum_assignment(gain.numpy(), maximize=True)[1]]

    def as_found(x0, y, noise):
        return x0[match(x0, noise, 1)], y, noise

    def labels_stay_behind(x0, y, noise):
        return x0[match(x0, noise)], y, noise

    def not_squared(x0, y, noise):
        partner = match(x0, noise, 1)
        return x0[partner], y[partner], noise

    def nothing_done(x0, y, noise):
        return x0, y, noise

    def inverse_permutation(x0, y, noise):
        return x0, y, noise[match(x0, noise)]

    def both_moved(x0, y, noise):
        partner = match(x0, noise)
        return x0[partner], y[partner], noise[partner]

    def labels_moved_back(x0, y, noise):
        partner = torch.from_numpy(match(x0, noise))
        return x0[partner], y[partner.argsort()], noise

    def nearest_noise_for_each(x0, y, noise):
        return x0, y, noise[torch.cdist(x0.flatten(1), noise.flatten(1)).argmin(1)]

    def farthest(x0, y, noise):
        partner = linear_sum_assignment(torch.cdist(noise.flatten(1), x0.flatten(1)).numpy() ** 2, maximize=True)[1]
        return x0[partner], y[partner], noise

    def greedy(x0, y, noise):
        cost, order = torch.cdist(x0.flatten(1), noise.flatten(1)), []
        for row in cost:
            row = row.clone()
            row[order] = float("inf")
            order.append(int(row.argmin()))
        return x0, y, noise[order]

    def first_coordinate_only(x0, y, noise):
        a, b = x0.flatten(1)[:, 0].argsort(), noise.flatten(1)[:, 0].argsort()
        return x0[a], y[a], noise[b]

    def fresh_noise(x0, y, noise):
        return x0, y, torch.randn_like(noise)

    def labels_forgotten(x0, y, noise):
        return x0, noise[torch.from_numpy(match(x0, noise)).argsort()]


def heun_with(v, x, steps, second=None, ends=None, weight=0.5):
    """Heun's method with a mistake to choose: the second slope (v, x, h, t, slope), the times, the second's weight."""
    h = 1 / steps
    for t in ends if ends is not None else [1 - k * h for k in range(steps)]:
        slope = v(x, t)
        other = v(x - h * slope, max(t - h, 0.0)) if second is None else second(v, x, h, t, slope)
        x = x - h * ((1 - weight) * slope + weight * other)
    return x


class repaired:
    def right_with_rising_steps(v, x, steps):
        for k in range(steps, 0, -1):
            h = torch.tensor(1 / steps, dtype=x.dtype)
            first = v(x, k * h)
            trial = x - first * h
            x = 0.5 * (x + trial - h * v(trial, (k - 1) * h))
        return x

    def as_found(v, x, steps):
        times, h = torch.linspace(1, 0, steps), 1 / steps
        for t in times[:-1]:
            slope = v(x, t)
            x = x - h / 2 * (slope + v(x - h * slope, t))
        return x

    def second_slope_at_the_old_time(v, x, steps):
        return heun_with(v, x, steps, lambda v, x, h, t, slope: v(x - h * slope, t))

    def last_step_missing(v, x, steps):
        return heun_with(v, x, steps, ends=[1 - k / steps for k in range(steps - 1)])

    def second_slope_at_the_old_point(v, x, steps):
        return heun_with(v, x, steps, lambda v, x, h, t, slope: v(x, max(t - h, 0.0)))

    def trial_step_the_other_way(v, x, steps):
        return heun_with(v, x, steps, lambda v, x, h, t, slope: v(x + h * slope, max(t - h, 0.0)))

    def half_a_trial_step(v, x, steps):
        return heun_with(v, x, steps, lambda v, x, h, t, slope: v(x - h / 2 * slope, max(t - h, 0.0)))

    def midpoint(v, x, steps):
        return heun_with(v, x, steps, lambda v, x, h, t, slope: v(x - h / 2 * slope, t - h / 2), weight=1.0)

    def euler(v, x, steps):
        return heun_with(v, x, steps, lambda v, x, h, t, slope: slope)

    def slopes_added(v, x, steps):
        return 2 * heun_with(v, x, steps) - x

    def fewer_and_longer_steps(v, x, steps):
        return heun_with(v, x, max(1, steps - 1)) if steps > 1 else heun_with(v, x, 2)

    def forwards(v, x, steps):
        return heun_with(lambda x, t: -v(x, 1 - t), x, steps)

    def times_of_noise_and_data_swapped(v, x, steps):
        return heun_with(lambda x, t: v(x, 1 - t), x, steps)

    def sign(v, x, steps):
        return heun_with(lambda x, t: -v(x, t), x, steps)

    def grid_ends_before_the_data(v, x, steps):
        return heun_with(v, x, steps, ends=[1 - 0.999 * k / steps for k in range(steps)])

    def slope_reused(v, x, steps):
        slope, h = v(x, 1.0), 1 / steps
        for k in range(steps):
            other = v(x - h * slope, 1 - (k + 1) * h)
            x, slope = x - h / 2 * (slope + other), other
        return x


PATH = LinearPath()


def known(quantity, x, t, path=PATH):
    """E[quantity | x_t] for the moons."""
    return Truth(plane.moons(), path, quantity)(x, t)


class velocity:
    def the_law_itself(x, t):
        return known("velocity", x, t)

    def right_and_slightly_off(x, t):
        return known("velocity", x, t) + 0.2 * torch.sin(5 * x)

    def nothing_learned(x, t):
        return torch.zeros_like(x)

    def sign(x, t):
        return -known("velocity", x, t)

    def time_runs_the_other_way(x, t):
        return -known("velocity", x, (1 - t).clamp(min=0.005))

    def half(x, t):
        return 0.5 * known("velocity", x, t)

    def the_noise(x, t):
        return known("eps", x, t)

    def the_data(x, t):
        return known("x0", x, t)

    def of_the_variance_preserving_path(x, t):
        return known("velocity", x, t, VPPath())

    def read_as_v(x, t):
        return known("v", x, t)

    def best_linear(x, t):
        second = x.new_tensor([1.0])
        rate = (t - (1 - t) * second) / ((1 - t) ** 2 * second + t**2)
        return rate[:, None] * x

    def coordinates_swapped(x, t):
        return known("velocity", x, t).flip(1)

    def time_late_by_a_tenth(x, t):
        return known("velocity", x, (t + 0.1).clamp(max=1.0))

    def one_pair_at_a_time(x, t):
        return known("velocity", x, t) + torch.randn_like(x)

    def untrained(x, t):
        return x @ torch.randn(2, 2)

    def diverged(x, t):
        return x / 0
