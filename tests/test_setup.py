"""pyproject.toml, requirements.lock and environment.yml agree; the workflows and the container call what is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch"}  # conda-forge's name -> PyPI's
NOT_PYTHON_PACKAGES = {"python", "pip", "git", "make"}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONTAINER = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
WORKFLOWS = {
    file.stem: yaml.load(file.read_text(), yaml.BaseLoader)  # in which `on` is no boolean, and 3.10 not 3.1
    for file in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}


def requirements(*groups: str) -> list[Requirement]:
    """The project's own dependencies and those of the named extras."""
    lines = PROJECT["dependencies"] + [line for group in groups for line in EXTRAS[group]]
    return [Requirement(line) for line in lines]


def pins() -> dict[str, Version]:
    """Canonical name -> pinned version."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), "requirements.lock holds lines of the form name==version only"
    names = [canonicalize_name(name) for name, _ in pairs]
    assert len(set(names)) == len(names), "requirements.lock pins a package twice"
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def conda() -> dict[str, str]:
    """PyPI's canonical name -> range, from environment.yml."""
    lines = []
    for item in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]:
        lines += item["pip"] if isinstance(item, dict) else [item]
    found = {}
    for line in lines:
        if line == "-e .":
            continue
        name, bound = re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", line).groups()
        found[canonicalize_name(CONDA_NAMES.get(name, name))] = bound
    return found


@pytest.mark.parametrize("requirement", requirements(*EXTRAS), ids=lambda r: r.name)
def test_every_dependency_is_pinned_within_its_range(requirement):
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is missing in requirements.lock"
    assert requirement.specifier.contains(version), f"the lock's {version} is outside {requirement}"
    assert requirement.specifier, f"give {requirement.name} a lower bound"


def test_pins_are_portable():
    """No local builds such as 2.13.0+cpu, which cannot be resolved elsewhere; no paths, no hosts."""
    assert not [name for name, version in pins().items() if version.local]
    text = (ROOT / "requirements.lock").read_text() + (ROOT / "environment.yml").read_text()
    assert not re.search(r"://|file:|(?<!\.)/\w", text)


@pytest.mark.parametrize("name", pins())
def test_every_pin_installs_on_the_oldest_python(name):
    """A release that needs 3.11.5 leaves those out whose system has 3.11.2: pip then finds no solution at all."""
    try:
        needs = metadata.metadata(name).get("Requires-Python")
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed here: an optional group, or another system's")
    oldest = Version(PROJECT["requires-python"].removeprefix(">=") + ".0")
    assert SpecifierSet(needs or "").contains(oldest), f"{name} {pins()[name]} needs Python {needs}"


def test_conda_environment_has_the_same_ranges():
    groups = ("dev", "book", "site", "features", "log")
    expected = {canonicalize_name(r.name): str(r.specifier) for r in requirements(*groups)}
    found = conda()
    assert found.pop("python") == PROJECT["requires-python"]
    assert {name: bound for name, bound in found.items() if name not in NOT_PYTHON_PACKAGES} == expected


def test_torchvision_is_nowhere():
    """Beside a CPU torch it resolves to a CUDA build that dies at import."""
    assert "torchvision" not in pins()


def jobs() -> list[tuple[str, dict]]:
    """All jobs of all workflows, by name."""
    return [(f"{name}/{key}", job) for name, content in WORKFLOWS.items() for key, job in content["jobs"].items()]


def commands(job: dict) -> list[str]:
    """The shell lines of a job."""
    return [line for step in job["steps"] for line in step.get("run", "").splitlines()]


def pythons() -> list[str]:
    """The versions that pyproject.toml names, oldest first."""
    return [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]


def test_workflows_fit_githubs_schema():
    files = [str(file) for file in (ROOT / ".github" / "workflows").iterdir()]
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *files]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_and_container_call_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)", makefile, re.M)[1].split())
    variables = set(re.findall(r"^(\w+) \?=", makefile, re.M))
    called = [line for _, job in jobs() for line in commands(job)] + [CONTAINER["postCreateCommand"]]
    made = [line.split()[1:] for line in called if line.startswith("make ")]
    assert {word for words in made for word in words} <= targets
    assert ["test"] in made and ["setup"] in made
    set_here = {name for _, job in jobs() for name in job.get("env", {}) if name in ("JOBS", "CONSTRAINTS")}
    assert set_here == {"JOBS", "CONSTRAINTS"} <= variables


def test_workflows_set_up_what_ci_sets_up():
    line = re.search(r"^make setup .*?(?=  #)", (ROOT / ".ci" / "run").read_text(), re.M)[0]
    tests = {name: commands(job) for name, job in jobs() if "make test" in commands(job)}
    assert set(tests) == {"tests/test", "newest/test"} and all(line in lines for lines in tests.values())


def test_workflows_test_the_oldest_and_the_newest_python():
    assert PROJECT["requires-python"] == f">={pythons()[0]}"
    assert pythons() == [f"3.{minor}" for minor in range(int(pythons()[0][2:]), int(pythons()[-1][2:]) + 1)]
    assert WORKFLOWS["tests"]["jobs"]["test"]["strategy"]["matrix"]["python"] == [pythons()[0], pythons()[-1]]
    steps = WORKFLOWS["newest"]["jobs"]["test"]["steps"]
    assert [step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")] == pythons()[
        -1:
    ]
    assert CONTAINER["image"].rsplit(":", 1)[1] in pythons()


@pytest.mark.parametrize("job", [job for _, job in jobs()], ids=[name for name, _ in jobs()])
def test_a_job_may_do_little_and_runs_pinned_actions(job):
    """Nothing by default; what a job adds is its own. A tag can be moved, a commit cannot."""
    assert all(content["permissions"] == {} for content in WORKFLOWS.values())
    expected = {"issues": "write"} if any("gh issue create" in line for line in commands(job)) else {"contents": "read"}
    assert job["permissions"] == expected and int(job["timeout-minutes"]) <= 180
    for step in job["steps"]:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step.get("uses", "actions/none@" + 40 * "0"))
        assert "checkout" not in step.get("uses", "") or step["with"]["persist-credentials"] == "false"


def test_without_constraints_the_newest_versions_are_installed(tmp_path):
    """What the weekly run sets. The Makefile's recipes are printed, not run."""

    def recipe(*settings: str) -> str:
        command = ["make", "-n", f"VENV={tmp_path / 'venv'}", *settings, "setup", "peers", "course"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert recipe().count("-c requirements.lock") == recipe().count("pip install") == 4
    assert "requirements.lock" not in recipe("CONSTRAINTS=") and recipe("CONSTRAINTS=").count("pip install") == 4
    assert WORKFLOWS["newest"]["jobs"]["test"]["env"]["CONSTRAINTS"] == ""
