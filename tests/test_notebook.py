"""The check cell's line says claim, bar and measurement; nbval passes over the last; and a missed bar raises."""

import configparser
import re
from pathlib import Path

import pytest
import torch

from gmbook.notebook import check


def test_lines(capsys):
    check("error", 3.2e-13, below=1e-12)
    check("ratio", torch.tensor([0.95, 1.02]), between=(0.9, 1.1))
    check("modes", 8, equals=8)
    check("floor", torch.tensor([0.2755131, 0.1730529]), equals=torch.tensor([0.275513, 0.173053]))
    assert capsys.readouterr().out.splitlines() == [
        "error: < 1e-12  ok (measured 3.2e-13)",
        "ratio: in [0.9, 1.1]  ok (measured 0.95 to 1.02)",
        "modes: = 8  ok",
        "floor: = 0.275513, 0.173053  ok",
    ]


def test_a_tensor_is_measured_where_it_comes_closest_to_its_bar(capsys):
    check("errors", torch.tensor([0.1, 0.37, 0.2]), below=0.4)
    check("one", 0.5, between=(0, 1))
    assert capsys.readouterr().out.splitlines() == [
        "errors: < 0.4  ok (measured 0.37)",
        "one: in [0, 1]  ok (measured 0.5)",
    ]


def test_nbval_compares_claims_and_bars_and_not_what_was_measured(capsys):
    rules = configparser.ConfigParser()
    rules.read(Path(__file__).parents[1] / "chapters" / "nbval.cfg")
    for value in (0.021, 0.034):
        check("error (of a few)", value, below=0.1)
    here, there = capsys.readouterr().out.splitlines()
    assert here != there
    for section in rules.sections():
        rule, put = rules[section]["regex"], rules[section]["replace"]
        here, there = re.sub(rule, put, here), re.sub(rule, put, there)
    assert here == there == "error (of a few): < 0.1  ok"


@pytest.mark.parametrize(
    ("value", "bar"),
    [
        (2e-12, {"below": 1e-12}),
        (float("nan"), {"below": 1.0}),
        (torch.tensor([1.0, 1.2]), {"between": (0.9, 1.1)}),
        (7, {"equals": 8}),
        (0.126, {"equals": 0.12, "digits": 2}),
        (float("nan"), {"equals": 0.12, "digits": 2}),
    ],
)
def test_a_missed_bar_raises_with_the_value(value, bar):
    with pytest.raises(AssertionError, match="got"):
        check("claim", value, **bar)


def test_exactly_one_bar():
    with pytest.raises(ValueError, match="exactly one"):
        check("claim", 1.0)


def test_a_stated_value_is_printed_with_its_decimals(capsys):
    """As many decimals as are compared, and no zeros after them: 12.5 is not 1e+01."""
    check("c", torch.tensor([12.5, 152.1649, 2.0]), equals=torch.tensor([12.5, 152.165, 2.0]), digits=3)
    assert capsys.readouterr().out == "c: = 12.5, 152.165, 2  ok\n"
