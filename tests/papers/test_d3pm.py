"""D3PM, against full enumeration of bounds and sampler laws, and explicit matrices."""

import itertools
import math

import pytest
import torch
from specimen import Specimen, token_net, tokens
from token_tools import TokenNet, entropy, exact_law, outer, random_pmf, sequences, total_variation, train

from gmbook.core.chains import Chain
from gmbook.core.schedules import CosineSchedule, LinearSchedule
from gmbook.core.tokens import Enumeration
from gmbook.papers.d3pm import D3PM, gaussian_chain, gaussian_matrices, nearest_neighbour_chain, nearest_neighbour_rates

SPECIMEN = Specimen(lambda: D3PM(token_net(8), (2,), Chain.uniform(8), steps=5), tokens)

MEASURES = {
    "bound": lambda model, x: model.nelbo(x),
    "fewer steps": lambda model, x: model.sample(3, steps=2),
    "more steps": lambda model, x: model.sample(3, steps=8),
    "mixture": lambda model, x: (
        D3PM(token_net(9), (2,), Chain.absorbing(8), 4, form="mixture").to(model.device).sample(3)
    ),
    "a table": lambda model, x: (
        D3PM(token_net(8), (2,), gaussian_chain(8, torch.full((4,), 0.1)), steps=4).to(model.device).sample(3)
    ),
}

f64 = {"dtype": torch.float64}
P0 = torch.tensor([0.5, 0.2, 0.2, 0.1], **f64)
T = 5


def table_net(table: torch.Tensor, steps: int = T):
    """A network that looks p̃(x_0 | x_t, i) up in a table (T + 1, states, V), for one token."""
    return lambda xt, t, y=None: table[(t * steps).round().long()[:, None], xt].log()


def exact_nelbo(model: D3PM) -> torch.Tensor:
    """L_vb(x_0) of every x_0, (V^L,), with E over x_t by enumeration."""
    vocab, length = model.chain.vocab, model.shape[0]
    origins, states = sequences(vocab, length), sequences(model.chain.states, length)
    x, xt = origins.repeat_interleave(len(states), 0), states.repeat(len(origins), 1)
    total = model.prior_kl(origins)
    for i in range(1, model.steps + 1):
        index = torch.full((len(x),), i)
        weights = outer(model.chain.transition(origins, model.schedule.alpha_bar(torch.tensor(i / model.steps, **f64))))
        kl = model.terms(x, xt, index)[0].reshape(weights.shape)
        total = total + torch.where(weights > 0, weights * kl, 0.0).sum(1)
    return total


def sampler_law(model: D3PM, steps: int | None = None) -> torch.Tensor:
    """The exact law of the ancestral sampler on data tokens: (V,) * L."""
    levels = torch.linspace(model.steps, 0, (steps or model.steps) + 1).round() / model.steps
    moves = [lambda x, t=t, s=s: model.reverse(x, t, s) for t, s in itertools.pairwise(levels.double())]
    start = model.chain.prior(model.schedule.alpha_bar(torch.ones((), **f64)))
    law = exact_law(start, moves, model.shape[0])
    cube = law.reshape((model.chain.states,) * model.shape[0])
    inside = (slice(model.chain.vocab),) * model.shape[0]
    assert abs(cube[inside].sum() - 1) < 1e-9  # no mask is left
    return cube[inside]


# --------------------------------------------------------------------------------------------- the transition matrices


@pytest.mark.fact("D3PM-D1c")
@pytest.mark.equation("d3pm-doubly-stochastic")
@pytest.mark.equation("def-d3pm-gaussian")
def test_discretised_gaussian():
    matrices = gaussian_matrices(torch.tensor([0.02, 0.3, 2.0]), 16)
    for beta, matrix in zip(torch.tensor([0.02, 0.3, 2.0], dtype=torch.float32).double().tolist(), matrices):
        torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-15)
        torch.testing.assert_close(matrix.sum(0), torch.ones(16, **f64), rtol=0, atol=1e-12)
        assert matrix.min() >= 0
        norm = sum(math.exp(-4 * n**2 / (15**2 * beta)) for n in range(-15, 16))
        for i, j in itertools.permutations(range(16), 2):
            assert math.isclose(matrix[i, j], math.exp(-4 * (i - j) ** 2 / (15**2 * beta)) / norm, rel_tol=1e-9)


@pytest.mark.fact("D3PM-D1d")
def test_the_codes_value_grid_is_the_papers_at_256_only():
    """Official code: values linspace(0, 255, V) · 2/(V − 1) in the exponent −v²/β; the paper's are 2n/(V − 1)."""

    def code(beta: float, vocab: int) -> torch.Tensor:
        values = torch.linspace(0, 255, vocab, **f64) * 2 / (vocab - 1)
        weights = (-(torch.cat([values.flip(0)[:-1], values]) ** 2) / beta).softmax(0)[vocab - 1 :]
        matrix = torch.zeros(vocab, vocab, **f64)
        for k in range(1, vocab):
            band = torch.full((vocab - k,), float(weights[k]), **f64)
            matrix += torch.diag(band, k) + torch.diag(band, -k)
        return matrix + torch.diag(1 - matrix.sum(1))

    beta = torch.tensor([0.02], **f64)
    torch.testing.assert_close(gaussian_matrices(beta, 256)[0], code(0.02, 256), rtol=0, atol=1e-12)
    assert (gaussian_matrices(beta, 16)[0] - code(0.02, 16)).abs().max() > 1e-3


@pytest.mark.equation("def-d3pm-neighbours")
def test_nearest_neighbours():
    rates = nearest_neighbour_rates(torch.tensor([[0.0], [1.0], [2.1], [3.3]]), 1)  # nearest: 0-1, 1-0, 2-1, 3-2
    expected = torch.tensor([[-1, 1, 0, 0], [1, -1.5, 0.5, 0], [0, 0.5, -1, 0.5], [0, 0, 0.5, -0.5]], **f64)
    torch.testing.assert_close(rates, expected)
    chain = nearest_neighbour_chain(torch.tensor([[0.0], [1.0], [2.1], [3.3]]), 1, torch.full((40,), 0.5))
    torch.testing.assert_close(chain.matrices[0], torch.linalg.matrix_exp(0.5 * expected))
    torch.testing.assert_close(chain.cumulative[-1], torch.full((4, 4), 0.25, **f64), rtol=0, atol=1e-2)
    with pytest.raises(ValueError, match="neighbours"):
        nearest_neighbour_rates(torch.rand(4, 2), 4)


# ---------------------------------------------------------------------------------------------- the bound, one token


@pytest.mark.fact("D3PM-D3")
@pytest.mark.equation("d3pm-elbo")
def test_the_bound_bounds():
    """NELBO ≥ −log p_θ(x_0), the sampler's exact law, for random networks."""
    torch.manual_seed(0)
    for chain, form in itertools.product((Chain.uniform(4), Chain.absorbing(4)), ("joint", "mixture")):
        table = torch.randn(T + 1, chain.states, 4, **f64).mul(2).softmax(-1)
        model = D3PM(table_net(table), (1,), chain, steps=T, form=form)
        gap = exact_nelbo(model) + sampler_law(model).log()
        assert gap.min() > 1e-3  # a bound, and not an equality


@pytest.mark.fact("D3PM-D3b")
@pytest.mark.equation("d3pm-leave-one-out")
def test_joint_form_is_exact_with_the_leave_one_out_law():
    """One token has no others: the leave-one-out law is p_0, and NELBO = NLL = −log p_0."""
    model = D3PM(table_net(P0.expand(T + 1, 4, 4)), (1,), Chain.uniform(4), steps=T)
    torch.testing.assert_close(exact_nelbo(model), -P0.log(), rtol=0, atol=1e-12)
    torch.testing.assert_close(sampler_law(model), P0, rtol=0, atol=1e-12)


@pytest.mark.fact("D3PM-D3c")
def test_joint_form_is_wrong_with_the_posterior():
    law = Enumeration(P0, Chain.uniform(4), LinearSchedule())
    model = D3PM(law.posterior, (1,), law.chain, steps=T)
    error = (sampler_law(model).log() - P0.log()).abs().max()
    assert math.isclose(error, 0.45, abs_tol=0.02)  # nats


@pytest.mark.fact("D3PM-D4")
def test_the_two_forms_differ():
    torch.manual_seed(0)
    table = torch.rand(T + 1, 4, 4, **f64).softmax(-1)
    x, t, s = torch.tensor([[1]]), torch.tensor(3 / T, **f64), torch.tensor(2 / T, **f64)
    joint, mixture = (
        D3PM(table_net(table), (1,), Chain.uniform(4), steps=T, form=f).reverse(x, t, s) for f in ("joint", "mixture")
    )
    assert (joint - mixture).abs().max() > 0.01
    absorbing = [  # "but for an absorbing chain the two agree"
        D3PM(table_net(table.repeat(1, 2, 1)), (1,), Chain.absorbing(4), steps=T, form=f) for f in ("joint", "mixture")
    ]
    torch.testing.assert_close(*(m.reverse(torch.arange(5)[:, None], t, s) for m in absorbing))


@pytest.mark.fact("D3PM-D4c")
@pytest.mark.equation("d3pm-mixture-form")
def test_mixture_form_is_exact_with_the_posterior():
    """q(x_{t−1} | x_t) ∝ q(x_{t−1}) q(x_t | x_{t−1}), from explicit matrices."""
    law = Enumeration(P0, Chain.uniform(4), LinearSchedule())
    model = D3PM(law.posterior, (1,), law.chain, steps=T, form="mixture")
    tables = [(1 - b) * torch.eye(4, **f64) + b / 4 for b in (1 / (T - i + 1) for i in range(1, T + 1))]
    marginal = P0
    for i, table in enumerate(tables, 1):
        for v in range(4):
            expected = marginal * table[:, v]
            got = model.reverse(torch.tensor([[v]]), torch.tensor(i / T, **f64), torch.tensor((i - 1) / T, **f64))
            torch.testing.assert_close(got[0, 0], expected / expected.sum(), rtol=0, atol=1e-12)
        marginal = marginal @ table
    torch.testing.assert_close(exact_nelbo(model), -P0.log(), rtol=0, atol=1e-12)


@pytest.mark.fact("D3PM-D5")
@pytest.mark.equation("d3pm-absorbing-kl")
def test_absorbing_term_is_a_weighted_cross_entropy():
    """With β_t = 1/(T − t + 1): L_{t−1} = (1/t) CE where x_t is the mask, else 0."""
    torch.manual_seed(0)
    table = torch.rand(T + 1, 5, 4, **f64).softmax(-1)
    model = D3PM(table_net(table), (1,), Chain.absorbing(4), steps=T)
    for i, v in itertools.product(range(1, T + 1), range(4)):
        x, index = torch.tensor([[v]]), torch.tensor([i])
        kl, cross_entropy = model.terms(x, torch.tensor([[4]]), index)
        torch.testing.assert_close(cross_entropy[0], -table[i, 4, v].log())
        torch.testing.assert_close(kl, cross_entropy / i, rtol=0, atol=1e-12)
        if i < T:  # at T no token is left to show
            assert model.terms(x, x, index)[0].abs() < 1e-12


def test_prior_term_counts_what_a_schedule_leaves():
    """L_T = KL(k δ + (1 − k)/V ‖ 1/V), zero at k = 0."""
    x = torch.tensor([[2]])
    model = D3PM(table_net(P0.expand(T + 1, 4, 4)), (1,), Chain.uniform(4), steps=T, schedule=LinearSchedule(end=0.2))
    p, q = 0.2 + 0.8 / 4, 0.8 / 4
    torch.testing.assert_close(model.prior_kl(x), torch.tensor([p * math.log(4 * p) + 3 * q * math.log(4 * q)], **f64))
    assert D3PM(model.net, (1,), model.chain, steps=T).prior_kl(x) == 0


# ---------------------------------------------------------------------------------------- two tokens, exact networks

PMF = random_pmf(4, 2)
GAUSSIAN = gaussian_chain(4, torch.linspace(0.05, 0.6, 64))


@pytest.mark.parametrize(
    "chain", [Chain.uniform(4), Chain.absorbing(4), GAUSSIAN], ids=["uniform", "absorbing", "gauss"]
)
@pytest.mark.parametrize("form", ["joint", "mixture"])
def test_samples_and_bound_tend_to_the_truth(chain, form):
    """The exact sampler law and E NELBO: bound ≥ cross-entropy ≥ entropy at every T, gaps falling as T grows."""
    law = Enumeration(PMF, chain, LinearSchedule())
    net = law.leave_one_out if form == "joint" else law.posterior
    model = D3PM(net, (2,), chain, steps=64, form=form)
    gaps = []
    for steps in (1, 2, 8, 64):
        sampled = sampler_law(model, steps)
        gaps.append(float((sampled - PMF).abs().sum() / 2))
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.12 * gaps[0]
    bound = (PMF.flatten() * exact_nelbo(model)).sum()
    cross_entropy = -(PMF * sampler_law(model).log()).sum()
    assert entropy(PMF) < cross_entropy < bound < entropy(PMF) + 0.06
    one_step = outer(torch.stack([PMF.sum(1), PMF.sum(0)])[None]).reshape(4, 4)
    if chain is not GAUSSIAN:  # whose x_T keeps a trace of x_0
        torch.testing.assert_close(sampler_law(model, 1), one_step, rtol=0, atol=1e-6)


def test_sampler_and_estimates_agree_with_enumeration():
    torch.manual_seed(0)
    law = Enumeration(PMF, Chain.uniform(4), CosineSchedule())
    model = D3PM(law.posterior, (2,), law.chain, steps=8, schedule=law.schedule, form="mixture")
    samples = model.sample(20_000)
    assert samples.shape == (20_000, 2) and samples.dtype == torch.int64
    assert total_variation(samples, sampler_law(model)) < 0.02
    assert total_variation(model.sample(20_000, steps=2), sampler_law(model, 2)) < 0.02
    x = torch.tensor([[1, 3]])
    exact = exact_nelbo(model)[7]
    estimate = model.nelbo(x.expand(20_000, 2))
    assert abs(estimate.mean() - exact) < 4 * estimate.std() / 20_000**0.5
    batch = x.expand(100_000, 2)
    assert abs(2 * model.loss(batch) - (exact - model.prior_kl(x)[0])) < 0.06
    hybrid = D3PM(law.posterior, (2,), law.chain, steps=8, schedule=law.schedule, form="mixture", hybrid=0.5)
    assert hybrid.loss(batch) > model.loss(batch) + 0.1


@pytest.mark.equation("def-d3pm-hybrid")
def test_hybrid_adds_the_cross_entropy():
    """On one masked token all is known: x_T = mask, L = (1/T) CE, so T/L (L + λ CE) = (1 + λT) CE."""
    law = P0.expand(2, 5, 4)
    model = D3PM(table_net(law, 1), (1,), Chain.absorbing(4), steps=1, hybrid=0.3)
    torch.testing.assert_close(model.loss(torch.tensor([[1]])), -1.3 * P0[1].log())


def test_greedy_last_step_narrows_the_law():
    torch.manual_seed(0)
    law = Enumeration(P0, Chain.absorbing(4), LinearSchedule())
    model = D3PM(law.posterior, (1,), law.chain, steps=2)
    greedy = (model.sample(4000, greedy=True) == 0).double().mean()
    assert greedy > 0.7 > (model.sample(4000) == 0).double().mean() + 0.1


@pytest.mark.parametrize("form", ["joint", "mixture"])
@pytest.mark.parametrize(
    "chain", [Chain.uniform(4), Chain.absorbing(4), GAUSSIAN], ids=["uniform", "absorbing", "gauss"]
)
def test_trains(chain, form):
    """A float32 network learns: the bound comes near the entropy, with finite gradients."""
    torch.manual_seed(0)
    law = Enumeration(PMF, chain, LinearSchedule())
    model = D3PM(TokenNet(chain.states, 4, 2), (2,), chain, steps=64, form=form, hybrid=0.001)
    before = model.nelbo(law.sample(2000)).mean()
    train(model, lambda: law.sample(256), 250)
    after = model.nelbo(law.sample(2000)).mean()
    assert after < entropy(PMF) + 0.25 < before
    assert all(p.isfinite().all() for p in model.parameters())


def test_bad_arguments_are_refused():
    net = table_net(P0.expand(T + 1, 4, 4))
    with pytest.raises(ValueError, match="unknown form"):
        D3PM(net, (1,), Chain.uniform(4), form="product")
    with pytest.raises(ValueError, match="steps"):
        D3PM(net, (1,), Chain.uniform(4), steps=0)
    with pytest.raises(TypeError, match="int64"):
        D3PM(net, (1,), Chain.uniform(4), steps=T).loss(torch.rand(2, 1))
    with pytest.raises(ValueError, match=r"0\.\.3"):
        D3PM(net, (1,), Chain.absorbing(4), steps=T).nelbo(torch.tensor([[4]]))
    with pytest.raises(ValueError, match="divides 64"):
        D3PM(net, (1,), GAUSSIAN, steps=T).loss(torch.tensor([[1]] * 64))


def test_no_steps_are_refused_and_more_than_there_are_stand_still():
    """At ᾱ = 0, where several of 12 times fall on T = 3's first, the step between equal moments was 0/0."""
    pmf = random_pmf(3, 2)
    chain, schedule = Chain.absorbing(3), LinearSchedule()
    model = D3PM(Enumeration(pmf, chain, schedule).leave_one_out, (2,), chain, steps=3)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        model.sample(2, steps=0)
    few, many = (total_variation(model.sample(20_000, steps=steps), pmf) for steps in (3, 12))
    assert abs(few - many) < 0.02
