"""Runs the cells of a notebook as Jupyter does: IPython's own reader, `await` at the top level, a harmless shell.

What IPython makes of `x?`, `!ls` or `%timeit f(x)` is a call of `get_ipython()`. Here that is a shell which starts
nothing and shows nothing; of the magics only those that run a reader's own code do something (`%time`, `%%capture`).
"""

from __future__ import annotations

import ast
import asyncio
import codeop
import inspect
from collections.abc import Callable
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

RUNS = ("time", "capture", "prun")  # the magics that leave the names of the code which they are given


class Nothing:
    """Has every attribute, takes every call, and does nothing."""

    def __getattr__(self, name: str) -> Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __call__(self, *arguments: Any, **options: Any) -> None:
        return None


class Shell(Nothing):
    """Stands for IPython's shell: everything that a cell may ask of it is there, and nothing happens."""

    def __init__(self, run: Callable[[str], None], names: dict[str, Any]):
        self.user_ns, self._run = names, run

    def getoutput(self, *arguments: Any, **options: Any) -> list[str]:
        """No lines, of `x = !ls`."""
        return []

    def run_line_magic(self, name: str, line: str, **options: Any) -> None:
        """`%time x = f()` sets x; all others do nothing."""
        if name in RUNS:
            self._run(line)

    def run_cell_magic(self, name: str, line: str, cell: str) -> None:
        """`%%time` runs the rest of the cell; `%%bash` and others do nothing."""
        if name in RUNS:
            self._run(cell)


class Cells:
    """Runs cell after cell in one namespace.

    Args:
        names: the namespace, changed in place.
    """

    def __init__(self, names: dict[str, Any]):
        self.names, self.read = names, TransformerManager().transform_cell
        self.compile = codeop.Compile()  # takes none of our `__future__`, and keeps the cells' own
        self.compile.flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        shell = Shell(lambda source: self.run(source, "magic"), names)
        self.loop = asyncio.Runner()  # one for all cells, so that a task of one can be awaited in the next
        names.update(display=Nothing(), get_ipython=lambda: shell)

    def run(self, source: str, place: str) -> None:
        """Run one cell; `place` names it in tracebacks.

        Raises:
            Exception: whatever it raises.
        """
        code = self.compile(self.read(source), f"<{place}>", "exec")
        result = eval(code, self.names)
        if inspect.iscoroutine(result):
            self.loop.run(result)
