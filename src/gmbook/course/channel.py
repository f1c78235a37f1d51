"""Messages between two processes of which one does not trust the other: JSON and raw numbers, nothing else.

A message is two lengths, a JSON head, and the tensors' bytes. The head has "do", and "tensors", which tells of each
its dtype, its shape, and whether a gradient is wanted. Nothing is unpickled, and a message is measured before memory
is set aside for it.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16)
    + (torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128)
}
HEAD, BODY = 1 << 20, 1 << 28  # bytes, at most
TENSORS, DIMENSIONS = 1000, 8


class Broken(Exception):
    """What came is no message, or nothing comes any more."""


class Channel:
    """Messages over a socket, with a moment after which nobody waits any longer."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.deadline = math.inf  # of time.monotonic

    def send(self, head: dict[str, Any], tensors: Sequence[Tensor]) -> None:
        """Send one message.

        Raises:
            ValueError: it is too large.
            Broken: the other side does not take it.
        """
        told = [{"dtype": str(t.dtype)[6:], "shape": list(t.shape), "wanted": t.requires_grad} for t in tensors]
        if len(tensors) > TENSORS or sum(t.numel() * t.element_size() for t in tensors) > BODY:
            raise ValueError(f"more than {TENSORS} tensors, or more than {BODY >> 20} MB")
        text = json.dumps({**head, "tensors": told}).encode()
        if len(text) > HEAD:
            raise ValueError("the value is too large")
        # a copy in rows: `contiguous` keeps a tensor of one element as it is, and stride 0 has no view as bytes
        rows = [t.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1) for t in tensors]
        body = [row.view(torch.uint8).numpy().tobytes() for row in rows]
        try:
            self.wait()
            self.connection.sendall(struct.pack("<II", len(text), sum(map(len, body))) + text + b"".join(body))
        except OSError as error:
            raise Broken(str(error)) from error

    def receive(self) -> tuple[dict[str, Any], list[Tensor]]:
        """The next message; its tensors are leaves that require a gradient where one is wanted.

        Raises:
            Broken: it is malformed, too large, late, or there is none.
        """
        lengths = struct.unpack("<II", self.read(8))
        if lengths[0] > HEAD or lengths[1] > BODY:
            raise Broken("a message is too large")
        try:
            head = json.loads(self.read(lengths[0]))
            told = [(DTYPES[t["dtype"]], _shape(t["shape"]), t["wanted"] is True) for t in head["tensors"]]
            sizes = [math.prod(shape) * dtype.itemsize for dtype, shape, _ in told]
            if sum(sizes) != lengths[1] or len(told) > TENSORS or type(head["do"]) is not str:
                raise ValueError("lengths do not agree")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise Broken("a message is malformed") from error
        body, tensors, start = self.read(lengths[1]), [], 0
        for (dtype, shape, wanted), size in zip(told, sizes):
            tensors.append(_tensor(body[start : start + size], dtype, shape, wanted))
            start += size
        return head, tensors

    def read(self, count: int) -> bytearray:
        """So many bytes."""
        got, filled = bytearray(count), 0
        view = memoryview(got)
        while filled < count:
            try:
                self.wait()
                more = self.connection.recv_into(view[filled:])
            except OSError as error:
                raise Broken(str(error)) from error
            if not more:
                raise Broken("the other side is gone")
            filled += more
        return got

    def wait(self) -> None:
        """Let the next step on the socket take no longer than until the deadline."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("too late")
        self.connection.settimeout(None if left == math.inf else left)


def _shape(value: Any) -> tuple[int, ...]:
    listed = type(value) is list and len(value) <= DIMENSIONS
    sizes = listed and all(type(size) is int and size >= 0 for size in value)
    if not sizes or math.prod(max(size, 1) for size in value) > BODY:  # of an empty one too
        raise ValueError("no shape")
    return tuple(value)


def _tensor(body: bytearray, dtype: torch.dtype, shape: tuple[int, ...], wanted: bool) -> Tensor:
    raw = torch.frombuffer(body, dtype=torch.uint8) if body else torch.empty(0, dtype=torch.uint8)
    value = (raw.ne(0) if dtype == torch.bool else raw.view(dtype)).reshape(shape)
    return value.requires_grad_(wanted and (dtype.is_floating_point or dtype.is_complex))
