"""Rectified flow against closed flows of Gaussians, quadrature, quantile maps, and couplings known in full."""

import copy
import math

import pytest
import torch
from specimen import Specimen, net

from gmbook import metrics
from gmbook.core.solvers import euler, heun, rk4
from gmbook.data.batches import Batches, LawBatches
from gmbook.laws import plane
from gmbook.networks.mlp import TimeMLP
from gmbook.papers.flow_matching import FlowMatching, optimal_transport
from gmbook.papers.rectified_flow import RectifiedFlow
from gmbook.papers.theory.flow_matching import gaussian_floor
from gmbook.papers.theory.rectified_flow import straightness, transport_cost
from gmbook.train import train

SPECIMEN = Specimen(lambda: RectifiedFlow(net(), (2,)))

MEASURES = {
    "straightness": lambda model, x: straightness(model, x, steps=2),
    "pairs": lambda model, x: model.pairs(4, steps=2)[0],
}

F64 = torch.float64
WEIGHTS, MEANS, STD = torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([-1.5, 1.0], dtype=F64), 0.5


def gaussian_net(mean, std):
    """E[noise − x_0 | x_t] for independent N(m, s²) and N(0, 1), per coordinate: finite at both ends."""

    def net(x, t, y=None):
        a, t = 1 - t.reshape(-1, 1), t.reshape(-1, 1)
        return (t - a * std**2) / (a**2 * std**2 + t**2) * (x - a * mean) - mean

    return net


def mixture_net(x, t, y=None):
    """The same for the mixture of N(m_k, ½²): (B, 1), (B,) -> (B, 1)."""
    a, t = 1 - t[:, None], t[:, None]
    variance = (a * STD) ** 2 + t**2
    share = (WEIGHTS.log() - (x - a * MEANS) ** 2 / (2 * variance)).softmax(1)
    return (share * ((t - a * STD**2) / variance * (x - a * MEANS) - MEANS)).sum(1, keepdim=True)


def line(count=201):
    """Nodes (N, 1) and weights (N,) for N(0, 1): the trapezoidal rule, exact to rounding for smooth functions."""
    z = torch.linspace(-8, 8, count, dtype=F64)
    return z[:, None], torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * 16 / (count - 1)


def distribution(x):
    return torch.special.ndtr((x - MEANS) / STD) @ WEIGHTS


ONE = RectifiedFlow(mixture_net, (1,))  # the exact 1-rectified flow
QUANTILES = (torch.arange(2000, dtype=F64) + 0.5) / 2000
NOISE = torch.special.ndtri(QUANTILES)[:, None]


# ----------------------------------------------------------------------------------------- one Gaussian, in full


@pytest.mark.fact("RF-R1")
@pytest.mark.equation("rf-straightness", "rf-gaussian-straightness")
@pytest.mark.parametrize(("mean", "std"), [(3.0, 1.0), (-1.0, 0.4), (0.0, 2.0)])
def test_straightness_of_a_gaussian(mean, std):
    """S(Z¹) = s(2 − π/2), and 2 − π/2 for s = 1: each path's share is z² times that."""
    flow, noise = RectifiedFlow(gaussian_net(mean, std), (1,)), torch.tensor([[-1.2], [0.3], [2.0]], dtype=F64)
    expected = noise[:, 0] ** 2 * std * (2 - math.pi / 2)
    torch.testing.assert_close(straightness(flow, noise, steps=200), expected, rtol=0, atol=1e-8)
    nodes, weights = plane.legendre(60)  # and ∫ ġ² − (s − 1)² by quadrature, g² = (1 − t)²s² + t²
    rate = (nodes - (1 - nodes) * std**2) ** 2 / ((1 - nodes) ** 2 * std**2 + nodes**2)
    assert (weights @ rate - (std - 1) ** 2).item() == pytest.approx(std * (2 - math.pi / 2), abs=1e-9)


@pytest.mark.fact("RF-R2")
@pytest.mark.equation("rf-decomposition")
def test_the_decrease_of_the_cost_is_s_plus_v_for_a_gaussian():
    """N(m, 1): V = π/2 is the floor of the loss, S + V = 2 = E|X_1 − X_0|² − E|Z_1 − Z_0|²."""
    flow, (noise, weights), (times, spans) = RectifiedFlow(gaussian_net(1.5, 1.0), (1,)), line(), plane.legendre(60)
    s, v = weights @ straightness(flow, noise, steps=200), spans @ gaussian_floor(1.0, flow.path, times)
    assert v.item() == pytest.approx(math.pi / 2, abs=1e-9)
    after = weights @ (flow.decode(noise, steps=200, solver=rk4) - noise).square()[:, 0]
    assert after.item() == pytest.approx(1.5**2, abs=1e-6)
    assert (1 + 1 + 1.5**2 - after).item() == pytest.approx((s + v).item(), abs=1e-6)
    assert s <= 1 + 1 + 1.5**2  # min_{k ≤ K} S(Z^k) ≤ E‖X_1 − X_0‖²/K at K = 1


@pytest.mark.equation("rf-convex-costs", "def-rf-cost")
def test_every_convex_cost_decreases_on_a_gaussian_with_a_known_map():
    """N(0, I) -> N(m, diag s²): the rectified map is m + s·z, whose cost is W_2²; all other norms shrink too."""
    mean, std = torch.tensor([1.0, -0.5], dtype=F64), torch.tensor([0.3, 2.0], dtype=F64)
    flow, noise = RectifiedFlow(gaussian_net(mean, std), (2,)), torch.randn(100_000, 2, dtype=F64)
    x0 = mean + std * torch.randn_like(noise)
    some = noise[:2000]
    torch.testing.assert_close(flow.decode(some, steps=300, solver=rk4), mean + std * some, rtol=0, atol=1e-6)
    z0 = mean + std * noise
    optimum = mean.square().sum() + (std - 1).square().sum()  # W_2²
    assert transport_cost(z0, noise).item() == pytest.approx(optimum.item(), rel=0.02)
    for power in (1, 1.5, 2, 4):
        assert transport_cost(z0, noise, power) < 0.9 * transport_cost(x0, noise, power)
    for cost in (lambda d: d.abs().sum(1), lambda d: d.amax(1), lambda d: (d[:, 0] - d[:, 1]).exp()):
        assert cost(z0 - noise).mean() < cost(x0 - noise).mean()


# --------------------------------------------------------------------------------- a mixture in one dimension


@pytest.mark.fact("RF-R3")
@pytest.mark.equation("rf-marginals")
def test_marginals_are_kept_at_all_times():
    """The quantiles of the noise are those of Law(X_t) all along the way, and at its end those of the data."""
    noise, q = NOISE[::10], QUANTILES[::10]
    states = list(ONE.trajectory(noise, ONE.times(200), rk4))
    torch.testing.assert_close(distribution(states[-1]), q, rtol=0, atol=1e-6)
    halfway = torch.special.ndtr((states[99] - MEANS / 2) / math.sqrt(0.25 * STD**2 + 0.25)) @ WEIGHTS  # t = ½
    torch.testing.assert_close(halfway, q, rtol=0, atol=1e-6)


@pytest.mark.fact("RF-R2")
@pytest.mark.equation("rf-decomposition", "rf-velocity")
def test_the_decrease_of_the_cost_is_s_plus_v_for_the_mixture():
    """E|X_1 − X_0|² by hand, V by quadrature over (component, x_0, ε, t), S and E|Z_1 − Z_0|² along the flow."""
    noise, weights = line(401)  # the map is steep between the modes
    s = weights @ straightness(ONE, noise, steps=200)
    after = weights @ (ONE.decode(noise, steps=200, solver=rk4) - noise).square()[:, 0]
    before = 1 + WEIGHTS @ (MEANS**2 + STD**2)
    (z, w), (times, spans) = line(41), plane.legendre(24)
    k, i, j, m = torch.meshgrid(torch.arange(2), torch.arange(41), torch.arange(41), torch.arange(24), indexing="ij")
    x0, eps, t = (MEANS[k] + STD * z[i, 0]).reshape(-1, 1), z[j].reshape(-1, 1), times[m].flatten()
    share = (WEIGHTS[k] * w[i] * w[j] * spans[m]).flatten()
    v = share @ (mixture_net(ONE.path.interpolate(x0, eps, t), t) - (eps - x0)).square()[:, 0]
    assert (before - after).item() == pytest.approx((s + v).item(), abs=3e-4)
    assert s.item() == pytest.approx(0.5557, abs=5e-4) and v.item() == pytest.approx(1.8085, abs=1e-4)


@pytest.mark.fact("RF-R4")
@pytest.mark.equation("rf-convex-costs")
def test_costs_decrease_on_the_mixture():
    """E|X_1 − X_0|^p − E|Z_1 − Z_0|^p for p = 1, 2, 4; by quadrature they are 0.8650, 2.3642 and 17.121."""
    torch.manual_seed(0)
    noise, k = torch.randn(400_000, 1, dtype=F64), torch.multinomial(WEIGHTS, 400_000, replacement=True)
    x0 = MEANS[k, None] + STD * torch.randn_like(noise)
    z0 = ONE.decode(NOISE, steps=100, solver=rk4)
    drops = [(transport_cost(x0, noise, p) - transport_cost(z0, NOISE, p)).item() for p in (1, 2, 4)]
    assert drops[0] == pytest.approx(0.8650, abs=0.01) and drops[1] == pytest.approx(2.3642, abs=0.03)
    assert drops[2] == pytest.approx(17.121, abs=0.5)


def interpolate(x, xs, ys):
    """Linear interpolation of ys over rising xs, at x: all one-dimensional."""
    i = torch.searchsorted(xs, x).clamp(1, len(xs) - 1)
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1])


class Second(torch.nn.Module):
    """The exact 2-rectified flow in one dimension: v = z − T(z) with x_t = (1 − t)T(z) + tz, solved by bisection."""

    def __init__(self):
        super().__init__()
        self.z = torch.linspace(-6, 6, 6001, dtype=F64)
        self.map = ONE.decode(self.z[:, None], steps=100, solver=rk4)[:, 0]

    def forward(self, x, t, y=None):
        low, high = torch.full_like(x[:, 0], -6), torch.full_like(x[:, 0], 6)
        for _ in range(45):
            z = (low + high) / 2
            above = (1 - t) * interpolate(z, self.z, self.map) + t * z > x[:, 0]
            low, high = torch.where(above, low, z), torch.where(above, z, high)
        return (z - interpolate(z, self.z, self.map))[:, None]


@pytest.mark.fact("RF-R3b")
@pytest.mark.fact("RF-R3c")
@pytest.mark.equation("rf-one-reflow")
def test_one_reflow_is_straight_in_one_dimension():
    """Lines of the rectified coupling keep their order: its flow has S = 0, one Euler step is exact. Not so 1-RF's."""
    noise = NOISE[::20]
    z0 = ONE.decode(noise, steps=300, solver=rk4)
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert ((1 - t) * z0 + t * noise).diff(dim=0).min() > 0
    two = RectifiedFlow(Second(), (1,))
    assert two.pair_loss(z0, noise) < 1e-6  # V = 0 on its coupling
    assert straightness(two, noise, steps=20).abs().max() < 1e-5
    assert straightness(ONE, noise, steps=100).mean() > 0.5
    one_step = {flow: (flow.decode(noise, steps=1, solver=euler) - z0).abs().max() for flow in (ONE, two)}
    assert one_step[two] < 1e-4 and one_step[ONE] > 2


@pytest.mark.fact("RF-R5")
@pytest.mark.equation("rf-collapse")
def test_the_objective_of_the_survey_collapses_to_the_mean():
    """min_φ E ∫ ‖φ_t(noise) − x_t‖² dt over all polynomials: φ at the data is E[x_0], whatever the noise.

    The optimum (1 − t)E[x_0] + t·noise lies in their span. The rectified flow arrives at the whole law.
    """
    torch.manual_seed(0)
    noise, t = torch.randn(200_000, dtype=F64), torch.rand(200_000, dtype=F64)
    k = torch.multinomial(WEIGHTS, 200_000, replacement=True)
    x0 = MEANS[k] + STD * torch.randn_like(noise)
    features = lambda z, t: torch.stack([z**i * t**j for i in range(4) for j in range(3)], 1)  # noqa: E731
    weights = torch.linalg.lstsq(features(noise, t), (1 - t) * x0 + t * noise).solution
    z = NOISE[::20, 0]
    ends = features(z, torch.zeros_like(z)) @ weights
    mean, spread = WEIGHTS @ MEANS, (WEIGHTS @ (MEANS**2 + STD**2) - (WEIGHTS @ MEANS) ** 2).sqrt()
    assert (ends - mean).abs().max() < 0.1 and ends.std() < 0.03 * spread
    assert ONE.decode(NOISE, steps=50).std().item() == pytest.approx(spread.item(), rel=0.01)


# ----------------------------------------------------------------------------- other sources, other couplings


def test_from_a_law_to_itself_nothing_moves_and_nobody_crosses():
    """Exercise 3: ±a at both ends. The flow is the monotone map, the identity, though half of the lines cross 0."""
    a, s = 1.0, 0.2
    ends = torch.tensor([[-a, -a], [-a, a], [a, -a], [a, a]], dtype=F64)  # (x_0, source) of the four components

    def net(x, t, y=None):
        b, t = 1 - t[:, None], t[:, None]
        residual, variance = x - b * ends[:, 0] - t * ends[:, 1], (b**2 + t**2) * s**2
        share = (-(residual**2) / (2 * variance)).softmax(1)
        return (share * (ends[:, 1] - ends[:, 0] + (t - b) * s**2 / variance * residual)).sum(1, keepdim=True)

    source = torch.tensor([[-1.3], [-1.0], [-0.8], [0.7], [1.1]], dtype=F64)
    states = torch.stack(list(RectifiedFlow(net, (1,)).trajectory(source, torch.linspace(1, 0, 401).double(), rk4)))
    torch.testing.assert_close(states[-1], source, rtol=0, atol=1e-5)
    assert (states.sign() == source.sign()).all()
    assert (states - source).abs().max() > 0.2  # on the way they are drawn towards the middle


@pytest.mark.equation("rf-straight-not-optimal")
def test_straight_is_not_optimal_in_the_plane():
    """Exercise 5: x_0 = R·noise, R a quarter turn. Its lines never meet: S = 0, yet the cost is 4 and W_2² is 0."""
    turn, eye = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64), torch.eye(2, dtype=F64)

    def net(x, t, y=None):
        blend = (1 - t)[:, None, None] * turn + t[:, None, None] * eye
        return torch.linalg.solve(blend, x) @ (eye - turn).T

    noise = torch.randn(20_000, 2, dtype=F64)
    flow, some = RectifiedFlow(net, (2,)), noise[:100]
    torch.testing.assert_close(flow.decode(some, steps=1, solver=euler), some @ turn.T)
    assert straightness(flow, some, steps=50).abs().max() < 1e-10
    assert flow.loss(noise @ turn.T, noise) < 1e-20  # rectification leaves this coupling as it is
    assert transport_cost(noise @ turn.T, noise).item() == pytest.approx(4, rel=0.03)


# ------------------------------------------------------------------------------------------------ the contract


@pytest.mark.equation("rf-loss", "rf-velocity")
def test_the_conditional_mean_minimises_the_loss():
    torch.manual_seed(0)
    x0 = MEANS[torch.multinomial(WEIGHTS, 50_000, replacement=True), None] + STD * torch.randn(50_000, 1, dtype=F64)
    losses = []
    for shift in (-0.3, 0.0, 0.3):
        torch.manual_seed(1)
        losses.append(RectifiedFlow(lambda x, t, y, s=shift: mixture_net(x, t) + s * torch.sin(x), (1,)).loss(x0))
    assert losses[1] < losses[0] and losses[1] < losses[2]


class Asked(torch.nn.Module):
    """v = tanh(x)·(1 + y), which remembers its times."""

    def __init__(self):
        super().__init__()
        self.times = []

    def forward(self, x, t, y=None):
        self.times.append(t)
        return torch.tanh(x) * (1 if y is None else 1 + y[:, None])


@pytest.mark.equation("rf-distillation")
@pytest.mark.parametrize("steps", [1, 3])
def test_distillation_looks_at_the_starts_of_its_steps_only(steps):
    """At t = 1 only for one step; for three at 1, ⅔ and ⅓. The target is the chord, and y is heard."""
    flow, (x0, noise), y = RectifiedFlow(net := Asked(), (3,)), torch.randn(2, 3000, 3, dtype=F64), torch.rand(3000)
    torch.manual_seed(0)
    loss = flow.distillation_loss(x0, noise, y, steps)
    (t,) = net.times
    starts = 1 - torch.arange(steps, dtype=F64) / steps
    which = (t[:, None] - starts).abs()
    assert which.min(1).values.max() < 1e-12
    assert (which.argmin(1).bincount(minlength=steps) / 3000 - 1 / steps).abs().max() < 6 / 3000**0.5
    xt = x0 + t[:, None] * (noise - x0)
    error = xt.tanh() * (1 + y[:, None]) - (noise - x0)
    torch.testing.assert_close(loss, error.square().mean())
    (player,) = flow.distillation(steps).values()
    torch.manual_seed(0)
    torch.testing.assert_close(player.loss(x0, noise, y), loss)
    with pytest.raises(ValueError, match="steps"):
        flow.distillation_loss(x0, noise, y, 0)


@pytest.mark.equation("rf-distillation")
def test_one_euler_step_is_what_distillation_trains():
    flow = RectifiedFlow(Asked(), (3,))
    x0, noise = torch.randn(2, 10, 3)
    one = flow.decode(noise, steps=1, solver=euler)
    torch.testing.assert_close(flow.distillation_loss(x0, noise), (x0 - one).square().mean())


@pytest.mark.equation("rf-encoding")
def test_one_euler_step_back_is_what_the_encoding_loss_trains():
    flow, (x0, noise), y = RectifiedFlow(net := Asked(), (3,)), torch.randn(2, 10, 3), torch.rand(10)
    loss = flow.encoding_loss(x0, noise, y)
    assert bool((net.times[0] == 0).all())
    torch.testing.assert_close(loss, (noise - flow.encode(x0, y, steps=1, solver=euler)).square().mean())
    (player,) = flow.distillation(encode=True).values()
    torch.testing.assert_close(player.loss(x0, noise, y), loss)


@pytest.mark.equation("rf-distillation")
def test_k_distilled_steps_follow_any_flow():
    """Of the pairs x_0 = 2·noise the chord at x_t = (2 − t)·noise is −x_t/(2 − t): no loss, and exact Euler steps."""
    flow = RectifiedFlow(lambda x, t, y=None: -x / (2 - t[:, None]), (1,))
    noise = torch.randn(100, 1, dtype=F64)
    for steps in (1, 2, 5):
        assert flow.distillation_loss(2 * noise, noise, steps=steps) < 1e-20
        torch.testing.assert_close(flow.decode(noise, steps=steps, solver=euler), 2 * noise)


@pytest.mark.equation("rf-loss")
def test_labels_times_and_source_reach_the_loss():
    """The loss is by hand at the drawn times: of the time law, with the label, on draws of the source."""
    source = lambda n: 5 + torch.rand(n, 3, dtype=F64)  # noqa: E731
    flow = RectifiedFlow(net := Asked(), (3,), time_law=lambda u: 0.25 + 0.5 * u, source=source)
    x0, y = torch.randn(500, 3, dtype=F64), torch.rand(500, dtype=F64)
    torch.manual_seed(7)
    losses = flow.loss(x0, y=y), flow.loss(x0, torch.full_like(x0, 5.5), y)
    torch.manual_seed(7)
    for t, noise, loss in zip(net.times, (source(500), torch.full_like(x0, 5.5)), losses, strict=True):
        u = torch.rand(500, dtype=F64)
        torch.testing.assert_close(t, 0.25 + 0.5 * u)
        xt = (1 - t)[:, None] * x0 + t[:, None] * noise
        torch.testing.assert_close(loss, ((xt.tanh() * (1 + y[:, None])) - (noise - x0)).square().mean())


def test_samples_and_pairs_start_from_the_source():
    """With the field 0 they are the source's draws; its default is N(0, I)."""
    still = lambda x, t, y=None: 0 * x  # noqa: E731
    flow = RectifiedFlow(still, (2,), source=lambda n: 3 + torch.rand(n, 2))
    z0, z1 = flow.pairs(50, steps=1)
    assert torch.equal(z0, z1) and bool((z1 >= 3).all())
    assert bool((flow.sample(50, steps=1) >= 3).all())
    plain = RectifiedFlow(still, (2,)).prior(20_000)
    assert plain.mean().abs() < 0.03 and abs(plain.std() - 1) < 0.03


@pytest.mark.equation("rf-solver-error")
def test_what_the_solver_misses_the_next_flow_inherits():
    """N(0, 1) -> N(0, s²), s = ¼: pairs of n Euler steps are (c_n z, z), and their exact 2-RF ends at c_n z, not s z.

    c_n is the product of the steps' factors. Heun's error is far smaller at the same calls, and of second order.
    """
    s, noise = 0.25, torch.tensor([[1.0]], dtype=F64)
    first = RectifiedFlow(gaussian_net(0.0, s), (1,))
    errors = {}
    for solver, calls in ((euler, 1), (heun, 2)):
        for steps in (10, 20, 40):
            c = first.decode(noise, steps=steps, solver=solver).item()
            second = RectifiedFlow(lambda x, t, y=None, c=c: (1 - c) / (c + (1 - c) * t[:, None]) * x, (1,))
            assert second.loss(c * noise, noise) < 1e-20  # the exact second flow, on pairs (c z, z)
            again = second.decode(noise, steps=200, solver=rk4).item()
            assert again == pytest.approx(c, abs=1e-9)
            errors[solver, calls * steps] = abs(again - s)
    assert errors[heun, 40] < errors[euler, 40] / 10
    assert 3 < errors[heun, 40] / errors[heun, 80] < 5


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)], ids=str)
def test_contract(shape):
    flow = RectifiedFlow(lambda x, t, y: x * (0.1 if y is None else y.reshape(-1, *[1] * len(shape))), shape)
    x0, noise, y = torch.randn(4, *shape), torch.randn(4, *shape), torch.rand(4)
    assert flow.loss(x0).shape == flow.loss(x0, noise).shape == flow.loss(x0, noise, y).shape == ()
    assert flow.distillation_loss(x0, noise, y).shape == ()
    z0, z1 = flow.pairs(7, steps=4, solver=rk4, size=3)
    assert z0.shape == z1.shape == (7, *shape)
    torch.testing.assert_close(z0, z1 * math.exp(-0.1), rtol=1e-5, atol=1e-6)  # dx/dt = x/10 from t = 1 to 0
    labels = torch.rand(7)
    z0, z1 = flow.pairs(7, labels, steps=20, solver=rk4, size=3)
    torch.testing.assert_close(z0, z1 * torch.exp(-labels).reshape(-1, *[1] * len(shape)), rtol=1e-5, atol=1e-6)
    assert straightness(flow, noise, y, steps=4).shape == (4,)
    assert transport_cost(x0, noise).shape == ()


def test_labels_in_the_place_of_the_noise_are_refused():
    flow = RectifiedFlow(lambda x, t, y: x, (2,))
    with pytest.raises(ValueError, match="labels come third"):
        flow.loss(torch.randn(4, 2), torch.zeros(4, dtype=torch.int64))


# ----------------------------------------------------------------------------------------------- learned quality


def test_reflow_straightens_a_learned_flow():
    """Eight Gaussians: two rectifications and a distillation, each judged by its one-step samples and its paths."""
    torch.manual_seed(0)
    law = plane.eight_gaussians()
    flow = RectifiedFlow(TimeMLP(2, width=96, depth=3), (2,))
    list(train(flow, LawBatches(law, 256), steps=900, lr=4e-3, decay="cosine"))
    noise, floor = torch.randn(4000, 2), metrics.noise_floor(metrics.sliced_w2, law.sample, 4000)

    def judge(flow):
        flow.eval()
        with torch.no_grad():
            one_step = metrics.sliced_w2(flow.decode(noise, steps=1, solver=euler), law.sample(4000)) / floor.mean
            full = flow.decode(noise[:1000], steps=30)
        return one_step.item(), straightness(flow, noise[:1000], steps=30, solver=heun).mean().item(), full

    first = judge(flow)
    pairs = Batches(*flow.pairs(8000, steps=20, solver=heun), size=256)
    second_flow = copy.deepcopy(flow)
    list(train(second_flow, pairs, steps=400, lr=3e-3, decay="cosine"))
    second = judge(second_flow)
    assert first[0] > 10 and second[0] < 2.5  # in noise floors, after one step
    assert first[1] > 0.5 and second[1] < 0.02  # S
    assert transport_cost(second[2], noise[:1000]) < transport_cost(law.sample(1000), noise[:1000]) / 5
    assert (
        metrics.sliced_w2(second[2], law.sample(1000)) < 2.5 * 2 * floor.mean
    )  # a quarter of the points: twice the floor
    again = Batches(*second_flow.pairs(8000, steps=20, solver=heun), size=256)
    list(train(second_flow, again, steps=250, lr=2e-3, decay="cosine", objectives=second_flow.distillation()))
    assert judge(second_flow)[0] < 2.5


def test_a_coupled_flow_is_straighter():
    """Flow matching on optimally paired batches: S of a learned flow, without any reflow."""
    torch.manual_seed(0)
    law = plane.eight_gaussians()
    flow = FlowMatching(TimeMLP(2, width=96, depth=3), (2,), coupling=optimal_transport)
    list(train(flow, LawBatches(law, 128), steps=400, lr=4e-3, decay="cosine"))
    assert straightness(flow.eval(), torch.randn(1000, 2), steps=30, solver=heun).mean() < 0.1  # independent: 1.08
