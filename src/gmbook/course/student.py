"""The process in which a student's notebook runs:  python -m gmbook.course.student ORDER

It fences itself in (`gmbook.course.sandbox`), then offers four functions to the judge over the wire: run a cell, get
ready for an exercise, hand over an answer, be done with it. It decides nothing, so it does not matter what the
student's code makes of it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from gmbook.course import sandbox


def main() -> None:
    """Fence in, import what is slow, and serve."""
    order = json.loads(sys.argv[1])

    def report(process: int, protections: list[str]) -> None:
        os.write(order["status"], json.dumps([process, protections]).encode())
        devnull = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(devnull, standard)
        os.closerange(3, 256)

    bounds = sandbox.Bounds(**order["bounds"])
    sandbox.enter(Path(order["folder"]), [Path(path) for path in order["hidden"]], bounds, report)
    os.close(order["status"])
    serve(order["channel"])


def serve(descriptor: int) -> None:
    """Do what the judge asks, until it is gone."""
    import socket

    from gmbook.course.wire import Broken, StudentPeer

    peer = StudentPeer(socket.socket(fileno=descriptor))
    peer.functions = Notebook(peer).offers()
    try:
        peer.serve()
    except Broken:
        os._exit(0)


class Notebook:
    """The student's names, and what can be asked about them."""

    def __init__(self, peer):  # type: ignore[no-untyped-def]  # torch, and all that needs it, is imported later
        import types

        from gmbook.course.cells import Cells

        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        self.names, self.cells, self.peer = module.__dict__, Cells(module.__dict__), peer
        self.before: Any = None

    def offers(self) -> list:
        """The functions, in the order of the judge's `RUN, READY, ANSWER, DONE`."""
        return [self.run, self.ready, self.answer, self.done]

    def run(self, source: str, place: str) -> str | None:
        """Run a cell; what it raised, or None."""
        try:
            self.cells.run(source, place)
        except BaseException as error:  # SystemExit too
            return f"{type(error).__name__}: {error}"[:500]
        return None

    def ready(self, seed: int, double: bool) -> None:
        """The random numbers and the precision that a check gives to an answer."""
        import torch

        self.peer.forget(keep=4)
        self.before = torch.get_default_dtype()
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64 if double else torch.float32)
        torch.set_grad_enabled(True)

    def answer(self, name: str) -> object:
        """The student's function or value; None where there is none."""
        from gmbook.course.kit import careful

        return careful(self.names.get(name))

    def done(self) -> None:
        """As it was before `ready`."""
        import torch

        torch.set_default_dtype(self.before)


if __name__ == "__main__":
    main()
