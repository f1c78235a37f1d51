"""The chapters' pairs: text (`name.md`, the truth) and notebook (`name.ipynb`, made from it).

    python -m tools.chapters sync  [file.md ...]   write the notebook anew from the text, without running anything
    python -m tools.chapters run   [file.md ...]   run the chapter as a reader does, record what its check cells print
    python -m tools.chapters check [file.md ...]   say where a pair disagrees; exit code 1 if one does

Without files, all chapters. A notebook in git holds the outputs of cells tagged `nbval-check-output` and no others:
no pictures, no times. Pairs are compared by content, since after a clone modification times mean
nothing (which is why `jupytext --sync` is not used: it trusts them, and has overwritten edits).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupytext.config import load_jupytext_config
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
CHECK = "nbval-check-output"
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
KEPT = {"tags", "mystnb", "nbgrader"}  # of a cell's metadata: see chapters/jupytext.toml
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_SECONDS = 180  # as in `make test`


def texts(root: Path = ROOT / "chapters") -> list[Path]:
    """The text of every chapter and exercise sheet, in the book's order."""
    return sorted(path for path in root.glob("*/*.md") if not path.name.startswith("."))


def tags(cell: NotebookNode) -> set[str]:
    """A cell's tags."""
    return set(cell.metadata.get("tags", []))


def read_text(text: Path) -> NotebookNode:
    """The notebook that the text says, canonical: stable cell ids, no outputs.

    Raises:
        ValueError: the text has no Jupytext header, or a cell's metadata has a key that the pair would lose.
    """
    notebook = jupytext.read(text, config=load_jupytext_config(str(text)))
    if "jupytext" not in notebook.metadata or "kernelspec" not in notebook.metadata:
        raise ValueError(f"{text}: no Jupytext header; begin it as CONTRIBUTING.md shows")
    notebook.metadata = NotebookNode(kernelspec=KERNEL, jupytext={"formats": "ipynb,md:myst"})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        if lost := set(cell.metadata) - KEPT:
            raise ValueError(f"{text}: a cell's metadata names {sorted(lost)}; only {sorted(KEPT)} survive")
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def recorded(notebook: NotebookNode) -> dict[str, list[NotebookNode]]:
    """The outputs of the check cells, by the cell's source."""
    return {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code" and CHECK in tags(cell)}


def with_outputs(notebook: NotebookNode, outputs: dict[str, list[NotebookNode]]) -> NotebookNode:
    """Put recorded outputs into the check cells; a check cell whose code has changed gets none.

    nbval takes a cell without an execution count for one that was never run, so a recorded one counts as the first.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code" and CHECK in tags(cell):
            cell.outputs = outputs.get(cell.source, [])
            cell.execution_count = 1 if cell.outputs else None
    return notebook


def printed(cell: NotebookNode, text: Path) -> list[NotebookNode]:
    """What a check cell printed, as one stream output.

    Raises:
        ValueError: it showed something else as well, or nothing: nbval could not compare it.
    """
    streams = [o for o in cell.outputs if o.output_type == "stream" and o.name == "stdout"]
    if len(streams) != len(cell.outputs) or not streams:
        kinds = sorted({o.output_type for o in cell.outputs}) or ["nothing"]
        raise ValueError(f"{text}: a check cell must print and do nothing else, this one gave {kinds}:\n{cell.source}")
    return [nbformat.v4.new_output("stream", name="stdout", text="".join(o.text for o in streams))]


def serialise(notebook: NotebookNode) -> str:
    """The notebook's file, byte for byte as git holds it."""
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


def sync(text: Path) -> bool:
    """Write the notebook from the text, keeping the check outputs of unchanged cells. True if the file changed."""
    target = text.with_suffix(".ipynb")
    old = target.read_text(encoding="utf-8") if target.exists() else ""
    outputs = recorded(nbformat.reads(old, as_version=4)) if old else {}
    new = serialise(with_outputs(read_text(text), outputs))
    if new != old:
        target.write_text(new, encoding="utf-8")
    return new != old


def run(text: Path) -> float:
    """Run the chapter from its text, in its folder, and record the check outputs. The seconds it took.

    Raises:
        CellExecutionError: a cell raised; the notebook is left as it was.
        ValueError: a cell shows a figure without caption or alt text, or a check cell did not print.
    """
    start = time.perf_counter()
    notebook = read_text(text)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(text.parent)}},
    )
    client.execute()
    outputs = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if CHECK in tags(cell):
            outputs[cell.source] = printed(cell, text)
        if any("image/png" in output.get("data", {}) for output in cell.outputs) and not captioned(cell):
            raise ValueError(f"{text}: a cell shows a figure without caption and alt text:\n{cell.source}")
    text.with_suffix(".ipynb").write_text(serialise(with_outputs(read_text(text), outputs)), encoding="utf-8")
    return time.perf_counter() - start


def captioned(cell: NotebookNode) -> bool:
    """Whether the metadata give a figure's caption and alt text: `mystnb: {figure: {caption}, image: {alt}}`."""
    options: dict[str, Any] = cell.metadata.get("mystnb", {})
    return bool(options.get("figure", {}).get("caption")) and bool(options.get("image", {}).get("alt"))


def disagreements(text: Path) -> list[str]:
    """What is wrong with a pair, one line each; empty when the notebook is what `sync` would write and is complete."""
    target = text.with_suffix(".ipynb")
    if not target.exists():
        return [f"{text.name} has no notebook: run `make sync`"]
    old = target.read_text(encoding="utf-8")
    outputs = recorded(nbformat.reads(old, as_version=4))
    notebook = with_outputs(read_text(text), outputs)
    found = [
        f"a check cell has no recorded output: run `python -m tools.chapters run {text.name}`\n{cell.source}"
        for cell in notebook.cells
        if cell.cell_type == "code" and CHECK in tags(cell) and not cell.outputs
    ]
    if serialise(notebook) != old:
        found.append(f"{target.name} is not what {text.name} says: run `make sync`")
    return found


def main(argv: list[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tools.chapters", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["sync", "run", "check"])
    parser.add_argument("files", nargs="*", type=Path, help="texts (.md); all chapters when none is named")
    arguments = parser.parse_args(argv)
    failed = False
    for text in arguments.files or texts():
        text = text.resolve().with_suffix(".md")
        try:
            if arguments.command == "sync":
                print(f"{'written ' if sync(text) else 'as it was'}  {text.with_suffix('.ipynb').name}")
            elif arguments.command == "run":
                print(f"{run(text):6.1f} s  {text.name}", flush=True)
            else:
                found = disagreements(text)
                failed |= bool(found)
                print("\n".join(f"{text.parent.name}: {line}" for line in found) or f"agrees  {text.name}")
        except (CellExecutionError, ValueError, FileNotFoundError) as error:
            failed = True
            print(f"FAILED  {text.parent.name}/{text.name}\n{error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
