"""The library beside the plainest torch that does the same arithmetic. `make bench`; not part of the timed tests.

Each group has two rows, `gmbook` and `plain`; their medians should be within a factor of 1.15.
"""

import math

import pytest
import torch
from torch import nn

from gmbook.core.denoiser import ideal
from gmbook.core.divergence import log_likelihood
from gmbook.core.gaussians import log_normal
from gmbook.core.paths import VPPath
from gmbook.core.solvers import rk4
from gmbook.laws import plane
from gmbook.networks.mlp import TimeMLP
from gmbook.networks.unet import UNet
from gmbook.papers import ddim, ddpm
from gmbook.papers.ddpm import DDPM
from gmbook.train import train

BETAS = ddpm.linear_betas(1000)
ALPHA_BAR = torch.cumprod(1 - BETAS, 0).float()


def library_step(net, shape, batch):
    model = DDPM(net, shape)
    loop = train(model, iter(lambda: (batch,), None), steps=10**9, lr=1e-3)
    return lambda: next(loop)


def plain_step(net, shape, batch):
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.0, fused=True)
    axes = (-1, *[1] * len(shape))

    def step():
        i = torch.randint(0, 1000, (len(batch),))
        eps, a = torch.randn_like(batch), ALPHA_BAR[i].view(axes)
        loss = (net(a.sqrt() * batch + (1 - a).sqrt() * eps, (i + 1) / 1000, None) - eps).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


@pytest.mark.parametrize("make", [library_step, plain_step], ids=["gmbook", "plain"])
@pytest.mark.benchmark(group="training step, 2-D, 4×128, batch 512")
def test_step_2d(benchmark, make):
    torch.manual_seed(0)
    benchmark.pedantic(make(TimeMLP(2, 128, 4), (2,), torch.randn(512, 2)), rounds=400, warmup_rounds=50)


@pytest.mark.parametrize("make", [library_step, plain_step], ids=["gmbook", "plain"])
@pytest.mark.benchmark(group="training step, 28×28, U-Net, batch 64")
def test_step_28(benchmark, make):
    torch.manual_seed(0)
    net = UNet(1, width=32, multipliers=(1, 2), patch=2)
    benchmark.pedantic(make(net, (1, 28, 28), torch.randn(64, 1, 28, 28)), rounds=8, warmup_rounds=2)


def plain_ddim(net, x):
    for i in range(999, -1, -20):
        a, b = ALPHA_BAR[i], ALPHA_BAR[i - 20] if i >= 20 else torch.ones(())
        eps = net(x, torch.full((len(x),), (i + 1) / 1000), None)
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    return x


@pytest.mark.parametrize("who", ["gmbook", "plain"])
@pytest.mark.benchmark(group="DDIM, 50 steps, 16 images of 28×28")
def test_ddim(benchmark, who):
    torch.manual_seed(0)
    net = UNet(1, width=32, multipliers=(1, 2), patch=2).eval()
    model = DDPM(net, (1, 28, 28))
    with torch.no_grad():
        run = (
            (lambda: ddim.sample(model, 16, 50))
            if who == "gmbook"
            else lambda: plain_ddim(net, torch.randn(16, 1, 28, 28))
        )
        benchmark.pedantic(run, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("who", ["gmbook", "plain"])
@pytest.mark.benchmark(group="ideal denoiser, eight Gaussians, 10,000 points")
def test_ideal(benchmark, who):
    law, path, t = plane.eight_gaussians(), VPPath(), torch.tensor(0.3)
    model, x = ideal(law, path), torch.randn(10_000, 2)
    means, weights, v = law.law.means, law.law.weights, 0.15**2

    def plain():
        a, s = path.alpha(t), path.sigma(t)
        total = a**2 * v + s**2
        residual = x[:, None] - a * means
        share = (weights.log() - residual.square().sum(-1) / (2 * total)).softmax(1)
        return (share[..., None] * (means + a * v / total * residual)).sum(1)

    torch.testing.assert_close(model.predict("x0", x, t), plain(), rtol=1e-4, atol=1e-4)
    benchmark(plain if who == "plain" else lambda: model.predict("x0", x, t))


@pytest.mark.parametrize("who", ["gmbook", "plain"])
@pytest.mark.benchmark(group="likelihood along an ODE, exact trace, RK4, 20 steps, batch 512")
def test_likelihood(benchmark, who):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    x, ts = torch.randn(512, 2), torch.linspace(0, 1, 21)
    field = lambda x, t: net(torch.cat([x, t.expand(len(x), 1)], 1))  # noqa: E731

    def slope(x, t):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = field(x, t)
            rows = [torch.autograd.grad(v[:, k].sum(), x, retain_graph=k == 0)[0][:, k] for k in range(2)]
        return v.detach(), rows[0] + rows[1]

    def plain():
        z, total = x, torch.zeros(512)
        for t, s in zip(ts[:-1], ts[1:]):
            h = s - t
            v1, d1 = slope(z, t)
            v2, d2 = slope(z + h / 2 * v1, t + h / 2)
            v3, d3 = slope(z + h / 2 * v2, t + h / 2)
            v4, d4 = slope(z + h * v3, s)
            z = z + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
            total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        return -z.square().sum(1) / 2 - math.log(2 * math.pi) + total

    def library():
        return log_likelihood(field, x, ts, lambda z: log_normal(z, 0.0, 1.0), solver=rk4)[0]

    torch.testing.assert_close(library(), plain(), rtol=1e-4, atol=1e-4)
    benchmark.pedantic(plain if who == "plain" else library, rounds=10, warmup_rounds=2)
