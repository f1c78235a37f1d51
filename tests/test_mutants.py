"""The tool that breaks the library: it changes mathematics and nothing else, and tells a kill from a survival."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tools import mutants

SOURCE = '''"""A module with 3 numbers in its text."""
LIMIT = 2


class Law:
    def __repr__(self) -> str:
        return str(1 + 1)

    def log_prob(self, x: "Tensor[4]", on=True):
        if not x < LIMIT:
            raise ValueError(f"at most {LIMIT + 5}, got " + str(7))
        return -x.square().sum(1) / 2.0
'''


def test_mathematics_is_changed_and_nothing_else():
    found = [(m.before, m.after) for m in mutants.mutants(SOURCE, Path("x.py"))]
    assert found == [
        ("2", "3"),
        ("not x < LIMIT", "not not x < LIMIT"),
        ("x < LIMIT", "x <= LIMIT"),
        ("-x.square().sum(1) / 2.0", "-x.square().sum(1) * 2.0"),
        ("-x.square().sum(1)", "+x.square().sum(1)"),
        ("x.square().sum", "x.square().mean"),
        ("x.square", "x.sqrt"),
        ("1", "2"),
        ("2.0", "4.0"),
    ]


def test_each_mutant_is_one_change_of_the_text():
    plain = mutants.ast.unparse(mutants.ast.parse(SOURCE)).splitlines()
    for mutant in mutants.mutants(SOURCE, Path("x.py")):
        text = mutants.mutated(SOURCE, mutant).splitlines()
        assert sum(a != b for a, b in zip(plain, text, strict=True)) == 1, mutant


def test_a_mutant_is_named_by_its_statement_before_and_after():
    names = [mutant.name for mutant in mutants.mutants(SOURCE, Path("x.py"))]
    assert names[0] == "x.py, module: LIMIT = 2 -> LIMIT = 3"
    assert names[2] == "x.py, Law.log_prob: if not x < LIMIT: -> if not x <= LIMIT:"
    assert names[6] == "x.py, Law.log_prob: return -x.square().sum(1) / 2.0 -> return -x.sqrt().sum(1) / 2.0"
    assert len(set(names)) == len(names)


def test_the_tests_that_import_a_module_are_found():
    found = [test.name for test in mutants.importers(Path("core/paths/family.py"))]
    assert "test_paths.py" in found and "test_chains.py" not in found
    assert "test_d3pm.py" in [test.name for test in mutants.importers(Path("core/chains.py"))]


@pytest.fixture
def root(tmp_path):
    """A clone in little: a function with two numbers, of which the tests see one."""
    files = {
        "src/gmbook/__init__.py": "",
        "src/gmbook/core/__init__.py": "",
        "src/gmbook/core/sums.py": "def seen():\n    return 1\n\n\ndef unseen():\n    return 5\n",
        "tests/core/test_sums.py": "from gmbook.core.sums import seen\n\ndef test_seen():\n    assert seen() == 1\n",
        "tests/papers/test_nothing.py": "def test_nothing():\n    pass\n",
        "tests/facts/test_nothing_else.py": "def test_nothing():\n    pass\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "chapters").mkdir()
    return tmp_path


def test_a_mutant_that_is_seen_is_killed_and_another_survives(root, tmp_path):
    home = Path(shutil.copytree(root / "src", tmp_path / "copy"))
    file = Path("core/sums.py")
    before = (home / "gmbook" / file).read_text()
    seen, unseen = mutants.mutants(before, file)
    assert mutants.killed(seen, home, root) == "test_sums.py::test_seen"
    assert mutants.killed(unseen, home, root) == ""
    assert (home / "gmbook" / file).read_text() == before
    assert unseen.name == "core/sums.py, unseen: return 5 -> return 6"


def test_what_fails_without_a_mutant_kills_nothing(root, tmp_path):
    (root / "tests/core/test_sums.py").write_text("import gmbook.core.sums\n\ndef test_seen():\n    assert False\n")
    home = mutants.copied(tmp_path / "copy", root)
    seen, _ = mutants.mutants((home / "gmbook/core/sums.py").read_text(), Path("core/sums.py"))
    with pytest.raises(RuntimeError, match="test_sums.py::test_seen fails without a mutant too"):
        mutants.killed(seen, home, root)
    assert "return 1" in (home / "gmbook/core/sums.py").read_text()


def test_a_copy_finds_the_records(tmp_path):
    """Its package looks beside src, as in a clone: without them any chapter that prints a record would "kill"."""
    home = mutants.copied(tmp_path / "copy")
    code = "from gmbook import experiments as e; print(e.__file__, e.record('ddpm', 'mnist', 'laptop').folder)"
    environment = os.environ | {"PYTHONPATH": str(home)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.startswith(str(home)) and "ddpm-mnist-laptop" in told.stdout


def test_what_is_mutated_is_core_and_the_written_chapters_papers():
    files = mutants.modules()
    assert Path("core/solvers.py") in files
    rooms = {"core", "core/paths", "core/flows", "networks", "papers", "papers/theory"}
    assert {path.parent.as_posix() for path in files} >= rooms
    assert all(reason for reason in mutants.tomllib.loads(mutants.EQUIVALENT.read_text())["equivalent"].values())
