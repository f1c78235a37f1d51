"""Reflow's stream of pairs: a flow of one matrix made them, and a stream that is resumed shows the same ones."""

import math

import torch

from gmbook.experiments.rectified_flow import Distilled, PairBatches
from gmbook.papers.flow_matching import FlowMatching


def field(x, t, y):
    """dx/dt = xy/9: from t = 1 to 0 by e^{−y/9}."""
    return x * (y / 9)[:, None]


def stream(seed=3):
    return PairBatches(FlowMatching(field, (2,)), 40, 20, size=8, seed=seed, chunk=10)


def test_pairs_are_those_of_the_flow_and_come_back_after_a_resume():
    served, batches = [], stream()
    for _ in range(12):
        served.append(next(batches))
        x0, noise, y = served[-1]
        torch.testing.assert_close(x0, noise * torch.exp(-y / 9)[:, None], rtol=1e-3, atol=1e-4)
    later = stream()
    later.load_state_dict({**batches.state_dict(), "step": 9})
    for before in served[9:]:
        assert all(torch.equal(a, b) for a, b in zip(before, next(later), strict=True))
    assert not torch.equal(next(stream(4))[1], served[0][1])


def test_an_epoch_shows_every_pair_once_and_the_second_in_another_order():
    batches = stream()
    epochs = [torch.cat([next(batches)[1] for _ in range(5)]) for _ in range(2)]
    first, second = (torch.unique(noise, dim=0) for noise in epochs)
    assert len(first) == 40 and torch.equal(first, second)
    assert not torch.equal(*epochs)
    noise = torch.cat([PairBatches(FlowMatching(field, (2,)), 4000, 1, size=4000, seed=0).read(torch.arange(4000))[1]])
    assert noise.mean().abs() < 6 / 8000**0.5 and abs(noise.std() - 1) < 0.05
    assert math.prod(noise.shape) == 8000


def test_the_distilled_flow_learns_the_chord_at_the_noise_alone():
    net = torch.nn.Linear(2, 2, bias=False)
    student = Distilled(lambda x, t, y: net(x) * t[:, None], (2,))
    student.weights = net  # registered, so that it is among the parameters
    (name, player), *others = student.objectives().items()
    x0, noise = torch.randn(2, 6, 2)
    expected = (noise @ net.weight.T - (noise - x0)).square().mean()  # at t = 1, where the path is the noise
    torch.testing.assert_close(player.loss(x0, noise), expected)
    assert name == "distillation" and not others and [id(p) for p in player.parameters] == [id(net.weight)]
