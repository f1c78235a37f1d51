"""D3PM, against full enumeration of bounds and sampler laws, and explicit matrices."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from specimen import Specimen, defaults, token_net, tokens
from token_tools import TokenNet, entropy, exact_law, outer, random_pmf, sequences, total_variation, train
from torch import nn

from gmbook.core.chains import Chain
from gmbook.core.model import Labelled
from gmbook.core.schedules import CosineSchedule, LinearSchedule
from gmbook.core.tokens import Enumeration
from gmbook.networks.token_unet import TokenUNet
from gmbook.papers.d3pm import (
    D3PM,
    TruncatedLogistic,
    band_matrices,
    equal_information_betas,
    gaussian_chain,
    gaussian_matrices,
    nearest_neighbour_chain,
    nearest_neighbour_rates,
    truncated_logistic,
)

SPECIMEN = Specimen(lambda: D3PM(token_net(8), (2,), Chain.uniform(8), steps=5), tokens)

MEASURES = {
    "bound": lambda model, x: model.nelbo(x),
    "fewer steps": lambda model, x: model.sample(3, steps=2),
    "bound by two draws": lambda model, x: model.nelbo(x, draws=2),
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


def test_as_many_jumps_as_steps_and_no_more():
    pmf = random_pmf(3, 2)
    chain, schedule = Chain.absorbing(3), LinearSchedule()
    model = D3PM(Enumeration(pmf, chain, schedule).leave_one_out, (2,), chain, steps=3)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        model.sample(2, steps=0)
    with pytest.raises(ValueError, match="the chain has 3 steps, so a sampler takes at most as many jumps, got 12"):
        model.sample(2, steps=12)
    assert total_variation(model.sample(20_000, steps=3), sampler_law(model)) < 0.02


@pytest.mark.parametrize("greedy", [False, True])
def test_logits_that_are_nan_are_refused_in_sampling(greedy):
    """In the last step too, where argmax would take a NaN for a token."""
    for bad_at in (1, 2):

        def net(xt, t, y=None, bad_at=bad_at):
            return torch.where((2 * t).round() == bad_at, torch.nan, 0.0)[:, None, None].expand(len(xt), 1, 4)

        with pytest.raises(ValueError, match="has the network gone to NaN"):
            D3PM(net, (1,), Chain.uniform(4), steps=2).sample(3, greedy=greedy)


def test_the_bound_counts_what_a_schedule_leaves():
    """L_T is in `nelbo`: at ᾱ = 0.2, for one token under p_0, NELBO = −log p_θ by enumeration, L_T included."""
    model = D3PM(table_net(P0.expand(T + 1, 4, 4)), (1,), Chain.uniform(4), steps=T, schedule=LinearSchedule(end=0.2))
    exact = exact_nelbo(model)
    x = torch.tensor([[2]]).expand(40_000, 1)
    got = model.nelbo(x)
    assert model.prior_kl(x[:1]) > 0.05
    assert abs(got.mean() - exact[2]) < 5 * got.std() / 200 and got.std() / 200 < 0.008


def test_fewer_draws_estimate_the_same_bound():
    """Ranges of unequal length are weighed by it: T = 5 terms by 1, 2, 3, 4 draws, against enumeration."""
    torch.manual_seed(0)
    table = torch.randn(T + 1, 4, 4, **f64).softmax(-1)
    model = D3PM(table_net(table), (1,), Chain.uniform(4), steps=T)
    exact, x = exact_nelbo(model), torch.tensor([[1]]).expand(40_000, 1)
    for draws in (1, 2, 3, 4):
        got = model.nelbo(x, draws=draws)
        assert abs(got.mean() - exact[1]) < 5 * got.std() / 200
    for draws in (0, 6):
        with pytest.raises(ValueError, match=r"draws must lie in 1\.\.5"):
            model.nelbo(x[:2], draws=draws)


def test_images_of_tokens_are_their_flat_tokens():
    """Loss, bound and samples of (1, 2, 3) are those of (6,), for one network that looks at the flat tokens; the loss
    is a mean over tokens, whatever their shape."""
    torch.manual_seed(0)
    weights = torch.randn(5, 5, **f64)

    def net(xt, t, y=None):
        return weights[xt] + t.reshape(-1, *[1] * xt.ndim)

    x = torch.randint(5, (400, 6))
    for chain in (Chain.uniform(5), Chain(torch.eye(5)[2]), gaussian_chain(5, torch.full((4,), 0.3))):
        flat, image = (D3PM(net, shape, chain, steps=4, hybrid=0.1) for shape in ((6,), (1, 2, 3)))
        for measure in (lambda m: m.loss(x.reshape(-1, *m.shape)), lambda m: m.nelbo(x.reshape(-1, *m.shape))):
            values = []
            for model in (flat, image):
                torch.manual_seed(1)
                values.append(measure(model))
            torch.testing.assert_close(*values)
        torch.manual_seed(2)
        drawn = image.sample(50)
        torch.manual_seed(2)
        assert torch.equal(drawn.flatten(1), flat.sample(50))


def test_the_label_reaches_the_network_in_loss_bound_and_samples():
    """Two classes of one token: class y is always token 2y. With the label told, the loss is 0; without, it is not."""

    def net(xt, t, y=None):
        law = torch.full((len(xt), 1, 4), 0.25, **f64) if y is None else F.one_hot(2 * y, 4)[:, None].double()
        return law.clamp(min=1e-12).log()

    class Told(Labelled):
        classes = 2

        def forward(self, xt, t, y=None):
            return net(xt, t, y)

    model = D3PM(Told(), (1,), Chain.uniform(4), steps=T)
    y = torch.tensor([0, 1]).repeat(500)
    x = 2 * y[:, None]
    assert model.loss(x, y) < 1e-6 and model.loss(x) > 0.5
    assert model.nelbo(x, y).mean() < 1e-6 and model.nelbo(x).mean() > 1
    assert torch.equal(model.sample(1000, y), x)


@pytest.mark.equation("def-d3pm-hybrid")
def test_the_cross_entropy_is_that_of_all_tokens():
    """Also of those that did not change: at i = 1 of T = 100 nearly none has, and it is log 4 a token."""
    net = lambda xt, t, y=None: torch.zeros(*xt.shape, 4, **f64)  # noqa: E731
    model = D3PM(net, (3,), Chain.uniform(4), steps=100)
    x = torch.tensor([[0, 1, 3]])
    for changed in (x, torch.tensor([[0, 2, 3]])):
        cross_entropy = model.terms(x, changed, torch.tensor([1]))[1]
        assert cross_entropy.item() == pytest.approx(3 * math.log(4))


# ------------------------------------------------------------------------- bands, equal information, ordered levels


@pytest.mark.equation("def-d3pm-band")
def test_band_matrices_step_to_near_tokens_only():
    """β/V within the band, nothing beyond; doubly stochastic; and a wide band is the uniform chain."""
    for beta, matrix in zip((0.2, 0.9), band_matrices(torch.tensor([0.2, 0.9], **f64), 7, 2)):
        for i, j in itertools.permutations(range(7), 2):
            assert matrix[i, j].item() == pytest.approx(beta / 7 if abs(i - j) <= 2 else 0.0)
        torch.testing.assert_close(matrix.sum(0), torch.ones(7, **f64))
        torch.testing.assert_close(matrix.sum(1), torch.ones(7, **f64))
        assert matrix[0, 0] > matrix[3, 3]  # fewer neighbours at the edge
    wide = band_matrices(torch.tensor([0.3], **f64), 5, 4)[0]
    torch.testing.assert_close(wide, 0.7 * torch.eye(5, **f64) + 0.3 / 5)
    with pytest.raises(ValueError, match=r"beta up to 1\.75"):
        band_matrices(torch.tensor([1.8]), 7, 2)
    with pytest.raises(ValueError, match=r"1\.\.6"):
        band_matrices(torch.tensor([0.1]), 7, 7)


@pytest.mark.equation("d3pm-equal-information")
def test_equal_information_falls_evenly():
    """I(x_0; x_i) of the chain's own products, Σ p log(p/(p_1 p_2)) entry by entry, falls by equal amounts to end."""
    law = torch.tensor([0.3, 0.05, 0.15, 0.2, 0.1, 0.2], **f64)
    points = torch.tensor([[0.0], [1.0], [2.1], [3.3], [3.4], [5.0]])
    rates = nearest_neighbour_rates(points, 2)
    betas = equal_information_betas(rates, law, 8, end=0.02)
    chain = nearest_neighbour_chain(points, 2, betas)
    shares = []
    for kernel in chain.cumulative:
        joint = law[:, None] * kernel
        product = law[:, None] * joint.sum(0)
        shares.append(torch.xlogy(joint, joint / product).sum() / entropy(law))
    torch.testing.assert_close(torch.stack(shares), torch.linspace(1, 0.02, 9, **f64), rtol=0, atol=1e-6)
    for bad in (
        lambda: equal_information_betas(torch.rand(3, 3), torch.ones(3), 4),
        lambda: equal_information_betas(rates, law, 4, end=0.0),
    ):
        with pytest.raises(ValueError, match="symmetric|end must lie"):
            bad()


@pytest.mark.equation("d3pm-truncated-logistic")
def test_truncated_logistic_is_scipys_logistic_in_bins():
    """Masses of the bins by differences of scipy's distribution function, renormalised; in float32 far out too."""
    torch.manual_seed(0)
    mean, log_scale = 0.6 * torch.randn(3, 2, **f64), torch.randn(3, 2, **f64)
    got = truncated_logistic(mean, log_scale, 9).softmax(-1)
    edges = (np.arange(10) - 0.5) / 4 - 1
    for b, l in itertools.product(range(3), range(2)):
        law = scipy.stats.logistic(mean[b, l].item(), math.exp(log_scale[b, l].item() - 2))
        masses = np.diff(law.cdf(edges))
        torch.testing.assert_close(got[b, l], torch.tensor(masses / masses.sum()), rtol=1e-9, atol=1e-12)
    far = truncated_logistic(torch.tensor([0.9]), torch.tensor([-6.0]), 256)  # a scale of 3e-4, bins of 8e-3
    assert far.isfinite().all() and far.argmax() == 242  # (0.9 + 1) · 255/2 = 242.25


def test_a_network_of_two_numbers_stays_near_what_it_sees():
    """With output 0 the mean is tanh of the level seen; a mask counts as the middle."""

    class Zero(nn.Module):
        def forward(self, xt, t, y=None):
            return torch.zeros(*xt.shape, 2)

    net = TruncatedLogistic(Zero(), 9)
    logits = net(torch.tensor([[0, 4, 8, 9]]), torch.ones(1))
    assert logits.argmax(-1).tolist() == [[1, 4, 7, 4]]  # tanh(±1) = ±0.76, at level 4 ± 3.05
    model = D3PM(net, (1, 2, 2), Chain.absorbing(9), steps=3)
    assert model.loss(torch.randint(9, (4, 1, 2, 2))).isfinite()


def test_a_unet_of_tokens_trains_on_images():
    """Zero logits at the start, so the hybrid's cross-entropy begins at log V; both outputs learn 8×8 images of two
    halves, black and white, whose bound falls below a third of what it was."""
    torch.manual_seed(0)
    which = torch.randint(2, (64, 1, 1, 1))
    x = (3 * (torch.arange(8) < 4).long().expand(64, 1, 8, 8) + 0 * which).where(which == 0, 3 * (torch.arange(8) >= 4))
    for chain, wrap in (
        (Chain.absorbing(4), lambda: TokenUNet(1, 5, 4, width=8, multipliers=(1, 2), patch=2)),
        (
            gaussian_chain(4, torch.linspace(0.05, 2.0, 10)),
            lambda: TruncatedLogistic(TokenUNet(1, 4, 2, width=8, multipliers=(1, 2), patch=2), 4),
        ),
    ):
        model = D3PM(wrap(), (1, 8, 8), chain, steps=10, hybrid=0.01)
        before = model.nelbo(x).mean()
        train(model, lambda: x, 60, 3e-3)
        assert model.eval().nelbo(x).mean() < before / 3
        assert model.sample(2).shape == (2, 1, 8, 8)
    logits = TokenUNet(3, 5, 4, width=8)(torch.zeros(2, 3, 8, 8, dtype=torch.int64), torch.rand(2))
    assert logits.shape == (2, 3, 8, 8, 4) and not logits.any()


def test_the_defaults_are_the_papers_constants():
    """arXiv:2107.03006."""
    assert {"steps": 1000}.items() <= defaults(D3PM).items()


def test_what_changes_the_model_is_off_unless_asked_for():
    assert {"hybrid": 0.0}.items() <= defaults(D3PM).items()
