"""Token chains and schedules, against explicit matrix products, Bayes by enumeration, autodiff, exponentials."""

import copy
import itertools
import math

import pytest
import torch
from token_tools import random_pmf, sequences

from gmbook.core.chains import Chain, MatrixChain, categorical
from gmbook.core.schedules import (
    CosineSchedule,
    GeometricSchedule,
    LinearSchedule,
    TableSchedule,
    mutual_information_betas,
)
from gmbook.core.tokens import Enumeration, TokenModel
from gmbook.papers.mdlm import MDLM

T = 5
BETAS = mutual_information_betas(T)
f64 = {"dtype": torch.float64}


def walk(vocab: int, beta: float) -> torch.Tensor:
    """A lazy walk on a line: doubly stochastic, not of the form k I + (1 − k) 1πᵀ."""
    matrix = torch.eye(vocab, **f64) * (1 - beta)
    for i, j in itertools.pairwise(range(vocab)):
        matrix[i, j] += beta / 2
        matrix[j, i] += beta / 2
    matrix[0, 0] += beta / 2
    matrix[-1, -1] += beta / 2
    return matrix


def explicit(chain: Chain, beta: torch.Tensor) -> torch.Tensor:
    """(1 − β) I + β 1πᵀ, written out."""
    states = chain.states
    return (1 - beta) * torch.eye(states, **f64) + beta * torch.ones(states, 1, **f64) * chain.stationary


def cases():
    """Chains with the list Q_1..Q_T of their tables at keep = 1 − i/T."""
    for chain in (Chain.uniform(4), Chain.absorbing(3), Chain(torch.tensor([0.1, 0.6, 0.3]))):
        yield chain, [explicit(chain, beta) for beta in BETAS]
    tables = [walk(4, beta) for beta in (0.1, 0.2, 0.3, 0.5, 0.9)]
    yield MatrixChain(torch.stack(tables)), tables


chain_cases = pytest.mark.parametrize("chain, tables", list(cases()), ids=["uniform", "absorbing", "skewed", "matrix"])


def keep(i: int) -> torch.Tensor:
    return torch.tensor(1 - i / T, **f64)


def product(tables: list, i: int, j: int) -> torch.Tensor:
    matrix = torch.eye(len(tables[0]), **f64)
    for table in tables[i:j]:
        matrix = matrix @ table
    return matrix


@chain_cases
@pytest.mark.fact("D3PM-D1")
@pytest.mark.equation("d3pm-marginal")
def test_kernels_are_the_products_of_the_tables(chain, tables):
    x = torch.arange(chain.states)[None]
    for i, j in itertools.combinations(range(T + 1), 2):
        expected = product(tables, i, j)
        torch.testing.assert_close(chain.transition(x, keep(j), keep(i))[0], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(chain.arrival(x, keep(j), keep(i))[0], expected.T, rtol=0, atol=1e-12)
        weights = torch.rand(2, 3, chain.states, **f64)  # unnormalised
        torch.testing.assert_close(chain.transition(weights, keep(j), keep(i)), weights @ expected)


@pytest.mark.fact("D3PM-D1b")
@pytest.mark.equation("d3pm-mutual-information")
def test_mutual_information_schedule_is_linear():
    for steps in (5, 100, 1000):
        i = torch.arange(steps + 1, **f64)
        table = TableSchedule(mutual_information_betas(steps))
        torch.testing.assert_close(table.alpha_bar(i / steps), 1 - i / steps, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            table.alpha_bar(i / steps), LinearSchedule().alpha_bar(i / steps), rtol=0, atol=1e-12
        )


@chain_cases
@pytest.mark.fact("D3PM-D2")
@pytest.mark.equation("d3pm-posterior")
def test_posterior_is_bayes(chain, tables):
    """q(x_s, x_t | x_0), enumerated, for adjacent and for skipped steps."""
    for s, t in itertools.combinations(range(T + 1), 2):
        for x0, xt in itertools.product(range(chain.vocab), range(chain.states)):
            joint = product(tables, 0, s)[x0] * product(tables, s, t)[:, xt]
            if joint.sum() < 1e-14:  # a pair that cannot occur
                continue
            got = chain.posterior(torch.tensor([[xt]]), torch.tensor([[x0]]), keep(s), keep(t))[0, 0]
            torch.testing.assert_close(got, joint / joint.sum(), rtol=0, atol=1e-12)


@chain_cases
@pytest.mark.equation("d3pm-joint-form")
@pytest.mark.equation("d3pm-mixture-form")
def test_both_forms_with_a_soft_x0(chain, tables):
    """Σ_v q(x_s, x_t | v) p̃(v) normalised, and Σ_v q(x_s | x_t, v) p̃(v), summed over v by hand; batched levels."""
    torch.manual_seed(0)
    xt = torch.randint(chain.states, (6, 3))
    probs = torch.rand(6, 3, chain.vocab, **f64).softmax(-1)
    t = torch.tensor([1, 2, 3, 4, 4, 2])
    s = torch.tensor([0, 1, 1, 3, 0, 1])
    alpha_bars = (1 - s.double() / T, 1 - t.double() / T)
    joint, mixture = chain.posterior(xt, probs, *alpha_bars), chain.mixture(xt, probs, *alpha_bars)
    for b, l in itertools.product(range(6), range(3)):
        q_st, q_s = product(tables, s[b], t[b])[:, xt[b, l]], product(tables, 0, s[b])
        terms = q_s[: chain.vocab] * q_st  # (v, x_s), q(x_s, x_t | v)
        expected = (probs[b, l, :, None] * terms).sum(0)
        torch.testing.assert_close(joint[b, l], expected / expected.sum())
        expected = (probs[b, l, :, None] * (terms / terms.sum(-1, keepdim=True)).nan_to_num()).sum(0)
        torch.testing.assert_close(mixture[b, l], expected / expected.sum())


@pytest.mark.equation("d3pm-posterior")
def test_impossible_pairs_have_no_posterior():
    chain = Chain.absorbing(3)
    assert chain.posterior(torch.tensor([[1]]), torch.tensor([[2]]), keep(1), keep(2)).isnan().all()


@pytest.mark.equation("mdlm-posterior")
def test_absorbing_posterior_is_mdlms():
    """z_t = m: [(1 − α_s) m + (α_s − α_t) x]/(1 − α_t); else z_t."""
    chain, a_s, a_t = Chain.absorbing(3), torch.tensor(0.7, **f64), torch.tensor(0.2, **f64)
    got = chain.posterior(torch.tensor([[3, 1]]), torch.tensor([[1, 1]]), a_s, a_t)[0]
    torch.testing.assert_close(got[0], torch.tensor([0, 0.5 / 0.8, 0, 0.3 / 0.8], **f64))
    torch.testing.assert_close(got[1], torch.tensor([0, 1.0, 0, 0], **f64))


@pytest.mark.parametrize("chain", [Chain.uniform(4), Chain.absorbing(3)], ids=["uniform", "absorbing"])
@pytest.mark.equation("def-sedd-total-noise")
def test_rates_generate_the_kernel(chain):
    """e^{σ̄(1πᵀ − I)}, and `undo` is its inverse."""
    x, total = torch.arange(chain.states)[None], torch.tensor(0.9, **f64)
    generator = chain.departure_rates(x)[0]
    kernel = torch.linalg.matrix_exp(total * generator)
    torch.testing.assert_close(chain.transition(x, (-total).exp())[0], kernel)
    torch.testing.assert_close(chain.arrival_rates(x)[0], generator.T)
    weights = torch.rand(1, 2, chain.states, **f64)
    undone = chain.undo(weights, torch.exp(-total), torch.ones((), **f64))
    torch.testing.assert_close(undone, weights @ torch.linalg.inv(kernel))


@chain_cases
def test_corruption_draws_from_the_transition(chain, tables):
    torch.manual_seed(0)
    x = torch.tensor([[0, chain.vocab - 1]]).expand(40_000, 2)
    level = torch.tensor([1, 3]).repeat(20_000)
    tokens = chain.corrupt(x, 1 - level.double() / T)
    for i in (1, 3):
        for l, origin in enumerate((0, chain.vocab - 1)):
            histogram = torch.bincount(tokens[level == i, l], minlength=chain.states) / 20_000
            torch.testing.assert_close(histogram.double(), product(tables, 0, i)[origin], rtol=0, atol=0.015)


def test_stationary_laws():
    chain = Chain.absorbing(3)
    assert (chain.states, chain.vocab) == (4, 3)
    torch.testing.assert_close(chain.prior(torch.zeros((), **f64)), chain.stationary)
    torch.testing.assert_close(
        chain.prior(torch.tensor([0.0, 0.3], **f64))[1], torch.tensor([0.1, 0.1, 0.1, 0.7], **f64)
    )
    grey = Chain(torch.eye(5)[2])  # D3PM's images: the absorbing state is a data token
    assert (grey.states, grey.vocab) == (5, 5)


@pytest.mark.fact("M6")
def test_categorical_races_in_float64():
    """The largest float32 Gumbel, −log(−log(1 − 2⁻²⁴)), is 16.64: e⁻¹⁷ is then under-drawn. Ours is float64."""
    assert math.isclose(-math.log(-math.log(1 - 2**-24)), 16.64, abs_tol=0.01)
    n, rare = 4_000_000, 2.0**-19
    torch.manual_seed(0)
    hits = int((categorical(torch.tensor([rare, 1 - rare], **f64).expand(n, 2)) == 0).sum())
    assert abs(hits - n * rare) < 4 * math.sqrt(n * rare)
    probabilities = torch.rand(1000, 5)
    torch.manual_seed(1)
    half = categorical(probabilities)
    torch.manual_seed(1)
    assert (half == categorical(probabilities.double())).all()  # the same race, whatever the dtype of the input
    assert categorical(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist() == [1, 0]


# ------------------------------------------------------------------------------------------------------ schedules

SCHEDULES = [
    LinearSchedule(),
    LinearSchedule(end=1e-3),
    CosineSchedule(),
    CosineSchedule(s=0.0),
    GeometricSchedule(),
    TableSchedule(torch.linspace(0.001, 0.2, 100)),
]
schedule_cases = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


@schedule_cases
@pytest.mark.equation("def-sedd-total-noise")
def test_schedule_rates(schedule):
    t = (torch.rand(64, **f64) * 98 + 1).floor() / 100 + 0.0041  # inside the table's cells
    t.requires_grad_()
    kept, moved, noise = schedule.alpha_bar(t), schedule.moved(t), schedule.total_noise(t)
    torch.testing.assert_close(kept + moved, torch.ones_like(t), rtol=0, atol=1e-14)
    torch.testing.assert_close((-noise).exp(), kept, rtol=1e-12, atol=0)
    for value, rate in ((kept, schedule.alpha_bar_rate(t)), (noise, schedule.noise_rate(t))):
        (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(rate, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(schedule.reveal_rate(t), schedule.noise_rate(t) / torch.expm1(noise), rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.time(moved.detach()), t.detach(), rtol=0, atol=1e-10)


@schedule_cases
def test_no_schedule_asks_the_device_for_a_number(schedule):
    """A meta tensor has none to tell; a GPU would make the CPU wait."""
    there = copy.deepcopy(schedule).to("meta")
    for t in (torch.tensor(0.3, device="meta"), torch.rand(5, device="meta")):
        for value in (there.alpha_bar(t), there.moved(t), there.alpha_bar_rate(t), there.noise_rate(t)):
            assert value.is_meta and value.shape == t.shape


@pytest.mark.parametrize(
    "schedule, expected",
    [
        (LinearSchedule(end=1e-3), 0.999e-13),
        (CosineSchedule(), math.tan(0.008 / 1.008 * math.pi / 2) * math.pi / 2 / 1.008 * 1e-13),
        (CosineSchedule(s=0.0), (math.pi / 2 * 1e-13) ** 2 / 2),
        (GeometricSchedule(noise_min=1e-13, noise_max=1.0), 1e-13),
        (TableSchedule(torch.full((10,), 0.2, **f64)), 2e-13),
    ],
    ids=lambda s: type(s).__name__,
)
def test_little_noise_is_not_lost(schedule, expected):
    """1 − ᾱ at t = 1e-13, by its series: as 1 − keep(t) it would have two digits or none."""
    assert math.isclose(schedule.moved(torch.tensor(1e-13, **f64)), expected, rel_tol=1e-9)


def test_schedule_ends():
    zero, one = torch.zeros((), **f64), torch.ones((), **f64)
    for schedule in SCHEDULES[:4]:
        assert schedule.alpha_bar(zero) == 1 and schedule.moved(zero) == 0
    assert LinearSchedule().alpha_bar(one) == 0 and abs(CosineSchedule().alpha_bar(one)) < 1e-15
    assert math.isclose(LinearSchedule(end=1e-3).alpha_bar(one), 1e-3, rel_tol=1e-12)
    assert math.isclose(GeometricSchedule().total_noise(one), 20, rel_tol=1e-12)
    torch.testing.assert_close(
        LinearSchedule(end=1e-3).reveal_rate(torch.tensor(0.25, **f64)), torch.tensor(4.0, **f64)
    )


# ---------------------------------------------------------------------------------------------- the ideal networks


@pytest.mark.parametrize("chain", [Chain.uniform(3), Chain.absorbing(3)], ids=["uniform", "absorbing"])
@pytest.mark.equation("d3pm-leave-one-out")
@pytest.mark.equation("def-sedd-concrete-score")
def test_ideal_networks_by_brute_force(chain):
    pmf, schedule = random_pmf(3, 3), LinearSchedule()
    law = Enumeration(pmf, chain, schedule)
    t = torch.tensor(0.4, **f64)
    kernel = chain.transition(torch.arange(3)[None], schedule.alpha_bar(t))[0]  # (v, states)
    origins = sequences(3, 3)
    for xt in torch.tensor([[0, 2, chain.states - 1], [chain.states - 1, 1, 1]]):

        def marginal(z):
            """p_t(z), summed over all x_0."""
            return sum(pmf[tuple(x)] * math.prod(kernel[x[l], z[l]] for l in range(3)) for x in origins.tolist())

        batch, times = xt[None], t[None]
        for l, v in itertools.product(range(3), range(3)):
            consistent = [x for x in origins.tolist() if x[l] == v]
            joint = [pmf[tuple(x)] * math.prod(kernel[x[m], xt[m]] for m in range(3)) for x in consistent]
            others = [pmf[tuple(x)] * math.prod(kernel[x[m], xt[m]] for m in range(3) if m != l) for x in consistent]
            total = [
                pmf[tuple(x)] * math.prod(kernel[x[m], xt[m]] for m in range(3) if m != l) for x in origins.tolist()
            ]
            torch.testing.assert_close(law.posterior(batch, times)[0, l, v].exp(), sum(joint) / marginal(xt))
            torch.testing.assert_close(law.leave_one_out(batch, times)[0, l, v].exp(), sum(others) / sum(total))
            neighbour = xt.clone()
            neighbour[l] = v
            torch.testing.assert_close(law.log_score(batch, times)[0, l, v].exp(), marginal(neighbour) / marginal(xt))
    torch.manual_seed(0)
    histogram = torch.bincount((law.sample(20_000) * torch.tensor([9, 3, 1])).sum(1), minlength=27) / 20_000
    torch.testing.assert_close(histogram.double(), pmf.flatten(), rtol=0, atol=0.012)


def test_low_discrepancy_times():
    torch.manual_seed(0)
    model = TokenModel(lambda x, t, y: x, (2,), Chain.uniform(3), LinearSchedule())
    times = model.draw_times(1000)
    assert (times.mul(1000).floor() == torch.arange(1000)).all()  # one in each interval
    means = torch.stack([model.draw_times(64).mean() for _ in range(500)])
    assert means.std() < 0.1 * torch.rand(500, 64).mean(1).std()
    assert abs(means.mean() - 0.5) < 1e-3


# ------------------------------------------------------------------------------------------------------ bad input


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="probability vector"):
        Chain(torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match="vocab"):
        Chain(torch.tensor([0.5, 0.5]), vocab=3)
    with pytest.raises(ValueError, match="doubly stochastic"):
        MatrixChain(torch.tensor([[[0.5, 0.5], [0.1, 0.9]]]))
    with pytest.raises(ValueError, match="alpha_bar = 1 - i/3"):
        MatrixChain(torch.eye(4).expand(3, 4, 4)).level(0.5)
    for bad in (
        lambda: LinearSchedule(end=1.0),
        lambda: GeometricSchedule(2, 1),
        lambda: TableSchedule(torch.zeros(3)),
    ):
        with pytest.raises(ValueError):
            bad()
    with pytest.raises(ValueError, match="pmf"):
        Enumeration(torch.rand(3, 4), Chain.uniform(3), LinearSchedule())


@chain_cases
def test_any_event_shape_is_a_flat_one_reshaped(chain, tables):
    """Kernels, likelihoods, posteriors and draws of tokens (B, 2, 3) are those of (B, 6), at one moment for all and at
    one for each."""
    torch.manual_seed(0)
    flat = torch.randint(chain.vocab, (4, 6))
    image = flat.reshape(4, 2, 3)
    for t, s in ((keep(3), keep(1)), (torch.stack([keep(i) for i in (2, 3, 4, 3)]), torch.stack([keep(1)] * 4))):
        for method in (chain.transition, chain.arrival):
            torch.testing.assert_close(method(image, t, s), method(flat, t, s).reshape(4, 2, 3, -1))
        law = torch.rand(4, 6, chain.vocab, **f64)
        for method in (chain.posterior, chain.mixture):
            got = method(image, law.reshape(4, 2, 3, -1), s, t)
            torch.testing.assert_close(got, method(flat, law, s, t).reshape(4, 2, 3, -1))
        torch.manual_seed(1)
        drawn = chain.corrupt(image, t)
        torch.manual_seed(1)
        assert torch.equal(drawn, chain.corrupt(flat, t).reshape(4, 2, 3))
    many = torch.zeros(2, 2, 20_000, dtype=torch.int64)  # each example at its own moment
    still = (chain.corrupt(many, torch.stack([keep(0), keep(4)])) == 0).double().mean((1, 2))
    assert still[0] == 1 and abs(still[1] - product(tables, 0, 4)[0, 0]) < 0.02


def test_bad_batches_are_refused():
    model = TokenModel(lambda x, t, y: torch.zeros(*x.shape, 3), (2,), Chain.absorbing(3), LinearSchedule())
    x, t = torch.tensor([[0, 2]]), torch.tensor(0.5, **f64)
    assert model(x, t).shape == (1, 2, 3)
    assert model(x + 1, t).shape == (1, 2, 3)  # the mask is read
    with pytest.raises(ValueError, match=r"0\.\.2, got values from 1 to 3"):
        model.corrupt(x + 1, t)  # but it is no data
    with pytest.raises(ValueError, match=r"0\.\.3"):
        model(x - 1, t)
    with pytest.raises(TypeError, match="int64"):
        model(x.float(), t)
    with pytest.raises(TypeError, match="int64"):
        model(x.int(), t)
    with pytest.raises(ValueError, match="shape"):
        model(x[:, :1], t)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        model(x, t + 1)
    with pytest.raises(ValueError, match="network must return"):
        TokenModel(lambda x, t, y: torch.zeros(*x.shape, 4), (2,), Chain.absorbing(3), LinearSchedule())(x, t)
    with pytest.raises(ValueError, match="an axis of tokens"):
        TokenModel(lambda x, t, y: x, (), Chain.uniform(3), LinearSchedule())
    with pytest.raises(ValueError, match="one axis"):
        MDLM(lambda x, t, y: x, (2, 2), 3)
    with pytest.raises(ValueError, match="n must"):
        model.prior(0)


@pytest.mark.fact("M6")
@pytest.mark.equation("mdlm-float32-race")
def test_a_race_in_single_precision_never_draws_what_is_rare():
    """δ/(e^{δ/q} − 1), δ = 2⁻²⁴, against all 2²⁴ values of a float32 uniform; `categorical` draws between
    them."""
    delta = 2.0**-24
    arrivals = -(torch.arange(2**24) / 2.0**24).log()
    assert arrivals.dtype == torch.float32 and math.isclose(arrivals.min(), delta, rel_tol=1e-6)
    assert math.isclose(-math.log(-math.log(1 - delta)), 16.64, abs_tol=0.01)  # the largest Gumbel number
    for q in (1e-8, 1e-7, 1e-6, 1e-4):
        wins = torch.exp(-arrivals.double() / q).mean()
        assert math.isclose(wins, delta / math.expm1(delta / q), rel_tol=1e-3)
    coarse = arrivals[arrivals < 1e-5].double() / delta
    ours = torch.empty(4_000_000, **f64).exponential_()  # the draws of `categorical`
    fine = ours[ours < 1e-5] / delta
    assert (coarse - coarse.round()).abs().max() < 0.01 and (fine - fine.round()).abs().max() > 0.2


@pytest.mark.equation("mdlm-float32-race")
def test_categorical_races_in_double_precision(monkeypatch):
    """Arrivals that differ by 10⁻¹⁰ tie in single precision: the earliest wins all the same, for laws in either."""
    arrivals = 1 + 1e-10 * torch.tensor([[3.0, 2.0, 0.0, 1.0]], dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self: self.copy_(arrivals.to(self.dtype)))
    for dtype in (torch.float32, torch.float64):
        assert categorical(torch.full((1, 4), 0.25, dtype=dtype)).item() == 2


@pytest.mark.equation("def-mdlm-low-discrepancy")
def test_training_times_fill_their_intervals_evenly():
    """One in each n-th of [0, 1], and within it uniform: Kolmogorov's distance at 20,000 draws."""
    torch.manual_seed(0)
    model = TokenModel(lambda x, t, y: x, (2,), Chain.absorbing(3), LinearSchedule())
    times = torch.stack([model.draw_times(5) for _ in range(4000)]) * 5 - torch.arange(5)
    assert times.min() >= 0 and times.max() < 1
    ranks = (torch.arange(20_000) + 0.5) / 20_000
    assert (times.flatten().sort().values - ranks).abs().max() < 1.63 / 20_000**0.5  # one per cent


@pytest.mark.equation("d3pm-marginal")
def test_moments_given_as_numbers_are_read_in_double_precision():
    """Twelve steps that keep 0.88 each, multiplied: ᾱ = 0.88¹² in single precision misses by 1e-8."""
    for chain in (Chain.uniform(4), Chain.absorbing(4)):
        step = 0.88 * torch.eye(chain.states, **f64) + 0.12 * chain.stationary
        many = torch.linalg.matrix_power(step, 12)
        for end in (0.88**12, torch.tensor(0.88**12, **f64)):
            torch.testing.assert_close(chain.kernel_matrix(1.0, end), many, rtol=0, atol=1e-14)
