"""The built site as files: links, alt texts, notebooks, size. No browser."""

from __future__ import annotations

import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from book._ext import papers, reference
from book._ext.ledger import public
from tools import ledger

LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
# An exercise sheet is shown with its blanks, and not run.
CHAPTERS = sorted(path for path in papers.ROOT.glob("chapters/*/*.md") if not path.stem.startswith("exercises"))
NOT_FETCHED = {"canonical", "next", "prev", "index", "search", "license"}  # <link rel=...> that only points


class Found(HTMLParser):
    """Of one page: ids, links, what it loads, images, and the elements that it has."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.classes: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {given[key] or "" for key in ("id", "name") if key in given}
        self.classes |= set((given.get("class") or "").split())
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        if tag == "img":
            self.images.append(given)
        address = given.get(LOADED.get(tag, ""))
        if address and not (tag == "link" and set((given.get("rel") or "").split()) & NOT_FETCHED):
            self.loads.append(address)


@cache
def read(path: Path) -> Found:
    """A page, parsed once."""
    return Found(path)


@pytest.fixture(scope="module")
def pages(html):
    """Every page of the site."""
    return sorted(html.rglob("*.html"))


def test_links_lead_somewhere(html, pages):
    """Every link within the site has its file, and every anchor its element."""
    dead = []
    for page in pages:
        if page.parent.name == "sbt-webpack-macros" or "_static" in page.parts:
            continue
        for link in read(page).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            aim = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not aim.is_file():
                dead.append(f"{page.relative_to(html)}: {link}")
            elif parts.fragment and aim.suffix == ".html" and unquote(parts.fragment) not in read(aim).ids:
                dead.append(f"{page.relative_to(html)}: {link}, no such place on the page")
    assert not dead, "\n".join(dead)


def test_nothing_is_loaded_from_elsewhere(html, pages):
    outside = [
        f"{page.relative_to(html)}: {address}"
        for page in pages
        for address in read(page).loads
        if "_static" not in page.parts and urlsplit(address).scheme not in ("", "data")
    ]
    assert not outside, "\n".join(outside)


def test_every_picture_has_words(html, pages):
    """Alt text that says something; a file's name says nothing."""
    mute = []
    for page in pages:
        for image in read(page).images:
            words = (image.get("alt") or "").strip()
            if len(words) < 10 or words.endswith((".png", ".svg")):
                mute.append(f"{page.relative_to(html)}: {(image.get('src') or '')[:80]} {words!r}")
    assert not mute, "\n".join(mute)


def test_the_site_is_small(html):
    """A chapter may cost 3 MB (2.4 measured: notebook with pictures, the pictures, the page), all else 40 MB (36)."""
    parts = {"chapters": 0, "else": 0}
    for path in html.rglob("*"):
        if path.is_file():
            of_a_chapter = path.relative_to(html).parts[0] in ("chapters", "_images")
            parts["chapters" if of_a_chapter else "else"] += path.stat().st_size
    assert parts["chapters"] <= 3e6 * len(CHAPTERS) and parts["else"] <= 40e6, parts


@pytest.mark.parametrize("text", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_has_its_notebook_and_neighbours(html, text):
    """The executed notebook beside the page; links to it and to the pages before and after."""
    page = html / text.relative_to(papers.ROOT).with_suffix(".html")
    notebook = json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells and all(cell["execution_count"] for cell in cells)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    assert page.with_suffix(".ipynb").name in read(page).links
    time = re.search(r"<strong>Running time\.</strong> [^<]*\d+ (s|seconds)\b", page.read_text(encoding="utf-8"))
    assert time, "the header card gives no measured time"
    assert {"left-prev", "right-next", "gm-have"} <= read(page).classes


def test_the_ledger_lists_every_equation(html):
    """Each labelled equation of the chapters has its entry, which links to its function and to its test."""
    found, missing = read(html / "ledger.html"), []
    for entry in ledger.collect().values():
        if not entry.chapters:
            continue
        if f"ledger-{entry.label}" not in found.ids:
            missing.append(entry.label)
        for name in entry.functions:
            if not any(link.endswith("#" + place(public(name))) for link in found.links):
                missing.append(f"{entry.label}: {name}")
        for test in entry.tests:
            if not any(link.endswith("#" + reference.target(test)) for link in found.links):
                missing.append(f"{entry.label}: {test}")
    assert not missing, "\n".join(missing)


def place(name: str) -> str:
    """The anchor of a function, a class or a module in the API reference."""
    return f"module-{name}" if (papers.ROOT / "src" / name.replace(".", "/")).with_suffix(".py").exists() else name


def test_nothing_private_is_in_the_reference(html):
    for path in (html / "api").glob("gmbook*.html"):
        assert not [name for name in read(path).ids if name.startswith("gmbook") and "._" in name], path.name
