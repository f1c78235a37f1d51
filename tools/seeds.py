"""The chapters under other seeds: a sentence that holds for one seed only is not yet a sentence for a book.

    python -m tools.seeds                         every chapter, shifts 1 to 16 (hours of two cores)
    python -m tools.seeds --shifts 1-4 FILE ...   some chapters, some shifts

Every `torch.manual_seed(s)` of a chapter becomes `torch.manual_seed(s + shift)`. A check that misses its bar is
counted and the cell goes on, so that one shift tells all that depends on the seed. One line for each chapter and
shift, then the checks that failed and how often; the exit code is 1 if one did.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from tools.chapters import CELL_SECONDS, KERNEL, read_text, texts

MISSED = "missed: "
PREPARED = f"""
import torch as _torch
import gmbook.notebook as _notebook

def _shifted(manual_seed):
    return lambda seed: manual_seed(int(seed) + {{shift}})

_torch.manual_seed = _torch.random.manual_seed = _shifted(_torch.manual_seed)
_torch.manual_seed(1000)

def _counting(check):
    def counted(claim, *arguments, **bars):
        try:
            check(claim, *arguments, **bars)
        except AssertionError as error:
            print({MISSED!r} + str(error))
    return counted

_notebook.check = _counting(_notebook.check)
"""


class Verdict(NamedTuple):
    """What one chapter said under one shift."""

    chapter: str
    shift: int
    checks: int
    missed: list[str]
    seconds: float

    def claims(self) -> set[str]:
        """What was missed, each claim once however often it was, without the numbers."""
        return {miss.split(": got ")[0] for miss in self.missed}


def under(text: Path, shift: int) -> Verdict:
    """Run a chapter with all seeds shifted. A cell that raises counts as missed, by its error's last line."""
    start = time.perf_counter()
    notebook = read_text(text)
    notebook.metadata = NotebookNode(kernelspec=KERNEL)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(PREPARED.format(shift=shift)))
    where = {"metadata": {"path": str(text.parent)}}
    client = NotebookClient(
        notebook, timeout=2 * CELL_SECONDS, kernel_name="python3", allow_errors=True, resources=where
    )
    client.execute()
    checks, missed = 0, []
    for output in (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs):
        if output.output_type == "error":
            missed.append(f"{output.ename}: {output.evalue}".splitlines()[0])
        for line in output.get("text", "").splitlines():
            checks += "  ok" in line or line.startswith(MISSED)
            if line.startswith(MISSED):
                missed.append(line.removeprefix(MISSED))
    return Verdict(text.stem, shift, checks, missed, time.perf_counter() - start)


def shifts(words: str) -> range:
    """'1-16' or '3': the shifts that are meant."""
    first, _, last = words.partition("-")
    return range(int(first), int(last or first) + 1)


def main(argv: list[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tools.seeds", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="texts (.md); all chapters when none is named")
    parser.add_argument("--shifts", type=shifts, default=range(1, 17), metavar="A-B", help="1-16 by default")
    parser.add_argument("--jobs", type=int, default=2, help="chapters at a time (2)")
    arguments = parser.parse_args(argv)
    chosen = [file.resolve() for file in arguments.files] or [t for t in texts() if t.stem != "exercises"]
    jobs = list(product(chosen, arguments.shifts))
    often: Counter[tuple[str, str]] = Counter()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for found in pool.map(under, *zip(*jobs)):
            verdict = (
                f"{len(found.missed)} of {found.checks} checks missed" if found.missed else f"{found.checks} checks"
            )
            print(f"{found.chapter:<20} shift {found.shift:>2}: {verdict}, {found.seconds:.0f} s", flush=True)
            often.update((found.chapter, claim) for claim in found.claims())
    for (chapter, claim), count in often.most_common():
        print(f"{chapter}: missed under {count} of {len(arguments.shifts)} shifts: {claim}")
    return int(bool(often))


if __name__ == "__main__":
    sys.exit(main())
