"""Lays out the website's sources and builds it:  python -m tools.site

Sphinx wants one folder, but the chapters live beside the book. So book/ and chapters/ are copied into
book/_build/source, unchanged files left alone (Sphinx then rebuilds only what changed), and the table of contents and
the ledger page are written there.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from gmbook.course import sheets
from tools import ledger

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
SOURCE = BOOK / "_build" / "source"
HTML = BOOK / "_build" / "html"
NOT_COPIED = {".ipynb", ".toml", ".py", ".pyc"}  # the text makes the page; configurations stay where they are
MATHJAX = ("tex-chtml-full.js", "output/chtml/fonts")


def write(target: Path, content: bytes) -> None:
    """Write a file only if it changes, so that its time tells Sphinx the truth."""
    if not target.exists() or target.read_bytes() != content:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def sources() -> dict[Path, bytes]:
    """Path below the source folder -> content, of every file that the site is made from."""
    found: dict[Path, bytes] = {}
    for path in sorted(BOOK.rglob("*")):
        relative = path.relative_to(BOOK)
        if path.is_file() and relative.parts[0] != "_build" and path.suffix not in NOT_COPIED:
            found[relative] = path.read_bytes()
    for path in sorted((ROOT / "chapters").rglob("*")):
        hidden = any(part.startswith(".") for part in path.parts)
        if path.is_file() and not hidden and path.suffix not in NOT_COPIED:
            found[path.relative_to(ROOT)] = path.read_bytes()
            if path.name == "exercises.md":  # readers of the site get the blanks, not the solutions
                found[path.relative_to(ROOT)] = sheets.page(path.read_text(encoding="utf-8")).encode()
    index = found[Path("index.md")].decode()
    found[Path("index.md")] = (index + contents(found)).encode()
    found[Path("ledger.md")] = ledger.page(ledger.collect()).encode()
    for path in mathjax():
        found[Path("_static/mathjax") / path.relative_to(mathjax_home())] = path.read_bytes()
    return found


def contents(found: dict[Path, bytes]) -> str:
    """The table of contents: chapters in order, each before its exercises; then the book's other pages."""
    chapters = [path for path in found if path.parts[0] == "chapters" and path.suffix == ".md"]
    chapters.sort(key=lambda path: (path.parent, path.stem.startswith("exercises"), path))
    pages = [path for path in found if len(path.parts) == 1 and path.suffix == ".md" and path.stem != "index"]
    parts = [("Chapters", chapters), ("The book", [*sorted(pages), Path("ledger.md")])]
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(p.as_posix() for p in listed) + "\n```\n"
        for caption, listed in parts
        if listed
    )


def mathjax_home() -> Path:
    """The folder of MathJax 3 within the package that carries it.

    Raises:
        SystemExit: the package is not installed.
    """
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("MathJax is missing: `make book` installs it, or run pip install -e '.[book]'")
    return Path(next(iter(spec.submodule_search_locations))) / "static" / "mathjax"


def mathjax() -> list[Path]:
    """The files of MathJax that the site needs: one script and the fonts."""
    home = mathjax_home()
    named = [home / name for name in MATHJAX]
    return [path for start in named for path in ([start] if start.is_file() else start.rglob("*")) if path.is_file()]


def lay_out() -> None:
    """Bring the source folder up to date, and remove from it what no longer exists."""
    found = sources()
    for relative, content in found.items():
        write(SOURCE / relative, content)
    for path in SOURCE.rglob("*"):
        if path.is_file() and path.relative_to(SOURCE) not in found:
            path.unlink()


def main() -> int:
    """Lay out and build, warnings as errors."""
    from sphinx.cmd.build import main as sphinx

    lay_out()
    doctrees = BOOK / "_build" / "doctrees"
    code = sphinx(
        ["-b", "html", "-W", "--keep-going", "-q", "-c", str(BOOK), "-d", str(doctrees), str(SOURCE), str(HTML)]
    )
    if code == 0:
        print(f"The website is in {(HTML / 'index.html').relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
