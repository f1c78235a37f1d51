"""The text experiments: two models that differ in causality alone, and numbers of theirs that are known."""

import math
from dataclasses import replace

import pytest
import torch

from gmbook import data, experiments
from gmbook.experiments import mdlm, results, runs
from gmbook.laws.letters import LetterChain
from gmbook.papers.mdlm import MDLM

PAPERS = ("mdlm", "autoregressive")
papers = pytest.mark.parametrize("paper", PAPERS)
CHAIN = LetterChain.fit(data.prose("train").tokens, 1)


@papers
def test_a_prose_experiment_trains_samples_and_draws(paper, tmp_path):
    experiment = experiments.find(paper, "prose", "laptop")
    model, history = runs.run(experiment, tmp_path, steps=3, progress=False)
    assert history["loss"].shape == (3,) and history["loss"].isfinite().all()
    drawn = experiment.sample(model, torch.zeros(3))
    assert drawn.shape == (3, 64) and drawn.dtype == torch.int64 and 0 <= drawn.min() <= drawn.max() <= 26
    assert experiment.sheet(drawn).png().startswith(b"\x89PNG")


STEPS = {("prose", "laptop"): 2, ("text8", "laptop"): 6 / 5, ("text8", "gpu"): 2}  # the diffusion's over its twin's


@pytest.mark.parametrize(("dataset", "budget"), STEPS)
def test_diffusion_and_baseline_differ_in_causality_and_steps_alone(dataset, budget):
    pair = [experiments.find(paper, dataset, budget) for paper in PAPERS]
    nets = [experiment.model().net for experiment in pair]
    shapes = [{name: p.shape for name, p in net.named_parameters()} for net in nets]
    assert shapes[0] == shapes[1] and [net.causal for net in nets] == [False, True]
    for name in ("sample", "sheet"):
        assert getattr(pair[0], name) == getattr(pair[1], name)
    assert replace(pair[0].recipe, steps=1) == replace(pair[1].recipe, steps=1)
    assert pair[0].recipe.steps == STEPS[dataset, budget] * pair[1].recipe.steps


def test_diffusion_and_baseline_see_the_same_batches():
    first, second = (experiments.find(paper, "prose", "laptop").batches(3, 4) for paper in PAPERS)
    assert torch.equal(next(first)[0], next(second)[0])


@papers
def test_a_model_that_knows_nothing_pays_log_27(paper):
    """At first all logits are 0: the exact value of both, and of the bound's estimate, whatever is masked."""
    experiment = experiments.find(paper, "prose", "laptop")
    found, words = experiment.evaluate(experiment.model().eval(), 20)
    assert found.key in ("bits_per_letter", "bits_per_letter_bound")
    assert found.value == pytest.approx(math.log2(27), abs=1e-5) and found.error < 1e-6
    assert 4 < found.baselines["letter_frequencies"] < math.log2(27)
    assert 2 < found.baselines["five_grams"] < 3
    how = found.protocol
    assert how.data == "this book's prose, test" and how.examples == 20 and "windows of 64 letters" in how.setting
    assert 0.5 < words.floor <= 1
    assert [len(line) for line in words.lines] == [64] * 3


def test_the_bound_of_an_ideal_network_is_its_exact_bits():
    """A letter chain as MDLM's network: the bound, estimated as the experiments do, against the chain rule."""
    torch.manual_seed(0)
    windows = CHAIN.sample(300, 16)
    estimate = mdlm.bits(mdlm.bound, MDLM(CHAIN.posterior, (16,), 27), windows)
    truth = -CHAIN.log_prob(windows) / 16 / math.log(2)
    difference = estimate - truth
    assert abs(difference.mean()) < 4 * difference.std() / 300**0.5
    assert difference.std() < truth.std()  # an estimate per window, not only on average


def test_counted_letters_pay_the_entropy_of_their_law():
    """Of a text drawn from a Markov chain: alone the letters cost their stationary entropy, as 5-grams the chain's."""
    torch.manual_seed(1)
    line, new = CHAIN.sample(8000, 100), CHAIN.sample(300, 100)
    text = data.TextSet(line.flatten().to(torch.uint8), "train", line.numel(), False)
    found = mdlm.counted(text, new)
    shares = torch.bincount(line.flatten()).double() / line.numel()
    assert found["letter_frequencies"] == pytest.approx(-(shares * shares.log2()).nansum().item(), abs=0.02)
    exact = -CHAIN.log_prob(new).mean().item() / 100 / math.log(2)
    assert exact < found["five_grams"] < exact + 0.3  # what 800 thousand letters do not tell of 27⁴ contexts


def test_words_are_looked_up_whole():
    text = data.TextSet(data.encode("the cat sat on the mat").to(torch.uint8), "train", 22, False)
    lines = torch.stack([data.encode("xx cat sut mat yy"), data.encode("at the on the sat")])
    assert mdlm.words_known(lines, text) == pytest.approx(5 / 6)


@papers
def test_a_record_keeps_samples_as_text_and_as_a_picture(paper, tmp_path):
    experiment = experiments.find(paper, "prose", "laptop")
    runs.run(experiment, tmp_path / "run", steps=2, progress=False)
    record = results.record(experiment, tmp_path / "run", n=4, root=tmp_path)
    assert len(record.metrics["known_words"].lines) == 3 and (record.folder / "samples.png").stat().st_size > 1000
    assert results.load_pretrained(experiment, tmp_path).shape == (64,)


def test_text8_experiments_say_what_text_they_used(data_home):
    text = data.text8("train")
    experiment = experiments.find("mdlm", "text8", "laptop")
    x, second = next(experiment.batches(0, 4))
    assert x.shape == (4, 128) and not second.any()
    assert all(m.protocol.data == f"{text.name}, test" for m in experiment.evaluate(experiment.model().eval(), 2))


def test_two_lessons_one_after_the_other():
    """The first asks about shares hidden in 0.05..0.6 and takes the mean over masks, the second is the bound: on a
    network whose guesses cost 1 nat each the first is 1 whatever is hidden, and each sees the masks that it should."""
    torch.manual_seed(0)
    hidden = []

    def net(xt, t, y):
        hidden.append((xt == 27).double().mean(1))
        return torch.zeros(*xt.shape, 27)

    model, x = mdlm.Lessons(net, (400,), 27), torch.randint(27, (64, 400))
    for second in (None, torch.ones(64, dtype=torch.bool), torch.zeros(64, dtype=torch.bool)):
        assert model.loss(x, second).item() == pytest.approx(math.log(27), abs=1e-5)
    for shares in hidden[:2]:
        assert shares.min() < 0.03 and shares.max() > 0.97
    assert hidden[2].min() > 0 and hidden[2].max() < 0.7 and abs(hidden[2].mean() - 0.325) < 0.02


def test_a_timetable_turns_once_and_goes_on_where_it_was():
    experiment = experiments.find("mdlm", "text8", "laptop")
    steps, text = experiment.recipe.steps, data.prose("train")
    plan = lambda first: mdlm.Timetable(mdlm.batches(text, 16, 3, 4), first)  # noqa: E731
    stream = plan(2)
    flags = [next(stream)[1].tolist() for _ in range(4)]
    assert flags == [[False] * 4] * 2 + [[True] * 4] * 2
    again = plan(2)
    again.load_state_dict(stream.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(next(stream), next(again)))
    with pytest.raises(ValueError, match="the first lesson was 2 batches, here it is 5"):
        plan(5).load_state_dict(stream.state_dict())
    assert round(mdlm.FIRST * steps) == 4800


def test_the_turn_of_the_text8_run(data_home):
    stream = experiments.find("mdlm", "text8", "laptop").batches(0, 4)
    stream.windows.step = 4799
    assert [bool(next(stream)[1].any()) for _ in range(2)] == [False, True]


def test_the_error_of_text_is_that_of_blocks_of_windows():
    """Forty windows in ten blocks of four equal ones: the error of the mean is that of ten values."""
    nats = lambda model, x: (torch.arange(len(x)) // 4).double()  # noqa: E731
    lines = lambda model, labels: torch.zeros(len(labels), 64, dtype=torch.int64)  # noqa: E731
    report = mdlm.evaluate(data.prose, nats, "bits_per_letter", None, lines)
    found, *_ = report(experiments.find("mdlm", "prose", "laptop").model(), 40)
    assert found.error == pytest.approx(torch.arange(10.0).std().item() / 10**0.5 / 64 / math.log(2))
