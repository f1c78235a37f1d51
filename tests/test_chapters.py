"""The chapters as files: pairs agree by content, cells are short, figures are described, sections are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tools import chapters

from gmbook import registry

TEXTS = chapters.texts()
# The papers' own chapters: the text is named like its folder.
PAPERS = {chapter.chapter for chapter in registry.read().chapters if chapter.arxiv}
MAIN = [text for text in TEXTS if text.parent.name in PAPERS and text.parent.name.endswith(f"_{text.stem}")]
# A cell that draws: it calls the book's plots or pyplot. (`tools.chapters run` looks at the pictures themselves.)
DRAWS = re.compile(r"\b(?:plots|plt)\.\w+\(|\.(?:plot|scatter|imshow|hist|contourf?|quiver|pcolormesh)\(")
SECTIONS = {  # what the level-2 headings of a chapter must say, in this order (DESIGN, section 4)
    1: r"question|why|problem",
    2: r"notation",
    3: r"na[iï]ve|attempt|fail",
    4: r"deriv",
    5: r"code|algorithm",
    6: r"laborator",
    7: r"knob|break|ablation",
    8: r"scal",
    9: r"paper",
    10: r"connection",
    11: r"pitfall|mistake",
    12: r"summary|formula",
    13: r"reference|errat",
}
LINES = 25

every_text = pytest.mark.parametrize("text", TEXTS, ids=lambda p: f"{p.parent.name}/{p.stem}")
every_main = pytest.mark.parametrize("text", MAIN, ids=lambda p: p.parent.name)


def code_cells(text: Path) -> list:
    """The code cells of a chapter."""
    return [cell for cell in chapters.read_text(text).cells if cell.cell_type == "code"]


def sections_missing(source: str) -> list[int]:
    """The numbers of the required sections that no level-2 heading announces, each after the one before."""
    headings = re.findall(
        r"^## (.+)$", re.sub(r"^```.*?^```", "", source, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    missing, position = [], 0
    for number, words in SECTIONS.items():
        hits = [i for i, heading in enumerate(headings) if i >= position and re.search(words, heading, re.IGNORECASE)]
        if hits:
            position = hits[0] + 1
        else:
            missing.append(number)
    return missing


@every_text
def test_pair_agrees_by_content(text):
    assert chapters.disagreements(text) == []


def test_no_notebook_without_text():
    alone = [p for p in chapters.ROOT.glob("chapters/*/*.ipynb") if not p.with_suffix(".md").exists()]
    assert not alone, f"without a text: {alone}"


@every_text
def test_no_visible_cell_is_long(text):
    for cell in code_cells(text):
        if not chapters.tags(cell) & chapters.HIDDEN:
            lines = len(cell.source.splitlines())
            assert lines <= LINES, f"a visible cell of {lines} lines (at most {LINES}):\n{cell.source}"


@every_text
def test_figures_have_caption_and_alt_text(text):
    for cell in code_cells(text):
        if DRAWS.search(cell.source) and not chapters.tags(cell) & chapters.HIDDEN:
            assert chapters.captioned(cell), (
                "a cell that draws needs `mystnb: {figure: {caption: ...}, image: {alt: ...}}` in its metadata, "
                f"or, if it only prepares, the tag hide-input:\n{cell.source}"
            )


@every_main
def test_chapter_has_its_card_and_sections(text):
    source = text.read_text(encoding="utf-8")
    missing = sections_missing(source)
    assert not missing, f"sections {missing} of DESIGN 4 are missing, or out of order, among the ## headings"
    card = source.split("\n## ")[0]
    assert re.search(r"\{(card|admonition|grid)\}|^\|", card, re.MULTILINE), (
        "no header card before the first ## heading"
    )
    assert re.search(r"\d+\s*(s|seconds|minutes?)\b", card), "the header card does not say the measured running time"


TEXT = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A chapter

```{code-cell} ipython3
---
tags: [nbval-check-output]
---
print(1 + 1)
```

```{code-cell} ipython3
---
mystnb:
  figure:
    caption: A line.
    name: fig-line
  image:
    alt: A rising line.
---
import matplotlib.pyplot as plt

_ = plt.plot([0, 1])
```
"""


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "90_tiny" / "tiny.md"
    path.parent.mkdir()
    (tmp_path / "jupytext.toml").write_text((chapters.ROOT / "chapters" / "jupytext.toml").read_text())
    path.write_text(TEXT)
    return path


def test_run_records_check_outputs_only(text):
    """A chapter that runs leaves what its check cells printed, byte for byte the same each time, and no picture."""
    chapters.run(text)
    first = text.with_suffix(".ipynb").read_text()
    assert '"2\\n"' in first and "image/png" not in first
    assert "fig-line" in first and "A rising line." in first, "captions must survive in the pair"
    assert chapters.disagreements(text) == []
    assert not chapters.sync(text) and text.with_suffix(".ipynb").read_text() == first


def test_nbval_compares_what_a_check_cell_printed(text):
    """The recorded notebook passes as `make test` runs it, and fails once a check cell prints something else."""
    flags = ["-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-cell-timeout=60", "--rootdir", str(text.parent)]
    target = text.with_suffix(".ipynb")
    text.write_text(TEXT.split("```{code-cell}")[0] + "```{code-cell}" + TEXT.split("```{code-cell}")[1])
    chapters.run(text)
    command = [sys.executable, "-m", "pytest", *flags, str(target)]
    assert subprocess.run(command, capture_output=True, cwd=text.parent).returncode == 0
    target.write_text(target.read_text().replace("2\\n", "3\\n"))
    assert subprocess.run(command, capture_output=True, cwd=text.parent).returncode == 1


def test_nbval_passes_over_what_was_measured(text):
    """A recorded measurement is another machine's: the claim and its bar alone are compared."""
    for name in ("conftest.py", "nbval.cfg"):
        (text.parents[1] / name).write_text((chapters.ROOT / "chapters" / name).read_text())
    cell = TEXT.split("```{code-cell}")[1].replace("print(1 + 1)", 'print("error: < 0.1  ok (measured 0.021)")')
    text.write_text(TEXT.split("```{code-cell}")[0] + "```{code-cell}" + cell)
    chapters.run(text)
    target = text.with_suffix(".ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", str(target)]
    recorded = target.read_text()
    for old, new, status in [("0.021", "0.034", 0), ("< 0.1", "< 0.2", 1)]:
        outputs = recorded.split('"outputs"')
        outputs[1] = outputs[1].split('"source"')[0].replace(old, new) + '"source"' + outputs[1].split('"source"')[1]
        target.write_text('"outputs"'.join(outputs))
        assert subprocess.run(command, capture_output=True, cwd=text.parents[1]).returncode == status, (old, new)


def test_disagreement_is_seen_whatever_the_times_say(text):
    chapters.sync(text)
    (line,) = chapters.disagreements(text)
    assert "no recorded output" in line
    text.write_text(text.read_text().replace("# A chapter", "# A changed chapter"))
    assert any("not what tiny.md says" in line for line in chapters.disagreements(text))
    assert chapters.sync(text)
    assert "A changed chapter" in text.with_suffix(".ipynb").read_text()


def test_a_check_output_outlives_a_sync_only_with_its_code(text):
    target = text.with_suffix(".ipynb")
    chapters.sync(text)
    cells = chapters.nbformat.read(target, as_version=4)
    cells.cells[1].outputs = [chapters.nbformat.v4.new_output("stream", name="stdout", text="2\n")]
    target.write_text(chapters.serialise(cells))
    text.write_text(text.read_text().replace("# A chapter", "# Another"))
    chapters.sync(text)
    assert chapters.disagreements(text) == []
    text.write_text(text.read_text().replace("1 + 1", "1 + 2"))
    chapters.sync(text)
    assert "no recorded output" in chapters.disagreements(text)[0]


def test_metadata_that_would_be_lost_is_refused(text):
    text.write_text(text.read_text().replace("tags: [nbval-check-output]", "tags: [nbval-check-output]\nslideshow: {}"))
    with pytest.raises(ValueError, match="slideshow"):
        chapters.sync(text)


def test_sections_are_read_in_order():
    titles = ["The question", "Notation", "A naive attempt that fails", "Derivation", "From algorithm to code"]
    titles += ["Toy laboratory", "Turn the knobs, break it", "Scale up", "Against the paper", "Connections", "Pitfalls"]
    titles += ["Summary and formula sheet", "References and errata"]
    source = "\n".join(f"## {i}. {title}\n" for i, title in enumerate(titles, 1))
    assert sections_missing(source) == []
    assert sections_missing(source.replace("Pitfalls", "Other")) == [11]
