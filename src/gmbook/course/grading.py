"""Grades many submissions, one judge for each, and writes scores.csv, and JSON and a readable page for each student."""

from __future__ import annotations

import csv
import html
import importlib.util
import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gmbook.course import judge, kit, sandbox, sheets
from gmbook.train.checkpoint import write_atomically

GRADER_SECONDS = 120.0  # that a judge may take beyond the submission's own time


@dataclass(frozen=True)
class Submission:
    """A notebook, and whose it is."""

    student: str
    notebook: Path


def submissions(paths: Sequence[Path]) -> list[Submission]:
    """The submissions that these files and folders hold.

    A notebook file is one, its student named by the file. A folder with one notebook is one, its student named by the
    folder. A folder of such files and folders holds several.

    Raises:
        ValueError: there is none, a folder has several notebooks, or two students have one name.
    """
    found = [submission for path in paths for submission in _submissions(path, within=True)]
    if not found:
        raise ValueError("no notebooks there: name .ipynb files, folders with one each, or a folder of those")
    twice = [name for name, count in Counter(s.student for s in found).items() if count > 1]
    if twice:
        raise ValueError(f"several submissions are called {twice[0]!r}: rename them, or grade them apart")
    return found


def _submissions(path: Path, within: bool) -> Iterator[Submission]:
    if path.is_file() and path.suffix == ".ipynb":
        yield Submission(path.stem, path.resolve())
        return
    if not path.is_dir():
        raise ValueError(f"{path} is neither a notebook nor a folder")
    notebooks = sorted(path.glob("*.ipynb"))
    folders = [part for part in sorted(path.iterdir()) if part.is_dir() and not part.name.startswith(".")]
    if len(notebooks) == 1 and not any(list(part.glob("*.ipynb")) for part in folders):
        yield Submission(path.resolve().name, notebooks[0].resolve())
    elif not within:
        raise ValueError(f"{path} holds {len(notebooks)} notebooks where a student's folder has one")
    else:
        for part in [*notebooks, *folders]:
            yield from _submissions(part, within=False)


def sheet_of(found: Sequence[Submission]) -> str:
    """The sheet that most of the notebooks name as theirs, for example "06_ddpm".

    Raises:
        ValueError: none of them does.
    """
    named: Counter[str] = Counter()
    for submission in found:
        try:
            name = json.loads(submission.notebook.read_bytes())["metadata"]["gmbook"]["sheet"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if type(name) is str and checks_of(name):
            named[name] += 1
    if not named:
        raise ValueError("the notebooks do not say of which sheet they are: give --sheet, for example --sheet 06_ddpm")
    return named.most_common(1)[0][0]


def checks_of(name: str) -> str:
    """The checks module of a sheet, "ddpm" for "06_ddpm" and for "ddpm"; empty where there is none."""
    stem = name.partition("_")[2] if name[:2].isdigit() else name
    known = stem.isidentifier() and importlib.util.find_spec(f"gmbook.course.checks.{stem}") is not None
    return stem if known else ""


def hidden(found: Sequence[Submission], out: Path) -> list[str]:
    """What a student's process must not see: the others' work, the scores, and the book's solutions."""
    book = [sheets.ROOT / part for part in ("chapters", "tests", "book", ".git")]
    needed = [Path(sys.prefix), Path(kit.__file__)]
    wanted = [*(s.notebook for s in found), out.resolve(), *book]
    return [str(path) for path in wanted if not any(part.is_relative_to(path) for part in needed)]


def grade(
    found: Sequence[Submission], sheet: str, out: Path, limits: judge.Limits, jobs: int
) -> Iterator[dict[str, Any]]:
    """Grade, `jobs` at a time; yields each outcome, in order, after its JSON and page are written."""
    checks = checks_of(sheet)
    if not checks:
        raise ValueError(f"there are no checks for {sheet!r} in the installed gmbook")
    out.mkdir(parents=True, exist_ok=True)
    unseen = hidden(found, out)

    def one(submission: Submission) -> dict[str, Any]:
        job = {
            "notebook": str(submission.notebook),
            "student": submission.student,
            "checks": checks,
            "limits": asdict(limits),
            "hidden": unseen,
        }
        return {"sheet": sheet, **judged(job, limits.total_seconds + GRADER_SECONDS)}

    with ThreadPoolExecutor(jobs) as pool:
        for submission, outcome in zip(found, pool.map(one, found)):
            write_atomically(out / f"{submission.student}.json", (json.dumps(outcome, indent=1) + "\n").encode())
            write_atomically(out / f"{submission.student}.html", page(outcome).encode(errors="replace"))
            yield outcome


def judged(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The outcome of one submission. Where the judge itself fails, that is said, and there is no score."""
    command = [sys.executable, "-P", "-m", "gmbook.course.judge", json.dumps(job)]
    try:
        run = subprocess.run(command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL)
        if run.returncode == 0:
            return json.loads(run.stdout)
        last = run.stderr.decode(errors="replace").strip().splitlines()[-1:]
        why = f"it ended with code {run.returncode}: {' '.join(last)}"
    except (subprocess.TimeoutExpired, ValueError) as error:
        why = kit.shortened(str(error))
    outcome = judge.Outcome(job["student"], notes=[f"NOT GRADED: the grader itself failed; {why}"])
    return asdict(outcome)


# ---------------------------------------------------------------------------------------------------- what is written


def scores(outcomes: Sequence[dict[str, Any]], exercises: dict[str, kit.Exercise]) -> str:
    """The table as CSV: student, points in all, points possible, points of each exercise, seconds, remarks."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["student", "points", "possible", *exercises, "seconds", "remarks"])
    possible = sum(exercise.points for exercise in exercises.values())
    for outcome in outcomes:
        verdicts = outcome["verdicts"]
        each = [verdicts[name]["points"] if name in verdicts else "" for name in exercises]
        total = sum(verdict["points"] for verdict in verdicts.values()) if verdicts else ""
        remarks = " | ".join(outcome["notes"])
        row = [outcome["student"], total, possible, *each, f"{outcome['seconds']:.0f}", remarks]
        table.writerow([unarmed(value) if type(value) is str else value for value in row])
    return text.getvalue()


def unarmed(text: str) -> str:
    """The text, so that a spreadsheet does not take it for a formula; on one line."""
    line = " ".join(text.split())
    return f"'{line}" if line[:1] in ("=", "+", "-", "@") else line


def missing(outcome: dict[str, Any]) -> str:
    """Which protections did not hold, for a warning; empty where all did."""
    lacking = [name for name in sandbox.ALL if name not in outcome["protections"]]
    return ", ".join(lacking) if outcome["processes"] else ""


STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto } table { border-collapse: collapse }
td, th { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top }"""


def page(outcome: dict[str, Any]) -> str:
    """The report of one student as HTML. Everything in it is escaped, and it may load and run nothing."""
    safe = html.escape
    verdicts = outcome["verdicts"].values()
    total, possible = sum(v["points"] for v in verdicts), sum(v["possible"] for v in verdicts)
    rows = "".join(
        f"<tr><td>{safe(v['exercise'])}</td><td>{v['points']} of {v['possible']}</td><td>{safe(word(v))}</td></tr>\n"
        for v in verdicts
    )
    notes = "".join(f"<li>{safe(note)}</li>\n" for note in outcome["notes"]) or "<li>none</li>"
    answers = "".join(
        f"<h3>{safe(name)}</h3>\n<pre>{safe(source[:20_000])}</pre>\n" for name, source in outcome["sources"].items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{safe(outcome["student"])}: {total} of {possible}</title><style>{STYLE}</style></head><body>
<h1>{safe(outcome["student"])}</h1>
<p>Sheet {safe(outcome["sheet"])}: <strong>{total} of {possible} points</strong>,
graded in {outcome["seconds"]:.0f} s.</p>
<table><tr><th>exercise</th><th>points</th><th>what the check says</th></tr>
{rows}</table>
<h2>What happened to cells</h2>
<ul>
{notes}</ul>
<h2>Answers</h2>
{answers}
<h2>What was printed</h2>
<pre>{safe(outcome["output"]) or "nothing"}</pre>
</body></html>
"""


def word(verdict: dict[str, Any]) -> str:
    """A verdict in words."""
    if verdict["answered"] and not verdict["hint"]:
        return "right"
    return verdict["hint"] or "not answered"
