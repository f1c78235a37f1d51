"""nbgrader's own road: release a sheet, hand in the solution and the blanks, autograde; full marks and none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gmbook.course import sheets

nbgrader = pytest.importorskip("nbgrader", reason="nbgrader is not installed: make course")
SHEET = sheets.find("06_ddpm")
CONFIG = """
c = get_config()
c.CourseDirectory.course_id = "gmbook"
c.ExecutePreprocessor.timeout = 300
c.Execute.timeout = 300
"""


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course folder, the sheet autograded for two students."""
    root = tmp_path_factory.mktemp("course")
    (root / "nbgrader_config.py").write_text(CONFIG)
    source = root / "source" / "ddpm"
    source.mkdir(parents=True)
    shutil.copy(SHEET.notebook, source)
    run(root, "generate_assignment", "ddpm")
    released = root / "release" / "ddpm" / SHEET.notebook.name
    for student, notebook in (("solution", SHEET.notebook), ("untouched", released)):
        folder = root / "submitted" / student / "ddpm"
        folder.mkdir(parents=True)
        shutil.copy(notebook, folder)
    run(root, "autograde", "ddpm")
    return root


def run(root: Path, *words: str) -> None:
    """An nbgrader command in the course folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # it calls alembic by name
    environment = {**os.environ, "PATH": path, "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-m", "nbgrader", *words]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.timeout(1800)
def test_the_release_has_blanks(course):
    text = (course / "release" / "ddpm" / SHEET.notebook.name).read_text()
    assert sheets.BEGIN not in text and sheets.WHY.strip() not in text and "steps_to_noise" in text


@pytest.mark.timeout(1800)
def test_the_solution_gets_full_marks_and_the_blanks_none(course):
    from nbgrader.api import Gradebook

    possible = sum(exercise.points for exercise in SHEET.exercises.values())
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        for student, points in (("solution", possible), ("untouched", 0)):
            submission = book.find_submission("ddpm", student)
            assert (submission.score, submission.max_score) == (points, possible), student
