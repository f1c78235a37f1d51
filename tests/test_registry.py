"""The register: a paper is added by its own files and one entry, and few other files name it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from tools import chapters, ledger

from gmbook import registry

ROOT = Path(__file__).resolve().parents[1]
KNOWN = registry.read()
ENTRY = """
[papers.tiny]
name = "Tiny"
title = "A Tiny Paper"
authors = "Doe, Jane and Roe, Rob"
venue = "A Journal"
year = 2026
arxiv = "2512.00001"
part = "Few steps"
chapter = "90_tiny"
labels = ["tiny"]
family = "flow"
lane = 1
claim = "A mean."
builds_on = { vae = "its data" }
notation = ["no time", "none", "mean", "same"]
"""


# ----------------------------------------------------------------------------------------------------- the file itself


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('part = "Few steps"\nchapter = "90', 'part = "Fewer"\nchapter = "90'), "part 'Fewer' is none of Ground"),
        (('family = "flow"\nlane = 1\nclaim = "A mean', 'family = "river"\nclaim = "A mean'), "family 'river' is none"),
        (('{ vae = "its data', '{ vee = "its data'), "it names vee, which has no entry"),
        (('labels = ["tiny"]', 'labels = ["vae"]'), "the prefix 'vae' of its labels is another entry's too"),
        (('chapter = "90_tiny"', 'chapter = "90_other"'), 'named "NN_tiny"'),
        (('claim = "A mean."', ""), "missing 1 required positional argument: 'claim'"),
        (('claim = "A mean."', 'claim = "A mean."\ncolumn = 1'), "unexpected keyword argument 'column'"),
    ],
)
def test_a_wrong_entry_is_told_what_is_wrong(change, complaint):
    text = registry.FILE.read_text(encoding="utf-8") + ENTRY
    assert registry.parse(text).entries["tiny"].cited == "Doe & Roe 2026" and text.count(change[0]) == 1
    with pytest.raises(ValueError, match=r"papers.toml, \[papers.\w+\]: .*" + re.escape(complaint)):
        registry.parse(text.replace(*change))


def test_the_book_is_ordered_by_parts():
    parts = [chapter.part for chapter in KNOWN.chapters]
    assert parts == sorted(parts, key=KNOWN.parts.index)
    numbers = {part: [chapter.number for chapter in found] for part, found in KNOWN.by_part.items()}
    assert all(found == sorted(found) for found in numbers.values())
    assert KNOWN.order[: len(parts)] == [chapter.key for chapter in KNOWN.chapters]


def test_a_heading_and_a_citation():
    ddpm, language, edm = (KNOWN.entries[key] for key in ("ddpm", "language", "edm"))
    assert (ddpm.heading, ddpm.cited, ddpm.month) == ("06 · DDPM", "Ho et al. 2020", (2020, 6))
    assert (language.heading, language.cited) == ("00 · The language", "")
    assert (edm.heading, edm.number) == ("EDM", "")


# -------------------------------------------------------------------------------------------------------- a tiny paper

MODEL = '''"""A mean and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmbook.core.model import Model


class Tiny(Model):
    """N(m, I) on the plane."""

    shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(2))

    def loss(self, x: Tensor) -> Tensor:
        """E|x − m|² (tiny-loss)."""
        return (x - self.mean).square().sum(1).mean()

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """n draws."""
        return self.mean.detach() + torch.randn(n, 2)
'''
TEST = '''"""Tiny."""

import pytest
import torch
from specimen import Specimen

from gmbook.papers.tiny import Tiny

SPECIMEN = Specimen(Tiny)


@pytest.mark.equation("tiny-loss")
@pytest.mark.fact("TINY1")
def test_the_minimum():
    model = Tiny()
    torch.testing.assert_close(model.loss(model.mean.detach()[None]), torch.tensor(0.0))
'''
EXPERIMENT = '''"""Tiny in the plane."""

from gmbook.experiments.toys import GAUSSIANS, points
from gmbook.papers.tiny import Tiny

EXPERIMENTS = (points("tiny", GAUSSIANS, Tiny, 1234),)
'''
CHECKS = '''"""Checks."""

from typing import Any

from gmbook.course.kit import Wrong, exercise


@exercise(points=1, stars=1, kind="derive")
def one(answer: Any) -> None:
    """one() -> 1."""
    if answer() != 1:
        raise Wrong("It is one.")
'''
HEAD = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""
OWN = {  # a paper's own files
    "src/gmbook/papers/tiny.py": MODEL,
    "src/gmbook/papers/theory/tiny.py": '"""What the chapter proves and no model calls."""\n',
    "src/gmbook/experiments/tiny.py": EXPERIMENT,
    "src/gmbook/course/checks/tiny.py": CHECKS,
    "tests/papers/test_tiny.py": TEST,
    "tests/facts/tiny.toml": 'TINY1 = "the loss of the mean is 0"\n',
    "tests/course/answers/tiny.py": "class one:\n    def right():\n        return 1\n",
    "chapters/90_tiny/tiny.md": HEAD + "# 90 · Tiny\n\n$$\n|x - m|^2 \\ge 0\n$$ (tiny-loss)\n",
    "chapters/90_tiny/exercises.md": HEAD + "# Exercises\n",
    "book/results/toys/tiny-eight_gaussians-laptop.json": '{"seconds": 3.0, "metrics": {}}\n',
}
LOOK = """
import json
from pathlib import Path
from book._ext import chapters, ledger as page, papers, reference
from gmbook.course import sheets
from tools import ledger, readme, toy_table
readme.write()
book = ledger.collect()
print(json.dumps({
    "readme": Path("README.md").read_text(encoding="utf-8"),
    "map": papers.drawn(), "timeline": papers.timeline(), "notation": papers.notation(),
    "bibliography": papers.bibliography(), "contents": chapters.contents(),
    "ledger": page.page({k: e for k, e in book.items() if k == "tiny-loss"}),
    "problems": ledger.problems(book, ledger.written()),
    "api": sorted(str(path) for path in reference.api_pages()),
    "sheets": {sheet.name: list(sheet.exercises) for sheet in sheets.sheets()},
    "toys": sorted(toy_table.recorded()),
}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository with a tiny paper: its own files, and one entry."""
    home = tmp_path_factory.mktemp("copy")
    left_out = shutil.ignore_patterns("_build", "__pycache__", ".ipynb_checkpoints", "cache", "*.safetensors")
    for folder in ("src", "tests", "tools", "book", "chapters", "data"):
        shutil.copytree(ROOT / folder, home / folder, ignore=left_out)
    for file in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / file, home / file)
    for name, content in OWN.items():
        assert not (home / name).exists()
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(content, encoding="utf-8")
    for text in (home / "chapters" / "90_tiny").glob("*.md"):
        chapters.sync(text)
    with open(home / "src" / "gmbook" / "papers.toml", "a", encoding="utf-8") as file:
        file.write(ENTRY)
    return home


def python(copy: Path, *arguments: str) -> str:
    """What Python prints in the copy, with the copy's package."""
    environment = os.environ | {"PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_paper_is_added_by_its_own_files_and_one_entry(copy):
    """And is in the README's table, map, time line, notation, bibliography, contents, ledger, reference and sheets."""
    seen = json.loads(python(copy, "-c", LOOK))
    row = "| Few steps | 90 | [Tiny](chapters/90_tiny/tiny.md) | Doe & Roe 2026 | ready | `tiny` |"
    assert row in seen["readme"]
    assert f"{ledger.coverage(ledger.collect().values()).claims + 1} equations that state something" in seen["readme"]
    assert 'href="chapters/90_tiny/tiny.html" class="gm-chapter" data-key="tiny"' in seen["map"]
    assert 'data-older="vae" data-newer="tiny"' in seen["map"]
    assert "2025-12: [90 · Tiny](/chapters/90_tiny/tiny.md)" in seen["timeline"]
    assert "| 90 | Tiny | no time | none | mean | same |" in seen["notation"]
    assert "@inproceedings{tiny," in seen["bibliography"]
    part = seen["contents"].split(":caption: Few steps")[1]
    assert part.split("```")[0].split() == ["/chapters/90_tiny/tiny", "/chapters/90_tiny/exercises"]
    assert seen["problems"] == [] and "(ledger-tiny-loss)=" in seen["ledger"]
    assert "gmbook.papers.tiny.Tiny" in seen["ledger"] and "test_tiny.py::test_the_minimum" in seen["ledger"]
    assert "api/gmbook.papers.tiny.md" in seen["api"]
    assert seen["sheets"]["90_tiny"] == ["one"]
    assert "tiny-eight_gaussians-laptop" in seen["toys"]


def test_the_command_lists_it_in_its_place(copy):
    lines = [line.split() for line in python(copy, "-m", "gmbook.cli", "list").splitlines()]
    (place,) = [i for i, words in enumerate(lines) if words[0] == "tiny"]
    assert " ".join(lines[place]) == "tiny eight_gaussians laptop 1234 steps recorded, 3 s"
    flows, tokens = (chapters[-1].key for part, chapters in KNOWN.by_part.items() if part in ("Flows", "Tokens"))
    assert max(i for i, words in enumerate(lines) if words[0] == flows) < place
    assert place < min(i for i, words in enumerate(lines) if words[0] == tokens)


def test_its_contract_and_its_facts_are_tested(copy):
    options = ("-q", "-p", "no:cacheprovider", "-k", "tiny or every_paper or every_mark")
    files = (
        "tests/papers/test_contract.py",
        "tests/test_facts.py",
        "tests/papers/test_tiny.py",
        "tests/test_imports.py",
    )
    done = python(copy, "-m", "pytest", "-vv", *options, *files)
    for name in ("sample_again[tiny]", "test_every_check_has_a_test[tiny]", "test_the_minimum", "papers/tiny.py]"):
        assert name in done
    (copy / "tests" / "papers" / "test_tiny.py").write_text(TEST.replace("SPECIMEN = ", "OTHER = "))
    with pytest.raises(AssertionError, match=r"SPECIMEN must stand in \['tests/papers/test_tiny.py'\]"):
        python(copy, "-m", "pytest", *options, "tests/papers/test_contract.py")


# ------------------------------------------------------------------------------------------- who else names a paper

# What is made from the register or from records, what tells the history, and the page that compares their conventions.
GENERATED = {"src/gmbook/papers.toml", "book/results.md", "book/toys.md", "CHANGELOG.md", "tests/test_registry.py"}
GENERATED |= {"book/conventions.md"}
FOLDERS = ("src", "tests", "tools", "book", "chapters", "benchmarks", ".github")
# How many may, by paper; 9 for all others. What is left are examples of the command, the course and the tools (above
# all of DDPM), the table of what trains on one's own data, the tests of what several papers share, the benchmarks, the
# glossary, and the layers of flows in core, which name the labels of their equations. DDIM's sampler also serves the
# test of labels.
MOST = {"vae": 17, "gan": 10, "realnvp": 22, "ddpm": 40, "ddim": 16, "flow_matching": 13, "mdlm": 14, "glow": 12}


@cache
def texts() -> dict[str, str]:
    """The hand-written files of the repository, without the README's generated parts."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    found = {}
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        hand = path.suffix in {".py", ".md", ".toml", ".yml", ".yaml"} or path.name == "Makefile"
        if path.is_file() and hand and "_build" not in path.parts and name not in GENERATED:
            found[name] = path.read_text(encoding="utf-8")
    parts = r"(<!-- (\w+): begin.*?-->).*?(<!-- \2: end -->)"
    return found | {"README.md": re.sub(parts, "", found["README.md"], flags=re.DOTALL)}


def owners(name: str) -> set[str]:
    """The papers whose own file this is: its path has their names."""
    return {key for key in KNOWN.entries if re.search(rf"(?:^|[/_]){key}(?:[/._-]|$)", name)}


def relatives(key: str) -> set[str]:
    """The papers that may name this one: itself, those that build on it at any distance, those compared with it."""
    found = {key}
    for _ in KNOWN.entries:  # one generation at a time
        found |= {entry.key for entry in KNOWN.entries.values() if found & set(entry.builds_on)}
    compared = {entry.key for entry in KNOWN.entries.values() if key in entry.compared_with}
    return found | compared | set(KNOWN.entries[key].compared_with)


def strangers(key: str) -> list[str]:
    """The files that name a paper and are neither its own nor a relative's."""
    near = relatives(key)
    named = [name for name, text in texts().items() if re.search(rf"\b{key}\b", text)]
    return sorted(name for name in named if not owners(name) & near)


@pytest.mark.parametrize("key", [chapter.key for chapter in KNOWN.chapters if chapter.arxiv])
def test_few_other_files_name_a_paper(key):
    found = strangers(key)
    print("STRANGERS", key, len(found), *found)
    assert len(found) <= MOST.get(key, 9), found
