"""What all papers' models share beside the contract: samples in evaluation mode and without a graph, and copies."""

from __future__ import annotations

import pytest
import specimen
import torch

SPECIMENS = specimen.found()


@pytest.mark.parametrize("paper", SPECIMENS)
def test_samples_are_drawn_in_evaluation_mode_without_a_graph(paper):
    """Right after training too, when dropout, dropped labels and batch statistics are on; and the mode comes back."""
    build, data, draw = SPECIMENS[paper][:3]
    model, seen = build(), []
    if draw is specimen.decoded:  # an autoencoder, which has no sampler
        draw = lambda model, n: model.reconstruct(data()[:n])  # noqa: E731
    for part in model.modules():
        part.register_forward_pre_hook(lambda part, inputs: seen.append((part.training, torch.is_grad_enabled())))
    model.train()
    modes = [part.training for part in model.modules()]
    sample = draw(model, 3)
    assert seen and set(seen) == {(False, False)}
    assert [part.training for part in model.modules()] == modes and True in modes
    assert not sample.requires_grad


@pytest.mark.parametrize("paper", SPECIMENS)
def test_models_are_copied_and_pickled(paper):
    build, data, _ = SPECIMENS[paper][:3]
    specimen.same_after_copies(build(), data()[:8])


@pytest.mark.parametrize("paper", [paper for paper, found in SPECIMENS.items() if found.draw is not specimen.decoded])
def test_no_samples_are_refused(paper):
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        SPECIMENS[paper].draw(SPECIMENS[paper].build(), 0)
