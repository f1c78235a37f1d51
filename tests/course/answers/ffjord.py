"""Answers to the exercises of chapter 05: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import math

import torch

from gmbook.laws import plane


class data_law:
    def right_by_half_steps(a, b, m):
        rate = (a + (a + b)) / 2  # the mean of the rate at both ends
        scale = torch.exp(rate)
        return m * (1 - scale), scale

    def the_way_forward(a, b, m):
        return m - m * torch.exp(-(a + b / 2)), torch.exp(-(a + b / 2))

    def mean_is_m(a, b, m):
        return m, torch.exp(a + b / 2)

    def variance(a, b, m):
        return m - m * torch.exp(a + b / 2), torch.exp(2 * a + b)

    def rate_at_the_end(a, b, m):
        return m - m * torch.exp(a + b), torch.exp(a + b)

    def rate_at_the_start(a, b, m):
        return m - m * torch.exp(a), torch.exp(a)

    def first_order(a, b, m):
        return -m * (a + b / 2), 1 + a + b / 2

    def mean_of_the_wrong_sign(a, b, m):
        return m * torch.exp(a + b / 2) - m, torch.exp(a + b / 2)


class sine:
    def right_by_hyperbolic_functions(x, t):
        u = torch.atanh(x.cos()) - t  # cos z = tanh of something that falls at the rate 1
        z = torch.acos(torch.tanh(u))
        return z, -torch.log(torch.cosh(u)) - torch.log(x.sin())

    def without_the_half(x, t):
        z = torch.atan(torch.exp(t) * torch.tan(x)) % math.pi
        return z, torch.log(z.sin() / x.sin())

    def backwards(x, t):
        z = 2 * torch.atan(torch.exp(-t) * torch.tan(x / 2))
        return z, torch.log(z.sin() / x.sin())

    def slope_for_its_logarithm(x, t):
        z, log_det = sine.right_by_hyperbolic_functions(x, t)
        return z, log_det.exp()

    def sign_of_the_log_determinant(x, t):
        z, log_det = sine.right_by_hyperbolic_functions(x, t)
        return z, -log_det

    def trace_at_the_start(x, t):
        z, _ = sine.right_by_hyperbolic_functions(x, t)
        return z, x.cos() * t

    def time_one(x, t):
        return sine.right_by_hyperbolic_functions(x, torch.ones_like(t))

    def one_euler_step(x, t):
        return x + t * x.sin(), torch.log((1 + t * x.cos()).abs())


def on_the_sphere(A, factor, trace_part):
    """The variance, with a mistake to choose."""
    symmetric = (A + A.T) / 2
    return factor(len(A)) * (symmetric.square().sum() - trace_part(len(A)) * A.trace() ** 2)


class sphere:
    def right_by_eigenvalues(A):
        values, dims = torch.linalg.eigvalsh((A + A.T) / 2), len(A)
        return 2 * dims**2 / (dims + 2) * values.var(unbiased=False)

    def of_normal_probes(A):
        return on_the_sphere(A, lambda d: 2.0, lambda d: 0.0)

    def of_signs(A):
        symmetric = (A + A.T) / 2
        return 2 * (symmetric.square().sum() - A.diagonal().square().sum())

    def whole_matrix(A):
        dims = len(A)
        return 2 * dims / (dims + 2) * (A.square().sum() - A.trace() ** 2 / dims)

    def mean_not_taken_off(A):
        return on_the_sphere(A, lambda d: 2 * d / (d + 2), lambda d: 1 / d) + A.trace() ** 2

    def unit_sphere(A):
        return on_the_sphere(A, lambda d: 2 / (d * (d + 2)), lambda d: 1 / d)

    def factor_of_normal_probes(A):
        return on_the_sphere(A, lambda d: 2.0, lambda d: 1 / d)

    def trace_not_divided(A):
        return on_the_sphere(A, lambda d: 2 * d / (d + 2), lambda d: 1.0)

    def standard_deviation(A):
        return sphere.right_by_eigenvalues(A).sqrt()


def heun(
    f, log_base, x, epsilon, steps, trace=lambda first, second: (first + second) / 2, sign=1, at=None, fresh=False
):
    """The estimate, with a mistake to choose."""

    def both(z, t):
        z = z.detach().requires_grad_()
        velocity = f(z, t)
        probe = torch.randn_like(epsilon) if fresh else epsilon
        return velocity.detach(), (torch.autograd.grad(velocity, z, probe)[0] * probe).sum(1)

    z, total, h = x, torch.zeros(len(x)), 1 / steps
    for k in range(steps):
        slope, rate = both(z, k * h)
        slope_2, rate_2 = both(z + h * slope, (k + 1) * h)
        z, total = z + h / 2 * (slope + slope_2), total + h * trace(rate, rate_2)
    return log_base(z if at is None else at) + sign * total


class log_density:
    def right_as_one_state(f, log_base, x, epsilon, steps):
        def rates(state, t):
            z = state[:, :-1].detach().requires_grad_()
            velocity = f(z, torch.tensor(t))
            (pull,) = torch.autograd.grad((velocity * epsilon).sum(), z)
            return torch.cat([velocity.detach(), (pull * epsilon).sum(1, keepdim=True)], 1)

        state = torch.cat([x, torch.zeros(len(x), 1)], 1)
        for k in range(steps):
            first = rates(state, k / steps)
            second = rates(state + first / steps, (k + 1) / steps)
            state = state + (first + second) / (2 * steps)
        return log_base(state[:, :-1]) + state[:, -1]

    def the_papers_sign(f, log_base, x, epsilon, steps):
        return heun(f, log_base, x, epsilon, steps, sign=-1)

    def trace_at_the_first_end(f, log_base, x, epsilon, steps):
        return heun(f, log_base, x, epsilon, steps, trace=lambda first, second: first)

    def trace_at_the_second_end(f, log_base, x, epsilon, steps):
        return heun(f, log_base, x, epsilon, steps, trace=lambda first, second: second)

    def traces_added_up(f, log_base, x, epsilon, steps):
        return heun(f, log_base, x, epsilon, steps, trace=lambda first, second: first + second)

    def base_at_the_datum(f, log_base, x, epsilon, steps):
        return heun(f, log_base, x, epsilon, steps, at=x)

    def base_alone(f, log_base, x, epsilon, steps):
        return heun(f, log_base, x, epsilon, steps, sign=0)

    def no_base(f, log_base, x, epsilon, steps):
        return heun(f, lambda z: torch.zeros(len(z)), x, epsilon, steps)

    def a_fresh_probe_each_time(f, log_base, x, epsilon, steps):
        return heun(f, log_base, x, epsilon, steps, fresh=True)

    def standard_normal_base(f, log_base, x, epsilon, steps):
        return heun(f, lambda z: -z.square().sum(1) / 2, x, epsilon, steps)

    def euler(f, log_base, x, epsilon, steps):
        z, total = x, torch.zeros(len(x))
        for k in range(steps):
            z = z.detach().requires_grad_()
            velocity = f(z, k / steps)
            total = total + (torch.autograd.grad(velocity, z, epsilon)[0] * epsilon).sum(1) / steps
            z = (z + velocity / steps).detach()
        return log_base(z) + total

    def from_one_to_zero(f, log_base, x, epsilon, steps):
        return heun(lambda z, t: -f(z, 1 - t), log_base, x, epsilon, steps)

    def mean_over_dimensions(f, log_base, x, epsilon, steps):
        return heun(f, log_base, x, epsilon, steps, trace=lambda a, b: (a + b) / 2 / x.shape[1])


class sensitivity:
    def right_by_quadrature(theta, x):
        ts = (torch.arange(20_000) + 0.5) / 20_000
        end, z = x / (1 - theta * x), x / (1 - theta * x * ts)
        a = (end / z) ** 2 / end  # dz(1)/dz(t) = (z(1)/z(t))²
        return end / x**2, (a * z**2).mean()

    def adjoint_at_the_end(theta, x):
        return (1 - theta * x) / x, x / (1 - theta * x)

    def of_z_itself(theta, x):
        return 1 / (1 - theta * x) ** 2, x**2 / (1 - theta * x) ** 2

    def adjoint_held_at_the_end(theta, x):
        left = 1 - theta * x
        return 1 / (x * left), left / x * x**2 / left

    def adjoint_held_at_the_start(theta, x):
        return 1 / (x * (1 - theta * x)), x / (1 - theta * x) * x

    def sign_of_theta(theta, x):
        return 1 / (x * (1 + theta * x)), x / (1 + theta * x)

    def swapped(theta, x):
        return x / (1 - theta * x), 1 / (x * (1 - theta * x))

    def negative_slope(theta, x):
        return 1 / (x * (1 - theta * x)), -x / (1 - theta * x)

    def linear_field(theta, x):
        return 1 / x, torch.ones(())


class flattery:
    def right_by_eigenvalues(A, n):
        values = torch.linalg.eigvals(A)
        return (values - n * torch.log(1 + values / n)).sum().real

    def turned_round(A, n):
        return -flattery.right_by_eigenvalues(A, n)

    def one_step(A, n):
        return flattery.right_by_eigenvalues(A / n, 1)

    def first_term(A, n):
        return (A @ A).trace() / (2 * n)

    def frobenius(A, n):
        return A.square().sum() / (2 * n)

    def step_of_one(A, n):
        return flattery.right_by_eigenvalues(A, 1) if n > 1 else flattery.right_by_eigenvalues(A, 2)

    def the_determinant(A, n):
        return A.trace() - n * torch.linalg.det(torch.eye(len(A)) + A / n)

    def exact_flow(A, n):
        return A.trace() - torch.linalg.slogdet(torch.linalg.matrix_exp(A))[1]

    def log_determinant_alone(A, n):
        return n * torch.linalg.slogdet(torch.eye(len(A)) + A / n)[1]


class energies:
    def right_by_quadrature(s, r):
        nodes, weights = plane.legendre(50)
        sigma = s * (r / s) ** nodes
        return (r - s) * (r - s), ((sigma * (r / s).log()) ** 2 * weights).sum()

    def difference_of_variances(s, r):
        return (s**2 - r**2).abs(), torch.log(s / r) * (s**2 - r**2) / 2

    def distances(s, r):
        return (s - r).abs(), torch.log(s / r) * (s**2 - r**2) / 2

    def both_least(s, r):
        return (s - r) ** 2, (s - r) ** 2

    def without_the_half(s, r):
        return (s - r) ** 2, torch.log(s / r) * (s**2 - r**2)

    def held_at_the_start(s, r):
        return (s - r) ** 2, torch.log(s / r) ** 2 * s**2

    def held_at_the_end(s, r):
        return (s - r) ** 2, torch.log(s / r) ** 2 * r**2

    def swapped(s, r):
        return torch.log(s / r) * (s**2 - r**2) / 2, (s - r) ** 2

    def negative_rate(s, r):
        return (s - r) ** 2, torch.log(r / s) * (s**2 - r**2) / 2


def hutchinson(f, x, draw):
    """The estimate, with probes of one's choice."""
    x = x.detach().requires_grad_()
    epsilon = draw(x)
    return (torch.autograd.grad(f(x), x, epsilon)[0] * epsilon).sum(1)


class trace:
    def right_with_normal_probes(f, x):
        return hutchinson(f, x, torch.randn_like)

    def right_on_the_sphere(f, x):
        return hutchinson(f, x, lambda x: x.shape[1] ** 0.5 * torch.nn.functional.normalize(torch.randn_like(x), dim=1))

    def as_found(f, x):
        return hutchinson(f, x, lambda x: (torch.rand_like(x[:1]) - 0.5).expand_as(x))

    def variance_of_a_twelfth(f, x):
        return hutchinson(f, x, lambda x: torch.rand_like(x) - 0.5)

    def variance_of_a_third(f, x):
        return hutchinson(f, x, lambda x: 2 * torch.rand_like(x) - 1)

    def one_probe_for_all_rows(f, x):
        return hutchinson(f, x, lambda x: torch.randn_like(x[:1]).expand_as(x))

    def one_number_for_all_coordinates(f, x):
        return hutchinson(f, x, lambda x: torch.randn_like(x[:, :1]).expand_as(x))

    def unit_vectors(f, x):
        return hutchinson(f, x, lambda x: torch.nn.functional.normalize(torch.randn_like(x), dim=1))

    def not_centred(f, x):
        return hutchinson(f, x, lambda x: torch.randint_like(x, 2))

    def mean_over_dimensions(f, x):
        return hutchinson(f, x, torch.randn_like) / x.shape[1]

    def probes_in_pairs_of_rows(f, x):
        return hutchinson(f, x, lambda x: torch.randn_like(x[::2]).repeat_interleave(2, 0))

    def summed_without_the_probe(f, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(f(x).sum(), x)[0].sum(1)

    def mean_over_the_batch(f, x):
        return hutchinson(f, x, torch.randn_like).mean().expand(len(x))


def way_back(f, divergence, z, steps, sign=1, first=1, base=None, constant=True, scale=1.0):
    """Samples and log-densities, with a mistake to choose."""
    log_p = -z.square().sum(1) / 2 - (z.shape[1] / 2 * math.log(2 * math.pi) if constant else 0.0)
    start = log_p
    for k in range(steps):
        t = 1 - k / steps if first == 1 else k / steps
        log_p = log_p + sign * scale * divergence(z, t) / steps
        z = z - f(z, t) / steps
    if base == "sample":
        log_p = log_p - start - z.square().sum(1) / 2 - z.shape[1] / 2 * math.log(2 * math.pi)
    return z, log_p


class repaired:
    def right_by_adding_up(f, divergence, z, steps):
        x, rates = z, []
        for t in torch.linspace(1, 0, steps + 1)[:-1]:
            rates.append(divergence(x, t))
            x = x - f(x, t) / steps
        normal = torch.distributions.Normal(0.0, 1.0)
        return x, normal.log_prob(z).sum(1) + torch.stack(rates).mean(0)

    def as_found(f, divergence, z, steps):
        return way_back(f, divergence, z, steps, sign=-1, first=0)

    def only_the_time(f, divergence, z, steps):
        return way_back(f, divergence, z, steps, sign=-1)

    def only_the_sign(f, divergence, z, steps):
        return way_back(f, divergence, z, steps, first=0)

    def forwards(f, divergence, z, steps):
        return way_back(lambda z, t: -f(z, 1 - t), lambda z, t: divergence(z, 1 - t), z, steps)

    def base_at_the_sample(f, divergence, z, steps):
        return way_back(f, divergence, z, steps, base="sample")

    def no_constant(f, divergence, z, steps):
        return way_back(f, divergence, z, steps, constant=False)

    def traces_without_their_step(f, divergence, z, steps):
        return way_back(f, divergence, z, steps, scale=steps if steps > 1 else 2.0)

    def no_trace(f, divergence, z, steps):
        return way_back(f, divergence, z, steps, scale=0.0)

    def trace_after_the_step(f, divergence, z, steps):
        log_p = -z.square().sum(1) / 2 - z.shape[1] / 2 * math.log(2 * math.pi)
        for k in range(steps):
            z = z - f(z, 1 - k / steps) / steps
            log_p = log_p + divergence(z, 1 - k / steps) / steps
        return z, log_p

    def times_one_step_early(f, divergence, z, steps):
        log_p = -z.square().sum(1) / 2 - z.shape[1] / 2 * math.log(2 * math.pi)
        for k in range(steps):
            t = 1 - (k + 1) / steps
            log_p, z = log_p + divergence(z, t) / steps, z - f(z, t) / steps
        return z, log_p


LAW = plane.moons()


class moons:
    def the_law_itself(x):
        return LAW.log_prob(x)

    def right_and_slightly_stretched(x):
        return LAW.log_prob(x / 1.03) - 2 * math.log(1.03)

    def sign_of_the_trace(x):
        return LAW.log_prob(x / 1.05) + 2 * math.log(1.05)

    def trace_forgotten(x):
        return LAW.log_prob(x / 1.05)

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

    def upside_down(x):
        return LAW.log_prob(x * torch.tensor([1.0, -1.0]))

    def probe_at_test_time(x):
        return LAW.log_prob(x) + 0.8 * torch.randn(len(x))

    def diverged(x):
        return LAW.log_prob(x) / 0
