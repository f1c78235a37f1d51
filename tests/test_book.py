"""The book's own pages: what they name exists, and their tables are whole. No Sphinx."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest
from book import build
from book._ext import chapters, ledger, papers, reference
from tools.ledger import Entry

from gmbook import registry

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
CHAPTERS = [chapter for chapter in registry.read().chapters if chapter.arxiv]
PAPERS = registry.read().papers
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def tables(page: str) -> list[list[list[str]]]:
    """The tables of a page of book/, each as its rows of cells, the header first and the rule left out."""
    found: list[list[list[str]]] = [[]]
    for line in (BOOK / page).read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            found.append([])
        elif not set(line) <= set("|-: "):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return [table for table in found if table]


def test_every_row_has_the_width_of_its_header():
    for page in ("errata.md", "glossary.md"):
        for header, *rows in tables(page):
            assert rows
            for row in rows:
                assert len(row) == len(header), f"{page}: {row}"
                assert all(row), f"{page}: an empty cell in {row}"


def test_notation_has_a_row_for_each_paper():
    rows = papers.notation().splitlines()[2:]
    assert len(rows) == len(CHAPTERS)
    for chapter in CHAPTERS:
        cells = [str(int(chapter.number)), chapter.name, *chapter.notation]
        assert len(cells) == 6 and all(cells), chapter.name
        assert f"| {' | '.join(cells)} |" in rows


def test_every_test_that_the_errata_name_exists():
    named = re.findall(r"`(tests/[^`]*)`", (BOOK / "errata.md").read_text(encoding="utf-8"))
    assert named
    for name in named:
        path, _, test = name.partition("::")
        assert (ROOT / path).is_file(), name
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


def test_every_wrong_formula_has_a_source_and_a_test_that_decides():
    *decided, facts = tables("errata.md")
    assert len(decided) == 3
    for header, *rows in decided:
        assert header[-1] == "the test that decides"
        for row in rows:
            assert re.search(r"\d{4}\.\d{5}|\d{4}\.\d{4}", row[-2]), row
            assert re.fullmatch(r"\{test\}`tests/[\w/]+\.py::test_\w+`", row[-1]), row
    assert facts[0][-1] == "what the source says"


def test_glossary():
    (table,) = tables("glossary.md")
    terms = [row[0].lower() for row in table[1:]]
    assert len(terms) >= 80
    assert len(set(terms)) == len(terms)
    known = {chapter.key for chapter in registry.read().chapters}
    for term, chinese, meaning, chapter in table[1:]:
        assert re.fullmatch(r"\{chapter\}`(\w+)`", chapter)[1] in known, term
        assert CHINESE.search(chinese), term
        assert meaning[0].isupper() and meaning.endswith("."), term


def test_references():
    text = papers.bibliography() + (BOOK / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    assert len(entries) == text.count("@") == len(CHAPTERS) + 1  # NICE and RealNVP share a chapter
    assert len({key for key, _ in entries}) == len(entries)
    for key, body in entries:
        fields = dict(re.findall(r"^  (\w+) = \{(.+)\},$", body, re.MULTILINE))
        assert {"title", "author", "year"} <= fields.keys(), key
        assert {"eprint", "doi"} & fields.keys(), key
        assert re.fullmatch(r"(19|20)\d\d", fields["year"]), key
        assert "eprint" not in fields or re.fullmatch(r"\d{4}\.\d{4,5}", fields["eprint"]), key


# ---------------------------------------------------------------------------------------- the map and the time line


def test_every_chapter_has_its_number_model_and_folder():
    numbers = [chapter.number for chapter in registry.read().chapters]
    assert len(set(numbers)) == len(numbers) and all(re.fullmatch(r"\d\d", number) for number in numbers)
    for chapter in CHAPTERS:
        assert chapter.title and chapter.authors and chapter.venue and chapter.year >= chapter.month[0], chapter.name
        assert (ROOT / "src" / "gmbook" / "papers" / f"{chapter.key}.py").exists()
    for folder in (ROOT / "chapters").glob("[0-9]*"):
        assert folder.name in {chapter.chapter for chapter in registry.read().chapters}


def test_nobody_builds_on_the_future():
    for paper in PAPERS.values():
        for older in paper.builds_on:
            assert PAPERS[older].month <= paper.month, f"{paper.name} on {PAPERS[older].name}"


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2 between two colours such as "#0072B2"."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


def test_outputs_are_forgotten_when_what_they_ran_with_changes(tmp_path):
    folder, code, record = tmp_path / "build", tmp_path / "src" / "gmbook" / "a.py", tmp_path / "book" / "results" / "r"
    kept = folder / "executed" / "output"
    for path in (code, record, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    assert build.forget_old_runs(folder, tmp_path) and not kept.exists()  # nobody knows what these ran with
    for change in (None, code, record):
        kept.parent.mkdir(exist_ok=True)
        kept.write_text("1")
        if change is not None:
            change.write_text("2")
        assert build.forget_old_runs(folder, tmp_path) == (change is not None)
        assert kept.exists() == (change is None)


def test_the_map_is_legible():
    """Letters stand off from their box; no two boxes overlap; every box has its link and every edge its ends."""
    families, known = registry.read().families, PAPERS
    assert contrast("#FFFFFF", "#000000") == pytest.approx(21)
    for family in families.values():
        assert contrast(family.colour, family.ink) >= 4.5, family.name
    corners, _ = papers.places(known)
    boxes = sorted(corners.values())
    for i, (x, y) in enumerate(boxes):
        assert not [b for b in boxes[i + 1 :] if abs(b[0] - x) < papers.WIDE and abs(b[1] - y) < papers.HIGH]
    for paper in known.values():
        words = papers.lines(f"{paper.number} {paper.name}".strip())
        assert max(map(len, words)) * 7.2 < papers.WIDE + 16, paper.name
    drawn = papers.drawn()
    assert drawn.count("<a href=") == len(known)
    assert drawn.count("data-older=") == sum(len(paper.builds_on) for paper in known.values())
    for paper in known.values():
        aim = paper.text(ROOT) or "timeline.html#paper-" + paper.key.replace("_", "-")
        assert f'<a href="{aim.replace(".md", ".html")}"' in drawn, paper.name


def test_no_line_of_the_map_runs_behind_a_box_that_is_not_its_own():
    corners, _ = papers.places(PAPERS)
    drawn = re.findall(r'<path d="([^"]+)" data-older="(\w+)" data-newer="(\w+)"', papers.drawn())
    assert len(drawn) > 50
    for path, older, newer in drawn:
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        for (x1, y1), (x2, y2) in pairwise(points):
            for key, (x, y) in corners.items():
                beside = max(x1, x2) < x or min(x1, x2) > x + papers.WIDE
                apart = max(y1, y2) < y or min(y1, y2) > y + papers.HIGH
                assert beside or apart or key in (older, newer), f"{older} -> {newer} behind {key}"


def test_the_time_line_says_what_the_map_draws():
    page = papers.timeline()
    known = PAPERS
    for paper in known.values():
        (line,) = [row for row in page.split("\n(") if row.startswith(f"paper-{paper.key.replace('_', '-')})=")]
        assert paper.claim in line and f"https://arxiv.org/abs/{paper.arxiv}" in line
        for older, what in paper.builds_on.items():
            assert f"[{known[older].name}]" in line and what in line


# ------------------------------------------------------------------------------------------------ pages made from code


def test_docstrings_become_restructured_text():
    """Marks of plain text are escaped, code and emphasis are kept, lists get their blank lines, labels their links."""
    text = (
        "Sum of x_ over (B, *S), |x| (ddpm-mean) and (see-below).\n"
        "The `loss` is *mean*, **not** `a`s:\n- one\n  more\n- two\nEnd."
    )
    expected = (
        "Sum of x\\_ over (B, \\*S), \\|x\\| (:ref:`ddpm-mean <ledger-ddpm-mean>`) and (see-below).\n"
        "The ``loss`` is *mean*, **not** ``a``\\ s:\n\n- one\n  more\n- two\n\nEnd."
    )
    assert reference.restructured(text, {"ddpm-mean"}) == expected


def test_a_sentence_of_one_letter_is_no_list():
    text = "Args:\n    steps: T.\n    x: 3) is\n    shape: (L,)."
    expected = text.replace("T.", "T\\.").replace("3)", "3\\)")
    assert reference.restructured(text, set()) == expected


def test_an_indented_block_is_code_outside_the_sections():
    text = "So:\n\n    x = 1\n\nArgs:\n    x: a number,\n\n        or two."
    assert reference.restructured(text, set()) == text.replace("    x = 1", "::\n\n    x = 1")


def test_every_module_has_its_page():
    pages = reference.api_pages()
    index = pages[Path("api/index.md")]
    for name in ("gmbook.core.paths.base", "gmbook.papers.ddpm", "gmbook.plots.planes", "gmbook.cli"):
        assert f".. automodule:: {name}\n" in pages[Path(f"api/{name}.md")]
        assert f"({name}.md)" in index
    assert not [path for path in pages if "._" in path.name or "__init__" in path.name]
    # a package shows what it defines alone: what it passes on would stand on two pages, and links lead to one of them
    assert ":ignore-module-all:" in pages[Path("api/gmbook.experiments.md")]
    assert ":ignore-module-all:" not in pages[Path("api/gmbook.experiments.base.md")]


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda p: p.name)
def test_a_tests_source_is_whole(path):
    """Cut at its tests, and nothing is lost: all of it stands within fences, where no browser runs what it says."""
    page = reference.source_page(path)
    code = "".join(code for _, code in re.findall(r"^(`{3,})python\n(.*?)^\1$", page, re.DOTALL | re.MULTILINE))
    assert code.split() == path.read_text(encoding="utf-8").split()


def test_a_tests_source_has_labels():
    page = reference.source_page(ROOT / "tests" / "test_book.py")
    assert f"({reference.target('tests/test_book.py::test_glossary')})=\n## test_glossary" in page


# --------------------------------------------------------------------------------------- what the site puts into pages


def test_the_table_of_contents_has_the_parts_and_every_text(tmp_path):
    """In the register's order, chapters before their exercises; what is not written has no place."""
    for name in ("06_ddpm/exercises.md", "06_ddpm/ddpm.md", "01_vae/vae.md", "11_latent_diffusion/latent_diffusion.md"):
        (tmp_path / "chapters" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "chapters" / name).write_text("")
    (tmp_path / "chapters" / "16_mdlm").mkdir()
    lines = [line for line in chapters.contents(tmp_path).splitlines() if line.startswith((":caption", "/"))]
    assert lines == [
        ":caption: Latents and games",
        "/chapters/01_vae/vae",
        ":caption: Denoising",
        "/chapters/06_ddpm/ddpm",
        "/chapters/06_ddpm/exercises",
        ":caption: Images at scale",
        "/chapters/11_latent_diffusion/latent_diffusion",
    ]


SITE = """# A page

{chapter}`ddpm` and {chapter}`nobody`, by number {chapter}`06`.

{test}`tests/papers/test_glow.py::test_temperature`

{count}`checks`

```{papers-timeline}
```

```{ledger}
```

```{sheets}
```

```{papers-map}
```
"""


def test_directives_and_roles(tmp_path, monkeypatch):
    """A page with all of them, built by Sphinx: links lead where they should, headings are the page's own."""
    from sphinx.application import Sphinx

    source, out = tmp_path / "source", tmp_path / "out"
    pages = {"index.md": SITE, "chapters/06_ddpm/ddpm.md": "# DDPM\n", "timeline.md": "# T\n"}
    for name, text in pages.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    planned = registry.Paper("nobody", "Nobody", "", part="Ground", chapter="99_nobody")
    known = registry.read()
    changed = registry.Registry(known.parts, known.families, known.entries | {"nobody": planned})
    monkeypatch.setattr(registry, "read", lambda: changed)
    stated = Entry("vae-bound", "a", 0, ["06_ddpm/ddpm.md"], [], [])
    monkeypatch.setattr(ledger, "collect", lambda: {"vae-bound": stated})
    own = [f"book._ext.{name}" for name in ("chapters", "ledger", "papers", "reference")]
    extensions = ["myst_parser", "sphinx_design", "sphinx.ext.autodoc", *own]
    options = {"extensions": extensions, "myst_enable_extensions": ["dollarmath"], "html_theme": "basic"}
    app = Sphinx(source, None, out, tmp_path / "trees", "html", options, status=None, warning=None, freshenv=True)
    app.build()
    html = (out / "index.html").read_text(encoding="utf-8")
    link = r'<a [^>]*href="chapters/06_ddpm/ddpm.html"[^>]*><span class="doc">06 · DDPM</span></a>'
    assert len(re.findall(link, html)) == 2
    assert "99 · Nobody" in html and "nobody.html" not in html
    address = "tests/papers/test_glow.html#test-papers-test-glow-test-temperature"
    assert f'href="{address}">test_<wbr>temperature<wbr>' in html
    assert f"<p>{ledger.counts()['checks']}</p>" in html
    assert "06_ddpm" in html and "1 × ★, 7 × ★★, 2 × ★★★" in html
    assert "<h2>2013" in html and 'id="ledger-vae-bound"' in html and '<figure class="gm-map"' in html


def test_the_errata_name_their_tests_as_links():
    page = (BOOK / "errata.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\{test\})`tests/", page)


def test_a_chapter_links_its_exercises_and_its_weeks_in_a_course():
    line = chapters.how_to_have("chapters/06_ddpm/ddpm", "../../")
    assert '<a href="exercises.html">Exercises</a>' in line
    assert '<a href="../../course.html#fourteen-weeks">In a course: weeks 7 and 8</a>' in line
    assert "In a course: week 9<" in chapters.how_to_have("chapters/07_ddim/ddim", "../../")
    assert "In a course" not in chapters.how_to_have("chapters/06_ddpm/exercises", "../../")
