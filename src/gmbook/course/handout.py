"""What students get: the sheet with its blanks and how to install a package without solutions; later the solutions."""

from __future__ import annotations

import shutil
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from gmbook.course import sheets
from gmbook.course.process import Limits
from gmbook.train.checkpoint import write_atomically

if TYPE_CHECKING:
    from nbformat import NotebookNode

README = """# Exercises of chapter {name}

Open `{name}.ipynb` in JupyterLab, fill in the blanks, and run the cells below them: each says whether your answer is
right, and if not, what kind of mistake it looks like. There are {points} points. Keep the names of the functions, and
hand in the notebook alone.

You need Python 3.11 or newer, or conda, and {where}.
In an environment of your own:

```bash
python -m venv gmbook-env                # or: conda env create -f environment.yml && conda activate gmbook
source gmbook-env/bin/activate           # on Windows: gmbook-env\\Scripts\\activate
pip install {what}
jupyter lab {name}.ipynb
```

When the notebook is graded, its cells run in order in a fresh process without a network, one core, {cell:.0f} s for a
cell and {total:.0f} s for all. Cells that grade are not taken from your notebook. What counts is what has the
exercise's name where its check stands. Print little. New random inputs are drawn, so an answer that passes once by
luck does not pass again.
"""


def release(sheet: sheets.Sheet, out: Path, wheel: str) -> str:
    """Make the students' folder; what to tell the lecturer.

    Args:
        wheel: the package for students, as a file, which is copied into the folder, or as an address; "" for neither.

    Raises:
        ValueError: the folder has something in it, or the wheel is none, or has solutions in it.
    """
    file = None if "://" in wheel or not wheel else Path(wheel)
    name, more = f"gmbook-{version('gmbook')}-py3-none-any.whl", ""
    where, what = f"the file `{name}` that your lecturer gives you, put beside this one", f"./{name}"
    if file:
        without_solutions(file)
        where, what, more = f"the file `{file.name}` beside this one", f"./{file.name}", f", {file.name}"
    elif wheel:
        where, what = "a network", wheel
    else:
        more = f"\nStudents also need the package, which has no solutions: pip wheel --no-deps -w {out} {sheets.ROOT}"
    told = f"{write_notebook(sheet.student(), sheet, out)} with {len(sheet.exercises)} exercises"
    if file:
        shutil.copyfile(file, out / file.name)
    points, limits = sum(exercise.points for exercise in sheet.exercises.values()), Limits()
    cell, total = limits.cell_seconds, limits.total_seconds
    text = README.format(name=sheet.name, points=points, where=where, what=what, cell=cell, total=total)
    write_atomically(out / "README.md", text.encode())
    # the book's environment without the book itself, and without what only its authors need
    ours = (sheets.ROOT / "environment.yml").read_text().partition("  # dev")[0]
    write_atomically(out / "environment.yml", f"{ours.rstrip()}\n".encode())
    return f"{told} and {points} points, README.md, environment.yml{more}"


def solutions(sheet: sheets.Sheet, out: Path) -> str:
    """Make the folder to hand out afterwards: the notebook with its solutions, each explained; what to tell.

    Raises:
        ValueError: the folder has something in it.
    """
    told = write_notebook(sheet.explained(), sheet, out, "_solutions")
    return f"{told} with {len(sheet.exercises)} solutions, each explained"


def write_notebook(notebook: NotebookNode, sheet: sheets.Sheet, out: Path, ending: str = "") -> str:
    """Write the notebook, which names its sheet, into a new or empty folder; what to tell."""
    from nbformat import writes

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already: name a new folder")
    notebook.metadata["gmbook"] = {"sheet": sheet.name}
    write_atomically(out / f"{sheet.name}{ending}.ipynb", (writes(notebook) + "\n").encode())
    return f"{out}: {sheet.name}{ending}.ipynb"


def without_solutions(wheel: Path) -> None:
    """Look into a wheel before students get it.

    Raises:
        ValueError: there is none of this name, it is not gmbook's, or it holds sheets or answers.
    """
    if not wheel.name.startswith("gmbook-") or wheel.suffix != ".whl" or not zipfile.is_zipfile(wheel):
        raise ValueError(f"{wheel} is no wheel of gmbook: pip wheel --no-deps -w . {sheets.ROOT} makes one")
    with zipfile.ZipFile(wheel) as package:
        found = [name for name in package.namelist() if "exercises" in name or "answers" in name]
    if found:
        raise ValueError(f"{wheel} holds solutions, for example {found[0]}: students must not have it")
