"""Judges one submission: the student's cells run in a fenced process, the checks here, in one that nobody else touches.

    python -m gmbook.course.judge        (the job is a line of JSON on standard input, from `gmbook.course.grading`)

It ends, and the student's process with it, when standard input is closed: no killed grader leaves anything running.

The cells run in the notebook's order, all but the grade cells: an exercise is examined where its grade cell stands, as
the student saw it, or at the end if there is no such cell, or nothing has the exercise's name by then. Its answer is
what has its name at that moment; of several cells that define it the last one before counts. Where a cell or an answer
kills its process, floods it, or takes too long, a new process runs the other cells again, without that one.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from gmbook.course import kit, sandbox
from gmbook.course.wire import Broken, Peer, StandIn

RUN, READY, ANSWER = range(3)  # the functions of gmbook.course.student.Notebook
START_SECONDS = 300.0  # for a student's process to be there, on a busy machine
PRINTED, REMARKS = 20_000, 25  # characters of what a process printed, and notes, that are kept


@dataclass(frozen=True)
class Limits:
    """What a submission may use."""

    cell_seconds: float = 60.0  # one cell, on the wall clock
    check_seconds: float = 30.0  # all calls of one check
    total_seconds: float = 300.0  # the whole notebook, with all that is run again; without the start of processes
    memory_mb: int = 4096  # address space of a process of the student's, and what all of them hold together
    output_kb: int = 1024  # of all that is printed


@dataclass(frozen=True)
class Cell:
    """A code cell of the submission."""

    source: str
    place: str  # for messages: "cell 7"
    grades: str = ""  # the exercise, for a grade cell; its source is not looked at
    answers: str = ""  # the exercise, for an answer cell


@dataclass
class Outcome:
    """What comes out of one submission: everything that the report shows."""

    student: str
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)  # kit.Verdict, by exercise
    notes: list[str] = field(default_factory=list)  # what happened to cells, one plain line each
    output: str = ""  # the first of what was printed
    protections: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)  # of the answer cells, by exercise
    seconds: float = 0.0
    processes: int = 0  # how many were needed

    @property
    def points(self) -> int:
        """In all."""
        return sum(verdict["points"] for verdict in self.verdicts.values())


class Gone(kit.Wrong):
    """The student's process ended, or had to be ended."""


# ------------------------------------------------------------------------------------------------- the notebook


def cells(text: bytes | str) -> list[Cell]:
    """The code cells of a notebook, read without trust; of an older format too.

    Raises:
        ValueError: it is not a notebook; the message is for the student.
    """
    try:
        read = json.loads(text)
        if "worksheets" in read:
            read = json.loads(json.dumps(nbformat.convert(nbformat.from_dict(read), 4)))
        listed = read["cells"]
    except Exception:  # nbformat's, on what only looks like a notebook, are of every kind
        raise ValueError("the file is not a notebook") from None
    found = []
    for number, cell in enumerate(listed if type(listed) is list else [], 1):
        if type(cell) is not dict or cell.get("cell_type") != "code":
            continue
        source = cell.get("source", "")
        source = "".join(map(str, source)) if type(source) is list else str(source)
        meta = cell.get("metadata")
        meta = meta.get("nbgrader") if type(meta) is dict else None
        meta = meta if type(meta) is dict else {}
        name = str(meta.get("grade_id", ""))
        graded, answered = meta.get("grade") is True, meta.get("solution") is True
        found.append(
            Cell(source, f"cell {number}", name if graded else "", name.removesuffix("-answer") if answered else "")
        )
    return found


# -------------------------------------------------------------------------------------------- the student's process


class Student:
    """A running process with a student's notebook; use it in a `with` statement.

    Args:
        hidden: files and folders that it must not see.
        seconds: for all its cells.
        folder: its own, without a fence; empty where the fence gives it one.

    Attributes:
        peer: our side of the wire.
        why: the reason why it was ended, or "".
    """

    def __init__(self, limits: Limits, hidden: Sequence[str], seconds: float, folder: str = ""):
        self.limits, self.why, self.output, self.printed = limits, "", bytearray(), 0
        ours, theirs = socket.socketpair()
        bounds = sandbox.Bounds(memory=limits.memory_mb << 20, seconds=int(limits.total_seconds) + 1)
        channel = str(theirs.fileno())
        command = [sys.executable, "-u", "-P", "-s", "-m", "gmbook.course.student", channel]
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
        self.peer = Peer(ours)
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
        self.peer.channel.connection.close()

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
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # nobody has waited for it: the number is still its own
        except (ProcessLookupError, PermissionError):
            pass

    def ask(self, function: int, *arguments: Any, seconds: float) -> Any:
        """Call one of the student's process's own functions.

        Raises:
            Gone: it ended, took too long, or sent what is no answer.
        """
        self.peer.channel.deadline = min(self.last, time.monotonic() + seconds)
        try:
            return self.peer.call(function, arguments, {})
        except Broken as broken:
            raise self.gone(broken) from None

    def gone(self, broken: Broken) -> Gone:
        """End it, and say in plain words why."""
        late = time.monotonic() >= self.peer.channel.deadline
        time.sleep(0.05)  # for the other thread to say that too much was printed
        over = "all the time that a submission has was used up" if time.monotonic() >= self.last else "it took too long"
        ended = "it ended the process in which it ran" if "gone" in f"{broken}" or "reset" in f"{broken}" else ""
        self.end(over if late else ended or f"it talked to the grader itself ({broken})")
        return Gone(f"Stopped: {self.why}.")


def environment(folder: str) -> dict[str, str]:
    """The few variables that the student's process has."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(sandbox.PACKAGE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": folder,
        "TMPDIR": folder,
        "MPLCONFIGDIR": folder,
        "USER": "student",
        "MPLBACKEND": "Agg",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
    }


# -------------------------------------------------------------------------------------------------------- judging


class Judge:
    """Takes one submission through its exercises."""

    def __init__(self, student: str, listed: list[Cell], exercises: dict[str, kit.Exercise], limits: Limits):
        self.cells, self.exercises, self.limits = listed, exercises, limits
        self.outcome = Outcome(student)
        self.printed: list[str] = []
        self.student: Student | None = None  # that runs now
        self.dropped: set[int] = set()
        self.used = 0.0
        for cell in listed:
            if cell.answers in exercises:
                self.outcome.sources[cell.answers] = cell.source

    def left(self) -> float:
        """Seconds that the submission still has."""
        return self.limits.total_seconds - self.used

    def judge(self, start: Callable[[float], Student]) -> Outcome:
        """All exercises; as many processes as it takes, each started with the seconds that are left."""
        while self.open() and self.left() > 0:
            self.outcome.processes += 1
            with start(self.left()) as student:
                try:
                    self.go_through(student)
                except Gone:
                    pass
                self.used += time.monotonic() - student.began
            self.printed.append(student.output.decode(errors="replace"))
        for name in self.open():
            self.give(name, "The time that a submission has was used up before this exercise.", answered=False)
        self.outcome.verdicts = {name: self.outcome.verdicts[name] for name in self.exercises}
        self.outcome.output = "\n[the cells once more, without the one that was stopped]\n".join(self.printed)
        self.outcome.seconds = self.used
        return self.outcome

    def open(self) -> list[str]:
        """The exercises without a verdict."""
        return [name for name in self.exercises if name not in self.outcome.verdicts]

    def go_through(self, student: Student) -> None:
        """Run the cells, examine exercises on the way and the rest at the end.

        Raises:
            Gone: the process ended; what was under way then is settled.
        """
        for place, cell in enumerate(self.cells):
            if not self.open():
                return
            if cell.grades:
                if cell.grades in self.open():
                    self.examine(student, cell.grades, at_the_end=False)
            elif place not in self.dropped:
                self.run(student, place)
        for name in self.open():
            self.examine(student, name, at_the_end=True)

    def run(self, student: Student, place: int) -> None:
        """Run a cell. One that ends its process is left out next time."""
        cell = self.cells[place]
        try:
            trouble = student.ask(RUN, cell.source, cell.place, seconds=self.limits.cell_seconds)
        except Gone as gone:
            self.dropped.add(place)
            self.note(cell, str(gone))
            raise
        except Exception as error:  # whatever the other side made of our function
            trouble = f"{type(error).__name__}: {error}"
        if type(trouble) is str and not trouble.startswith("NotImplementedError"):
            self.note(cell, f"It raised {kit.shortened(trouble)}")

    def note(self, cell: Cell, text: str) -> None:
        """Keep what happened to a cell, once."""
        line = f"{cell.place}{f' ({cell.answers})' if cell.answers else ''}: {text}"
        if len(self.outcome.notes) == REMARKS:
            self.outcome.notes.append("… and more")
        if len(self.outcome.notes) < REMARKS and line not in self.outcome.notes:
            self.outcome.notes.append(line)

    def examine(self, student: Student, name: str, at_the_end: bool) -> None:
        """Let the check of the installed package look at the answer.

        Raises:
            Gone: the process ended; the exercise has its verdict.
        """
        exercise, gone = self.exercises[name], None
        try:
            seconds = self.limits.check_seconds
            student.ask(READY, secrets.randbits(48), exercise.kind != "experiment", seconds=seconds)
            answer = student.ask(ANSWER, name, seconds=seconds)
            if answer is None and not at_the_end:
                return
            student.peer.channel.deadline = min(student.last, time.monotonic() + seconds)
            self.outcome.verdicts[name] = asdict(exercise.examine(guarded(answer, student)))
        except Gone as stopped:
            gone = stopped
            if name not in self.outcome.verdicts:
                self.give(name, str(stopped), answered=True)
        except Broken as broken:  # while a gradient was asked for
            gone = student.gone(broken)
            self.give(name, str(gone), answered=True)
        except Exception as error:  # of the check, on values that it did not expect: never the student's points
            self.give(name, f"The check could not make sense of the answer ({type(error).__name__}).", answered=True)
        if gone or student.why:
            raise gone or Gone(student.why)

    def give(self, name: str, hint: str, answered: bool) -> None:
        """No points, for this reason."""
        verdict = kit.Verdict(name, self.exercises[name].points, 0, answered, hint, 0)
        self.outcome.verdicts[name] = asdict(verdict)


def guarded(value: Any, student: Student) -> Any:
    """The answer, with every function in it turning a broken wire into a wrong answer."""
    if isinstance(value, StandIn):

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return guarded(value(*arguments, **options), student)
            except Broken as broken:
                raise student.gone(broken) from None

        return call
    if type(value) in (list, tuple):
        return type(value)(guarded(part, student) for part in value)
    return {key: guarded(part, student) for key, part in value.items()} if type(value) is dict else value


def clean(value: Any) -> Any:
    """Text, wherever it is within, without what a terminal obeys, a file cannot hold, or nobody can see."""
    if type(value) is str:
        kept = (c if c.isprintable() or c in "\n\t" else " " if c.isspace() else "\ufffd" for c in value)
        return "".join(kept)
    if type(value) is list:
        return [clean(part) for part in value]
    return {clean(key): clean(part) for key, part in value.items()} if type(value) is dict else value


def judged(job: dict[str, Any]) -> Outcome:
    """The outcome of a job: {"notebook": text, "student", "checks", "limits", "hidden", "fenced"}."""
    exercises = kit.exercises(importlib.import_module(f"gmbook.course.checks.{job['checks']}"))
    limits, listed, why = Limits(**job["limits"]), [], ""
    try:
        listed = cells(job["notebook"])
    except ValueError as error:
        why = str(error)
    judge = Judge(job["student"], listed, exercises, limits)
    judge.outcome.protections = ["fence"] if job["fenced"] else []
    if why:
        judge.outcome.notes.append(why)
        for name in exercises:
            judge.give(name, f"Nothing was graded: {why}.", answered=False)
        return judge.outcome

    folder = "" if job["fenced"] else tempfile.mkdtemp(prefix="gmbook-student-")

    def start(seconds: float) -> Student:
        judge.student = Student(limits, job["hidden"], seconds, folder and tempfile.mkdtemp(dir=folder))
        return judge.student

    def ended() -> None:
        if judge.student:
            judge.student.end("the grader was stopped")
        shutil.rmtree(folder, ignore_errors=True)

    def wait() -> None:
        sys.stdin.buffer.read()
        ended()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    try:
        outcome = judge.judge(start)
    finally:
        ended()
    if not any(cell.grades in exercises or cell.answers in exercises for cell in listed):
        outcome.notes.append("none of its cells belongs to this sheet: is it another one?")
    return outcome


def main() -> None:
    """One job; the outcome goes to standard output, as ASCII."""
    job = json.loads(sys.stdin.buffer.readline())
    print(json.dumps(clean(asdict(judged(job)))), flush=True)
    os._exit(0)  # without waiting for the thread that waits


if __name__ == "__main__":
    main()
