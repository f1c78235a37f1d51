"""What was handed in: files, folders, zips, and what learning platforms make of them; nobody is lost, nothing followed.

Everything below the named paths is listed as `Item`s, those within zips too; nothing is unpacked. What belongs to one
student becomes one `Submission`, which has one notebook, or the reason why it has none. All other files are in `left`,
each with a reason. Names of Moodle (`Ada Lovelace_4711_assignsubmission_file_`) and Canvas
(`lovelaceada_LATE_4711_123_06_ddpm.ipynb`) are taken apart.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

MOST = 50 << 20  # bytes of a notebook
MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext)_?")
CANVAS = re.compile(r"(?P<name>[^_]+)(?P<late>_LATE)?_(?P<id>\d{2,})_(\d{4,}_.+|(text|link)\.html)")
SYSTEM = re.compile(r"\..*|__MACOSX|Thumbs\.db|desktop\.ini", re.IGNORECASE)
NOTEBOOK = re.compile(r"(?P<stem>.*)\.ipynb(\.txt|\.json)?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Item:
    """A file, a link or an empty folder; `where` are the names from the named path down."""

    where: tuple[str, ...]
    size: int = 0
    read: Callable[[], bytes] | None = None
    why: str = ""  # it cannot be read

    @property
    def notebook(self) -> bool:
        """Whether its name is that of a notebook."""
        return NOTEBOOK.fullmatch(self.where[-1]) is not None and not self.system

    @property
    def system(self) -> bool:
        """Whether an operating system or Jupyter made it, not a student."""
        return any(SYSTEM.fullmatch(part) for part in self.where)

    def content(self) -> bytes:
        """What the file holds.

        Raises:
            ValueError: it cannot be read, or is too large; the message says why.
        """
        if self.read is None or self.why:
            raise ValueError(self.why)
        if self.size > MOST:
            raise ValueError(f"the file is larger than {MOST >> 20} MB")
        try:
            return self.read()
        except Exception as error:  # those of a damaged zip are of every kind: zlib.error, LZMAError, …
            raise ValueError(f"the file cannot be read ({type(error).__name__}: {error})") from None


@dataclass
class Submission:
    """One student's work.

    Attributes:
        student: the name, unique in its class, printable.
        item: the notebook; None where there is none, then `why` says the reason.
        id: the learning platform's number.
        original: the file or folder as the platform called it.
        remarks: what else the lecturer should know.
    """

    student: str
    item: Item | None = None
    why: str = ""
    id: str = ""
    original: str = ""
    remarks: list[str] = field(default_factory=list)

    def text(self) -> bytes:
        """The notebook.

        Raises:
            ValueError: there is none, or it cannot be read; the message says why.
        """
        if self.item is None or self.why:
            raise ValueError(self.why or "there is no notebook")
        return self.item.content()


@dataclass
class Class:
    """All submissions, and the files that are none of a student's notebook: (file, reason)."""

    submissions: list[Submission] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------- listing files


def items(path: Path, without: Path | None = None, where: tuple[str, ...] = ()) -> Iterator[Item]:
    """Everything below a folder or a zip, sorted; nothing that is linked."""
    if path.is_symlink():
        yield Item(where or (path.name,), why="a symbolic link, which is not followed")
    elif len(where) > 20:
        yield Item(where, why="folders within folders, too deep")
    elif path.is_dir():
        if without and path.resolve() == without:
            return
        try:
            parts = sorted(path.iterdir())
        except OSError as error:
            yield Item(where, why=f"the folder cannot be read ({error.strerror})")
            return
        if not parts and where:
            yield Item(where, why="an empty folder")
        for part in parts:
            yield from items(part, without, (*where, part.name))
    elif not path.is_file():
        yield Item(where, why="neither a file nor a folder")
    elif path.suffix.lower() == ".zip" and not SYSTEM.fullmatch(path.name):
        yield from zipped(path, where)
    else:
        yield Item(where or (path.name,), path.stat().st_size, path.read_bytes)


def zipped(path: Path | io.BytesIO, where: tuple[str, ...]) -> Iterator[Item]:
    """The files within a zip, and within the zips of students within that."""
    try:
        with zipfile.ZipFile(path) as archive:
            listed = [info for info in archive.infolist() if not info.is_dir()]
    except Exception:  # of every kind, see `content`
        yield Item(where, why="no zip, or a damaged one")
        return
    if not listed or len(listed) > 100_000:
        yield Item(where, why=f"a zip with {len(listed)} files")
    stem = (*where[:-1], where[-1][:-4]) if where else ()
    for info in listed[:100_000]:
        parts = tuple(part for part in info.filename.replace("\\", "/").split("/") if part not in ("", ".", ".."))
        item = Item((*stem, *(parts or ("?",))), info.file_size, partial(member, path, info))
        if info.external_attr >> 28 == 0o12:
            yield replace(item, why="a symbolic link, which is not followed")
        elif item.where[-1].lower().endswith(".zip") and isinstance(path, Path):
            try:
                inner = io.BytesIO(item.content())
            except ValueError as error:
                yield replace(item, why=str(error))
            else:
                yield from zipped(inner, item.where)
        else:
            yield item


def member(path: Path | io.BytesIO, info: zipfile.ZipInfo) -> bytes:
    """A file of a zip: no more than it says of its own size, and no more than `MOST`, is unpacked."""
    with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
        return stream.read(MOST)


# ------------------------------------------------------------------------------------------------ who handed in what


def collect(paths: Sequence[Path], without: Path | None = None) -> Class:
    """The class that these files and folders hold.

    A notebook file is a submission, its student named by the file. A folder with one notebook is one, its student
    named by the folder. A folder, or a zip, of such files, folders and zips holds several.

    Args:
        without: a folder that is not looked into: the one for the grades.

    Raises:
        ValueError: a path does not exist, or there is no notebook in any.
    """
    made = Class()
    for path in paths:
        if not path.exists() and not path.is_symlink():
            raise ValueError(f"{path} is neither a notebook nor a folder: it does not exist")
        listed = list(items(path, without))
        kept = [item for item in listed if not SYSTEM.fullmatch(item.where[0])]
        made.left += [("/".join(item.where), "a file of the system's") for item in listed if item not in kept]
        notebooks = [item for item in kept if item.notebook]
        top = {item.where[0] for item in kept}
        if path.suffix.lower() == ".zip" and len(top) == 1 and len(notebooks) > 1:  # a folder that was zipped
            kept = [replace(item, where=item.where[1:]) for item in kept if len(item.where) > 1]
        several = any(len(item.where) > 1 or item.why or platform(item) for item in kept)
        alone = len(notebooks) == 1 and not several and (path.is_dir() or path.suffix.lower() == ".zip")
        groups: dict[str, list[Item]] = {}
        for item in kept:
            groups.setdefault(path.resolve().name if alone else owner(item), []).append(item)
        for original, group in groups.items():
            made.submissions.append(one(original, group, made.left))
    if not any(submission.item for submission in made.submissions):
        raise ValueError("no notebooks there: name .ipynb files, folders with one each, or a folder or zip of those")
    distinct(made.submissions)
    return made


def platform(item: Item) -> re.Match[str] | None:
    """What a learning platform's name for it says; None where it has another name."""
    return MOODLE.match(item.where[0]) or CANVAS.fullmatch(item.where[0])


def owner(item: Item) -> str:
    """The key by which a student's files belong together."""
    first, known = item.where[0], platform(item)
    if known:
        return first[: known.end("id")]
    whole = NOTEBOOK.fullmatch(first)
    return whole["stem"] or first if whole else Path(first).stem if len(item.where) == 1 else first


def one(original: str, group: list[Item], left: list[tuple[str, str]]) -> Submission:
    """A student's submission, out of all files; the others go to `left`."""
    known = platform(group[0])
    told = known.groupdict() if known else {}
    made = Submission(printable(told.get("name", original)), id=told.get("id", ""), original=group[0].where[0])
    if told.get("late"):
        made.remarks.append("handed in late")
    found = [item for item in group if item.notebook and not item.why]
    depth = {item: max(2, len(item.where)) for item in found}  # a file of one's own is as high as one in one's folder
    best = [item for item in found if depth[item] == min(depth.values())]
    if len(best) == 1:
        made.item = best[0]
        names = [printable("/".join(item.where)) for item in found if item not in best]
        made.remarks += [f"not graded, for it lies deeper: {name}" for name in names]
    elif best:
        made.why = f"{len(best)} notebooks: {', '.join(printable(item.where[-1]) for item in best)}; leave one"
    else:
        made.why = next((item.why for item in group if item.why and not item.system), "no notebook among the files")
    for item in group:
        if item is not made.item:
            why = "a file of the system's" if item.system else item.why or made.why
            left.append(("/".join(item.where), why or "not the notebook that was graded"))
    return made


def printable(name: str) -> str:
    """A file's name as text, whatever its bytes are; on one line."""
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of an older system
        name = os.fsencode(name).decode("latin-1")
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in name).strip() or "?"


def distinct(submissions: Sequence[Submission]) -> None:
    """Give students of one name the platform's number, or none of them a grade."""
    for s in namesakes(submissions):
        s.student = f"{s.student} {s.id}" if s.id else s.student
    seen: Counter[str] = Counter()
    for s in namesakes(submissions):
        seen[s.student.casefold()] += 1
        s.why = f"several submissions are called {s.student!r}: rename them, or grade them apart"
        s.item, s.student = None, f"{s.student} ({seen[s.student.casefold()]})"


def namesakes(submissions: Sequence[Submission]) -> list[Submission]:
    """Those who share their names with others."""
    names = Counter(s.student.casefold() for s in submissions)
    return [s for s in submissions if names[s.student.casefold()] > 1]


# -------------------------------------------------------------------------------------------------------- a roster


def roster(path: Path) -> list[tuple[str, str]]:
    """Names and identifiers out of a CSV file: one's own, a grading sheet of Moodle's, or a gradebook of Canvas's.

    Raises:
        ValueError: it has no column that says who a student is.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    first = text.partition("\n")[0]
    lines = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    found = []
    for line in lines:
        told = {f"{key}".replace(" ", "").lower(): value.strip() for key, value in line.items() if type(value) is str}
        name = next((told[key] for key in ("student", "fullname", "name") if told.get(key)), "")
        name = name or f"{told.get('firstname', '')} {told.get('lastname', told.get('surname', ''))}".strip()
        number = next((told[key] for key in ("identifier", "id", "idnumber") if told.get(key)), "")
        if name and name.lower() not in ("points possible", "student, test"):
            found.append((printable(name), number.removeprefix("Participant ")))
    if not found:
        raise ValueError(f"{path} names nobody: it must be a CSV file with a column 'student', and perhaps 'id'")
    return found


def compare(made: Class, people: Sequence[tuple[str, str]]) -> list[Submission]:
    """Say who is not on the roster, fill in identifiers; the submissions of those who are missing."""

    def alike(name: str) -> str:
        return "".join(c for c in name.casefold() if c.isalnum())

    known: dict[str, tuple[str, str]] = {}
    for person in people:
        known |= {key: person for key in (alike(person[0]), person[1]) if key}
    present: set[tuple[str, str]] = set()
    for submission in made.submissions:
        found = known.get(submission.id) or known.get(alike(submission.student))
        if found is None:
            submission.remarks.append("not on the roster")
            continue
        present.add(found)
        submission.id = submission.id or found[1]
    missing = [person for person in people if person not in present]
    return [Submission(name, why="nothing was handed in", id=number) for name, number in missing]


def sheet_named(text: bytes) -> str:
    """The sheet that a notebook says it is of; empty where it does not."""
    try:
        name = json.loads(text)["metadata"]["gmbook"]["sheet"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return name if type(name) is str else ""
