"""Token diffusions on text8 at equal steps: the same text and recipe, bounds that are known, gaps that are filled."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gmbook import data, experiments
from gmbook.core.chains import Chain
from gmbook.core.schedules import LinearSchedule
from gmbook.experiments import d3pm, infilling, mdlm, sedd
from gmbook.laws.letters import LetterChain
from gmbook.papers.d3pm import D3PM
from gmbook.papers.sedd import SEDD

COMPARED = (("mdlm", "plain"), ("d3pm", "absorbing"), ("sedd", "absorbing"), ("sedd", "uniform"))
compared = pytest.mark.parametrize(("paper", "name"), COMPARED)
PROSE = data.prose("train")
CHAIN = LetterChain.fit(PROSE.tokens, 1)
KERNELS = pytest.mark.parametrize("kernel", sedd.KERNELS)


@pytest.mark.parametrize("budget", ["laptop", "gpu"])
def test_all_have_mdlm_s_recipe_and_steps_and_one_stream(budget, data_home):
    found = [experiments.find(paper, f"text8_{name}", budget) for paper, name in COMPARED]
    assert {repr(e.recipe) for e in found} == {repr(experiments.find("mdlm", "text8", budget).recipe)}
    windows = [next(e.batches(3, 4))[0] for e in found]
    assert all(torch.equal(windows[0], x) for x in windows)
    shapes = [{name: p.shape for name, p in e.model().net.named_parameters()} for e in found[:2]]
    assert shapes[0] == shapes[1]  # D3PM's network is MDLM's


@KERNELS
def test_sedd_is_told_the_time_and_has_its_paper_s_noise(kernel):
    model = sedd.letters(kernel, 32, 1, 2, 8)
    assert model.net.condition.time[-1].out_features == 8
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    alpha_bar = {"absorbing": 1 - 0.999 * t, "uniform": torch.exp(-(1e-4 ** (1 - t)) * 20**t)}[kernel]
    torch.testing.assert_close(model.schedule.alpha_bar(t), alpha_bar)
    law = {"absorbing": [0.0] * 27 + [1.0], "uniform": [1 / 27] * 27}[kernel]
    torch.testing.assert_close(model.chain.stationary, torch.tensor(law, dtype=torch.float64))


def test_d3pm_has_its_paper_s_weight_of_the_guesses_and_steps():
    model = d3pm.letters(16, 1, 2, 8)
    assert (model.hybrid, model.steps) == (0.01, 1000)
    torch.testing.assert_close(model.chain.stationary, torch.tensor([0.0] * 27 + [1.0], dtype=torch.float64))


@compared
def test_a_model_that_knows_nothing_pays_log_27(paper, name):
    """Outputs are 0 at first: a uniform guess, or the ratios of uniform letters. SEDD's bound varies with its draws."""
    torch.manual_seed(0)
    make = {"mdlm": mdlm.mdlm, "d3pm": d3pm.letters, "sedd": lambda *net: sedd.letters(name, *net)}[paper]
    nats = {"mdlm": mdlm.bound, "d3pm": d3pm.bound, "sedd": sedd.bound}[paper]
    found = mdlm.bits(nats, make(16, 1, 2, 64).eval(), torch.randint(27, (200, 64)))
    error = found.std().item() / len(found) ** 0.5
    assert found.mean().item() == pytest.approx(math.log2(27), abs=max(1e-5, 4 * error)) and error < 0.05


def as_ratios(xt, t, y=None):
    """The ideal guess of a letter chain as SEDD's log-scores of an absorbing chain: log x_θ − log(e^σ̄ − 1)."""
    noise = (
        LinearSchedule(end=1e-3).total_noise(t.double()).clamp(min=1e-9)
    )  # at t = 0, where no mask is left, ratios are 1/0
    guess = CHAIN.posterior(xt, t, y).double().log_softmax(-1).clamp(min=-60)  # what cannot be has log 0
    return guess - torch.expm1(noise).log().reshape(-1, 1, 1)


@pytest.mark.parametrize(
    ("nats", "model"),
    [
        (d3pm.bound, D3PM(CHAIN.posterior, (16,), Chain.absorbing(27), steps=1000)),
        (sedd.bound, SEDD(as_ratios, (16,), Chain.absorbing(27))),
    ],
    ids=["d3pm", "sedd"],
)
def test_the_bound_of_an_ideal_network_is_its_exact_bits(nats, model):
    """In one harness, and so beside MDLM's in test_mdlm: a letter chain, against the chain rule."""
    torch.manual_seed(0)
    windows = CHAIN.sample(300, 16)
    difference = mdlm.bits(nats, model, windows) + CHAIN.log_prob(windows) / 16 / math.log(2)
    assert abs(difference.mean()) < 4 * difference.std() / 300**0.5 and difference.std() < 0.5


@KERNELS
def test_what_is_given_stands_and_a_gap_is_filled(kernel):
    torch.manual_seed(0)
    model, windows = sedd.letters(kernel, 16, 1, 2, 16).eval(), PROSE.chunks(16)[:5]
    known = infilling.with_gap(windows)
    assert (known[:, 6:10] == -1).all() and (known >= 0).sum() == 5 * 12
    drawn = mdlm.fill(model, known)
    assert torch.equal(infilling.with_gap(drawn), known) and 0 <= drawn.min() and drawn.max() < 27


def test_letters_of_a_gap_are_counted_where_they_are_right():
    """By a filler that is right in every other window, and beside draws from the letters' frequencies."""
    windows = PROSE.chunks(32)[:40]

    def fill(model, known):
        assert torch.equal(known, infilling.with_gap(windows))
        right = (torch.arange(40)[:, None] % 2 == 0) | (known >= 0)  # what is given stands, and does not count
        return torch.where(right, windows, (windows + 1) % 27)

    train = replace(PROSE, tokens=PROSE.tokens // 2)  # of other frequencies than the windows
    found = infilling.infilled(None, fill, windows, PROSE, train, blocks=10)
    assert found.value == 0.5 and found.protocol.examples == 40
    assert (
        found.lines[0] == found.lines[1] != found.lines[3] and found.lines[0][12] == "[" and found.lines[0][21] == "]"
    )
    torch.manual_seed(0)
    shares = torch.bincount(train.tokens.long(), minlength=27).double()
    drawn = torch.multinomial(shares, 200_000, replacement=True).reshape(-1, 40, 8)
    luck = (drawn == windows[:, 12:20]).double().mean().item()
    assert found.baselines["letter_frequencies"] == pytest.approx(luck, abs=0.004)


@compared
def test_a_record_names_the_sampler(paper, name, data_home):
    experiment = experiments.find(paper, f"text8_{name}", "laptop")
    small = {"mdlm": mdlm.mdlm, "d3pm": d3pm.letters, "sedd": lambda *net: sedd.letters(name, *net)}[paper]
    found = {m.key: m for m in experiment.evaluate(small(16, 1, 2, 32).eval(), 4)}
    assert set(found) == {"bits_per_letter_bound", "known_words"} | ({"infilled_letters"} if paper != "d3pm" else set())
    assert found["known_words"].protocol.sampler.startswith("128 ")
    assert found["bits_per_letter_bound"].protocol.draws == mdlm.DRAWS


def test_gaps_are_filled_all_over_the_windows_that_are_measured():
    seen = []

    def fill(model, known):
        seen.append(known)
        return known.clamp(min=0)

    def nothing(model, labels):
        return torch.zeros(len(labels), 16, dtype=torch.int64)

    def ones(model, x):
        return torch.ones(len(x))

    report = mdlm.evaluate(data.prose, ones, "bits_per_letter_bound", 1, nothing, "no steps", fill)
    report(SimpleNamespace(shape=(16,)), 300)
    windows = infilling.with_gap(data.prose("test").chunks(16)[:300])
    places = (seen[0].cpu()[:, None] == windows).all(2).double().argmax(1)
    assert len(places) == 100 and places.diff().unique().numel() == 1 and places[-1] > 0.6 * len(windows)
