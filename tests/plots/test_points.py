"""Points against the diagonal: each at its place, one square for both axes."""

import pytest
import torch

from gmbook.plots.points import against


def test_points_stand_at_their_places_beside_the_diagonal():
    x, y = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.5, 2.0, 7.0])
    figure = against(x, y, xlabel="paid", ylabel="bound")
    ax = figure.axes[0]
    assert ax.collections[0].get_offsets().tolist() == torch.stack([x, y], 1).tolist()
    (line,) = ax.lines
    assert (line.get_xdata() == line.get_ydata()).all() and ax.get_xlim() == ax.get_ylim()
    assert ax.get_xlim()[0] < 1 and ax.get_xlim()[1] > 7
    assert "bound against paid" in figure.description and figure.png().startswith(b"\x89PNG")


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="as long as each other, got 2 and 3"):
        against(torch.zeros(2), torch.zeros(3))
