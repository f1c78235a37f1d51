"""Every exercise sheet, found by its file: full points for the solution, none for blanks, none for any mutant.

For a sheet `chapters/NN_name/exercises.ipynb` the checks are `src/gmbook/course/checks/name.py` and the mutants
`tests/course/answers/name.py`: there a class named like each exercise holds answers, of which those named `right_…`
are right (by another road than the sheet's solution) and all others wrong.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from gmbook.course import sheets
from gmbook.course.cells import Cells

matplotlib.use("Agg")
HERE = Path(__file__).parent
SHEETS = sheets.sheets()
CHECK_SECONDS = {"derive": 0.5, "code": 0.5, "diagnose": 0.5, "experiment": 10.0}  # of CPU, on a quiet machine
REPEATS = int(os.environ.get("GMBOOK_REPEATS", "3"))  # of each kept answer: `make test-answers` takes a hundred
SLACK = 3  # a loaded machine's caches and clock


@functools.cache
def answers(sheet: sheets.Sheet) -> dict[str, dict[str, Any]]:
    """The kept answers of a sheet: {exercise: {name: answer}}."""
    path = HERE / "answers" / f"{sheet.name.partition('_')[2]}.py"
    spec = importlib.util.spec_from_file_location(f"answers_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {
        name: {key: value for key, value in vars(cls).items() if not key.startswith("_")}
        for name, cls in classes.items()
        if cls.__module__ == spec.name
    }


def executed(notebook, skip_grades: bool) -> dict[str, Any]:
    """The namespace after running a notebook's code cells in order; a cell that raises is passed over."""
    space: dict[str, Any] = {"__name__": "__main__"}
    cells = Cells(space)
    for cell in notebook.cells:
        if cell.cell_type == "code" and not (skip_grades and sheets.of_cell(cell).get("grade")):
            try:
                cells.run(cell.source, sheets.of_cell(cell).get("grade_id", "cell"))
            except NotImplementedError:  # a blank
                space.setdefault("blanks", []).append(cell)
            except NameError:  # what a blank did not define
                assert space.get("blanks"), cell.source
    return space


KEPT = [(sheet, exercise, name) for sheet in SHEETS for exercise, found in answers(sheet).items() for name in found]
every_sheet = pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)


GRADED = {"solution": False, "grade": True, "locked": True}
SOLVED = {"solution": True, "grade": False, "locked": False}


def problems(sheet: sheets.Sheet) -> list[str]:
    """What is wrong with the form of a sheet, one line each: cells against checks, metadata, markers."""
    cells = [cell for cell in sheet.source().cells if cell.cell_type == "code"]
    ids = [sheets.of_cell(cell)["grade_id"] for cell in cells if sheets.of_cell(cell)]
    due = [part for name in sheet.exercises for part in (f"{name}-answer", name)]
    found = (
        [f"the cells with nbgrader metadata are {ids}, the checks ask for {due}, in this order"] if ids != due else []
    )
    for cell in cells:
        meta, marked = sheets.of_cell(cell), sheets.BEGIN in cell.source
        if marked != bool(meta.get("solution")):
            found.append(f"solution markers and `solution: true` go together, not so in\n{cell.source}")
        if not meta:
            continue
        name, exercise = meta["grade_id"], sheet.exercises.get(meta["grade_id"])
        role = {**(SOLVED if marked else GRADED), "schema_version": 3, "task": False, "grade_id": name}
        if dict(meta) != role | ({"points": exercise.points} if exercise and not marked else {}):
            found.append(f"{name}: nbgrader metadata must be as CONTRIBUTING.md shows them, not {dict(meta)}")
        if marked and not sheets.solution(cell.source)[1]:
            found.append(f"{name}: the solution does not end with an explanation, `{sheets.WHY}…`")
        if not marked and cell.source.strip() != f"check.{name}({name})":
            found.append(f"{name}: the grade cell must be exactly `check.{name}({name})`")
    return found


@every_sheet
def test_form(sheet):
    """Cells, checks, points and nbgrader metadata agree; the kept answers name the sheet's exercises."""
    assert problems(sheet) == []
    assert list(answers(sheet)) == list(sheet.exercises)
    assert all(1 <= exercise.stars <= 3 and exercise.points > 0 for exercise in sheet.exercises.values())
    assert 8 <= len(sheet.exercises) <= 10
    assert {exercise.kind for exercise in sheet.exercises.values()} == {"derive", "code", "diagnose", "experiment"}


@every_sheet
def test_at_least_five_mutants_and_another_right_answer(sheet):
    for exercise, kept in answers(sheet).items():
        wrong = [name for name in kept if not name.startswith("right_")]
        assert len(wrong) >= 5, f"{exercise}: {len(wrong)} wrong answers, at least 5 are due"
        assert len(kept) > len(wrong), f"{exercise}: no second right answer (right_…)"


@every_sheet
def test_solutions_get_full_points(sheet, capsys):
    began = time.process_time()
    space = executed(sheet.source(), skip_grades=True)
    assert "blanks" not in space
    total = 0
    for name, exercise in sheet.exercises.items():
        start = time.process_time()
        verdict = exercise.examine(space[name])
        seconds = time.process_time() - start
        assert verdict.right, str(verdict)
        assert seconds < SLACK * CHECK_SECONDS[exercise.kind], f"{name}: its check takes {seconds:.1f} s"
        total += verdict.points
        with capsys.disabled():
            print(f"\n{sheet.name}.{name}: {verdict.points} points, check {seconds:.2f} s", end="")
    assert total == sum(exercise.points for exercise in sheet.exercises.values())
    seconds = time.process_time() - began
    with capsys.disabled():
        print(f"\n{sheet.name}: {seconds:.0f} s in all", end="")
    assert seconds < 90


@every_sheet
def test_blanks_get_none(sheet):
    """The student version runs up to its blanks, and no check is passed by one."""
    student = sheet.student()
    assert not any(sheets.BEGIN in cell.source or sheets.END in cell.source for cell in student.cells)
    space = executed(student, skip_grades=True)
    for name, exercise in sheet.exercises.items():
        verdict = exercise.examine(space.get(name))
        assert verdict.points == 0 and not verdict.answered, str(verdict)


@every_sheet
def test_the_website_shows_blanks(sheet):
    shown = sheets.page(sheet.text.read_text(encoding="utf-8"))
    assert sheets.BEGIN not in shown and shown.count(sheets.STUB) == len(sheet.exercises)
    assert 'execution_mode: "off"' in shown.split("---")[1]


@pytest.mark.parametrize(("sheet", "exercise", "name"), KEPT, ids=lambda v: getattr(v, "name", v))
def test_kept_answer(sheet, exercise, name):
    """A right one gets full points, a wrong one none, several times each with fresh inputs."""
    for _ in range(REPEATS):
        verdict = sheet.exercises[exercise].examine(answers(sheet)[exercise][name])
        assert verdict.right == name.startswith("right_"), f"seed {verdict.seed}: {verdict}"
        assert verdict.right or verdict.hint


@every_sheet
def test_kill_rate(sheet, capsys):
    """The share of mutants that get no points, with one hint each: 100 %."""
    killed, lines = [], []
    for exercise, kept in answers(sheet).items():
        for name, answer in kept.items():
            if not name.startswith("right_"):
                verdict = sheet.exercises[exercise].examine(answer)
                killed.append(verdict.points == 0)
                lines.append(f"  {exercise}.{name}: {verdict.hint or 'SURVIVES'}")
    with capsys.disabled():
        print(f"\n{sheet.name}: {sum(killed)} of {len(killed)} mutants killed", *lines, sep="\n")
    assert all(killed), [line for line in lines if "SURVIVES" in line]
