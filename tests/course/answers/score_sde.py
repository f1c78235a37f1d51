"""Answers to the exercises of chapter 10: a second right one each, and wrong ones that people give."""

import math

import torch

from gmbook.core.denoiser import Truth
from gmbook.core.paths import VPPath
from gmbook.laws import plane


def signal(a, b, p, t, total=None):
    total = a * t + b * t ** (p + 1) / (p + 1) if total is None else total
    return torch.exp(-torch.as_tensor(total) / 2), (1 - torch.exp(-torch.as_tensor(total))) ** 0.5


class remains:
    def right_by_sums(a, b, p, t):
        middles = (torch.arange(200_000) + 0.5) * t / 200_000
        total = (a + b * middles**p).mean() * t
        return torch.exp(-total / 2), (1 - torch.exp(-total)).sqrt()

    def variances(a, b, p, t):
        alpha, sigma = signal(a, b, p, t)
        return alpha**2, sigma**2

    def drift_without_half(a, b, p, t):
        alpha, sigma = signal(a, b, p, t)
        return alpha**2, sigma

    def beta_not_integrated(a, b, p, t):
        return signal(a, b, p, t, (a + b * t**p) * t)

    def exponent_not_raised(a, b, p, t):
        return signal(a, b, p, t, a * t + b * t**p / p)

    def factor_forgotten(a, b, p, t):
        return signal(a, b, p, t, a * t + b * t ** (p + 1))

    def swapped(a, b, p, t):
        return signal(a, b, p, t)[::-1]

    def sub_vp(a, b, p, t):
        alpha, sigma = signal(a, b, p, t)
        return alpha, sigma**2

    def sum_to_one(a, b, p, t):
        alpha, sigma = signal(a, b, p, t)
        return alpha, 1 - alpha

    def standard_paper(a, b, p, t):
        return signal(a, b, 1.0, t)


class back:
    def right_by_the_flow_and_langevin(x, score, f, g, lam, h, z):
        flow = x - h * f * x + h * g**2 / 2 * score
        size = lam**2 * g**2 * h
        return flow + size / 2 * score + size**0.5 * z

    def forwards(x, score, f, g, lam, h, z):
        return x + h * (f * x - (1 + lam**2) / 2 * g**2 * score) + lam * g * h**0.5 * z

    def always_anderson(x, score, f, g, lam, h, z):
        return x - h * (f * x - g**2 * score) + lam * g * h**0.5 * z

    def noise_of_the_sde(x, score, f, g, lam, h, z):
        return x - h * (f * x - (1 + lam**2) / 2 * g**2 * score) + g * h**0.5 * z

    def lambda_not_squared(x, score, f, g, lam, h, z):
        return x - h * (f * x - (1 + lam) / 2 * g**2 * score) + lam * g * h**0.5 * z

    def noise_by_h(x, score, f, g, lam, h, z):
        return x - h * (f * x - (1 + lam**2) / 2 * g**2 * score) + lam * g * h * z

    def g_not_squared(x, score, f, g, lam, h, z):
        return x - h * (f * x - (1 + lam**2) / 2 * g * score) + lam * g * h**0.5 * z

    def score_pushes(x, score, f, g, lam, h, z):
        return x - h * (f * x + (1 + lam**2) / 2 * g**2 * score) + lam * g * h**0.5 * z

    def drift_of_the_way_out(x, score, f, g, lam, h, z):
        return x + h * (f * x + (1 + lam**2) / 2 * g**2 * score) + lam * g * h**0.5 * z

    def no_noise(x, score, f, g, lam, h, z):
        return x - h * (f * x - (1 + lam**2) / 2 * g**2 * score)

    def variance_for_std(x, score, f, g, lam, h, z):
        return x - h * (f * x - (1 + lam**2) / 2 * g**2 * score) + lam**2 * g**2 * h**0.5 * z

    def without_half(x, score, f, g, lam, h, z):
        return x - h * (f * x - (1 + lam**2) * g**2 * score) + lam * g * h**0.5 * z


class decoded:
    def right_by_quantiles(x, alpha, sigma, mean, std):
        here = torch.distributions.Normal(alpha * mean, math.hypot(alpha * std, sigma))
        return torch.distributions.Normal(mean, std).icdf(here.cdf(x))

    def conditional_mean(x, alpha, sigma, mean, std):
        return mean + alpha * std**2 / ((alpha * std) ** 2 + sigma**2) * (x - alpha * mean)

    def mean_forgotten(x, alpha, sigma, mean, std):
        return std * x / math.sqrt((alpha * std) ** 2 + sigma**2)

    def mean_not_added(x, alpha, sigma, mean, std):
        return std * (x - alpha * mean) / math.sqrt((alpha * std) ** 2 + sigma**2)

    def mean_not_scaled(x, alpha, sigma, mean, std):
        return mean + std * (x - mean) / math.sqrt((alpha * std) ** 2 + sigma**2)

    def point_mass(x, alpha, sigma, mean, std):
        return mean + std / sigma * (x - alpha * mean)

    def undone_scaling(x, alpha, sigma, mean, std):
        return x / alpha

    def variance_preserving(x, alpha, sigma, mean, std):
        return mean + std * (x - alpha * mean)

    def variance_ratio(x, alpha, sigma, mean, std):
        return mean + std**2 * (x - alpha * mean) / ((alpha * std) ** 2 + sigma**2)

    def alpha_not_squared(x, alpha, sigma, mean, std):
        return mean + std * (x - alpha * mean) / math.sqrt(alpha * std**2 + sigma**2)


class price:
    def right_by_logarithms(std, low, high, c):
        v0, v1 = std**2 + low**2, std**2 + high**2
        return torch.exp(c * v0.log() + (1 - c) * v1.log())

    def sign(std, low, high, c):
        v0, v1 = std**2 + low**2, std**2 + high**2
        return v0 * (v1 / v0) ** (c - 1)

    def ratio_alone(std, low, high, c):
        return ((std**2 + high**2) / (std**2 + low**2)) ** (1 - c)

    def standard_deviation(std, low, high, c):
        return price.right_by_logarithms(std, low, high, c).sqrt()

    def of_the_noise_only(std, low, high, c):
        return std**2 * (high / low) ** (2 * (1 - c))

    def times_the_data_only(std, low, high, c):
        return std**2 * ((std**2 + high**2) / (std**2 + low**2)) ** (1 - c)

    def half_the_exponent(std, low, high, c):
        v0, v1 = std**2 + low**2, std**2 + high**2
        return v0 * (v1 / v0) ** ((1 - c) / 2)

    def balance(std, low, high, c):
        return (std**2 + low**2) / c

    def nothing_happens(std, low, high, c):
        return std**2 + low**2

    def linear(std, low, high, c):
        v0, v1 = std**2 + low**2, std**2 + high**2
        return v0 * (1 + (1 - c) * (v1 / v0).log())

    def exponent_c(std, low, high, c):
        v0, v1 = std**2 + low**2, std**2 + high**2
        return v0 * (v1 / v0) ** c


def sizes(score, z):
    return z.norm(dim=1).mean() / score.norm(dim=1).mean()


class corrected:
    def right_by_the_noise(x, score, z, r):
        kick = 2 * r * sizes(score, z)  # √(2ε)
        return x + kick**2 / 2 * score + kick * z

    def a_root_too_few(x, score, z, r):
        size = 2 * (r * sizes(score, z)) ** 2
        return x + size * score + size**0.5 * z

    def papers_other_form(x, score, z, r):
        size = 2 * (r * sizes(score, z)) ** 2
        return x + size / 2 * score + size**0.5 * z

    def ratio_not_squared(x, score, z, r):
        size = 2 * r * sizes(score, z)
        return x + size * score + (2 * size) ** 0.5 * z

    def upside_down(x, score, z, r):
        size = 2 * (r / sizes(score, z)) ** 2
        return x + size * score + (2 * size) ** 0.5 * z

    def each_its_own(x, score, z, r):
        size = 2 * (r * z.norm(dim=1, keepdim=True) / score.norm(dim=1, keepdim=True)) ** 2
        return x + size * score + (2 * size) ** 0.5 * z

    def whole_batch(x, score, z, r):
        size = 2 * (r * z.norm() / score.norm()) ** 2
        return x + size * score + (2 * size) ** 0.5 * z

    def against_the_score(x, score, z, r):
        size = 2 * (r * sizes(score, z)) ** 2
        return x - size * score + (2 * size) ** 0.5 * z

    def without_two(x, score, z, r):
        size = (r * sizes(score, z)) ** 2
        return x + size * score + (2 * size) ** 0.5 * z

    def no_noise(x, score, z, r):
        return x + 2 * (r * sizes(score, z)) ** 2 * score

    def another_draw(x, score, z, r):
        size = 2 * (r * sizes(score, z)) ** 2
        return x + size * score + (2 * size) ** 0.5 * torch.randn_like(x)

    def squares_of_norms(x, score, z, r):
        size = 2 * r**2 * z.square().sum(1).mean() / score.norm(dim=1).mean() ** 2
        return x + size * score + (2 * size) ** 0.5 * z


def ride(field, x, ts, sign=1.0, order=2, probe=False):
    """The end and the integral of the divergence, with a mistake to choose."""

    def both(x, t):
        x = x.detach().requires_grad_()
        v = field(x, t)
        if probe:
            e = torch.randn_like(x)
            trace = (torch.autograd.grad((v * e).sum(), x)[0] * e).sum(1)
        else:
            trace = sum(torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
        return v.detach(), trace.detach()

    total = torch.zeros(len(x))
    for t, s in zip(ts[:-1], ts[1:]):
        h = sign * (s - t)
        if order == 1:
            v, d = both(x, t)
        else:
            v, _ = both(x, t)
            v, d = both(x + h / 2 * v, t + h / 2)
        x, total = x + h * v, total + h * d
    return x, total


class log_density:
    def right_by_midpoints(field, x, ts, log_prior):
        end, change = ride(field, x, ts)
        return log_prior(end) + change

    def divergence_subtracted(field, x, ts, log_prior):
        end, change = ride(field, x, ts)
        return log_prior(end) - change

    def no_divergence(field, x, ts, log_prior):
        return log_prior(ride(field, x, ts)[0])

    def prior_at_the_start(field, x, ts, log_prior):
        return log_prior(x) + ride(field, x, ts)[1]

    def change_alone(field, x, ts, log_prior):
        return ride(field, x, ts)[1]

    def other_direction(field, x, ts, log_prior):
        end, change = ride(field, x, ts, sign=-1.0)
        return log_prior(end) + change

    def all_entries_summed(field, x, ts, log_prior):
        def summed(x, t):
            return torch.autograd.grad(field(x, t).sum(), x)[0].sum(1)

        end, change = x, torch.zeros(len(x))
        for t, s in zip(ts[:-1], ts[1:]):
            middle = (end + (s - t) / 2 * field(end, t)).detach().requires_grad_()
            change = change + (s - t) * summed(middle, (t + s) / 2).detach()
            end = (end + (s - t) * field(middle, (t + s) / 2)).detach()
        return log_prior(end) + change

    def a_new_probe_each_step(field, x, ts, log_prior):
        end, change = ride(field, x, ts, probe=True)
        return log_prior(end) + change

    def half_of_the_steps(field, x, ts, log_prior):
        end, change = ride(field, x, ts[::2][:-1])
        return log_prior(end) + change

    def mean_over_the_batch(field, x, ts, log_prior):
        end, change = ride(field, x, ts)
        return log_prior(end) + change.mean()


class bits:
    def right_by_masses(log_p, dims, levels):
        mass = log_p / math.log(2) + dims * (1 - math.log2(levels))  # log₂ of density times width
        return -mass / dims

    def as_found(log_p, dims, levels):
        return -log_p / (dims * math.log(2)) + 8

    def seven(log_p, dims, levels):
        return -log_p / (dims * math.log(2)) + 7

    def unit_interval(log_p, dims, levels):
        return -log_p / (dims * math.log(2)) + math.log2(levels)

    def nats(log_p, dims, levels):
        return -log_p / dims + math.log(levels / 2)

    def offset_in_nats(log_p, dims, levels):
        return -log_p / (dims * math.log(2)) + math.log(levels / 2)

    def not_per_dimension(log_p, dims, levels):
        return -log_p / math.log(2) + dims * math.log2(levels / 2)

    def offset_once(log_p, dims, levels):
        return (-log_p / math.log(2) + math.log2(levels / 2)) / dims

    def sign(log_p, dims, levels):
        return log_p / (dims * math.log(2)) + math.log2(levels / 2)

    def gaps_between_levels(log_p, dims, levels):
        return -log_p / (dims * math.log(2)) + math.log2((levels - 1) / 2)

    def offset_subtracted(log_p, dims, levels):
        return -log_p / (dims * math.log(2)) - math.log2(levels / 2)


def sub_vp(score, x, ts, low, high, g2=None, pull=None, kick=None, at_end=False, drift=0.5, last=True):
    """The loop with a mistake to choose: the g² of pull and of kick, and where the score is asked."""
    for k, (t, s) in enumerate(zip(ts[:-1], ts[1:])):
        h, beta = t - s, low + (high - low) * t
        total = low * t + (high - low) * t**2 / 2
        right = beta * (1 - torch.exp(-2 * total))
        here = right if g2 is None else g2(beta, total)
        a, b = here if pull is None else pull(beta, total), here if kick is None else kick(beta, total)
        x = x + h * (drift * beta * x + a * score(x, s if at_end else t))
        if last or k < len(ts) - 2:
            x = x + (h * b).sqrt() * torch.randn_like(x)
    return x


class repaired:
    def right_from_the_path(score, x, ts, beta_min, beta_max):
        for t, s in zip(ts[:-1], ts[1:]):
            h, beta = t - s, beta_min + (beta_max - beta_min) * t
            kept = torch.exp(-(beta_min * t + (beta_max - beta_min) * t**2 / 2))
            sigma, slope = 1 - kept, beta * kept
            g2 = 2 * sigma * slope + beta * sigma**2
            x = torch.normal(x + h * (beta / 2 * x + g2 * score(x, t)), (h * g2).sqrt().expand_as(x))
        return x

    def as_found(score, x, ts, beta_min, beta_max):
        return sub_vp(score, x, ts, beta_min, beta_max, lambda beta, total: beta)

    def only_the_pull(score, x, ts, beta_min, beta_max):
        return sub_vp(score, x, ts, beta_min, beta_max, kick=lambda beta, total: beta)

    def only_the_noise(score, x, ts, beta_min, beta_max):
        return sub_vp(score, x, ts, beta_min, beta_max, pull=lambda beta, total: beta)

    def exponent_without_two(score, x, ts, beta_min, beta_max):
        return sub_vp(score, x, ts, beta_min, beta_max, lambda beta, total: beta * (1 - torch.exp(-total)))

    def variance_of_the_path(score, x, ts, beta_min, beta_max):
        return sub_vp(score, x, ts, beta_min, beta_max, lambda beta, total: beta * (1 - torch.exp(-total)) ** 2)

    def beta_not_integrated(score, x, ts, beta_min, beta_max):
        return sub_vp(score, x, ts, beta_min, beta_max, lambda beta, total: beta * (1 - torch.exp(-2 * beta)))

    def half_pull(score, x, ts, beta_min, beta_max):
        return sub_vp(score, x, ts, beta_min, beta_max, pull=lambda beta, total: beta / 2 * (1 - torch.exp(-2 * total)))

    def no_noise_at_the_last_step(score, x, ts, beta_min, beta_max):
        return sub_vp(score, x, ts, beta_min, beta_max, last=False)

    def score_at_the_end_of_the_step(score, x, ts, beta_min, beta_max):
        return sub_vp(score, x, ts, beta_min, beta_max, at_end=True)

    def forward_drift(score, x, ts, beta_min, beta_max):
        return sub_vp(score, x, ts, beta_min, beta_max, drift=-0.5)

    def variance_as_std(score, x, ts, beta_min, beta_max):
        return sub_vp(
            score, x, ts, beta_min, beta_max, kick=lambda beta, total: (beta * (1 - torch.exp(-2 * total))) ** 2
        )


def time_of(total, low, high):
    return (-low + torch.sqrt(low**2 + 2 * (high - low) * total)) / (high - low)


class important:
    def right_by_bisection(u, low, high, beta_min, beta_max):
        def ratio(t):
            return torch.log(torch.expm1(beta_min * t + (beta_max - beta_min) * t**2 / 2))

        least, most = ratio(torch.tensor(low)), ratio(torch.tensor(high))
        wanted, a, b = least + (most - least) * u, torch.full_like(u, low), torch.full_like(u, high)
        for _ in range(80):
            middle = (a + b) / 2
            below = ratio(middle) < wanted
            a, b = torch.where(below, middle, a), torch.where(below, b, middle)
        return (a + b) / 2

    def even(u, low, high, beta_min, beta_max):
        return low + (high - low) * u

    def log_even(u, low, high, beta_min, beta_max):
        return low * (high / low) ** u

    def even_in_b(u, low, high, beta_min, beta_max):
        ends = [beta_min * t + (beta_max - beta_min) * t**2 / 2 for t in (low, high)]
        return time_of(ends[0] + (ends[1] - ends[0]) * u, beta_min, beta_max)

    def ratio_even(u, low, high, beta_min, beta_max):
        ends = [math.sqrt(math.expm1(beta_min * t + (beta_max - beta_min) * t**2 / 2)) for t in (low, high)]
        return time_of(torch.log1p((ends[0] + (ends[1] - ends[0]) * u) ** 2), beta_min, beta_max)

    def sigma_log_even(u, low, high, beta_min, beta_max):
        ends = [math.log(-math.expm1(-(beta_min * t + (beta_max - beta_min) * t**2 / 2))) for t in (low, high)]
        share = torch.exp(ends[0] + (ends[1] - ends[0]) * u)
        return time_of(-torch.log1p(-share.clamp(max=1 - 1e-12)), beta_min, beta_max).clamp(low, high)

    def other_way(u, low, high, beta_min, beta_max):
        return important.right_by_bisection(1 - u, low, high, beta_min, beta_max)

    def integral_without_half(u, low, high, beta_min, beta_max):
        ends = [math.log(math.expm1(beta_min * t + (beta_max - beta_min) * t**2)) for t in (low, high)]
        total = torch.log1p(torch.exp(ends[0] + (ends[1] - ends[0]) * u))
        rise = 2 * (beta_max - beta_min)
        return (-beta_min + torch.sqrt(beta_min**2 + 2 * rise * total)) / rise

    def square_forgotten(u, low, high, beta_min, beta_max):
        ends = [math.log(math.expm1(beta_min * t + (beta_max - beta_min) * t**2 / 2)) for t in (low, high)]
        total = torch.log1p(torch.exp(ends[0] + (ends[1] - ends[0]) * u) ** 2)
        return time_of(total, beta_min, beta_max).clamp(low, high)

    def from_zero(u, low, high, beta_min, beta_max):
        return important.right_by_bisection(u, low / 10, high, beta_min, beta_max).clamp(min=low)


PATH = VPPath()


def known(quantity, x, t):
    """E[quantity | x_t] for the moons."""
    return Truth(plane.moons(), PATH, quantity)(x, t.double()).to(x)


class noise:
    def the_law_itself(x, t):
        return known("eps", x, t)

    def right_and_slightly_off(x, t):
        return known("eps", x, t) + 0.1 * PATH.alpha(t)[:, None] * torch.sin(5 * x)

    def off_where_noise_is_all(x, t):
        return known("eps", x, t) + 0.04 * torch.sin(2 * x)

    def nothing_learned(x, t):
        return torch.zeros_like(x)

    def all_noise(x, t):
        return x

    def the_velocity_of_the_circle(x, t):
        return known("v", x, t)

    def the_score(x, t):
        return known("score", x, t)

    def the_data(x, t):
        return known("x0", x, t)

    def sign(x, t):
        return -known("eps", x, t)

    def five_per_cent_too_small(x, t):
        return 0.95 * known("eps", x, t)

    def time_runs_the_other_way(x, t):
        return known("eps", x, 1.001 - t)

    def coordinates_swapped(x, t):
        return known("eps", x, t).flip(1)

    def diverged(x, t):
        return x / 0
