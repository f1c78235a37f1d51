"""The README's generated parts: the table of chapters, the table of results, and the badge.

    python -m tools.readme            bring them up to date (`make sync` does it too)

The chapters come from the register (src/gmbook/papers.toml) and from which texts and models exist.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from gmbook import registry
from tools import ledger, results

ROOT = Path(__file__).resolve().parents[1]


def chapters_table(root: Path = ROOT) -> str:
    """One row for each chapter, by parts: number, name and link, paper, state of the text, class."""
    lines = ["| part | | chapter | paper | chapter text | class in `gmbook.papers` |", "|---|---|---|---|---|---|"]
    for part, chapters in registry.read().by_part.items():
        for chapter in chapters:
            text = chapter.text(root)
            name, state = (f"[{chapter.name}]({text})", "ready") if text else (chapter.name, "planned")
            model = f"`{chapter.key}`" if (root / "src/gmbook/papers" / f"{chapter.key}.py").exists() else "–"
            first = part if chapter is chapters[0] else ""
            lines.append(f"| {first} | {chapter.number} | {name} | {chapter.cited or '–'} | {state} | {model} |")
    return "\n".join(lines) + "\n"


def put(text: str, part: str, inner: str) -> str:
    """The README with `inner` between the two marks of a part.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    begin, end = f"<!-- {part}: begin, written by make sync -->", f"<!-- {part}: end -->"
    if not re.fullmatch(f".*{begin}.*{end}.*", text, re.DOTALL) or text.count(begin) + text.count(end) > 2:
        raise ValueError(f"README.md needs the two lines {begin} and {end}")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n\n{inner}\n{end}{rest.partition(end)[2]}"


def written(text: str, root: Path = ROOT) -> str:
    """The README with both tables as they are now."""
    text = put(text, "chapters", chapters_table(root))
    return put(text, "results", results.readme_table(results.recorded()))


def write(root: Path = ROOT) -> bool:
    """Bring the README and book/badge.svg up to date. True if something changed."""
    readme = root / "README.md"
    old = readme.read_text(encoding="utf-8")
    readme.write_text(written(old, root), encoding="utf-8")
    return ledger.write_badge(root) or readme.read_text(encoding="utf-8") != old


if __name__ == "__main__":
    print("README written" if write() else "README as it was")
    sys.exit()
