"""Answers to the exercises of chapter 13: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.integrate import quad
from scipy.optimize import linear_sum_assignment


class bend:
    def right_by_quadrature(m, s, r):
        def speed(t):
            return ((t * r**2 - (1 - t) * s**2) ** 2 / ((1 - t) ** 2 * s**2 + t**2 * r**2)).item()

        action = quad(speed, 0, 1, epsabs=1e-12)[0]
        return torch.tensor(action, dtype=s.dtype) - (r - s) ** 2

    def crossings(m, s, r):
        return r * s * math.pi / 2

    def the_whole_decrease(m, s, r):
        return 2 * r * s

    def unit_source(m, s, r):
        return s * (2 - math.pi / 2)

    def variances(m, s, r):
        return r**2 * s**2 * (2 - math.pi / 2)

    def pi_for_half_pi(m, s, r):
        return r * s * (math.pi - 2)

    def with_the_mean(m, s, r):
        return r * s * (2 - math.pi / 2) + m**2

    def action(m, s, r):
        return r**2 + s**2 - r * s * math.pi / 2

    def sign(m, s, r):
        return r * s * (math.pi / 2 - 2)


class partners:
    def right_by_assignment(x0, x1):
        rows, columns = linear_sum_assignment((x1[:, None] - x0[None]).square().numpy())
        return x0[torch.from_numpy(columns)]

    def right_by_counting(x0, x1):
        rank = (x1[None] < x1[:, None]).sum(1)
        return torch.stack([x0[(x0[None] < x0[:, None]).sum(1) == k][0] for k in rank])

    def sorted_only(x0, x1):
        return x0.sort().values

    def indices_for_ranks(x0, x1):
        return x0.sort().values[x1.argsort()]

    def turned_round(x0, x1):
        return x0.sort(descending=True).values[x1.argsort().argsort()]

    def as_they_came(x0, x1):
        return x0

    def nearest(x0, x1):
        return x0[(x1[:, None] - x0[None]).abs().argmin(1)]

    def the_source(x0, x1):
        return x1.sort().values[x0.argsort().argsort()]

    def the_mean(x0, x1):
        return x0.mean().expand_as(x1)

    def ranks_of_the_data(x0, x1):
        return x0[x1.argsort().argsort()]


class meeting:
    def right_by_a_root(a, b):
        line = np.polynomial.Polynomial([float(a[0] - b[0]), float((a[1] - b[1]) - (a[0] - b[0]))])
        (root,) = line.roots()
        return float(root) if 0 < root < 1 else None

    def other_time(a, b):
        d0, d1 = a[0] - b[0], a[1] - b[1]
        return d1 / (d1 - d0) if d0 * d1 < 0 else None

    def sign(a, b):
        d0, d1 = a[0] - b[0], a[1] - b[1]
        return d0 / (d1 - d0) if d0 * d1 < 0 else None

    def always(a, b):
        d0, d1 = a[0] - b[0], a[1] - b[1]
        return d0 / (d0 - d1)

    def never(a, b):
        return None

    def the_place(a, b):
        d0, d1 = a[0] - b[0], a[1] - b[1]
        t = d0 / (d0 - d1)
        return (1 - t) * a[0] + t * a[1] if d0 * d1 < 0 else None

    def half(a, b):
        return torch.tensor(0.5) if (a[0] - b[0]) * (a[1] - b[1]) < 0 else None

    def clipped(a, b):
        d0, d1 = a[0] - b[0], a[1] - b[1]
        return (d0 / (d0 - d1)).clamp(0, 1)

    def outside_only(a, b):
        d0, d1 = a[0] - b[0], a[1] - b[1]
        return d0 / (d0 - d1) if d0 * d1 > 0 else None


def kinds(x, t, w, m0, s0, m1, s1):
    """(posterior (B, K), means (K,), variances (K,))."""
    mean, variance = (1 - t) * m0 + t * m1, (1 - t) ** 2 * s0**2 + t**2 * s1**2
    log = w.log() - variance.log() / 2 - (x[:, None] - mean) ** 2 / (2 * variance)
    return log.softmax(1), mean, variance


class mean_velocity:
    def right_through_both_ends(x, t, w, m0, s0, m1, s1):
        share, mean, variance = kinds(x, t, w, m0, s0, m1, s1)
        left = x[:, None] - mean
        data = m0 + (1 - t) * s0**2 / variance * left
        return (share * (x[:, None] - data)).sum(1) / t

    def prior_weights(x, t, w, m0, s0, m1, s1):
        _, mean, variance = kinds(x, t, w, m0, s0, m1, s1)
        return (m1 - m0 + (t * s1**2 - (1 - t) * s0**2) / variance * (x[:, None] - mean)) @ w

    def means_only(x, t, w, m0, s0, m1, s1):
        return kinds(x, t, w, m0, s0, m1, s1)[0] @ (m1 - m0)

    def sign(x, t, w, m0, s0, m1, s1):
        share, mean, variance = kinds(x, t, w, m0, s0, m1, s1)
        return -(share * (m1 - m0 + (t * s1**2 - (1 - t) * s0**2) / variance * (x[:, None] - mean))).sum(1)

    def both_variances_added(x, t, w, m0, s0, m1, s1):
        share, mean, variance = kinds(x, t, w, m0, s0, m1, s1)
        return (share * (m1 - m0 + (t * s1**2 + (1 - t) * s0**2) / variance * (x[:, None] - mean))).sum(1)

    def time_reversed(x, t, w, m0, s0, m1, s1):
        share, mean, variance = kinds(x, 1 - t, w, m0, s0, m1, s1)
        return (share * (m1 - m0 + ((1 - t) * s1**2 - t * s0**2) / variance * (x[:, None] - mean))).sum(1)

    def width_left_out_of_the_posterior(x, t, w, m0, s0, m1, s1):
        _, mean, variance = kinds(x, t, w, m0, s0, m1, s1)
        share = (w.log() - (x[:, None] - mean) ** 2 / (2 * variance)).softmax(1)
        return (share * (m1 - m0 + (t * s1**2 - (1 - t) * s0**2) / variance * (x[:, None] - mean))).sum(1)

    def standard_deviations(x, t, w, m0, s0, m1, s1):
        share, mean, variance = kinds(x, t, w, m0, s0, m1, s1)
        return (share * (m1 - m0 + (t * s1 - (1 - t) * s0) / variance * (x[:, None] - mean))).sum(1)

    def independent_coupling(x, t, w, m0, s0, m1, s1):
        a = torch.stack([m.repeat_interleave(3) for m in (w, m0, s0)])
        b = torch.stack([m.repeat(3) for m in (w, m1, s1)])
        share, mean, variance = kinds(x, t, a[0] * b[0], a[1], a[2], b[1], b[2])
        slope = (t * b[2] ** 2 - (1 - t) * a[2] ** 2) / variance
        return (share * (b[1] - a[1] + slope * (x[:, None] - mean))).sum(1)

    def of_the_data(x, t, w, m0, s0, m1, s1):
        share, mean, variance = kinds(x, t, w, m0, s0, m1, s1)
        return (share * (m0 + (1 - t) * s0**2 / variance * (x[:, None] - mean))).sum(1)


class fall:
    def right_through_both_costs(s, r, rho):
        return r**2 + s**2 - 2 * rho * r * s - (r - s) ** 2

    def independent(s, r, rho):
        return 2 * r * s

    def before(s, r, rho):
        return r**2 + s**2 - 2 * rho * r * s

    def after(s, r, rho):
        return (r - s) ** 2

    def sign_of_rho(s, r, rho):
        return 2 * r * s * (1 + rho)

    def squared_rho(s, r, rho):
        return 2 * r * s * (1 - rho**2)

    def variances(s, r, rho):
        return 2 * r**2 * s**2 * (1 - rho)

    def half(s, r, rho):
        return r * s * (1 - rho)

    def negative(s, r, rho):
        return -2 * r * s * (1 - rho)

    def nothing(s, r, rho):
        return 0 * s


def product(s, steps, shift=0.0, count=None):
    """c of Euler's steps, at times shifted by so many steps."""
    c = torch.ones_like(s)
    for k in range(steps if count is None else count):
        t = 1 - (k + shift) / steps
        c = c * (1 - (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2) / steps)
    return c


class inherited:
    def right_by_walking_two_points(s, steps):
        x = torch.tensor([-0.5, 1.5], dtype=s.dtype)
        for t in torch.linspace(1, 0, steps + 1, dtype=s.dtype)[:-1]:
            data = (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2) * x  # E[x_0 | x_t]
            noise = t / ((1 - t) ** 2 * s**2 + t**2) * x
            x = x - (noise - data) / steps
        return ((x[1] - x[0]) / 2 - s).abs()

    def the_width(s, steps):
        return product(s, steps)

    def signed(s, steps):
        return product(s, steps) - s

    def squared(s, steps):
        return (product(s, steps) - s) ** 2

    def variances(s, steps):
        return (product(s, steps) ** 2 - s**2).abs()

    def half_a_step_on(s, steps):
        return (product(s, steps, 0.5) - s).abs()

    def one_step_less(s, steps):
        return (product(s, steps, count=steps - 1) - s).abs()

    def exact_pairs(s, steps):
        return 0 * s

    def from_the_noise(s, steps):
        return (product(s, steps) - 1).abs()

    def relative(s, steps):
        return (product(s, steps) / s - 1).abs()

    def order_one_guess(s, steps):
        return (1 - s).abs() / steps


def wide(t, x):
    return t.reshape(-1, *[1] * (x.ndim - 1))


def starts(z0, k):
    """t in {1, …, 1/k}, and x_t."""
    return 1 - torch.randint(k, (len(z0),)).to(z0.dtype) / k


class chord_loss:
    def right_by_the_end_of_the_path(net, z0, x1, k):
        t = torch.randint(1, k + 1, (len(z0),)).to(z0.dtype) / k
        xt = torch.lerp(z0, x1, wide(t, z0))
        return (x1 - net(xt, t) - z0).pow(2).flatten(1).mean(1).mean()

    def uniform_times(net, z0, x1, k):
        t = torch.rand(len(z0), dtype=z0.dtype)
        return (net(torch.lerp(z0, x1, wide(t, z0)), t) - (x1 - z0)).square().mean()

    def ends_for_starts(net, z0, x1, k):
        t = torch.randint(k, (len(z0),)).to(z0.dtype) / k
        return (net(torch.lerp(z0, x1, wide(t, z0)), t) - (x1 - z0)).square().mean()

    def both_ends(net, z0, x1, k):
        t = torch.randint(k + 1, (len(z0),)).to(z0.dtype) / k
        return (net(torch.lerp(z0, x1, wide(t, z0)), t) - (x1 - z0)).square().mean()

    def sign(net, z0, x1, k):
        t = starts(z0, k)
        return (net(torch.lerp(z0, x1, wide(t, z0)), t) - (z0 - x1)).square().mean()

    def ends_exchanged(net, z0, x1, k):
        t = starts(z0, k)
        return (net(torch.lerp(x1, z0, wide(t, z0)), t) - (x1 - z0)).square().mean()

    def predicts_the_data(net, z0, x1, k):
        t = starts(z0, k)
        return (net(torch.lerp(z0, x1, wide(t, z0)), t) - z0).square().mean()

    def chord_of_one_step(net, z0, x1, k):
        t = starts(z0, k)
        return (net(torch.lerp(z0, x1, wide(t, z0)), t) - (x1 - z0) / k).square().mean()

    def fresh_noise(net, z0, x1, k):
        x1, t = torch.randn_like(x1), starts(z0, k)
        return (net(torch.lerp(z0, x1, wide(t, z0)), t) - (x1 - z0)).square().mean()

    def one_time_for_all(net, z0, x1, k):
        t = starts(z0[:1], k).expand(len(z0))
        return (net(torch.lerp(z0, x1, wide(t, z0)), t) - (x1 - z0)).square().mean()

    def summed(net, z0, x1, k):
        t = starts(z0, k)
        return (net(torch.lerp(z0, x1, wide(t, z0)), t) - (x1 - z0)).square().sum(-1).mean()

    def without_a_gradient(net, z0, x1, k):
        t = starts(z0, k)
        return (net(torch.lerp(z0, x1, wide(t, z0)), t) - (x1 - z0)).square().mean().detach()

    def noise_only(net, z0, x1, k):
        t = starts(z0, k)
        return (net(x1, t) - (x1 - z0)).square().mean()


class turned:
    def right_by_complex_numbers(angle):
        w = complex(math.cos(angle), math.sin(angle))
        return 2 * abs(1 - w) ** 2, abs(1 + w) / 2

    def one_coordinate(angle):
        return 2 * (1 - angle.cos()), (angle / 2).cos()

    def variance(angle):
        return 4 * (1 - angle.cos()), (angle / 2).cos() ** 2

    def whole_angle(angle):
        return 4 * (1 - angle.cos()), angle.cos().abs()

    def sine(angle):
        return 4 * (1 - angle.cos()), (angle / 2).sin().abs()

    def arc_for_chord(angle):
        return 2 * angle**2, (angle / 2).cos()

    def always_one(angle):
        return 4 * (1 - angle.cos()), torch.ones_like(angle)

    def cost_of_the_quarter_turn(angle):
        return torch.full_like(angle, 4.0), (angle / 2).cos()

    def signs(angle):
        return 4 * (1 + angle.cos()), (angle / 2).cos()

    def both_coordinates(angle):
        return 4 * (1 - angle.cos()), 2**0.5 * (angle / 2).cos()


def heun_walk(v, x, steps):
    h = 1 / steps
    for k in range(steps):
        t = 1 - k * h
        slope = v(x, t)
        x = x - h / 2 * (slope + v(x - h * slope, t - h))
    return x


class repaired:
    def right_from_a_list(v, source, n, steps):
        states, times = [source(n)], torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        for t, s in zip(times[:-1], times[1:]):
            slope = v(states[-1], t)
            ahead = states[-1] + (s - t) * slope
            states.append(states[-1] + (s - t) * (slope + v(ahead, s)) / 2)
        return states[-1], states[0]

    def as_found(v, source, n, steps):
        x1 = source(n)
        x, h = x1, 1 / steps
        for k in range(steps):
            t = 1 - k * h
            slope = v(x, t)
            x -= h / 2 * (slope + v(x - h * slope, t - h))
        return x, x1

    def fresh_partner(v, source, n, steps):
        return heun_walk(v, source(n), steps), source(n)

    def exchanged(v, source, n, steps):
        x1 = source(n)
        return x1, heun_walk(v, x1, steps)

    def shuffled(v, source, n, steps):
        x1 = source(n)
        return heun_walk(v, x1, steps), x1.flip(0)

    def euler(v, source, n, steps):
        x = x1 = source(n)
        for k in range(steps):
            x = x - v(x, 1 - k / steps) / steps
        return x, x1

    def wrong_way(v, source, n, steps):
        x, h = source(n), 1 / steps
        x1 = x
        for k in range(steps):
            t = 1 - k * h
            slope = v(x, t)
            x = x + h / 2 * (slope + v(x + h * slope, t - h))
        return x, x1

    def from_the_data(v, source, n, steps):
        x, h = source(n), 1 / steps
        x1 = x
        for k in range(steps):
            slope = v(x, k * h)
            x = x - h / 2 * (slope + v(x - h * slope, (k + 1) * h))
        return x, x1

    def a_step_too_few(v, source, n, steps):
        x1 = source(n)
        return heun_walk(lambda x, t: v(x, t) * (steps - 1) / steps, x1, steps), x1

    def own_noise(v, source, n, steps):
        x1 = torch.randn(n, 2, dtype=torch.float64)
        return heun_walk(v, x1, steps), x1


HEIGHTS = np.linspace(-1.5, 6.0, 8001)


def levels():
    phi = torch.special.ndtr((torch.from_numpy(HEIGHTS)[:, None] - torch.tensor([1.0, 3.5]).double()) / 0.5)
    return torch.special.ndtri(phi @ torch.tensor([0.3, 0.7]).double()).clamp(-8, 8).numpy()


def lines(x, t):
    """z_1 of the exact straight line through (x, t), and its z_0: (B,), (B,); by bisection."""
    z, x, t = levels(), x[:, 0].double().numpy(), t.double().numpy()
    low, high = np.full_like(x, -6.0), np.full_like(x, 6.0)
    for _ in range(45):
        middle = (low + high) / 2
        above = (1 - t) * np.interp(middle, z, HEIGHTS) + t * middle > x
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return torch.from_numpy(low), torch.from_numpy(np.interp(low, z, HEIGHTS))


def exact(x, t):
    z1, z0 = lines(x, t)
    return (z1 - z0)[:, None].to(x)


def first_flow(x, t):
    """The exact 1-RF."""
    a, s = (1 - t[:, None]).double(), t[:, None].double()
    means, x64 = torch.tensor([1.0, 3.5]).double(), x.double()
    variance = (a * 0.5) ** 2 + s**2
    share = (torch.tensor([0.3, 0.7]).double().log() - (x64 - a * means) ** 2 / (2 * variance)).softmax(1)
    return (share * ((s - a * 0.25) / variance * (x64 - a * means) - means)).sum(1, keepdim=True).to(x)


class straight:
    def right_and_slightly_off(x, t):
        return exact(x, t) + 0.1 * torch.sin(5 * x)

    def the_map_itself(x, t):
        return exact(x, t)

    def not_reflowed(x, t):
        return first_flow(x, t)

    def sign(x, t):
        return -exact(x, t)

    def time_runs_the_other_way(x, t):
        return exact(x, 1 - t)

    def nothing_learned(x, t):
        return torch.zeros_like(x)

    def the_data(x, t):
        return lines(x, t)[1][:, None].to(x)

    def the_noise(x, t):
        return lines(x, t)[0][:, None].to(x)

    def half(x, t):
        return 0.5 * exact(x, t)

    def best_gaussian(x, t):
        mean, std = 2.75, 1.25
        c = (1 - t[:, None]) * std + t[:, None]
        return (1 - std) / c * (x - (1 - t[:, None]) * mean) - mean

    def noisy(x, t):
        return exact(x, t) + 0.5 * torch.randn_like(x)

    def always_at_the_source(x, t):
        return exact(x, torch.ones_like(t))

    def diverged(x, t):
        return x / 0
