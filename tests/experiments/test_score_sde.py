"""Bits of images along the flow of a Gaussian, whose score is known."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from gmbook.core.paths import VPPath
from gmbook.data import ImageSet
from gmbook.experiments import score_sde
from gmbook.experiments.images import centred
from gmbook.papers.score_sde import ScoreSDE

SHAPE, STD = (1, 4, 4), 0.4


def exact():
    """The model of N(0, 0.16 I): ε̂ = σ x / (0.16 α² + σ²)."""
    path = VPPath(t_min=1e-5)

    def eps(x, t, y):
        alpha, sigma = (v.to(x)[:, None, None, None] for v in path.alpha_sigma(t.double()))
        return sigma * x / (alpha**2 * STD**2 + sigma**2)

    return ScoreSDE(eps, path, SHAPE)


def test_bits_are_those_of_the_density_and_the_report_says_what_fewer_steps_give():
    x = torch.randint(0, 256, (6, *SHAPE), generator=torch.Generator().manual_seed(1)).byte()
    images = ImageSet(x, torch.zeros(6, dtype=torch.int64), "noise", "test", ("none",))
    torch.manual_seed(0)
    density = Normal(0.0, STD).log_prob(centred(x, 256).double()).sum((1, 2, 3))
    expected = -density / (16 * math.log(2)) + 7  # cells of 2/256
    torch.manual_seed(0)
    found = score_sde.bits(exact(), x, images.y, 1e-5, steps=60)
    torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=0)
    report = score_sde.report(exact(), images, n=6, steps=60)
    assert report.part("value") == pytest.approx(expected.mean().item(), abs=2e-3)
    for name, start, steps in (("half_the_steps", 1e-5, 30), ("from_the_end_of_samples", 1e-3, 60)):
        torch.manual_seed(0)
        other = score_sde.bits(exact(), x, images.y, start, steps=steps).mean().item()
        assert report.baselines[name] == pytest.approx(other, abs=1e-5) and other != report.part("value")


class Labelled(nn.Module):
    """ε̂ of N(m, 0.16 I), where m is 0.3 for label 1 and 0 for the other and for none; remembers its batches."""

    def __init__(self):
        super().__init__()
        self.path, self.seen = VPPath(t_min=1e-5), []

    def forward(self, x, t, y):
        self.seen.append(len(x))
        alpha, sigma = (v.to(x)[:, None, None, None] for v in self.path.alpha_sigma(t.double()))
        mean = 0.3 * (y == 1).to(x)[:, None, None, None]
        return sigma * (x - alpha * mean) / (alpha**2 * STD**2 + sigma**2)


def test_samples_follow_the_label_by_so_many_steps_and_guidance_moves_them_on():
    """A Gaussian whose mean is the label's: guided by s its score is that of the mean s·m, so that is where it ends."""
    net, y = Labelled(), torch.tensor([1] * 150 + [0] * 150)
    model = ScoreSDE(net, net.path, SHAPE)
    for scale, doubled in ((1.0, 1), (2.0, 2)):
        net.seen.clear()
        torch.manual_seed(0)
        x = score_sde.sample(model, y, scale, steps=60)
        assert net.seen == [doubled * 250] * 61 + [doubled * 50] * 61  # the steps and the last reading, twice
        error = STD / (150 * 16) ** 0.5
        inside = Normal(scale * 0.3, STD)  # of samples clamped to [−1, 1]
        grid = torch.linspace(-4, 4, 8001)
        expected = torch.trapezoid(grid.clamp(-1, 1) * inside.log_prob(grid).exp(), grid)
        assert abs(x[:150].mean() - expected) < 6 * error and abs(x[150:].mean()) < 6 * error
        assert x[150:].std() == pytest.approx(STD, rel=0.08)  # the step's variance is β̃, which is a bit small
