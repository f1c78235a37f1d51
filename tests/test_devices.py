"""Nothing of a model on a GPU meets what lies on the CPU: losses, samplers, likelihoods, metrics, and the experiments.

No GPU is needed: the device of `refusing_device` holds numbers and refuses to mix, as a GPU does. What is run stands in
each paper's own test, as SPECIMEN, MEASURES and WALKS.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import specimen
import torch
from refusing_device import DEVICE, Mixed, There, refusing
from torch import Tensor
from torch.optim import AdamW

from gmbook import experiments, metrics, plots
from gmbook.core.denoiser import Denoiser, Truth
from gmbook.core.model import Model
from gmbook.core.paths import CosinePath, GaussianPath, LinearPath, SubVPPath, TablePath, VEPath, VPPath
from gmbook.experiments import runs
from gmbook.laws import plane
from gmbook.papers import ncsn
from gmbook.train import device as train_device
from gmbook.train import optimizers

TESTS = Path(__file__).parent
SPECIMENS = specimen.found()
MEASURES = {
    f"{file.removeprefix('test_')}: {name}": (file.removeprefix("test_"), measure)
    for file, measures in specimen.named(TESTS / "papers", "MEASURES").items()
    for name, measure in measures.items()
}
WALKS = {name: walk for walks in specimen.named(TESTS / "papers", "WALKS").values() for name, walk in walks.items()}
SMALL = {
    paper: stand_in
    for stand_ins in specimen.named(TESTS / "experiments" / "small", "SMALL").values()
    for paper, stand_in in stand_ins.items()
}
LONG = {"score_sde"}  # whose own sampler takes 500 steps
PATHS: dict[str, Callable[[], GaussianPath]] = {
    "linear": LinearPath,
    "VP": VPPath,
    "sub-VP": SubVPPath,
    "VE": lambda: VEPath(0.05, 5.0),
    "cosine": CosinePath,
    "table": lambda: TablePath(torch.linspace(0.01, 0.3, 40)),
    "levels": lambda: ncsn.LevelPath(5.0, 0.05, 20),
}


def there(*parts: Tensor) -> bool:
    """Whether all of these lie on the device, and hold finite numbers."""
    for part in parts:
        assert isinstance(part, There), "this has come back to the CPU"
        assert not part.is_floating_point() or bool(part.held.isfinite().all())
    return True


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


@pytest.mark.parametrize("paper", SPECIMENS)
def test_every_paper_s_loss_and_sampler(paper: str):
    build, data, draw = SPECIMENS[paper][:3]
    if paper in LONG:
        draw = lambda model, n: WALKS["predictor-corrector"](model)  # noqa: E731
    x = data()[:16]
    with refusing() as device:
        model = build().to(device)
        batch = x.to(device)
        for _ in range(2):
            for objective in model.objectives().values():
                loss = objective.loss(batch)
                torch.autograd.grad(loss, objective.parameters, allow_unused=True)
                assert there(loss.detach())
        assert there(draw(model.eval(), 4))


@pytest.mark.parametrize("name", MEASURES)
def test_every_likelihood_and_what_else_a_model_computes(name: str):
    paper, measure = MEASURES[name]
    x = SPECIMENS[paper].data()[:8]
    with refusing() as device:
        assert there(measure(SPECIMENS[paper].build().to(device).eval(), x.to(device)).detach())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("walk", WALKS)
def test_every_walk_on_every_path(walk: str, path: str):
    with refusing() as device:
        along = PATHS[path]()
        model = Denoiser(Truth(plane.two_gaussians(), along, "eps"), along, "eps", (2,)).to(device)
        assert there(WALKS[walk](model))
        assert there(along.times(3), model.prior(2))


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


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments run on the pretended device, and without what torch has for devices that it knows."""
    chosen = train_device.device
    for name, module in list(sys.modules.items()):
        if name.startswith("gmbook.") and vars(module).get("device") is chosen:
            monkeypatch.setattr(module, "device", lambda: DEVICE)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())
    monkeypatch.setattr(optimizers, "AdamW", lambda parameters, fused, **options: AdamW(parameters, **options))


@pytest.mark.parametrize("paper", SMALL)
def test_three_steps_of_every_experiment(paper: str, tmp_path: Path, at_home: None):
    """At the GPU budget but for bfloat16 and the compiler, which test_gpu_path runs; killed, resumed, loaded, drawn."""
    dataset, model, batches = SMALL[paper]
    found = experiments.find(paper, dataset, "gpu")
    recipe = replace(found.recipe, batch_size=8, warmup=0, bf16=False)
    with refusing() as device:
        found = replace(
            found,
            model=model,
            batches=lambda seed, size: Brought(batches(seed, size), device),
            recipe=recipe,
            compile=False,
            channels_last=False,
        )
        runs.run(found, tmp_path, steps=3, progress=False, save_every=2)
        (tmp_path / "step-00000003.json").unlink()
        trained, history = runs.run(found, tmp_path, steps=3, resume=True, progress=False)
        assert trained.device == device and all(values.isfinite().all() for values in history.values())
        loaded = runs.load(found, tmp_path)
        assert loaded.device == device
        if type(loaded).sample is Model.sample:  # a first stage has no sampler of its own: it rebuilds what it is given
            assert there(loaded.reconstruct(next(found.batches(0, 2))[0]))
            return
        beside = next(found.batches(0, 2))[1:]  # labels, where there are any: a pair of points has none
        labels = [y for y in beside if not y.is_floating_point()]
        if paper not in LONG:  # its shorter walk stands above, and the experiment's own sampler below
            assert there(loaded.sample(2, *labels))
        if found.sample is not None:
            assert len(found.sample(loaded, torch.tensor([0, 1]))) == 2


class Brought:
    """A stream whose batches lie on the device, wherever its file has put them."""

    def __init__(self, stream: Any, device: torch.device):
        self.stream, self.device = stream, device
        self.state_dict, self.load_state_dict = stream.state_dict, stream.load_state_dict

    def __iter__(self) -> Brought:
        return self

    def __next__(self) -> tuple[Tensor, ...]:
        return tuple(part.to(self.device) for part in next(self.stream))


def test_networks_of_images():
    with refusing() as device:
        model = Denoiser(specimen.unet(), VPPath(), "eps", (1, 8, 8)).to(device)
        labels = torch.tensor([0, 3])
        x = torch.randn(2, 1, 8, 8, device=device)
        assert there(model(x, 0.5, labels).detach(), model.predict("x0", x, torch.tensor(0.5), labels).detach())
