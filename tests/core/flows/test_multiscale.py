"""Squeeze and the multi-scale recursion, against permutation matrices and a joint Gaussian."""

import math

import pytest
import scipy.stats
import torch
from torch import nn

from gmbook.core.flows.density import Flow
from gmbook.core.flows.linear import Scale
from gmbook.core.flows.multiscale import Multiscale, Squeeze


@pytest.mark.fact("R5")
@pytest.mark.equation("realnvp-squeeze")
def test_squeeze_is_an_orthogonal_permutation():
    x = torch.randn(1, 3, 4, 4)
    matrix = torch.autograd.functional.jacobian(lambda v: Squeeze()(v)[0].flatten(), x).reshape(48, 48)
    assert torch.equal(matrix @ matrix.T, torch.eye(48)) and set(matrix.unique().tolist()) == {0.0, 1.0}
    z, _ = Squeeze()(x)
    assert torch.equal(z[0, 4:8, 1, 0], x[0, 1, 2:4, 0:2].flatten())  # channel 4c + 2i + j
    with pytest.raises(ValueError, match="pad the images"):
        Squeeze()(torch.randn(1, 1, 7, 8))


@pytest.mark.fact("W3")
@pytest.mark.equation("glow-split-prior")
@pytest.mark.equation("realnvp-multiscale")
def test_split_prior_is_a_joint_gaussian():
    """p(z_1) p(z_2 | z_1) with a linear mean is the joint Gaussian, by scipy."""
    covariance = torch.tensor([[2.0, 0.8], [0.8, 1.0]])

    class Conditional(nn.Module):
        def forward(self, h):
            std = (covariance[1, 1] - covariance[0, 1] ** 2 / covariance[0, 0]).sqrt()
            return torch.cat([covariance[0, 1] / covariance[0, 0] * h, std.log().expand_as(h)], 1)

    inner = Scale((1,))
    nn.init.constant_(inner.log_scale, -math.log(2.0) / 2)
    flow = Flow(Multiscale(inner, prior=Conditional()), (2,))
    z = torch.randn(20, 2)
    expected = scipy.stats.multivariate_normal([0, 0], covariance.numpy()).logpdf(z.numpy())
    torch.testing.assert_close(flow.log_prob(z).detach(), torch.from_numpy(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(flow.sample(200_000).T.cov(), covariance, rtol=0, atol=0.03)


@pytest.mark.equation("realnvp-multiscale")
def test_the_first_half_of_the_channels_goes_deeper():
    inner = Scale((2, 1, 1))
    nn.init.constant_(inner.log_scale, math.log(10.0))
    z, log_det = Multiscale(inner)(torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1))
    torch.testing.assert_close(z.detach().flatten(), torch.tensor([10.0, 20.0, 3.0, 4.0]))
    assert log_det.item() == pytest.approx(2 * math.log(10.0))
