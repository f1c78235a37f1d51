"""What checks are made of: each comparison passes what is right and names the mistake that it sees."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstwobign, norm

from gmbook.course import kit
from gmbook.course.draws import FARTHEST, SIGMAS, mean_is, normal_is
from gmbook.course.kit import Wrong, agree, careful, exercise, gradient, numbers

WANT = torch.tensor([[1.0, 4.0], [9.0, 0.25]], dtype=torch.float64)


@exercise(points=2, stars=1, kind="derive")
def doubled(answer):
    """doubled(x) -> 2x."""
    x = torch.rand(3)
    agree(numbers(answer(x), (3,), "the answer"), x + x, "the answer")


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (-WANT, "sign"),
        (WANT.T, "transposed"),
        (WANT.sqrt(), "standard deviation"),
        (WANT.square(), "standard deviation"),
        (0.5 * WANT, "constant factor"),
        (WANT + torch.tensor([[0.0, 0.0], [1.0, 0.0]]), "1 of its 4 entries"),
        (WANT * (1 + 1e-3 * torch.tensor([[1.0, 2.0], [3.0, 4.0]])), "off by 0.3 %"),
        (WANT + 100 * torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "not nearly"),
    ],
)
def test_agree_names_the_kind_of_mistake(got, words):
    agree(WANT.clone(), WANT, "it")
    with pytest.raises(Wrong, match=words):
        agree(got, WANT, "it")


def test_agree_names_the_end_and_the_known_mistake():
    with pytest.raises(Wrong, match="only its last"):
        agree(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]), "it")
    with pytest.raises(Wrong, match="a known one"):
        agree(torch.tensor(7.0), torch.tensor(3.0), "it", hints={"This is a known one.": torch.tensor(7.0)})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "return"),
        (lambda: 1, "call"),
        ("x", "str"),
        (torch.zeros(2), r"\(2,\) where \(3,\)"),
        (torch.zeros(3), "float32"),
        (torch.full((3,), torch.nan, dtype=torch.float64), "NaN"),
        (torch.zeros(3, dtype=torch.complex128), "complex"),
        ((1.0, 2.0), r"\(2,\)"),
    ],
)
def test_numbers_gives_one_clear_hint(value, words):
    assert torch.equal(numbers((1, 2.0, torch.tensor(3)), (3,), "it"), torch.tensor([1.0, 2.0, 3.0]).double())
    with pytest.raises(Wrong, match=words):
        numbers(value, (3,), "it")


def test_numbers_keeps_gradients():
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert numbers((x[0], 2 * x[1]), (2,), "it").requires_grad


def test_what_goes_wrong_inside_becomes_a_hint():
    with pytest.raises(Wrong, match="ZeroDivisionError"):
        careful(lambda: 1 / 0)()
    with pytest.raises(Wrong, match="argument number 1 in place"):
        careful(lambda x: x.add_(1))(torch.zeros(2))
    with pytest.raises(Wrong, match="KeyError"):
        careful({"made": lambda: lambda: {}[1]})["made"]()()


def test_verdicts():
    assert doubled.examine(lambda x: 2 * x).points == 2
    wrong = doubled.examine(lambda x: x)
    assert (wrong.points, wrong.answered, wrong.right) == (0, True, False) and "factor" in wrong.hint

    def blank(x):
        raise NotImplementedError

    for answer in (blank, None, ...):
        verdict = doubled.examine(answer)
        assert (verdict.points, verdict.answered) == (0, False)


class Silent(Wrong):
    """A hint of the student's own making."""

    def __str__(self):
        return ""


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("error", [Wrong(""), Wrong(), Wrong(" \n"), Silent("x"), Mute(), SystemExit(0)], ids=repr)
def test_no_exception_of_an_answer_makes_it_right(error):
    """Whatever it says, or does not say: an answer that raises has no points."""

    def answer(x):
        raise error

    verdict = doubled.examine(answer)
    assert (verdict.points, verdict.right) == (0, False)
    with pytest.raises(kit.NotYet, match="not right yet"):
        doubled(answer)
    assert str(Wrong("")) and str(Wrong("why")) == "why"


def test_in_a_notebook_a_wrong_answer_raises_one_line(capsys):
    doubled(lambda x: 2 * x)
    assert capsys.readouterr().out == "doubled: right, 2 of 2 points\n"
    with pytest.raises(kit.NotYet, match="factor") as caught:
        doubled(lambda x: x)
    assert caught.value._render_traceback_() == [str(caught.value)]


def test_a_check_leaves_randomness_and_dtype_alone_and_draws_anew():
    seen = []
    before = torch.random.get_rng_state()
    for seed in (None, None, 7, 7):
        doubled.examine(lambda x: seen.append(x), seed)
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_default_dtype() == torch.float32
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3]) and seen[0].dtype == torch.float64


def test_statistics():
    draws = torch.randn(20_000, 2, dtype=torch.float64)
    mean_is(draws + 1, torch.ones(2), "x", std=1.0)
    normal_is(2 * draws + 1, 1.0, 2.0, "x")
    normal_is(torch.ones(5, 2, dtype=torch.float64), 1.0, 0.0, "x")
    with pytest.raises(Wrong, match="sign"):
        mean_is(draws - 1, torch.ones(2), "x", std=1.0)
    with pytest.raises(Wrong, match="too small"):
        normal_is(draws, 0.0, 1.1**0.5, "x")
    with pytest.raises(Wrong, match="too large"):
        normal_is(draws, 0.0, 0.9**0.5, "x")
    with pytest.raises(Wrong, match="correlated"):
        normal_is(torch.stack([draws[:, 0], (draws[:, 0] + draws[:, 1]) / 2**0.5], 1), 0.0, 1.0, "x")
    with pytest.raises(Wrong, match="not normal"):
        normal_is(12**0.5 * (torch.rand(20_000, 2, dtype=torch.float64) - 0.5), 0.0, 1.0, "x")
    with pytest.raises(Wrong, match="mean"):
        normal_is(1e-3 * draws, 0.0, 0.0, "what should not vary")
    for empty in (torch.zeros(10), torch.zeros(0)):
        with pytest.raises(Wrong, match="mean"):
            mean_is(empty, 1e-3, "draws that do not vary, or are none", std=0.0)


def test_the_bars_of_statistics_do_not_rise_with_the_answer():
    """Zeros and one huge entry have any mean and any variance, if their own spread is the measure."""
    draws = torch.zeros(20_000, 2, dtype=torch.float64)
    draws[0, 0] = draws[1, 1] = 1e6
    with pytest.raises(Wrong, match="mean"):
        mean_is(draws, 1.0, "x", std=1.0)
    with pytest.raises(Wrong, match="mean"):
        normal_is(draws, 1.0, 1.0, "x")
    draws = draws * 20_000**0.5 / 1e6  # now the mean is 0 within its error and the mean square is 1
    with pytest.raises(Wrong, match="not normal"):
        normal_is(draws, 0.0, 1.0, "x")


def test_the_bars_of_statistics_are_seldom_met_by_chance():
    """Once in some hundred million comparisons."""
    assert 2 * norm.sf(SIGMAS) < 1e-8 and kstwobign.sf(FARTHEST) < 1e-8


def test_gradient_tells_what_is_detached():
    x = torch.tensor(3.0, requires_grad=True)
    assert gradient(x.square(), x, "x") == 6
    for value in (x.detach().square(), torch.tensor(3.0, requires_grad=True)):
        with pytest.raises(Wrong, match="detached"):
            gradient(value, x, "x")


def test_lists_without_end_are_refused():
    """A list that holds itself is one hint, not a stack that overflows."""
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(Wrong, match="nested too deeply"):
        careful(lambda: endless)()
    assert careful(lambda: [[1.0]])() == [[1.0]]
