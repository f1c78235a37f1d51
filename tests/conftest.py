"""Every test starts from the same seed and leaves the number of threads alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

LONGEST = ("test_grader.py", "test_wheel.py", "test_sheets.py", "test_devices.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first, so that no process sits over one of them while the others are done."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers for a test, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def threads_left_alone() -> Iterator[None]:
    """An explicit set_num_threads above 1 breaks batched LU in some builds of torch: nothing may call it."""
    before = torch.get_num_threads()
    yield
    after = torch.get_num_threads()
    assert after <= max(before, 1), f"torch.set_num_threads({after}) was called: set OMP_NUM_THREADS instead"


@pytest.fixture(scope="session")
def data_home() -> Path:
    """The folder with the real data sets that GMBOOK_DATA names; without it the test is skipped, and says so."""
    home = os.environ.get("GMBOOK_DATA")
    if not home:
        pytest.skip("GMBOOK_DATA is not set: no real data to test against")
    if not Path(home).is_dir():
        pytest.fail(f"GMBOOK_DATA={home} is not a folder")
    return Path(home)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty data folder, an empty cache: a machine without any data set."""
    from gmbook.data import download

    monkeypatch.setenv("GMBOOK_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(download, "cache", lambda: tmp_path / "cache")
    return tmp_path / "home"


@pytest.fixture
def small_images(monkeypatch, data_home):
    """A reference of 300 images and a training set of 3,200 (a few more than CIFAR-10's pixels, so that a covariance
    can be fitted): a test takes seconds."""
    from gmbook import data
    from gmbook.metrics import images

    def part(whole: data.ImageSet) -> data.ImageSet:
        return dataclasses.replace(whole, x=whole.x[:3200], y=whole.y[:3200])

    mnist, cifar10 = data.mnist, data.cifar10
    monkeypatch.setattr(images, "REFERENCE", 300)
    monkeypatch.setattr(data, "mnist", lambda split: part(mnist(split)))
    monkeypatch.setattr(data, "cifar10", lambda split: part(cifar10(split)))
