"""Lays out the website's sources and builds it:  python -m book.build

Sphinx wants one folder, but the chapters live beside the book. So book/ and chapters/ are copied into
book/_build/source, unchanged files left alone (Sphinx then rebuilds only what changed), and the pages that are made
from code are written there: the API reference and the sources of the tests. What else is made from data is put into its
page by a directive (book/_ext).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
from book._ext import papers, reference
from jupyter_cache import get_cache
from tools import ledger

from gmbook.course import sheets

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
BUILD = BOOK / "_build"
SOURCE = BUILD / "source"
HTML = BUILD / "html"
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
    for path, text in {**reference.api_pages(), **reference.source_pages()}.items():
        found[path] = text.encode()
    found[Path("papers.bib")] = papers.bibliography().encode()
    for path in mathjax():
        found[Path("_static/mathjax") / path.relative_to(mathjax_home())] = path.read_bytes()
    return found


# ------------------------------------------------------------------------------------------------------- mathematics


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
    for folder in ("api", "chapters", "tests"):  # Sphinx leaves the pages of what is gone
        for path in (HTML / folder).rglob("*"):
            if path.is_file() and path.relative_to(HTML).with_suffix(".md") not in found:
                path.unlink()


def forget_old_runs(build: Path = BUILD, root: Path = ROOT) -> bool:
    """Forget the chapters' outputs if what they ran with has changed since: the library, the records, the weights.

    The cache of outputs knows the text of the cells only. True if anything was forgotten.
    """
    digest = hashlib.sha256()
    for folder in ("src/gmbook", "book/results", "data/pretrained"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = path.read_bytes()
                digest.update(f"{path.relative_to(root).as_posix()} {len(content)} ".encode() + content)
    stamp, now = build / "ran-with", digest.hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == now:
        return False
    old = [folder for name in ("executed", "doctrees") if (folder := build / name).exists()]
    for folder in old:
        shutil.rmtree(folder)
    write(stamp, now.encode())
    return bool(old)


def place_notebooks() -> int:
    """Put each chapter's notebook beside its page, for download, with the outputs of its run. How many have them.

    MyST-NB keeps the notebooks that it has read, and the cache their outputs.
    """
    cache, executed = get_cache(BUILD / "executed"), 0
    for path in sorted((BUILD / "jupyter_execute" / "chapters").rglob("*.ipynb")):
        page = HTML / path.relative_to(BUILD / "jupyter_execute")
        if not page.with_suffix(".html").exists():
            continue
        notebook = nbformat.read(path, as_version=4)
        try:
            _, notebook = cache.merge_match_into_notebook(notebook)
            executed += 1
        except KeyError:
            pass  # built without running
        notebook.metadata.pop("source_map", None)
        write(page, nbformat.writes(notebook).encode())
    return executed


def main() -> int:
    """Lay out and build, warnings as errors."""
    from sphinx.cmd.build import main as sphinx

    began = time.time()
    lay_out()
    if forget_old_runs():
        print("The library, a record or weights have changed: every chapter is run anew.", flush=True)
    options = ["-b", "html", "-W", "--keep-going", "-q", "-c", str(BOOK), "-d", str(BUILD / "doctrees")]
    code = sphinx([*options, str(SOURCE), str(HTML)])
    print(f"Ledger: {ledger.coverage(ledger.collect().values())}")
    if code == 0:
        print(f"Notebooks with outputs, for download: {place_notebooks()}")
        for path in HTML.rglob("*.map"):  # source maps, which only the theme's authors need
            path.unlink()
        size = sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file()) / 1e6
        print(f"The website is in {(HTML / 'index.html').relative_to(ROOT)} ({size:.1f} MB)")
        (BUILD / "built").touch()
        os.utime(BUILD / "built", (began, began))  # tests/site asks whether a source is newer
    return code


if __name__ == "__main__":
    sys.exit(main())
