"""`gmbook course release`, `gmbook course grade` and `gmbook course solutions`."""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from gmbook.course import grading, handout, kit, sheets
from gmbook.course.judge import Limits
from gmbook.train.checkpoint import write_atomically


def release(arguments: argparse.Namespace) -> int:
    """`gmbook course release`: the folder for students."""
    print(handout.release(sheets.find(arguments.sheet), arguments.out, arguments.wheel))
    return 0


def solutions(arguments: argparse.Namespace) -> int:
    """`gmbook course solutions`: what students get afterwards."""
    print(handout.solutions(sheets.find(arguments.sheet), arguments.out))
    return 0


def grade(arguments: argparse.Namespace) -> int:
    """`gmbook course grade`: scores.csv, and JSON and a page for each student."""
    found = grading.submissions(arguments.submissions)
    limits = Limits(
        arguments.cell_seconds,
        arguments.check_seconds,
        arguments.total_seconds,
        arguments.memory_mb,
        arguments.output_kb,
    )
    if arguments.jobs < 1 or min(vars(limits).values()) <= 0:
        raise ValueError("--jobs and the limits must be above 0")
    sheet = arguments.sheet or grading.sheet_of(found)
    if not grading.checks_of(sheet):
        raise ValueError(f"there are no checks for {sheet!r} in the installed gmbook")
    exercises = kit.exercises(importlib.import_module(f"gmbook.course.checks.{grading.checks_of(sheet)}"))
    start, outcomes, warned = time.monotonic(), [], set()
    for outcome in grading.grade(found, sheet, arguments.out, limits, arguments.jobs):
        outcomes.append(outcome)
        points = sum(verdict["points"] for verdict in outcome["verdicts"].values())
        print(f"{outcome['student']:30} {points:3} points  {outcome['seconds']:4.0f} s  {' | '.join(outcome['notes'])}")
        warned |= {grading.missing(outcome)} - {""}
    write_atomically(arguments.out / "scores.csv", grading.scores(outcomes, exercises).encode())
    for lacking in warned:
        print(f"WARNING: this system does not give these protections: {lacking}. See the lecturer's guide.")
    failed = sum(not outcome["verdicts"] for outcome in outcomes)
    print(f"{len(outcomes)} submissions of {sheet} in {time.monotonic() - start:.0f} s; {arguments.out / 'scores.csv'}")
    if failed:
        raise RuntimeError(f"{failed} of them could not be graded, see the last column of scores.csv")
    return 0


def add_to(top: argparse.ArgumentParser) -> None:
    """The sub-commands of `gmbook course`."""
    commands = top.add_subparsers(required=True, metavar="ACTION")
    sub = commands.add_parser("release", help="make the students' folder of a sheet")
    sub.set_defaults(act=release)
    sub.add_argument("sheet", help="for example 06_ddpm")
    sub.add_argument("--out", type=Path, required=True, help="the folder to make")
    sub.add_argument("--wheel", default="", help="the package for students: a wheel file, or where they can fetch it")

    sub = commands.add_parser("solutions", help="make the folder to hand out afterwards: solutions, each explained")
    sub.set_defaults(act=solutions)
    sub.add_argument("sheet", help="for example 06_ddpm")
    sub.add_argument("--out", type=Path, required=True, help="the folder to make")

    sub = commands.add_parser("grade", help="grade submissions: scores.csv, and JSON and a page for each student")
    sub.set_defaults(act=grade)
    sub.add_argument("submissions", type=Path, nargs="+", help="notebooks, students' folders, or a folder of those")
    sub.add_argument("--out", type=Path, required=True, help="the folder for scores and reports")
    sub.add_argument("--sheet", help="which sheet it is; default: the one that the notebooks name")
    sub.add_argument("--jobs", type=int, default=2, help="submissions graded at a time; default %(default)s")
    limits = Limits()
    sub.add_argument("--cell-seconds", type=float, default=limits.cell_seconds, help="for a cell; default %(default)s")
    sub.add_argument("--check-seconds", type=float, default=limits.check_seconds, help="a check; default %(default)s")
    sub.add_argument("--total-seconds", type=float, default=limits.total_seconds, help="for all; default %(default)s")
    sub.add_argument("--memory-mb", type=int, default=limits.memory_mb, help="address space; default %(default)s")
    sub.add_argument("--output-kb", type=int, default=limits.output_kb, help="of printing; default %(default)s")
