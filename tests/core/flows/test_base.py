"""Every layer, against autograd Jacobians."""

import pytest
import torch
from flow_tools import SHAPES, jacobian, layers, randomise

from gmbook.core.flows.base import Compose


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.fact("R1")
@pytest.mark.fact("R2")
@pytest.mark.equation("realnvp-coupling-log-det")
@pytest.mark.equation("realnvp-coupling")
@pytest.mark.equation("realnvp-inverse")
@pytest.mark.equation("nice-coupling")
@pytest.mark.equation("nice-scaling")
@pytest.mark.equation("glow-convolution")
def test_inverse_and_jacobian_of_every_layer(shape):
    for layer in layers(shape):
        randomise(layer)
        x = torch.randn(3, *shape)
        z, log_det = layer(x)
        assert z.shape == x.shape and log_det.shape == (3,)
        torch.testing.assert_close(layer.inverse(z), x, rtol=1e-11, atol=1e-11)
        expected = torch.linalg.slogdet(jacobian(layer, x))[1]
        torch.testing.assert_close(log_det[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.equation("realnvp-composition")
def test_composition_adds(shape):
    flow = randomise(Compose(*layers(shape)))
    x = torch.randn(3, *shape)
    z, log_det = flow(x)
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian(flow, x))[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(flow.inverse(z), x, rtol=1e-9, atol=1e-9)
