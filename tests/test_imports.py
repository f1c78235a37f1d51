"""The rooms and doors of the house, read from the imports; and nothing is unpickled but one known file of weights."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from gmbook import registry

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "gmbook"

LABORATORY = ("laws", "data", "train", "metrics", "plots")  # what knows no paper

# room -> the rooms of gmbook that it may import from
DOORS = {
    "core": {"core"},
    "networks": {"core", "networks"},
    "papers": {"core", "papers"},  # and networks, where the architecture is the paper
    "laws": {"core", "laws"},
    "data": {"core", "data"},
    "train": {"core", "data", "train"},
    "metrics": {"core", "laws", "data", "metrics"},
    "plots": {"core", "plots"},
    "experiments": {"core", "networks", "papers", *LABORATORY, "experiments", "registry"},
    "course": {"core", "networks", "papers", *LABORATORY, "course"},
}
# from the mathematics to the command; a room imports from those before it
ORDER = (
    "core",
    "networks",
    "papers",
    "laws",
    "data",
    "train",
    "metrics",
    "plots",
    "notebook",
    "registry",
    "experiments",
    "course",
    "doctor",
    "cli",
)
ARCHITECTURE_IS_THE_PAPER = {f"{key}.py" for key, entry in registry.read().entries.items() if entry.architecture}
THIRD_PARTY = {"core": {"torch", "ot"}, "networks": {"torch"}}  # ot for the optimal pairing alone
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
READS_ONE_FILE = "efficientnet.py"  # weights that exist in torch's format only, known by their SHA-256

MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*MODULES, *sorted((ROOT / "tools").rglob("*.py")), *sorted((ROOT / "book").rglob("*.py"))]


def imported(tree: ast.Module) -> set[str]:
    """Dotted names of all that a module imports, relative imports refused."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write absolute imports: `from gmbook.core...`"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def trespasses(path: Path, source: str) -> list[str]:
    """The imports of a module that its room does not allow."""
    room = path.relative_to(PACKAGE).parts[0]
    names = imported(ast.parse(source))
    if room not in DOORS:
        return []
    doors = DOORS[room] | ({"networks"} if path.name in ARCHITECTURE_IS_THE_PAPER else set())
    found = []
    for name in sorted(names):
        top, *rest = name.split(".")
        if top == "gmbook":
            if not rest or rest[0] not in doors:
                found.append(name)
        elif room in THIRD_PARTY and top not in THIRD_PARTY[room] | set(sys.stdlib_module_names):
            found.append(name)
    return found


def unpickles(tree: ast.Module, name: str = "") -> list[str]:
    """Where a module could unpickle: an import of a pickler, torch.load, or allow_pickle.

    In the file READS_ONE_FILE one call torch.load(..., weights_only=True) is let through.
    """
    found = [each for each in imported(tree) if each.split(".")[0] in UNPICKLERS or each == "torch.load"]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]
    safe = [call.func for call in calls if "weights_only=True" in map(ast.unparse, call.keywords)]
    allowed = safe[:1] if name == READS_ONE_FILE else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.hub.load"):
            if node not in allowed:
                found.append(f"{ast.unparse(node)} in line {node.lineno}")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", True):
            found.append(f"allow_pickle in line {node.value.lineno}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_rooms_open_only_their_own_doors(path):
    assert trespasses(path, path.read_text(encoding="utf-8")) == []


def graph(level: str) -> dict[str, set[str]]:
    """Who imports whom within gmbook, at the top of a file or inside a function: by "module", or by "room".

    A package's own `__init__` stands for the package; a room is a folder of the package, or a file beside the folders.
    """
    names = {".".join(("gmbook", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in MODULES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    arrows: dict[str, set[str]] = {}
    for name, path in names.items():
        found = set()
        for target in imported(ast.parse(path.read_text(encoding="utf-8"))):
            while target not in names and "." in target:  # `from a.b import c`: c is a module, or a name in a.b
                target = target.rpartition(".")[0]
            if target in names and target != "gmbook":
                found.add(target)
        arrows[name] = found
    if level == "room":
        rooms: dict[str, set[str]] = {}
        for name, found in arrows.items():
            here = ".".join(name.split(".")[:2])
            rooms.setdefault(here, set()).update({".".join(each.split(".")[:2]) for each in found} - {here})
        return rooms
    return {name: found - {name} for name, found in arrows.items()}


@pytest.mark.parametrize("level", ["module", "room"])
def test_the_map_of_imports_has_no_circle(level):
    """Neither among modules nor among rooms, so that each can be read after those that it stands on."""
    order = list(TopologicalSorter(graph(level)).static_order())  # CycleError names the circle
    assert "gmbook.core" in order


def test_no_arrow_points_upwards():
    """The rooms have one order, from the mathematics to the command: each imports from those before it alone."""
    arrows = graph("room")
    height = {f"gmbook.{room}": i for i, room in enumerate(ORDER)}
    assert set(arrows) - {"gmbook", "gmbook.lab"} <= set(height), "a new room: give it its place in ORDER"
    upwards = {
        (room, other)
        for room, found in arrows.items()
        for other in found
        if height.get(other, 0) >= height.get(room, 99)
    }
    assert upwards == set()


def test_the_test_sees_a_circle():
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).static_order())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_is_unpickled(path):
    assert unpickles(ast.parse(path.read_text(encoding="utf-8")), path.name) == []


def test_chapters_unpickle_nothing():
    for text in (ROOT / "chapters").glob("*/*.md"):
        assert not re.search(r"\btorch\.load\b|\bimport pickle\b|allow_pickle", text.read_text(encoding="utf-8")), text


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("core", "import numpy"),
        ("core", "from gmbook.networks.mlp import MLP"),
        ("networks", "from gmbook.papers import ddpm"),
        ("papers", "from gmbook.networks.unet import UNet"),
        ("papers", "import gmbook.data"),
        ("train", "from gmbook.papers.ddpm import DDPM"),
        ("data", "from gmbook.laws import plane"),
        ("experiments", "from gmbook import cli"),
    ],
)
def test_the_test_sees_a_trespass(room, line):
    assert trespasses(PACKAGE / room / "some.py", line)


def test_the_test_sees_an_unpickling():
    for line in ("import pickle", "from torch import load", "x = torch.load(p)", "np.load(p, allow_pickle=True)"):
        assert unpickles(ast.parse(line)), line


def test_one_file_may_be_read_with_weights_only_and_in_one_place():
    safe = "x = torch.load(p, weights_only=True)"
    assert unpickles(ast.parse(safe), READS_ONE_FILE) == []
    assert unpickles(ast.parse(safe), "fid.py")
    for line in (
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=flag)",
        "f = torch.load",
    ):
        assert unpickles(ast.parse(line), READS_ONE_FILE), line
    assert len(unpickles(ast.parse(f"{safe}; {safe}"), READS_ONE_FILE)) == 1


@pytest.mark.parametrize("module", ["gmbook.cli", "gmbook.course.judge"])
def test_no_command_waits_for_what_few_need(module):
    """Each takes half a second to two seconds to import: whoever needs one imports it where it is needed."""
    slow = {"nbformat", "IPython", "pandas", "sklearn", "scipy.stats", "scipy.optimize", "matplotlib.pyplot", "pooch"}
    code = f"import sys, {module}; print(*sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
