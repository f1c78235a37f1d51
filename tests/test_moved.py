"""The old names of the laboratory import for one release more, and warn."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from gmbook.lab import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_is_the_new_module(old: str, new: str) -> None:
    """It is the same object, so that a class caught by one name is the class raised by the other."""
    assert importlib.import_module(f"gmbook.lab.{old}") is importlib.import_module(new)


def test_an_old_name_warns_and_says_where_to_look() -> None:
    """One warning at the first import."""
    told = subprocess.run(
        [sys.executable, "-W", "always", "-c", "from gmbook.lab.toys import ALL"], capture_output=True, text=True
    )
    assert told.stderr.count("DeprecationWarning") == 1 and "CHANGELOG.md" in told.stderr
