"""SEDD, against quadrature, enumeration, a master equation and the official code's formulas."""

import itertools
import math

import pytest
import torch
from scipy.integrate import solve_ivp
from specimen import Specimen, token_net, tokens
from token_tools import TokenNet, entropy, exact_law, random_pmf, total_variation, train

from gmbook.core.chains import Chain
from gmbook.core.model import Labelled
from gmbook.core.schedules import GeometricSchedule, LinearSchedule
from gmbook.core.tokens import Enumeration
from gmbook.papers.sedd import SEDD, score_entropy
from gmbook.papers.theory.sedd import denoising_score_entropy, implicit_score_entropy, weighted_score_entropy

SPECIMEN = Specimen(
    lambda: SEDD(token_net(9), (2,), Chain.absorbing(8)), tokens, lambda model, n: model.sample(n, steps=5)
)

MEASURES = {
    "bound": lambda model, x: model.nelbo(x, times=4),
    "Euler": lambda model, x: model.sample(3, steps=3, sampler="euler"),
    "infilling": lambda model, x: (
        SEDD(token_net(9), (2,), Chain.absorbing(8), scaled=True)
        .to(model.device)
        .sample(3, steps=3, known=torch.full((3, 2), -1))
    ),
}

f64 = {"dtype": torch.float64}
P = torch.tensor([0.4, 0.3, 0.2, 0.1], **f64)
PMF = random_pmf(4, 2)
ONE = torch.ones((), **f64)


def exact(pmf, chain, schedule) -> tuple[Enumeration, SEDD]:
    law = Enumeration(pmf, chain, schedule)
    return law, SEDD(law.log_score, (pmf.ndim,), chain, schedule)


# ---------------------------------------------------------------------------------------------- the score entropies


@pytest.mark.fact("SEDD-S1")
@pytest.mark.equation("sedd-score-entropy")
def test_score_entropy_is_zero_at_the_ratio_only():
    log_score = torch.linspace(-4, 4, 8001, **f64, requires_grad=True)
    ratio = torch.tensor(0.7, **f64)
    value = score_entropy(log_score, ratio)
    assert value.min() >= 0
    assert math.isclose(log_score[value.argmin()].detach().exp(), 0.7, abs_tol=1e-3)
    assert abs(score_entropy(ratio.log(), ratio)) < 1e-14
    (slope,) = torch.autograd.grad(value.sum(), log_score)
    torch.testing.assert_close(slope, log_score.exp() - 0.7)  # zero at s = r, increasing
    assert score_entropy(torch.tensor(-3.0, **f64), torch.tensor(0.0, **f64)) == math.exp(-3)  # K(0) = 0


def test_score_entropy_is_two_bregman_divergences():
    """Of u log u from s to r, and r times that of −log u from r to s, by autograd's tangent."""
    s, r = torch.rand(2, 200, **f64) * 3 + 0.01

    def divergence(potential, to, at):
        at = at.clone().requires_grad_()
        (slope,) = torch.autograd.grad(potential(at).sum(), at)
        return (potential(to) - potential(at) - slope * (to - at)).detach()

    torch.testing.assert_close(score_entropy(s.log(), r), divergence(lambda u: u * u.log(), r, s))
    torch.testing.assert_close(score_entropy(s.log(), r), r * divergence(lambda u: -u.log(), s, r))


@pytest.mark.fact("SEDD-S1c")
def test_the_surveys_score_entropy_is_no_loss():
    """exp(s*) − s exp(s*) + s is linear in s: unbounded below, and not zero at s = s*."""
    survey = lambda s, target: math.exp(target) - s * math.exp(target) + s  # noqa: E731
    assert math.isclose(survey(50, 0.5), -30.79, abs_tol=0.01)
    assert survey(0.5, 0.5) > 1
    assert score_entropy(torch.tensor(math.log(50)), torch.tensor(0.5)) > 0


@pytest.mark.equation("sedd-implicit")
@pytest.mark.equation("sedd-denoising")
@pytest.mark.equation("def-sedd-score-entropy")
def test_implicit_and_denoising_forms_differ_by_constants():
    torch.manual_seed(0)
    weights = torch.rand(4, 4, **f64)
    kernel = torch.rand(4, 4, **f64).softmax(-1)
    p = P @ kernel
    a, b = torch.randn(2, 4, 4, **f64)
    gap = lambda form, *law: form(a, *law, weights) - form(b, *law, weights)  # noqa: E731
    expected = gap(weighted_score_entropy, p)
    torch.testing.assert_close(gap(implicit_score_entropy, p), expected)
    torch.testing.assert_close(gap(denoising_score_entropy, P, kernel), expected)
    assert abs(weighted_score_entropy((p / p[:, None]).log(), p, weights)) < 1e-14
    brute = sum(
        p[x] * weights[x, y] * score_entropy(a[x, y], p[y] / p[x]) for x, y in itertools.permutations(range(4), 2)
    )
    torch.testing.assert_close(weighted_score_entropy(a, p, weights), brute)


# ------------------------------------------------------------------------------------------------------- the bound


def expected_integral(model: SEDD, pmf: torch.Tensor, times: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """E over x_0 ∼ pmf and x_t by enumeration (one token), ∫ dt by the quadrature given."""
    total = torch.zeros((), **f64)
    origins = torch.arange(len(pmf))
    x = origins.repeat_interleave(model.chain.states)[:, None]
    xt = torch.arange(model.chain.states).repeat(len(pmf))[:, None]
    for t, weight in zip(times, weights):
        law = model.chain.transition(origins[:, None], model.schedule.alpha_bar(t))[:, 0]  # (x_0, x_t)
        value = model.integrand(x, xt, t).reshape(law.shape)
        total = total + weight * (pmf[:, None] * torch.where(law > 0, law * value, 0.0)).sum()
    return total


def legendre(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(n)
    return torch.tensor((x + 1) / 2), torch.tensor(w / 2)


@pytest.mark.fact("SEDD-S2")
@pytest.mark.equation("sedd-elbo")
@pytest.mark.parametrize(
    "chain, schedule",
    [(Chain.uniform(4), GeometricSchedule()), (Chain.absorbing(4), LinearSchedule(end=1e-3))],
    ids=["uniform", "absorbing"],
)
def test_the_bound_is_the_entropy_with_the_exact_score(chain, schedule):
    """E ∫ + KL_T + decoder = H(p_0): all three terms, one token."""
    _, model = exact(P, chain, schedule)
    x = torch.arange(4)[:, None]
    prior = (P * model.prior_kl(x)).sum()
    zero = torch.zeros((), **f64)
    decoder = model.tweedie(torch.arange(chain.states)[:, None], zero, ONE)[:, 0]  # (x_t, x_0)
    first = chain.transition(x, schedule.alpha_bar(zero))[:, 0]  # (x_0, x_t)
    decode = torch.where(first[:, :4] > 0, first[:, :4] * decoder[:4, :4].T.log(), 0.0)
    decode = -(P[:, None] * decode).sum()  # no mask at t = 0
    total = expected_integral(model, P, *legendre(200)) + prior + decode
    # The prior of the absorbing chain is the exact marginal of uniform data, not of P: the gap is KL(p_1 ‖ prior).
    p1 = (P[:, None] * chain.transition(x, schedule.alpha_bar(ONE))[:, 0]).sum(0)
    gap = (p1 * (p1 / chain.prior(schedule.alpha_bar(ONE))).log()).sum()
    torch.testing.assert_close(total - gap, entropy(P), rtol=0, atol=1e-6)


def test_the_bound_bounds_two_tokens():
    torch.manual_seed(0)
    for chain, schedule in ((Chain.uniform(4), GeometricSchedule()), (Chain.absorbing(4), LinearSchedule(end=1e-3))):
        law, model = exact(PMF, chain, schedule)
        x = law.sample(6000)
        bound = model.nelbo(x, times=32)
        surprise = -PMF[x[:, 0], x[:, 1]].log()
        excess = bound - surprise
        assert abs(excess.mean()) < 4 * excess.std() / 6000**0.5 + 0.01
        assert abs(2 * model.loss(x) - bound.mean()) < 0.15


@pytest.mark.fact("SEDD-S3")
@pytest.mark.equation("sedd-reverse-rate")
@pytest.mark.equation("def-sedd-concrete-score")
def test_reverse_rates_return_to_the_data():
    """dp/dσ backwards with the rates s_y Q(x, y) from σ̄ = 4 to 0, by an adaptive ODE solver."""

    class Noise(GeometricSchedule):
        """σ̄ = 4t."""

        def total_noise(self, t):
            return 4 * t

    law, model = exact(P, Chain.uniform(4), Noise())
    states = torch.arange(4)[:, None]

    def flow(sigma: float, p):
        t = torch.tensor((4 - sigma) / 4, **f64)
        rates = (model.log_score(states, t).exp() * model._rates(states))[:, 0].numpy()  # from x to y
        return p @ rates - p * rates.sum(1)

    start = math.exp(-4) * P.numpy() + (1 - math.exp(-4)) / 4
    end = solve_ivp(flow, (0, 4), start, rtol=1e-10, atol=1e-12).y[:, -1]
    torch.testing.assert_close(torch.tensor(end), P, rtol=0, atol=1e-8)


@pytest.mark.fact("SEDD-S4")
@pytest.mark.equation("sedd-absorbing")
def test_absorbing_integrand_is_mdlms():
    """s_y = x_θ(y)/(e^σ̄ − 1) makes the integrand σ CE/(e^σ̄ − 1) on masks, and 0 on tokens."""
    predicted = torch.tensor([0.2, 0.5, 0.3], **f64)
    schedule = LinearSchedule(end=1e-3)
    t = torch.tensor([0.55], **f64)
    odds = torch.expm1(schedule.total_noise(t))
    model = SEDD(lambda xt, t, y: (predicted / odds).log().expand(*xt.shape, 3), (1,), Chain.absorbing(3), schedule)
    x = torch.tensor([[1]])
    expected = -predicted[1].log() * schedule.noise_rate(t) / odds
    torch.testing.assert_close(model.integrand(x, torch.tensor([[3]]), t), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected, -predicted[1].log() * schedule.reveal_rate(t))
    assert model.integrand(x, x, t) == 0
    scaled = SEDD(lambda xt, t, y: torch.zeros(*xt.shape, 3, **f64), (1,), Chain.absorbing(3), schedule, scaled=True)
    offset = -odds.log() - math.log(3)  # the paper's scale_by_sigma
    torch.testing.assert_close(scaled.log_score(torch.tensor([[3]]), t)[0, 0, :3], offset.expand(3))


# ---------------------------------------------------------------------------------------------------- the samplers


@pytest.mark.fact("SEDD-S5")
@pytest.mark.equation("sedd-tweedie")
@pytest.mark.parametrize("chain", [Chain.uniform(4), Chain.absorbing(4)], ids=["uniform", "absorbing"])
def test_tweedie_is_the_posterior(chain):
    """q(x_s | x_t) by Bayes, for one token; before normalisation it sums to 1."""
    schedule = LinearSchedule(end=1e-3)
    _, model = exact(P, chain, schedule)
    t, s = torch.tensor(0.8, **f64), torch.tensor(0.5, **f64)
    x = torch.arange(4)[:, None]
    p_s = P @ chain.transition(x, schedule.alpha_bar(s))[:, 0]
    states = torch.arange(chain.states)[:, None]
    step = chain.transition(states, schedule.alpha_bar(t), schedule.alpha_bar(s))[:, 0]
    joint = p_s[:, None] * step  # (x_s, x_t)
    got = model.tweedie(states, t, schedule.alpha_bar(s))[:, 0]
    torch.testing.assert_close(got, (joint / joint.sum(0)).T, rtol=0, atol=1e-12)
    undone = chain.undo(model.log_score(states, t).exp(), schedule.alpha_bar(t), schedule.alpha_bar(s))
    raw = (undone * chain.arrival(states, schedule.alpha_bar(t), schedule.alpha_bar(s)))[:, 0]
    possible = slice(None) if chain.states == 4 else slice(4, 5)  # the mask; tokens only stay
    torch.testing.assert_close(raw[possible].sum(1), torch.ones_like(raw[possible, 0]), rtol=0, atol=1e-12)


@pytest.mark.fact("SEDD-S5c")
def test_undo_is_the_official_staggered_score():
    """Official code, with e = e^{−Δ}. Uniform: (e − 1)/(Ne) Σs + s/e. Absorbing: s/e, plus (1 − 1/e) Σs at the mask."""
    delta = torch.tensor(0.4, **f64)
    scores = torch.rand(3, 2, 5, **f64)
    ep, total = (-delta).exp(), scores.sum(-1, keepdim=True)
    uniform = (ep - 1) / (5 * ep) * total + scores / ep
    torch.testing.assert_close(Chain.uniform(5).undo(scores, ep, ONE), uniform, rtol=0, atol=1e-12)
    absorbing = scores * delta.exp()
    absorbing[..., -1] += ((1 - delta.exp()) * total)[..., 0]
    torch.testing.assert_close(Chain.absorbing(4).undo(scores, ep, ONE), absorbing, rtol=0, atol=1e-12)


def sampler_law(model: SEDD, steps: int, sampler: str) -> torch.Tensor:
    times = torch.linspace(1, 0, steps + 1, **f64)
    alpha_bars = [*model.schedule.alpha_bar(times[1:-1]), ONE]
    moves = [
        lambda x, t=t, k=k, i=i: (model.euler if sampler == "euler" and i < steps - 1 else model.tweedie)(x, t, k)
        for i, (t, k) in enumerate(zip(times[:-1], alpha_bars))
    ]
    law = exact_law(model.chain.prior(model.schedule.alpha_bar(ONE)), moves, 2)
    cube = law.reshape(model.chain.states, model.chain.states)[: model.chain.vocab, : model.chain.vocab]
    assert abs(cube.sum() - 1) < 1e-9
    return cube


@pytest.mark.equation("sedd-euler")
@pytest.mark.parametrize(
    "chain, schedule",
    [(Chain.uniform(4), GeometricSchedule(1e-3, 12)), (Chain.absorbing(4), LinearSchedule(end=1e-3))],
    ids=["uniform", "absorbing"],
)
def test_samplers_tend_to_the_truth(chain, schedule):
    _, model = exact(PMF, chain, schedule)
    gap = lambda steps, sampler: float((sampler_law(model, steps, sampler) - PMF).abs().sum() / 2)  # noqa: E731
    for sampler in ("tweedie", "euler"):
        coarse, middle, fine = (gap(steps, sampler) for steps in (8, 64, 512))
        assert fine < middle < coarse and fine < 0.012
        assert 4 < middle / fine < 12  # first order: 8
    torch.manual_seed(0)
    samples = model.sample(20_000, steps=8, sampler="euler")
    assert samples.shape == (20_000, 2) and samples.dtype == torch.int64
    assert total_variation(samples, sampler_law(model, 8, "euler")) < 0.02
    assert total_variation(model.sample(20_000, steps=8), sampler_law(model, 8, "tweedie")) < 0.02


@pytest.mark.equation("sedd-euler")
def test_euler_is_the_reverse_rate():
    """(p(x_s | x_t) − δ)/Δσ̄ tends to s_y Q(x_t, y)."""
    law, model = exact(PMF, Chain.uniform(4), LinearSchedule(end=1e-3))
    x, t = torch.tensor([[0, 3]]), torch.tensor(0.5, **f64)
    alpha_bar_s = model.schedule.alpha_bar(t) * math.exp(1e-6)
    got = (model.euler(x, t, alpha_bar_s) - model.chain.law(x)) / 1e-6
    rates = law.log_score(x, t[None]).exp() / 4
    rates[0, [0, 1], x[0]] = 0
    rates[0, [0, 1], x[0]] = -rates[0].sum(-1)
    torch.testing.assert_close(got, rates, rtol=1e-6, atol=1e-6)


def test_infilling_is_conditional():
    torch.manual_seed(0)
    _, model = exact(PMF, Chain.absorbing(4), LinearSchedule(end=1e-3))
    known = torch.tensor([[2, -1]]).expand(20_000, 2)
    samples = model.sample(20_000, steps=16, known=known)
    assert (samples[:, 0] == 2).all()
    histogram = torch.bincount(samples[:, 1], minlength=4) / 20_000
    torch.testing.assert_close(histogram.double(), PMF[2] / PMF[2].sum(), rtol=0, atol=0.015)


@pytest.mark.parametrize(
    "chain, schedule",
    [(Chain.uniform(4), GeometricSchedule(1e-3, 12)), (Chain.absorbing(4), LinearSchedule(end=1e-3))],
    ids=["uniform", "absorbing"],
)
def test_trains(chain, schedule):
    torch.manual_seed(0)
    law = Enumeration(PMF, chain, schedule)
    model = SEDD(TokenNet(chain.states, 4, 2), (2,), chain, schedule, scaled=True)
    before = model.nelbo(law.sample(2000), times=16).mean()
    train(model, lambda: law.sample(256), 300)
    after = model.nelbo(law.sample(2000), times=16).mean()
    assert after < entropy(PMF) + 0.3 < before
    assert total_variation(model.sample(8000, steps=64), PMF) < 0.15  # and no mask is left


def test_bad_arguments_are_refused():
    law = Enumeration(PMF, Chain.absorbing(4), LinearSchedule(end=1e-3))
    with pytest.raises(ValueError, match=r"alpha_bar\(1\) > 0"):
        SEDD(law.log_score, (2,), law.chain, LinearSchedule())
    model = SEDD(law.log_score, (2,), law.chain)
    with pytest.raises(ValueError, match="unknown sampler"):
        model.sample(2, sampler="heun")
    with pytest.raises(TypeError, match="int64"):
        model.loss(torch.rand(3, 2))
    with pytest.raises(ValueError, match=r"0\.\.3"):
        model.nelbo(torch.tensor([[4, 0]]))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        model.log_score(torch.tensor([[1, 0]]), torch.tensor(-0.1))


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SPECIMEN.build().sample(2, steps=0)


# ------------------------------------------------------------------------------- what a change of the class would break


class Noisy(GeometricSchedule):
    """σ̄ from 0.7 to 8: at time 0 half of the tokens have jumped."""

    def __init__(self):
        super().__init__(0.7, 8.0)


def test_the_bound_decodes_what_noise_is_left_at_time_0():
    """σ̄(0) = 0.7 and a wrong score: bound ≥ −log p_θ, by the master equation of one token and the last Tweedie step."""
    schedule = Noisy()
    rows = [1.0, 0.5, 0.4, 0.2], [1.6, 1.0, 0.7, 0.5], [2.5, 1.2, 1.0, 0.6], [3.5, 2.0, 1.8, 1.0]
    scores = torch.tensor(rows, **f64) ** 0.4  # mild ones, so that the last step gives every token some mass
    model = SEDD(lambda xt, t, y: scores.log()[xt], (1,), Chain.uniform(4), schedule)
    states = torch.arange(4)[:, None]
    rates = (model.log_score(states, ONE).exp() * model._rates(states))[:, 0]
    generator = rates - torch.diag(rates.sum(1))
    lasting = float(schedule.total_noise(ONE) - schedule.total_noise(0 * ONE))
    ends = model.chain.prior(schedule.alpha_bar(ONE)) @ torch.linalg.matrix_exp(lasting * generator)
    law = ends @ model.tweedie(states, 0 * ONE, ONE)[:, 0]
    torch.manual_seed(0)
    for v in range(4):
        x = torch.tensor([[v]]).expand(20_000, 1)
        bound = model.nelbo(x, times=8)
        error = bound.std() / 20_000**0.5
        assert bound.mean() > -law[v].log() - 4 * error


def test_the_bound_with_all_terms_is_the_entropy_where_noise_is_left():
    """The exact score at σ̄(0) = 0.7: ∫ + KL_T + decoder is −log p_0(x) in the mean, by draws."""
    _, model = exact(P, Chain.uniform(4), Noisy())
    torch.manual_seed(0)
    x = torch.multinomial(P, 100_000, replacement=True)[:, None]
    bound = model.nelbo(x, times=8)
    gap = bound + P[x[:, 0]].log()
    assert abs(gap.mean()) < 4 * gap.std() / 100_000**0.5 + 1e-3  # 1e-3 for KL(p_1 ‖ prior) at σ̄ = 8


def test_eulers_step_is_a_law_however_long():
    """Jumps of more than one in all: the token surely leaves, by the rates' shares, and nothing is negative."""
    model = SEDD(
        lambda xt, t, y: torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(*xt.shape, 4), (2,), Chain.uniform(4), Noisy()
    )
    law = model.euler(torch.tensor([[0, 3]]), torch.tensor(0.9, **f64), ONE)
    assert law.min() == 0
    torch.testing.assert_close(law.sum(-1), torch.ones(1, 2, **f64))
    shares = torch.tensor([1.0, 2.0, 3.0], **f64).softmax(0)
    torch.testing.assert_close(law[0, 0], torch.cat([torch.zeros(1, **f64), shares]))
    assert model.sample(100, steps=2, sampler="euler").shape == (100, 2)


@pytest.mark.parametrize("sampler", ["tweedie", "euler"])
def test_known_tokens_are_put_in_at_every_step(sampler):
    """With the uniform chain a token that is put in at the start only would jump away."""
    torch.manual_seed(0)
    _, model = exact(PMF, Chain.uniform(4), GeometricSchedule(1e-3, 12))
    known = torch.tensor([[2, -1]]).expand(500, 2)
    for x in model.trajectory(500, steps=6, sampler=sampler, known=known):
        assert (x[:, 0] == 2).all() and len(x[:, 1].unique()) == 4


def test_the_label_reaches_the_network_in_loss_bound_and_samples():
    """Two classes of one token, class y always 2y, with the exact score of each; without the label, of the mixture."""

    class Told(Labelled):
        classes = 2

        def forward(self, xt, t, y=None):
            kernel = Chain.uniform(4).kernel_matrix(1.0, LinearSchedule(end=1e-3).alpha_bar(t[0]))
            law = kernel[[0, 2]].mean(0).expand(len(xt), 4) if y is None else kernel[2 * y]
            return (law / law.gather(1, xt))[:, None].log()

    schedule = LinearSchedule(end=1e-3)
    model = SEDD(Told().double(), (1,), Chain.uniform(4), schedule)
    y = torch.tensor([0, 1]).repeat(500)
    x, t = 2 * y[:, None], torch.tensor(0.3, **f64)
    xt = model.corrupt(x, t)
    assert model.integrand(x, xt, t, y).max() < 1e-9 and model.integrand(x, xt, t).mean() > 0.1
    told = SEDD(Spy(asked := []), (1,), Chain.uniform(4), schedule)
    for ask in (
        lambda: told.loss(x, y),
        lambda: told.nelbo(x, y, times=2),
        lambda: told.sample(1000, y, steps=2),
        lambda: told.sample(1000, y, steps=2, sampler="euler"),
    ):
        asked.clear()
        ask()
        assert len(asked) >= 1 and all(label is not None and torch.equal(label, y) for label in asked)
    assert torch.equal(model.sample(1000, y, steps=40)[:, 0], 2 * y)


class Spy(Labelled):
    """Log-scores 0; it keeps the labels that it is told."""

    classes = 2

    def __init__(self, asked):
        super().__init__()
        self.asked = asked

    def forward(self, xt, t, y=None):
        self.asked.append(y)
        return torch.zeros(*xt.shape, 4)


def test_images_of_tokens_are_their_flat_tokens():
    """Loss, bound and samples of (1, 2, 3) are those of (6,), for one network that looks at the flat tokens."""
    torch.manual_seed(0)
    weights = torch.randn(6, 5, **f64)
    x = torch.randint(5, (400, 6))
    for chain in (Chain.uniform(5), Chain.absorbing(5)):
        flat, image = (SEDD(lambda xt, t, y: weights[xt], shape, chain, scaled=True) for shape in ((6,), (1, 2, 3)))
        for measure in (lambda m: m.loss(x.reshape(-1, *m.shape)), lambda m: m.nelbo(x.reshape(-1, *m.shape), times=3)):
            values = []
            for model in (flat, image):
                torch.manual_seed(1)
                values.append(measure(model))
            torch.testing.assert_close(*values)
        torch.manual_seed(2)
        drawn = image.sample(50, steps=4)
        torch.manual_seed(2)
        assert torch.equal(drawn.flatten(1), flat.sample(50, steps=4))


@pytest.mark.parametrize("sampler", ["tweedie", "euler"])
def test_scores_that_are_nan_are_refused_in_sampling(sampler):
    model = SEDD(lambda xt, t, y: torch.full((*xt.shape, 4), torch.nan), (2,), Chain.uniform(4))
    with pytest.raises(ValueError, match="has the network gone to NaN"):
        model.sample(3, steps=3, sampler=sampler)
