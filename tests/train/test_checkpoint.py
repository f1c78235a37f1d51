"""Checkpoints: what is written comes back exactly; what is damaged is refused, and the one before it is used."""

from __future__ import annotations

import json

import pytest
import torch

from gmbook.train.checkpoint import (
    CheckpointError,
    checkpoints,
    load_weights,
    newest_checkpoint,
    random_state,
    read_checkpoint,
    save_checkpoint,
    set_random_state,
)

STATE = {
    "weights": {"a": torch.randn(3, 4).T, "b": torch.tensor(2.5, dtype=torch.float64), "empty": torch.empty(0)},
    "groups": [{"lr": 0.1 + 0.2, "betas": [0.9, 0.999], "fused": True}],
    "by_index": {0: torch.arange(3), 1: {"step": torch.tensor(7.0)}},
    "huge": 2**62,
}


def test_a_state_comes_back_exactly(tmp_path):
    shared = torch.randn(5)
    state = {**STATE, "tied": [shared, shared]}
    words = {"name": "ü", "none": None, "yes": True}
    step, back = read_checkpoint(save_checkpoint(tmp_path, 12, {**state, "words": words}))
    assert step == 12
    assert back.pop("words") == words
    torch.testing.assert_close(back, state, rtol=0, atol=0)
    assert back["groups"] == state["groups"] and back["huge"] == 2**62
    assert back["weights"]["b"].dtype == torch.float64


def test_the_random_state_comes_back(tmp_path):
    torch.manual_seed(3)
    file = save_checkpoint(tmp_path, 1, {"random": random_state()})
    expected = torch.randn(5)
    set_random_state(read_checkpoint(file)[1]["random"])
    assert torch.equal(torch.randn(5), expected)


def test_only_the_newest_two_stay_and_no_drafts(tmp_path):
    for step in (9, 10, 100, 2_000):
        save_checkpoint(tmp_path, step, STATE)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [f"step-{step:08d}.{ext}" for step in (100, 2_000) for ext in ("json", "safetensors")]
    assert newest_checkpoint(tmp_path)[0] == 2_000


def truncate(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(bytes(content))


def relabel(file):
    head = json.loads(file.read_text())
    file.write_text(json.dumps({**head, "step": 5}))


@pytest.mark.parametrize("damage", [truncate, flip, lambda file: file.write_bytes(b""), lambda file: file.unlink()])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(tmp_path, damage, suffix):
    save_checkpoint(tmp_path, 1, STATE)
    newest = save_checkpoint(tmp_path, 2, STATE)
    damage(newest.with_suffix(suffix))
    if newest.exists():  # without its JSON there is no checkpoint to refuse
        with pytest.raises(CheckpointError, match=r"step-00000002 is damaged"):
            read_checkpoint(newest)
        with pytest.warns(UserWarning, match="using the checkpoint before it"):
            step, state = newest_checkpoint(tmp_path)
    else:
        step, state = newest_checkpoint(tmp_path)
    assert step == 1
    torch.testing.assert_close(state, STATE, rtol=0, atol=0)


def test_an_altered_head_is_refused(tmp_path):
    file = save_checkpoint(tmp_path, 2, STATE)
    relabel(file)
    with pytest.raises(CheckpointError, match="SHA-256"):
        read_checkpoint(file)


def test_all_damaged_is_an_error_and_none_is_none(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    truncate(save_checkpoint(tmp_path, 1, STATE))
    with pytest.raises(CheckpointError, match="every checkpoint"):
        newest_checkpoint(tmp_path, warn=lambda message: None)


def test_what_neither_format_holds_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"model/hook.*function"):
        save_checkpoint(tmp_path, 1, {"model": {"hook": lambda: None}})
    assert not checkpoints(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "{}", "[" * 100_000, '{"sha256": [], "format": 1}'])
def test_json_of_any_shape_that_is_no_checkpoint_is_called_damaged(content, tmp_path):
    file = save_checkpoint(tmp_path, 3, {"x": torch.zeros(2)})
    file.write_text(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(file)


class Tables(torch.nn.Linear):
    """A layer with one table under two names, neither of which is saved."""

    def __init__(self):
        super().__init__(2, 1)
        table = torch.arange(3.0)
        self.register_buffer("beta", table, persistent=False)
        self.register_buffer("variance", table, persistent=False)


def test_tables_that_are_saved_no_longer_are_passed_over_and_all_else_is_not():
    old, new = Tables(), Tables()
    load_weights(new, {**old.state_dict(), "beta": torch.zeros(3), "variance": torch.zeros(3)})
    assert torch.equal(new.weight, old.weight) and torch.equal(new.variance, torch.arange(3.0))
    with pytest.raises(RuntimeError, match="another"):
        load_weights(new, {**old.state_dict(), "another": torch.zeros(3)})
