"""How each class of the book is set up on one's own pictures, points and texts.

The networks are those of the book's runs at the same budget, fitted to the shape of the data; no labels anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gmbook import data, metrics
from gmbook.core.model import Model
from gmbook.core.solvers import heun
from gmbook.experiments import gan as gans
from gmbook.experiments import mdlm as letters
from gmbook.experiments import realnvp as flows
from gmbook.experiments.images import centred, pixels
from gmbook.networks.blocks import zero
from gmbook.networks.conv import Decoder, Encoder
from gmbook.networks.mlp import MLP, TimeMLP
from gmbook.networks.unet import UNet
from gmbook.papers import ddim
from gmbook.papers.ddpm import DDPM
from gmbook.papers.flow_matching import FlowMatching
from gmbook.papers.gan import GAN, r1
from gmbook.papers.realnvp import RealNVP
from gmbook.papers.vae import VAE, Gaussian, OptimalGaussian

Facts = dict[str, Any]
STEADY: dict[str, Any] = {"lr": 1e-3, "decay": "cosine", "clip": 1.0}
SUMMED: dict[str, Any] = {"lr": 1e-3, "decay": "cosine", "clip": 1000.0}  # a loss that is a sum over pixels
WINDOW = (64, 128)  # letters, at the laptop and the GPU budget


def as_drawn(facts: Facts, model: Any, n: int) -> Tensor:
    """The model's own sampler, (n, *S)."""
    return model.sample(n)


@dataclass(frozen=True)
class Way:
    """How one class is trained on one kind of data.

    Attributes:
        model: (facts, whether at the GPU budget) -> the model, with fresh weights.
        steps: at the laptop and the GPU budget.
        options, ema, size: of the `Recipe`; `ema` is its decay, `size` the largest batch.
        see: maps raw pictures to what the loss takes.
        sample: (facts, model, n) -> n samples as they are judged: pictures in [−1, 1], points in the file's units.
        nats: (facts, model, x) -> code lengths, (B,): bits/dim of raw pictures, nats of standardised points or of
            letters; None where the class has none.
        bound: what must be said of this number, for points.
        key, draws: the metric of it, and its draws of the noise, for letters.
        few: for how many examples it is computed, or for as many as samples are judged.
        least: the smallest D of points.
    """

    model: Callable[[Facts, bool], Model]
    steps: tuple[int, int]
    options: dict[str, Any] = field(default_factory=lambda: STEADY)
    ema: float | None = 0.998
    size: int = 64
    see: Callable[[Tensor], Tensor] | None = None
    sample: Callable[[Facts, Any, int], Tensor] = as_drawn
    nats: Callable[[Facts, Any, Tensor], Tensor] | None = None
    bound: str = "bound"
    key: str = ""
    draws: int | None = None
    few: int = 1000
    least: int = 1

    def check(self, facts: Facts) -> None:
        """Raises ValueError where there are too few columns."""
        if facts["shape"][0] < self.least:
            raise ValueError(f"this class needs at least {self.least} columns, and there is {facts['shape'][0]}")


def numbers(found: Any) -> Tensor:
    """The numbers of a set: pictures, points or tokens."""
    return found.tokens if isinstance(found, data.TextSet) else found.x


def in_parts(way: Way, facts: Facts, model: Any, n: int) -> Tensor:
    """n samples, drawn at most 250 at once, on the CPU.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, got {n}")
    with torch.no_grad():
        return torch.cat([way.sample(facts, model, len(part)).cpu() for part in torch.zeros(n).split(250)])


# ------------------------------------------------------------------------------------------------------ pictures


def unet(facts: Facts, gpu: bool) -> UNet:
    """At the laptop budget the picture is seen in patches, so that the network works at 16 to 31 positions a side."""
    channels, side, _ = facts["shape"]
    if gpu:
        return UNet(channels, width=128, multipliers=(1, 2, 2), blocks=2, attention=(2,), dropout=0.1)
    return UNet(channels, width=32, multipliers=(1, 2), patch=2 ** max(0, int(math.log2(side / 16))))


def _shape(facts: Facts) -> tuple[int, int, int]:
    channels, height, width = facts["shape"]
    return channels, height, width


def _vae(facts: Facts, gpu: bool) -> VAE:
    shape, width, latent = _shape(facts), 64 if gpu else 16, 256 if gpu else 64
    return VAE(Encoder(shape, 2 * latent, width), Decoder(latent, shape, width), latent, shape, OptimalGaussian())


def _ddpm_bits(facts: Facts, model: Any, x: Tensor) -> Tensor:
    return metrics.bits_per_dim(model.nelbo(data.scale(x)), math.prod(model.shape))


def _flow_bits(facts: Facts, model: Any, x: Tensor) -> Tensor:
    z = centred(x)
    probe = torch.randint_like(z, 2) * 2 - 1
    return metrics.bits_per_dim(-model.log_prob(z, None, probe), math.prod(model.shape), offset=7)


def _vae_bits(facts: Facts, model: Any, x: Tensor) -> Tensor:
    return metrics.bits_per_dim(-model.elbo(centred(x)), math.prod(model.shape), offset=7)


IMAGES = {
    "ddpm": Way(
        lambda facts, gpu: DDPM(unet(facts, gpu), _shape(facts), clip=1.0, levels=256),
        (6000, 100_000),
        see=data.scale,
        sample=lambda facts, model, n: ddim.sample(model, n, 50).clamp(-1, 1),
        nats=_ddpm_bits,
        few=16,  # T network calls each
    ),
    "flow_matching": Way(
        lambda facts, gpu: FlowMatching(unet(facts, gpu), _shape(facts)),
        (6000, 100_000),
        see=centred,
        sample=lambda facts, model, n: pixels(model.sample(n, None, 25, heun)),
        nats=_flow_bits,
        few=16,
    ),
    "vae": Way(
        _vae,
        (6000, 100_000),
        SUMMED,
        None,
        see=centred,
        sample=lambda facts, model, n: pixels(model.sample(n)),
        nats=_vae_bits,
    ),
    "gan": Way(
        lambda facts, gpu: gans.model(_shape(facts), 64 if gpu else 24),
        (5000, 100_000),
        {"lr": 5e-4, "betas": gans.BETAS},
        see=data.scale,
    ),
    "realnvp": Way(
        lambda facts, gpu: flows.model(_shape(facts), 64 if gpu else 32, 4 if gpu else 1, 2),
        (2000, 80_000),
        {"lr": 1e-3, "decay": "cosine", "clip": 100.0},
        None,  # running statistics of batch normalisation belong to the last weights
        sample=lambda facts, model, n: (2 * model.sample(n) - 1).clamp(-1, 1),
        nats=lambda facts, model, x: model.bits_per_dim(x),
        few=200,
    ),
}

# ------------------------------------------------------------------------------------------------------ points


def in_units(draw: Callable[[Any, int], Tensor]) -> Callable[[Facts, Any, int], Tensor]:
    """Samples of standardised points, taken back to the file's units."""

    def sample(facts: Facts, model: Any, n: int) -> Tensor:
        x = draw(model, n).cpu()
        return x * torch.tensor(facts["std"]) + torch.tensor(facts["mean"])

    return sample


def _draw(model: Any, n: int) -> Tensor:
    return model.sample(n)


def _vae_draw(model: VAE, n: int) -> Tensor:
    """With the decoder's own noise, without which points are too few-dimensional."""
    z = torch.randn(n, model.latent, device=model.device)
    return model.likelihood.draw(model.decoder(z))


def _coupling(inputs: int, outputs: int) -> nn.Sequential:
    """The last layer at 0, so that the flow begins as the identity."""
    mlp = MLP(inputs, outputs, 64, 2)
    zero(mlp[-1])
    return mlp


def _time_mlp(facts: Facts, gpu: bool) -> TimeMLP:
    return TimeMLP(facts["shape"][0], 512 if gpu else 128, 4)


def _point_vae(facts: Facts, gpu: bool) -> VAE:
    dim, width = facts["shape"][0], 512 if gpu else 128
    latent = max(2, dim)
    return VAE(MLP(dim, 2 * latent, width), MLP(latent, dim, width), latent, (dim,), Gaussian(0.5))


def _point_gan(facts: Facts, gpu: bool) -> GAN:
    dim, width = facts["shape"][0], 512 if gpu else 128
    return GAN(MLP(8 + dim, dim, width), MLP(dim, 1, width), (dim,), 8 + dim, penalty=r1(0.1))


def _flow_nats(facts: Facts, model: Any, z: Tensor) -> Tensor:
    probe = torch.randint_like(z, 2) * 2 - 1 if z.shape[1] > 10 else None  # the exact trace costs D products
    return -model.log_prob(z, None, probe)


Points = partial(Way, size=512, ema=None)
POINTS = {
    "ddpm": Points(
        lambda facts, gpu: DDPM(_time_mlp(facts, gpu), (facts["shape"][0],), 200),
        (8000, 50_000),
        sample=in_units(_draw),
        nats=lambda facts, model, z: model.nelbo(z),
    ),
    "flow_matching": Points(
        lambda facts, gpu: FlowMatching(_time_mlp(facts, gpu), (facts["shape"][0],)),
        (8000, 50_000),
        sample=in_units(_draw),
        nats=_flow_nats,
        bound="solved along the flow",
        few=500,
    ),
    "vae": Points(
        _point_vae,
        (4000, 50_000),
        SUMMED,
        sample=in_units(_vae_draw),
        nats=lambda facts, model, z: -model.elbo(z),
    ),
    "gan": Points(_point_gan, (4000, 50_000), {"betas": (0.5, 0.99), "lr": 1e-3}, sample=in_units(_draw)),
    "realnvp": Points(
        lambda facts, gpu: RealNVP.on_vectors(facts["shape"][0], _coupling, layers=8),
        (3000, 50_000),
        sample=in_units(_draw),
        nats=lambda facts, model, z: -model.log_prob(z),
        bound="exact",
        least=2,
    ),
}

# ------------------------------------------------------------------------------------------------------ letters


def _language(make: Callable[..., Model]) -> Callable[[Facts, bool], Model]:
    """A Transformer of 0.8 M weights or 10.7 M, as for text8, with some dropout: one's own texts are short."""

    def model(facts: Facts, gpu: bool) -> Model:
        width, depth, heads = (384, 6, 6) if gpu else (128, 4, 4)
        return make(width, depth, heads, facts["shape"][0], len(facts["alphabet"]), dropout=0.1)

    return model


TEXT = {
    "mdlm": Way(
        _language(letters.mdlm),
        (6000, 20_000),
        size=32,
        nats=lambda facts, model, x: letters.bound(model, x),
        key="bits_per_letter_bound",
        draws=letters.DRAWS,
    ),
    "autoregressive": Way(
        _language(letters.autoregressive),
        (3000, 10_000),
        size=32,
        nats=lambda facts, model, x: letters.exact(model, x),
        key="bits_per_letter",
    ),
}
