"""The contract of everything that trains, kept by every paper: one loop trains it, it samples, is saved, loaded, and
samples the same again."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import specimen
import torch
from torch import Tensor

import gmbook.papers
from gmbook.data.batches import Batches
from gmbook.train import train
from gmbook.train.checkpoint import load_weights, newest_checkpoint, save_checkpoint

SPECIMENS = specimen.found()


MEASURED = {"importance.losses"}  # float64, and learned in training: saved


def test_every_paper_is_here():
    written = {file.stem for file in Path(gmbook.papers.__path__[0]).glob("*.py")} - {"__init__"}
    lacking = [f"tests/papers/test_{name}.py" for name in sorted(written ^ set(SPECIMENS))]
    assert not lacking, f"SPECIMEN must stand in {lacking}, and nowhere else"


@cache
def toy(data: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(0)
    return data()


def seeded(seed: int, function: Callable[[], object]):
    torch.manual_seed(seed)
    return function()


@pytest.mark.parametrize("paper", SPECIMENS)
def test_train_sample_save_load_and_sample_again(paper, tmp_path):
    build, data, draw = SPECIMENS[paper][:3]
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
