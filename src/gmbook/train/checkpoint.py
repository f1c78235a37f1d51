"""Checkpoints that survive a kill: safetensors and JSON, written atomically, checked when read, never unpickled.

A checkpoint is two files, `step-00001000.safetensors` (every tensor) and `step-00001000.json` (the rest of the state,
and the SHA-256 of both). Each is written under another name, flushed to the disk and renamed. The JSON comes last,
so a checkpoint exists when its JSON does, and a kill at any moment leaves the one before it untouched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

FORMAT = 1
_NAME = re.compile(r"step-\d+\.json")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or does not belong to this model."""


def write_atomically(file: Path, content: bytes) -> None:
    """Put `content` at `file` such that a reader, or a kill, sees all of it or nothing of it.

    Raises:
        OSError: it cannot be written (no permission, a full disk); what stood there before stands there still.
    """
    draft = file.with_name(f".{file.name}.draft")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise OSError(f"cannot write {file}: {error.strerror or error}") from error
    if os.name == "posix":  # the rename itself reaches the disk with the folder
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write `state` as the checkpoint of `step`, and delete all but the newest `keep`: the JSON's place.

    Args:
        folder: where the run's checkpoints live; made if absent.
        step: the number of steps taken.
        state: dicts and lists of tensors, numbers, strings, booleans and None. Tuples come back as lists.
        keep: how many checkpoints stay; two, so that a damaged one has one before it.

    Raises:
        TypeError: the state holds something that neither safetensors nor JSON can hold.
    """
    tensors: dict[str, Tensor] = {}
    head = {"format": FORMAT, "step": step, "state": _split(state, "", tensors)}
    content = save_tensors(tensors)
    file = Path(folder) / f"step-{step:08d}.json"
    write_atomically(file.with_suffix(".safetensors"), content)
    write_atomically(file, json.dumps({"sha256": _digest(content, head), **head}).encode())
    for old in checkpoints(folder)[keep:]:
        old.unlink()  # first the JSON: half a deletion leaves no checkpoint
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    return file


def checkpoints(folder: Path) -> list[Path]:
    """The JSON files of a folder's checkpoints, newest first; empty where there are none."""
    return sorted((f for f in Path(folder).glob("step-*.json") if _NAME.fullmatch(f.name)), key=step_of, reverse=True)


def step_of(file: Path) -> int:
    """The number of steps that a checkpoint's name tells."""
    return int(file.stem.removeprefix("step-"))


def read_checkpoint(file: Path) -> tuple[int, dict[str, Any]]:
    """(step, state) of one checkpoint, given its JSON; tensors lie on the CPU.

    Raises:
        CheckpointError: a file is missing, truncated, altered, or of another format.
    """
    try:
        head = json.loads(file.read_bytes())
        content = file.with_suffix(".safetensors").read_bytes()
        if head.pop("sha256") != _digest(content, head):
            raise CheckpointError(f"{file.with_suffix('')} is damaged: its SHA-256 does not match")
        if head["format"] != FORMAT:
            raise CheckpointError(f"{file} has format {head['format']}, this gmbook reads format {FORMAT}")
        return head["step"], _join(head["state"], load_tensors(content))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{file.with_suffix('')} is damaged or incomplete ({error})") from error


def newest_checkpoint(folder: Path, warn: Callable[[str], None] = warnings.warn) -> tuple[int, dict[str, Any]] | None:
    """(step, state) of the newest checkpoint that is sound, or None where there is no checkpoint at all.

    A damaged one is refused with a warning, and the one before it is taken.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    files = checkpoints(folder)
    for file in files:
        try:
            return read_checkpoint(file)
        except CheckpointError as error:
            warn(f"{error}; using the checkpoint before it, if there is one")
    if files:
        raise CheckpointError(
            f"every checkpoint in {folder} is damaged: delete the folder (or choose another) to begin again"
        )
    return None


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """`model.load_state_dict(weights)`, where `weights` may also hold tables that are no longer saved.

    A schedule's tables are buffers that the constructor makes (persistent=False). Checkpoints of before hold them.

    Raises:
        RuntimeError: the weights are another model's.
    """
    buffers = model.named_buffers(remove_duplicate=False)  # one table may have two names
    tables = {name for name, _ in buffers} - model.state_dict().keys()
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name not in tables})


def _digest(content: bytes, head: dict[str, Any]) -> str:
    digest = hashlib.sha256(content)
    digest.update(json.dumps(head, sort_keys=True).encode())
    return digest.hexdigest()


def _split(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The tree as JSON holds it, with its tensors put into `tensors` as safetensors wants them.

    A tensor becomes its path, a dict its list of pairs (keys may be integers). Tensors are contiguous, sharing nothing.
    """
    if isinstance(tree, Tensor):
        tensors[name] = tree.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"dict": [[key, _split(branch, f"{name}/{key}", tensors)] for key, branch in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return [_split(branch, f"{name}/{index}", tensors) for index, branch in enumerate(tree)]
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise TypeError(f"cannot write {name.strip('/')} into a checkpoint: it is a {type(tree).__name__}")


def _join(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_split`."""
    if isinstance(tree, dict) and "tensor" in tree:
        return tensors[tree["tensor"]]
    if isinstance(tree, dict):
        return {key: _join(branch, tensors) for key, branch in tree["dict"]}
    if isinstance(tree, list):
        return [_join(branch, tensors) for branch in tree]
    return tree


def random_state() -> dict[str, Tensor]:
    """The state of torch's default generators: the CPU's, and that of the GPU which this process uses."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Put torch's default generators back to what `random_state` gave; a GPU's is passed over where there is none."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
