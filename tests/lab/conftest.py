"""What the tests of the laboratory share."""

import os

import pytest


@pytest.fixture
def data_home():
    """The folder with the real data, or a skip that says how to run the test."""
    home = os.environ.get("GMBOOK_DATA")
    if not home:
        pytest.skip("needs real data: set GMBOOK_DATA to a folder that holds it (see data/README.md)")
    return home


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty data folder, an empty cache: a machine without any data set."""
    from gmbook.lab import download

    monkeypatch.setenv("GMBOOK_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(download, "cache", lambda: tmp_path / "cache")
    return tmp_path / "home"
