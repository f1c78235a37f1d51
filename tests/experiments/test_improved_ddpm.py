"""DDPM's recorded network with a second output, and the bound of a sub-sequence beside two fixed variances."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gmbook import data, experiments
from gmbook.experiments import improved_ddpm
from gmbook.networks.unet import UNet
from gmbook.papers.improved_ddpm import ImprovedDDPM


def test_it_begins_as_ddpm_with_the_variance_in_the_middle():
    begun, recorded = improved_ddpm.begun().eval(), experiments.load_pretrained("ddpm", "mnist", "laptop")
    torch.testing.assert_close(begun.beta, recorded.beta)
    x, t, y = torch.randn(3, 1, 28, 28), torch.tensor([0.1, 0.5, 1.0]), torch.arange(3)
    with torch.no_grad():
        eps, r = begun.halves(x, t, y)
        torch.testing.assert_close(eps, recorded(x, t, y), atol=1e-5, rtol=1e-5)
    assert torch.equal(r, torch.zeros_like(r))


class Constant(nn.Module):
    """ε̂ = 0 and one r for all pixels."""

    def __init__(self, r: float):
        super().__init__()
        self.r = nn.Parameter(torch.tensor(r))

    def forward(self, x, t, y=None):
        return torch.cat([torch.zeros_like(x), self.r * torch.ones_like(x)], 1)


def test_at_the_low_end_of_v_the_learned_variance_is_the_small_one():
    test = data.digits("test")
    scaled = replace(test, x=test.x * 15, levels=256)  # 0, 15, …, 240: levels of a byte
    model = ImprovedDDPM(Constant(-1.0), (1, 8, 8), 60, clip=1.0, levels=256)
    found = improved_ddpm.bound(model, scaled, 12, n=5)
    assert found.key == "bits_per_dim_bound_12" and found.protocol.examples == 5
    assert found.part("value") == pytest.approx(found.baselines["small_variance"], rel=1e-6)
    assert abs(found.part("value") - found.baselines["large_variance"]) > 0.01


def test_samples_are_those_of_the_sub_sequence():
    calls, net = [], UNet(1, 2, width=8, multipliers=(1, 2), classes=10)
    net.register_forward_hook(lambda *_: calls.append(1))
    model = ImprovedDDPM(net, (1, 8, 8), 60, clip=1.0)
    drawn = improved_ddpm.sample(model, torch.arange(4), 12)
    assert drawn.shape == (4, 1, 8, 8) and len(calls) == 12 and drawn.abs().max() <= 1
