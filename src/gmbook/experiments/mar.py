"""MAR on points in the plane, and on MNIST by 4×4 patches under two heads: diffusion, and codewords.

The paper, on ImageNet's 256×256: 16×16 tokens of 16 numbers from a KL autoencoder, or as many of a VQ one's codewords;
encoder and decoder 16 + 16 layers of width 1024 and a head of 8 layers of width 1280 (MAR-L), label dropout 0.1, T =
1000 with the cosine schedule and 100 steps of the head in sampling, four noise levels for each token, AdamW 8e-4 at
batch 2048, EMA 0.9999, 400 epochs.

Ours has no autoencoder: its tokens are the patches themselves, 7×7 of them with 16 numbers, and the codewords are
k-means' of training patches. Backbone, recipe and digits seen are the same under both heads.

There are two tries. In the first the share that is hidden in training is the paper's, 0.7 and more. A sampler that
draws a token a step asks at lower shares in 34 of its 49 steps, so the second, `even`, draws the share evenly from 0 to
1. Its matrices take Muon besides; it sees as many digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gmbook import data
from gmbook.experiments import classifier
from gmbook.experiments.base import Evaluate, Experiment
from gmbook.experiments.images import CLASSES, balanced, image_batches
from gmbook.experiments.toys import GAUSSIANS, points
from gmbook.metrics.distances import frechet_distance
from gmbook.metrics.images import CLASSIFIER, measure_digits, real_images
from gmbook.metrics.metric import Metric, Protocol, of_set, seed
from gmbook.networks.mlp import MLP, AdaMLP
from gmbook.networks.transformer import MaskedTransformer
from gmbook.papers.ddpm import DDPM
from gmbook.papers.improved_ddpm import cosine_betas
from gmbook.papers.mar import MAR, CodebookHead, DiffusionHead, Head
from gmbook.train.device import device
from gmbook.train.optimizers import MuonAndAdam
from gmbook.train.recipe import Recipe

REFERENCE = (
    "Li et al. 2024, ImageNet 256 (MAR-L): 16 + 16 layers of width 1024, 256 tokens of 16 numbers, a head of 8 layers "
    "of width 1280, T = 1000 and 100 steps in sampling, AdamW 8e-4, batch 2048, EMA 0.9999, 400 epochs"
)
Ratio = tuple[float, float]  # the law of the share that is hidden in training, as `MAR` takes it
PAPER, EVEN = (0.7, 0.25), (0.0, 1000.0)  # the paper's, and any share as likely as any other
PATCH, TOKENS, CHANNELS = 4, 49, 16
WORDS = 256  # codewords of 16 numbers
HEAD_STEPS = 50  # of the diffusion head's T = 1000, in sampling
STEPS = (49, 16, 4, 1)  # of the model, in which it is judged: the first is a token a step
GUIDED = (16, 3.0)  # steps and scale of the guided samples that are judged


def model() -> MAR:
    """A point is two tokens of one number each; either may be drawn first."""
    head = DiffusionHead(DDPM(AdaMLP(1, 64, 96, 2), (1,), steps=100))
    return MAR(MaskedTransformer(2, 1, 64, (1, 1), 4), head, (2,), ratio=(0.0, 0.5))


def patches(x: Tensor, patch: int = PATCH) -> Tensor:
    """The tokens of images: (B, C, H, W) -> (B · L, p²C)."""
    return F.pixel_unshuffle(x, patch).flatten(2).mT.flatten(0, 1)


def codebook(words: int = WORDS, images: int = 2000) -> Tensor:
    """K-means' centres of the patches of MNIST's first training digits, (words, 16); zeros where MNIST is not there.

    Recorded weights bring their codebook along.
    """
    try:
        tokens = patches(data.scale(data.mnist("train").x[:images]))
    except FileNotFoundError:
        return torch.zeros(words, CHANNELS)
    from sklearn.cluster import KMeans

    return torch.from_numpy(KMeans(words, n_init=1, max_iter=50, random_state=0).fit(tokens.numpy()).cluster_centers_)


def diffusion(width: int, told: int, depth: int) -> DiffusionHead:
    """The paper's head, a small one; two noise levels for each token are enough where a batch has thousands."""
    net = AdaMLP(CHANNELS, told, width, depth)
    ddpm = DDPM(net, (CHANNELS,), betas=cosine_betas(1000), variance="small", clip=1.0)
    return DiffusionHead(ddpm, repeats=2, steps=HEAD_STEPS)


def words(width: int, told: int, depth: int) -> CodebookHead:
    """An MLP that tells which codeword."""
    return CodebookHead(MLP(told, WORDS, width, depth), codebook())


HEADS: dict[str, Callable[[int, int, int], Head]] = {"diffusion": diffusion, "codebook": words}


def digits(
    head: str, width: int = 96, depth: tuple[int, int] = (2, 3), head_depth: int = 2, ratio: Ratio = PAPER
) -> MAR:
    """Digits in random order, 0.7 M weights.

    By the paper's ratio the encoder reads at most fifteen patches in training. The decoder reads all.
    """
    backbone = MaskedTransformer(TOKENS, CHANNELS, width, depth, 4, classes=CLASSES, drop=0.1)
    return MAR(backbone, HEADS[head](width, width, head_depth), (1, 28, 28), PATCH, ratio=ratio)


def batches(seed: int, size: int) -> Any:
    """Endless (x, y) of MNIST's training digits in [−1, 1]."""
    return image_batches(data.mnist("train"), seed, size)


def sample(model: Any, labels: Tensor, steps: int | None = None, scale: float = 1.0) -> Tensor:
    """Digits of these classes, a token a step or in so many steps, no selection: (n,) -> (n, 1, 28, 28) in [−1, 1]."""
    drawn = [model.sample(len(y), y, steps, scale) for y in labels.to(device()).split(250)]
    return torch.cat(drawn).clamp(-1, 1).cpu()


def wording(steps: int, scale: float = 1.0) -> str:
    """How samples were drawn."""
    guidance = "no guidance" if scale == 1 else f"guidance {scale:g}"
    return f"{steps} step{'s' * (steps > 1)}, temperature 1, {guidance}, no selection"


@torch.no_grad()
def evaluate(model: Any, n: int) -> list[Metric]:
    """n samples before the classifier, for each number of steps, and guided ones."""
    labels, judge, report = balanced(n), classifier.recorded(), []
    for name, steps, scale in [*((f"in_{steps}", steps, 1.0) for steps in STEPS), ("guided", *GUIDED)]:
        torch.manual_seed(0)
        found = measure_digits(sample(model, labels, steps, scale), labels, judge, wording(steps, scale))
        if steps == STEPS[0]:
            report += found
        else:
            keys = {"classifier_frechet_distance": "frechet", "recall": "recall", "read_as_asked": "read"}
            report += [replace(m, key=f"{keys[m.key]}_{name}") for m in found if m.key in keys]
    return report


@torch.no_grad()
def evaluate_words(model: Any, n: int) -> list[Metric]:
    """The same, and what the codewords alone lose: the distance of real digits, each patch its nearest codeword."""
    test = data.mnist("test")
    real, other = real_images(test, n)
    rebuilt = model.assemble(model.head.seen(model.tokenise(other.to(device())))).cpu()
    judge, card = classifier.recorded(), Protocol(n, of_set(test), len(real), network=CLASSIFIER, seed=seed())
    floor, apart = (frechet_distance(judge.features(x), judge.features(real)).item() for x in (other, rebuilt))
    lost = Metric("reconstruction_frechet_distance", apart, floor=floor, protocol=card)
    return [*evaluate(model, n), lost]


EVALUATE: dict[str, Evaluate] = {"diffusion": evaluate, "codebook": evaluate_words}


def on_mnist(
    head: str, budget: str, make: Callable[[str], MAR], recipe: Recipe, name: str = "", **run: Any
) -> Experiment:
    """The experiment of one head; the data set's name says which, and `name` which try."""
    return Experiment(
        "mar",
        f"mnist_{head}{name}",
        budget,
        model=lambda: make(head),
        batches=batches,
        recipe=recipe,
        reference=REFERENCE,
        sample=sample,
        evaluate=EVALUATE[head],
        **run,
    )


LAPTOP = Recipe(
    steps=2000,  # 128,000 digits, two passes: nine minutes of one core with the diffusion head, five with codewords
    batch_size=64,
    lr=1e-3,
    warmup=100,
    decay="cosine",
    clip=1.0,
    ema_decay=0.995,
)
# In 200 steps of codewords, any share hidden, the last 40 losses were 2.10 nats on average, and 2.22 with Adam.
AGAIN = replace(LAPTOP, lr=2e-2, optimizer=MuonAndAdam())
GPU = Recipe(
    steps=50_000,
    batch_size=512,
    lr=5e-4,
    warmup=1000,
    decay="cosine",
    clip=3.0,  # the authors' limit
    ema_decay=0.9999,
    weight_decay=0.02,
    betas=(0.9, 0.95),
    bf16=True,
)


def large(head: str) -> MAR:
    """For a GPU: 8 + 8 blocks of width 256."""
    return digits(head, 256, (8, 8), 3)


def even(head: str) -> MAR:
    """As `digits`, any share hidden in training."""
    return digits(head, ratio=EVEN)


def large_even(head: str) -> MAR:
    """As `large`, any share hidden in training."""
    return digits(head, 256, (8, 8), 3, EVEN)


EXPERIMENTS = (
    points("mar", GAUSSIANS, model, 2000, size=128),
    *(
        experiment
        for head in HEADS
        for experiment in (
            on_mnist(head, "laptop", digits, LAPTOP),
            on_mnist(head, "gpu", large, GPU, compile=True),
            on_mnist(head, "laptop", even, AGAIN, "_even"),
            on_mnist(head, "gpu", large_even, GPU, "_even", compile=True),
        )
    ),
)
