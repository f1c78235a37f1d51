"""Answers to the exercises of chapter 02: `right_…` are right by another road than the solution, all others wrong."""

from __future__ import annotations

import itertools
import math

import torch
from torch.nn.functional import logsigmoid, softplus


def log_normal(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)


class lopsided:
    def right_by_the_odds(x, share, data, model):
        real, fake = share * log_normal(x, *data).exp(), (1 - share) * log_normal(x, *model).exp()
        return torch.log(real / fake)

    def share_left_out(x, share, data, model):
        return log_normal(x, *data) - log_normal(x, *model)

    def sign(x, share, data, model):
        return -lopsided.right_by_the_odds(x, share, data, model)

    def share_turned_round(x, share, data, model):
        return log_normal(x, *data) - log_normal(x, *model) - math.log(share / (1 - share))

    def log_share_instead_of_log_odds(x, share, data, model):
        return log_normal(x, *data) - log_normal(x, *model) + math.log(share)

    def the_probability(x, share, data, model):
        return lopsided.right_by_the_odds(x, share, data, model).sigmoid()

    def variance_for_std(x, share, data, model):
        return lopsided.right_by_the_odds(x, share, (data[0], data[1] ** 2), (model[0], model[1] ** 2))

    def normalisers_forgotten(x, share, data, model):
        return lopsided.right_by_the_odds(x, share, data, model) + data[1].log() - model[1].log()

    def half_forgotten(x, share, data, model):
        return (
            (model[1] / data[1] * share / (1 - share)).log()
            - ((x - data[0]) / data[1]) ** 2
            + ((x - model[0]) / model[1]) ** 2
        )


def entropy(p):
    return -torch.xlogy(p, p).sum()


class worth:
    def right_by_entropies(p, q, share):
        prior = torch.tensor([share, 1 - share], dtype=p.dtype)  # what the atom tells about the label, less its entropy
        mixture = share * p + (1 - share) * q
        return entropy(mixture) - share * entropy(p) - (1 - share) * entropy(q) - entropy(prior)

    def right_through_the_probabilities(p, q, share):
        real, fake = share * p, (1 - share) * q
        seen = real + fake > 0
        d = real[seen] / (real + fake)[seen]
        return (torch.xlogy(real[seen], d) + torch.xlogy(fake[seen], 1 - d)).sum()

    def nan_at_empty_atoms(p, q, share):
        d = share * p / (share * p + (1 - share) * q)
        return (share * p * d.log() + (1 - share) * q * (1 - d).log()).sum()

    def the_even_discriminator(p, q, share):
        d = p / (p + q)
        return (torch.xlogy(share * p, d) + torch.xlogy((1 - share) * q, 1 - d)).sum()

    def the_papers_value(p, q, share):
        return 2 * worth.right_by_entropies(p, q, 0.5)

    def sign(p, q, share):
        return -worth.right_by_entropies(p, q, share)

    def entropy_of_the_label_forgotten(p, q, share):
        return entropy(share * p + (1 - share) * q) - share * entropy(p) - (1 - share) * entropy(q)

    def laws_swapped(p, q, share):
        return worth.right_by_entropies(q, p, share)

    def without_the_shares_in_front(p, q, share):
        return 2 * worth.right_by_entropies(p, q, share)

    def bits(p, q, share):
        return worth.right_by_entropies(p, q, share) / math.log(2)

    def padded(p, q, share):
        return worth.right_by_entropies(p + 1e-3, q + 1e-3, share)

    def mean_over_atoms(p, q, share):
        return worth.right_by_entropies(p, q, share) / len(p)


class losses:
    def right_by_log_sigmoid(generator, discriminator, x, z):
        with torch.no_grad():
            still = generator(z)
        loss_d = -logsigmoid(discriminator(x)).mean() - logsigmoid(-discriminator(still)).mean()
        return loss_d, -logsigmoid(discriminator(generator(z))).mean()

    def detach_forgotten(generator, discriminator, x, z):
        real, fake = discriminator(x), discriminator(generator(z))
        return softplus(-real).mean() + softplus(fake).mean(), softplus(-fake).mean()

    def detached_for_both(generator, discriminator, x, z):
        real, fake = discriminator(x), discriminator(generator(z).detach())
        return softplus(-real).mean() + softplus(fake).mean(), softplus(-fake).mean()

    def output_detached(generator, discriminator, x, z):
        fake = generator(z)
        loss_d = softplus(-discriminator(x)).mean() + softplus(discriminator(fake).detach()).mean()
        return loss_d, softplus(-discriminator(fake)).mean()

    def saturating(generator, discriminator, x, z):
        loss_d, _ = losses.right_by_log_sigmoid(generator, discriminator, x, z)
        return loss_d, -softplus(discriminator(generator(z))).mean()

    def log_of_a_probability(generator, discriminator, x, z):
        still = generator(z).detach()
        loss_d = -discriminator(x).sigmoid().log().mean() - (1 - discriminator(still).sigmoid()).log().mean()
        return loss_d, -discriminator(generator(z)).sigmoid().log().mean()

    def clipped_probability(generator, discriminator, x, z):
        still, p = generator(z).detach(), lambda v: discriminator(v).sigmoid().clamp(1e-7, 1 - 1e-7)
        return -p(x).log().mean() - (1 - p(still)).log().mean(), -p(generator(z)).log().mean()

    def labels_swapped(generator, discriminator, x, z):
        still = generator(z).detach()
        loss_d = softplus(discriminator(x)).mean() + softplus(-discriminator(still)).mean()
        return loss_d, softplus(-discriminator(generator(z))).mean()

    def value_instead_of_loss(generator, discriminator, x, z):
        loss_d, loss_g = losses.right_by_log_sigmoid(generator, discriminator, x, z)
        return -loss_d, loss_g

    def half(generator, discriminator, x, z):
        loss_d, loss_g = losses.right_by_log_sigmoid(generator, discriminator, x, z)
        return loss_d / 2, loss_g

    def sums(generator, discriminator, x, z):
        loss_d, loss_g = losses.right_by_log_sigmoid(generator, discriminator, x, z)
        return loss_d * len(x), loss_g * len(x)

    def wasserstein(generator, discriminator, x, z):
        still = generator(z).detach()
        return discriminator(still).mean() - discriminator(x).mean(), -discriminator(generator(z)).mean()

    def order(generator, discriminator, x, z):
        return losses.right_by_log_sigmoid(generator, discriminator, x, z)[::-1]


class reweighted:
    def right_by_hand(logits, values):
        weights = (logits - logits.max()).exp()
        return weights @ values / weights.sum()

    def probabilities(logits, values):
        return (logits.sigmoid() * values).sum() / logits.sigmoid().sum()

    def not_normalised(logits, values):
        return (logits.exp() * values).mean()

    def overflows(logits, values):
        return (logits.exp() * values).sum() / logits.exp().sum()

    def turned_round(logits, values):
        return (torch.softmax(-logits, 0) * values).sum()

    def odds_of_a_rounded_probability(logits, values):
        odds = logits.sigmoid() / (1 - logits.sigmoid())
        return (odds * values).sum() / odds.sum()

    def plain_mean(logits, values):
        return values.mean()

    def mean_of_the_weighted(logits, values):
        return (torch.softmax(logits, 0) * values).mean()

    def root_of_the_ratio(logits, values):
        return (torch.softmax(logits / 2, 0) * values).sum()

    def clipped(logits, values):
        return reweighted.right_by_hand(logits.clamp(-3, 3), values)

    def the_logits_themselves(logits, values):
        return (logits * values).sum() / logits.sum()


class transport:
    def right_by_quantiles(x, y):
        cuts = sorted({k / len(x) for k in range(len(x) + 1)} | {k / len(y) for k in range(len(y) + 1)})
        a, b = x.sort().values, y.sort().values
        total = torch.zeros(())
        for low, high in itertools.pairwise(cuts):
            middle = (low + high) / 2
            total = total + (high - low) * (a[int(middle * len(a))] - b[int(middle * len(b))]).abs()
        return total

    def sorted_and_cut(x, y):
        n = min(len(x), len(y))
        return (x.sort().values[:n] - y.sort().values[:n]).abs().mean()

    def not_sorted(x, y):
        n = math.lcm(len(x), len(y))
        return (x.repeat_interleave(n // len(x)) - y.repeat_interleave(n // len(y))).abs().mean()

    def difference_of_means(x, y):
        return (x.mean() - y.mean()).abs() + 0 * x.sum()

    def all_pairs(x, y):
        return (x[:, None] - y).abs().mean()

    def nearest(x, y):
        return (x[:, None] - y).abs().min(1).values.mean()

    def squared(x, y):
        n = math.lcm(len(x), len(y))
        a, b = (v.repeat_interleave(n // len(v)).sort().values for v in (x, y))
        return (a - b).square().mean()

    def w2(x, y):
        return transport.squared(x, y).sqrt()

    def signed(x, y):
        n = math.lcm(len(x), len(y))
        a, b = (v.repeat_interleave(n // len(v)).sort().values for v in (x, y))
        return (a - b).mean()

    def sum_for_mean(x, y):
        return transport.right_by_quantiles(x, y) * len(x)

    def counts_for_shares(x, y):
        ends = torch.cat([x, y]).sort().values
        count = lambda points: (points[:, None] <= ends[:-1]).double().sum(0)  # noqa: E731
        return ((count(x) - count(y)).abs() * ends.diff()).sum() / max(len(x), len(y))

    def shares_without_gaps(x, y):
        ends = torch.cat([x, y]).sort().values
        share = lambda points: (points[:, None] <= ends).double().mean(0)  # noqa: E731
        return (share(x) - share(y)).abs().sum()


def slopes(critic, points):
    points = points.detach().requires_grad_()
    return torch.autograd.grad(critic(points).sum(), points, create_graph=True)[0].flatten(1)


def mixed(real, fake, u):
    return torch.lerp(real, fake, u.reshape(-1, *[1] * (real.ndim - 1)))


class one_sided:
    def right_point_by_point(critic, real, fake, u):
        total = torch.zeros(())
        for a, b, w in zip(real, fake, u):
            slope = torch.func.grad(lambda v: critic(v[None])[0])(a + w * (b - a))
            total = total + torch.relu(slope.square().sum().sqrt() - 1) ** 2
        return total / len(real)

    def two_sides(critic, real, fake, u):
        return (slopes(critic, mixed(real, fake, u)).norm(dim=1) - 1).square().mean()

    def r1(critic, real, fake, u):
        return 0.5 * slopes(critic, real).square().sum(1).mean()

    def ends_swapped(critic, real, fake, u):
        return (slopes(critic, mixed(fake, real, u)).norm(dim=1) - 1).clamp(min=0).square().mean()

    def not_squared(critic, real, fake, u):
        return (slopes(critic, mixed(real, fake, u)).norm(dim=1) - 1).clamp(min=0).mean()

    def square_of_the_mean(critic, real, fake, u):
        return (slopes(critic, mixed(real, fake, u)).norm(dim=1).mean() - 1).clamp(min=0).square()

    def norm_over_the_batch(critic, real, fake, u):
        return (slopes(critic, mixed(real, fake, u)).norm() - 1).clamp(min=0).square()

    def gradient_of_the_mean(critic, real, fake, u):
        return (slopes(critic, mixed(real, fake, u)).norm(dim=1) / len(real) - 1).clamp(min=0).square().mean()

    def squared_norm_less_one(critic, real, fake, u):
        return (slopes(critic, mixed(real, fake, u)).square().sum(1) - 1).clamp(min=0).square().mean()

    def only_small_slopes(critic, real, fake, u):
        return (1 - slopes(critic, mixed(real, fake, u)).norm(dim=1)).clamp(min=0).square().mean()

    def one_u_for_all(critic, real, fake, u):
        return (slopes(critic, mixed(real, fake, u[:1].expand_as(u))).norm(dim=1) - 1).clamp(min=0).square().mean()

    def entry_by_entry(critic, real, fake, u):
        return (slopes(critic, mixed(real, fake, u)).abs() - 1).clamp(min=0).square().sum(1).mean()

    def sum_over_the_batch(critic, real, fake, u):
        return (slopes(critic, mixed(real, fake, u)).norm(dim=1) - 1).clamp(min=0).square().sum()


def biggest(gamma, h):
    """The larger modulus of the eigenvalues of a step."""
    flow = torch.tensor([[0.0, 0.5], [-0.5, -float(gamma)]], dtype=torch.float64)
    return torch.linalg.eigvals(torch.eye(2, dtype=torch.float64) + h * flow).abs().max()


class largest_step:
    def right_by_bisection(gamma):
        if gamma == 0:
            return 0.0
        low, high = 1e-9, 10.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if biggest(gamma, middle) < 1 else (low, middle)
        return low

    def complex_only(gamma):
        return 4 * gamma

    def real_only(gamma):
        return 2 / (gamma / 2 + math.sqrt(max(gamma**2 / 4 - 1 / 4, 0)))

    def factor_of_two(gamma):
        return 2 * gamma if gamma < 1 else 1 / (gamma / 2 + math.sqrt(gamma**2 / 4 - 1 / 4))

    def upside_down(gamma):
        return gamma / 4

    def the_slow_eigenvalue(gamma):
        return 4 * gamma if gamma <= 1 else 2 / (gamma / 2 - math.sqrt(gamma**2 / 4 - 1 / 4))

    def alternating(gamma):
        return 1 / gamma if gamma else 0.0

    def always_small_enough(gamma):
        return 1.0

    def no_overshoot_allowed(gamma):
        return 4 * gamma if gamma < 1 else 1 / (gamma / 2 + math.sqrt(gamma**2 / 4 - 1 / 4))

    def quarter_forgotten(gamma):
        return 4 * gamma if gamma < 1 else 2 / gamma

    def negative(gamma):
        return -4 * gamma


class parzen:
    def right_by_library(points, x, width):
        each = torch.distributions.Normal(points, width).log_prob(x[:, None]).sum(2)
        return torch.logsumexp(each, 1) - torch.tensor(float(len(points))).log()

    def as_found(points, x, width):
        squares = (x[:, None] - points).square().sum(2) / width**2
        return torch.logsumexp(-squares / 2, 1) - 0.5 * math.log(2 * math.pi) - math.log(width)

    def only_the_mean_mended(points, x, width):
        return parzen.as_found(points, x, width) - math.log(len(points))

    def only_the_dimensions_mended(points, x, width):
        return parzen.right_by_library(points, x, width) + math.log(len(points))

    def mean_of_logs(points, x, width):
        return torch.distributions.Normal(points, width).log_prob(x[:, None]).sum(2).mean(1)

    def variance_for_std(points, x, width):
        return parzen.right_by_library(points, x, width**0.5)

    def std_for_variance(points, x, width):
        squares = (x[:, None] - points).square().sum(2) / width
        return (
            torch.logsumexp(-squares / 2, 1)
            - math.log(len(points))
            - points.shape[1] * math.log(math.sqrt(2 * math.pi) * width)
        )

    def half_forgotten(points, x, width):
        squares = (x[:, None] - points).square().sum(2) / width**2
        return (
            torch.logsumexp(-squares, 1)
            - math.log(len(points))
            - points.shape[1] * math.log(math.sqrt(2 * math.pi) * width)
        )

    def logarithm_of_a_rounded_density(points, x, width):
        squares = (x[:, None] - points).square().sum(2) / width**2
        return ((-squares / 2).exp().mean(1) / (math.sqrt(2 * math.pi) * width) ** points.shape[1]).log()

    def nearest_point_only(points, x, width):
        each = torch.distributions.Normal(points, width).log_prob(x[:, None]).sum(2)
        return each.max(1).values - math.log(len(points))

    def sign(points, x, width):
        return -parzen.right_by_library(points, x, width)

    def mean_over_dimensions(points, x, width):
        each = torch.distributions.Normal(points, width).log_prob(x[:, None]).mean(2)
        return torch.logsumexp(each, 1) - math.log(len(points))

    def the_density(points, x, width):
        return parzen.right_by_library(points, x, width).exp()


def played(theta, psi, x, z, size, zero=True, detach=True, saturating=False, simultaneous=False, moves=None, sign=1.0):
    """A round with a mistake to choose."""
    start = theta
    theta, psi = theta.clone().requires_grad_(), psi.clone().requires_grad_()
    first = psi.detach().clone()
    move_d, move_g = torch.optim.SGD([psi], size), torch.optim.SGD([theta], size)
    for real, noise in list(zip(x, z))[:moves]:
        fake = noise + theta
        fake = fake.detach() if detach else fake
        loss_d = softplus(-psi[0] - psi[1] * real).mean() + softplus(psi[0] + psi[1] * fake).mean()
        if zero:
            move_d.zero_grad()
        loss_d.backward()
        move_d.step()
    line = first if simultaneous else psi
    logit = line[0] + line[1] * (z[-1] + theta)
    loss_g = -softplus(logit).mean() if saturating else softplus(-sign * logit).mean()
    loss_g.backward()
    move_g.step()
    return torch.stack([theta.detach() + 0 * start, *psi.detach()])


class fair_round:
    def right_by_pure_gradients(theta, psi, x, z, size):
        for real, noise in zip(x, z):
            line = psi.clone().requires_grad_()
            loss = (
                -logsigmoid(line[0] + line[1] * real).mean() - logsigmoid(-line[0] - line[1] * (noise + theta)).mean()
            )
            psi = psi - size * torch.autograd.grad(loss, line)[0]
        place = theta.clone().requires_grad_()
        loss = -logsigmoid(psi[0] + psi[1] * (z[-1] + place)).mean()
        return torch.stack([theta - size * torch.autograd.grad(loss, place)[0], *psi])

    def as_found(theta, psi, x, z, size):
        return played(theta, psi, x, z, size, zero=False, detach=False)

    def only_detached(theta, psi, x, z, size):
        return played(theta, psi, x, z, size, zero=False)

    def only_zeroed(theta, psi, x, z, size):
        return played(theta, psi, x, z, size, detach=False)

    def saturating(theta, psi, x, z, size):
        return played(theta, psi, x, z, size, saturating=True)

    def simultaneous(theta, psi, x, z, size):
        return played(theta, psi, x, z, size, simultaneous=True)

    def one_move_too_few(theta, psi, x, z, size):
        return played(theta, psi, x, z, size, moves=len(x) - 1)

    def one_move_only(theta, psi, x, z, size):
        return played(theta, psi, x, z, size, moves=1)

    def generator_flees(theta, psi, x, z, size):
        return played(theta, psi, x, z, size, sign=-1.0)

    def half_a_step(theta, psi, x, z, size):
        return played(theta, psi, x, z, size / 2)

    def same_noise_again(theta, psi, x, z, size):
        return played(theta, psi, x, torch.cat([z[:1].expand(len(x), -1), z[-1:]]), size)

    def last_noise_for_the_discriminator(theta, psi, x, z, size):
        return played(theta, psi, x, torch.cat([z[1:], z[:1]]), size)

    def nothing(theta, psi, x, z, size):
        return torch.stack([theta, *psi])

    def generator_after_each_move(theta, psi, x, z, size):
        for real, noise in zip(x, z):
            theta, *psi = played(theta, torch.stack(list(psi)), real[None], torch.stack([noise, noise]), size)
        return torch.stack([theta, *psi])


def exact(x, share=0.7, model=1.5, std=0.3):
    """The best logit at x (B, 1)."""
    x = x[:, 0].double()
    terms = [math.log(w) + log_normal(x, m, torch.tensor(std).double()) for w, m in ((share, -1.5), (1 - share, 1.5))]
    return torch.logaddexp(*terms) - log_normal(x, 0.0, torch.tensor(model).double())


class judge:
    def the_law_itself(x):
        return exact(x)

    def right_and_slightly_off(x):
        return exact(x) + 0.1 * torch.sin(5 * x[:, 0])

    def nothing_learned(x):
        return torch.zeros(len(x))

    def sign(x):
        return -exact(x)

    def the_probability(x):
        return exact(x).sigmoid()

    def half(x):
        return exact(x) / 2

    def both_modes_alike(x):
        return exact(x, share=0.5)

    def one_mode_only(x):
        return exact(x, share=0.999)

    def mirrored(x):
        return exact(-x)

    def variance_for_std(x):
        return exact(x, std=0.3**2)

    def generator_too_narrow(x):
        return exact(x, model=1.0)

    def log_density_of_the_data(x):
        return exact(x) + log_normal(x[:, 0].double(), 0.0, torch.tensor(1.5).double())

    def too_sure(x):
        return 3 * exact(x)

    def saturated(x):
        return 1e4 * exact(x)

    def wrong_shape(x):
        return exact(x)[:, None]

    def diverged(x):
        return exact(x) / 0
