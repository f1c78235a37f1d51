"""D3PM on pairs of tokens, on MNIST in eight grey levels, by three matrices, and on text8.

The paper, on CIFAR-10 with 256 levels: DDPM's U-Net of width 128, T = 1000, Adam 2e-4 with 5,000 steps of warm-up,
batch 128, EMA 0.9999, 1.5 M steps, λ = 0.001; β linear from 1e-4 to 0.02 for its Gaussian matrices, cosine for the
uniform.

Ours has the same network, recipe and output, softmax logits, for all three matrices, so that only the noise differs.

On text8, in windows of 256 letters: a transformer of 12 layers and width 768, T = 1000, batch 512, 1 M steps, rate
2e-4 with 5,000 steps of warm-up, clip 0.25, λ = 0.01 for the absorbing chain. Ours has MDLM's network, which does not
see the time, and a batch of its windows for each of the comparison's steps (`mdlm.compared`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmbook import data, metrics
from gmbook.core.chains import Chain, MarkovChain
from gmbook.data.batches import Batches
from gmbook.experiments import classifier, mdlm
from gmbook.experiments.base import Experiment
from gmbook.experiments.images import CLASSES, balanced
from gmbook.experiments.toys import VOCAB, own_sampler, token_net, tokens
from gmbook.metrics.images import measure_digits
from gmbook.metrics.metric import Metric, Protocol, mean, of_set, seed
from gmbook.networks.token_unet import TokenUNet
from gmbook.papers.d3pm import D3PM, gaussian_chain
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Austin et al. 2021, CIFAR-10 in 256 levels: DDPM's U-Net of width 128, T = 1000, Adam 2e-4, warm-up 5,000, batch "
    "128, EMA 0.9999, lambda 0.001, 1.5 M steps"
)
REFERENCE_TEXT = (
    "Austin et al. 2021, text8: 12 layers of width 768, windows of 256, T = 1000, rate 2e-4, warm-up 5,000, clip 0.25, "
    "batch 512, lambda 0.01, 1 M steps"
)
LEVELS = 8  # a step costs in proportion to them; with eight a digit is still smooth to the eye
STEPS = 100
JUMPS = 50  # of the sampler that is judged
DRAWS = 25  # of the bound's terms for each image


def model() -> D3PM:
    """Uniform noise in a hundred steps."""
    return D3PM(token_net(VOCAB), (2,), Chain.uniform(VOCAB), steps=100)


def uniform() -> MarkovChain:
    """Any level may become any other."""
    return Chain.uniform(LEVELS)


def absorbing() -> MarkovChain:
    """A pixel becomes an extra mask. (The paper's images have the grey value 128 for it.)"""
    return Chain.absorbing(LEVELS)


def gaussian(steps: int = STEPS) -> MarkovChain:
    """A level moves to near ones; β grows from 0.016 to 0.63, which a range of eight levels needs to be forgotten."""
    return gaussian_chain(LEVELS, torch.logspace(-1.8, -0.2, steps, dtype=torch.float64))


CHAINS: dict[str, Callable[[], MarkovChain]] = {"uniform": uniform, "absorbing": absorbing, "gaussian": gaussian}


def digits(chain: MarkovChain, width: int = 28, **options: Any) -> D3PM:
    """28×28 in eight levels, seen as 14×14 patches of 2×2: 0.6 M weights, λ as in the paper."""
    net = TokenUNet(1, chain.states, LEVELS, width=width, multipliers=(1, 2), classes=CLASSES, patch=2, **options)
    return D3PM(net, (1, 28, 28), chain, steps=STEPS, hybrid=0.001)


def levels(x: Tensor) -> Tensor:
    """Grey values 0..255 in eight equal bins: uint8 -> int64 in 0..7, any shape."""
    return (x.long() * LEVELS).div(256, rounding_mode="floor")


def grey(x: Tensor) -> Tensor:
    """The eight levels as greys in [−1, 1]: int64 -> float32, any shape."""
    return data.scale(x.to(torch.uint8), LEVELS)


def batches(seed: int, size: int) -> Batches:
    """Endless (x, y) of MNIST's training digits in eight levels."""
    train = data.mnist("train")
    return Batches(train.x, train.y, size=size, seed=seed, device=device(), transform=levels)


def sample(model: Any, labels: Tensor) -> Tensor:
    """Digits of these classes by fifty jumps, no selection and no guidance: (n,) -> (n, 1, 28, 28) in [−1, 1]."""
    drawn = [model.sample(len(y), y, steps=JUMPS) for y in labels.to(device()).split(125)]
    return grey(torch.cat(drawn)).cpu()


@torch.no_grad()
def evaluate(model: Any, n: int) -> list[Metric]:
    """n samples before the classifier, and the bound of as many test digits given their labels, 250 at most."""
    labels = balanced(n)
    found = measure_digits(sample(model, labels), labels, classifier.recorded(), f"{JUMPS} of {STEPS} jumps")
    test, train, count = data.mnist("test"), data.mnist("train"), min(n, 250)
    x, y = levels(test.x[:count]).to(device()), test.y[:count].to(device())
    parts = zip(x.split(50), y.split(50), strict=True)
    nats = torch.cat([model.nelbo(part, label, draws=DRAWS) for part, label in parts])
    histogram = metrics.histogram_bits(levels(train.x), levels(test.x[:count]), LEVELS).mean().item()
    how = Protocol(data=of_set(test), examples=count, draws=DRAWS, seed=seed(), setting="in 8 levels, given the label")
    bits = metrics.bits_per_dim(nats, math.prod(model.shape))
    beside = {"histogram": histogram}
    return [*found, mean("bits_per_dim_bound", bits, baselines=beside, unit="bits/dim", protocol=how)]


def on_mnist(name: str, budget: str, recipe: Recipe, width: int, **run: Any) -> Experiment:
    """The experiment of one matrix; the data set's name says which."""
    return Experiment(
        "d3pm",
        f"mnist_{name}",
        budget,
        model=lambda: digits(CHAINS[name](), width),
        batches=batches,
        recipe=recipe,
        reference=REFERENCE,
        sample=sample,
        evaluate=evaluate,
        **run,
    )


def letters(width: int, depth: int, heads: int, length: int, vocab: int = mdlm.LETTERS, **options: Any) -> D3PM:
    """Absorbed letters in windows of `length`, on MDLM's network: T = 1000, and λ as in the paper."""
    net = mdlm.network(width, depth, heads, False, vocab, **options)
    return D3PM(net, (length,), Chain.absorbing(vocab), steps=1000, hybrid=0.01)


def bound(model: Any, x: Tensor) -> Tensor:
    """D3PM's bound on −log p(x), a term of each of DRAWS ranges of its steps: (B,), nats."""
    return model.nelbo(x, draws=mdlm.DRAWS)


def lines(model: Any, labels: Tensor) -> Tensor:
    """As many lines as labels, which the model does not know, by 128 jumps: (n, L)."""
    return torch.cat([model.sample(len(part), steps=128) for part in labels.split(100)]).cpu()


LAPTOP = Recipe(
    steps=3600,  # 115,200 digits, two passes: seven minutes of one core for each of three matrices
    batch_size=32,
    lr=1e-3,
    warmup=100,
    decay="cosine",
    clip=1.0,
    ema_decay=0.995,
)
GPU = Recipe(steps=20_000, batch_size=256, lr=5e-4, warmup=1000, decay="cosine", clip=1.0, ema_decay=0.9995, bf16=True)


EXPERIMENTS = (
    tokens("d3pm", model, 2500, own_sampler),
    *(
        experiment
        for name in CHAINS
        for experiment in (
            on_mnist(name, "laptop", LAPTOP, 28),
            on_mnist(name, "gpu", GPU, 96, compile=True, channels_last=True),
        )
    ),
    *mdlm.compared("d3pm", "absorbing", letters, bound, "128 of 1000 jumps", REFERENCE_TEXT, sample=lines),
)
