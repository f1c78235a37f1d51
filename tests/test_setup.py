"""pyproject.toml, requirements.lock and environment.yml agree."""

from __future__ import annotations

import re
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
