"""A bar of progress where somebody looks: in a terminal, or under a notebook's cell while it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
LOOK_EVERY = 10  # steps between two looks at the losses, for which a GPU is waited for
PATIENCE = 1.0  # seconds after which a cell that trains shows a bar


def notebook() -> Any:
    """IPython's shell where a reader runs a cell; None in scripts, and in runs that nobody watches.

    The request to execute a cell says whether its sender can answer questions (`allow_stdin` in Jupyter's protocol).
    JupyterLab can, and so can a reader; nbval, nbclient and the website's build cannot.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    kernel = getattr(shell, "kernel", None)
    return shell if kernel is not None and kernel.get_parent().get("content", {}).get("allow_stdin") else None


class _UnderTheCell(tqdm):
    """A bar that is one output of a notebook's cell, redrawn in place and emptied when it is done."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.handle: Any = None
        super().__init__(*args, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or `msg` in its place."""
        from IPython.display import display

        data = {"text/plain": str(self) if msg is None else msg}
        if self.handle is None and data["text/plain"]:
            self.handle = display(data, raw=True, display_id=True)
        elif self.handle is not None:
            self.handle.update(data, raw=True)

    def clear(self, nolock: bool = False) -> None:
        """Nothing: what is printed meanwhile stands above or below, not in the same line."""


def bar(steps: Iterable[T], total: int, initial: int = 0, *, shown: bool = True, delay: float = 0.0) -> tqdm[T]:
    """`steps`, with a bar while they are taken: steps per second, time left, and what `set_postfix_str` adds.

    A terminal's bar moves, a notebook's stands under the cell and vanishes, a log file gets a line now and then.

    Args:
        total, initial: how many steps there are, and how many were taken before.
        shown: False draws nothing.
        delay: seconds before it is first drawn.
    """
    options: dict[str, Any] = {"total": total, "initial": initial, "disable": not shown, "delay": delay, "unit": "step"}
    if notebook() is not None:
        return _UnderTheCell(steps, **options, leave=False, ascii=False, ncols=90, gui=False)
    if sys.stderr.isatty():
        return tqdm(steps, **options)
    return tqdm(steps, **options, mininterval=30.0, maxinterval=60.0, ascii=True, ncols=100)


def watched(loop: Iterator[dict[str, Any]], total: int, initial: int = 0) -> Iterator[dict[str, Any]]:
    """The losses that `loop` yields, with a bar and the last of them while somebody looks on; it leaves no trace."""
    if notebook() is None and not sys.stderr.isatty():
        yield from loop
        return
    with bar(loop, total, initial, delay=PATIENCE) as steps:
        steps.leave = False
        for count, losses in enumerate(steps, 1):
            if count % LOOK_EVERY == 0:
                steps.set_postfix_str(", ".join(f"{k} {v.item():.4g}" for k, v in losses.items()), refresh=False)
            yield losses
