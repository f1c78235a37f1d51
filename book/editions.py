"""Other editions of the built website: a PDF of the book and of each chapter, and slides of a chapter for a lecture.

    python -m book.editions pdf               book/_build/editions/gmbook.pdf, and one PDF for each chapter and sheet
    python -m book.editions slides [06 ...]   NN_name-slides.html (opens in any browser) and NN_name-slides.pdf

Both are made from the pages that `make book` has built, so that figures, numbers and equations are the same. Chromium
prints them, with the network cut off. A slide holds one idea: a figure with its caption, or a displayed equation below
the sentence that leads to it. What is folded on the page (long algebra, plotting code) stays out.
"""

from __future__ import annotations

import argparse
import base64
import html
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bs4 import BeautifulSoup, Tag

from gmbook import registry

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "book" / "_build" / "html"
EDITIONS = ROOT / "book" / "_build" / "editions"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
OFFLINE = ("--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9")
TYPESET = """
const done = arguments[0];
const wait = () => window.MathJax === undefined ? done() : MathJax.startup && MathJax.startup.promise ?
  MathJax.startup.promise.then(() => done()) : setTimeout(wait, 20);
wait();
"""
UNFOLD = "for (const folded of document.querySelectorAll('details.sd-dropdown')) folded.open = true"
FIT = """
for (const display of document.querySelectorAll('mjx-container[display="true"]')) {
  const around = display.parentElement, number = around.querySelector('.eqno');
  const room = around.clientWidth - (number ? number.offsetWidth + 12 : 0);
  const needed = display.firstElementChild.getBoundingClientRect().width;
  const size = parseFloat(getComputedStyle(display).fontSize);
  if (needed > room) display.style.fontSize = 0.97 * room / needed * size + 'px';
}
"""
A4 = {"paperWidth": 8.27, "paperHeight": 11.69, "scale": 0.8}
A4 |= {f"margin{side}": 0.7 for side in ("Top", "Bottom", "Left", "Right")}
WIDE = {"paperWidth": 10.0, "paperHeight": 5.625, "marginTop": 0, "marginBottom": 0, "marginLeft": 0, "marginRight": 0}


class Missing(SystemExit):
    """Something that is needed is not there; the message says what installs it."""


# ------------------------------------------------------------------------------------------------------------- pages


# As the site's contents have them; the API reference stays on the site.
BEFORE = ("index", "read", "own_data", "timeline", "notation", "conventions")
BEHIND = ("ledger", "tested", "errata", "results", "toys", "glossary", "bibliography", "course")


def built(site: Path = HTML) -> list[Path]:
    """The built chapters and their sheets, in the book's order: part by part.

    Raises:
        Missing: the website is not built.
    """
    parts = registry.read().by_part.values()
    place = {chapter.chapter: k for k, chapter in enumerate(chapter for part in parts for chapter in part)}
    order = lambda p: (place.get(p.parent.name, len(place)), p.parent.name, p.stem == "exercises")  # noqa: E731
    pages = sorted(site.glob("chapters/*/*.html"), key=order)
    if not pages:
        raise Missing("the website is not built: run `make book`")
    return pages


def book_pages(site: Path = HTML) -> list[Path]:
    """All pages of the printed book in order: those before the chapters, the chapters, and those behind them."""
    before, behind = (
        [page for name in names if (page := site / f"{name}.html").exists()] for names in (BEFORE, BEHIND)
    )
    return [*before, *built(site), *behind]


# ------------------------------------------------------------------------------------------------------------ slides


class Slide(NamedTuple):
    """One idea: the section it belongs to, and what is shown, as HTML."""

    title: str
    body: str


def slides(page: Path) -> list[Slide]:
    """The slides of a built chapter: its aims, then figures and displays in order, each under its section's name."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    article = soup.select_one("article") or soup
    for folded in article.select("details, .cell_input, .headerlink, .gm-have, script"):
        folded.decompose()
    found = []
    if aims := article.select_one(".sd-card ol"):
        found.append(Slide("You will be able to", str(aims)))
    for part in article.select("figure, div.math"):
        if part.find_parent("figure") is None:
            found.append(Slide(section(part), _figure(part, page) if part.name == "figure" else _display(part)))
    return found


def section(part: Tag) -> str:
    """The name of the innermost section around a part of the page."""
    around = part.find_parent("section")
    heading = around.find(["h1", "h2", "h3", "h4"]) if around else None
    return heading.get_text(" ", strip=True).rstrip(" #") if heading else ""


def _figure(figure: Tag, page: Path) -> str:
    image = figure.find("img")
    if image is None:
        return str(figure)
    source = str(image["src"])
    if not source.startswith("data:"):
        source = "data:image/png;base64," + base64.b64encode((page.parent / source).read_bytes()).decode()
    caption = figure.find("figcaption")
    below = "".join(map(str, caption.contents)) if caption else ""
    return f'<img src="{source}" alt="{html.escape(str(image.get("alt", "")))}">{below}'


def _display(display: Tag) -> str:
    before = display.find_previous_sibling()
    lead = str(before) if before is not None and before.name == "p" else ""
    return lead + str(display)


STYLE = """
html { scroll-snap-type: y mandatory; background: #fcfcfc; color: #1b1f24; font: 20px/1.4 system-ui, sans-serif; }
body { margin: 0; }
section { box-sizing: border-box; width: 960px; height: 540px; margin: 0 auto; padding: 28px 48px; overflow: hidden;
  scroll-snap-align: start; display: flex; flex-direction: column; break-after: page; }
h1 { font-size: 26px; margin: 0 0 14px; font-weight: 600; }
main { flex: 1; min-height: 0; display: flex; flex-direction: column; justify-content: center; gap: 10px; }
main img { flex: 0 1 auto; min-height: 0; max-width: 100%; object-fit: contain; }
main p { margin: 0; font-size: 17px; }
main div.math { position: relative; }
main .eqno { position: absolute; right: 0; top: 40%; }
footer { font-size: 12px; color: #4f5660; }
@media print { @page { size: 10in 5.625in; margin: 0; } html { scroll-snap-type: none; } }
"""


def deck(title: str, shown: Sequence[Slide], setting: str, script: str) -> str:
    """One HTML file with all slides; `setting` and `script` are MathJax's configuration and address."""
    first = f"<section><main><h1>{html.escape(title)}</h1></main></section>"
    rest = "".join(
        f"<section><h1>{html.escape(slide.title)}</h1><main>{slide.body}</main>"
        f"<footer>{html.escape(title)} · {number} of {len(shown)}</footer></section>"
        for number, slide in enumerate(shown, 1)
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><script>{setting}</script>"
        f'<script defer src="{script}"></script></head><body>{first}{rest}</body></html>'
    )


def write_slides(page: Path, folder: Path) -> Path:
    """Write a chapter's slides as HTML; returns the file.

    Raises:
        Missing: the page has neither figure nor display.
    """
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    shown = slides(page)
    if not shown:
        raise Missing(f"{page.name} has neither a figure nor a displayed equation: nothing to show")
    settings = [s.get_text() for s in soup.find_all("script") if "window.MathJax" in s.get_text()]
    sources = [str(s["src"]) for s in soup.find_all("script", src=True) if "mathjax" in str(s["src"])]
    title = soup.h1.get_text(" ", strip=True).rstrip(" #") if soup.h1 else page.stem
    script = (page.parent / sources[0].partition("?")[0]).resolve().as_uri() if sources else ""
    target = folder / f"{page.parent.name}-slides.html"
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(deck(title, shown, settings[0] if settings else "", script), encoding="utf-8")
    return target


# ---------------------------------------------------------------------------------------------------------- printing


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a network.

    Raises:
        Missing: Chromium, its driver or selenium is not installed.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise Missing("no Chromium here: on Debian and Ubuntu install the packages chromium and chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, *OFFLINE):
        options.add_argument(flag)
    opened = webdriver.Chrome(options=options, service=Service(driver))
    opened.set_script_timeout(300)
    try:
        yield opened
    finally:
        opened.quit()


def print_page(opened: Any, page: Path, target: Path, paper: dict[str, float]) -> Path:
    """Print a page, once its mathematics is set, long algebra unfolded, wide displays made to fit; returns the PDF."""
    opened.get(page.resolve().as_uri())
    opened.execute_script(UNFOLD)
    opened.execute_async_script(TYPESET)
    opened.execute_script(FIT)
    printed = opened.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True, **paper})
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(base64.b64decode(printed["data"]))
    return target


def bound(parts: Sequence[tuple[str, Path]], target: Path) -> Path:
    """One PDF of several, with a bookmark for each."""
    from pypdf import PdfWriter

    with PdfWriter() as writer:
        for title, part in parts:
            writer.append(part, outline_item=title)
        writer.write(target)
    return target


def heading(page: Path) -> str:
    """A page's title."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    return soup.h1.get_text(" ", strip=True).rstrip(" #") if soup.h1 else page.stem


def make_pdf(site: Path = HTML, folder: Path = EDITIONS) -> Path:
    """The PDF of every chapter and sheet, and of the whole book; returns the book's."""
    parts = []
    with browser() as opened:
        for page in book_pages(site):
            inside = page.parent != site
            name = f"{page.parent.name}-{page.stem}.pdf" if inside else f"pages/{page.stem}.pdf"
            parts.append((heading(page), print_page(opened, page, folder / name, A4)))
            print(f"{parts[-1][1].relative_to(folder)}", flush=True)
    return bound(parts, folder / "gmbook.pdf")


def make_slides(numbers: Sequence[str], site: Path = HTML, folder: Path = EDITIONS) -> list[Path]:
    """The slides of these chapters, of all if none is named, as HTML and as PDF; returns the PDFs.

    Raises:
        Missing: no chapter has that number.
    """
    pages = [page for page in built(site) if page.stem != "exercises"]
    if unknown := set(numbers) - {page.parent.name[:2] for page in pages}:
        raise Missing(f"no chapter {', '.join(sorted(unknown))} among the built ones: give numbers such as 06")
    made = []
    with browser() as opened:
        for page in pages:
            if not numbers or page.parent.name[:2] in numbers:
                written = write_slides(page, folder)
                made.append(print_page(opened, written, written.with_suffix(".pdf"), WIDE))
                print(f"{written.name}, {made[-1].name}", flush=True)
    return made


def main(argv: list[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m book.editions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("edition", choices=["pdf", "slides"])
    parser.add_argument("chapters", nargs="*", help="slides: the chapters' numbers, such as 06; all if none is given")
    arguments = parser.parse_args(argv)
    if arguments.edition == "pdf":
        print(f"the book: {make_pdf()}")
    else:
        print(f"{len(make_slides(arguments.chapters))} decks in {EDITIONS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
