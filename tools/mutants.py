"""Break the library on purpose: a mutant that no test notices is a test that is missing.

    python -m tools.mutants                   100 mutants of core/, networks/ and the written chapters' papers
    python -m tools.mutants --count 20 --seed 3 core/solvers.py core/chains.py
    python -m tools.mutants --unit            unit tests only; no chapter is run

A mutant changes one place of the mathematics: a number, an operator, a comparison, a sign, a function (√ for the
square, sum for mean). Places are drawn at random, each as often as any other; messages, annotations, assertions and
what only prints are left alone. It is killed by the first of four stages that fails: the tests of its own file, the
test files that import the module, the tests of core, networks and papers, the chapters that use the module. A survivor
is printed, and the exit code is 1. What changes nothing that can be observed is listed with its reason in
mutants.toml, and does not count.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from gmbook import registry
from tools.chapters import ROOT, texts

PACKAGE = Path("src") / "gmbook"
EQUIVALENT = Path(__file__).with_name("mutants.toml")
SECONDS = 900  # of one stage: a mutant that never ends is killed too
SOUND: set[tuple[str, ...]] = set()  # commands that passed without a mutant

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
PAIRS = ["sqrt square", "exp expm1", "log log1p", "sum mean", "cos sin", "min max", "amin amax", "randn rand"]
PAIRS += ["randn_like rand_like", "zeros_like ones_like", "zeros ones", "cumsum cumprod", "all any"]
FUNCTIONS = {a: b for pair in PAIRS for a, b in (pair.split(), reversed(pair.split()))}
FUNCTIONS |= {"softmax": "sigmoid", "pow": "mul", "cumprod": "cumsum"}
SILENT = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)  # nothing below them is mathematics
PRINTING = ("__repr__", "extra_repr", "__str__")
ROOMS = ("core", "networks", "papers", "facts")  # of tests/, in the order in which they are asked


class Mutant(NamedTuple):
    """One change: the file below src/gmbook, the place's number in it, its line, and what it says before and after.

    `before` and `after` are the changed expression, `name` is its whole statement and the class and function that it
    stands in, as mutants.toml has it: `1 -> 2` alone would name every 1 of a file, and lines move.
    """

    file: Path
    place: int
    line: int
    before: str
    after: str
    name: str


# ----------------------------------------------------------------------------------------------------------- mutation


class Place(NamedTuple):
    """A node that can be changed, its statement, and the names of the classes and functions around it."""

    node: ast.AST
    statement: ast.AST
    scope: tuple[str, ...]


def places(tree: ast.AST, statement: ast.AST | None = None, scope: tuple[str, ...] = ()) -> Iterator[Place]:
    """The places of a tree, in the order of the text."""
    if isinstance(tree, SILENT) or (isinstance(tree, ast.FunctionDef) and tree.name in PRINTING):
        return
    statement = tree if statement is None or isinstance(tree, ast.stmt) else statement
    if isinstance(tree, (ast.ClassDef, ast.FunctionDef)):
        scope = (*scope, tree.name)
    if changes(tree):
        yield Place(tree, statement, scope)
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from places(child, statement, scope)


def head(statement: ast.AST) -> str:
    """The first line of a statement: all of a simple one, and of a compound one what stands before its body."""
    return next(line for line in ast.unparse(statement).splitlines() if not line.startswith("@"))


def changes(node: ast.AST) -> bool:
    """Whether `change` does something to the node."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.BinOp(op=op) | ast.BoolOp(op=op):
            return type(op) in OPERATORS
        case ast.Compare(ops=[op]):
            return type(op) in OPERATORS
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            return True
        case ast.Attribute(attr=name):
            return name in FUNCTIONS
    return False


def change(node: ast.AST) -> None:
    """Change the node in place."""
    match node:
        case ast.Constant(value=int(value)):
            node.value = value + 1
        case ast.Constant(value=float(value)):
            node.value = 2 * value if value else 1.0
        case ast.BinOp(op=op) | ast.BoolOp(op=op):
            node.op = OPERATORS[type(op)]()  # type: ignore[assignment]
        case ast.Compare(ops=[op]):
            node.ops = [OPERATORS[type(op)]()]  # type: ignore[list-item]
        case ast.UnaryOp(op=ast.USub()):
            node.op = ast.UAdd()
        case ast.UnaryOp(operand=operand):
            node.operand = ast.UnaryOp(ast.Not(), operand)
        case ast.Attribute(attr=name):
            node.attr = FUNCTIONS[name]


def mutants(source: str, file: Path) -> list[Mutant]:
    """Every mutant of a file's text."""
    found = []
    for index, (node, statement, scope) in enumerate(list(places(ast.parse(source)))):
        before, whole, kept = ast.unparse(node), head(statement), dict(vars(node))
        change(node)
        name = f"{file.as_posix()}, {'.'.join(scope) or 'module'}: {whole} -> {head(statement)}"
        found.append(Mutant(file, index, node.lineno, before, ast.unparse(node), name))  # type: ignore[attr-defined]
        vars(node).update(kept)  # so that the next mutant's statement says only its own change
    return found


def mutated(source: str, mutant: Mutant) -> str:
    """The file's text with that one change."""
    tree = ast.parse(source)
    change(list(places(tree))[mutant.place].node)
    return ast.unparse(tree)


# -------------------------------------------------------------------------------------------------------------- tests


def modules(root: Path = ROOT) -> list[Path]:
    """What is mutated by default, below src/gmbook: core, networks, the written chapters' papers and their theory."""
    written = [key for key, entry in registry.read().entries.items() if entry.chapter and entry.text(root)]
    home = root / PACKAGE
    shared = [*sorted(home.glob("core/**/*.py")), *sorted(home.glob("networks/*.py"))]
    papers = [home / "papers" / part / f"{key}.py" for key in written for part in ("", "theory")]
    return [path.relative_to(home) for path in [*shared, *papers] if path.exists()]


def importers(file: Path, root: Path = ROOT) -> list[Path]:
    """The test files that import the module, or the package within its room that hands its names on."""
    *above, name = ("gmbook", *file.with_suffix("").parts)
    package = re.escape(".".join(above))
    pattern = rf"\b{package}\.{name}\b|from {package} import [^\n]*\b{name}\b"
    if len(above) > 2:  # core.paths.base: its classes are imported from core.paths
        pattern += rf"|from {package} import"
    found = [test for room in ROOMS for test in sorted((root / "tests" / room).rglob("test_*.py"))]
    return [test for test in found if re.search(pattern, test.read_text("utf-8"))]


def stages(file: Path, root: Path = ROOT, chapters: bool = True) -> list[list[str]]:
    """The commands that may kill a mutant of this file, the quickest first."""
    own = root / "tests" / file.parent / f"test_{file.stem}.py"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "pythonpath=tests ."]  # not src
    rest = [root / "tests" / room for room in ROOMS if (root / "tests" / room).exists()]
    tests = [[own] if own.exists() else [], [test for test in importers(file, root) if test != own], rest]
    found = [[sys.executable, "-m", "pytest", *options, *map(str, files)] for files in tests if files]
    users = [text for text in texts(root / "chapters") if file.stem in text.read_text("utf-8")] if chapters else []
    users = [text for text in users if text.stem != "exercises"]
    return found + [[sys.executable, "-m", "tools.mutants", "--execute", str(text)] for text in users[:3]]


def execute(text: Path) -> int:
    """Run a chapter as its reader does, without recording anything; 1 if a cell raises."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    from tools.chapters import CELL_SECONDS, read_text

    where = {"metadata": {"path": str(text.parent)}}
    try:
        NotebookClient(read_text(text), timeout=2 * CELL_SECONDS, kernel_name="python3", resources=where).execute()
    except CellExecutionError:
        return 1
    return 0


def copied(place: Path, root: Path = ROOT) -> Path:
    """A copy of src below `place`, and links to all else of the clone beside it: records and data are found there."""
    place.mkdir()
    for path in root.iterdir():
        if path.name != "src":
            (place / path.name).symlink_to(path)
    return Path(shutil.copytree(root / "src", place / "src"))


def failure(command: list[str], home: Path, root: Path = ROOT) -> str:
    """What fails when the command runs with the package in `home`; empty if nothing does."""
    environment = os.environ | {"PYTHONPATH": f"{home}{os.pathsep}{root}", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"{Path(command[-1]).name}, which does not end"
    if not done.returncode:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) \S*?([^/\s]+\.py\S*)", done.stdout.decode("utf-8"), re.M)
    return failed[1] if failed else Path(command[-1]).name


def killed(mutant: Mutant, home: Path, root: Path = ROOT, chapters: bool = True) -> str:
    """What kills the mutant, run in the copy `home` of src; empty if it survives.

    Raises:
        RuntimeError: what kills it fails without it too, and says nothing.
    """
    target = home / "gmbook" / mutant.file
    source = target.read_text(encoding="utf-8")
    for command in stages(mutant.file, root, chapters):
        target.write_text(mutated(source, mutant), encoding="utf-8")
        try:
            by = failure(command, home, root)
        finally:
            target.write_text(source, encoding="utf-8")
        if by:
            if tuple(command) not in SOUND and failure(command, home, root):
                raise RuntimeError(f"{by} fails without a mutant too: mend that first")
            SOUND.add(tuple(command))
            return by
    return ""


def main(argv: list[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "files", nargs="*", type=Path, help="below src/gmbook; by default core, networks, the chapters' papers"
    )
    parser.add_argument("--count", type=int, default=100, help="how many are drawn (100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (2)")
    parser.add_argument("--unit", action="store_true", help="unit tests only, no chapter")
    parser.add_argument("--execute", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.execute:
        return execute(arguments.execute)
    files = arguments.files or modules()
    every = [m for f in files for m in mutants((ROOT / PACKAGE / f).read_text(encoding="utf-8"), f)]
    known = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"]
    drawn = random.Random(arguments.seed).sample(every, min(arguments.count, len(every)))
    survivors = [mutant for mutant in sweep(drawn, arguments.jobs, not arguments.unit) if mutant.name not in known]
    print(f"{len(drawn)} of {len(every)} mutants, {len(survivors)} survive")
    return int(bool(survivors))


def sweep(drawn: list[Mutant], jobs: int, chapters: bool = True) -> list[Mutant]:
    """Try the mutants, some at a time, each in its own copy of src; prints a line for each, returns the survivors."""
    with tempfile.TemporaryDirectory() as place:
        homes: SimpleQueue[Path] = SimpleQueue()
        for job in range(jobs):
            homes.put(copied(Path(place) / str(job)))

        def attempt(mutant: Mutant) -> bool:
            home, start = homes.get(), time.perf_counter()
            by = killed(mutant, home, chapters=chapters)
            homes.put(home)
            end = f"killed by {by}" if by else "SURVIVES"
            print(f"{end}, {time.perf_counter() - start:.0f} s: {mutant.name} (line {mutant.line})", flush=True)
            return not by

        with ThreadPoolExecutor(jobs) as pool:
            return [mutant for mutant, survives in zip(drawn, pool.map(attempt, drawn)) if survives]


if __name__ == "__main__":
    sys.exit(main())
