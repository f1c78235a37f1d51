"""ReMDM against MDLM's own steps followed by forward noise, and its exact law on pairs of tokens."""

import itertools

import pytest
import torch
from specimen import Specimen, token_net, tokens
from token_tools import exact_law, random_pmf, sequences, total_variation

from gmbook.core.chains import Chain
from gmbook.core.schedules import CosineSchedule, LinearSchedule
from gmbook.core.tokens import Enumeration
from gmbook.papers import remdm
from gmbook.papers.mdlm import MDLM

SPECIMEN = Specimen(lambda: MDLM(token_net(9), (2,), 8), tokens, lambda model, n: remdm.sample(model, n, 5))

f64 = {"dtype": torch.float64}
V = 4
PAIR = random_pmf(V, 2, seed=1)


def ideal(pmf=PAIR, schedule=None):
    exact = Enumeration(pmf, Chain.absorbing(V), LinearSchedule()).posterior
    return MDLM(exact, (2,), V, schedule)


def law_of(model, steps, rescale):
    """The exact law of the sampler: each step as MDLM's own to ᾱ_s/(1 − σ), then masking with probability σ."""
    times = torch.linspace(1, 0, steps + 1, **f64)

    def walk(t, s):
        alpha_t, alpha_s = (1 - model.schedule.moved(u) for u in (t, s))
        sigma = rescale * min(1.0, ((1 - alpha_s) / alpha_t).item() if alpha_t > 0 else 1.0)

        def step(states):
            guess = model.log_probs(states, t).double().exp()
            further = alpha_s / (1 - sigma) if sigma < 1 else torch.zeros((), **f64)
            masked = (states == V)[..., None]
            tokens = torch.where(masked, (further - alpha_t) / (1 - alpha_t) * guess, guess) * (1 - sigma)
            return torch.cat([tokens, 1 - tokens.sum(-1, keepdim=True)], -1)

        return step

    start = torch.zeros(V + 1, **f64)
    start[V] = 1
    law = exact_law(start, [walk(t, s) for t, s in itertools.pairwise(times)], 2).unflatten(0, (V + 1, V + 1))
    return law[:V, :V]


@pytest.mark.equation("mdlm-remask")
@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule(0.0)], ids=["linear", "cosine"])
def test_as_many_tokens_show_as_without(schedule):
    """By counting: the share that shows after each step is ᾱ, for any σ; and tokens that showed are masked again."""
    torch.manual_seed(0)
    for rescale in (0.0, 0.5, 1.0):
        states = torch.stack(list(remdm.trajectory(ideal(schedule=schedule), 40_000, 5, rescale)))
        shows = (states != V).double().mean((1, 2))
        want = 1 - schedule.moved(torch.linspace(1, 0, 6, **f64))
        torch.testing.assert_close(shows, want, rtol=0, atol=6 * 0.5 / 80_000**0.5)
        again = ((states[1:-1] == V) & (states[:-2] != V)).any()
        assert bool(again) == (rescale > 0)


@pytest.mark.equation("mdlm-remask")
def test_a_step_is_mdlms_own_further_one_and_forward_noise():
    torch.manual_seed(0)
    for rescale in (0.0, 0.3, 0.6):
        want = law_of(ideal(), 4, rescale)
        assert want.sum().item() == pytest.approx(1, abs=1e-12)
        assert total_variation(remdm.sample(ideal(), 40_000, 4, rescale), want) < 0.02
    torch.testing.assert_close(
        law_of(ideal(), 4, 0.0), 0.75 * PAIR + 0.25 * PAIR.sum(1, keepdim=True) * PAIR.sum(0), rtol=0, atol=1e-12
    )


def test_it_pays_where_the_first_answer_is_wrong_and_costs_where_all_are_right():
    """Exact laws: with exact guesses remasking draws more often in parallel; with a wrong answer to nothing but masks
    and right answers else, more of MDLM's steps do not help, and remasking does."""
    right = [law_of(ideal(), 16, rescale) for rescale in (0.0, 0.3)]
    gaps = [(law - PAIR).abs().sum() / 2 for law in right]
    assert gaps[0] < gaps[1]
    exact = Enumeration(PAIR, Chain.absorbing(V), LinearSchedule()).posterior
    wrong = MDLM(lambda xt, t, y: torch.where((xt == V).all(1)[:, None, None], 0.0, exact(xt, t)), (2,), V)
    plain, remasked = ([(law_of(wrong, n, r) - PAIR).abs().sum() / 2 for n in (16, 64, 256)] for r in (0.0, 0.3))
    assert plain[2] > 0.9 * plain[0] and remasked[0] > remasked[1] > remasked[2] and remasked[2] < plain[2] / 2


def test_all_states_are_tokens_or_masks_and_the_end_has_none():
    states = list(remdm.trajectory(ideal(), 50, 7, 0.4))
    assert len(states) == 8 and (states[0] == V).all() and states[-1].max() < V
    assert {tuple(row) for row in states[3].tolist()} <= {tuple(row) for row in sequences(V + 1, 2).tolist()}


def test_labels_reach_the_network():
    seen, y = [], torch.tensor([1, 0, 2])
    model = MDLM(lambda xt, t, y: (seen.append(y), torch.zeros(*xt.shape, 5))[1], (4,), 5)
    remdm.sample(model, 3, 2, y=y)
    assert len(seen) == 2 and all(torch.equal(label, y) for label in seen)


def test_a_share_beyond_one_is_refused():
    for rescale in (-0.1, 1.5):
        with pytest.raises(ValueError, match="share of the largest"):
            remdm.sample(ideal(), 2, 3, rescale)


@pytest.mark.equation("mdlm-remask")
@pytest.mark.parametrize(("t", "s", "most"), [(0.9, 0.8, 1.0), (0.2, 0.1, 0.125)])
def test_the_share_is_of_the_largest_chance_that_there_can_be(t, s, most):
    """min(1, (1 − ᾱ_s)/ᾱ_t), with ᾱ = 1 − t, in numbers."""
    again, revealed = remdm.chances(ideal(), torch.tensor(t, **f64), torch.tensor(s, **f64), 0.3)
    assert again.item() == pytest.approx(0.3 * most)
    assert revealed.item() == pytest.approx(((1 - s) - (1 - 0.3 * most) * (1 - t)) / t)
