"""Every paper's class on a toy law, in about a minute: what each of them reaches where the truth is known.

The dataset's name is the law's: points of `laws.plane`, pairs of tokens of `laws.pairs`. All nets are small,
all batches are fresh draws, so nothing is memorised. `gmbook train flow_matching eight_gaussians` runs one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gmbook import data, metrics
from gmbook.core.chains import Chain
from gmbook.core.model import Model
from gmbook.core.paths import VPPath
from gmbook.core.solvers import rk4
from gmbook.data.batches import Batches, LawBatches
from gmbook.experiments.base import Experiment
from gmbook.laws import pairs, plane
from gmbook.networks.mlp import MLP, AdaMLP, TimeMLP
from gmbook.networks.transformer import MaskedTransformer, Transformer
from gmbook.papers import ddim, gan, vae
from gmbook.papers.d3pm import D3PM
from gmbook.papers.dc_ae import DCAE
from gmbook.papers.ddpm import DDPM
from gmbook.papers.ffjord import FFJORD
from gmbook.papers.flow_matching import FlowMatching
from gmbook.papers.glow import Glow
from gmbook.papers.improved_ddpm import ImprovedDDPM
from gmbook.papers.latent_diffusion import KLAutoencoder, LatentDiffusion
from gmbook.papers.mar import MAR, DiffusionHead
from gmbook.papers.mdlm import MDLM
from gmbook.papers.ncsn import NCSN
from gmbook.papers.realnvp import RealNVP
from gmbook.papers.rectified_flow import RectifiedFlow
from gmbook.papers.score_sde import ScoreSDE, reverse_sde
from gmbook.papers.sedd import SEDD

Metrics = dict[str, Any]
Draw = Callable[[Any, int], Tensor]
REFERENCE = "none: the papers do not run on this law"
VOCAB = 32


# ------------------------------------------------------------------------------------------------------- measures


def in_plane(toy: plane.PlaneLaw, draw: Draw) -> Callable[[Model, int], Metrics]:
    """Sliced W2 to the law in units of its noise floor, mean over five draws of n points; and the modes found."""

    @torch.no_grad()
    def evaluate(model: Model, n: int) -> Metrics:
        floor = metrics.noise_floor(metrics.sliced_w2, toy.sample, n, repeats=20)
        drawn = [draw(model, n) for _ in range(5)]
        distance = torch.stack([metrics.sliced_w2(x, toy.sample(n)) for x in drawn]).mean().item()
        report = {"sliced W2": distance, "its noise floor": floor.mean, "ratio": distance / floor.mean}
        if toy.modes is not None:
            report["modes found"] = metrics.mode_coverage(drawn[0], toy).found
        return report

    return evaluate


def in_nats(toy: plane.PlaneLaw) -> Callable[[Any, int], Metrics]:
    """−E log p_θ(x) above the law's entropy, nats: the KL divergence to the model, with its standard error."""

    @torch.no_grad()
    def evaluate(model: Any, n: int) -> Metrics:
        x = toy.sample(n)
        gaps = toy.log_prob(x) - torch.cat([model.log_prob(part) for part in x.split(2000)])
        return {"nats above the entropy": gaps.mean().item(), "standard error": (gaps.std() / n**0.5).item()}

    return evaluate


def on_grid(law: pairs.TokenLaw, draw: Draw) -> Callable[[Model, int], Metrics]:
    """The total variation between n samples' histogram and the law, beside that of n true samples."""

    @torch.no_grad()
    def evaluate(model: Model, n: int) -> Metrics:
        floor = metrics.tv(law.histogram(law.sample(n)), law.pmf).item()
        distance = metrics.tv(law.histogram(draw(model, n)), law.pmf).item()
        return {"TV": distance, "TV of true samples": floor, "above it": distance - floor}

    return evaluate


@torch.no_grad()
def reconstruction(model: Any, n: int) -> Metrics:
    """The error of decoded latents on test digits, beside that of the mean image: root mean squares in [−1, 1]."""
    test = data.digits("test")
    x = data.scale(test.x[:n], test.levels)
    root = lambda e: e.square().mean().sqrt().item()  # noqa: E731
    return {"error": root(model.decode(model.encode(x)) - x), "error of the mean image": root(x - x.mean(0))}


# ------------------------------------------------------------------------------------------------- the experiments


def own_sampler(model: Model, n: int) -> Tensor:
    """The model's own."""
    return model.sample(n)


def points(
    paper: str,
    make: Callable[[], plane.PlaneLaw],
    model: Callable[[], Model],
    steps: int,
    draw: Draw = own_sampler,
    evaluate: Callable[[Any, int], Metrics] | None = None,
    size: int = 512,
    **options: Any,
) -> Experiment:
    """An experiment on fresh points of a law in the plane."""
    toy = make()
    return Experiment(
        paper,
        make.__name__,
        "laptop",
        model=model,
        batches=lambda seed, size: LawBatches(toy, size),
        steps=steps,
        size=size,
        options={"lr": 2e-3, "decay": "cosine"} | options,
        reference=REFERENCE,
        sample=lambda m, y: draw(m, len(y)),
        evaluate=evaluate or in_plane(toy, draw),
    )


def tokens(paper: str, model: Callable[[], Model], steps: int, draw: Draw) -> Experiment:
    """An experiment on pairs of tokens, eight Gaussians on the 32×32 grid."""
    law = pairs.eight_gaussians(VOCAB)
    return Experiment(
        paper,
        "grid",
        "laptop",
        model=model,
        batches=lambda seed, size: LawBatches(law, size),
        steps=steps,
        size=256,
        options={"lr": 2e-3, "decay": "cosine"},
        reference=REFERENCE,
        sample=lambda m, y: draw(m, len(y)),
        evaluate=on_grid(law, draw),
    )


def net(out: int = 2) -> TimeMLP:
    """Four hidden layers of 128 units."""
    return TimeMLP(2, 128, 4, out=out)


def token_net(states: int, time: bool = True) -> Transformer:
    """Two layers of width 64."""
    return Transformer(states, 64, 2, 4, time=time, out=VOCAB)


def realnvp() -> RealNVP:
    """Eight couplings; the last layer of each MLP at 0, so that the flow begins as the identity."""

    def make(inputs: int, outputs: int) -> nn.Module:
        mlp = MLP(inputs, outputs, 64, 2)
        nn.init.zeros_(mlp[-1].weight)
        return mlp

    return RealNVP.on_vectors(2, make, layers=8)


class SmoothField(nn.Module):
    """f(z, t) of three tanh layers. Eight Runge–Kutta steps follow it; a field with Fourier features they do not, and
    then the likelihood that is maximised is the solver's invention."""

    def __init__(self, width: int = 64):
        super().__init__()
        hidden = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.Tanh())]
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Tanh(), *hidden, nn.Linear(width, 2))

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.layers(torch.cat([z, t[:, None]], 1))


def ffjord() -> FFJORD:
    """Solved by eight Runge–Kutta steps and differentiated through; in the plane the exact trace is cheap."""
    return FFJORD(SmoothField(), (2,), solver=rk4, times=torch.linspace(0, 1, 9), use_adjoint=False, probe=None)


def latent_diffusion() -> LatentDiffusion:
    """A rotation by 45 degrees, shrunk by five, for a first stage: what it costs the second is then plain to see."""
    c = math.cos(math.pi / 4)
    turn = torch.tensor([[c, -c], [c, c]])
    encoder, decoder = nn.Linear(2, 4), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([turn / 5, torch.zeros(2, 2)]))
        encoder.bias.copy_(torch.tensor([0.0, 0.0, -20.0, -20.0]))  # no noise: log-variances of −20
        decoder.weight.copy_(5 * turn.T)
    first = KLAutoencoder(encoder, decoder, (2,))
    return LatentDiffusion(first.requires_grad_(False), DDPM(net(), (2,), steps=200), scale=5.0)


def mar() -> MAR:
    """A point is two tokens of one number each; either may be drawn first."""
    head = DiffusionHead(DDPM(AdaMLP(1, 64, 96, 2), (1,), steps=100))
    return MAR(MaskedTransformer(2, 1, 64, (1, 1), 4), head, (2,), ratio=(0.0, 0.5))


def digits_stage() -> DCAE:
    """8×8 digits to eight channels at 2×2: half the numbers."""
    return DCAE((1, 8, 8), 8, (16, 32, 64), (1, 1, 1), attention=2, head=16)


GAUSSIANS = plane.eight_gaussians
EXPERIMENTS = (
    points("vae", GAUSSIANS, lambda: vae.VAE(MLP(2, 4), MLP(2, 2), 2, (2,), vae.Gaussian(0.2)), 4000, lr=5e-3),
    points(
        "gan",
        GAUSSIANS,
        lambda: gan.GAN(MLP(8, 2), MLP(2, 1), (2,), 8, penalty=gan.r1(0.1)),
        4000,
        betas=(0.5, 0.99),  # less momentum: players that turn about each other overshoot with it
        lr=1e-3,
    ),
    points("realnvp", GAUSSIANS, realnvp, 3000),
    points("realnvp", plane.moons, realnvp, 3000, evaluate=in_nats(plane.moons())),
    points("glow", GAUSSIANS, lambda: Glow.on_vectors(2, 8, 64), 3000),
    points("glow", plane.moons, lambda: Glow.on_vectors(2, 8, 64), 3000, evaluate=in_nats(plane.moons())),
    points("ffjord", GAUSSIANS, ffjord, 600, size=256, lr=5e-3, clip=1.0),
    points("ffjord", plane.moons, ffjord, 600, size=256, lr=5e-3, clip=1.0, evaluate=in_nats(plane.moons())),
    points("ddpm", GAUSSIANS, lambda: DDPM(net(), (2,), 200), 8000),
    points(
        "ddim",
        GAUSSIANS,
        lambda: DDPM(
            net(), (2,), 200, predicts="v"
        ),  # ε̂ would be divided by α_1 ≈ 0.006, and no later noise forgives it
        8000,
        lambda m, n: ddim.sample(m, n, 50),
    ),
    points("improved_ddpm", GAUSSIANS, lambda: ImprovedDDPM(net(4), (2,), 200), 8000),
    points("ncsn", GAUSSIANS, lambda: NCSN(net(), (2,), 4.0, 0.02, 20, per_level=20, step=4e-5), 8000),
    points("score_sde", GAUSSIANS, lambda: ScoreSDE(net(), VPPath(), (2,)), 8000, lambda m, n: reverse_sde(m, n, 200)),
    points("latent_diffusion", GAUSSIANS, latent_diffusion, 8000),
    points("flow_matching", GAUSSIANS, lambda: FlowMatching(net(), (2,)), 8000),
    points("rectified_flow", GAUSSIANS, lambda: RectifiedFlow(net(), (2,)), 8000),
    points("mar", GAUSSIANS, mar, 2000, size=128),
    tokens(
        "d3pm",
        lambda: D3PM(token_net(VOCAB), (2,), Chain.uniform(VOCAB), steps=100),
        2500,
        own_sampler,
    ),
    tokens(
        "sedd",
        lambda: SEDD(token_net(VOCAB + 1), (2,), Chain.absorbing(VOCAB), scaled=True),
        2500,
        lambda m, n: m.sample(n, steps=100),
    ),
    tokens(
        "mdlm",
        lambda: MDLM(token_net(VOCAB + 1, time=False), (2,), VOCAB),
        2500,
        lambda m, n: m.sample(n, steps=100),
    ),
    Experiment(
        "dc_ae",
        "digits",
        "laptop",
        model=digits_stage,
        batches=lambda seed, size: Batches(
            data.digits("train").x, size=size, seed=seed, transform=lambda x: data.scale(x, 17)
        ),
        steps=1500,
        size=64,
        options={"lr": 2e-3, "decay": "cosine"},
        reference="Chen et al. 2025: ImageNet at 256×256 to 1024×1024, f32 to f128",
        sample=None,
        evaluate=reconstruction,
    ),
)
