"""Diagrams: an arrow for each pair, dashed where it is learned, and one error for an arrow into nothing."""

import pytest
from matplotlib.colors import to_hex

from gmbook.plots import MODEL
from gmbook.plots.diagrams import mechanism

BOXES = {"data": (0, 0, "data"), "noise": (2, 0, "noise"), "network": (1, 1, "network")}


def test_arrows_join_boxes_and_learned_ones_are_dashed():
    figure = mechanism(BOXES, [("data", "noise", "fixed"), ("noise", "network", "~learned")])
    arrows = [a.arrow_patch for a in figure.axes[0].texts if getattr(a, "arrow_patch", None) is not None]
    assert [a.get_linestyle() for a in arrows] == ["-", "--"]
    assert to_hex(arrows[1].get_edgecolor()) == MODEL.lower() != to_hex(arrows[0].get_edgecolor())
    words = [t.get_text() for t in figure.axes[0].texts]
    assert {"data", "noise", "network", "fixed", "learned"} <= set(words)
    assert "data to noise: fixed" in figure.description and figure.png().startswith(b"\x89PNG")


def test_an_arrow_into_nothing_is_refused():
    with pytest.raises(ValueError, match="lost are not among data"):
        mechanism(BOXES, [("data", "lost", "")])
