"""Judges one submission: the student's cells run in a fenced process, the checks here, in one that nobody else touches.

    python -m gmbook.course.judge JOB        (JOB is JSON; `gmbook.course.grading` writes it)

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
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gmbook.course import kit, sandbox
from gmbook.course.wire import Broken, Peer, StandIn

RUN, READY, ANSWER, DONE = range(4)  # the functions of gmbook.course.student.Notebook
START_SECONDS = 300.0  # for a student's process to be there, on a busy machine


@dataclass(frozen=True)
class Limits:
    """What a submission may use."""

    cell_seconds: float = 60.0  # one cell, on the wall clock
    check_seconds: float = 30.0  # all calls of one check
    total_seconds: float = 300.0  # the whole notebook, with all that is run again; without the start of processes
    memory_mb: int = 4096  # address space of the student's process
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


def cells(path: Path) -> list[Cell]:
    """The code cells of a notebook file, read without trust.

    Raises:
        ValueError: it is not a notebook; the message is for the student.
    """
    if path.stat().st_size > 50 << 20:
        raise ValueError("the file is larger than 50 MB")
    try:
        listed = json.loads(path.read_bytes())["cells"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("the file is not a notebook (of format 4)") from None
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

    Attributes:
        peer: our side of the wire.
        why: the reason why it was ended, or "".
    """

    def __init__(self, limits: Limits, hidden: Sequence[str], seconds: float):
        self.limits, self.why, self.output, self.printed = limits, "", bytearray(), 0
        self.folder = Path(tempfile.mkdtemp(prefix="gmbook-student-"))
        if os.geteuid() == 0:
            self.folder.chmod(0o777)  # the sandbox may turn root into nobody
        ours, theirs = socket.socketpair()
        status, told = os.pipe()
        bounds = sandbox.Bounds(memory=limits.memory_mb << 20, seconds=int(limits.total_seconds) + 1)
        order = {
            "channel": theirs.fileno(),
            "status": told,
            "folder": str(self.folder),
            "hidden": list(hidden),
            "bounds": asdict(bounds),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", "gmbook.course.student", json.dumps(order)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs.fileno(), told),
            cwd=self.folder,
            env=environment(self.folder),
            start_new_session=True,
        )
        theirs.close()
        os.close(told)
        with open(status) as answer:
            text = answer.read()
        if not text:
            printed = self.process.communicate()[0].decode(errors="replace")
            raise RuntimeError(f"the student's process does not start: {kit.shortened(printed)}")
        self.number, self.protections = json.loads(text)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.peer = Peer(ours)
        self.last = time.monotonic() + START_SECONDS
        self.ask(READY, 0, False, seconds=START_SECONDS)  # torch is imported: nobody's time but ours
        self.began = time.monotonic()
        self.last = self.began + seconds

    def __enter__(self) -> Student:
        return self

    def __exit__(self, *_: object) -> None:
        self.end("")
        self.process.wait()
        self.reader.join(5)
        self.peer.channel.connection.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self) -> None:
        """Take what it prints, keep the first of it, and end it when it is too much."""
        assert self.process.stdout is not None
        with self.process.stdout as printed:
            while more := os.read(printed.fileno(), 1 << 16):
                self.printed += len(more)
                self.output += more[: max(0, 20_000 - len(self.output))]
                if self.printed > self.limits.output_kb << 10:
                    self.end(f"more than {self.limits.output_kb} kB were printed")

    def end(self, why: str) -> None:
        """Kill it, and all that it started."""
        self.why = self.why or why
        ended = self.process.poll()
        if ended is not None and ended >= 0:
            return  # the one that waited for it saw it end, and its number may be another's by now
        for number in (self.number, self.process.pid):
            try:
                os.killpg(number, signal.SIGKILL)
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


def environment(folder: Path) -> dict[str, str]:
    """The few variables that the student's process has."""
    package = Path(kit.__file__).resolve().parents[2]
    kept = {name: os.environ[name] for name in ("PATH", "GMBOOK_DATA") if name in os.environ}
    return kept | {
        "PYTHONPATH": str(package),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "MPLCONFIGDIR": str(folder),
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
        self.dropped: set[int] = set()
        self.used = 0.0
        for cell in listed:
            if cell.answers in exercises:
                self.outcome.sources[cell.answers] = cell.source

    def left(self) -> float:
        """Seconds that the submission still has."""
        return self.limits.total_seconds - self.used

    def judge(self, hidden: Sequence[str]) -> Outcome:
        """All exercises; as many processes as it takes."""
        while self.open() and self.left() > 0:
            self.outcome.processes += 1
            with Student(self.limits, hidden, self.left()) as student:
                self.outcome.protections = student.protections
                try:
                    self.go_through(student)
                except Gone:
                    pass
                self.used += time.monotonic() - student.began
            self.outcome.output = self.outcome.output or student.output.decode(errors="replace")
        for name in self.open():
            self.give(name, "The time that a submission has was used up before this exercise.", answered=False)
        self.outcome.verdicts = {name: self.outcome.verdicts[name] for name in self.exercises}
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
        if line not in self.outcome.notes:
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
            verdict = exercise.examine(guarded(answer, student))
            self.outcome.verdicts[name] = asdict(verdict)
            if not student.why:
                student.ask(DONE, seconds=seconds)
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


def main() -> None:
    """One job: {"notebook", "student", "checks", "limits", "hidden"}; the outcome goes to standard output."""
    job = json.loads(sys.argv[1])
    exercises = kit.exercises(importlib.import_module(f"gmbook.course.checks.{job['checks']}"))
    try:
        listed = cells(Path(job["notebook"]))
    except ValueError as error:
        judge = Judge(job["student"], [], exercises, Limits())
        judge.outcome.notes.append(str(error))
        for name in exercises:
            judge.give(name, f"Nothing was graded: {error}.", answered=False)
        outcome = judge.outcome
    else:
        outcome = Judge(job["student"], listed, exercises, Limits(**job["limits"])).judge(job["hidden"])
    json.dump(asdict(outcome), sys.stdout)


if __name__ == "__main__":
    main()
