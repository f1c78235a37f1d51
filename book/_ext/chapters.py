"""The chapters on the site: their place in the contents, their numbers, links to them, and how to have one."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from book._ext import Generated
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.math import MathDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole

from gmbook import registry
from gmbook.course import sheets

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = os.environ.get("GMBOOK_REPOSITORY", "").rstrip("/")
BRANCH = os.environ.get("GMBOOK_BRANCH", "main")


# -------------------------------------------------------------------------------------------------- contents and links


def contents(root: Path = ROOT) -> str:
    """The tables of contents, one for each part of the book: each chapter before its exercises."""
    tables = []
    for part, chapters in registry.read().by_part.items():
        folders = [root / "chapters" / chapter.chapter for chapter in chapters if chapter.text(root)]
        pages = [p for f in folders for p in sorted(f.glob("*.md"), key=lambda p: (p.stem.startswith("exercises"), p))]
        listed = "\n".join(f"/{page.relative_to(root).with_suffix('').as_posix()}" for page in pages)
        if listed:
            tables.append(f"```{{toctree}}\n:hidden:\n:caption: {part}\n\n{listed}\n```\n")
    return "\n".join(tables)


class Contents(Generated):
    """`{chapters}`: the tables of contents of the parts."""

    markdown = staticmethod(contents)


def exercise_sheets() -> str:
    """A table of the sheets: how many exercises, points, and stars of each number."""
    rows = []
    for sheet in sheets.sheets():
        known = sheet.exercises.values()
        stars = Counter(exercise.stars for exercise in known)
        told = ", ".join(f"{stars[number]} × {'★' * number}" for number in sorted(stars))
        rows.append(f"| {sheet.name} | {len(known)} | {sum(exercise.points for exercise in known)} | {told} |\n")
    return "| sheet | exercises | points | stars |\n|---|---|---|---|\n" + "".join(rows)


class Sheets(Generated):
    """`{sheets}`: the table of the exercise sheets."""

    markdown = staticmethod(exercise_sheets)


class Chapter(SphinxRole):
    """`{chapter}`: a chapter's number and name, by its key or number; a link once the chapter is written."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The link, or the words alone."""
        self.env.note_reread()
        (chapter,) = [e for e in registry.read().entries.values() if self.text in (e.key, e.chapter.partition("_")[0])]
        words = nodes.inline("", chapter.heading)
        if not (text := chapter.text(ROOT)):
            return [words], []
        target = {"reftarget": f"/{text.removesuffix('.md')}", "refdoc": self.env.docname, "refexplicit": True}
        return [addnodes.pending_xref("", words, refdomain="std", reftype="doc", refwarn=True, **target)], []


# ------------------------------------------------------------------------------------------------------------- numbers


def chapter_number(page: str) -> str:
    """ "chapters/06_ddpm/ddpm" -> "6"; empty for a page that is no chapter."""
    found = re.match(r"chapters/(\d+)_", page)
    return str(int(found[1])) if found else ""


class ChapterMath(MathDomain):
    """Equations numbered within their chapter: (6.3) stays (6.3) when another chapter gains one."""

    def note_equation(self, docname: str, labelid: str, location: Any = None) -> None:
        """Note an equation, with the chapter's number before its own."""
        super().note_equation(docname, labelid, location)
        count = sum(page == docname for page, _ in self.equations.values())
        self.equations[labelid] = (docname, f"{chapter_number(docname)}.{count}".removeprefix("."))


def number_figures(app: Sphinx, env: BuildEnvironment) -> None:
    """Figures numbered within their chapter, as equations are."""
    for page, kinds in env.toc_fignumbers.items():
        if number := chapter_number(page):
            for numbers in kinds.values():
                numbers.update({name: (int(number), i) for i, name in enumerate(numbers, 1)})


# ----------------------------------------------------------------------------------------------------- how to have one


def weeks(number: str, root: Path = ROOT) -> list[str]:
    """The weeks of the lecturer's plan that have this chapter, "06" -> ["7", "8"]; each has two sessions."""
    plan = (root / "book" / "course.md").read_text(encoding="utf-8").split("## Fourteen weeks")[1].split("\n## ")[0]
    return [line.split("|")[1].strip() for line in plan.splitlines() if f"{{chapter}}`{number}`" in line]


def in_a_course(page: str, up: str, root: Path = ROOT) -> list[str]:
    """Links from a chapter to its sheet, and to its weeks in a course."""
    folder = root / Path(page).parent
    links = ['<a href="exercises.html">Exercises</a>'] if (folder / "exercises.md").exists() else []
    if found := weeks(folder.name.partition("_")[0], root):
        spelled = f"week{'s' if len(found) > 1 else ''} {' and '.join(found)}"
        links.append(f'<a href="{up}course.html#fourteen-weeks">In a course: {spelled}</a>')
    return links


def how_to_have(page: str, up: str) -> str:
    """The line below a chapter's title: the notebook with its outputs, JupyterLab, exercises, what runs elsewhere."""
    name = page.rpartition("/")[2]
    if name.startswith("exercises"):
        return f'<p class="gm-have"><a href="{name}.ipynb" download>Notebook with blanks (.ipynb)</a></p>'
    parts = [
        f'<a href="{name}.ipynb" download>Executed notebook (.ipynb)</a>',
        f'<span><a href="{up}read.html#in-jupyterlab">In JupyterLab</a>: <code>make lab</code>, then '
        f"<code>{page.removeprefix('chapters/')}.md</code></span>",
        *in_a_course(page, up),
    ]
    if REPOSITORY:
        home = REPOSITORY.removeprefix("https://github.com/")
        parts += [
            f'<a href="https://colab.research.google.com/github/{home}/blob/{BRANCH}/{page}.ipynb">Colab</a>',
            f'<a href="https://mybinder.org/v2/gh/{home}/{BRANCH}?urlpath=lab/tree/{page}.ipynb">Binder</a>',
        ]
    return f'<p class="gm-have">{"".join(parts)}</p>'


def add_how_to_have(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Put that line into a chapter's page."""
    if pagename.startswith("chapters/") and "body" in context:
        line = how_to_have(pagename, "../" * pagename.count("/"))
        context["body"] = context["body"].replace("</h1>", f"</h1>\n{line}", 1)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add directives and role, number by chapter, put the links above a chapter."""
    app.add_directive("chapters", Contents)
    app.add_directive("sheets", Sheets)
    app.add_role("chapter", Chapter())
    app.connect("html-page-context", add_how_to_have)
    app.connect("env-check-consistency", number_figures)
    app.add_domain(ChapterMath, override=True)
    return {"parallel_read_safe": True}
