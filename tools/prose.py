"""The book's own prose as a small text in text8's alphabet: src/gmbook/data/prose.txt stands in where text8 is absent.

    python -m tools.prose     write it anew from the chapters

It is a snapshot: chapters change, and a data set must not. Write it anew only when much prose has been added.
"""

from __future__ import annotations

import re
import sys
import unicodedata

from tools import chapters

TARGET = chapters.ROOT / "src" / "gmbook" / "data" / "prose.txt"
DIGITS = "zero one two three four five six seven eight nine".split()
SYMBOLS = [  # what is not prose, in this order
    (r"\A---\n.*?^---\n", " "),  # the header
    (r"\$\$.*?\$\$(?:[ \t]*\([^()\n]+\))?", " "),  # displayed mathematics and its label
    (r"^:{3,}.*$", " "),  # the fences of cards and proofs, not what they hold
    (r"^\|.*$", " "),  # tables
    (r"\{[a-z-]+\}`[^`]*`", " "),  # references to equations, figures, papers
    (r"\$[^$]*\$", " "),  # mathematics in a line
    (r"`[^`]*`", " "),  # code in a line
    (r"\]\([^()\s]*\)", " "),  # addresses of links
    (r"https?://\S+", " "),
    (r"['’]", ""),  # text8 writes "dont"
]


def captions(cell: re.Match[str]) -> str:
    """Of a code cell, what it says to readers: the caption and the description of its figure."""
    return " ".join(re.findall(r"^ +(?:caption|alt): (.*)$", cell.group(), re.MULTILINE))


def letters(text: str) -> str:
    """A chapter's text in 27 symbols: prose only, lower case, digits spelt out, one space between words."""
    text = re.sub(r"^(`{3,}).*?^\1", captions, text, flags=re.DOTALL | re.MULTILINE)
    for pattern, substitute in SYMBOLS:
        text = re.sub(pattern, substitute, text, flags=re.DOTALL | re.MULTILINE if "*?" in pattern else re.MULTILINE)
    text = unicodedata.normalize("NFKD", text).lower()
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit.group())]} ", text)
    return re.sub(r"[^a-z]+", " ", text).strip()


def main() -> int:
    """Write the file; say how long it is."""
    texts = [letters(path.read_text(encoding="utf-8")) for path in chapters.texts()]
    TARGET.write_text(" ".join(texts), encoding="ascii")
    print(f"{TARGET.name}: {TARGET.stat().st_size:,} letters and spaces from {len(texts)} texts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
