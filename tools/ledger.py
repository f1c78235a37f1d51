"""The ledger: which test checks which labelled equation, and which function implements it.

Collected from three places, without importing anything:

- chapters: `$$ … $$ (label)` and the `{math}` directive's `:label:`, in the text of a chapter or exercise sheet;
- tests: `@pytest.mark.equation("label")`;
- code: a label in parentheses, `(label)` or `(label, label)`, in a docstring under src.

    python -m tools.ledger            print the ledger
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gmbook import registry

ROOT = Path(__file__).resolve().parents[1]

NAME = r"[a-z][a-z0-9]*(?:-[a-z0-9]+)+"
DISPLAYED = re.compile(r"\$\$(?P<math>.*?)\$\$[ \t]*(?:\((?P<label>[^()\n]+)\))?", re.DOTALL)
DIRECTIVE = re.compile(r"^(?P<fence>`{3,}|:{3,})\{math\}[^\n]*\n(?P<body>.*?)^(?P=fence)", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^(`{3,})(?:\{code[a-z-]*\}|[a-z]).*?^\1", re.DOTALL | re.MULTILINE)
IN_DOCSTRING = re.compile(rf"\(({NAME}(?:, {NAME})*)\)")


@dataclass
class Entry:
    """One labelled equation: where it is stated, implemented and tested."""

    label: str
    math: str = ""
    place: int = 0  # among the equations of the book
    chapters: list[str] = field(default_factory=list)  # "06_ddpm/ddpm.md", relative to chapters/
    functions: list[str] = field(default_factory=list)  # "gmbook.papers.ddpm.DDPM.posterior"
    tests: list[str] = field(default_factory=list)  # "tests/papers/test_ddpm.py::test_posterior"

    @property
    def is_definition(self) -> bool:
        """A definition states nothing that a test could refute."""
        return self.label.startswith("def-")

    @property
    def chapter(self) -> str | None:
        """The name of the chapter that the label's prefix belongs to; None for an unknown prefix.

        A prefix that several chapters share belongs to the first that needs it. While a chapter is not written, its
        labels may be tested before they are shown.
        """
        return registry.read().chapter_of.get(self.label.removeprefix("def-").split("-")[0])


def equations(text: str) -> Iterator[tuple[str, str]]:
    """(label, mathematics) of every labelled displayed equation of a chapter's text."""
    prose = CODE.sub("", text)
    for match in DISPLAYED.finditer(prose):
        if match["label"]:
            yield match["label"], match["math"].strip()
    for match in DIRECTIVE.finditer(prose):
        for label in re.findall(r"^:label:[ \t]*(\S+)", match["body"], re.MULTILINE):
            yield label, re.sub(r"^:\w+:.*\n", "", match["body"], flags=re.MULTILINE).strip()


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """(dotted name, node) of the module ("") and of every class and function in it."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}.{child.name}".lstrip(".")
                yield name, child
                yield from walk(child, name)

    yield "", tree
    yield from walk(tree, "")


def marked(tree: ast.Module, mark: str = "equation") -> Iterator[tuple[str, str]]:
    """(argument, name of the test) of every `pytest.mark.<mark>(...)`; the name is "" for a whole module's mark."""

    def walk(node: ast.AST, owner: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            name = owner
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                name = f"{owner}::{child.name}".removeprefix("::")
            if isinstance(child, ast.Call) and ast.unparse(child.func).endswith(f"mark.{mark}"):
                for argument in child.args:
                    yield ast.literal_eval(argument), owner
            yield from walk(child, name)

    yield from walk(tree, "")


def collect(root: Path = ROOT) -> dict[str, Entry]:
    """Every label of the book, its tests and its code, by label."""
    ledger: dict[str, Entry] = {}

    def entry(label: str) -> Entry:
        return ledger.setdefault(label, Entry(label))

    for text in sorted((root / "chapters").glob("*/*.md")):
        for label, math in equations(text.read_text(encoding="utf-8")):
            entry(label).chapters.append(text.relative_to(root / "chapters").as_posix())
            entry(label).math, entry(label).place = math, len(ledger)
    for path in sorted((root / "src").rglob("*.py")):
        module = ".".join(path.relative_to(root / "src").with_suffix("").parts)
        for name, node in definitions(ast.parse(path.read_text(encoding="utf-8"))):
            docstring = ast.get_docstring(node) or ""  # type: ignore[arg-type]
            for labels in IN_DOCSTRING.findall(docstring):
                for label in labels.split(", "):
                    function = f"{module}.{name}".rstrip(".")
                    known = label in ledger or entry_prefix_known(label)
                    if known and function not in entry(label).functions:
                        entry(label).functions.append(function)
    for path in sorted((root / "tests").rglob("test_*.py")):
        for label, test in marked(ast.parse(path.read_text(encoding="utf-8"))):
            entry(label).tests.append(f"{path.relative_to(root).as_posix()}::{test}".removesuffix("::"))
    return dict(sorted(ledger.items()))


def entry_prefix_known(label: str) -> bool:
    """A hyphenated word in a docstring's parentheses is a label only if its prefix is in the table."""
    return Entry(label).chapter is not None


def written(root: Path = ROOT) -> set[str]:
    """The names of the chapters that have a text: chapters/NN_name/name.md."""
    folders = (path.parent.name for path in (root / "chapters").glob("*/*.md") if not path.stem.startswith("exercises"))
    return {folder.partition("_")[2] for folder in folders}


def problems(ledger: dict[str, Entry], chapters: set[str]) -> list[str]:
    """What the ledger lacks, one line each. `chapters` are the names of those that are written."""
    found = []
    by_count: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in ledger.values():
        if not re.fullmatch(NAME, entry.label):
            by_count["is not a kebab-case label with a prefix, such as ddpm-posterior"].append(entry)
        elif entry.chapter is None:
            by_count["has a prefix that no entry of papers.toml has among its labels"].append(entry)
        elif len(entry.chapters) > 1:
            by_count[f"labels more than one equation: {entry.chapters}"].append(entry)
        elif entry.chapters and not entry.tests and not entry.is_definition:
            by_count[f"in {entry.chapters[0]} has no test: mark one with @pytest.mark.equation"].append(entry)
        elif entry.chapter in chapters and not entry.chapters:
            by_count[f"has code or a test ({[*entry.tests, *entry.functions][0]}) but no chapter states it"].append(
                entry
            )
    for reason, entries in by_count.items():
        found += [f"{entry.label} {reason}" for entry in entries]
    return found


@dataclass(frozen=True)
class Coverage:
    """Counts of what the chapters state."""

    claims: int
    tested: int
    implemented: int  # claims that a docstring names
    definitions: int

    def __str__(self) -> str:
        return (
            f"{self.claims} claims, {self.tested} of them tested, {self.implemented} named by the function that "
            f"implements them; {self.definitions} definitions"
        )


def coverage(entries: Iterable[Entry]) -> Coverage:
    """Counts over the entries that a chapter states."""
    stated = [entry for entry in entries if entry.chapters]
    claims = [entry for entry in stated if not entry.is_definition]
    tested, implemented = sum(bool(entry.tests) for entry in claims), sum(bool(entry.functions) for entry in claims)
    return Coverage(len(claims), tested, implemented, len(stated) - len(claims))


# --------------------------------------------------------------------------------------------------------- the badge

README_LINE = re.compile(r"!\[Ledger: \d+ equations that state something, \d+ of them tested\]")


def badge(count: Coverage) -> tuple[str, str]:
    """The README's words and the picture, an SVG."""
    words = f"![Ledger: {count.claims} equations that state something, {count.tested} of them tested]"
    text = f"{count.tested} of {count.claims} equations tested"
    colour = "#00664A" if count.tested == count.claims else "#A64700"
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="236" height="20" role="img" aria-label="ledger: {text}">'
        f'<title>ledger: {text}</title><rect width="236" height="20" rx="3" fill="#444"/>'
        f'<path d="M50 0h183a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3H50z" fill="{colour}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f'<text x="6" y="14">ledger</text><text x="56" y="14">{text}</text></g></svg>\n'
    )
    return words, picture


def write_badge(root: Path = ROOT) -> bool:
    """Bring the README's number and book/badge.svg up to date. True if something changed."""
    words, picture = badge(coverage(collect(root).values()))
    changed = False
    for path, content in (
        (root / "README.md", README_LINE.sub(words, (root / "README.md").read_text(encoding="utf-8"))),
        (root / "book" / "badge.svg", picture),
    ):
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
            changed = True
    return changed


if __name__ == "__main__":
    book = collect()
    for item in book.values():
        print(f"{item.label:40} {len(item.chapters)} chapter  {len(item.functions)} code  {len(item.tests)} tests")
    print(coverage(book.values()))
    print("\n".join(problems(book, written())))
