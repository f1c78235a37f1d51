"""Exercise sheets: the source with its solutions, and the student version that is made from it.

A sheet is `chapters/NN_name/exercises.ipynb` (made from `exercises.md`, see CONTRIBUTING.md). For each exercise it has
a solution cell and a grade cell, in nbgrader's metadata. What stands between the lines `### BEGIN SOLUTION` and
`### END SOLUTION` of a solution cell is the blank.
"""

from __future__ import annotations

import copy
import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nbformat
from nbformat import NotebookNode

from gmbook.course import kit

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
WHY = "# Why: "  # begins the explanation, the last lines of a solution
STUB = 'raise NotImplementedError("your answer here")'
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Sheet:
    """An exercise sheet, named like its chapter's folder, for example "06_ddpm"."""

    name: str
    folder: Path

    @property
    def text(self) -> Path:
        """The source that people edit."""
        return self.folder / "exercises.md"

    @property
    def notebook(self) -> Path:
        """The notebook that is made from it."""
        return self.folder / "exercises.ipynb"

    @property
    def checks(self) -> ModuleType:
        """The module with its checks."""
        return importlib.import_module(f"gmbook.course.checks.{self.name.partition('_')[2]}")

    @property
    def exercises(self) -> dict[str, kit.Exercise]:
        """Its exercises by name, in their order."""
        return kit.exercises(self.checks)

    def source(self) -> NotebookNode:
        """The notebook with its solutions."""
        return nbformat.read(self.notebook, as_version=4)

    def student(self) -> NotebookNode:
        """The notebook with blanks."""
        return blank(self.source())

    def explained(self) -> NotebookNode:
        """The notebook with its solutions, a cell of explanation below each."""
        notebook, cells = bare(self.source()), []
        for cell in notebook.cells:
            cells.append(cell)
            if BEGIN in cell.source:
                cell.source, why = solution(cell.source)
                cells.append(nbformat.v4.new_markdown_cell(f"**Why.** {why}", id=f"{cell.id}-why"))
        notebook.cells = cells
        return notebook


def sheets(root: Path = ROOT) -> list[Sheet]:
    """All sheets of the book, in its order. They lie in the repository, not in the installed package."""
    return [Sheet(path.parent.name, path.parent) for path in sorted(root.glob("chapters/*/exercises.ipynb"))]


def find(name: str, root: Path = ROOT) -> Sheet:
    """The sheet of a chapter, by the folder's name or the part after the number.

    Raises:
        ValueError: there is none of this name.
    """
    for sheet in sheets(root):
        if name in (sheet.name, sheet.name.partition("_")[2]):
            return sheet
    known = ", ".join(sheet.name for sheet in sheets(root))
    raise ValueError(
        f"no exercises for {name!r}; there are: {known}"
        if known
        else f"no exercise sheets under {root / 'chapters'}: releasing needs a clone of the repository"
    )


def of_cell(cell: NotebookNode) -> dict[str, object]:
    """nbgrader's metadata of a cell, empty where there are none."""
    return cell.metadata.get("nbgrader", {})


def bare(source: NotebookNode) -> NotebookNode:
    """A copy without outputs and counts, that no longer says it is half of a pair."""
    notebook = copy.deepcopy(source)
    notebook.metadata.pop("jupytext", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def blank(source: NotebookNode) -> NotebookNode:
    """The student version: bare, and the solutions cut out."""
    notebook = bare(source)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = cut(cell.source)
    return notebook


def solution(source: str) -> tuple[str, str]:
    """A solution cell's code without its markers, and its explanation, empty where there is none."""
    lines = [line for line in source.splitlines() if line.strip() not in (BEGIN, END)]
    code, _, why = "\n".join(lines).partition(WHY)
    return code.rstrip(), " ".join(line.strip().removeprefix("# ") for line in why.splitlines())


def cut(source: str) -> str:
    """A cell's source with the stub in place of each solution, indented like its first line.

    Raises:
        ValueError: the markers do not pair.
    """
    lines: list[str] = []
    within = False
    for line in source.splitlines():
        if line.strip() in (BEGIN, END):
            if within == (line.strip() == BEGIN):
                raise ValueError(f"the lines {BEGIN!r} and {END!r} do not pair in\n{source}")
            if not within:
                lines.append(line[: len(line) - len(line.lstrip())] + STUB)
            within = not within
        elif not within:
            lines.append(line)
    if within:
        raise ValueError(f"a line {END!r} is missing in\n{source}")
    return "\n".join(lines)


def page(text: str) -> str:
    """The website's page of a sheet, from its text: with blanks, and not executed."""
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    return f'---\n{head}\nmystnb:\n  execution_mode: "off"\n---\n{cut(body)}\n'


def problems(sheet: Sheet) -> list[str]:
    """What is wrong with the form of a sheet, one line each: cells against checks, metadata, markers."""
    found = []
    cells = [cell for cell in sheet.source().cells if cell.cell_type == "code"]
    ids = [str(of_cell(cell)["grade_id"]) for cell in cells if of_cell(cell)]
    if len(set(ids)) != len(ids):
        found.append("a grade_id occurs twice")
    due = [part for name in sheet.exercises for part in (f"{name}-answer", name)]
    if ids != due:
        found.append(f"the cells with nbgrader metadata are {ids}, the checks ask for {due}, in this order")
    for cell in cells:
        meta = of_cell(cell)
        marked = BEGIN in cell.source
        if marked != bool(meta.get("solution")):
            found.append(f"solution markers and `solution: true` go together, not so in\n{cell.source}")
        if not meta:
            continue
        name = str(meta["grade_id"])
        role = {"solution": True, "grade": False, "locked": False} if marked else GRADED
        if {**role, "schema_version": 3, "task": False} != {k: v for k, v in meta.items() if k not in VARYING}:
            found.append(f"{name}: nbgrader metadata must be as CONTRIBUTING.md shows them, not {dict(meta)}")
        if marked and not solution(cell.source)[1]:
            found.append(f"{name}: the solution does not end with an explanation, `{WHY}…`")
        if not marked and name in sheet.exercises:
            if cell.source.strip() != f"check.{name}({name})":
                found.append(f"{name}: the grade cell must be exactly `check.{name}({name})`")
            if meta.get("points") != sheet.exercises[name].points:
                found.append(
                    f"{name}: {meta.get('points')} points in the cell, {sheet.exercises[name].points} in checks"
                )
    return found


GRADED = {"solution": False, "grade": True, "locked": True}
VARYING = {"grade_id", "points"}
