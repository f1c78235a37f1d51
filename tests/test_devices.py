"""Nothing of a model on a GPU meets what lies on the CPU: losses, samplers, likelihoods, metrics, and the experiments.

No GPU is needed: the device of `refusing_device` holds numbers and refuses to mix, as a GPU does.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gmbook import experiments, metrics, plots
from gmbook.core.chains import Chain
from gmbook.core.denoiser import Denoiser, Truth
from gmbook.core.model import Model
from gmbook.core.paths import CosinePath, GaussianPath, LinearPath, SubVPPath, TablePath, VEPath, VPPath
from gmbook.core.schedules import CosineSchedule
from gmbook.core.solvers import dopri5, euler, heun, midpoint, rk4
from gmbook.core.tokens import Enumeration
from gmbook.experiments import base
from gmbook.laws import pairs, plane
from gmbook.networks.mlp import TimeMLP
from gmbook.networks.unet import UNet
from gmbook.papers import ddim, edm, ncsn, rectified_flow, score_sde
from gmbook.papers.d3pm import D3PM, gaussian_chain
from gmbook.papers.ddpm import DDPM, linear_betas
from gmbook.papers.ffjord import FFJORD
from gmbook.papers.flow_matching import FlowMatching, optimal_transport
from gmbook.papers.improved_ddpm import ImprovedDDPM
from gmbook.papers.mdlm import MDLM
from gmbook.papers.sedd import SEDD

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "experiments")]
from refusing_device import DEVICE, Mixed, There, refusing  # noqa: E402
from tests.experiments.test_gpu_path import SMALL, small  # noqa: E402
from tests.papers.test_contract import CASES, net, token_net  # noqa: E402


def there(*parts: Tensor) -> bool:
    """Whether all of these lie on the device, and hold finite numbers."""
    for part in parts:
        assert isinstance(part, There), "this has come back to the CPU"
        assert not part.is_floating_point() or bool(part.held.isfinite().all())
    return True


# Every operation costs some twenty times more here: the adaptive solver may be rough, it is its clocks that are tested.
rough = functools.partial(dopri5, rtol=0.5, atol=0.5)


def quick_ffjord() -> Model:
    return FFJORD(net(), (2,), rtol=0.5, atol=0.5)


def test_the_device_refuses_what_a_gpu_refuses():
    with refusing() as device:
        x = torch.randn(3, device=device)
        assert there(x + torch.ones(()), x[torch.tensor([0, 2])], x.new_tensor([1.0]), torch.tensor(2.0, device=device))
        assert (x * 0 + 2).sum().item() == 6.0 and type((x + 1).cpu()) is Tensor
        for mix in (
            lambda: x + torch.ones(3),
            lambda: torch.ones(3)[torch.tensor([0, 1], device=device)],
            lambda: torch.cat([x, torch.ones(1)]),
            lambda: torch.ones(3).add_(x),
            lambda: torch.rand(3, device=device, generator=torch.Generator()),
        ):
            with pytest.raises(Mixed):
                mix()


@pytest.mark.parametrize("paper", CASES)
def test_every_paper_s_loss_and_sampler(paper: str):
    build, data, draw = CASES[paper]
    build, x = (quick_ffjord if paper == "ffjord" else build), data()[:16]
    with refusing() as device:
        model = build().to(device)
        batch = x.to(device)
        for _ in range(2):
            for objective in model.objectives().values():
                loss = objective.loss(batch)
                torch.autograd.grad(loss, objective.parameters, allow_unused=True)
                assert there(loss.detach())
        if paper == "score_sde":  # its own sampler takes 500 steps
            draw = lambda model, n: score_sde.predictor_corrector(model, n, 2)  # noqa: E731
        if paper in ("vqgan", "dc_ae"):  # autoencoders, which have no sampler
            draw = lambda model, n: model.reconstruct(batch[:n])  # noqa: E731
        assert there(draw(model.eval(), 4))


LIKELIHOODS: dict[str, tuple[str, Callable[[Model, Tensor], Tensor]]] = {
    "elbo": ("vae", lambda model, x: model.elbo(x)),
    "iwae": ("vae", lambda model, x: model.iwae(x, 3)),
    "refine": ("vae", lambda model, x: model.refine(x, 2, draws=2)[0]),
    "active units": ("vae", lambda model, x: model.active_units(x)),
    "score function": ("vae", lambda model, x: model.score_function_surrogate(x)),
    "RealNVP": ("realnvp", lambda model, x: model.log_prob(x)),
    "Glow": ("glow", lambda model, x: model.log_prob(x)),
    "FFJORD": ("ffjord", lambda model, x: model.log_prob(x)),
    "DDPM": ("ddpm", lambda model, x: model.nelbo(x)),
    "improved DDPM": ("improved_ddpm", lambda model, x: model.nelbo(x)),
    "improved DDPM, its own loss": ("improved_ddpm", lambda model, x: model.vlb_loss(x).detach()),
    "improved DDPM, strided": ("improved_ddpm", lambda model, x: model.strided(3).nelbo(x)),
    "probability flow": ("score_sde", lambda model, x: score_sde.log_likelihood(model, x, solver=rough)),
    "flow": ("flow_matching", lambda model, x: model.log_prob(x, solver=rough)),
    "flow, encoded": ("flow_matching", lambda model, x: model.encode(x, steps=2)),
    "straightness": ("rectified_flow", lambda model, x: rectified_flow.straightness(model, x, steps=2)),
    "pairs": ("rectified_flow", lambda model, x: model.pairs(4, steps=2)[0]),
    "D3PM": ("d3pm", lambda model, x: model.nelbo(x)),
    "SEDD": ("sedd", lambda model, x: model.nelbo(x, times=4)),
    "MDLM": ("mdlm", lambda model, x: model.nelbo(x, times=4)),
    "MDLM, finite steps": ("mdlm", lambda model, x: model.nelbo_discrete(x, steps=4)),
    "MDLM, by counts": ("mdlm", lambda model, x: model.nelbo_by_counts(x)),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood(name: str):
    paper, measure = LIKELIHOODS[name]
    x = CASES[paper].data()[:8]
    with refusing() as device:
        build = quick_ffjord if paper == "ffjord" else CASES[paper].build
        assert there(measure(build().to(device).eval(), x.to(device)))


PATHS: dict[str, Callable[[], GaussianPath]] = {
    "linear": LinearPath,
    "VP": VPPath,
    "sub-VP": SubVPPath,
    "VE": lambda: VEPath(0.05, 5.0),
    "cosine": CosinePath,
    "table": lambda: TablePath(linear_betas(50)),
    "levels": lambda: ncsn.LevelPath(5.0, 0.05, 20),
}
WALKS: dict[str, Callable[[Denoiser], Tensor]] = {
    "DDIM": lambda model: ddim.sample(model, 4, 3),
    "DDIM, with noise": lambda model: ddim.sample(model, 4, 3, eta=0.5),
    "DDIM, inverted": lambda model: ddim.invert(model, torch.zeros(4, 2, device=model.device), 3),
    "DDIM, its variance": lambda model: ddim.gaussian_std(
        model.path, torch.ones(1, device=model.device), model.path.times(3)
    ),
    "Euler": lambda model: score_sde.probability_flow(model, 4, 3, euler),
    "midpoint": lambda model: score_sde.probability_flow(model, 4, 3, midpoint),
    "Heun": lambda model: score_sde.probability_flow(model, 4, 3, heun),
    "RK4": lambda model: score_sde.probability_flow(model, 4, 3, rk4),
    "dopri5": lambda model: score_sde.probability_flow(model, 4, 1, rough),
    "reverse SDE": lambda model: score_sde.reverse_sde(model, 4, 3),
    "predictor-corrector": lambda model: score_sde.predictor_corrector(model, 4, 3),
    "annealed Langevin": lambda model: ncsn.last(
        ncsn.annealed_langevin(model, model.prior(4), model.path.times(3), 2, 1e-4)
    ),
    "EDM": lambda model: edm.sample(model, 4, 3),
    "EDM, with noise": lambda model: edm.sample(model, 4, 3, churn=2.0),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("walk", WALKS)
def test_every_walk_on_every_path(walk: str, path: str):
    with refusing() as device:
        along = PATHS[path]()
        model = Denoiser(Truth(plane.two_gaussians(), along, "eps"), along, "eps", (2,)).to(device)
        assert there(WALKS[walk](model))
        assert there(along.times(3), model.prior(2))


TOKENS: dict[str, Callable[[], Tensor]] = {
    "D3PM, fewer steps": lambda: D3PM(token_net(8), (2,), Chain.uniform(8), steps=6).to(DEVICE).sample(3, steps=2),
    "D3PM, mixture": lambda: D3PM(token_net(9), (2,), Chain.absorbing(8), 4, form="mixture").to(DEVICE).sample(3),
    "D3PM, a table": lambda: (
        D3PM(token_net(8), (2,), gaussian_chain(8, torch.full((4,), 0.1)), steps=4).to(DEVICE).sample(3)
    ),
    "SEDD, Euler": lambda: SEDD(token_net(9), (2,), Chain.absorbing(8)).to(DEVICE).sample(3, steps=3, sampler="euler"),
    "SEDD, infilling": lambda: (
        SEDD(token_net(9), (2,), Chain.absorbing(8), scaled=True)
        .to(DEVICE)
        .sample(3, steps=3, known=torch.full((3, 2), -1))
    ),
    "MDLM, timed": lambda: MDLM(token_net(9), (2,), 8, CosineSchedule(), timed=True).to(DEVICE).sample(3, steps=3),
    "MDLM, infilling": lambda: MDLM(token_net(9), (2,), 8).to(DEVICE).sample(3, steps=3, known=torch.full((3, 2), -1)),
    "MDLM, first hitting": lambda: MDLM(token_net(9), (2,), 8).to(DEVICE).first_hitting(3),
    "MDLM, semi-autoregressive": lambda: MDLM(token_net(9), (2,), 8).to(DEVICE).semi_autoregressive(3, 5, 1, steps=2),
}


@pytest.mark.parametrize("name", TOKENS)
def test_every_walk_on_tokens(name: str):
    with refusing():
        assert there(TOKENS[name]())


def test_the_ideal_network_of_tokens():
    with refusing() as device:
        law = pairs.moons(8)
        model = MDLM(token_net(9), (2,), 8).to(device)
        model.net = Enumeration(law.pmf, model.chain, model.schedule).posterior
        assert there(model.sample(3, steps=2), model.nelbo(law.sample(3).to(device), times=2))


def test_labels_and_times_are_brought_to_the_model():
    with refusing() as device:
        model = FlowMatching(TimeMLP(2, 16, 2, classes=3), (2,), coupling=optimal_transport).to(device)
        y = torch.tensor([0, 1, 2])  # as a data loader gives them
        x = torch.randn(3, 2, device=device)
        assert there(model.sample(3, y, steps=2), model(x, torch.rand(3), y), model(x, 0.5, y), model.loss(x, y))


def test_a_metric_of_a_sample_on_a_gpu_against_data():
    x, y = torch.randn(12, 2), torch.randn(12, 2)
    several = (metrics.sliced_w2, metrics.w2, metrics.mmd2, metrics.energy_distance, metrics.frechet_distance)
    expected = [metric(x, y) for metric in several]
    longer = metrics.sliced_w2(x, y[:7])
    near = metrics.precision_recall(x, y), metrics.mode_coverage(x, plane.two_gaussians())
    with refusing() as device:
        for metric, value in zip(several, expected, strict=True):
            for a, b in ((x.to(device), y), (x, y.to(device)), (x.to(device), y.to(device))):
                torch.testing.assert_close(metric(a, b).cpu(), value)
        torch.testing.assert_close(metrics.sliced_w2(x.to(device), y[:7]).cpu(), longer)
        assert metrics.precision_recall(x.to(device), y) == near[0]
        assert metrics.mode_coverage(x.to(device), plane.two_gaussians()) == near[1]
        table = torch.full((4,), 0.25)
        assert metrics.kl(table.to(device), table).item() == metrics.tv(table, table.to(device)).item() == 0.0
        assert plots.images(torch.rand(4, 1, 8, 8, device=device)) is not None


@pytest.mark.parametrize("paper", SMALL)
def test_three_steps_of_every_experiment(paper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """At the GPU budget but for bfloat16 and the compiler, which test_gpu_path runs; then resumed, loaded and drawn."""
    monkeypatch.setattr(base, "device", lambda: DEVICE)
    found = small(paper)
    options = {key: value for key, value in found.options.items() if key != "bf16"}
    found = replace(found, options=options, compile=False, channels_last=False)
    with refusing() as device:
        found = replace(found, batches=lambda seed, size, made=found.batches: _brought(made(seed, size), device))
        for steps in (2, 3):
            model, history = base.run(found, tmp_path, steps=steps, resume=True, progress=False)
        assert model.device == device and all(values.isfinite().all() for values in history.values())
        loaded = base.load(found, tmp_path)
        assert loaded.device == device
        assert there(loaded.sample(2))


class _brought:
    """A stream whose batches lie on the device."""

    def __init__(self, stream, device):
        self.stream, self.device = stream, device

    def __iter__(self):
        return self

    def __next__(self):
        return tuple(part.to(self.device) for part in next(self.stream))

    def state_dict(self):
        return self.stream.state_dict()

    def load_state_dict(self, state):
        self.stream.load_state_dict(state)


def test_every_experiment_has_a_small_one():
    assert {e.paper for e in experiments.EXPERIMENTS if e.budget == "gpu" and e.dataset != "toys"} >= set(SMALL)


def test_networks_of_images():
    with refusing() as device:
        unet = UNet(1, width=8, multipliers=(1, 2), classes=4, drop=0.5)
        model = DDPM(unet, (1, 8, 8), steps=3, levels=17, clip=1.0).to(device)
        x = (torch.randint(17, (2, 1, 8, 8)) / 8 - 1).to(device)
        assert there(model.sample(2, torch.tensor([0, 3])), model.nelbo(x, torch.tensor([0, 3])), model.loss(x))
        assert there(ImprovedDDPM(net(4), (2,), steps=5).to(device).strided(2).sample(2))
