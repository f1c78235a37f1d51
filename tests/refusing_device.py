"""A pretended GPU: its tensors hold numbers, and refuse to meet the CPU's, as a real one's do.

A tensor of it is a wrapper around a CPU tensor, and says that its device is `meta`. Within `refusing()` all that is
with `device="meta"` is such a tensor, and every operation is run on the CPU, after a check that all its tensors are on
one device. Allowed, as on a GPU: a CPU scalar () in arithmetic, CPU indices, and copies. Refused: all else that mixes,
and a generator of the CPU that is to draw on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
COPIES = ("_to_copy", "copy_", "index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")


class Mixed(RuntimeError):
    """Tensors of two devices have met."""


class There(Tensor):
    """A tensor of the pretended device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=held.requires_grad,
        )

    def __init__(self, held: Tensor):
        self.held = held

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func.overloadpacket.__name__
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, There)]
    here = [x for x in tensors if not isinstance(x, There)]
    if there and any(x.ndim for x in here) and name not in COPIES:
        raise Mixed(f"{name}: tensors of two devices, shapes {[tuple(x.shape) for x in tensors]}")
    if there and here and name.startswith(("index", "_unsafe_index")) and not isinstance(args[0], There):
        raise Mixed(f"{name}: a CPU tensor is indexed on the device")
    changed = tree_flatten(args[0])[0] if args and name.endswith("_") and not name.endswith("__") else []
    if there and name != "copy_" and not all(isinstance(x, There) for x in changed):
        raise Mixed(f"{name}: a CPU tensor is changed by one of the device")
    asked = kwargs.get("device")
    onto = bool(there) if asked is None else torch.device(asked).type == DEVICE.type
    if name == "copy_":
        onto = isinstance(args[0], There)
    generator = kwargs.get("generator")
    if onto and generator is not None:
        raise Mixed(f"{name}: a generator of the CPU draws on the device")
    if asked is not None:
        kwargs = {**kwargs, "device": "cpu"}
    plain_args, plain_kwargs = tree_map(lambda x: x.held if isinstance(x, There) else x, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    if name in ("_local_scalar_dense", "equal", "is_nonzero"):
        return result
    known = {id(x.held): x for x in there}
    if changed and isinstance(args[0], There):
        if torch.Tag.inplace_view in func.tags:  # such as unsqueeze_: the wrapper's own shape changes too
            with no_dispatch():
                func(*args, **kwargs)
        return args[0]

    def back(x: Any) -> Any:
        if not isinstance(x, Tensor) or not onto:
            return x
        return known[id(x)] if id(x) in known else There(x)

    return tree_map(back, result)


class _Makes(TorchDispatchMode):
    """Sends what is made on the device, or copied to it, to the pretended one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Values(TorchFunctionMode):
    """torch.tensor and its like make meta tensors without values: here by way of the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device) == DEVICE:
            rest = {k: v for k, v in kwargs.items() if k != "device"}
            return func(*args, **rest).to(DEVICE)
        if func is Tensor.new_tensor and args[0].device == DEVICE:
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(DEVICE)
        if func is Tensor.tolist and isinstance(args[0], There):
            return args[0].held.tolist()
        return func(*args, **kwargs)


@contextmanager
def refusing() -> Iterator[torch.device]:
    """Inside, the device that is given is the pretended one."""
    with _Values(), _Makes():
        yield DEVICE
