"""Calls and values between two processes of which one does not trust the other: JSON and raw numbers, nothing else.

What crosses: None, truth values, numbers, text, tensors, lists, tuples, dicts, and functions. A function stays where it
is; the other side gets a stand-in that calls it. Gradients pass once: where a tensor that came across is
differentiated, the other side is asked for a vector-Jacobian product. The heads of messages (`channel`):

    {"do": "call", "function": n, "value": [arguments, options]}
    {"do": "product", "call": n, "value": [cotangents]}
    {"do": "value", "call": n, "value": …}                              the answers
    {"do": "raised", "kind": "wrong" | "blank" | "error", "name": …, "text": …}

A question has a random "number" that its answer repeats. Each side answers calls while it waits for an answer, so
that functions can be handed over both ways.
"""

from __future__ import annotations

import importlib
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmbook.course.channel import Broken, Channel
from gmbook.course.kit import NESTED, Given, Unanswered, Wrong, shortened

CALLS_WITHIN_CALLS = 16


def sound(held: bool, what: str = "a message is malformed") -> None:
    """What the other side sent must be so.

    Raises:
        Broken: it is not.
    """
    if not held:
        raise Broken(what)


class Opaque:
    """Stands for a value that does not cross: a check sees only what its class was called."""


@dataclass
class Call:
    """A call that was answered here, kept for its products."""

    inputs: list[Tensor | None]  # a gradient may be wanted of: arguments, and what calls the other way had brought
    outputs: list[Tensor]  # those with a gradient


class Peer:
    """One side of the wire.

    Attributes:
        functions: those that the other side may call, by number.
    """

    def __init__(self, connection: socket.socket):
        self.channel = Channel(connection)
        self.functions: list[Callable[..., Any]] = []
        self.calls: dict[int, Call] = {}
        self.waiting: list[list[Tensor]] = []  # for each request of ours, innermost last: what was given out meanwhile
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
        given: list[Tensor] = []  # to the other side meanwhile, with gradients of its own
        head, got = self.request({"do": "call", "function": function, "value": value}, tensors, given)
        wanted = [t for t in got if t.requires_grad]
        if wanted:
            sound(type(head.get("call")) is int)
            inputs = [t for t in tensors if t.requires_grad] + given
            joined = _Across.apply(self, head["call"], [t.detach() for t in wanted], self.anchor, *inputs)
            if self.brought:  # None for what was asked for without gradients, within torch.no_grad()
                self.brought[-1] += [t if t.requires_grad else None for t in joined]
            each = iter(joined)
            got = [next(each) if t.requires_grad else t for t in got]
        return self.decode(head.get("value"), got)

    def request(
        self, head: dict[str, Any], tensors: list[Tensor], given: list[Tensor]
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """Send, and answer what comes until the answer comes; what is given out meanwhile is added to `given`."""
        sound(len(self.waiting) < CALLS_WITHIN_CALLS, "calls within calls, too deep")
        self.waiting.append(given)
        outer, self.trouble = self.trouble, None
        try:
            number = secrets.randbits(62)  # so that what was sent before it was asked for is no answer
            self.channel.send({**head, "number": number}, tensors)
            while True:
                reply, got = self.channel.receive()
                if reply["do"] not in ("value", "raised"):
                    self.answer(reply, got)
                    continue
                sound(reply.get("number") == number, "an answer to no question")
                if reply["do"] == "raised":
                    raise self.trouble or raised(reply)
                return reply, got
        finally:
            self.waiting.pop()
            self.trouble = outer

    def product(self, call: int, cotangents: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> list[Any]:
        """Vector-Jacobian product of an earlier call; None where an input was not used."""
        tensors: list[Tensor] = []
        value = self.encode([None if c is None else c.detach() for c in cotangents], tensors)
        head, got = self.request({"do": "product", "call": call, "value": value}, tensors, [])
        products = self.decode(head.get("value"), got)
        sound(fit(products, inputs), "a gradient is malformed")
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
        sound(head["do"] in acts)
        try:
            reply, results = acts[head["do"]](head, tensors)
            self.channel.send({**reply, "number": head.get("number")}, results)
        except Broken:
            raise
        except BaseException as error:  # whatever a student's code raises, SystemExit too
            self.trouble = error if isinstance(error, Exception) else None
            blank, wrong = isinstance(error, Unanswered | NotImplementedError), isinstance(error, Wrong)
            kind = "blank" if blank else "wrong" if wrong else "error"
            told = {"kind": kind, "name": type(error).__name__, "text": shortened(f"{error}", 500)}
            self.channel.send({"do": "raised", "number": head.get("number"), **told}, [])

    def called(self, head: dict[str, Any], tensors: list[Tensor]) -> tuple[dict[str, Any], list[Tensor]]:
        """One of our functions, on their values."""
        value = self.decode(head.get("value"), tensors)
        sound(type(value) is list and list(map(type, value)) == [list, dict])
        arguments, options = value
        sound(all(type(key) is str for key in options))
        function = self.functions[_place(head.get("function"), self.functions)]
        inputs: list[Tensor | None] = [t for t in tensors if t.requires_grad]
        self.brought.append([])
        try:
            with torch.enable_grad():
                result = function(*arguments, **options)
        finally:
            inputs = inputs + self.brought.pop()
        results: list[Tensor] = []
        encoded = self.encode(result, results)
        outputs = [t for t in results if t.requires_grad]
        if outputs:
            self.calls[len(self.calls)] = Call(inputs, outputs)
            if self.waiting:
                self.waiting[-1] += outputs
        return {"do": "value", "call": len(self.calls) - 1, "value": encoded}, results

    def asked_product(self, head: dict[str, Any], tensors: list[Tensor]) -> tuple[dict[str, Any], list[Tensor]]:
        """The vector-Jacobian product of a call that was answered here."""
        place, cotangents = head.get("call"), self.decode(head.get("value"), tensors)
        call = self.calls.get(place) if type(place) is int else None
        if call is None or not fit(cotangents, call.outputs):
            raise Broken("a gradient is malformed")
        used = [(out, c) for out, c in zip(call.outputs, cotangents) if c is not None]
        inputs = [value for value in call.inputs if value is not None]
        found: Any = [None] * len(inputs)
        if inputs and used:
            outputs, weights = zip(*used)
            found = torch.autograd.grad(outputs, inputs, weights, retain_graph=True, allow_unused=True)
        each = iter(found)
        products = [None if value is None else next(each) for value in call.inputs]
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


def fit(gradients: Any, of: Sequence[Tensor]) -> bool:
    """Whether these are gradients of those tensors, or None where one was not used."""
    if type(gradients) is not list or len(gradients) != len(of):
        return False
    pairs = [(found, value) for found, value in zip(gradients, of) if found is not None]
    return all(type(g) is Tensor and g.shape == v.shape and g.dtype == v.dtype for g, v in pairs)


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
    sound(type(value) is int and value >= 0 and (among is None or value < len(among)))
    return value
