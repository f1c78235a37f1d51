"""Every labelled claim of the book has a test, and every marker and docstring label has its equation."""

from __future__ import annotations

import ast

from book._ext import ledger as pages
from tools import ledger


def test_the_ledger_balances():
    found = ledger.problems(ledger.collect(), ledger.written())
    assert not found, "\n".join(found)


def test_definitions_and_claims_are_found():
    text = (
        "Text $$inline$$.\n\n$$\na = b\n$$ (ddpm-posterior)\n\n$$ c = d $$ (def-ddpm-step)\n\n$$ unlabelled $$\n\n"
        "```{math}\n:label: ddpm-kl\n\ne = f\n```\n\n```{code-cell} ipython3\nx = '$$ g $$ (ddpm-code)'\n```\n"
    )
    found = dict(ledger.equations(text))
    assert found == {"ddpm-posterior": "a = b", "def-ddpm-step": "c = d", "ddpm-kl": "e = f"}


def test_markers_are_found_wherever_they_stand():
    source = (
        "import pytest\npytestmark = pytest.mark.equation('vae-a')\n"
        "@pytest.mark.equation('vae-b')\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.equation('vae-c'))])\n"
        "def test_one(x): ...\nclass TestTwo:\n    @pytest.mark.equation('vae-d')\n    def test_three(self): ...\n"
    )
    found = dict(ledger.marked(ast.parse(source)))
    assert found == {"vae-a": "", "vae-b": "test_one", "vae-c": "test_one", "vae-d": "TestTwo::test_three"}


def test_each_imbalance_is_seen(tmp_path):
    """A claim without a test, a marker and a docstring without an equation, a label used twice, an unknown prefix."""
    for folder in ("chapters/01_vae", "chapters/06_ddpm", "src/gmbook", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "chapters/01_vae/vae.md").write_text(
        "$$ a $$ (vae-bound)\n\n$$ b $$ (vae-gap)\n\n$$ c $$ (def-vae-x)\n\n"
        "$$ d $$ (vae-twice)\n\n$$ d $$ (vae-twice)\n"
    )
    (tmp_path / "src/gmbook/a.py").write_text(
        'def f():\n    """Bound (vae-bound), not (non-negative), (vae-lost)."""\n'
    )
    (tmp_path / "tests/test_a.py").write_text(
        "import pytest\n"
        "@pytest.mark.equation('vae-bound')\n@pytest.mark.equation('vae-missing')\n@pytest.mark.equation('ddpm-later')\n"
        "@pytest.mark.equation('nobody-knows')\ndef test_a(): ...\n"
    )
    book = ledger.collect(tmp_path)
    found = ledger.problems(book, {"vae"})
    assert sorted(line.split()[0] for line in found) == [
        "nobody-knows",
        "vae-gap",
        "vae-lost",
        "vae-missing",
        "vae-twice",
    ]
    assert book["vae-bound"].functions == ["gmbook.a.f"] and book["vae-bound"].tests == ["tests/test_a.py::test_a"]
    assert "non-negative" not in book


def test_the_page_shows_every_stated_equation():
    """Rendered, with a link to the function and to the test; a private method is found at its class."""
    book = {
        "vae-bound": ledger.Entry(
            "vae-bound", "a", 0, ["01_vae/none.md"], ["gmbook.papers.vae.VAE._elbo"], ["tests/papers/test_t.py::test_a"]
        ),
        "vae-later": ledger.Entry("vae-later", "b", 0, [], [], ["tests/papers/test_t.py::test_b"]),
    }
    page = pages.page(book)
    assert "1 claims, 1 of them tested, 1 named by the function" in page
    assert "(ledger-vae-bound)=" in page and "{eq}`vae-bound`" in page and "\n$$\na\n$$\n" in page
    assert "{py:obj}`papers.vae.VAE._elbo <gmbook.papers.vae.VAE>`" in page
    assert "{test}`tests/papers/test_t.py::test_a`" in page
    assert "vae-later" not in page


def test_the_readme_says_what_the_ledger_counts():
    words, picture = ledger.badge(ledger.coverage(ledger.collect().values()))
    hint = "the ledger has changed: run `make sync`"
    assert words in (ledger.ROOT / "README.md").read_text(encoding="utf-8"), hint
    assert (ledger.ROOT / "book" / "badge.svg").read_text(encoding="utf-8") == picture, hint
    count = "3 claims, 2 of them tested, 1 named by the function that implements them; 4 definitions"
    assert str(ledger.Coverage(3, 2, 1, 4)) == count


def test_the_badge_is_brought_up_to_date(tmp_path):
    (tmp_path / "chapters/01_vae").mkdir(parents=True)
    (tmp_path / "book").mkdir()
    (tmp_path / "chapters/01_vae/vae.md").write_text("$$ a $$ (vae-bound)\n\n$$ c $$ (def-vae-x)\n")
    (tmp_path / "README.md").write_text(
        "![Ledger: 7 equations that state something, 7 of them tested](book/badge.svg)\n"
    )
    assert ledger.write_badge(tmp_path) and not ledger.write_badge(tmp_path)
    assert "![Ledger: 1 equations that state something, 0 of them tested]" in (tmp_path / "README.md").read_text()
    assert "0 of 1 equations tested" in (tmp_path / "book/badge.svg").read_text()
