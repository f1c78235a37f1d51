"""A whole class: good notebooks made by the solutions, and every odd thing that was ever handed in beside them.

GMBOOK_CLASS=30 takes thirty whole notebooks, as a term does; without it there are two short ones.
"""

from __future__ import annotations

import csv
import os
import time

import nbformat
from course.test_course_cli import odd_things
from course.test_grader import EVERY, SHEET, fence, notebook

from gmbook.cli import main
from gmbook.course import grading

__all__ = ["fence"]
WHOLE = int(os.environ.get("GMBOOK_CLASS", "0"))


def test_a_class_is_graded_within_ten_minutes(tmp_path, fence, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    wanted = odd_things(folder)
    if not WHOLE:  # what has no cells takes a process, too: one is enough
        wanted = {name: why for name, why in wanted.items() if why or name in ("wrong_sheet", "zipped")}
    made = SHEET.source() if WHOLE else notebook()
    made.metadata["gmbook"] = {"sheet": SHEET.name}
    good = [f"good {number}" for number in range(WHOLE or 2)]
    for name in good:
        (folder / f"{name}.ipynb").write_text(nbformat.writes(made))
    due = sum(exercise.points for exercise in SHEET.exercises.values()) if WHOLE else EVERY
    start = time.monotonic()
    only = [f"--only={name}" for name in (*wanted, *good)]
    assert main(["course", "grade", str(folder), "--out", str(out), "--jobs", "2", *only]) == 0
    seconds = time.monotonic() - start
    with capsys.disabled():
        print(f"\n{len(wanted)} odd and {len(good)} good submissions in {seconds:.0f} s")
    with open(out / "scores.csv", newline="") as table:
        got = {row["student"]: row for row in csv.DictReader(table)}
    assert sorted(got) == sorted([*(grading.unarmed(name) for name in wanted), *good])
    assert [got[name]["points"] for name in good] == [str(due)] * len(good)
    for name, why in wanted.items():
        row = got[grading.unarmed(name)]
        assert row["points"] == ("" if why or name == "wrong_sheet" else "0"), (name, row)
        assert why in row["remarks"]
    assert seconds < 600
