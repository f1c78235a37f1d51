"""The ledger's page, and the numbers of this state of the book."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

from book._ext import Generated
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole
from tools.chapters import CHECK
from tools.ledger import CODE, ROOT, Entry, collect, coverage

from gmbook import registry


def page(ledger: dict[str, Entry]) -> str:
    """The content of the ledger's page, in MyST Markdown: every equation that a chapter states, by chapter."""
    by_chapter: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(ledger.values(), key=lambda entry: entry.place):
        for chapter in entry.chapters[:1]:
            by_chapter[chapter].append(entry)
    lines = [f"**{coverage(ledger.values())}.**", ""]
    order = registry.read().order
    place = {chapter: [*order, name(chapter)].index(name(chapter)) for chapter in by_chapter}
    if by_chapter:
        lines += ["| chapter | claims | tested | with a function | definitions |", "|---|---|---|---|---|"]
    for chapter, entries in sorted(by_chapter.items(), key=lambda item: (place[item[0]], item[0])):
        count = coverage(entries)
        link = f"[{named(chapter)}](#ledger-{Path(chapter).stem.replace('_', '-')})"
        lines.append(f"| {link} | {count.claims} | {count.tested} | {count.implemented} | {count.definitions} |")
    for chapter, entries in sorted(by_chapter.items(), key=lambda item: (place[item[0]], item[0])):
        lines += ["", f"(ledger-{Path(chapter).stem.replace('_', '-')})=", f"## {named(chapter)}", ""]
        lines += [line for entry in entries for line in shown(entry)]
    return "\n".join(lines) + "\n"


def name(chapter: str) -> str:
    """The chapter's key in the register: "06_ddpm/exercises.md" -> "ddpm"."""
    return Path(chapter).parent.name.partition("_")[2]


def named(chapter: str) -> str:
    """The title of a chapter, such as "06 · Denoising diffusion: DDPM"; the path where there is no text."""
    path = ROOT / "chapters" / chapter
    titles = re.findall(
        r"^# (.+)$", CODE.sub("", path.read_text(encoding="utf-8")) if path.exists() else "", re.MULTILINE
    )
    return titles[0] if titles else chapter


def shown(entry: Entry) -> list[str]:
    """One equation's entry, in MyST Markdown: number and label, the equation, its functions, its tests."""
    chapter = Path("/chapters", entry.chapters[0]).as_posix()
    functions = ", ".join(f"{{py:obj}}`{name.removeprefix('gmbook.')} <{public(name)}>`" for name in entry.functions)
    tests = ", ".join(f"{{test}}`{test}`" for test in entry.tests)
    kind = ["definition"] * entry.is_definition + [f"tested by {tests}"] * bool(tests)
    return [
        "::::{div} gm-entry",
        f"({'ledger-' + entry.label})=",
        f"{{eq}}`{entry.label}` **{entry.label}** in [{named(entry.chapters[0])}]({chapter})",
        "",
        "$$",
        entry.math,
        "$$",
        "",
        (f"{functions}: " if functions else "") + ", ".join(kind or ["no test yet"]),
        "::::",
        "",
    ]


def public(name: str) -> str:
    """The dotted name up to its first part with a leading underscore: what the API reference has a place for."""
    return re.sub(r"\._.*", "", name)


@cache
def counts() -> dict[str, str]:
    """What this state of the book has, by name: test functions, coverage of the ledger, check cells, facts."""
    tests = [
        node.name
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    facts = [path for path in (ROOT / "tests" / "facts").glob("*.toml") if path.stem != "later"]
    return {
        "functions": str(len(tests)),
        "coverage": str(coverage(collect().values())),
        "checks": str(sum(path.read_text(encoding="utf-8").count(CHECK) for path in ROOT.glob("chapters/*/*.md"))),
        "facts": str(sum(len(tomllib.loads(path.read_text(encoding="utf-8"))) for path in facts)),
    }


class Ledger(Generated):
    """`{ledger}`: coverage, and every equation with its functions and tests."""

    def markdown(self) -> str:
        """The content."""
        return page(collect())


class Count(SphinxRole):
    """`{count}`: one of `counts`."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The number."""
        self.env.note_reread()
        return [nodes.Text(counts()[self.text])], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Add directive and role."""
    app.add_directive("ledger", Ledger)
    app.add_role("count", Count())
    return {"parallel_read_safe": True}
