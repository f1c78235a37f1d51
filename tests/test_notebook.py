"""The check cell's line is the same on every machine, and a missed bar raises."""

import pytest
import torch

from gmbook.notebook import check


def test_lines(capsys):
    check("error", 3.2e-13, below=1e-12)
    check("ratio", torch.tensor([0.95, 1.02]), between=(0.9, 1.1))
    check("modes", 8, equals=8)
    check("floor", torch.tensor([0.2755131, 0.1730529]), equals=torch.tensor([0.275513, 0.173053]))
    assert capsys.readouterr().out.splitlines() == [
        "error: < 1e-12  ok",
        "ratio: in [0.9, 1.1]  ok",
        "modes: = 8  ok",
        "floor: = 0.275513, 0.173053  ok",
    ]


@pytest.mark.parametrize(
    ("value", "bar"),
    [
        (2e-12, {"below": 1e-12}),
        (float("nan"), {"below": 1.0}),
        (torch.tensor([1.0, 1.2]), {"between": (0.9, 1.1)}),
        (7, {"equals": 8}),
    ],
)
def test_a_missed_bar_raises_with_the_value(value, bar):
    with pytest.raises(AssertionError, match="got"):
        check("claim", value, **bar)


def test_exactly_one_bar():
    with pytest.raises(ValueError, match="exactly one"):
        check("claim", 1.0)
