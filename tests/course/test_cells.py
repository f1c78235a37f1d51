"""Cells run here as they run in Jupyter: none of its own syntax costs anything."""

from __future__ import annotations

import pytest

from gmbook.course.cells import Cells

SECOND = "y = 1 + x"


@pytest.mark.parametrize(
    "text",
    [
        "x = 6",
        "x = 6\nx?",
        "x = 6\nprint??",
        "?print\nx = 6",
        "%matplotlib inline\n%load_ext autoreload\nx = 6",
        "files = !ls\nx = 6 + len(files)",
        "!pip install gmbook\nx = 6",
        "took = %timeit -o -n1 -r1 1 + 1\nx = 6",
        "x = %m\nx = 6",
        "get_ipython().run_line_magic('matplotlib', 'inline')\nx = 6",
        "get_ipython().config.InlineBackend.figure_format = 'svg'\nx = 6",
        "import asyncio; await asyncio.sleep(0)\nx = 6",
        "async def six():\n    return 6\nx = await six()",
        "x = (27\n% 7)",
        "x = len('''\n%if\n!''')",
        "%%time\nx = 6",
        "%%capture out\nx = 6",
        "%time x = 6",
        "if True:\n    %matplotlib inline\n    x = 6",
        ">>> x = 6",
        "    x = 6",
    ],
)
def test_what_jupyter_runs_is_run(text):
    names: dict[str, object] = {}
    cells = Cells(names)
    cells.run(text, "one")
    cells.run(SECOND, "two")
    assert names["y"] == 7


def test_cells_have_their_own_future_and_not_ours():
    """This package postpones annotations; a cell does so only if it says so, and then all later ones."""
    names: dict[str, object] = {}
    cells = Cells(names)
    cells.run("def f(x: int): ...", "one")
    assert names["f"].__annotations__ == {"x": int}
    with pytest.raises(NameError):
        cells.run("def f(x: Unknown): ...", "two")
    cells.run("from __future__ import annotations", "three")
    cells.run("def f(x: Unknown): ...", "four")
    assert names["f"].__annotations__ == {"x": "Unknown"}


@pytest.mark.parametrize(
    ("text", "error"), [("def f(:", SyntaxError), ("1 / 0", ZeroDivisionError), ("\0", ValueError)]
)
def test_what_raises_there_raises_here(text, error):
    with pytest.raises((error, SyntaxError)):
        Cells({}).run(text, "one")


def test_other_languages_do_nothing():
    names: dict[str, object] = {}
    Cells(names).run("%%bash\nrm -rf x = 1", "one")
    assert "x" not in names
