"""`gmbook course`: what is released, which submissions are found, what is written, and one line for every mistake."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import asdict
from datetime import datetime

import nbformat
import pytest
import yaml

from gmbook.cli import main
from gmbook.course import grading, intake, judge, kit, process, sandbox, sheets
from gmbook.course.intake import Submission


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
        (["grade", "anonymous.ipynb", "anonymous.ipynb", "--out", "x"], "give --sheet"),
        (["grade", "anonymous.ipynb", "--out", "x", "--sheet", "06_ddpm", "--only", "bob"], "no submission of bob"),
        (["grade", "anonymous.ipynb", "--out", "x", "--sheet", "06_ddpm", "--roster", "empty.csv"], "names nobody"),
        (["grade", "anonymous.ipynb", "--out", "x", "--sheet", "06_ddpm", "--jobs", "0"], "above 0"),
        (["grade", "anonymous.ipynb", "--out", "x", "--sheet", "06_ddpm", "--cell-seconds", "-1"], "above 0"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "anonymous.ipynb").write_text('{"cells": []}')
    (tmp_path / "empty.csv").write_text("what,who\n1,2\n")
    assert main(["course", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("gmbook: ") and told in lines[0]


def test_files_folders_and_folders_of_folders(tmp_path):
    for name in ("ada.ipynb", "bob/sheet.ipynb", "cyd/other.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = intake.collect([tmp_path]).submissions
    assert [s.student for s in found] == ["ada", "bob", "cyd"]
    assert [s.student for s in intake.collect([tmp_path / "bob", tmp_path / "ada.ipynb"]).submissions] == ["bob", "ada"]
    (tmp_path / "bob" / "second.ipynb").write_text("{}")
    bob = grading.submissions([tmp_path])[1]
    assert (bob.student, bob.item) == ("bob", None) and "2 notebooks: second.ipynb, sheet.ipynb" in bob.why


def test_the_sheet_that_most_notebooks_name():
    found = []
    for name, sheet in (("a", "06_ddpm"), ("b", "06_ddpm"), ("c", "99_easy"), ("d", 7)):
        text = json.dumps({"metadata": {"gmbook": {"sheet": sheet}}}).encode()
        found.append(Submission(name, intake.Item((name,), len(text), lambda text=text: text)))
    assert grading.sheet_of(found) == "06_ddpm"
    names = ("06_ddpm", "ddpm", "06_os", "06_../x", "")
    assert [grading.checks_of(name) for name in names] == ["ddpm", "ddpm", "", "", ""]


def outcome(student, **changes):
    return {"sheet": "06_ddpm", **asdict(judge.Outcome(student)), **changes}


def test_scores_are_no_formulas_and_a_page_is_escaped(tmp_path):
    verdict = {"exercise": "bridge", "possible": 2, "points": 0, "answered": True, "hint": "<script>"}
    armed = ["=cmd()", "x;=cmd()", "\t=cmd()", "\r\n@x", "＝cmd()", "-1+1", "|x", "a\t=b"]
    table = grading.Table(tmp_path / "scores.csv", sheets.find("06_ddpm").exercises)
    for text in armed:
        table.put(Submission(text), outcome(text, verdicts={"bridge": verdict}, notes=[text, "x" * 10_000]))
    for row in csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()):
        assert row["points"] == "0" and len(row["remarks"]) < 2100
        for cell in (row["student"], row["remarks"]):
            assert not any(part.lstrip()[:1] in tuple("=+-@＝|") for part in re.split("[;\t]", cell) if part)
    page = grading.page(
        outcome(
            "=cmd()",
            sheet="<b>",
            verdicts={"bridge": verdict},
            notes=["<img src=x>"],
            sources={"bridge": "</pre><script>"},
            output="<script>",
        )
    )
    assert "<script" not in page and "<img" not in page and "<b>" not in page and "=cmd()" in page


def test_a_judge_that_fails_gives_no_score(tmp_path, monkeypatch):
    grader = grading.Grader("06_ddpm", tmp_path, process.Limits())
    monkeypatch.setattr(grading, "JUDGE_MB", 100)  # in which Python cannot import torch
    grader.limits = process.Limits(memory_mb=-2000)
    made = grader.one(Submission("x", intake.Item(("x.ipynb",), 9, lambda: b'{"cells": []}')))
    assert made["verdicts"] == {} and "NOT GRADED: the grader itself failed" in made["notes"][0]


def test_cells_are_read_without_trust():
    for text in ("", "[]", '{"cells": 3, "x": NaN', "[" * 100_000, '{"worksheets": [{"cells": [3]}]}', "7"):
        with pytest.raises(ValueError, match="not a notebook"):
            judge.cells(text)
    meta = {"nbgrader": {"grade": True, "grade_id": "bridge"}}
    text = json.dumps({"cells": [{"cell_type": "code", "source": ["a\n", "b"], "metadata": meta}, 3, None]})
    assert judge.cells(text) == [judge.Cell("a\nb", "cell 1", "bridge", "")]


def test_a_notebook_of_an_older_format_is_converted():
    old = nbformat.v3.new_notebook(worksheets=[nbformat.v3.new_worksheet(cells=[nbformat.v3.new_code_cell("x = 1")])])
    assert [cell.source for cell in judge.cells(json.dumps(old))] == ["x = 1"]


NOTEBOOK = json.dumps({"cells": [], "metadata": {"gmbook": {"sheet": "06_ddpm"}}, "nbformat": 4, "nbformat_minor": 5})


def archive(files):
    draft = io.BytesIO()
    with zipfile.ZipFile(draft, "w") as made:
        for name, text in files.items():
            made.writestr(name, text)
    return draft.getvalue()


def odd_things(folder):
    """A folder as a term leaves it: {student: a word of the reason, empty where the notebook is found}."""
    long, sparse = "n" * 240, folder / "sparse.ipynb"
    with open(sparse, "wb") as stream:
        stream.truncate(1 << 40)
    files = {
        "ana/06_ddpm.ipynb": NOTEBOOK,
        "ana/._06_ddpm.ipynb": "\0",
        "ana/.ipynb_checkpoints/06_ddpm-checkpoint.ipynb": NOTEBOOK,
        "__MACOSX/ana/._06_ddpm.ipynb": "\0",
        ".DS_Store": "",
        ".ipynb": NOTEBOOK,
        "only_hidden/.ipynb": NOTEBOOK,
        f"{long}.ipynb": NOTEBOOK,
        "upper.IPYNB": NOTEBOOK,
        "browser.ipynb.txt": NOTEBOOK,
        "report.pdf": "x",
        "two/a.ipynb": NOTEBOOK,
        "two/b.ipynb": NOTEBOOK,
        "below/sheet/06_ddpm.ipynb": NOTEBOOK,
        "draft/06_ddpm.ipynb": NOTEBOOK,
        "draft/old/06_ddpm.ipynb": NOTEBOOK,
        "zipped.zip": archive({"work/06_ddpm.ipynb": NOTEBOOK, "__MACOSX/work/._06_ddpm.ipynb": "\0"}),
        "broken.zip": "PK",
        "same.ipynb": NOTEBOOK,
        "same/06_ddpm.ipynb": NOTEBOOK,
        "Ada Lovelace_4711_assignsubmission_file_/06_ddpm.ipynb": NOTEBOOK,
        "Ada Lovelace_4712_assignsubmission_file_/06_ddpm.ipynb": NOTEBOOK,
        "Bo Ek_4713_assignsubmission_onlinetext_/onlinetext.html": "x",
        "noethere_LATE_815_90210_06_ddpm-2.ipynb": NOTEBOOK,
        "\x1b[31mred.ipynb": NOTEBOOK,
        "wrong_sheet.ipynb": NOTEBOOK.replace("06_ddpm", "07_ddim"),
        "=cmd().ipynb": NOTEBOOK,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode() if type(text) is str else text)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("ana")
    (folder / "linked.ipynb").symlink_to("ana/06_ddpm.ipynb")
    os.mkfifo(folder / "pipe.ipynb")
    reasons = dict.fromkeys(("only_hidden", "report"), "no notebook")
    if sys.platform == "linux":
        with open(os.fsencode(folder) + b"/j\xfcrgen.ipynb", "w") as stream:
            stream.write(NOTEBOOK)
        reasons["j\xfcrgen"] = ""
    found = ("ana", long, "upper", "browser", "below", "draft", "zipped", "noethere", "\ufffd[31mred", "wrong_sheet")
    found += ("Ada Lovelace 4711", "Ada Lovelace 4712", "=cmd()")
    reasons |= dict.fromkeys(("two", "same"), "2 notebooks") | dict.fromkeys(("link", "linked"), "link")
    reasons |= {"sparse": "50 MB", "empty": "empty", "broken": "no zip", "Bo Ek": "no notebook", "pipe": "neither"}
    return reasons | dict.fromkeys(found, "")


def test_every_student_has_a_row_and_every_other_file_a_reason(tmp_path):
    wanted = odd_things(tmp_path)
    found = intake.collect([tmp_path])
    assert sorted(s.student for s in found.submissions) == sorted(wanted)
    for submission in found.submissions:
        if wanted[submission.student]:
            with pytest.raises(ValueError, match=wanted[submission.student]):
                submission.text()
        else:
            assert json.loads(submission.text())["nbformat"] == 4
    everything = sum(len(files) for _, _, files in os.walk(tmp_path)) + 2  # in the zip there are two, not one
    empty_or_linked_folders = 2
    graded = sum(s.item is not None for s in found.submissions)
    assert graded + len(found.left) == everything - 1 + empty_or_linked_folders
    assert all(reason for _, reason in found.left)
    ids = {s.student: (s.id, s.remarks) for s in found.submissions}
    assert ids["Ada Lovelace 4711"][0] == "4711" and ids["noethere"] == ("815", ["handed in late"])
    assert "old/06_ddpm.ipynb" in ids["draft"][1][0]


def test_a_zip_of_a_class_is_read_as_its_folder(tmp_path):
    inner = archive({"06_ddpm.ipynb": NOTEBOOK})
    files = {
        "term/ana.ipynb": NOTEBOOK,
        "term/bob/x.ipynb": NOTEBOOK,
        "term/cyd.zip": inner,
        "term/../../up.ipynb": "{}",
    }
    (tmp_path / "all.zip").write_bytes(archive(files))
    found = intake.collect([tmp_path / "all.zip"])
    assert [s.student for s in found.submissions] == ["ana", "bob", "cyd", "up"]
    assert all(s.text() for s in found.submissions)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("ana.ipynb", bytes(60 << 20))
        made.writestr("bob.ipynb", NOTEBOOK)
    ana = intake.collect([tmp_path / "bomb.zip"]).submissions[0]
    with pytest.raises(ValueError, match="50 MB"):
        ana.text()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_costs_one_student_and_not_the_class(method, tmp_path):
    draft, noise = io.BytesIO(), random.Random(0).randbytes(4000)
    with zipfile.ZipFile(draft, "w", method) as made:
        for name, text in {"ana.zip": noise, "bob.ipynb": NOTEBOOK, "cyd.ipynb": noise.hex()}.items():
            made.writestr(name, text)
        places = [made.getinfo(name).header_offset + 30 + len(name) for name in ("ana.zip", "cyd.ipynb")]
    content = bytearray(draft.getvalue())
    for place in places:
        content[place : place + 900] = bytes(255 - byte for byte in content[place : place + 900])
    (tmp_path / "all.zip").write_bytes(content)
    ana, bob, cyd = intake.collect([tmp_path / "all.zip"]).submissions
    assert bob.text() == NOTEBOOK.encode()
    for submission in (ana, cyd):
        with pytest.raises(ValueError, match="cannot be read"):
            submission.text()


@pytest.mark.parametrize(
    "text",
    [
        "student,id\nAda Lovelace,4711\nMia Lost,4714\n",
        "\ufeffIdentifier;Full name;Status\nParticipant 4711;Ada Lovelace;x\nParticipant 4714;Mia Lost;x\n",
        'Student,ID,Section\n"   Points Possible",,\n"Lovelace, Ada",4711,A\n"Lost, Mia",4714,A\n',
        "First name\tLast name\tID number\nAda\tLovelace\t4711\nMia\tLost\t4714\n",
    ],
)
def test_a_roster_says_who_is_missing(text, tmp_path):
    folder = tmp_path / "in"
    for name in ("Ada Lovelace_4711_assignsubmission_file_", "Bo Ek_99_assignsubmission_file_"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.ipynb").write_text(NOTEBOOK)
    (tmp_path / "roster.csv").write_text(text)
    found = intake.collect([folder])
    missing = intake.compare(found, intake.roster(tmp_path / "roster.csv"))
    assert [(s.id, s.why) for s in missing] == [("4714", "nothing was handed in")] and "Lost" in missing[0].student
    assert [s.remarks for s in found.submissions] == [[], ["not on the roster"]]


@pytest.fixture
def quick(monkeypatch):
    """A grader whose judge takes no time: full marks for all, and the names of those who were judged."""
    judged = []

    def one(self, job, seconds):
        judged.append(job["student"])
        verdicts = {
            name: asdict(kit.Verdict(name, exercise.points, exercise.points, True, "", 0))
            for name, exercise in self.exercises.items()
        }
        return outcome(job["student"], verdicts=verdicts)

    monkeypatch.setattr(grading.Grader, "judged", one)
    monkeypatch.setattr(sandbox, "check", lambda: [])
    return judged


def rows(out):
    with open(out / "scores.csv", newline="") as stream:
        return {row["student"]: row for row in csv.DictReader(stream)}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_class_with_every_odd_thing(tmp_path, quick, monkeypatch, encoding):
    (tmp_path / "in").mkdir()
    wanted = odd_things(tmp_path / "in")
    screen = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    out = tmp_path / "in" / "out"
    assert main(["course", "grade", str(tmp_path / "in"), "--out", str(out)]) == 0
    screen.flush()
    assert b"\x1b" not in screen.buffer.getvalue()
    got = rows(out)
    assert sorted(got) == sorted(grading.unarmed(name) for name in wanted)
    for name, why in wanted.items():
        row = got[grading.unarmed(name)]
        assert (row["points"] == "23") == (not why and name != "wrong_sheet") and why in row["remarks"]
    assert "07_ddim, not 06_ddpm" in got["wrong_sheet"]["remarks"]
    left = list(csv.DictReader((out / "not_graded.csv").read_text().splitlines()))
    assert {"two/a.ipynb", "report.pdf", "__MACOSX/ana/._06_ddpm.ipynb"} <= {row["file"] for row in left}
    with zipfile.ZipFile(out / "feedback.zip") as feedback:
        names = feedback.namelist()
    assert "Ada Lovelace_4711_assignsubmission_file_/Ada Lovelace 4711.html" in names
    assert "noethere_LATE_815_90210_06_ddpm-2.html" in names


def lines(file):
    with open(file, newline="") as stream:
        return list(csv.reader(stream))


def test_moodle_takes_the_grades(tmp_path, quick):
    """As `assignfeedback_offline_grade_importer` reads a worksheet: three columns by name, the number behind a word."""
    for name in ("Ada Lovelace_4711_assignsubmission_file_", "Bo Ek_4712_assignsubmission_file"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "06_ddpm.ipynb").write_text(NOTEBOOK)
    (tmp_path / "roster.csv").write_text("Identifier,Full name\nParticipant 4713,Mia Lost\n")
    command = ["course", "grade", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    start = int(time.time())
    assert main([*command, "--roster", str(tmp_path / "roster.csv")]) == 0
    head, *body = lines(tmp_path / "out" / "moodle.csv")
    identifier, grade, modified = (head.index(name) for name in ("Identifier", "Grade", "Last modified (grade)"))
    assert head.index("Feedback comments") > 0  # a comment in the first column is overlooked
    assert all(len(row) == len(head) for row in body)
    got = {row[identifier][len("Participant ") :]: row[grade] for row in body}
    assert got == {"4711": "23", "4712": "23", "4713": ""}
    for row in body:
        assert start <= datetime.fromisoformat(row[modified]).timestamp() <= time.time()
    with zipfile.ZipFile(
        tmp_path / "out" / "feedback.zip"
    ) as archive:  # and as `assignfeedback_file_zip_importer` does
        pages = [name.partition("/")[0].split("_", 4)[1:4] for name in archive.namelist()]
    assert pages[:2] == [["4711", "assignsubmission", "file"], ["4712", "assignsubmission", "file"]]


def test_canvas_takes_the_grades(tmp_path, quick):
    """As `GradebookImporter` reads a file: columns by their places, one assignment, its points in their own row."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "noethere_LATE_815_90210_06_ddpm-2.ipynb").write_text(NOTEBOOK)
    (tmp_path / "in" / "eulerl_816_text.html").write_text("it was too long")
    (tmp_path / "roster.csv").write_text("LastName,FirstName,ID,SIS Login ID,Section\nLost,Mia,817,m,A\n")
    command = ["course", "grade", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main([*command, "--roster", str(tmp_path / "roster.csv")]) == 0
    head, points, *body = lines(tmp_path / "out" / "canvas.csv")
    assert head == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "06_ddpm"]
    assert "Points Possible" in points[0] and points[5] == "23" and all(len(row) == 6 for row in [points, *body])
    assert {(row[1], row[5]) for row in body} == {("815", "23"), ("816", ""), ("817", "")}
    with zipfile.ZipFile(tmp_path / "out" / "feedback.zip") as archive:
        name = next(name for name in archive.namelist() if name.startswith("noethere"))
    assert [part for part in name.split("_") if part.isdigit()][:2] == ["815", "90210"]  # the student, the file


def test_rows_stay_and_one_student_is_graded_again(tmp_path, quick):
    for name in ("ana", "bob", "cyd", "dan", "eve"):
        (tmp_path / f"{name}.ipynb").write_text(NOTEBOOK)
    command = ["course", "grade", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(command) == 0 and sorted(quick) == ["ana", "bob", "cyd", "dan", "eve"]
    table = (tmp_path / "out" / "scores.csv").read_text()
    lines = table.replace("ana,,23", "ana,,22").splitlines()
    lines = [f"{line},{'comment' if line.startswith('student') else 'seen'}" for line in lines]
    (tmp_path / "out" / "scores.csv").write_text("\n".join(lines) + "\n")  # by the lecturer's hand
    (tmp_path / "bob.ipynb").write_text(NOTEBOOK + "\n")  # another hand-in
    quick.clear()
    assert main(command) == 0 and quick == ["bob"]
    quick.clear()
    assert main([*command, "--only", "cyd"]) == 0 and quick == ["cyd"]
    got = rows(tmp_path / "out")
    assert got["ana"]["points"] == "22" and all(row["comment"] == "seen" for row in got.values())
    assert main([*command, "--sheet", "07_ddim"]) == 2
    assert main([*command, "--again"]) == 0 and sorted(quick) == sorted(["cyd", "ana", "bob", "cyd", "dan", "eve"])


def test_as_many_at_a_time_as_asked_for(tmp_path, quick, monkeypatch):
    judged, together, most = grading.Grader.judged, threading.Barrier(3), []

    def one(self, job, seconds):
        together.wait(30)  # breaks unless three come
        most.append(together.parties)
        return judged(self, job, seconds)

    monkeypatch.setattr(grading.Grader, "judged", one)
    for number in range(6):
        (tmp_path / f"{number}.ipynb").write_text(NOTEBOOK)
    assert main(["course", "grade", str(tmp_path), "--out", str(tmp_path / "out"), "--jobs", "3"]) == 0
    assert len(most) == 6


def test_a_class_of_thousands(tmp_path, quick):
    for number in range(1200):
        (tmp_path / f"{number:04}").mkdir()
        (tmp_path / f"{number:04}" / "06_ddpm.ipynb").write_text(NOTEBOOK)
    found = intake.collect([tmp_path])
    assert len(found.submissions) == 1200 and found.left == []


def test_every_command_starts_without_the_modules_of_posix():
    """As on Windows. The grader says what it runs on."""
    program = (
        "import sys\nsys.modules.update(resource=None, fcntl=None, pwd=None, grp=None, termios=None)\n"
        "from gmbook.cli import main\nsys.platform = 'win32'\n"
        "assert main(['list']) == 0\nassert main(['course', 'grade', '.', '--out', 'x']) == 2\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "WSL" in run.stderr
