"""Exercise sheets: the source with its solutions, and the student version that is made from it.

A sheet is `chapters/NN_name/exercises.ipynb` (made from `exercises.md`, see CONTRIBUTING.md). For each exercise it has
a solution cell and a grade cell, in nbgrader's metadata. What stands between the lines `### BEGIN SOLUTION` and
`### END SOLUTION` of a solution cell is the blank.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from gmbook.course import kit

if TYPE_CHECKING:  # its import takes seconds, and no command waits for them but those that make notebooks
    from nbformat import NotebookNode

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
BLANK = re.compile(rf"^([ \t]*){BEGIN}[ \t]*\n(?:.*\n)*?[ \t]*{END}[ \t]*$", re.MULTILINE)
WHY = "# Why: "  # begins the explanation, the last lines of a solution
STUB = 'raise NotImplementedError("your answer here")'
ROOT = Path(__file__).resolve().parents[3]


class Sheet:
    """An exercise sheet, named like its chapter's folder, for example "06_ddpm".

    Attributes:
        text: the source that people edit.
        notebook: the notebook that is made from it.
    """

    def __init__(self, folder: Path):
        self.name, self.text, self.notebook = folder.name, folder / "exercises.md", folder / "exercises.ipynb"

    @property
    def exercises(self) -> dict[str, kit.Exercise]:
        """Its exercises by name, in their order."""
        return kit.exercises(self.name.partition("_")[2])

    def source(self) -> NotebookNode:
        """The notebook with its solutions."""
        import nbformat

        return nbformat.read(self.notebook, as_version=4)

    def student(self) -> NotebookNode:
        """The notebook with blanks."""
        notebook = bare(self.source())
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = cut(cell.source)
        return notebook

    def explained(self) -> NotebookNode:
        """The notebook with its solutions, a cell of explanation below each."""
        from nbformat.v4 import new_markdown_cell

        notebook, cells = bare(self.source()), []
        for cell in notebook.cells:
            cells.append(cell)
            if BEGIN in cell.source:
                cell.source, why = solution(cell.source)
                cells.append(new_markdown_cell(f"**Why.** {why}", id=f"{cell.id}-why"))
        notebook.cells = cells
        return notebook


def sheets() -> list[Sheet]:
    """All sheets of the book, in its order. They lie in the repository, not in the installed package."""
    return [Sheet(path.parent) for path in sorted(ROOT.glob("chapters/*/exercises.ipynb"))]


def find(name: str) -> Sheet:
    """The sheet of a chapter, by the folder's name or the part after the number.

    Raises:
        ValueError: there is none of this name.
    """
    known = sheets()
    for sheet in known:
        if name in (sheet.name, sheet.name.partition("_")[2]):
            return sheet
    if not known:
        raise ValueError(f"no exercise sheets under {ROOT / 'chapters'}: releasing needs a clone of the repository")
    raise ValueError(f"no exercises for {name!r}; there are: {', '.join(sheet.name for sheet in known)}")


def of_cell(cell: NotebookNode) -> dict[str, object]:
    """nbgrader's metadata of a cell, empty where there are none."""
    return cell.metadata.get("nbgrader", {})


def bare(notebook: NotebookNode) -> NotebookNode:
    """The notebook, without outputs and counts; it no longer says that it is half of a pair."""
    notebook.metadata.pop("jupytext", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
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
    text, count = BLANK.subn(rf"\1{STUB}", source)
    if any(source.count(marker) != count for marker in (BEGIN, END)):
        raise ValueError(f"the lines {BEGIN!r} and {END!r} do not pair in\n{source}")
    return text


def page(text: str) -> str:
    """The website's page of a sheet, from its text: with blanks, and not executed."""
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    return f'---\n{head}\nmystnb:\n  execution_mode: "off"\n---\n{cut(body)}'
