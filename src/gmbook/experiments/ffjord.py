"""FFJORD on points in the plane, and on MNIST halved to 14×14, as the paper trains it and with paths made easy.

The paper, on 28×28 MNIST: two scales of two CNFs each, convolutions with three layers of 64 channels, logit with α =
1e-6, dopri5 and the adjoint, batch 200. Here one CNF sees 14×14 pixels as four channels of 7×7; its training
differentiates through dopri5 at 1e-3, and α is 0.05, the book's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gmbook import data, metrics
from gmbook.core.flows.pixels import Logit
from gmbook.data.batches import Batches
from gmbook.experiments.base import Experiment
from gmbook.experiments.toys import GAUSSIANS, in_nats, points
from gmbook.laws import plane
from gmbook.metrics import PixelGaussian
from gmbook.metrics.metric import Metric, Protocol, mean, of_set, seed
from gmbook.networks.fields import ConvField
from gmbook.networks.mlp import SmoothField
from gmbook.papers.ffjord import FFJORD
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Grathwohl et al. 2019, MNIST at 28×28: two scales of two CNFs, three layers of 64 channels, alpha = 1e-6, dopri5 "
    "by the adjoint, batch 200"
)
ALPHA = 0.05  # the logit's α: to be said beside every bits/dim
COARSE, FINE = 1e-3, 1e-5  # tolerances of dopri5: in training, and to judge
WEIGHTS = {"mnist_14x14": 0.0, "mnist_14x14_regularised": 5.0}  # λ_K = λ_J, nats per unit of energy per pixel


def model() -> FFJORD:
    """Solved by dopri5 at 1e-3 and differentiated through; in the plane the exact trace is cheap."""
    return FFJORD(SmoothField(), (2,), rtol=COARSE, atol=COARSE, use_adjoint=False, probe=None)


# ---------------------------------------------------------------------------------------------- digits of 14×14


def digits(weight: float, width: int = 32, shape: tuple[int, ...] = (1, 14, 14), levels: int = 256) -> FFJORD:
    """One CNF of one field, penalised by `weight` on both of its energies."""
    net = ConvField(shape[0], width, depth=2, patch=2)
    options: dict[str, Any] = {"rtol": COARSE, "atol": COARSE, "use_adjoint": False}
    return FFJORD(net, shape, ALPHA, kinetic=weight, jacobian=weight, levels=levels, **options)


def live(images: data.ImageSet) -> FFJORD:
    """A small one for some seconds of live training on whatever images are there: halved MNIST or halved 8×8 digits."""
    return digits(0.0, 16, images.shape, images.levels)


def halved(images: data.ImageSet) -> data.ImageSet:
    """Means of 2×2 pixels, rounded: (N, C, H, W) -> (N, C, H/2, W/2), as many levels as before."""
    n, c, h, w = images.x.shape
    small = images.x.reshape(n, c, h // 2, 2, w // 2, 2).double().mean((3, 5)).round().to(torch.uint8)
    return replace(images, x=small, name=f"{images.name} at {h // 2}×{w // 2}")


def batches(seed: int, size: int) -> Iterable[tuple[Tensor, ...]]:
    """Endless (x,) of MNIST's training digits, halved: integers, which the model dequantises itself."""
    return Batches(halved(data.mnist("train")).x, size=size, seed=seed, device=device())


def at(model: FFJORD, tolerance: float) -> FFJORD:
    """The same flow, with the same field, solved at another tolerance, in evaluation mode."""
    found: dict[str, Any] = {"jacobian": 1.0, "rtol": tolerance, "atol": tolerance, "levels": model.levels or 256}
    other = FFJORD(model.cnf.net, model.shape, ALPHA, **found)
    return other.to(model.device).eval()


@torch.no_grad()
def sample(model: Any, labels: Tensor) -> Tensor:
    """As many samples as labels, which the model does not know: (n, C, H, W) in [−1, 1]."""
    fine = at(model, FINE)
    chunks = [fine.sample(len(part)) for part in labels.split(100)]
    return (2 * torch.cat(chunks) - 1).clamp(-1, 1).cpu()


@torch.no_grad()
def report(model: FFJORD, train: data.ImageSet, test: data.ImageSet, most: int = 1000) -> list[Metric]:
    """Bits/dim of the first `most` test images at the fine tolerance beside two Gaussians' and a histogram's; what the
    coarse tolerance says of the same images, noise and probes; and what the paths cost.

    The number of evaluations is that of one solve for 100 images, for the density: f and the trace together.
    """
    torch.manual_seed(0)
    x, dims = test.x[:most].to(device()), math.prod(model.shape)
    found: dict[float, list[Tensor]] = {}
    evaluations, energies = {}, []
    for tolerance in (FINE, COARSE):
        torch.manual_seed(0)
        flow, found[tolerance], counts = at(model, tolerance), [], []
        for part in x.split(100):
            found[tolerance].append(flow.bits_per_dim(part).cpu())
            counts.append(float(flow.evaluations))
            energies += [torch.stack(flow.cnf.spent or ()).T.cpu() / dims] if tolerance == FINE else []
        evaluations[tolerance] = torch.tensor(counts)
    kinetic, jacobian = torch.cat(energies).unbind(1)
    beside = {"histogram": metrics.histogram_bits(train.x, x.cpu()).mean().item()}
    for name, space in (("gaussian_after_logit", Logit(ALPHA)), ("pixel_gaussian", None)):
        beside[name] = PixelGaussian(train.x, train.levels, space).bits(x.cpu()).mean().item()
    how = Protocol(
        data=of_set(test), examples=len(x), draws=1, seed=seed(), setting=f"alpha = {ALPHA}, dopri5 at {FINE}"
    )
    coarse = replace(how, setting=f"alpha = {ALPHA}, dopri5 at {COARSE}")
    fine_bits, coarse_bits = torch.cat(found[FINE]), torch.cat(found[COARSE])
    return [
        mean("bits_per_dim_bound", fine_bits, baselines=beside, unit="bits/dim", protocol=how),
        mean("bits_per_dim_more_when_solved_coarsely", coarse_bits - fine_bits, unit="bits/dim", protocol=coarse),
        mean("evaluations_solved_finely", evaluations[FINE], protocol=how),
        mean("evaluations_solved_coarsely", evaluations[COARSE], protocol=coarse),
        mean("kinetic_energy_per_pixel", kinetic, protocol=how),
        mean("jacobian_energy_per_pixel", jacobian, protocol=how),
    ]


def evaluate(model: FFJORD, n: int) -> list[Metric]:
    """The report on n test digits, 1,000 at most."""
    return report(model, halved(data.mnist("train")), halved(data.mnist("test")), min(n, 1000))


def on_mnist(name: str, budget: str, recipe: Recipe, width: int, **run: Any) -> Experiment:
    """The run with one weight of the penalties; the data set's name says which."""
    return Experiment(
        "ffjord",
        name,
        budget,
        model=lambda: digits(WEIGHTS[name], width),
        batches=batches,
        recipe=recipe,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
        **run,
    )


# No averaged weights, as for the other flows: the cosine ends at rate 0.
LAPTOP = Recipe(
    steps=1500,  # a pass and a half over the digits; 0.2 to 0.35 s a step on one idle core, as the field grows steep
    batch_size=64,
    lr=5e-3,
    warmup=50,
    decay="cosine",
    clip=100.0,
)
GPU = Recipe(steps=40_000, batch_size=256, lr=1e-3, warmup=500, decay="cosine", clip=100.0)

EXPERIMENTS = (
    points("ffjord", GAUSSIANS, model, 650, size=256, lr=1e-2, clip=1.0),
    points("ffjord", plane.moons, model, 650, size=256, lr=1e-2, clip=1.0, evaluate=in_nats(plane.moons())),
    *(
        on_mnist(name, budget, recipe, width)
        for name in WEIGHTS
        for budget, recipe, width in (("laptop", LAPTOP, 32), ("gpu", GPU, 128))
    ),
)
