"""MDLM, against enumeration over mask sets and orders, and the closed laws of its samplers."""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import torch
from specimen import Specimen, token_net, tokens
from token_tools import TokenNet, entropy, exact_law, random_pmf, sequences, total_variation, train

from gmbook.core.chains import Chain
from gmbook.core.schedules import CosineSchedule, LinearSchedule, Schedule
from gmbook.core.tokens import Enumeration
from gmbook.papers.d3pm import D3PM
from gmbook.papers.mdlm import MDLM
from gmbook.papers.sedd import SEDD


def ideal_of(x, device):
    """Samples and the bound of the ideal network of a law on 8 × 8."""
    ideal = Enumeration(random_pmf(8, 2), Chain.absorbing(8).to(device), LinearSchedule())
    model = MDLM(ideal.posterior, (2,), 8).to(device)
    return model.sample(len(x), steps=2).sum(1) + model.nelbo(x, times=2)


SPECIMEN = Specimen(lambda: MDLM(token_net(9), (2,), 8), tokens, lambda model, n: model.sample(n, steps=5))

MEASURES = {
    "bound": lambda model, x: model.nelbo(x, times=4),
    "finite steps": lambda model, x: model.nelbo_discrete(x, steps=4),
    "by counts": lambda model, x: model.nelbo_by_counts(x),
    "timed": lambda model, x: (
        MDLM(token_net(9), (2,), 8, CosineSchedule(), timed=True).to(model.device).sample(3, steps=3)
    ),
    "infilling": lambda model, x: model.sample(3, steps=3, known=torch.full((3, 2), -1)),
    "first hitting": lambda model, x: model.first_hitting(3),
    "semi-autoregressive": lambda model, x: model.semi_autoregressive(3, 5, 1, steps=2),
    "ideal": lambda model, x: ideal_of(x, model.device),
}

f64 = {"dtype": torch.float64}
L, V = 3, 3
PMF = random_pmf(V, L)
MASK = V
NODES, WEIGHTS = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(60))
TIMES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2
ORIGINS = sequences(V, L)


class Cubic(Schedule):
    """1 − t³, a reader's own schedule."""

    def alpha_bar(self, t):
        return 1 - t**3

    def moved(self, t):
        return t**3

    def alpha_bar_rate(self, t):
        return -3 * t**2


def ideal(pmf=PMF):
    return Enumeration(pmf, Chain.absorbing(pmf.shape[0]), LinearSchedule()).posterior


def flawed(xt, t, y=None):
    """A deliberately wrong model: the square roots of the exact conditionals."""
    return ideal()(xt, t) / 2


def masked(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All x_t that x (B, L) can become, with their numbers of masks: (B, 2^L, L), (2^L,)."""
    sets = sequences(2, x.shape[1]).bool()
    return torch.where(sets, MASK, x[:, None]), sets.sum(1)


def expected(model: MDLM, t: torch.Tensor, value) -> torch.Tensor:
    """E over x_t given x_0, of value(x, x_t), for every x_0: (V^L,)."""
    states, count = masked(ORIGINS)
    keep = model.schedule.alpha_bar(t)
    weight = (1 - keep) ** count * keep ** (L - count)
    x = ORIGINS[:, None].expand_as(states)
    return (weight * value(x.flatten(0, 1), states.flatten(0, 1)).unflatten(0, states.shape[:2])).sum(1)


def exact_nelbo(model: MDLM) -> torch.Tensor:
    """The continuous-time bound of every x_0, (V^L,): Gauss–Legendre in t, exact in x_t."""
    terms = [w * expected(model, t, lambda x, xt, t=t: model.integrand(x, xt, t)) for t, w in zip(TIMES, WEIGHTS)]
    return torch.stack(terms).sum(0)


def exact_nelbo_discrete(model: MDLM, steps: int) -> torch.Tensor:
    times = torch.linspace(1, 0, steps + 1, **f64)
    pairs = itertools.pairwise(times)
    return sum(expected(model, t, lambda x, xt, t=t, s=s: model.term(x, xt, t, s)) for t, s in pairs)


# -------------------------------------------------------------------------------------------------------- the bound


@pytest.mark.fact("M1")
@pytest.mark.equation("mdlm-nelbo")
def test_the_bound_is_tight_for_every_datum():
    torch.testing.assert_close(exact_nelbo(MDLM(ideal(), (L,), V)), -PMF.flatten().log(), rtol=0, atol=1e-12)


@pytest.mark.fact("M2")
def test_the_books_linear_schedule_is_the_papers_log_linear_one():
    """The paper names a schedule by σ̄, with ᾱ = e^{−σ̄}: its log-linear one, σ̄ = −log(1 − t), keeps 1 − t. One with a
    linear σ̄ = c t has no level at which it is ours: its ratio of ᾱ at 2t and t is that at t and 0."""
    t = torch.linspace(0.01, 0.49, 50, **f64)
    ours = LinearSchedule()
    torch.testing.assert_close(ours.alpha_bar(t), 1 - t)
    torch.testing.assert_close(ours.total_noise(t), -torch.log1p(-t))
    assert (ours.alpha_bar(2 * t) < ours.alpha_bar(t).square()).all()  # equal for every linear σ̄


@pytest.mark.equation("mdlm-schedule-invariance")
def test_schedules_agree_for_a_wrong_model():
    linear, cosine, cubic = (
        exact_nelbo(MDLM(flawed, (L,), V, s)) for s in (LinearSchedule(), CosineSchedule(0.0), Cubic())
    )
    assert (linear + PMF.flatten().log()).abs().max() > 0.1
    torch.testing.assert_close(cosine, linear, rtol=0, atol=1e-10)
    torch.testing.assert_close(cubic, linear, rtol=0, atol=1e-10)


@pytest.mark.fact("M3")
@pytest.mark.equation("mdlm-any-order")
def test_the_bound_is_the_mean_over_orders():
    model = MDLM(flawed, (L,), V)
    zero = torch.zeros(1, **f64)
    nll = torch.zeros(len(ORIGINS), **f64)
    orders = list(itertools.permutations(range(L)))
    for order in orders:
        x = torch.full_like(ORIGINS, MASK)
        for l in order:
            nll -= model.log_probs(x, zero).gather(-1, ORIGINS[..., None])[:, l, 0] / len(orders)
            x[:, l] = ORIGINS[:, l]
    torch.testing.assert_close(exact_nelbo(model), nll, rtol=0, atol=1e-10)


@pytest.mark.fact("M4")
@pytest.mark.equation("mdlm-nelbo-discrete")
@pytest.mark.equation("mdlm-total-correlation")
def test_the_discrete_bound_falls_to_the_entropy():
    model = MDLM(ideal(), (L,), V)
    p = PMF.flatten()
    bounds = [float((p * exact_nelbo_discrete(model, steps)).sum()) for steps in (1, 2, 4, 8, 16, 64)]
    assert bounds == sorted(bounds, reverse=True)
    assert 0 < bounds[-1] - entropy(PMF) < 0.05 * (bounds[0] - entropy(PMF))
    marginals = [PMF.sum([m for m in range(L) if m != l]) for l in range(L)]
    total_correlation = sum(entropy(m) for m in marginals) - entropy(PMF)
    assert math.isclose(bounds[0] - entropy(PMF), total_correlation, abs_tol=1e-12)


def test_estimates_agree_with_enumeration():
    torch.manual_seed(0)
    model = MDLM(flawed, (L,), V)
    x = torch.tensor([[1, 0, 2]]).expand(8000, L)
    k = 1 * 9 + 0 * 3 + 2
    for estimate, exact in (
        (model.nelbo(x, times=8), exact_nelbo(model)[k]),
        (model.nelbo_by_counts(x), exact_nelbo(model)[k]),
        (model.nelbo_by_counts(x, draws=2), exact_nelbo(model)[k]),
        (model.nelbo_by_counts(x, draws=7), exact_nelbo(model)[k]),
        (model.nelbo_discrete(x, steps=4), exact_nelbo_discrete(model, 4)[k]),
    ):
        assert abs(estimate.mean() - exact) < 4 * estimate.std() / 8000**0.5
    assert abs(L * model.loss(x) - exact_nelbo(model)[k]) < 0.1


@pytest.mark.equation("mdlm-mask-counts")
def test_a_loss_by_counts_is_the_bound_per_token():
    """A thousand losses of batches of 7 copies of one word, against its exact bound; and the counts 1..L alike."""
    torch.manual_seed(0)
    model, k = MDLM(flawed, (L,), V), 11
    losses = torch.stack([model.loss_by_counts(ORIGINS[k].expand(7, L)) for _ in range(1000)])
    assert abs(losses.mean() - exact_nelbo(model)[k] / L) < 4 * losses.std() / 1000**0.5
    hidden = []
    model = MDLM(lambda xt, t, y: (hidden.append((xt == MASK).sum(1)), flawed(xt, t))[1], (L,), V)
    model.loss_by_counts(ORIGINS)  # 27 rows: nine of each count
    assert torch.bincount(hidden[0]).tolist() == [0, 9, 9, 9]


def test_the_mean_over_masks_weighs_shares_between_its_ends_and_masks_alike():
    """Rows with k masks weigh k: E[sum] over E[number], by enumeration of masks and quadrature in t."""
    torch.manual_seed(0)
    model, low, high = MDLM(flawed, (L,), V), 0.2, 0.5
    times = low + (high - low) * TIMES
    nats = sum(w * expected(model, t, lambda x, xt, t=t: model.cross_entropy(x, xt, t)) for t, w in zip(times, WEIGHTS))
    x = ORIGINS.repeat(200, 1)  # 5,400 rows: the number of masks hardly varies
    losses = torch.stack([model.masked_mean(x[torch.randperm(len(x))], low, high) for _ in range(30)])
    exact = nats.mean() / (L * (low + high) / 2)
    assert abs(losses.mean() - exact) < 4 * losses.std() / 30**0.5 + 1e-4
    for ends in ((0.0, 0.5), (0.5, 0.2), (0.5, 1.1)):
        with pytest.raises(ValueError, match="0 < low <= high <= 1"):
            model.masked_mean(x, *ends)


def test_every_set_of_as_many_masks_is_equally_likely():
    torch.manual_seed(0)
    x = torch.arange(4).expand(60_000, 4)
    xt = MDLM(lambda *_: None, (4,), 4).hide(x, torch.full((60_000,), 2))
    assert ((xt == 4).sum(1) == 2).all() and (xt[xt != 4] == x[xt != 4]).all()
    counts = torch.unique(xt == 4, dim=0, return_counts=True)[1].double()
    assert len(counts) == 6 and ((counts - 1e4).abs() < 5 * (1e4 * 5 / 6) ** 0.5).all()


@pytest.mark.equation("mdlm-weight-variance")
def test_the_weights_second_moment_grows_like_a_logarithm():
    """One letter that costs c = log V: E[integrand²] over times in [ε, 1] and masks is c² log 1/ε, by quadrature in t
    and enumeration of the mask."""
    model, x = MDLM(lambda xt, t, y: torch.zeros(*xt.shape, V, **f64), (1,), V), torch.tensor([[1]])
    for epsilon in (0.1, 1e-3, 1e-6):
        times = epsilon ** (1 - TIMES)  # log t uniform on [log ε, 0]: dt = t log(1/ε) ds
        masked = torch.stack([model.integrand(x, torch.tensor([[V]]), t)[0] for t in times])
        moment = (WEIGHTS * times * math.log(1 / epsilon) * times * masked**2).sum()
        assert math.isclose(float(moment), math.log(V) ** 2 * math.log(1 / epsilon), rel_tol=1e-9)
        assert float(model.integrand(x, x, times[0])) == 0


@pytest.mark.equation("def-mdlm-subs")
def test_subs():
    """Tokens that show are carried over whatever the network says; masks get a law on the data tokens."""
    model = MDLM(lambda xt, t, y: torch.randn(*xt.shape, V), (L,), V)
    x = torch.tensor([[MASK, 1, MASK]])
    log_probs = model.log_probs(x, torch.tensor(0.5, **f64))
    assert log_probs.shape == (1, L, V)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(1, L))
    assert log_probs[0, 1].tolist() == [-math.inf, 0, -math.inf]


def test_time_is_hidden_unless_asked_for():
    seen = []
    net = lambda xt, t, y: (seen.append(t), torch.zeros(*xt.shape, V))[1]  # noqa: E731
    for timed in (False, True):
        MDLM(net, (L,), V, timed=timed).log_probs(torch.tensor([[MASK] * L]), torch.tensor([0.5], **f64))
    assert seen[0] == 0 and seen[1] == 0.5


@pytest.mark.equation("mdlm-mask-counts")
def test_the_bound_is_a_sum_over_mask_counts():
    """Each of L + 1 mask counts but 0 weighs 1: by enumeration of mask sets, against the integral over times."""
    model = MDLM(flawed, (L,), V)
    states, count = masked(ORIGINS)
    x = ORIGINS[:, None].expand_as(states)
    zero = torch.zeros((), **f64)
    nats = model.cross_entropy(x.flatten(0, 1), states.flatten(0, 1), zero).unflatten(0, states.shape[:2])
    by_count = [nats[:, count == k].mean(1) / k for k in range(1, L + 1)]  # all sets of one size are equally likely
    torch.testing.assert_close(torch.stack(by_count).sum(0), exact_nelbo(model), rtol=0, atol=1e-10)


@pytest.mark.equation("mdlm-mask-weights")
def test_the_weight_of_a_set_of_masks_is_a_beta_function():
    """∫ t^{k−1} (1 − t)^{L−k} dt by quadrature, B(k, L − k + 1) by scipy, (k − 1)!(L − k)!/L! by the library of
    arithmetic; and the shares of orders in which exactly the complement comes before a given token."""
    orders = list(itertools.permutations(range(L)))
    for k in range(1, L + 1):
        beta = scipy.special.beta(k, L - k + 1)
        schedule = LinearSchedule()
        integral = sum(w * schedule.reveal_rate(t) * t**k * (1 - t) ** (L - k) for t, w in zip(TIMES, WEIGHTS))
        assert math.isclose(float(integral), beta, abs_tol=1e-12)
        assert math.isclose(math.factorial(k - 1) * math.factorial(L - k) / math.factorial(L), beta, abs_tol=1e-12)
        shown = set(range(k, L))  # the masks are 0..k − 1, and the token is 0
        share = sum(set(order[: order.index(0)]) == shown for order in orders) / len(orders)
        assert math.isclose(share, beta, abs_tol=1e-12)
    table = ((1, 1 / 3), (2, 1 / 6), (3, 1 / 3))  # L = 3
    assert all(math.isclose(scipy.special.beta(k, 4 - k), weight) for k, weight in table)


@pytest.mark.equation("mdlm-two-token-gap")
def test_the_gap_of_two_tokens_is_their_information_over_the_steps():
    """E NELBO_T = H + I/T, by enumeration of mask sets and steps."""
    pair = random_pmf(V, 2, seed=3)
    information = sum(entropy(pair.sum(l)) for l in (0, 1)) - entropy(pair)
    model, p = MDLM(ideal(pair), (2,), V), pair.flatten()
    origins, sets = sequences(V, 2), sequences(2, 2).bool()
    for steps in (1, 2, 5, 16):
        total = torch.zeros(len(origins), **f64)
        for t, s in itertools.pairwise(torch.linspace(1, 0, steps + 1, **f64)):
            for hidden in sets:
                chance = t ** hidden.sum() * (1 - t) ** (~hidden).sum()
                total += chance * model.term(origins, torch.where(hidden, V, origins), t, s)
        assert math.isclose(float((p * total).sum()), float(entropy(pair) + information / steps), abs_tol=1e-10)


@pytest.mark.equation("mdlm-timeless")
def test_the_ideal_network_needs_no_time():
    """p(x_0^l | x_t), by Bayes on the whole table with q(x_t | x_0) at several times and schedules: one answer."""
    for xt in itertools.product(range(V + 1), repeat=L):
        answers = []
        for t, schedule in ((0.3, LinearSchedule()), (0.9, LinearSchedule()), (0.5, CosineSchedule(0.0))):
            kernel = Chain.absorbing(V).transition(torch.arange(V)[None], schedule.alpha_bar(torch.tensor(t, **f64)))[0]
            joint = PMF.clone()
            for l, token in enumerate(xt):
                joint = joint * kernel[:, token].reshape([V if m == l else 1 for m in range(L)])
            joint = joint / joint.sum()
            answers.append(torch.stack([joint.sum([m for m in range(L) if m != l]) for l in range(L)]))
        torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(answers[2], answers[0], rtol=0, atol=1e-12)
        got = MDLM(ideal(), (L,), V).log_probs(torch.tensor([xt]), torch.tensor(0.7, **f64)).exp()[0]
        torch.testing.assert_close(got, answers[0], rtol=0, atol=1e-12)


# ----------------------------------------------------------------------------------------------- the other two papers


@pytest.mark.equation("d3pm-absorbing-kl")
@pytest.mark.equation("mdlm-d3pm")
@pytest.mark.equation("sedd-absorbing")
def test_d3pm_and_sedd_absorbing_are_mdlm():
    """One wrong network, three bounds: D3PM's terms are MDLM's discrete ones, SEDD's integrand its continuous one."""
    torch.manual_seed(0)
    x = ORIGINS
    xt = torch.where(torch.rand(x.shape) < 0.5, MASK, x)
    mdlm, steps = MDLM(flawed, (L,), V), 10
    d3pm = D3PM(lambda z, t, y: flawed(z, t.clamp(max=0.99)).clamp(min=-700), (L,), Chain.absorbing(V), steps=steps)
    i = torch.full((len(x),), 4)
    torch.testing.assert_close(d3pm.terms(x, xt, i)[0], mdlm.term(x, xt, i / steps, (i - 1) / steps), rtol=0, atol=1e-6)
    schedule = LinearSchedule(end=1e-3)
    t = torch.tensor(0.4, **f64)
    odds = torch.expm1(schedule.total_noise(t))
    score = lambda z, t, y: flawed(z, t).log_softmax(-1).clamp(min=-700) - odds.log()  # noqa: E731
    sedd = SEDD(score, (L,), Chain.absorbing(V), schedule)
    got = sedd.integrand(x, xt, t)
    torch.testing.assert_close(got, MDLM(flawed, (L,), V, schedule).integrand(x, xt, t), rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------------------------ the samplers

PAIR = random_pmf(4, 2, seed=1)
PRODUCT = PAIR.sum(1)[:, None] * PAIR.sum(0)


@pytest.mark.fact("M5")
@pytest.mark.equation("mdlm-two-token-law")
def test_two_token_law():
    """N steps: (1 − 1/N) p + (1/N) p_1 ⊗ p_2, exactly; and by simulation."""
    torch.manual_seed(0)
    model = MDLM(ideal(PAIR), (2,), 4)
    mask = torch.eye(5, **f64)[4]
    for steps in (1, 2, 4, 8):
        expected = (1 - 1 / steps) * PAIR + PRODUCT / steps

        def move(x, t, s):
            return model.chain.posterior(x, model.log_probs(x, t).exp(), 1 - s, 1 - t)

        pairs = itertools.pairwise(torch.linspace(1, 0, steps + 1, **f64))
        law = exact_law(mask, [lambda x, t=t, s=s: move(x, t, s) for t, s in pairs], 2).reshape(5, 5)
        torch.testing.assert_close(law[:4, :4], expected, rtol=0, atol=1e-12)
        assert total_variation(model.sample(40_000, steps=steps), expected) < 0.012
    bit = torch.eye(2, **f64) / 2
    samples = MDLM(ideal(bit), (2,), 2).sample(40_000, steps=2)
    assert abs((samples == 0).all(1).double().mean() - 3 / 8) < 0.01


@pytest.mark.equation("mdlm-ancestral")
def test_sampler_on_three_tokens_and_its_cache():
    torch.manual_seed(0)
    calls = []

    def net(xt, t, y=None):
        calls.append(len(xt))
        return ideal()(xt, t)

    model = MDLM(net, (L,), V)
    cached = model.sample(20_000, steps=64)
    rows = sum(calls)
    assert total_variation(cached, PMF) < 0.03
    assert rows <= 20_000 * L  # no row is computed more often than it changes
    calls.clear()
    plain = model.sample(20_000, steps=64, cache=False)
    assert sum(calls) == 20_000 * 64
    assert total_variation(plain, PMF) < 0.03
    for cache in (True, False):
        torch.manual_seed(3)
        cached, plain = plain, model.sample(50, steps=16, cache=cache)
    assert (cached == plain).all()  # the same draws


@pytest.mark.equation("mdlm-cache-calls")
def test_the_cache_asks_once_per_step_in_which_something_came():
    """N(1 − (1 − 1/N)^L) calls for a line of L letters, for two numbers of steps and two schedules."""
    torch.manual_seed(0)
    length, lines, calls = 12, 3000, []
    net = lambda xt, t, y: (calls.append(len(xt)), torch.zeros(*xt.shape, V))[1]  # noqa: E731
    for steps in (4, 30):
        calls.clear()
        MDLM(net, (length,), V).sample(lines, steps=steps)
        expected = steps * (1 - (1 - 1 / steps) ** length)
        assert abs(sum(calls) / lines - expected) < 4 * length**0.5 / lines**0.5
        assert len(calls) <= steps


@pytest.mark.equation("mdlm-first-hitting")
def test_first_hitting_has_no_step_error():
    torch.manual_seed(0)
    for timed, schedule in ((False, LinearSchedule()), (True, CosineSchedule(0.0))):
        law = Enumeration(PMF, Chain.absorbing(V), schedule)
        model = MDLM(law.posterior, (L,), V, schedule, timed=timed)
        assert total_variation(model.first_hitting(40_000), PMF) < 0.02


def test_first_hitting_times():
    """The network sees the first hitting time of m masks: 1 − ᾱ = max of m uniforms at first, with mean m/(m + 1)."""
    torch.manual_seed(0)
    seen = []
    net = lambda xt, t, y: (seen.append(t), torch.zeros(*xt.shape, V, **f64))[1]  # noqa: E731
    MDLM(net, (L,), V, timed=True).first_hitting(20_000)
    means = [float(t.mean()) for t in seen]
    assert np.allclose(means, [3 / 4, 2 / 4, 1 / 4], atol=0.01)  # order statistics of 3 uniforms


def test_infilling_and_semi_autoregressive():
    torch.manual_seed(0)
    model = MDLM(ideal(), (L,), V)
    known = torch.tensor([[-1, 2, -1]]).expand(20_000, L)
    samples = model.sample(20_000, steps=64, known=known)
    assert (samples[:, 1] == 2).all()
    conditional = PMF[:, 2] / PMF[:, 2].sum()
    assert total_variation(samples[:, [0, 2]], conditional) < 0.03
    text = model.semi_autoregressive(20_000, length=6, stride=1, steps=32)
    assert text.shape == (20_000, 6) and text.max() < V
    pairs = text[:, :3]
    assert total_variation(pairs, PMF) < 0.03
    step = PMF / PMF.sum(-1, keepdim=True)  # p(x_3 | x_1, x_2)
    joint = torch.einsum("abc,bcd->bcd", PMF, step)  # the next window: its prefix from the last
    assert total_variation(text[:, 1:4], joint) < 0.03
    with pytest.raises(ValueError, match="stride"):
        model.semi_autoregressive(2, length=6, stride=4)
    assert model.semi_autoregressive(2, length=8, stride=3).shape == (2, 8)


def test_trains():
    torch.manual_seed(0)
    law = Enumeration(PAIR, Chain.absorbing(4), LinearSchedule())
    model = MDLM(TokenNet(5, 4, 2), (2,), 4)
    before = model.nelbo(law.sample(4000), times=32).mean()
    train(model, lambda: law.sample(256), 400)
    after = model.nelbo(law.sample(4000), times=32).mean()
    assert after < entropy(PAIR) + 0.06 < before
    assert total_variation(model.sample(8000, steps=64), PAIR) < 0.08


def test_bad_arguments_are_refused():
    model = MDLM(ideal(), (L,), V)
    with pytest.raises(TypeError, match="int64"):
        model.loss(torch.rand(3, L))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        model.loss(torch.full((3, L), MASK))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        model.log_probs(torch.full((3, L), MASK), torch.tensor(1.5))
    with pytest.raises(ValueError, match="untimed"):
        MDLM(ideal(), (L,), V, timed=True).nelbo_by_counts(ORIGINS)


def test_no_steps_no_times_and_nan_are_refused():
    model, x = SPECIMEN.build(), torch.zeros(1, 2).long()
    for act in (
        lambda: model.sample(2, steps=0),
        lambda: model.sample(0),
        lambda: model.nelbo(x, times=0),
        lambda: model.nelbo_discrete(x, steps=0),
        lambda: model.nelbo_by_counts(x, draws=0),
    ):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            act()
    model = MDLM(lambda x, t, y: torch.full((*x.shape, 8), torch.nan), (2,), 8)
    for act in (lambda: model.sample(2, steps=2), lambda: model.first_hitting(2)):
        with pytest.raises(ValueError, match="NaN"):
            act()


def test_training_sees_all_times():
    """As many of its times fall below 0.03 as should: 3 % of 27,000."""
    torch.manual_seed(0)
    seen = []
    net = lambda xt, t, y: (seen.append(t), flawed(xt, t))[1]  # noqa: E731
    model = MDLM(net, (L,), V, timed=True)
    for _ in range(1000):
        model.loss(ORIGINS)
    times = torch.cat(seen)
    assert abs((times < 0.03).double().mean() - 0.03) < 0.003 and abs((times > 0.97).double().mean() - 0.03) < 0.003


def test_labels_reach_the_network_in_every_loss_bound_and_sampler():
    seen = []
    model = MDLM(lambda xt, t, y: (seen.append(y), torch.zeros(*xt.shape, V))[1], (L,), V)
    x, y = torch.tensor([[0, 1, 2], [2, 1, 0]]), torch.tensor([5, 7])
    for act in (
        lambda: model.loss(x, y),
        lambda: model.loss_by_counts(x, y),
        lambda: model.masked_mean(x, 0.2, 0.9, y),
        lambda: model.nelbo(x, y, 3),
        lambda: model.nelbo_discrete(x, y, 3),
        lambda: model.nelbo_by_counts(x, y),
        lambda: model.sample(2, y, 3, cache=False),
        lambda: model.first_hitting(2, y),
        lambda: model.semi_autoregressive(2, 5, 1, y, steps=1),
    ):
        seen.clear()
        act()
        assert seen and all(torch.equal(label, y) for label in seen)
