"""Pages that are made from code: the API reference, one page a module, and the tests' sources, one page a file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole
from sphinx.util.osutil import relative_uri
from tools import ledger

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
TESTS = ROOT / "tests"


# ------------------------------------------------------------------------------------------------ the API reference


def modules(source: Path = SOURCE) -> dict[str, str]:
    """Dotted name -> first sentence of its docstring, of every module with a public definition.

    A package that only passes names on, and a name with a leading underscore, has no page.
    """
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
        if public and not any(part.startswith("_") for part in name.split(".")):
            found[name] = sentence(ast.get_docstring(tree) or "")
    return found


def sentence(docstring: str) -> str:
    """The first line of a docstring, or its first paragraph on one line."""
    return " ".join(docstring.partition("\n\n")[0].split())


def module_page(name: str) -> str:
    """The page of one module; Sphinx reads the docstrings. A package shows what it defines, not what it passes on."""
    own = "   :ignore-module-all:\n" if (SOURCE / name.replace(".", "/")).is_dir() else ""
    return (
        f"# {name.removeprefix('gmbook.')}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n"
        f"{own}   :show-inheritance:\n```\n"
    )


def api_pages(source: Path = SOURCE) -> dict[Path, str]:
    """Every page of the API reference, its table of contents first, by path below the sources."""
    rooms: dict[str, list[str]] = {}
    summaries = modules(source)
    for name in summaries:
        parts = name.split(".")
        rooms.setdefault(parts[1] if len(parts) > 2 else "", []).append(name)
    lines = [
        "# API reference",
        "",
        "From the docstrings. A label in parentheses, such as `(ddpm-posterior)`, is that of an equation, and leads to",
        'its entry in [the ledger](../ledger.md). Where a page says "the paper", the top of the page names it.',
    ]
    for room, names in rooms.items():
        lines += [
            "",
            f"## gmbook.{room}" if room else "## gmbook",
            "",
            "```{toctree}",
            ":hidden:",
            "",
            *names,
            "```",
            "",
        ]
        lines += [f"- [{name.removeprefix('gmbook.')}]({name}.md): {tame(summaries[name])}" for name in names]
    pages = {Path("api/index.md"): "\n".join(lines) + "\n"}
    return pages | {Path("api", f"{name}.md"): module_page(name) for name in summaries}


def tame(text: str) -> str:
    """A docstring's words within Markdown: stars and underscores mean themselves."""
    return re.sub(r"([*_|<\[\]])", r"\\\1", text)


# Of reStructuredText within a docstring.
PIECES = re.compile(
    r"(?P<code>``?[^`]+``?)|(?P<bold>\*\*[^*\n]+\*\*)|(?P<emphasis>(?<![\w*])\*[^\s*][^*\n]*?(?<!\s)\*(?![\w*]))|(?P<mark>[\\*|`]|(?<=\w)_(?!\w))"
)
# "steps: T." is a sentence of one letter, not the beginning of a list.
ENUMERATOR = re.compile(r"^([ \t]*(?:\w+: )?)([A-Za-z]|\d{1,3}|[ivxlc]{1,5})([.)])(?=\s|$)", re.MULTILINE)
LABELS = re.compile(r"\(((?:[a-z][a-z0-9]*(?:-[a-z0-9]+)+)(?:, [a-z][a-z0-9]*(?:-[a-z0-9]+)+)*)\)")


def restructured(docstring: str, labels: set[str]) -> str:
    """A docstring as reStructuredText.

    The book's docstrings hold plain text with Unicode mathematics: (B, *S), |x|, p_θ(x_t | x_0). Outside code they
    would be read as emphasis, substitutions and references, so these marks are escaped. Code in single backticks
    becomes literal, lists and indented blocks get the blank lines that they need, and a label in parentheses leads to
    the ledger if it is among `labels`.
    """

    def piece(match: re.Match[str]) -> str:
        if code := match["code"]:
            before, after = docstring[: match.start()][-1:], docstring[match.end() :][:1]
            glue = r"\ " if after.isalnum() else ""
            return (r"\ " if before.isalnum() else "") + f"``{code.strip('`')}``" + glue
        return match["bold"] or match["emphasis"] or "\\" + match["mark"]

    def linked(match: re.Match[str]) -> str:
        names = match[1].split(", ")
        if not set(names) <= labels:
            return match[0]
        return "(" + ", ".join(f":ref:`{name} <ledger-{name}>`" for name in names) + ")"

    docstring = "\n".join(spaced(docstring.split("\n")))
    marked = ENUMERATOR.sub(r"\1\2\\\3", PIECES.sub(piece, docstring))
    return LABELS.sub(linked, marked)


def spaced(lines: list[str]) -> Iterator[str]:
    """The lines, with a blank one before and after each list, and `::` before an indented block after a blank line."""
    before, in_list, in_section = "", False, False
    for line in lines:
        if re.match(r"(Args|Returns|Raises|Attributes|Yields):", line):
            in_section = True
        bullet = bool(re.match(r"- ", line))
        if bullet != in_list and before.strip() and not (in_list and line.startswith("  ")):
            yield ""
        if line.startswith("    ") and not before.strip() and not in_section and not in_list:
            yield "::"
            yield ""
        in_list = bullet or (in_list and (line.startswith("  ") or not line.strip()))
        yield line
        before = line


# ------------------------------------------------------------------------------------------------ the tests' sources


def target(test: str) -> str:
    """The label of a test's source on its page: "tests/core/test_paths.py::test_x" -> "test-core-test-paths-test-x"."""
    return "test-" + re.sub(r"[^a-z0-9]+", "-", test.lower().removeprefix("tests/").replace(".py", "")).strip("-")


def source_page(path: Path) -> str:
    """The source of a test file in Markdown: its head, then each test below a label that a link can name."""
    text = path.read_text(encoding="utf-8")
    rows, name = text.split("\n"), path.relative_to(ROOT).as_posix()
    starts = [("", 1)]
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.lower().startswith("test"):
            starts.append((node.name, min([node.lineno, *(d.lineno for d in node.decorator_list)])))
    starts.append(("", len(rows) + 1))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))  # longer than any in the file
    parts = ["---\norphan: true\nnosearch: true\n---\n", f"({target(name)})=\n# {name.removeprefix('tests/')}\n"]
    for (test, first), (_, beyond) in zip(starts, starts[1:]):
        if test:
            parts.append(f"({target(f'{name}::{test}')})=\n## {test}\n")
        code = "\n".join(rows[first - 1 : beyond - 1]).strip("\n")
        if code:
            parts.append(f"{fence}python\n{code}\n{fence}\n")
    return "\n".join(parts)


def source_pages(root: Path = ROOT) -> dict[Path, str]:
    """Every test file's page, by path below the sources."""
    return {
        Path("tests", path.relative_to(root / "tests").with_suffix(".md")): source_page(path)
        for path in sorted((root / "tests").rglob("test_*.py"))
    }


class Test(SphinxRole):
    """`{test}`: "tests/core/test_paths.py::test_x" as a link to its source; the name may break at underscores."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The link."""
        file, _, name = self.text.partition("::")
        page = relative_uri(f"{self.env.docname}.html", file.replace(".py", ".html"))
        link = nodes.reference("", "", internal=True, refuri=f"{page}#{target(self.text)}")
        for word in re.findall(r"[^_]*_?", name or file):
            link += [nodes.Text(word), nodes.raw("", "<wbr>", format="html")]
        return [link], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Read docstrings as plain text with Unicode mathematics; add the role."""
    labels = {entry.label for entry in ledger.collect().values() if entry.chapters}

    def prepare(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        lines[:] = restructured("\n".join(lines), labels).split("\n")

    app.connect("autodoc-process-docstring", prepare, priority=400)
    app.add_role("test", Test())
    return {"parallel_read_safe": True}
