"""The book's register: its chapters, its papers and the systems around them, read from papers.toml beside this file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("papers.toml")


@dataclass(frozen=True)
class Family:
    """A colour of the map, the colour of the letters on it, and what it stands for."""

    name: str
    colour: str
    ink: str


@dataclass(frozen=True)
class Paper:
    """One entry: a chapter of the book (written or planned), a system without one, or both; papers.toml says what
    each field is."""

    key: str
    name: str
    claim: str
    title: str = ""
    authors: str = ""
    venue: str = ""
    year: int = 0
    arxiv: str = ""
    part: str = ""
    chapter: str = ""
    labels: tuple[str, ...] = ()
    family: str = ""
    lane: int = 0
    architecture: bool = False
    builds_on: dict[str, str] = field(default_factory=dict)
    compared_with: tuple[str, ...] = ()
    notation: tuple[str, ...] = ()

    @property
    def month(self) -> tuple[int, int]:
        """(year, month) of the first version, from the arXiv number."""
        return 2000 + int(self.arxiv[:2]), int(self.arxiv[2:4])

    @property
    def number(self) -> str:
        """The chapter's number, as "06"; empty for a system."""
        return self.chapter.partition("_")[0]

    @property
    def heading(self) -> str:
        """Number and name, as "06 · DDPM"; the name alone for a system."""
        return f"{self.number} · {self.name}" if self.number else self.name

    @property
    def cited(self) -> str:
        """Surnames and year, as "Kingma & Welling 2014" or "Ho et al. 2020"; empty where the authors are not given."""
        names = [name.partition(",")[0] for name in self.authors.split(" and ") if name]
        return f"{names[0]} et al. {self.year}" if len(names) > 2 else " & ".join(names) + f" {self.year}" * bool(names)

    def text(self, root: Path) -> str:
        """The path of the chapter's text below `root`, "chapters/06_ddpm/ddpm.md"; empty while it is not written."""
        path = Path("chapters", self.chapter, f"{self.key}.md")
        return path.as_posix() if self.chapter and (root / path).exists() else ""


@dataclass(frozen=True)
class Registry:
    """All entries by key, in the file's order; the parts of the book in theirs; the families of the map."""

    parts: tuple[str, ...]
    families: dict[str, Family]
    entries: dict[str, Paper]

    @property
    def chapters(self) -> list[Paper]:
        """The entries with a chapter, in the book's order: by part, and within a part as the file has them."""
        return sorted((e for e in self.entries.values() if e.chapter), key=lambda e: self.parts.index(e.part))

    @property
    def by_part(self) -> dict[str, list[Paper]]:
        """The chapters of each part that has any."""
        found = {part: [chapter for chapter in self.chapters if chapter.part == part] for part in self.parts}
        return {part: chapters for part, chapters in found.items() if chapters}

    @property
    def papers(self) -> dict[str, Paper]:
        """The entries that are on arXiv: all of the map."""
        return {key: entry for key, entry in self.entries.items() if entry.arxiv}

    @property
    def order(self) -> list[str]:
        """All keys: chapters in the book's order, then the systems in the file's."""
        return list(dict.fromkeys([chapter.key for chapter in self.chapters] + list(self.entries)))

    @property
    def chapter_of(self) -> dict[str, str]:
        """Prefix of a label -> key of the chapter that it belongs to."""
        return {prefix: entry.key for entry in self.entries.values() for prefix in entry.labels}


def parse(text: str) -> Registry:
    """The register that a file's text says.

    Raises:
        ValueError: an entry lacks a field, has one that is unknown, or names a part, family or paper that is not there.
    """
    data = tomllib.loads(text)
    entries = {}
    for key, table in data["papers"].items():
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in table.items()}
        try:
            entries[key] = Paper(key, **fields)
        except TypeError as error:
            complaint = str(error).replace("Paper.__init__()", "the entry")
            raise ValueError(f"papers.toml, [papers.{key}]: {complaint}") from None
    families = {key: Family(**entry) for key, entry in data["families"].items()}
    for key, entry in entries.items():
        if complaint := _complaint(entry, data["parts"], families, entries):
            raise ValueError(f"papers.toml, [papers.{key}]: {complaint}")
    return Registry(tuple(data["parts"]), families, entries)


def _complaint(entry: Paper, parts: list[str], families: dict[str, Family], entries: dict[str, Paper]) -> str:
    """What is wrong with an entry, if anything."""
    if entry.chapter and entry.part not in parts:
        return f"part {entry.part!r} is none of {', '.join(parts)}"
    if entry.chapter and entry.chapter.partition("_")[2] != entry.key:
        return f'the chapter\'s folder is named "NN_{entry.key}", not {entry.chapter!r}'
    if entry.arxiv and entry.family not in families:
        return f"family {entry.family!r} is none of {', '.join(families)}"
    if unknown := [other for other in (*entry.builds_on, *entry.compared_with) if other not in entries]:
        return f"it names {', '.join(unknown)}, which has no entry"
    if taken := [p for p in entry.labels for other in entries.values() if other is not entry and p in other.labels]:
        return f"the prefix {taken[0]!r} of its labels is another entry's too"
    return ""


@cache
def read() -> Registry:
    """The book's register."""
    return parse(FILE.read_text(encoding="utf-8"))
