"""Token laws, by enumeration and against exact cell probabilities."""

import itertools
import math

import pytest
import scipy.stats
import torch

from gmbook import metrics
from gmbook.laws import pairs, plane


def random_law(vocab, length):
    pmf = torch.rand((vocab,) * length, dtype=torch.float64)
    pmf[(0,) * length] = 0
    return pairs.TokenLaw(7 * pmf, "random"), pmf / pmf.sum()


laws = pytest.mark.parametrize("make", pairs.ALL, ids=lambda make: make.__name__)
sizes = pytest.mark.parametrize("vocab, length", [(4, 1), (5, 2), (3, 3)])


@sizes
def test_everything_by_enumeration(vocab, length):
    law, pmf = random_law(vocab, length)
    states = list(itertools.product(range(vocab), repeat=length))
    p = {x: pmf[x].item() for x in states}
    assert sum(p.values()) == pytest.approx(1)
    got = law.log_prob(torch.tensor(states)).exp()
    torch.testing.assert_close(got, torch.tensor([p[x] for x in states], dtype=torch.float64))

    marginals = [[sum(p[x] for x in states if x[l] == v) for v in range(vocab)] for l in range(length)]
    torch.testing.assert_close(law.marginals(), torch.tensor(marginals, dtype=torch.float64))
    entropy = -sum(q * math.log(q) for q in p.values() if q > 0)
    assert law.entropy() == pytest.approx(entropy)
    divergence = sum(
        q * math.log(q / math.prod(marginals[l][x[l]] for l in range(length))) for x, q in p.items() if q > 0
    )
    assert law.mutual_information() == pytest.approx(divergence, abs=1e-12)
    for l in range(length):
        conditional = law.conditional(l)
        for x in states:
            rest = sum(q for z, q in p.items() if z[:l] + z[l + 1 :] == x[:l] + x[l + 1 :])
            assert conditional[x].item() == pytest.approx(p[x] / rest)


def test_conditional_of_what_never_happens_is_zero():
    law = pairs.TokenLaw(torch.tensor([[0.5, 0.5], [0.0, 0.0]]))
    expected = torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(law.conditional(1), expected)


@sizes
def test_samples_and_their_histogram(vocab, length):
    law, pmf = random_law(vocab, length)
    tokens = law.sample(20_000)
    assert tokens.shape == (20_000, length) and tokens.dtype == torch.int64
    histogram = law.histogram(tokens)
    counted = torch.zeros_like(histogram)
    for x in tokens.tolist():
        counted[tuple(x)] += 1
    torch.testing.assert_close(histogram, counted / 20_000)
    possible = pmf > 0
    assert not histogram[~possible].any()
    assert scipy.stats.chisquare(counted[possible], 20_000 * pmf[possible]).pvalue > 1e-3


@pytest.mark.parametrize("make", [plane.two_gaussians, plane.moons, plane.spiral])
def test_cells_of_mixtures_by_error_functions(make):
    """∫ over a cell = Σ_k w_k ΔΦ_k(first axis) ΔΦ_k(second axis), for round components."""
    toy, vocab = make().double(), 32
    law = pairs.discretise(toy, vocab)
    edges = torch.linspace(-3, 3, vocab + 1, dtype=torch.float64)
    std = toy.law.variances.sqrt()[:, :, None]
    mass = torch.special.ndtr((edges - toy.law.means[:, :, None]) / std).diff()  # (K, 2, V)
    pmf = torch.einsum("k,ki,kj->ij", toy.law.weights, mass[:, 0], mass[:, 1])
    torch.testing.assert_close(law.pmf, pmf / pmf.sum(), rtol=1e-6, atol=1e-11)


def test_checkerboard_of_tokens():
    law = pairs.checkerboard()
    squares = law.pmf.reshape(4, 8, 4, 8).transpose(1, 2).reshape(16, 64)  # squares, cells within
    dark = torch.tensor([(i + j) % 2 == 0 for i in range(4) for j in range(4)])
    torch.testing.assert_close(squares[dark], torch.full((8, 64), 1 / 512, dtype=torch.float64))
    assert not squares[~dark].any()
    assert law.mutual_information() == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="multiple of 4"):
        pairs.checkerboard(30)


@laws
def test_the_laws_resemble_their_toys(make):
    law, toy = make(), getattr(plane, make.__name__)()
    assert law.pmf.shape == (32, 32) and law.shape == (2,) and law.vocab == 32 and law.name == toy.name
    low, high = (-2.0, 2.0) if make is pairs.checkerboard else (-3.0, 3.0)
    tokens = ((toy.sample(50_000) - low) / (high - low) * 32).floor().long().clamp(0, 31)
    floor = metrics.tv(law.histogram(law.sample(50_000)), law.pmf)
    assert metrics.tv(law.histogram(tokens), law.pmf) < 1.3 * floor
    assert law.mutual_information() > 0.1


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="pmf must be"):
        pairs.TokenLaw(torch.ones(3, 4))
    with pytest.raises(ValueError, match="pmf must be"):
        pairs.TokenLaw(torch.zeros(3, 3))
    law = pairs.TokenLaw(torch.ones(3, 3))
    for tokens in (torch.tensor([[0, 3]]), torch.tensor([[0, -1]]), torch.tensor([0, 1]), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="expected tokens"):
            law.log_prob(tokens)
        with pytest.raises(ValueError, match="expected tokens"):
            law.histogram(tokens)
