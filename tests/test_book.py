"""The book's own pages: what they name exists, and their tables are whole. No Sphinx."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest
from tools import papers, reference, site

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
PAPERS = [
    "VAE",
    "GAN",
    "NICE / RealNVP",
    "Glow",
    "FFJORD",
    "DDPM",
    "DDIM",
    "Improved DDPM",
    "NCSN",
    "Score SDE",
    "LDM",
    "Flow Matching",
    "Rectified Flow",
    "D3PM",
    "SEDD",
    "MDLM",
    "MAR",
    "DC-AE",
]
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
    for page in ("notation.md", "errata.md", "glossary.md"):
        for header, *rows in tables(page):
            assert rows
            for row in rows:
                assert len(row) == len(header), f"{page}: {row}"
                assert all(row), f"{page}: an empty cell in {row}"


def test_notation_has_a_row_for_each_paper():
    (table,) = tables("notation.md")
    assert [row[:2] for row in table[1:]] == [[str(i), name] for i, name in enumerate(PAPERS, 1)]


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
            assert re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`", row[-1]), row
    assert facts[0][-1] == "what the source says"


def test_glossary():
    (table,) = tables("glossary.md")
    terms = [row[0].lower() for row in table[1:]]
    assert len(terms) >= 80
    assert len(set(terms)) == len(terms)
    known = {"language"} | {paper.chapter.partition("_")[2] for paper in papers.read()[1].values()}
    for term, chinese, meaning, chapter in table[1:]:
        assert chapter.strip("`") in known, term
        assert CHINESE.search(chinese), term
        assert meaning[0].isupper() and meaning.endswith("."), term


def test_references():
    text = (BOOK / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    assert len(entries) == text.count("@") == len(PAPERS) + 1  # NICE and RealNVP share a chapter
    assert len({key for key, _ in entries}) == len(entries)
    for key, body in entries:
        fields = dict(re.findall(r"^  (\w+) = \{(.+)\},$", body, re.MULTILINE))
        assert {"title", "author", "year"} <= fields.keys(), key
        assert {"eprint", "doi"} & fields.keys(), key
        assert re.fullmatch(r"(19|20)\d\d", fields["year"]), key
        assert "eprint" not in fields or re.fullmatch(r"\d{4}\.\d{4,5}", fields["eprint"]), key


# ---------------------------------------------------------------------------------------- the map and the time line


def test_the_map_has_the_eighteen_papers_and_their_chapters():
    """Numbered as in the book, with the arXiv number of the bibliography, and a folder of the name."""
    chapters = {paper.number: paper for paper in papers.read()[1].values() if paper.chapter}
    assert sorted(chapters) == [f"{i:02}" for i in range(1, 19)]
    bibliography = (BOOK / "references.bib").read_text(encoding="utf-8")
    for number, paper in chapters.items():
        assert f"eprint = {{{paper.arxiv}}}" in bibliography, paper.name
        assert paper.chapter == f"{number}_{paper.key}"
        assert (ROOT / "src" / "gmbook" / "papers" / f"{paper.key}.py").exists()
    for folder in (ROOT / "chapters").glob("[0-9]*"):
        assert folder.name == "00_language" or folder.name in {paper.chapter for paper in chapters.values()}


def test_nobody_builds_on_the_future():
    known = papers.read()[1]
    for paper in known.values():
        for older in paper.builds_on:
            assert known[older].month <= paper.month, f"{paper.name} on {known[older].name}"


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2 between two colours such as "#0072B2"."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


def test_outputs_are_forgotten_when_what_they_ran_with_changes(tmp_path):
    build, code, record = tmp_path / "build", tmp_path / "src" / "gmbook" / "a.py", tmp_path / "book" / "results" / "r"
    kept = build / "executed" / "output"
    for path in (code, record, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    assert site.forget_old_runs(build, tmp_path) and not kept.exists()  # nobody knows what these ran with
    for change in (None, code, record):
        kept.parent.mkdir(exist_ok=True)
        kept.write_text("1")
        if change is not None:
            change.write_text("2")
        assert site.forget_old_runs(build, tmp_path) == (change is not None)
        assert kept.exists() == (change is None)


def test_the_map_is_legible():
    """Letters stand off from their box; no two boxes overlap; every box has its link and every edge its ends."""
    families, known = papers.read()
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
        aim = paper.text() or "timeline.html#paper-" + paper.key.replace("_", "-")
        assert f'<a href="{aim.replace(".md", ".html")}"' in drawn, paper.name


def test_no_line_of_the_map_runs_behind_a_box_that_is_not_its_own():
    _, known = papers.read()
    corners, _ = papers.places(known)
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
    known = papers.read()[1]
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
    for name in ("gmbook.core.paths", "gmbook.papers.ddpm", "gmbook.plots.planes", "gmbook.cli"):
        assert f".. automodule:: {name}\n" in pages[Path(f"api/{name}.md")]
        assert f"({name}.md)" in index
    assert not [path for path in pages if "._" in path.name or "__init__" in path.name]


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


def test_the_table_of_contents_has_a_place_for_every_page():
    """Chapters before their exercises; the results page where it exists; a page that nobody placed comes last."""
    names = ["index.md", "ledger.md", "results.md", "notation.md", "api/index.md", "new.md"]
    names += ["chapters/06_ddpm/exercises.md", "chapters/06_ddpm/ddpm.md", "chapters/01_vae/vae.md"]
    listed = site.contents({Path(name): b"" for name in names})
    order = [line for line in listed.splitlines() if line.endswith(".md")]
    assert order[:3] == ["chapters/01_vae/vae.md", "chapters/06_ddpm/ddpm.md", "chapters/06_ddpm/exercises.md"]
    assert order[3:] == ["ledger.md", "results.md", "notation.md", "api/index.md", "new.md"]


def test_a_term_is_linked_to_its_chapter_once_that_is_written():
    row = "| score | 分数 | The gradient. | `{}` |"
    assert site.with_chapters(row.format("ddpm")).endswith("| [06 · DDPM](chapters/06_ddpm/ddpm.md) |")
    assert site.with_chapters(row.format("language")).endswith("(chapters/00_language/language.md) |")
    planned = [paper for paper in papers.read()[1].values() if paper.chapter and not paper.text()]
    for paper in planned:
        name = paper.chapter.partition("_")[2]
        assert site.with_chapters(row.format(name)).endswith(f"| {paper.number} · {paper.name} |")


def test_a_page_that_loses_its_mark_stops_the_build():
    with pytest.raises(SystemExit, match="<!-- map -->"):
        site.replaced("# gmbook", "<!-- map -->", "a map")


def test_the_errata_lead_to_the_sources_of_their_tests():
    page = site.with_tests((BOOK / "errata.md").read_text(encoding="utf-8"))
    assert "`tests/" not in page
    assert "[test_<wbr>temperature](#test-papers-test-glow-test-temperature)" in page
