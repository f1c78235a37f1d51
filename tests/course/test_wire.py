"""The wire: every kept answer gets the same verdict through it, gradients pass, and no message can hurt the judge."""

from __future__ import annotations

import json
import secrets
import socket
import struct
import threading
import time

import numpy as np
import pytest
import torch
from course.test_sheets import KEPT, answers

from gmbook.course import kit
from gmbook.course.channel import BODY, HEAD, Broken, Channel
from gmbook.course.wire import Opaque, Peer, StudentPeer, raised


@pytest.fixture
def across():
    """A function that puts answers on the other side of a wire, and gives their stand-ins."""
    lines = []

    def put(answer):
        ours, theirs = socket.socketpair()
        student, judge = StudentPeer(theirs), Peer(ours)
        student.functions = [lambda: kit.careful(answer)]

        def serve():
            try:
                student.serve()
            except Broken:
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        lines.append((judge, thread))
        judge.channel.deadline = 60 + time.monotonic()
        return judge.call(0, [], {})

    yield put
    for judge, thread in lines:
        judge.channel.connection.close()
        thread.join(5)
        assert not thread.is_alive()


class Shift(kit.Given):
    """A function that travels."""

    def __call__(self, x):
        """x + shift."""
        return x + self.arguments[0]


@pytest.mark.parametrize(("sheet", "exercise", "name"), KEPT, ids=lambda v: getattr(v, "name", v))
def test_a_kept_answer_gets_its_verdict_through_the_wire(sheet, exercise, name, across):
    verdict = sheet.exercises[exercise].examine(across(answers(sheet)[exercise][name]))
    assert verdict.right == name.startswith("right_"), str(verdict)
    assert verdict.right or verdict.hint


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        -0.5,
        "text <&",
        [1, (2, 3.0)],
        {"a": [1], 2: None},
        torch.arange(6).reshape(2, 3),
        torch.randn(2, 0, 3),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.tensor([1 + 2j, 3 - 0.5j]),
        torch.tensor(2.0).expand(1),  # stride 0
    ],
    ids=str,
)
def test_values_come_back_as_they_went(value, across):
    got = across(lambda x: x)(value)
    assert type(got) is type(value)
    if isinstance(value, torch.Tensor):
        assert got.dtype == value.dtype and torch.equal(got, value)
    else:
        assert got == value


def test_numpy_arrays_become_tensors_and_objects_only_a_name(across):
    assert torch.equal(across(lambda: np.arange(3.0))(), torch.arange(3.0, dtype=torch.float64))
    assert across(lambda: np.float64(2.5))() == 2.5

    class Hostile:
        def __eq__(self, other):
            return True

        def __reduce__(self):
            return print, ("ran",)

    got = across(Hostile)()
    assert isinstance(got, Opaque) and type(got).__name__ == "Hostile" and got != 3
    with pytest.raises(kit.Wrong, match="Hostile where numbers are due"):
        kit.numbers(got, (), "it")


def test_exceptions_keep_their_names(across):
    def stop():
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match="3") as caught:
        across({"stop": stop})["stop"]()
    assert type(caught.value).__name__ == "SystemExit"
    with pytest.raises(kit.Wrong, match="ZeroDivisionError"):
        across(lambda: 1 / 0)()
    with pytest.raises(kit.Wrong, match="argument number 1 in place"):
        across(lambda x: x.add_(1))(torch.zeros(2))


def test_jacobian_of_an_answer(across):
    A, x = torch.randn(3, 2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(across(lambda x: torch.sin(A @ x)), x)
    torch.testing.assert_close(found, torch.cos(A @ x)[:, None] * A)


def test_gradients_reach_a_network_that_stays_here_through_two_calls(across):
    """loss = Σ net(net(x) · a): total derivatives with respect to weights and input, against one process."""

    def answer(net, x, a):
        return (net(net(x) * a) * a.detach()).sum()

    def run(answer):
        torch.manual_seed(1)
        weights, x, a = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(3))
        loss = answer(lambda x: torch.tanh(weights * x), x, a)
        return torch.autograd.grad(loss, [weights, x, a])

    for here, there in zip(run(answer), run(across(answer))):
        torch.testing.assert_close(here, there, rtol=1e-12, atol=1e-12)


def test_an_answer_may_differentiate_a_network_that_stays_here(across):
    def score(net, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(net(x).sum(), x)[0]

    x, scale = torch.randn(4, 2), torch.randn(2, requires_grad=True)
    torch.testing.assert_close(across(score)(lambda x: (scale * x).square(), x), 2 * scale.square() * x)


def test_what_is_detached_there_is_detached_here(across):
    weights = torch.ones(2, requires_grad=True)

    def without(net, x):
        with torch.no_grad():
            first = net(x)
        return (first * net(x)).sum()

    loss = across(without)(lambda x: weights * x, torch.ones(2))
    torch.testing.assert_close(torch.autograd.grad(loss, weights)[0], torch.ones(2))
    loss = across(lambda net, x: net(x).detach().sum())(lambda x: weights * x, torch.ones(2))
    with pytest.raises(kit.Wrong, match="detached"):
        kit.gradient(loss, weights, "the weights")


def test_given_functions_travel_and_can_be_differentiated_twice(across):
    from torch.func import grad

    x = torch.tensor(2.0)
    twice = across(lambda f, x: grad(grad(lambda x: f(x) ** 3))(x))
    torch.testing.assert_close(twice(Shift(torch.tensor(1.0)), x), 6 * (x + 1))


def test_a_hint_of_a_function_that_stays_here_comes_through(across):
    def net(x):
        raise kit.Wrong("steps are 1..T")

    with pytest.raises(kit.Wrong, match="steps are 1..T"):
        across(lambda net: net(1))(net)


def framed(head, body=b"", lengths=None):
    """A message, its lengths told as they are or otherwise."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<II", *(lengths or (len(text), len(body)))) + text + body


NUMBER = 7  # of the question, which the hostile side here knows
FLOAT = {"dtype": "float64", "shape": [2], "wanted": False}
HOSTILE = {
    "noise": b"\x00" * 64,
    "not JSON": framed(b"{"),
    "deep": framed(b"[" * 100_000),
    "head too large": framed(b"", lengths=(HEAD + 1, 0)),
    "body too large": framed(b"", lengths=(2, BODY + 1)),
    "no head": framed([]),
    "no deed": framed({"tensors": []}),
    "another deed": framed({"do": "eval", "tensors": []}),
    "lengths disagree": framed({"do": "value", "number": NUMBER, "value": None, "tensors": [FLOAT]}, b"12345678"),
    "negative shape": framed(
        {"do": "value", "number": NUMBER, "value": None, "tensors": [{**FLOAT, "shape": [-2]}]}, b""
    ),
    "huge and empty": framed(
        {"do": "value", "number": NUMBER, "value": None, "tensors": [{**FLOAT, "shape": [0, 1 << 27, 1 << 27]}]}
    ),
    "unknown dtype": framed(
        {"do": "value", "number": NUMBER, "value": None, "tensors": [{**FLOAT, "dtype": "object"}]}, b"1" * 16
    ),
    "no such tensor": framed({"do": "value", "number": NUMBER, "value": {"tensor": 3}, "tensors": []}),
    "no such function": framed({"do": "value", "number": NUMBER, "value": {"yours": 5}, "tensors": []}),
    "negative function": framed({"do": "call", "function": -1, "value": {"list": []}, "tensors": []}),
    "unhashable key": framed(
        {"do": "value", "number": NUMBER, "value": {"dict": {"list": [{"list": [{"list": []}, 1]}]}}, "tensors": []}
    ),
    "given": framed(
        {
            "do": "value",
            "number": NUMBER,
            "value": {"given": {"list": []}, "module": "os", "class": "abort"},
            "tensors": [],
        }
    ),
    "product of nothing": framed({"do": "product", "call": 0, "value": {"list": []}, "tensors": []}),
    "answer to no question": framed({"do": "value", "number": NUMBER + 1, "value": None, "tensors": []}),
    "error of no question": framed({"do": "raised", "number": None, "kind": "wrong", "text": "", "tensors": []}),
    "gone": b"",
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE)
def test_a_malformed_message_is_refused(message, monkeypatch):
    monkeypatch.setattr(secrets, "randbits", lambda bits: NUMBER)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=theirs.sendall, args=(message,))  # may be more than the socket holds
        thread.start()
        thread.join(0.2)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(Broken):
            Peer(ours).call(0, [], {})
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_nobody_waits_beyond_the_deadline():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours)
        channel.deadline = time.monotonic() + 0.1
        with pytest.raises(Broken):
            channel.receive()


def test_a_gradient_of_another_shape_is_refused():
    """A student's process that answers a product with the wrong thing is broken, not believed."""
    ours, theirs = socket.socketpair()
    judge, student = Peer(ours), Channel(theirs)

    def play():
        number = student.receive()[0]["number"]
        reply = {"do": "value", "number": number, "call": 0, "value": {"tensor": 0}}
        student.send(reply, [torch.ones(2, requires_grad=True)])
        number = student.receive()[0]["number"]
        student.send({"do": "value", "number": number, "value": {"list": [{"tensor": 0}]}}, [torch.ones(3)])

    thread = threading.Thread(target=play)
    thread.start()
    x = torch.ones(2, requires_grad=True)
    with ours, theirs:
        got = judge.call(0, [x], {})
        with pytest.raises(Broken, match="gradient"):
            torch.autograd.grad(got.sum(), x)
        thread.join(5)


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_a_blank_hint_from_the_other_side_is_a_hint(text):
    for kind in ("wrong", "error", "blank"):
        assert kind == "error" or str(raised({"kind": kind, "name": "Wrong", "text": text})).strip()

    @kit.exercise(points=1, stars=1, kind="code")
    def asked(answer):
        """Nothing."""
        raise raised({"kind": "wrong", "text": text})

    assert asked.examine(1).points == 0
