"""The contract of everything that trains, kept by every paper: one loop trains it, it samples, is saved, loaded, and
samples the same again."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import gmbook.papers
from gmbook.core.chains import Chain
from gmbook.core.model import Model
from gmbook.core.paths import VPPath
from gmbook.data import digits, scale
from gmbook.data.batches import Batches
from gmbook.laws import pairs, plane
from gmbook.networks.mlp import MLP, AdaMLP, TimeMLP
from gmbook.networks.transformer import MaskedTransformer, Transformer
from gmbook.papers import ddim, vae
from gmbook.papers.d3pm import D3PM
from gmbook.papers.dc_ae import DCAE
from gmbook.papers.ddpm import DDPM
from gmbook.papers.ffjord import FFJORD
from gmbook.papers.flow_matching import FlowMatching
from gmbook.papers.gan import GAN
from gmbook.papers.glow import Glow
from gmbook.papers.improved_ddpm import ImprovedDDPM
from gmbook.papers.latent_diffusion import KLAutoencoder, LatentDiffusion
from gmbook.papers.mar import MAR, DiffusionHead
from gmbook.papers.mdlm import MDLM
from gmbook.papers.ncsn import NCSN
from gmbook.papers.realnvp import RealNVP
from gmbook.papers.rectified_flow import RectifiedFlow
from gmbook.papers.score_sde import ScoreSDE
from gmbook.papers.sedd import SEDD
from gmbook.papers.vqgan import Autoencoder, VQAutoencoder
from gmbook.train import train
from gmbook.train.checkpoint import load_weights, newest_checkpoint, save_checkpoint


def points() -> Tensor:
    """Two moons: (256, 2)."""
    return plane.moons().sample(256)


def tokens() -> Tensor:
    """Two moons on an 8 × 8 grid: (256, 2) int64."""
    return pairs.moons(8).sample(256)


class Case(NamedTuple):
    build: Callable[[], Model]  # with fresh random weights
    data: Callable[[], Tensor]  # draws of its toy
    draw: Callable[[Model, int], Tensor] = lambda model, n: model.sample(n)


def net(out: int = 2) -> nn.Module:
    return TimeMLP(2, 16, 2, out=out)


def token_net(states: int) -> nn.Module:
    return Transformer(states, 16, 1, 2, time=True, out=8)


def token_vectors() -> MAR:
    head = DiffusionHead(DDPM(AdaMLP(1, 16, 16, 1), (1,), steps=5))
    return MAR(MaskedTransformer(2, 1, 16, (1, 1), 2), head, (2,), ratio=(0.0, 0.5))


def images() -> Tensor:
    """8×8 digits in [−1, 1]: (256, 1, 8, 8)."""
    return scale(digits("train").x[:256], 17)


def decoded(model: Autoencoder, n: int) -> Tensor:
    """What the decoder makes of n Gaussian latents."""
    return model.decode(torch.randn(n, *model.encode(torch.zeros(1, *model.shape)).shape[1:])).detach()


def first_stage() -> KLAutoencoder:
    return KLAutoencoder(MLP(2, 4, 16), MLP(2, 2, 16), (2,))


# One line for each file of papers/; `test_every_paper_is_here` says which is missing.
CASES: dict[str, Case] = {
    "vae": Case(lambda: vae.VAE(MLP(2, 4, 16), MLP(2, 2, 16), 2, (2,), vae.Gaussian()), points),
    "gan": Case(lambda: GAN(MLP(3, 2, 16), MLP(2, 1, 16), (2,), 3), points),
    "realnvp": Case(lambda: RealNVP.on_vectors(2, lambda i, o: MLP(i, o, 16), layers=3, batch_norm=True), points),
    "glow": Case(lambda: Glow.on_vectors(2, steps=2, width=16), points),
    "ffjord": Case(lambda: FFJORD(net(), (2,)), points),
    "ddpm": Case(lambda: DDPM(net(), (2,), steps=20), points),
    "ddim": Case(lambda: DDPM(net(), (2,), steps=20), points, lambda model, n: ddim.sample(model, n, 5, eta=0.5)),
    "score_sde": Case(lambda: ScoreSDE(net(), VPPath(), (2,)), points),
    "d3pm": Case(lambda: D3PM(token_net(8), (2,), Chain.uniform(8), steps=5), tokens),
    "sedd": Case(lambda: SEDD(token_net(9), (2,), Chain.absorbing(8)), tokens, lambda m, n: m.sample(n, steps=5)),
    "mdlm": Case(lambda: MDLM(token_net(9), (2,), 8), tokens, lambda model, n: model.sample(n, steps=5)),
    "mar": Case(token_vectors, points),
    "improved_ddpm": Case(lambda: ImprovedDDPM(net(4), (2,), steps=20), points),
    "ncsn": Case(lambda: NCSN(net(), (2,), levels=4, per_level=5), points),
    "latent_diffusion": Case(lambda: LatentDiffusion(first_stage(), DDPM(net(), (2,), steps=20)), points),
    "vqgan": Case(lambda: VQAutoencoder(MLP(2, 2, 16), MLP(2, 2, 16), (2,), codes=8, dim=2), points, decoded),
    "flow_matching": Case(lambda: FlowMatching(net(), (2,)), points),
    "rectified_flow": Case(lambda: RectifiedFlow(net(), (2,)), points),
    "dc_ae": Case(lambda: DCAE((1, 8, 8), 4, (8, 16), (1, 1), attention=1, head=8), images, decoded),
}


MEASURED = {"importance.losses"}  # float64, and learned in training: saved


def test_every_paper_is_here():
    written = {file.stem for file in Path(gmbook.papers.__path__[0]).glob("*.py")} - {"__init__"}
    assert written == set(CASES), f"give CASES a line for {sorted(written ^ set(CASES))}"


@cache
def toy(data: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(0)
    return data()


def seeded(seed: int, function: Callable[[], object]):
    torch.manual_seed(seed)
    return function()


@pytest.mark.parametrize("paper", CASES)
def test_train_sample_save_load_and_sample_again(paper, tmp_path):
    build, data, draw = CASES[paper]
    model = seeded(1, build)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = list(train(model, Batches(toy(data), size=64), steps=8, lr=1e-2))
    assert [set(step) for step in losses] == [
        {name for name, objective in model.objectives().items() if not k % objective.every} for k in range(8)
    ]
    assert all(value.isfinite() and value.ndim == 0 for step in losses for value in step.values())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    for name, objective in model.objectives().items():
        own = {n for n, p in model.named_parameters() if any(p is q for q in objective.parameters)}
        assert own & moved, f"{name} has moved nothing"

    sample = seeded(2, lambda: draw(model.eval(), 256))
    assert sample.shape == (256, *model.shape) and sample.dtype == toy(data).dtype
    assert not sample.is_floating_point() or bool(sample.isfinite().all())
    assert len(sample.unique(dim=0)) > 1

    save_checkpoint(tmp_path, 8, {"model": model.state_dict()})
    other = seeded(3, build).eval()
    other_sample = seeded(2, lambda: draw(other, 256))
    assert not torch.equal(other_sample, sample), "the weights do not matter: this test could not fail"
    found = newest_checkpoint(tmp_path)
    assert found is not None and found[0] == 8
    other.load_state_dict(found[1]["model"])
    assert torch.equal(seeded(2, lambda: draw(other, 256)), sample)
    for (name, mine), (_, theirs) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(mine, theirs), name
    saved = found[1]["model"]
    tables = {name for name, tensor in saved.items() if tensor.dtype == torch.float64} - MEASURED
    assert not tables, "a table that the constructor makes is registered with persistent=False"
    another = seeded(4, build).eval()  # a checkpoint of when the tables were saved too
    load_weights(another, {**dict(model.named_buffers()), **saved})
    assert torch.equal(seeded(2, lambda: draw(another, 256)), sample)
    for name, objective in other.objectives().items():  # and it trains on
        assert objective.loss(*next(Batches(toy(data), size=64))).isfinite(), name
