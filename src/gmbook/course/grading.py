"""Grades many submissions, one judge for each; writes scores.csv as it goes, and JSON and a readable page for each."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from gmbook.course import judge, kit, process, sheets
from gmbook.course.intake import Class, Submission, collect, printable, sheet_named
from gmbook.train.checkpoint import write_atomically

GRADER_SECONDS = 120.0  # that a judge may take beyond the submission's own time
JUDGE_MB = 6144  # address space of a judge
LINE = 2000  # characters of a remark


def submissions(paths: Sequence[Path]) -> list[Submission]:
    """What the students handed in under these paths, one for each student, see `gmbook.course.intake`."""
    return collect(paths).submissions


def sheet_of(found: Sequence[Submission]) -> str:
    """The sheet that most of the notebooks name as theirs, for example "06_ddpm".

    Raises:
        ValueError: none of them does.
    """
    named: Counter[str] = Counter()
    for submission in found:
        try:
            name = sheet_named(submission.text())
        except ValueError:
            continue
        if name and checks_of(name):
            named[name] += 1
    if not named:
        raise ValueError("the notebooks do not say of which sheet they are: give --sheet, for example --sheet 06_ddpm")
    return named.most_common(1)[0][0]


def checks_of(name: str) -> str:
    """The checks module of a sheet, "ddpm" for "06_ddpm" and for "ddpm"; empty where there is none."""
    stem = name.partition("_")[2] if name[:2].isdigit() else name
    known = stem.isidentifier() and importlib.util.find_spec(f"gmbook.course.checks.{stem}") is not None
    return stem if known else ""


class Grader:
    """Grades a class into a folder. What is there already stays, so that a run that was stopped goes on.

    Args:
        sheet: for example "06_ddpm".
        hidden: what a student must not see, even where it lies within Python's installation.
        fenced: False where there is no fence.
    """

    def __init__(self, sheet: str, out: Path, limits: process.Limits, hidden: Sequence[Path] = (), fenced: bool = True):
        self.sheet, self.out, self.limits, self.fenced = sheet, out, limits, fenced
        book = [sheets.ROOT / part for part in ("chapters", "tests", "book", ".git")]
        self.hidden = [str(path.resolve()) for path in (*hidden, out, *book)]
        self.exercises = kit.exercises(checks_of(sheet))
        self.table = Table(out / "scores.csv", self.exercises)
        self.stopped = threading.Event()

    def grade(
        self, found: Sequence[Submission], jobs: int = 2, again: bool = False
    ) -> Generator[tuple[Submission, dict[str, Any]], None, None]:
        """Grade, `jobs` at a time; yields each outcome after its JSON, its page and its row are written.

        Args:
            again: those, too, who have a grade for the same notebook.
        """
        self.stopped.clear()
        with ThreadPoolExecutor(jobs) as pool:
            try:
                under_way = {pool.submit(self.one, s): s for s in found if again or not self.done(s)}
                for future in as_completed(under_way):
                    submission, outcome = under_way.pop(future), future.result()
                    self.write(submission, outcome)
                    yield submission, outcome
            finally:
                self.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def done(self, submission: Submission) -> bool:
        """Whether this very notebook has a grade."""
        if unarmed(submission.student) not in self.table.rows or submission.item is None:
            return False
        try:
            told = json.loads((self.out / f"{stem(submission.student)}.json").read_bytes())
            return bool(told["verdicts"]) and told["sha256"] == hashlib.sha256(submission.text()).hexdigest()
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False

    def one(self, submission: Submission) -> dict[str, Any]:
        """The outcome of one submission; without verdicts, and with the reason, where it was not graded."""
        outcome = asdict(judge.Outcome(submission.student))
        try:
            text = submission.text()
            named = sheet_named(text)
            if named and checks_of(named) != checks_of(self.sheet):
                raise ValueError(f"this is the sheet {named}, not {self.sheet}")
            job = {
                "notebook": text.decode("utf-8-sig", errors="replace"),
                "student": submission.student,
                "checks": checks_of(self.sheet),
                "limits": asdict(self.limits),
                "hidden": self.hidden,
                "fenced": self.fenced,
            }
            outcome = self.judged(job, self.limits.total_seconds + GRADER_SECONDS)
            outcome["sha256"] = hashlib.sha256(text).hexdigest()
        except ValueError as error:
            outcome["notes"] = [f"NOT GRADED: {error}"]
        return judge.clean({"sheet": self.sheet, **outcome, "notes": [*submission.remarks, *outcome["notes"]]})

    def judged(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What the judge says.

        Raises:
            ValueError: it failed, or took too long.
        """
        command = [sys.executable, "-P", "-m", "gmbook.course.judge"]
        if shutil.which("prlimit"):
            most = max(JUDGE_MB, self.limits.memory_mb + 2048) << 20
            command = ["prlimit", f"--as={most}", "--core=0", "--", *command]
        with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as troubles:
            asked, end = json.dumps(job).encode() + b"\n", time.monotonic() + seconds
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=told, stderr=troubles, start_new_session=True
            )
            assert process.stdin
            last = threading.Timer(seconds + 30, process.kill)
            last.start()
            with contextlib.suppress(OSError), process:  # which at its end closes the input: then the judge ends
                process.stdin.write(asked)
                process.stdin.flush()
                while process.poll() is None and time.monotonic() < end and not self.stopped.wait(0.05):
                    pass
            last.cancel()
            told.seek(0)
            if process.returncode == 0:
                return json.load(told)
            troubles.seek(0)
            line = kit.shortened(" ".join(troubles.read().decode(errors="replace").strip().splitlines()[-1:]))
            raise ValueError(f"the grader itself failed; it ended with code {process.returncode}: {line}")

    def write(self, submission: Submission, outcome: dict[str, Any]) -> None:
        """Keep an outcome."""
        file = self.out / f"{stem(submission.student)}.json"
        write_atomically(file, (json.dumps(outcome, indent=1) + "\n").encode())
        write_atomically(file.with_suffix(".html"), page(outcome).encode(errors="replace"))
        self.table.put(submission, outcome)


def stem(student: str) -> str:
    """The name of a student's files."""
    plain = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", student)
    if plain != student or len(plain.encode()) > 200 or plain[:1] == ".":
        plain = f"{plain.encode()[:150].decode(errors='ignore')}-{hashlib.sha256(student.encode()).hexdigest()[:8]}"
    return plain


# ---------------------------------------------------------------------------------------------------- what is written


class Table:
    """scores.csv: student, id, points in all, points possible, points of each exercise, seconds, remarks.

    Rows and columns that are there already stay, with what a lecturer wrote into them.
    """

    def __init__(self, file: Path, exercises: dict[str, kit.Exercise]):
        self.file, self.exercises = file, exercises
        self.possible = sum(exercise.points for exercise in exercises.values())
        self.rows: dict[str, dict[str, Any]] = {}
        self.columns = ["student", "id", "points", "possible", *exercises, "seconds", "remarks"]
        if file.exists():
            with open(file, newline="", encoding="utf-8-sig", errors="replace") as stream:
                told = csv.DictReader(stream)
                self.rows = {str(row.get("student")): row for row in told}
                if not {"student", "points", "remarks", *exercises} <= set(told.fieldnames or []):
                    raise ValueError(f"{file} is of another sheet: name another folder with --out, or remove it")
                self.columns += [name for name in told.fieldnames or [] if name and name not in self.columns]

    def put(self, submission: Submission, outcome: dict[str, Any]) -> None:
        """A student's row, new or in place of the old one; the file is written."""
        verdicts = outcome["verdicts"]
        row = {
            "student": submission.student,
            "id": submission.id,
            "points": sum(verdict["points"] for verdict in verdicts.values()) if verdicts else "",
            "possible": self.possible,
            **{name: verdicts[name]["points"] if name in verdicts else "" for name in self.exercises},
            "seconds": f"{outcome['seconds']:.0f}",
            "remarks": kit.shortened(" | ".join(outcome["notes"]), LINE),
        }
        key = unarmed(submission.student)
        self.rows[key] = self.rows.get(key, {}) | {name: unarmed(str(value)) for name, value in row.items()}
        save(self.file, self.rows.values(), self.columns)


def save(file: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV, of each these columns, empty where it has none of the name."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    write_atomically(file, text.getvalue().encode())


def unarmed(text: str) -> str:
    """The text, so that no spreadsheet takes it, or a part that it splits off, for a formula; on one line."""
    line = " ".join(judge.clean(text).split()).replace(";", ",")
    return f"'{line}" if line[:1] in tuple("=+-@＝＋－＠|%") else line


def export(table: Table, found: Class, sheet: str) -> list[str]:
    """Write what learning platforms take back: feedback.zip, and moodle.csv and canvas.csv where ids are known.

    Moodle's assignment refuses a worksheet without Identifier, Grade and Last modified (grade), which it compares with
    its own; it reads numbers from "Participant 4711". Canvas wants Student, ID, the two columns of the SIS, Section in
    this order; any other column is an assignment, and the row of points possible is for one that it does not know.
    """
    out, draft = table.file.parent, io.BytesIO()
    of = {unarmed(s.student): s for s in found.submissions if unarmed(s.student) in table.rows}
    moodle: list[dict[str, str]] = []
    canvas = [{"Student": "    Points Possible", sheet: str(table.possible)}]
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, submission in of.items():
            row, report = table.rows[name], out / f"{stem(submission.student)}.html"
            graded = ""
            if report.exists():
                archive.writestr(feedback_name(submission), report.read_bytes())
                graded = datetime.fromtimestamp(report.stat().st_mtime, UTC).isoformat(timespec="seconds")
            told = {"Grade": row["points"], "Last modified (grade)": graded, "Feedback comments": row["remarks"]}
            if submission.id:
                moodle.append({"Identifier": f"Participant {submission.id}", "Full name": row["student"], **told})
                canvas.append({"Student": row["student"], "ID": submission.id, sheet: row["points"]})
    write_atomically(out / "feedback.zip", draft.getvalue())
    if not moodle:
        return ["feedback.zip"]
    save(out / "moodle.csv", moodle, list(moodle[0]))
    save(out / "canvas.csv", canvas, ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", sheet])
    return ["feedback.zip", "moodle.csv", "canvas.csv"]


def feedback_name(submission: Submission) -> str:
    """A page's name within feedback.zip: what the platform called the submission, so that it finds the student."""
    name = printable(submission.original or submission.student)
    if "_assignsubmission_" in name and not name.lower().endswith((".ipynb", ".zip")):
        return f"{name}/{stem(submission.student)}.html"
    return re.sub(r"(\.ipynb(\.txt|\.json)?|\.zip)$", "", name, flags=re.IGNORECASE) + ".html"


# Everything in a page is escaped, and it may load and run nothing.
PAGE = jinja2.Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ student }}: {{ total }} of {{ possible }}</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto } table { border-collapse: collapse }
td, th { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top }</style></head><body>
<h1>{{ student }}</h1>
<p>Sheet {{ sheet }}: <strong>{{ total }} of {{ possible }} points</strong>, graded in {{ "%.0f" % seconds }} s.</p>
<table><tr><th>exercise</th><th>points</th><th>what the check says</th></tr>
{% for v in verdicts.values() -%}
<tr><td>{{ v.exercise }}</td><td>{{ v.points }} of {{ v.possible }}</td>
<td>{{ "right" if v.points else v.hint or ("not right" if v.answered else "not answered") }}</td></tr>
{% endfor %}</table>
<h2>What happened to cells</h2>
<ul>{% for note in notes %}<li>{{ note }}</li>
{% else %}<li>none</li>{% endfor %}</ul>
<h2>Answers</h2>
{% for name, source in sources.items() %}<h3>{{ name }}</h3>
<pre>{{ source[:20000] }}</pre>
{% endfor %}<h2>What was printed</h2>
<pre>{{ output or "nothing" }}</pre>
</body></html>
""")


def page(outcome: dict[str, Any]) -> str:
    """The report of one student as HTML."""
    verdicts = outcome["verdicts"].values()
    total, possible = (sum(verdict[key] for verdict in verdicts) for key in ("points", "possible"))
    return PAGE.render(outcome, total=total, possible=possible)
