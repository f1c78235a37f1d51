"""A network in somebody else's time, scale and sign is the book's network once it is adopted; and the page runs."""

from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from gmbook.core.conventions import Convention, adopt
from gmbook.core.denoiser import Truth, ideal
from gmbook.core.paths import LinearPath, VPPath
from gmbook.laws import plane

PAGE = Path(__file__).parents[2] / "book" / "conventions.md"


class Foreign(nn.Module):
    """A perfect network that wants x/α and the noise ratio, and answers minus the noise."""

    def __init__(self, law, path):
        super().__init__()
        self.truth, self.path = Truth(law, path, "eps"), path

    def forward(self, x, time, y=None):
        t = self.path.time_at(time.double())
        return -self.truth((x * self.path.alpha(t)[:, None]).to(x.dtype), t)


def test_an_adopted_network_is_the_one_that_it_would_have_been_here():
    law, path = plane.pinwheel(), VPPath()
    convention = Convention(path, path.noise_ratio, "eps", sign=-1, scale=lambda t: 1 / path.alpha(t))
    model, own = adopt(Foreign(law, path), convention, (2,)), ideal(law, path)
    xt, t = torch.randn(64, 2), torch.rand(64) * 0.9 + 0.05
    for quantity in ("x0", "eps", "score", "velocity"):
        ours = own.predict(quantity, xt, t)
        assert (model.predict(quantity, xt, t) - ours).abs().max() < 1e-4 * ours.abs().max(), quantity


@pytest.mark.parametrize("fault", [{"sign": 1.0}, {"scale": torch.ones_like}, {"time": lambda t: t}])
def test_each_of_the_three_matters(fault):
    law, path = plane.pinwheel(), VPPath()
    right = {"time": path.noise_ratio, "sign": -1.0, "scale": lambda t: 1 / path.alpha(t)}
    model = adopt(Foreign(law, path), Convention(path, predicts="eps", **right | fault), (2,))
    xt, t = torch.randn(64, 2), torch.full((64,), 0.7)
    assert (model.predict("x0", xt, t) - ideal(law, path).predict("x0", xt, t)).abs().max() > 0.1


def test_targets_and_states_by_hand():
    convention = Convention(LinearPath(), lambda t: 1 - t, "velocity", sign=-1, scale=lambda t: 2 + t)
    x0, eps, t = torch.tensor([[1.0]]), torch.tensor([[3.0]]), torch.tensor([0.25])
    assert convention.target(x0, eps, t).item() == -2.0  # data minus noise
    state, time = convention.to_theirs(torch.tensor([[1.5]]), t)
    assert (state.item(), time.item()) == (3.375, 0.75)


def test_the_page_runs():
    names = {}
    for cell in jupytext.read(PAGE).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, PAGE.name, "exec"), names)
    plt.close("all")
    assert len(names["conventions"]) == 8
