"""What is installed, which data sets are found, and whether this machine computes rightly: one line each."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from typing import NamedTuple

DATASETS = ("mnist", "cifar10", "text8")
DISK_GB = 2.0  # the three data sets, unpacked, and the checkpoints of a few runs


class Finding(NamedTuple):
    """One thing looked at.

    Attributes:
        ok: it is there and works.
        text: what was found, or what to do.
        required: without it the book does not run.
    """

    ok: bool
    text: str
    required: bool = True

    @property
    def line(self) -> str:
        """`[ok] text` or `[missing] text`."""
        return f"[{'ok' if self.ok else 'missing'}] {self.text}"


def python() -> Finding:
    """Python's version."""
    here = platform.python_version()
    return Finding(
        sys.version_info >= (3, 11), f"Python {here}" + ("" if sys.version_info >= (3, 11) else ", needs 3.11")
    )


def package(name: str, purpose: str) -> Finding:
    """An installed distribution."""
    try:
        return Finding(True, f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
        return Finding(False, f"{name}, {purpose}: run `make setup`")


def device() -> Finding:
    """torch and where it computes."""
    try:
        import torch
    except ImportError as error:
        return Finding(False, f"torch: {error}; run `make setup`")
    if torch.cuda.is_available():
        where = f"GPU {torch.cuda.get_device_name(0)}"
    elif torch.backends.mps.is_available():
        where = "CPU: Apple's GPU is not used, as the book computes in float64 too, which it does not have"
    else:
        where = "CPU, no GPU found"
    return Finding(True, f"torch {torch.__version__} on {where}")


def threads() -> Finding:
    """How many threads torch uses, and what asked for it."""
    import torch

    asked = os.environ.get("OMP_NUM_THREADS")
    told = f"OMP_NUM_THREADS={asked}" if asked else "OMP_NUM_THREADS not set"
    return Finding(True, f"{torch.get_num_threads()} threads of {os.cpu_count()} ({told})")


def batched_lu() -> Finding:
    """log|det| of a (4, 256, 256) batch by LU, against the sum of the log singular values.

    Some CPU builds of torch return wrong determinants of large batches after `torch.set_num_threads` with more than
    1; flows and every Jacobian oracle of the book stand on them.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(4, 256, 256, dtype=torch.float64, generator=generator)
    by_lu = torch.linalg.slogdet(matrices).logabsdet
    by_svd = torch.linalg.svdvals(matrices).log().sum(-1)
    error = float((by_lu - by_svd).abs().max())
    if error < 1e-8:
        return Finding(True, f"determinants of large batches (error {error:.0e})")
    return Finding(
        False,
        f"determinants of large batches are wrong by {error:.0e}: set OMP_NUM_THREADS=1 and never call "
        "torch.set_num_threads with more than 1",
    )


def dataset(name: str) -> Finding:
    """Whether a data set is here whole, as `gmbook data` says it; the book runs without it, on small data."""
    from gmbook.data import download

    found, where = download.look(name)
    rest = "" if found else "; until it is here chapters use small data of their own"
    return Finding(found, f"{name}: {where}{rest}", required=False)


def disk() -> Finding:
    """Free space where data are written."""
    from gmbook.data import download

    folder = download.homes()[0].absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    return Finding(
        free >= DISK_GB, f"{free:.0f} GB free in {folder}" + ("" if free >= DISK_GB else f", want {DISK_GB:.0f}"), False
    )


def findings() -> list[Finding]:
    """Everything looked at, in order; what needs torch is left out when torch is missing."""
    packages = [
        package("jupyterlab", "opens the chapters"),
        package("jupytext", "opens a chapter's text as a notebook"),
        package("jupyterlab-myst", "renders equations and boxes in JupyterLab"),
    ]
    found = [python(), device()]
    if not found[-1].ok:
        return [*found, *packages]
    return [*found, threads(), batched_lu(), *packages, *(dataset(name) for name in DATASETS), disk()]


def report() -> list[str]:
    """One `[ok]` or `[missing]` line for each thing looked at."""
    return [finding.line for finding in findings()]


def main() -> int:
    """Print the report: 0 unless something that the book needs is missing."""
    found = findings()
    print("\n".join(finding.line for finding in found))
    return int(any(finding.required and not finding.ok for finding in found))


if __name__ == "__main__":
    sys.exit(main())
