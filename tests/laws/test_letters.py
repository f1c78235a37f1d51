"""The law of letters against enumeration: its masses, its conditionals for every pattern of masks, its samples."""

import itertools

import pytest
import torch
from token_tools import sequences, total_variation

from gmbook import data
from gmbook.laws.letters import LetterChain

V, L = 3, 5
TEXT = torch.randint(V, (200,), generator=torch.Generator().manual_seed(1))
orders = pytest.mark.parametrize("order", [0, 1, 2, 3])


@orders
def test_masses_sum_to_one_and_samples_follow_them(order):
    chain = LetterChain.fit(TEXT, order, V, prior=0.5)
    pmf = chain.log_prob(sequences(V, L)).exp()
    assert abs(pmf.sum() - 1) < 1e-12
    assert total_variation(chain.sample(20_000, L), pmf.reshape((V,) * L)) < 0.06


@orders
def test_every_conditional_is_that_of_the_whole_table(order):
    """For each of the 2^L patterns of masks, on a random line: against sums over all fillings."""
    chain = LetterChain.fit(TEXT, order, V, prior=0.5)
    pmf = chain.log_prob(sequences(V, L)).exp().reshape((V,) * L)
    line = torch.tensor([1, 0, 2, 2, 1])
    patterns = torch.tensor(list(itertools.product([False, True], repeat=L)))
    got = chain.posterior(torch.where(patterns, V, line)).exp()
    for hidden, laws in zip(patterns.tolist(), got):
        table = pmf
        for l, masked in enumerate(hidden):
            if not masked:
                table = table.index_select(l, line[l : l + 1])
        for l, masked in enumerate(hidden):
            expected = table.sum([m for m in range(L) if m != l])
            expected = expected / expected.sum() if masked else torch.eye(V).double()[line[l]]
            torch.testing.assert_close(laws[l], expected, rtol=0, atol=1e-12)


def test_fitting_counts_and_smooths():
    """aab aab …: after "aa" comes b, after "ab" a; a context never seen falls back on the shorter one."""
    chain = LetterChain.fit(torch.tensor([0, 0, 1] * 100), 2, V, prior=1e-3)
    assert chain.tables[2][0, 0, 1] > 0.999 and chain.tables[2][0, 1, 0] > 0.999
    torch.testing.assert_close(chain.tables[2][2, 1], chain.tables[1][1])
    torch.testing.assert_close(chain.tables[0][:2], torch.tensor([2 / 3, 1 / 3]).double(), atol=1e-4, rtol=0)


def test_longer_contexts_fit_english_better():
    train, valid = data.prose("train").tokens, data.prose("valid").chunks(50)
    bits = [-LetterChain.fit(train, k).log_prob(valid).mean() / 50 / 0.6931 for k in (0, 1, 2)]
    assert 4.3 > bits[0] > bits[1] + 0.4 > bits[2] + 0.6


def test_bad_arguments_are_refused():
    chain = LetterChain.fit(TEXT, 2, V)
    with pytest.raises(ValueError, match="at least as many"):
        chain.posterior(torch.full((1, 1), V))
    with pytest.raises(ValueError, match="order 1"):
        LetterChain([torch.full((3,), 1 / 3), torch.full((3, 3), 0.5)])
