"""Calls and values between two processes of which one does not trust the other: JSON and raw numbers, nothing else.

What crosses: None, truth values, numbers, text, tensors, lists, tuples, dicts, and functions. A function stays where it
is; the other side gets a stand-in that calls it. Gradients pass once: where a tensor that came across is
differentiated, the other side is asked for a vector-Jacobian product. Nothing is unpickled, and a message is measured
before memory is set aside for it.

A message is two lengths, a JSON head, and the tensors' bytes. The heads:

    {"do": "call", "function": n, "value": [arguments, options], "tensors": […]}    "tensors" tell dtype, shape, and
    {"do": "product", "call": n, "value": [cotangents], "tensors": […]}             whether a gradient is wanted
    {"do": "value", "call": n, "value": …, "tensors": […]}                          the answers
    {"do": "raised", "kind": "wrong" | "blank" | "error", "name": …, "text": …}

A question has a random "number" that its answer repeats. Each side answers calls while it waits for an answer, so
that functions can be handed over both ways.
"""

from __future__ import annotations

import importlib
import json
import math
import secrets
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmbook.course.kit import NESTED, Given, Unanswered, Wrong, shortened

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16)
    + (torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128)
}
HEAD, BODY = 1 << 20, 1 << 28  # bytes, at most
TENSORS, DIMENSIONS, CALLS_WITHIN_CALLS = 1000, 8, 16


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
    if type(value) is not list or len(value) > DIMENSIONS:
        raise ValueError("no shape")
    if not all(type(size) is int and 0 <= size <= BODY for size in value):
        raise ValueError("no shape")
    if math.prod(max(size, 1) for size in value) > BODY:
        raise ValueError("no shape")
    return tuple(value)


def _tensor(body: bytearray, dtype: torch.dtype, shape: tuple[int, ...], wanted: bool) -> Tensor:
    if not body:
        value = torch.empty(shape, dtype=dtype)
    elif dtype == torch.bool:
        value = torch.frombuffer(body, dtype=torch.uint8).ne(0).reshape(shape)
    else:
        value = torch.frombuffer(body, dtype=dtype).reshape(shape)
    return value.requires_grad_(wanted and (dtype.is_floating_point or dtype.is_complex))


class Opaque:
    """Stands for a value that does not cross: a check sees only what its class was called."""


@dataclass
class Call:
    """A call that was answered here, kept for its products."""

    inputs: list[Tensor | None]  # a gradient may be wanted of: arguments, and what calls the other way had brought
    outputs: list[Tensor]  # those with a gradient


@dataclass
class Waiting:
    """A request that is under way: the tensors that were given out meanwhile, with their own gradients."""

    given: list[Tensor] = field(default_factory=list)


class Peer:
    """One side of the wire.

    Attributes:
        functions: those that the other side may call, by number.
    """

    def __init__(self, connection: socket.socket):
        self.channel = Channel(connection)
        self.functions: list[Callable[..., Any]] = []
        self.calls: dict[int, Call] = {}
        self.waiting: list[Waiting] = []  # requests of ours, innermost last
        self.brought: list[list[Tensor | None]] = []  # for each call being answered: what our own requests brought
        self.trouble: Exception | None = None  # raised by a function of ours, within a request of ours
        self.anchor = torch.zeros((), requires_grad=True)

    def forget(self, keep: int) -> None:
        """Drop the record of calls, and all functions but the first so many."""
        del self.functions[keep:]
        self.calls.clear()

    # ------------------------------------------------------------------------------------------------- asking

    def call(self, function: int, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
        """Call a function of the other side.

        Raises:
            Wrong: it raised; Unanswered if it is a blank.
            Broken: see Channel.
        """
        tensors: list[Tensor] = []
        value = self.encode([list(arguments), options], tensors)
        waiting = Waiting()
        head, got = self.request({"do": "call", "function": function, "value": value}, tensors, waiting)
        wanted = [t for t in got if t.requires_grad]
        if wanted:
            if type(head.get("call")) is not int:
                raise Broken("a message is malformed")
            inputs = [t for t in tensors if t.requires_grad] + waiting.given
            joined = iter(_Across.apply(self, head["call"], [t.detach() for t in wanted], self.anchor, *inputs))
            if self.brought:  # None for what was asked for without gradients, within torch.no_grad()
                wanted = list(joined)
                self.brought[-1] += [t if t.requires_grad else None for t in wanted]
                joined = iter(wanted)
            got = [next(joined) if t.requires_grad else t for t in got]
        return self.decode(head.get("value"), got)

    def request(
        self, head: dict[str, Any], tensors: list[Tensor], waiting: Waiting
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """Send, and answer what comes until the answer comes."""
        if len(self.waiting) >= CALLS_WITHIN_CALLS:
            raise Broken("calls within calls, too deep")
        self.waiting.append(waiting)
        outer, self.trouble = self.trouble, None
        try:
            number = secrets.randbits(62)  # so that what was sent before it was asked for is no answer
            self.channel.send({**head, "number": number}, tensors)
            while True:
                reply, got = self.channel.receive()
                if reply["do"] in ("value", "raised") and reply.get("number") != number:
                    raise Broken("an answer to no question")
                if reply["do"] == "value":
                    return reply, got
                if reply["do"] == "raised":
                    raise self.trouble or raised(reply)
                self.answer(reply, got)
        finally:
            self.waiting.pop()
            self.trouble = outer

    def product(self, call: int, cotangents: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> list[Any]:
        """Vector-Jacobian product of an earlier call; None where an input was not used."""
        tensors: list[Tensor] = []
        value = self.encode([None if c is None else c.detach() for c in cotangents], tensors)
        head, got = self.request({"do": "product", "call": call, "value": value}, tensors, Waiting())
        products = self.decode(head.get("value"), got)
        if type(products) is not list or len(products) != len(inputs):
            raise Broken("a gradient is malformed")
        for found, of in zip(products, inputs):
            fits = isinstance(found, Tensor) and found.shape == of.shape and found.dtype == of.dtype
            if found is not None and not fits:
                raise Broken("a gradient is malformed")
        return products

    # ----------------------------------------------------------------------------------------------- answering

    def serve(self) -> None:
        """Answer for ever.

        Raises:
            Broken: the other side is gone.
        """
        while True:
            self.answer(*self.channel.receive())

    def answer(self, head: dict[str, Any], tensors: list[Tensor]) -> None:
        """Do what is asked, and send what comes out, or what went wrong."""
        acts = {"call": self.called, "product": self.asked_product}
        act = acts.get(head["do"])
        if act is None:
            raise Broken("a message is malformed")
        try:
            reply, results = act(head, tensors)
            self.channel.send({**reply, "number": head.get("number")}, results)
        except Broken:
            raise
        except BaseException as error:  # whatever a student's code raises, SystemExit too
            self.trouble = error if isinstance(error, Exception) else None
            kind = "blank" if isinstance(error, Unanswered | NotImplementedError) else "error"
            kind = "wrong" if kind == "error" and isinstance(error, Wrong) else kind
            told = {"kind": kind, "name": type(error).__name__, "text": shortened(f"{error}", 500)}
            self.channel.send({"do": "raised", "number": head.get("number"), **told}, [])

    def called(self, head: dict[str, Any], tensors: list[Tensor]) -> tuple[dict[str, Any], list[Tensor]]:
        """One of our functions, on their values."""
        place, value = head.get("function"), self.decode(head.get("value"), tensors)
        if type(place) is not int or not 0 <= place < len(self.functions):
            raise Broken("no such function")
        if type(value) is not list or list(map(type, value)) != [list, dict]:
            raise Broken("a message is malformed")
        if not all(type(key) is str for key in value[1]):
            raise Broken("a message is malformed")
        inputs: list[Tensor | None] = [t for t in tensors if t.requires_grad]
        self.brought.append([])
        try:
            with torch.enable_grad():
                result = self.functions[place](*value[0], **value[1])
        finally:
            inputs = inputs + self.brought.pop()
        results: list[Tensor] = []
        encoded = self.encode(result, results)
        outputs = [t for t in results if t.requires_grad]
        if outputs:
            self.calls[len(self.calls)] = Call(inputs, outputs)
            if self.waiting:
                self.waiting[-1].given += outputs
        return {"do": "value", "call": len(self.calls) - 1, "value": encoded}, results

    def asked_product(self, head: dict[str, Any], tensors: list[Tensor]) -> tuple[dict[str, Any], list[Tensor]]:
        """The vector-Jacobian product of a call that was answered here."""
        place, cotangents = head.get("call"), self.decode(head.get("value"), tensors)
        if type(place) is not int or place not in self.calls or type(cotangents) is not list:
            raise Broken("a gradient is malformed")
        call = self.calls[place]
        if len(cotangents) != len(call.outputs):
            raise Broken("a gradient is malformed")
        used = [(out, c) for out, c in zip(call.outputs, cotangents) if isinstance(c, Tensor)]
        if not all(c.shape == out.shape and c.dtype == out.dtype for out, c in used):
            raise Broken("a gradient is malformed")
        products: list[Tensor | None] = [None] * len(call.inputs)
        there = [place for place, value in enumerate(call.inputs) if value is not None]
        if there and used:
            outputs, weights = zip(*used)
            inputs = [value for value in call.inputs if value is not None]
            found = torch.autograd.grad(outputs, inputs, weights, retain_graph=True, allow_unused=True)
            for at, gradient in zip(there, found):
                products[at] = gradient
        results: list[Tensor] = []
        return {"do": "value", "value": self.encode(products, results)}, [t.detach() for t in results]

    # -------------------------------------------------------------------------------------------------- values

    def encode(self, value: Any, tensors: list[Tensor], depth: int = 0) -> Any:
        """A value as JSON; its tensors are put aside.

        Raises:
            ValueError: it is nested too deeply.
        """
        if depth > NESTED:
            raise ValueError("lists are nested too deeply")
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
            value = torch.as_tensor(np.array(value)) if value.ndim else value.item()
            return self.encode(value, tensors, depth)
        if isinstance(value, Tensor):
            tensors.append(value)
            return {"tensor": len(tensors) - 1}
        if isinstance(value, list | tuple):
            parts = [self.encode(part, tensors, depth + 1) for part in value]
            return {"list" if isinstance(value, list) else "tuple": parts}
        if isinstance(value, dict):
            return {"dict": self.encode([list(pair) for pair in value.items()], tensors, depth + 1)}
        if isinstance(value, Given):
            kind = type(value)
            arguments = self.encode(list(value.arguments), tensors, depth + 1)
            return {"given": arguments, "module": kind.__module__, "class": kind.__qualname__}
        if callable(value):
            if isinstance(value, StandIn) and value.peer is self:
                return {"yours": value.place}
            self.functions.append(value)
            return {"mine": len(self.functions) - 1}
        return {"object": type(value).__name__}

    def decode(self, value: Any, tensors: list[Tensor]) -> Any:
        """The value that was encoded.

        Raises:
            Broken: it is none.
        """
        if value is None or type(value) in (bool, int, float, str):
            return value
        readers = {
            "tensor": lambda place: tensors[_place(place, tensors)],
            "list": lambda parts: [self.decode(part, tensors) for part in parts],
            "tuple": lambda parts: tuple(self.decode(part, tensors) for part in parts),
            "dict": lambda pairs: dict(self.decode(pairs, tensors)),
            "yours": lambda place: self.functions[_place(place, self.functions)],
            "mine": lambda place: StandIn(self, _place(place)),
            "object": lambda name: type(_identifier(name), (Opaque,), {})(),
            "given": lambda arguments: self.given(value, self.decode(arguments, tensors)),
        }
        try:
            kind = next(iter(value))
            return readers[kind](value[kind])
        except (KeyError, TypeError, ValueError, StopIteration, RecursionError) as error:
            raise Broken("a value is malformed") from error

    def given(self, told: dict[str, Any], arguments: list[Any]) -> Any:
        """A `Given`, built again. Only the student's side does that."""
        raise Broken("a value is malformed")


class StudentPeer(Peer):
    """The student's side: it trusts the other."""

    def given(self, told: dict[str, Any], arguments: list[Any]) -> Any:
        """A `Given`, built again beside the answer."""
        made: Any = importlib.import_module(told["module"])
        for part in told["class"].split("."):
            made = getattr(made, part)
        return made(*arguments)


@dataclass(frozen=True, eq=False)
class StandIn:
    """Calls a function of the other side."""

    peer: Peer
    place: int

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the function gives over there."""
        return self.peer.call(self.place, arguments, options)


class _Across(torch.autograd.Function):
    """Tensors that came across, joined to those from which they were made: the other side knows the derivative."""

    @staticmethod
    def forward(ctx: Any, peer: Peer, call: int, values: list[Tensor], anchor: Tensor, *inputs: Tensor) -> Any:
        ctx.peer, ctx.call, ctx.inputs = peer, call, [i.detach() for i in inputs]
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        return None, None, None, None, *ctx.peer.product(ctx.call, cotangents, ctx.inputs)


def raised(reply: dict[str, Any]) -> Exception:
    """The exception that the other side reports."""
    name, text = _identifier(reply.get("name")), shortened(str(reply.get("text", "")))
    if reply.get("kind") == "blank":
        return Unanswered("The blank is not filled in.")
    if reply.get("kind") == "wrong":
        return Wrong(text or "It raised Wrong without a word.")  # without a hint it would count as right
    return type(name, (RuntimeError,), {})(text)


def _identifier(name: Any) -> str:
    return name if type(name) is str and name.isidentifier() and len(name) <= 60 else "Exception"


def _place(value: Any, among: Sequence[Any] | None = None) -> int:
    if type(value) is not int or value < 0 or (among is not None and value >= len(among)):
        raise ValueError("no such place")
    return value
