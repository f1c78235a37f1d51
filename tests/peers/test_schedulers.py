"""DDPM and DDIM against diffusers' schedulers; RealNVP's coupling against normflows; the pairing against torchcfm."""

import numpy as np
import pytest
import torch
from torch import nn

from gmbook.core.flows.couplings import AffineCoupling, parity_mask
from gmbook.papers import ddim
from gmbook.papers.ddpm import DDPM, linear_betas
from gmbook.papers.flow_matching import optimal_transport
from gmbook.papers.latent_diffusion import sqrt_linear_betas

EXTRA = "needs the extra `peers`: make peers"


class Wave(nn.Module):
    """Any smooth function of x and t will do for a network."""

    def forward(self, x, t, y=None):
        return torch.sin(2 * x) + t.reshape(-1, 1) * x.flip(1)


@pytest.mark.parametrize("i", [1, 2, 137, 1000])
def test_ancestral_step(i):
    """Mean and variance of one step back, both variances of the paper, at diffusers' index i − 1."""
    diffusers = pytest.importorskip("diffusers", reason=EXTRA)
    x, net = torch.randn(64, 2), Wave()
    betas = linear_betas().numpy()
    for ours, theirs in (("small", "fixed_small"), ("large", "fixed_large")):
        scheduler = diffusers.DDPMScheduler(1000, trained_betas=betas, variance_type=theirs, clip_sample=False)
        model = DDPM(net, (2,), variance=ours)
        torch.testing.assert_close(scheduler.alphas_cumprod.double(), model.alpha_bar[1:], rtol=1e-5, atol=1e-9)
        output = model(x, torch.tensor(i / 1000))
        torch.manual_seed(0)
        got = scheduler.step(output, i - 1, x).prev_sample
        torch.manual_seed(0)
        torch.testing.assert_close(model.step(x, i), got, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_step(eta):
    """One step from i = 600 to 580, the noise of η included."""
    diffusers = pytest.importorskip("diffusers", reason=EXTRA)
    scheduler = diffusers.DDIMScheduler(1000, trained_betas=linear_betas().numpy(), clip_sample=False)
    scheduler.set_timesteps(50)  # steps of twenty, at diffusers' indices 980, 960, …
    model, x = DDPM(Wave(), (2,)), torch.randn(64, 2)
    t, s = (torch.tensor(k / 1000, dtype=torch.float64) for k in (581, 561))
    output = model(x, t)
    torch.manual_seed(0)
    got = scheduler.step(output, 580, x, eta=eta).prev_sample
    torch.manual_seed(0)
    torch.testing.assert_close(ddim.step(model, x, t, s, eta), got, rtol=1e-3, atol=2e-4)


def test_affine_coupling():
    """normflows splits in halves where we mask: on two coordinates, odd from even, it is the same layer."""
    normflows = pytest.importorskip("normflows", reason=EXTRA)
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2))
    theirs = normflows.flows.AffineCouplingBlock(net)

    class Both(nn.Module):
        """The same numbers for a layer that keeps x_1 and moves x_2: normflows emits (shift, log-scale)."""

        def forward(self, x):
            shift, scale = net(x[:, :1]).unbind(1)
            return torch.stack([torch.zeros_like(scale), scale, torch.zeros_like(shift), shift], 1)

    mask = parity_mask((2,))
    ours = AffineCoupling(Both(), mask if mask[0] == 1 else 1 - mask, bound=lambda s: s)
    x = torch.randn(32, 2)
    for mine, other in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_pairing_costs_as_much_as_torchcfms_plan():
    """torchcfm's plan is a permutation over 64 for equal weights: ours has the same cost, by another solver."""
    optimal = pytest.importorskip("torchcfm.optimal_transport", reason=EXTRA)
    torch.manual_seed(0)
    x, z = torch.randn(64, 3), torch.randn(64, 3) + 1
    plan = optimal.OTPlanSampler("exact").get_map(x, z)
    cost = torch.cdist(x, z).square().numpy()
    paired = optimal_transport(x, z)
    assert np.sum(plan * cost) == pytest.approx((paired[0] - paired[1]).square().sum(1).mean().item(), rel=1e-5)


def test_the_schedule_that_latent_diffusion_calls_linear():
    """diffusers calls it "scaled_linear"; Stable Diffusion's ends."""
    diffusers = pytest.importorskip("diffusers", reason=EXTRA)
    theirs = diffusers.DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear").betas.double()
    torch.testing.assert_close(sqrt_linear_betas(1000, 0.00085, 0.012), theirs, rtol=1e-5, atol=0)
