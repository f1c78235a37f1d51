"""Pairs of numbers as points: which axis is the noise's, and the map behind them."""

import pytest
import torch

from gmbook.plots.couplings import couplings


def test_noise_to_the_right_data_upwards_and_a_curve_behind():
    x1 = torch.linspace(-1, 1, 5)
    figure = couplings([(2 * x1, x1), (-x1, x1)], ["two", "minus"], (x1, 2 * x1))
    for ax, factor in zip(figure.axes, (2, -1)):
        curve, points = ax.lines
        assert torch.equal(torch.tensor(points.get_ydata()), factor * torch.tensor(points.get_xdata()))
        assert torch.equal(torch.tensor(curve.get_ydata()), 2 * torch.tensor(curve.get_xdata()))
        assert "noise" in ax.get_xlabel()
    assert "data" in figure.axes[0].get_ylabel() and "two; minus" in figure.description


def test_a_panel_without_a_title_is_refused():
    with pytest.raises(ValueError):
        couplings([(torch.ones(2), torch.ones(2))], [])
