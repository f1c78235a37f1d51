"""LLaDA's samplers against enumeration: which orders keep the law, and what confidence in a draw makes of it."""

import itertools

import pytest
import torch
from specimen import Specimen, token_net, tokens
from token_tools import random_pmf, total_variation

from gmbook.core.chains import Chain
from gmbook.core.schedules import LinearSchedule
from gmbook.core.tokens import Enumeration
from gmbook.papers import llada
from gmbook.papers.mdlm import MDLM

SPECIMEN = Specimen(
    lambda: MDLM(token_net(9), (2,), 8), tokens, lambda model, n: llada.sample(model, n, 2, llada.by_draw)
)

TRIPLE, PAIR = random_pmf(3, 3), random_pmf(4, 2, seed=1)


def ideal(pmf):
    vocab = pmf.shape[0]
    return MDLM(Enumeration(pmf, Chain.absorbing(vocab), LinearSchedule()).posterior, (pmf.ndim,), vocab)


@pytest.mark.parametrize("order", [llada.at_random, llada.by_peak])
@pytest.mark.parametrize("block", [None, 1])
def test_one_token_a_call_in_an_order_that_the_draw_has_no_say_in_keeps_the_law(order, block):
    torch.manual_seed(0)
    assert total_variation(llada.sample(ideal(TRIPLE), 40_000, 3, order, block), TRIPLE) < 0.02


@pytest.mark.equation("mdlm-confidence")
def test_confidence_in_the_draw_changes_the_law_as_the_formula_says():
    """By enumeration of both first draws, and by the formula with its two ranks; the sampler follows them."""
    torch.manual_seed(0)
    first, second = PAIR.sum(1), PAIR.sum(0)
    listed = torch.zeros_like(PAIR)
    for a, b in itertools.product(range(4), repeat=2):
        chance = first[a] * second[b]
        if first[a] >= second[b]:
            listed[a] += chance * PAIR[a] / first[a]
        else:
            listed[:, b] += chance * PAIR[:, b] / second[b]
    rank_a = torch.stack([second[second <= p].sum() for p in first])
    rank_b = torch.stack([first[first < p].sum() for p in second])
    torch.testing.assert_close(PAIR * (rank_a[:, None] + rank_b), listed, rtol=1e-12, atol=1e-12)
    samples = llada.sample(ideal(PAIR), 40_000, 2, llada.by_draw)
    assert total_variation(samples, listed) < 0.02 < 0.05 < total_variation(samples, PAIR)


def test_counts_are_fixed_and_so_two_calls_for_two_tokens_are_exact():
    """MDLM's steps reveal a random number of tokens: with two, both come at once half of the time."""
    torch.manual_seed(0)
    product = PAIR.sum(1, keepdim=True) * PAIR.sum(0)
    at_once = (product - PAIR).abs().sum() / 2
    assert total_variation(llada.sample(ideal(PAIR), 40_000, 2), PAIR) < 0.02
    assert total_variation(ideal(PAIR).sample(40_000, steps=2), PAIR) == pytest.approx(at_once.item() / 2, abs=0.02)


def test_blocks_are_written_from_left_to_right_in_even_shares():
    torch.manual_seed(0)
    model = MDLM(lambda xt, t, y: torch.zeros(*xt.shape, 5), (12,), 5)
    left = torch.stack([(x == 5).sum(1) for x in llada.trajectory(model, 50, 5)])
    assert torch.equal(left, torch.tensor([12, 10, 7, 5, 2, 0])[:, None].expand(6, 50))
    states = torch.stack(list(llada.trajectory(model, 50, 6, block=4)))  # (7, 50, 12)
    hidden = (states == 5).unflatten(2, (3, 4)).sum(-1)
    want = [[4, 4, 4], [2, 4, 4], [0, 4, 4], [0, 2, 4], [0, 0, 4], [0, 0, 2], [0, 0, 0]]
    assert torch.equal(hidden, torch.tensor(want)[:, None].expand(7, 50, 3))
    kept = states[:-1] != 5
    assert torch.equal(states[1:][kept], states[:-1][kept])  # what shows stands


def test_scores_are_those_of_the_guesses():
    guesses = torch.tensor([[[0.7, 0.3], [0.4, 0.6]]], dtype=torch.float64)
    drawn = torch.tensor([[1, 1]])
    torch.testing.assert_close(llada.by_draw(guesses, drawn), torch.tensor([[0.3, 0.6]], dtype=torch.float64))
    torch.testing.assert_close(llada.by_peak(guesses, drawn), torch.tensor([[0.7, 0.6]], dtype=torch.float64))


def test_labels_reach_the_network():
    seen, y = [], torch.tensor([1, 0, 2])
    model = MDLM(lambda xt, t, y: (seen.append(y), torch.zeros(*xt.shape, 5))[1], (4,), 5)
    llada.sample(model, 3, 2, y=y)
    assert len(seen) == 2 and all(torch.equal(label, y) for label in seen)


def test_impossible_counts_are_refused():
    model = ideal(TRIPLE)
    for calls, block in ((4, None), (2, 1), (3, 2)):
        with pytest.raises(ValueError, match="blocks must fill the window"):
            llada.sample(model, 2, calls, block=block)
    with pytest.raises(ValueError, match="untimed"):
        llada.sample(MDLM(token_net(9), (2,), 8, timed=True), 2, 2)
