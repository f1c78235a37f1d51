"""Judges one submission: the student's cells run in a fenced process, the checks here, in one that nobody else touches.

    python -m gmbook.course.judge        (the job is a line of JSON on standard input, from `gmbook.course.grading`)

It ends, and the student's process with it, when standard input is closed: no killed grader leaves anything running.

The cells run in the notebook's order, all but the grade cells: an exercise is examined where its grade cell stands, as
the student saw it, or at the end if there is no such cell, or nothing has the exercise's name by then. Its answer is
what has its name at that moment; of several cells that define it the last one before counts. Where a cell or an answer
kills its process, floods it, or takes too long, a new process runs the other cells again, without that one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from gmbook.course import kit
from gmbook.course.process import ANSWER, READY, RUN, Gone, Limits, Student

REMARKS = 25  # notes that are kept


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


# ------------------------------------------------------------------------------------------------- the notebook


def cells(text: bytes | str) -> list[Cell]:
    """The code cells of a notebook, read without trust; of an older format too.

    Raises:
        ValueError: it is not a notebook; the message is for the student.
    """
    try:
        read = json.loads(text)
        if "worksheets" in read:
            import nbformat  # here: it takes longer than all else that a judge imports

            read = json.loads(json.dumps(nbformat.convert(nbformat.from_dict(read), 4)))
        listed = read["cells"]
    except Exception:  # nbformat's, on what only looks like a notebook, are of every kind
        raise ValueError("the file is not a notebook") from None
    found = []
    for number, cell in enumerate(listed if type(listed) is list else [], 1):
        if within(cell, "cell_type") != "code":
            continue
        source, meta = cell.get("source", ""), within(within(cell, "metadata"), "nbgrader")
        name = str(within(meta, "grade_id"))
        graded, answered = (within(meta, role) is True for role in ("grade", "solution"))
        source = "".join(map(str, source)) if type(source) is list else str(source)
        answers = name.removesuffix("-answer") if answered else ""
        found.append(Cell(source, f"cell {number}", name if graded else "", answers))
    return found


def within(value: Any, key: str) -> Any:
    """What a dict has under a key; None where it has nothing, or is no dict."""
    return value.get(key) if type(value) is dict else None


# -------------------------------------------------------------------------------------------------------- judging


class Judge:
    """Takes one submission through its exercises.

    Args:
        job: {"notebook": text, "student", "checks", "limits", "hidden", "fenced"}.
    """

    def __init__(self, job: dict[str, Any]):
        self.exercises = kit.exercises(job["checks"])
        self.job, self.limits = job, Limits(**job["limits"])
        self.outcome = Outcome(job["student"], protections=["fence"] if job["fenced"] else [])
        self.folder = "" if job["fenced"] else tempfile.mkdtemp(prefix="gmbook-student-")  # of all its processes
        self.cells: list[Cell] = []
        self.student: Student | None = None  # that runs now
        self.dropped: set[int] = set()

    def judge(self) -> Outcome:
        """All exercises; as many processes as it takes, each started with the seconds that are left."""
        outcome, printed = self.outcome, []
        try:
            self.cells = cells(self.job["notebook"])
        except ValueError as error:
            for name in self.exercises:
                self.give(name, f"Nothing was graded: {error}.", answered=False)
            outcome.notes.append(str(error))
            return outcome
        outcome.sources = {cell.answers: cell.source for cell in self.cells if cell.answers in self.exercises}
        while self.open() and outcome.seconds < self.limits.total_seconds:
            outcome.processes += 1
            left = self.limits.total_seconds - outcome.seconds
            folder = self.folder and tempfile.mkdtemp(dir=self.folder)
            self.student = Student(self.limits, self.job["hidden"], left, folder)
            with self.student as student:
                with contextlib.suppress(Gone):
                    self.go_through(student)
                outcome.seconds += time.monotonic() - student.began
            self.student = None
            printed.append(student.output.decode(errors="replace"))
        for name in self.open():
            self.give(name, "The time that a submission has was used up before this exercise.", answered=False)
        outcome.verdicts = {name: outcome.verdicts[name] for name in self.exercises}
        outcome.output = "\n[the cells once more, without the one that was stopped]\n".join(printed)
        if not any({cell.grades, cell.answers} & set(self.exercises) for cell in self.cells):
            outcome.notes.append("none of its cells belongs to this sheet: is it another one?")
        return outcome

    def wait(self) -> None:
        """End at the end of standard input, and the student's process too."""
        sys.stdin.buffer.read()
        if self.student:
            self.student.end("the grader was stopped")
        shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(1)

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
        exercise, seconds = self.exercises[name], self.limits.check_seconds
        try:
            student.ask(READY, secrets.randbits(48), exercise.kind != "experiment", seconds=seconds)
            answer = student.ask(ANSWER, name, seconds=seconds)
            if answer is None and not at_the_end:
                return
            student.allow(seconds)
            self.outcome.verdicts[name] = asdict(exercise.examine(answer))
        except Gone as gone:
            self.give(name, str(gone), answered=True)
        except Exception as error:  # of the check, on values that it did not expect: never the student's points
            self.give(name, f"The check could not make sense of the answer ({type(error).__name__}).", answered=True)
        if student.why:
            raise Gone(student.why)

    def give(self, name: str, hint: str, answered: bool) -> None:
        """No points, for this reason."""
        verdict = kit.Verdict(name, self.exercises[name].points, 0, answered, hint, 0)
        self.outcome.verdicts[name] = asdict(verdict)


def clean(value: Any) -> Any:
    """Text, wherever it is within, without what a terminal obeys, a file cannot hold, or nobody can see."""
    if type(value) is str:
        kept = (c if c.isprintable() or c in "\n\t" else " " if c.isspace() else "\ufffd" for c in value)
        return "".join(kept)
    if type(value) is list:
        return [clean(part) for part in value]
    return {clean(key): clean(part) for key, part in value.items()} if type(value) is dict else value


def main() -> None:
    """One job; the outcome goes to standard output, as ASCII."""
    judge = Judge(json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=judge.wait, daemon=True).start()
    try:
        print(json.dumps(clean(asdict(judge.judge()))), flush=True)
    finally:
        shutil.rmtree(judge.folder, ignore_errors=True)
    os._exit(0)  # without waiting for the thread that waits


if __name__ == "__main__":
    main()
