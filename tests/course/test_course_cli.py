"""`gmbook course`: what is released, which submissions are found, what is written, and one line for every mistake."""

from __future__ import annotations

import csv
import json

import nbformat
import pytest
import yaml

from gmbook.cli import main
from gmbook.course import grading, judge, sheets
from gmbook.course.grading import Submission


def test_release_makes_the_students_folder(tmp_path, capsys):
    assert main(["course", "release", "06_ddpm", "--out", str(tmp_path / "out")]) == 0
    sheet = sheets.find("06_ddpm")
    notebook = nbformat.read(tmp_path / "out" / "06_ddpm.ipynb", as_version=4)
    nbformat.validate(notebook)
    text = json.dumps(notebook)
    assert sheets.BEGIN not in text and text.count("your answer here") == len(sheet.exercises)
    assert notebook.metadata["gmbook"]["sheet"] == "06_ddpm"
    points = sum(exercise.points for exercise in sheet.exercises.values())
    assert f"{points} points" in (tmp_path / "out" / "README.md").read_text()
    assert "pytorch" in str(yaml.safe_load((tmp_path / "out" / "environment.yml").read_text())["dependencies"])
    assert main(["course", "release", "06_ddpm", "--out", str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["release", "99_none", "--out", "x"], "there are: 00_language, 01_vae"),
        (["grade", "nowhere", "--out", "x"], "neither a notebook nor a folder"),
        (["grade", "empty", "--out", "x"], "no notebooks there"),
        (["grade", "anonymous.ipynb", "--out", "x"], "--sheet"),
        (["grade", "anonymous.ipynb", "--out", "x", "--sheet", "99_none"], "no checks for '99_none'"),
        (["grade", "anonymous.ipynb", "anonymous.ipynb", "--out", "x"], "several submissions are called 'anonymous'"),
        (["grade", "anonymous.ipynb", "--out", "x", "--sheet", "06_ddpm", "--jobs", "0"], "above 0"),
        (["grade", "anonymous.ipynb", "--out", "x", "--sheet", "06_ddpm", "--cell-seconds", "-1"], "above 0"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "anonymous.ipynb").write_text('{"cells": []}')
    assert main(["course", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("gmbook: ") and told in lines[0]


def test_files_folders_and_folders_of_folders(tmp_path):
    for name in ("ada.ipynb", "bob/sheet.ipynb", "cyd/other.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = grading.submissions([tmp_path])
    assert [s.student for s in found] == ["ada", "bob", "cyd"]
    assert [s.student for s in grading.submissions([tmp_path / "bob", tmp_path / "ada.ipynb"])] == ["bob", "ada"]
    (tmp_path / "bob" / "second.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="2 notebooks"):
        grading.submissions([tmp_path])


def test_the_sheet_that_most_notebooks_name(tmp_path):
    found = []
    for name, sheet in (("a", "06_ddpm"), ("b", "06_ddpm"), ("c", "99_easy"), ("d", 7)):
        (tmp_path / name).write_text(json.dumps({"metadata": {"gmbook": {"sheet": sheet}}}))
        found.append(Submission(name, tmp_path / name))
    assert grading.sheet_of(found) == "06_ddpm"
    assert [grading.checks_of(name) for name in ("06_ddpm", "ddpm", "06_os", "06_../x", "")] == [
        "ddpm",
        "ddpm",
        "",
        "",
        "",
    ]


def test_scores_are_no_formulas_and_a_page_is_escaped():
    exercises = sheets.find("06_ddpm").exercises
    verdict = {"exercise": "bridge", "possible": 2, "points": 2, "answered": True, "hint": ""}
    outcome = {
        **vars(judge.Outcome("=cmd()")),
        "sheet": "<b>",
        "verdicts": {"bridge": verdict | {"hint": "<script>", "points": 0}},
        "notes": ["@x", "<img src=x>"],
        "sources": {"bridge": "</pre><script>"},
        "output": "<script>",
    }
    row = next(csv.DictReader(grading.scores([outcome], exercises).splitlines()))
    assert row["student"] == "'=cmd()" and row["remarks"].startswith("'@x") and row["points"] == "0"
    page = grading.page(outcome)
    assert "<script" not in page and "<img" not in page and "<b>" not in page and "=cmd()" in page


def test_a_judge_that_fails_gives_no_score():
    outcome = grading.judged(
        {"student": "x", "notebook": "nowhere.ipynb", "checks": "ddpm", "limits": {}, "hidden": []}, 60
    )
    assert outcome["verdicts"] == {} and "NOT GRADED" in outcome["notes"][0]


def test_cells_are_read_without_trust(tmp_path):
    path = tmp_path / "x.ipynb"
    for text in ("", "[]", '{"cells": 3, "x": NaN', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a notebook"):
            judge.cells(path)
    meta = {"nbgrader": {"grade": True, "grade_id": "bridge"}}
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["a\n", "b"], "metadata": meta}, 3, None]}))
    assert judge.cells(path) == [judge.Cell("a\nb", "cell 1", "bridge", "")]
