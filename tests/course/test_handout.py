"""What students get: blanks and a package without solutions; later the solutions, each with its reason."""

from __future__ import annotations

import json
import tomllib
import zipfile

import jupytext
import nbformat
import pytest
import yaml

from gmbook.cli import main
from gmbook.course import handout, sheets

SHEETS = sheets.sheets()
every_sheet = pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)


def wheel(folder, name="gmbook-9.9.9-py3-none-any.whl", holds=("gmbook/__init__.py",)):
    """A file with the form of a wheel."""
    with zipfile.ZipFile(folder / name, "w") as package:
        for file in holds:
            package.writestr(file, "")
    return folder / name


def packaged():
    """Every file that a wheel takes from the clone, by pyproject.toml."""
    target = tomllib.loads((sheets.ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {"packages", "shared-data"} <= set(target) <= {"packages", "shared-data", "force-include", "exclude"}
    taken = [*target["packages"], *target["shared-data"], *target.get("force-include", {})]
    for path in (sheets.ROOT / part for part in taken):
        yield from [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def squeezed(text):
    """The text without its spaces and line ends."""
    return "".join(text.split())


def test_the_package_for_students_has_no_solution():
    """Neither a sheet nor an answer goes into the wheel, and no solution's code stands anywhere in it."""
    files = [file for file in packaged() if "__pycache__" not in file.parts]
    inside = {file.relative_to(sheets.ROOT).as_posix(): file.read_bytes().decode(errors="replace") for file in files}
    assert "src/gmbook/course/kit.py" in inside
    assert not [name for name in inside if "exercises" in name or "answers" in name or name.startswith("tests")]
    text = squeezed("".join(inside.values()))
    for sheet in SHEETS:
        for cell in sheet.source().cells:
            if sheets.BEGIN in cell.source:
                body = cell.source.partition(sheets.BEGIN)[2].partition(sheets.WHY)[0]
                assert squeezed(body) not in text, sheets.of_cell(cell)["grade_id"]
                assert squeezed(sheets.solution(cell.source)[1]) not in text


def test_no_source_archive_has_the_kept_answers():
    include = tomllib.loads((sheets.ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert "/tests/course" in include["exclude"] and "/chapters" not in include["include"]


@every_sheet
def test_the_handout_is_half_of_no_pair_and_leads_to_no_solution(sheet, tmp_path):
    """JupyterLab writes a text beside a notebook that says it is paired, and refuses both when they differ."""
    told = handout.release(sheet, tmp_path / "out", str(wheel(tmp_path)))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["README.md", "environment.yml", f"{sheet.name}.ipynb", "gmbook-9.9.9-py3-none-any.whl"]
    )
    text = (tmp_path / "out" / f"{sheet.name}.ipynb").read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert "jupytext" not in notebook.metadata and "gmbook-9.9.9" in told
    assert jupytext.read(tmp_path / "out" / f"{sheet.name}.ipynb").metadata.get("jupytext", {}).get("formats") is None
    assert sheets.BEGIN not in text and sheets.WHY.strip() not in text
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "pip install ./gmbook-9.9.9-py3-none-any.whl" in readme
    assert not any(word in readme for word in ("repository", "github", "clone", "-e ."))
    assert "gmbook" not in json.dumps(
        yaml.safe_load((tmp_path / "out" / "environment.yml").read_text())["dependencies"]
    )


def test_the_readme_says_where_the_package_is(tmp_path):
    sheet = SHEETS[0]
    told = handout.release(sheet, tmp_path / "none", "")
    assert "pip wheel --no-deps" in told
    assert "that your lecturer gives you" in (tmp_path / "none" / "README.md").read_text()
    address = "https://example.org/gmbook-9.9.9-py3-none-any.whl"
    told = handout.release(sheet, tmp_path / "address", address)
    assert "pip wheel" not in told and f"pip install {address}" in (tmp_path / "address" / "README.md").read_text()


@pytest.mark.parametrize("holds", ["chapters/06_ddpm/exercises.md", "tests/course/answers/ddpm.py"])
def test_a_wheel_with_solutions_is_refused(holds, tmp_path, capsys):
    package = wheel(tmp_path, holds=("gmbook/__init__.py", holds))
    out = tmp_path / "out"
    assert main(["course", "release", "06_ddpm", "--out", str(out), "--wheel", str(package)]) == 2
    assert "holds solutions" in capsys.readouterr().err and not out.exists()


def test_what_is_no_wheel_is_refused(tmp_path, capsys):
    (tmp_path / "gmbook-1-py3-none-any.whl").write_text("no")
    for name in ("gmbook-1-py3-none-any.whl", "missing.whl"):
        assert (
            main(["course", "release", "06_ddpm", "--out", str(tmp_path / "out"), "--wheel", str(tmp_path / name)]) == 2
        )
        assert "no wheel of gmbook" in capsys.readouterr().err and not (tmp_path / "out").exists()


@every_sheet
def test_solutions_come_with_a_reason_each(sheet, tmp_path):
    """The code runs, is the sheet's, has no marker left, and below each stands why it is right."""
    assert main(["course", "solutions", sheet.name, "--out", str(tmp_path / "out")]) == 0
    notebook = nbformat.read(tmp_path / "out" / f"{sheet.name}_solutions.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert "jupytext" not in notebook.metadata
    cells = notebook.cells
    reasons = [place for place, cell in enumerate(cells) if cell.source.startswith("**Why.** ")]
    answered = [f"{name}-answer" for name in sheet.exercises]
    assert [sheets.of_cell(cells[place - 1])["grade_id"] for place in reasons] == answered
    assert all(len(cells[place].source) > 80 and cells[place].source.endswith(".") for place in reasons)
    for cell in cells:
        assert not any(word in cell.source for word in (sheets.BEGIN, sheets.END, sheets.WHY, sheets.STUB))
        if cell.cell_type == "code":
            compile(cell.source, "cell", "exec")


def test_a_solution_falls_into_code_and_reason():
    source = (
        "def f():\n    ### BEGIN SOLUTION\n    return 1  # one\n    # Why: because\n    # so.\n    ### END SOLUTION"
    )
    assert sheets.solution(source) == ("def f():\n    return 1  # one", "because so.")
    assert sheets.solution("x = 1") == ("x = 1", "")


@pytest.mark.parametrize("lines", ["B", "E", "B B E", "B E E", "E B", "B E B"])
def test_markers_that_do_not_pair_are_refused(lines):
    source = "\n".join({"B": f"    {sheets.BEGIN}", "E": f"    {sheets.END}"}[letter] for letter in lines.split())
    with pytest.raises(ValueError, match="do not pair"):
        sheets.cut(source)
    whole = f"def f():\n    {sheets.BEGIN}\n    return 1\n    {sheets.END}\nx = f()\n{sheets.BEGIN}\n{sheets.END}"
    assert sheets.cut(whole) == f"def f():\n    {sheets.STUB}\nx = f()\n{sheets.STUB}"
