"""The snippets of a chapter, blocks of `python` that a reader will paste, run as they stand and do what they say.

A chapter shows a snippet once. What it must do stands in the chapter's own file here, tests/chapters/<name>.py:
functions `snippet_<number>_<what>(names, printed)` of the names that are known after that snippet and of what it
printed. A reader runs the snippets in order, in one session; where the file says ALONE, each in an empty one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from gmbook import registry

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TEXTS = {chapter.key: ROOT / chapter.text(ROOT) for chapter in registry.read().chapters if chapter.text(ROOT)}


def snippets(name: str) -> list[str]:
    """The snippets of a chapter, in order."""
    return re.findall(r"^```python\n(.*?)^```", TEXTS[name].read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def own(path: Path) -> ModuleType:
    """A chapter's own file."""
    spec = importlib.util.spec_from_file_location(f"snippets_of_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OWN = {name: own(HERE / f"{name}.py") for name in TEXTS if (HERE / f"{name}.py").exists()}
CHECKS = [(name, check) for name, module in OWN.items() for check in vars(module) if check.startswith("snippet_")]


@cache
def ran(name: str) -> list[tuple[dict[str, Any], str]]:
    """After each snippet of a chapter: the names that are known, and what was printed."""
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    states = []
    for number, snippet in enumerate(snippets(name), 1):
        if vars(OWN[name]).get("ALONE"):
            torch.manual_seed(0)
            names = {}
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(snippet, f"snippet {number} of {name}", "exec"), names)
        states.append((dict(names), printed.getvalue()))
    return states


@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_a_snippet_does_what_it_says(name, check):
    states = ran(name)
    torch.manual_seed(0)
    function: Callable[..., None] = getattr(OWN[name], check)
    function(*states[int(check.split("_")[1]) - 1])


@pytest.mark.parametrize("name", TEXTS)
def test_a_chapters_snippets_are_as_many_as_its_card_promises_and_short(name):
    """At most ten lines, of public names, each with a check; a chapter without snippets is left alone."""
    card = TEXTS[name].read_text(encoding="utf-8").split("\n## ")[0]
    found, checked = snippets(name), {check.split("_")[1] for owner, check in CHECKS if owner == name}
    assert not found or len(found) == len(re.findall(r"^\d\. ", card, re.MULTILINE))
    assert checked == {str(number) for number in range(1, len(found) + 1)}
    for snippet in found:
        assert len([line for line in snippet.splitlines() if line.strip()]) <= 10
        assert not re.search(r"(?<![\w)])_\w|\._\w", snippet), "a private name"
