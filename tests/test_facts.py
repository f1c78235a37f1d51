"""Every numeric check of the fact sheets (facts/) has a test, and every mark names a check of its own paper."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from tools import ledger

from gmbook import registry

TESTS = Path(__file__).parent


class Mark(NamedTuple):
    tag: str
    file: Path
    test: str

    def __str__(self) -> str:
        return f"{self.file.name}::{self.test}"


@cache
def facts() -> dict[str, dict[str, str]]:
    """Paper -> tag -> what it says; `later` holds those whose paper is not written."""
    files = sorted((TESTS / "facts").glob("*.toml"))
    papers = {file.stem: tomllib.loads(file.read_text(encoding="utf-8")) for file in files}
    papers["later"] = {tag: what for topic in papers["later"].values() for tag, what in topic.items()}
    return papers


PAPERS = [paper for paper in facts() if paper != "later"]
PAPER_OF = {tag: paper for paper, tags in facts().items() for tag in tags}


@cache
def marks() -> tuple[Mark, ...]:
    """All `pytest.mark.fact("tag")` of the tests, read without importing them."""

    def found() -> Iterator[Mark]:
        for path in sorted(TESTS.rglob("test_*.py")):
            for tag, test in ledger.marked(ast.parse(path.read_text(encoding="utf-8")), "fact"):
                yield Mark(tag, path, test)

    return tuple(found())


def complaint(mark: Mark) -> str | None:
    """What is wrong with a mark, if anything."""
    if mark.tag not in PAPER_OF:
        similar = [tag for tag in PAPER_OF if tag.endswith(f"-{mark.tag}")]
        return f"{mark}: no file of tests/facts has {mark.tag}" + (
            f"; did you mean {' or '.join(similar)}?" if similar else ""
        )
    own, paper = mark.file.stem.removeprefix("test_"), PAPER_OF[mark.tag]
    if own in PAPERS and paper not in (own, "later"):  # the tests of core and lab may check any paper's
        similar = [tag for tag in facts()[own] if tag.endswith(f"-{mark.tag}")]
        return f"{mark}: {mark.tag} belongs to {paper}" + (f"; did you mean {similar[0]}?" if similar else "")
    if "test_" not in mark.test:
        return f"{mark}: the mark {mark.tag} is on no test"
    return None


def test_every_paper_of_a_chapter_has_its_file():
    assert set(PAPERS) == {chapter.key for chapter in registry.read().chapters if chapter.arxiv}
    assert len(PAPER_OF) == sum(len(tags) for tags in facts().values()), "two papers use one tag: prefix one of them"


@pytest.mark.parametrize("paper", PAPERS)
def test_every_check_has_a_test(paper):
    tested = {mark.tag for mark in marks()}
    missing = [f"{tag}: {what}" for tag, what in facts()[paper].items() if tag not in tested]
    assert not missing, f"no test is marked with {len(missing)} checks of {paper}:\n" + "\n".join(missing)


def test_every_mark_names_a_check_of_its_paper():
    wrong = [found for mark in marks() if (found := complaint(mark))]
    assert not wrong, "\n".join(wrong)


def test_each_wrong_mark_is_seen():
    papers = TESTS / "papers"
    assert complaint(Mark("V1", papers / "test_vae.py", "test_a")) is None
    assert complaint(Mark("V2", TESTS / "core" / "test_gaussians.py", "test_a")) is None
    assert complaint(Mark("CFG1", papers / "test_latent_diffusion.py", "test_a")) is None
    assert "D3PM-D1b?" in (complaint(Mark("D1b", papers / "test_d3pm.py", "test_a")) or "")
    assert "R1 belongs to realnvp; did you mean RF-R1?" in (
        complaint(Mark("R1", papers / "test_rectified_flow.py", "test_a")) or ""
    )
    assert "on no test" in (complaint(Mark("V1", papers / "test_vae.py", "")) or "")
