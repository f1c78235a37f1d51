"""MLPs: sizes by closed form, and that the toy denoiser learns a denoiser that is known."""

import math

import pytest
import torch
from networks.helpers import randomise

from gmbook.core.gaussians import GaussianMixture
from gmbook.core.paths import LinearPath
from gmbook.networks.mlp import MLP, AdaMLP, FourierMLP, SmoothField, TimeMLP


@pytest.mark.parametrize("inputs, outputs, width, depth", [(3, 5, 16, 1), (2, 2, 128, 4)])
def test_parameter_count(inputs, outputs, width, depth):
    count = sum(p.numel() for p in MLP(inputs, outputs, width, depth).parameters())
    assert count == (inputs + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * outputs


def test_depth_of_the_time_mlp():
    """`depth` hidden layers: as an MLP that reads the features too."""
    net = TimeMLP(2, 64, 4, features=32)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in MLP(34 + 64, 2, 64, 4).parameters())


def test_learns_the_denoiser_of_a_mixture():
    """E[x_0 | x_t] of eight Gaussians on a ring, to a thirtieth of the variance that a constant leaves."""
    torch.manual_seed(0)
    angle = torch.arange(8) * 2 * math.pi / 8
    law = GaussianMixture(torch.ones(8), torch.stack([angle.cos(), angle.sin()], 1) * 2, torch.full((8,), 0.04))
    path, net, data = LinearPath(), TimeMLP(2, 64, 3), law.sample(20_000)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)

    def batch(n):
        x0, t = data[torch.randint(len(data), (n,))], torch.rand(n)
        return x0, path.interpolate(x0, torch.randn_like(x0), t), t

    for _ in range(300):
        x0, xt, t = batch(256)
        optimiser.zero_grad()
        (net(xt, t) - x0).square().mean().backward()
        optimiser.step()
    _, xt, t = batch(4000)
    ideal = law.posterior_mean(xt, path.alpha(t), path.sigma(t))
    assert (net(xt, t) - ideal).square().mean() < data.var(0).mean() / 30


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="hidden layer"):
        MLP(2, 2, 8, 0)


def test_a_time_mlp_needs_two_layers():
    with pytest.raises(ValueError, match="at least two hidden layers"):
        TimeMLP(2, 8, 1)


def test_without_fourier_features_it_reads_the_plain_point():
    """fourier=0: the first layer has the inputs x and time only, and the net still has its shape."""
    net = TimeMLP(3, 16, 2, fourier=0, features=8)
    assert net.first.in_features == 3 + 8
    assert net(torch.randn(5, 3), torch.rand(5)).shape == (5, 3)


def test_dropped_labels_are_the_null_class_in_training_only():
    """drop=1: in training a label has no effect at all; in evaluation it has one."""
    torch.manual_seed(0)
    net, x, t, y = TimeMLP(2, 16, 2, classes=3, drop=1.0), torch.randn(6, 2), torch.rand(6), torch.tensor([0, 1, 2] * 2)
    assert torch.equal(net(x, t, y), net(x, t, None))
    net.eval()
    assert not torch.allclose(net(x, t, y), net(x, t, None))


def test_the_mlp_that_is_told_a_vector():
    """0 at the start; then it reads x, t and z, example by example, and learns with every parameter."""
    net = AdaMLP(2, 3, 16, 2, out=4).double()
    x, t, z = (torch.randn(5, d, dtype=torch.float64) for d in (2, 1, 3))
    t = t[:, 0].sigmoid()
    assert net(x, t, z).eq(0).all()
    output = randomise(net)(x, t, z)
    assert output.shape == (5, 4)
    for other in ((x + 1, t, z), (x, 1 - t, z), (x, t, z + 1)):
        assert (net(*other) - output).abs().amax(1).min() > 1e-4
    torch.testing.assert_close(net(x[2:3], t[2:3], z[2:3]), output[2:3])
    output.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad.abs().max() == 0] == []


def test_a_fourier_mlp_fits_what_a_plain_one_does_not():
    """sin 6x, after 300 steps of Adam with one rate: the features see the waves, the plain network a slope."""
    x = torch.linspace(-3, 3, 256)[:, None]
    errors = []
    for net in (FourierMLP(1, 1, width=32, bandwidth=1.0), MLP(1, 1, 32, 2)):
        optimiser = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(300):
            optimiser.zero_grad()
            loss = (net(x) - (6 * x).sin()).square().mean()
            loss.backward()
            optimiser.step()
        errors.append(loss.item())
    assert errors[0] < 0.01 * errors[1], errors
    assert FourierMLP(3, 5)(torch.randn(7, 3)).shape == (7, 5)


def test_a_smooth_field_reads_its_own_point_and_time():
    torch.manual_seed(0)
    net, x, t = SmoothField(3, 8, 2).double(), torch.randn(4, 3).double(), torch.rand(4).double()
    by_x, by_t = torch.autograd.functional.jacobian(net, (x, t))  # (4, 3, 4, 3) and (4, 3, 4)
    for row in range(4):
        assert by_x[row, :, row].abs().min() > 0 and by_t[row, :, row].abs().min() > 0
        others = torch.arange(4) != row
        assert not by_x[row][:, others].any() and not by_t[row][:, others].any()
