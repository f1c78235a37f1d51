"""The process in which a student's notebook runs:  python -m gmbook.course.student CHANNEL

It offers three functions to the judge over the wire: run a cell, get ready for an exercise, hand over an answer. It
decides nothing, so it does not matter what the student's code makes of it. `gmbook.course.sandbox` fences it in.
"""

from __future__ import annotations

import os
import socket
import sys
import types
from typing import Any

import torch

from gmbook.course.cells import Cells
from gmbook.course.channel import Broken
from gmbook.course.kit import careful
from gmbook.course.wire import StudentPeer


class Notebook:
    """The student's names, and what can be asked about them."""

    def __init__(self, peer: StudentPeer):
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        self.names, self.cells, self.peer = module.__dict__, Cells(module.__dict__), peer
        self.dtype = torch.get_default_dtype()  # of the student's own cells

    def offers(self) -> list:
        """The functions, in the order of `process.RUN, READY, ANSWER`."""
        return [self.run, self.ready, self.answer]

    def run(self, source: str, place: str) -> str | None:
        """Run a cell; what it raised, or None."""
        torch.set_default_dtype(self.dtype)  # a check may have left its own
        try:
            self.cells.run(source, place)
        except BaseException as error:  # SystemExit too
            return f"{type(error).__name__}: {error}"[:500]
        finally:
            self.dtype = torch.get_default_dtype()
        return None

    def ready(self, seed: int, double: bool) -> None:
        """The random numbers and the precision that a check gives to an answer."""
        self.peer.forget(keep=3)
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64 if double else torch.float32)
        torch.set_grad_enabled(True)

    def answer(self, name: str) -> object:
        """The student's function or value; None where there is none."""
        return careful(self.names.get(name))


def main() -> None:
    """Do what the judge asks, until it is gone."""
    ended: Any = os._exit
    os.register_at_fork(after_in_child=lambda: ended(1))  # a copy would answer the judge too
    peer = StudentPeer(socket.socket(fileno=int(sys.argv[1])))
    peer.functions = Notebook(peer).offers()
    try:
        peer.serve()
    except Broken:
        ended(0)


if __name__ == "__main__":
    main()
