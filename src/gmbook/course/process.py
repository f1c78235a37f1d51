"""The judge's side of a student's process: starts it behind the fence, asks it, and ends it when it takes too much."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gmbook.course import kit, sandbox
from gmbook.course.channel import Broken
from gmbook.course.wire import Peer

RUN, READY, ANSWER = range(3)  # the functions of gmbook.course.student.Notebook
START_SECONDS = 300.0  # for a student's process to be there, on a busy machine
PRINTED = 20_000  # characters of what a process printed that are kept


@dataclass(frozen=True)
class Limits:
    """What a submission may use; the command has an option of each name."""

    cell_seconds: float = field(default=60.0, metadata={"help": "for one cell, on the wall clock"})
    check_seconds: float = field(default=30.0, metadata={"help": "for all calls of one check"})
    total_seconds: float = field(default=300.0, metadata={"help": "for a notebook, with all that is run again"})
    memory_mb: int = field(default=4096, metadata={"help": "address space of a process, and what all hold together"})
    output_kb: int = field(default=1024, metadata={"help": "of all that is printed"})


class Gone(kit.Wrong):
    """The student's process ended, or had to be ended."""


class Student(Peer):
    """A running process with a student's notebook; use it in a `with` statement.

    Args:
        hidden: files and folders that it must not see.
        seconds: for all its cells.
        folder: its own, without a fence; empty where the fence gives it one.

    Attributes:
        why: the reason why it was ended, or "".
    """

    def __init__(self, limits: Limits, hidden: Sequence[str], seconds: float, folder: str = ""):
        ours, theirs = socket.socketpair()
        super().__init__(ours)
        self.limits, self.why, self.output, self.printed = limits, "", bytearray(), 0
        bounds = sandbox.Bounds(memory=limits.memory_mb << 20, seconds=int(limits.total_seconds) + 1)
        command = [sys.executable, "-u", "-P", "-s", "-m", "gmbook.course.student", str(theirs.fileno())]
        if not folder:
            command = sandbox.fenced(command, bounds, [Path(path) for path in hidden])
        elif shutil.which("prlimit"):
            command = sandbox.limited(command, bounds)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs.fileno(),),
            cwd=folder or None,
            env=environment(folder or sandbox.FOLDER),
            start_new_session=True,
        )
        theirs.close()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.last = time.monotonic() + START_SECONDS
        try:
            self.ask(READY, 0, False, seconds=START_SECONDS)  # torch is imported: nobody's time but ours
        except Gone:
            self.__exit__()
            printed = kit.shortened(self.output.decode(errors="replace"))
            raise RuntimeError(f"the student's process does not start: {printed}") from None
        self.began = time.monotonic()
        self.last = self.began + seconds

    def __enter__(self) -> Student:
        return self

    def __exit__(self, *_: object) -> None:
        self.end("")
        self.reader.join(5)
        self.process.wait()
        self.channel.connection.close()

    def read(self) -> None:
        """Take what it prints, keep the first of it; end it when that, or its memory, is too much."""
        assert self.process.stdout is not None
        looked = 0.0
        with self.process.stdout as printed:
            while True:
                if time.monotonic() - looked > 0.5:
                    looked = time.monotonic()
                    if sandbox.resident(self.process.pid) > self.limits.memory_mb << 20:
                        self.end(f"its processes took more than {self.limits.memory_mb} MB together")
                if not select.select([printed], [], [], 0.5)[0]:
                    continue
                more = os.read(printed.fileno(), 1 << 16)
                if not more:
                    return
                self.printed += len(more)
                self.output += more[: max(0, PRINTED - len(self.output))]
                if self.printed > self.limits.output_kb << 10:
                    self.end(f"more than {self.limits.output_kb} kB were printed")

    def end(self, why: str) -> None:
        """Kill it, and all that it started."""
        self.why = self.why or why
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # nobody has waited for it: the number is still its own

    def allow(self, seconds: float) -> None:
        """Let what follows take so long, and no longer than the submission has."""
        self.channel.deadline = min(self.last, time.monotonic() + seconds)

    def ask(self, function: int, *arguments: Any, seconds: float) -> Any:
        """Call one of its process's own functions.

        Raises:
            Gone: it ended, took too long, or sent what is no answer.
        """
        self.allow(seconds)
        return self.call(function, arguments, {})

    def call(self, *asked: Any) -> Any:
        """See `Peer`; an answer's functions are called so, too."""
        with self.in_plain_words():
            return super().call(*asked)

    def product(self, *asked: Any) -> list[Any]:
        """See `Peer`."""
        with self.in_plain_words():
            return super().product(*asked)

    @contextlib.contextmanager
    def in_plain_words(self) -> Iterator[None]:
        """Where the wire breaks within, the process is ended.

        Raises:
            Gone: it was; the message says why.
        """
        try:
            yield
        except Broken as broken:
            now, told = time.monotonic(), f"{broken}"
            time.sleep(0.05)  # for the other thread to say that too much was printed
            if now >= self.channel.deadline:
                self.end("all the time that a submission has was used up" if now >= self.last else "it took too long")
            gone = "gone" in told or "reset" in told
            self.end("it ended the process in which it ran" if gone else f"it talked to the grader itself ({told})")
            raise Gone(f"Stopped: {self.why}.") from None


def environment(folder: str) -> dict[str, str]:
    """The few variables that the student's process has."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(sandbox.PACKAGE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        **dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR"), folder),
        "USER": "student",
        "MPLBACKEND": "Agg",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
    }
