"""The lecturer's guide: what stands below each paragraph, list or table there names a test for each of its sentences.

    <!-- tried: test_kit::test_verdicts | test_grader[sleeps] + test_cells::test_x | advice -->

One mark for each sentence, item's sentence or row, in order: tests (of this folder, or with their path), kinds of
`test_grader.KINDS` in brackets, or `advice`, which the sentence itself must say. `<!-- advice -->` alone is for a whole
section that says so.
"""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from course.test_grader import KINDS

from gmbook.cli import main
from gmbook.course import grading, judge, process, sheets

GUIDE = sheets.ROOT / "book" / "course.md"
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[*\[`A-Z])")
HEAD = re.compile(r"^(- )?(\*\*[^*]+\*\* )?")  # of an item, or of a paragraph that begins with its subject


def blocks(text):
    """The guide's paragraphs, lists and tables, each with the marks below it; headings and code have none."""
    written = []
    for piece in re.split(r"\n\s*\n", text.strip()):
        if piece.startswith("<!-- tried:") or piece == "<!-- advice -->":
            marks = piece.removeprefix("<!--").removesuffix("-->").strip().removeprefix("tried:").split("|")
            yield "\n".join(written), [mark.strip() for mark in marks]
            written = []
        elif not piece.startswith(("#", "<!--", "```{")):
            written.append(piece)
    assert not written, f"nothing tries {written}"


def statements(block):
    """The sentences of paragraphs and items, the rows of tables, the commands of a block of code."""
    if block.startswith("```"):
        return block.splitlines()[1:-1]
    rows = [line for line in block.splitlines() if line.startswith("|")]
    text = [HEAD.sub("", line) for line in block.splitlines() if line not in rows]
    said = [sentence for line in text for sentence in SENTENCE.split(line) if line]
    return [sentence for sentence in said if not sentence.endswith(":")] + rows[2:]  # without what only leads over


BLOCKS = list(blocks(GUIDE.read_text(encoding="utf-8")))


@cache
def functions(path):
    """The names of a file's test functions."""
    file = sheets.ROOT / (path if path.endswith(".py") else f"tests/course/{path}.py")
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("block", "marks"), BLOCKS, ids=lambda value: value[:40] if type(value) is str else "")
def test_every_sentence_is_tried_or_advice(block, marks):
    if marks == ["advice"]:
        assert "*Advice*" in block
        return
    said = statements(block)
    assert len(said) == len(marks), "\n".join(["sentences:", *said, "marks:", *marks])
    for sentence, mark in zip(said, marks):
        if mark == "advice":
            assert "*Advice*" in sentence, sentence
            continue
        for name in mark.split(" + "):
            if kind := re.fullmatch(r"test_grader\[(\w+)\]", name):
                assert kind[1] in KINDS, name
            else:
                path, _, function = name.partition("::")
                assert function in functions(path), name


def test_a_sentence_without_a_mark_is_seen():
    ((block, marks),) = blocks("# T\n\nOne. Two.\n\n<!-- tried: test_kit::test_verdicts -->\n")
    assert len(statements(block)) == 2 and len(marks) == 1
    with pytest.raises(AssertionError, match="nothing tries"):
        list(blocks("One."))


def test_each_chapter_has_a_sheet():
    chapters = {path.parent.name for path in sheets.ROOT.glob("chapters/*/*.md") if path.stem != "exercises"}
    assert {sheet.name for sheet in sheets.sheets()} == chapters


def test_every_chapter_and_every_sheet_stands_in_the_plan():
    plan = re.search(r"## Fourteen weeks\n(.*?)\n## ", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[1]
    handed_in = set(re.findall(r"\d\d", " ".join(re.findall(r"sheet (\d\d(?: or \d\d)?)", plan))))
    for sheet in sheets.sheets():
        number = sheet.name[:2]
        assert f"{{chapter}}`{number}`" in plan and number in handed_in, sheet.name


def test_no_exercise_downloads_data():
    for sheet in sheets.sheets():
        text = sheet.text.read_text(encoding="utf-8")
        taken = re.findall(
            r"from (gmbook\.data\S*) import|import (gmbook\.data\S*)|from gmbook import (.*data.*)", text
        )
        assert {"".join(names) for names in taken} <= {"gmbook.data.batches"}, sheet.name


def test_the_limits_are_those_that_it_names(tmp_path, monkeypatch):
    limits = process.Limits()
    assert (limits.total_seconds, limits.memory_mb) == (300, 4096)
    assert process.environment("/tmp")["OMP_NUM_THREADS"] == "1"
    seen = []

    def one(self, submission):
        seen.append(self.limits)
        return {"sheet": self.sheet, **vars(judge.Outcome(submission.student))}

    monkeypatch.setattr(grading.Grader, "one", one)
    (tmp_path / "a.ipynb").write_text('{"cells": [], "metadata": {"gmbook": {"sheet": "06_ddpm"}}}')
    options = ["--cell-seconds=1.5", "--check-seconds=2", "--total-seconds=3", "--memory-mb=4", "--output-kb=5"]
    assert all(option.partition("=")[0] in GUIDE.read_text() for option in options)
    command = ["course", "grade", str(tmp_path / "a.ipynb"), "--out", str(tmp_path / "out"), "--unfenced", *options]
    assert main(command) == 0
    assert seen == [process.Limits(1.5, 2, 3, 4, 5)]
