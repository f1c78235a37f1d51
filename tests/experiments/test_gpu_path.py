"""The GPU setting's code path, on the CPU: bfloat16, torch.compile, channels last, fused AdamW, averaged weights.

The classes and options are those of the GPU budget; the networks are small ones of the same kind, on 8×8 digits and the
book's prose. The compiler's tracing is real; what it traces is run as it stands, except in one test.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from specimen import named
from torch import Tensor, nn

from gmbook import experiments
from gmbook.core.model import Model
from gmbook.experiments import gan, runs
from gmbook.experiments.base import Experiment
from gmbook.train import Recipe
from gmbook.train.checkpoint import newest_checkpoint

SETS = ("mnist", "cifar10", "text8")  # a set may have variants: mnist_uniform
AT_SCALE = [e for e in experiments.EXPERIMENTS if e.budget == "gpu" and e.dataset.partition("_")[0] in SETS]


SHAPE = (1, 8, 8)
# (data set, model, batches) by the experiment's paper, from the files in small/.
SMALL: dict[str, tuple[str, Callable[[], Model], Callable[[int, int], Any]]] = {
    paper: stand_in
    for stand_ins in named(Path(__file__).parent / "small", "SMALL").values()
    for paper, stand_in in stand_ins.items()
}


def small(paper: str) -> Experiment:
    """The GPU experiment with a small network of its kind and a small batch."""
    dataset, model, batches = SMALL[paper]
    found = experiments.find(paper, dataset, "gpu")
    return replace(found, model=model, batches=batches, recipe=replace(found.recipe, batch_size=8, warmup=0))


class Compiler:
    """A backend of torch.compile that runs what was traced, and notes under what it ran."""

    def __init__(self) -> None:
        self.graphs, self.autocast = 0, set()

    def __call__(self, graph: Any, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1

        def run(*arguments: Tensor) -> Any:
            self.autocast.add((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
            return graph(*arguments)

        return run


@pytest.mark.parametrize("paper", SMALL)
def test_three_steps_as_on_a_gpu(paper: str, tmp_path: Path):
    torch._dynamo.reset()
    experiment, compiler = small(paper), Compiler()
    model, history = runs.run(experiment, tmp_path, steps=3, progress=False, backend=compiler)
    assert compiler.graphs >= 1 and compiler.autocast == {(True, torch.bfloat16)}
    assert all(values.isfinite().all() for values in history.values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    state = newest_checkpoint(tmp_path)[1]
    assert all(group["fused"] for o in state["train"]["optimizers"].values() for group in o["param_groups"])
    assert (state["ema"] is not None) == (experiment.recipe.ema_decay is not None)
    convolutions = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight[0, 0].numel() > 1]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in convolutions)
    assert bool(convolutions) == experiment.channels_last

    plain = replace(experiment, recipe=replace(experiment.recipe, bf16=False), compile=False, channels_last=False)
    _, expected = runs.run(plain, tmp_path / "plain", steps=3, progress=False)
    for name, values in history.items():
        torch.testing.assert_close(values, expected[name], rtol=0.05, atol=0.05)
    rounded, exact = state["model"], newest_checkpoint(tmp_path / "plain")[1]["model"]
    assert any(not torch.equal(rounded[name], exact[name]) for name in exact), "bfloat16 left no trace"


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_the_real_compiler_on_the_smallest_network(tmp_path: Path):
    torch._dynamo.reset()
    plainly = {"cpp.simdlen": 1, "cpp_cache_precompile_headers": False, "compile_threads": 1}  # what compiles fastest
    with torch._inductor.config.patch(plainly):
        _, history = runs.run(small("vae"), tmp_path, steps=3, progress=False, backend="inductor")
    _, expected = runs.run(small("vae"), tmp_path / "eager", steps=3, progress=False, backend="eager")
    torch.testing.assert_close(history["loss"], expected["loss"], rtol=0.02, atol=0.0)


def test_every_experiment_at_scale_uses_what_a_gpu_has():
    """But for those that have no network to compile: FFJORD differentiates its field twice, and its solver judges an
    error of 1e-3, which is less than what bfloat16 rounds."""
    for experiment in AT_SCALE:
        model = experiment.model()
        convolutional, able = any(isinstance(m, nn.Conv2d) for m in model.modules()), bool(model.networks())
        assert (experiment.compile, experiment.recipe.bf16) == (able, able), experiment.name
        assert experiment.channels_last == (convolutional and able), experiment.name
        assert able == (experiment.paper in SMALL), "an experiment for GPUs needs its stand-in in small/"
    assert set(SMALL) <= {e.paper for e in AT_SCALE}
    assert [e.name for e in AT_SCALE if not e.model().networks()] == [
        "ffjord-mnist_14x14-gpu",
        "ffjord-mnist_14x14_regularised-gpu",
    ]


def test_no_laptop_experiment_uses_them():
    """Their records were made without, and would be others with them; one was made with channels last."""
    laptop = [e for e in experiments.EXPERIMENTS if e.budget == "laptop"]
    assert not [e.name for e in laptop if e.compile or e.recipe.bf16]
    assert [e.name for e in laptop if e.channels_last] == ["flow_matching-cifar10-laptop"]


def test_a_critic_under_a_penalty_is_not_compiled():
    """torch.compile has no gradient of a gradient."""
    penalised, plain = gan.model(SHAPE, 8), gan.model(SHAPE, 8)
    plain.penalty = None
    assert penalised.networks() == [penalised.generator]
    assert plain.networks() == [plain.generator, plain.discriminator]


def test_channels_last_survives_a_resumption_bit_for_bit(tmp_path: Path):
    """The moments are read back in the layout of their weights, which a fused optimizer takes for granted."""
    experiment = replace(
        small("gan"), compile=False, recipe=Recipe(steps=4, batch_size=8, lr=2e-4, betas=gan.BETAS, ema_decay=0.9)
    )
    whole, _ = runs.run(experiment, tmp_path / "whole", steps=4, progress=False)
    for steps in (2, 4):
        parts, _ = runs.run(experiment, tmp_path / "parts", steps=steps, resume=True, progress=False)
    torch.testing.assert_close(dict(parts.state_dict()), dict(whole.state_dict()), rtol=0, atol=0)
