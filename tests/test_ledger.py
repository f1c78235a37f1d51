"""Every labelled claim of the book has a test, and every marker and docstring label has its equation."""

from __future__ import annotations

import ast

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


def test_the_page_lists_every_stated_equation(tmp_path):
    book = {
        "vae-bound": ledger.Entry(
            "vae-bound", "a", ["01_vae/vae.md"], ["gmbook.papers.vae.VAE.elbo"], ["tests/t.py::t"]
        )
    }
    page = ledger.page(book)
    assert "1 claims, 1 of them tested" in page and "{eq}`vae-bound`" in page and "`papers.vae.VAE.elbo`" in page
