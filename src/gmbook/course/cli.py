"""`gmbook course release`, `gmbook course grade` and `gmbook course solutions`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from gmbook.course import grading, handout, intake, judge, kit, sandbox, sheets
from gmbook.course.process import Limits


def release(arguments: argparse.Namespace) -> int:
    """`gmbook course release`: the folder for students."""
    print(handout.release(sheets.find(arguments.sheet), arguments.out, arguments.wheel))
    return 0


def solutions(arguments: argparse.Namespace) -> int:
    """`gmbook course solutions`: what students get afterwards."""
    print(handout.solutions(sheets.find(arguments.sheet), arguments.out))
    return 0


def grade(arguments: argparse.Namespace) -> int:
    """`gmbook course grade`: scores.csv, JSON and a page for each student, and what learning platforms take back."""
    if sys.platform == "win32":
        raise RuntimeError("the grader runs on Linux, and without a fence on macOS: on Windows use WSL 2")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as with Ctrl-C: nothing is left running
    found = intake.collect(arguments.submissions, without=arguments.out.resolve())
    limits = Limits(**{limit.name: getattr(arguments, limit.name) for limit in fields(Limits)})
    if arguments.jobs < 1 or min(vars(limits).values()) <= 0:
        raise ValueError("--jobs and the limits must be above 0")
    sheet = arguments.sheet or grading.sheet_of(found.submissions)
    if not grading.checks_of(sheet):
        raise ValueError(f"there are no checks for {sheet!r} in the installed gmbook")
    if arguments.roster:
        found.submissions += intake.compare(found, intake.roster(arguments.roster))
    chosen = [s for s in found.submissions if not arguments.only or s.student in arguments.only]
    if len(chosen) < len(arguments.only):
        raise ValueError(f"--only: there is no submission of {' or '.join(arguments.only)}, as scores.csv names them")
    lacking = ["all of the fence (--unfenced)"] if arguments.unfenced else sandbox.check()
    start = time.monotonic()
    hidden = [path.absolute() for path in arguments.submissions]
    grader = grading.Grader(sheet, arguments.out, limits, hidden, fenced=not arguments.unfenced)
    again = arguments.again or bool(arguments.only)
    count = failed = ungraded = 0
    with contextlib.closing(grader.grade(chosen, arguments.jobs, again)) as outcomes:
        for submission, outcome in outcomes:
            points = sum(verdict["points"] for verdict in outcome["verdicts"].values())
            remarks = kit.shortened(" | ".join(outcome["notes"]))
            say(f"{submission.student:30} {points:3} points  {outcome['seconds']:4.0f} s  {remarks}")
            count, ungraded = count + 1, ungraded + (not outcome["verdicts"])
            failed += "the grader itself failed" in remarks
    left = [dict(zip(("file", "reason"), map(grading.unarmed, pair))) for pair in found.left]
    grading.save(arguments.out / "not_graded.csv", left, ["file", "reason"])
    made = grading.export(grader.table, found, sheet)
    seconds, before = time.monotonic() - start, len(chosen) - count
    say(f"{count} submissions of {sheet} in {seconds:.0f} s; {before} more were graded before")
    say(f"{ungraded} not graded, see the remarks; {len(left)} files were left aside, see not_graded.csv")
    say(f"{arguments.out / 'scores.csv'}, {', '.join(made)}")
    if lacking:
        say(f"WARNING: this system does not give {'; '.join(lacking)}. See the lecturer's guide.")
    if failed:
        raise RuntimeError(f"{failed} could not be graded, which is not their fault: see the remarks in scores.csv")
    return 0


def say(text: str) -> None:
    """Print, whatever the terminal's encoding can show; nothing in it is obeyed."""
    encoding = sys.stdout.encoding or "utf-8"
    print(judge.clean(text).encode(encoding, "replace").decode(encoding), flush=True)


def add_to(top: argparse.ArgumentParser) -> None:
    """The sub-commands of `gmbook course`."""
    commands = top.add_subparsers(required=True, metavar="ACTION")

    def command(act: Callable[[argparse.Namespace], int], told: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(act.__name__, help=told)
        sub.set_defaults(act=act)
        sub.add_argument("--out", type=Path, required=True, help="the folder to make")
        return sub

    sub = command(release, "make the students' folder of a sheet")
    sub.add_argument("sheet", help="for example 06_ddpm")
    sub.add_argument("--wheel", default="", help="the package for students: a wheel file, or where they can fetch it")

    sub = command(solutions, "make the folder to hand out afterwards: solutions, each explained")
    sub.add_argument("sheet", help="for example 06_ddpm")

    sub = command(grade, "grade submissions: scores.csv, and JSON and a page for each student")
    told = "notebooks, students' folders, or a folder or zip of those"
    sub.add_argument("submissions", type=Path, nargs="+", help=told)
    sub.add_argument("--sheet", help="which sheet it is; default: the one that the notebooks name")
    sub.add_argument("--roster", type=Path, help="a CSV file of who should have handed in: a column 'student', or 'id'")
    told = "grade this student, again if need be"
    sub.add_argument("--only", action="append", default=[], metavar="STUDENT", help=told)
    sub.add_argument("--again", action="store_true", help="grade all again, not only what is new or changed")
    sub.add_argument("--unfenced", action="store_true", help="without bubblewrap: the cells may do what you may do")
    sub.add_argument("--jobs", type=int, default=2, help="submissions graded at a time; default %(default)s")
    for limit in fields(Limits):
        told, flag = f"{limit.metadata['help']}; default %(default)s", f"--{limit.name.replace('_', '-')}"
        sub.add_argument(flag, type=type(limit.default), default=limit.default, help=told)
