"""Everything public has a docstring; what the README shows runs; the names of the changelog are there."""

from __future__ import annotations

import ast
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "src" / "gmbook").rglob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else ""
TORCH_HOOKS = {"forward", "extra_repr", "train", "state_dict", "load_state_dict"}  # documented by torch.nn.Module

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def classes() -> dict[str, ast.ClassDef]:
    """Every class of the package, by name."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in MODULES)
    return {node.name: node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def documented_above(method: str, node: ast.ClassDef) -> bool:
    """Whether a base class within the package documents this method."""
    for base in node.bases:
        above = classes().get(ast.unparse(base).split("[")[0].split(".")[-1])
        if above is None or above is node:
            continue
        here = [child for child in above.body if isinstance(child, Function) and child.name == method]
        if any(ast.get_docstring(child) for child in here) or documented_above(method, above):
            return True
    return False


def undocumented(tree: ast.Module) -> list[str]:
    """Names of the public functions, classes and methods without a docstring."""
    missing = [] if ast.get_docstring(tree) else ["the module itself"]
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            missing.append(node.name)
        if not isinstance(node, ast.ClassDef):
            continue
        for child in node.body:
            if not isinstance(child, Function) or child.name.startswith("_") or child.name in TORCH_HOOKS:
                continue
            if not ast.get_docstring(child) and not documented_above(child.name, node):
                missing.append(f"{node.name}.{child.name}")
    return missing


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT / "src").as_posix())
def test_everything_public_has_a_docstring(path):
    assert undocumented(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_test_sees_what_is_missing():
    source = '"""M."""\nclass A:\n    """A."""\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...\n'
    assert undocumented(ast.parse(source)) == ["A.f", "h"]


def blocks(language: str) -> list[str]:
    """The README's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def shell_lines(command: str) -> list[list[str]]:
    """The words of every line of the README's shell blocks that begins with this command."""
    lines = [line.strip().removeprefix("$ ") for block in blocks("(?:bash|sh|console)") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line and line[0] == command]


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python beside the package, in a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0][:40])
def test_readme_python_runs(block, tmp_path):
    done = run(["-c", block], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", shell_lines("gmbook"), ids=" ".join)
def test_readme_commands_exist(words, tmp_path):
    """The subcommand answers --help, and its help names every option that the README uses."""
    last = 3 if words[1] == "course" else 2  # `gmbook course` has sub-commands of its own
    done = run(["-m", "gmbook.cli", *words[1:last], "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert option in done.stdout, f"`gmbook {words[1]}` knows no {option}"


@pytest.mark.parametrize("words", shell_lines("make"), ids=" ".join)
def test_readme_targets_exist(words):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words[1:] if "=" not in word and not word.startswith("-")} <= targets


def renamed() -> list[str]:
    """The full names that CHANGELOG.md's tables give as new, or as the place where the old names stand now."""
    rows = re.findall(r"^\| `.*?\|(.*)\|$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    return sorted({name for row in rows for name in re.findall(r"`(gmbook\.[\w.]+)`", row)})


def test_the_changelogs_new_names_are_there():
    assert "gmbook.core.flows.multiscale.Multiscale" in renamed()
    for name in renamed():
        pkgutil.resolve_name(name)
