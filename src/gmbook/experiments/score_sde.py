"""Score SDE on points in the plane and on MNIST.

The paper, on CIFAR-10: DDPM++ and NCSN++ of 62 M to 108 M weights, VP with β from 0.1 to 20, Adam 2e-4 with 5,000 steps
of warm-up, batch 128, EMA 0.9999 (VE 0.999), 1.3 M steps; samples from t = 1e-3 (VE 1e-5), likelihoods from 1e-5. Ours
is trained for its likelihood: weights g², times drawn so that log(σ/α) is even (arXiv:2101.09258).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gmbook import data, metrics
from gmbook.core.paths import GaussianPath, VPPath
from gmbook.core.probability_flow import log_likelihood
from gmbook.core.solvers import last, rk4
from gmbook.experiments import classifier
from gmbook.experiments.base import Experiment
from gmbook.experiments.images import CLASSES, balanced, centred, guided, image_batches, live_net
from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.metrics.images import measure_digits
from gmbook.metrics.metric import Metric, Protocol, mean, of_set, seed
from gmbook.networks.unet import UNet
from gmbook.papers.score_sde import ScoreSDE, ancestral, corrected_trajectory, reverse_sde
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Song et al. 2021, CIFAR-10: DDPM++ 62 M, VP with β 0.1 to 20, Adam 2e-4, warm-up 5,000, batch 128, EMA 0.9999, "
    "1,300,000 steps, time even on [1e-5, 1]"
)
STEPS, SCALE = 100, 2.0  # of the samples; scale 1.5 leaves 7 in 100 digits another class than was asked for
# 30 steps are enough for a Gaussian as narrow as a background pixel, to 0.002 bits. They flatter a trained network,
# whose field is rougher: on four digits 2.83 bits/dim by 30 steps, 3.48 by 60, 3.34 by 120. So the report says what
# half of them give.
FLOW_STEPS = 200
SETTING = f"given the label; dequantised, one probe of the trace, {FLOW_STEPS} RK4 steps even in log(sigma/alpha)"
SAMPLES_FROM = 1e-3  # where sampling stops, the paper's; the likelihood goes on to the path's t_min


class Clocked(nn.Module):
    """A network that is told log(σ/α), scaled to [0, 1], for the time, and sees sines of x beside x.

    Likelihood is decided at σ of a few thousandths, where t itself hardly moves, and where x must be read within a grey
    level: sin and cos of 2ⁿπx, n = 7 and 8, do half a turn and a turn in a level of 2/256. arXiv:2107.00630, Section
    3.3, found such features.

    Args:
        net: a network of five times as many channels.
        path: whose σ/α it is told.
    """

    def __init__(self, net: nn.Module, path: GaussianPath):
        super().__init__()
        self.net, self.path = net, path
        ends = torch.tensor([path.t_min, path.t_max], dtype=torch.float64)
        self.least, self.most = path.noise_ratio(ends).log().tolist()

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        told = (self.path.noise_ratio(t.double()).log() - self.least) / (self.most - self.least)
        turns = [2**n * math.pi * x for n in (7, 8)]
        seen = torch.cat([x, *(f(angle) for angle in turns for f in (torch.sin, torch.cos))], 1)
        return self.net(seen, told.to(x.dtype), y)


def on_images(unet: UNet, shape: tuple[int, ...]) -> ScoreSDE:
    """VP from 1e-5 for dequantised images in (−1, 1), trained for the likelihood."""
    path = VPPath(t_min=1e-5)
    return ScoreSDE(Clocked(unet, path), path, shape, likelihood_weighting=True, importance=True)


def mnist_model() -> ScoreSDE:
    """DDPM's network on MNIST with the four sines, 0.79 M weights, so that the two compare."""
    return on_images(UNet(5, 1, width=32, multipliers=(1, 2), classes=CLASSES, drop=0.1, patch=2), (1, 28, 28))


def mnist_gpu_model() -> ScoreSDE:
    """28×28 at full resolution: DDPM's network at this budget with the four sines, 6 M weights."""
    return on_images(UNet(5, 1, width=64, blocks=2, attention=(1, 2), classes=CLASSES, drop=0.1), (1, 28, 28))


def live(images: data.ImageSet) -> ScoreSDE:
    """A model for some seconds of live training on whatever images are there: 28×28 MNIST or the 8×8 digits."""
    return on_images(live_net(images, views=5), images.shape)


def sample(model: Any, labels: Tensor, scale: float = SCALE, steps: int = STEPS) -> Tensor:
    """Class-conditional samples by the ancestral predictor with guidance: labels (n,) -> (n, C, H, W) in [−1, 1].

    Scale 1 is the network as it is.
    """
    twin = model if scale == 1 else guided(model, scale)
    ts = VPPath(t_min=SAMPLES_FROM).times(steps, 2.0).to(device())
    walk = lambda y: corrected_trajectory(twin, twin.prior(len(y)), ts, ancestral, corrections=0, y=y)  # noqa: E731
    return torch.cat([last(walk(y)) for y in labels.to(device()).split(250)]).clamp(-1, 1).cpu()


def wording(scale: float) -> str:
    """How samples were drawn."""
    guidance = "no guidance" if scale == 1 else f"guidance s = {scale:g}"
    return f"ancestral predictor, {STEPS} steps, quadratic in t from 1 to 1e-3, {guidance}, no selection"


def bits(model: ScoreSDE, x: Tensor, y: Tensor, t_min: float, levels: int = 256, steps: int = FLOW_STEPS) -> Tensor:
    """Bits/dim of integer images (N, C, H, W) given their labels by the flow from t_min in so many steps of RK4, one
    draw of dequantisation and of the trace's probe each: (N,). The density is that of centred pixels, hence the offset
    log₂ levels − 1."""
    path, found = model.path, []
    least, most = path.noise_ratio(torch.tensor([t_min, path.t_max], dtype=torch.float64)).log().tolist()
    ts = path.time_at(torch.linspace(least, most, steps + 1, dtype=torch.float64).exp()).to(device())
    for part, labels in zip(x.split(64), y.split(64)):
        seen = centred(part, levels).to(device())
        probe = torch.randn_like(seen).sign()
        nats = log_likelihood(model, seen, ts, probe, rk4, labels.to(device()))
        found.append(metrics.bits_per_dim(-nats, math.prod(model.shape)) + math.log2(levels) - 1)
    return torch.cat(found).cpu()


def report(model: Any, test: data.ImageSet, n: int = 32, steps: int = FLOW_STEPS) -> Metric:
    """Bits/dim of n test images, and beside them what the same flow says when it starts where samples end, and what
    half of the steps give. All from the same draws."""
    values = {}
    for name, start, count in (
        ("value", model.path.t_min, steps),
        ("from_the_end_of_samples", SAMPLES_FROM, steps),
        ("half_the_steps", model.path.t_min, steps // 2),
    ):
        torch.manual_seed(0)
        values[name] = bits(model, test.x[:n], test.y[:n], start, test.levels, count)
    how = Protocol(data=of_set(test), examples=n, draws=1, seed=seed(), setting=SETTING)
    beside = {name: value.mean().item() for name, value in values.items() if name != "value"}
    return mean("bits_per_dim_flow", values["value"], baselines=beside, unit="bits/dim", protocol=how)


def judged(model: Any, n: int) -> list[Metric]:
    """n guided samples before the classifier, and as many without guidance."""
    labels, judge = balanced(n), classifier.recorded()
    keys = {"classifier_frechet_distance": "frechet_unguided", "recall": "recall_unguided"}
    keys |= {"read_as_asked": "read_unguided"}
    found = []
    for scale in (SCALE, 1.0):
        torch.manual_seed(0)
        found.append(measure_digits(sample(model, labels, scale), labels, judge, wording(scale)))
    return [*found[0], *(replace(m, key=keys[m.key]) for m in found[1] if m.key in keys)]


def evaluate(model: Any, n: int) -> list[Metric]:
    """n samples with and without guidance before the classifier, and bits/dim of test digits along the flow."""
    return [*judged(model, n), report(model, data.mnist("test"))]


EXPERIMENTS = (
    points("score_sde", GAUSSIANS, lambda: ScoreSDE(net(), VPPath(), (2,)), 8000, lambda m, n: reverse_sde(m, n, 200)),
    Experiment(
        "score_sde",
        "mnist",
        "laptop",
        model=mnist_model,
        batches=lambda seed, size: image_batches(data.mnist("train"), seed, size, transform=centred),
        recipe=Recipe(
            steps=3000,  # half of DDPM's run: a quarter of an hour of one core
            batch_size=64,
            lr=1e-3,  # five times the paper's: a small net
            warmup=200,
            decay="cosine",
            clip=1.0,
            ema_decay=0.998,
        ),
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
    Experiment(
        "score_sde",
        "mnist",
        "gpu",
        model=mnist_gpu_model,
        batches=lambda seed, size: image_batches(data.mnist("train"), seed, size, transform=centred),
        recipe=Recipe(steps=100_000, batch_size=128, lr=2e-4, warmup=5000, clip=1.0, bf16=True, ema_decay=0.9999),
        compile=True,
        channels_last=True,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
    ),
)
