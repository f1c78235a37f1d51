"""Slides hold one idea each, and nothing that is folded; the PDF has a bookmark for each part."""

import base64
import io
from pathlib import Path

import pytest
from book import editions
from PIL import Image

pypdf = pytest.importorskip("pypdf", reason="pypdf is missing: `make pdf` installs it, or pip install -e '.[site]'")

PAGE = """<!doctype html><html><head><script>window.MathJax = {"tex": {}}</script>
<script defer src="../../_static/mathjax/tex-chtml-full.js?v=1"></script></head><body><article>
<section><h1>90 · Tiny<a class="headerlink" href="#x">#</a></h1>
<div class="sd-card"><ol><li>count to two</li></ol></div>
<section><h2>1. The question</h2>
<div class="cell_input"><pre>plots.samples()</pre></div>
<figure><a href="a.png"><img alt="A dot." src="a.png"></a><figcaption><p>Fig. 90.1 One dot.</p></figcaption></figure>
<p>It is small.</p></section>
<section><h2>2. The sum</h2>
<p>Not this one.</p><p>Add them:</p><div class="math" id="equation-sum">\\[1 + 1 = 2\\]</div>
<details class="sd-dropdown"><summary>Proof</summary><div class="math">\\[\\text{folded}\\]</div></details>
</section></section></article></body></html>"""


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "chapters" / "90_tiny" / "tiny.html"
    path.parent.mkdir(parents=True)
    path.write_text(PAGE, encoding="utf-8")
    Image.new("RGB", (3, 2), "red").save(path.parent / "a.png")
    return path


def test_a_slide_is_a_figure_or_a_display_with_the_sentence_before_it(page):
    aims, figure, display = editions.slides(page)
    assert (aims.title, figure.title, display.title) == ("You will be able to", "1. The question", "2. The sum")
    assert "count to two" in aims.body
    data = figure.body.split("base64,")[1].split('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (3, 2)
    assert 'alt="A dot."' in figure.body and "One dot." in figure.body
    assert "Add them:" in display.body and "1 + 1 = 2" in display.body and "Not this one" not in display.body


def test_the_deck_is_one_file_without_code_and_without_what_is_folded(page, tmp_path):
    text = editions.write_slides(page, tmp_path / "out").read_text(encoding="utf-8")
    assert "90 · Tiny" in text and "1 of 3" in text and "mathjax/tex-chtml-full.js" in text
    assert "folded" not in text and "plots.samples" not in text


def test_what_is_missing_is_named(page, tmp_path):
    with pytest.raises(editions.Missing, match="run `make book`"):
        editions.built(tmp_path / "nothing")
    page.write_text("<article><h1>Empty</h1></article>")
    with pytest.raises(editions.Missing, match="neither a figure nor a displayed equation"):
        editions.write_slides(page, tmp_path)


def test_the_book_has_a_bookmark_for_each_part(tmp_path):
    parts = []
    for number, pages in ((1, 2), (2, 1)):
        writer = pypdf.PdfWriter()
        for _ in range(pages):
            writer.add_blank_page(100, 100)
        parts.append((f"part {number}", tmp_path / f"{number}.pdf"))
        writer.write(parts[-1][1])
    read = pypdf.PdfReader(editions.bound(parts, tmp_path / "book.pdf"))
    assert len(read.pages) == 3
    assert [(mark.title, read.get_destination_page_number(mark)) for mark in read.outline] == [
        ("part 1", 0),
        ("part 2", 2),
    ]


def test_the_order_is_the_books(page, tmp_path):
    (page.parent / "exercises.html").touch()
    other = tmp_path / "chapters" / "10_other" / "zz.html"
    other.parent.mkdir()
    other.touch()
    assert editions.built(tmp_path) == [other, page, Path(page.parent / "exercises.html")]


def test_the_printed_book_goes_part_by_part_and_has_every_page_of_the_contents(tmp_path):
    """Chapter 11 stands in the part behind 16; every page of book/ is printed, the lecturer's guide last."""
    names = [f"chapters/{folder}/x.html" for folder in ("11_latent_diffusion", "12_flow_matching", "16_mdlm")]
    sources = sorted(p.stem for p in (editions.ROOT / "book").glob("*.md") if p.stem != "README")
    for name in [*names, *(f"{stem}.html" for stem in sources)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    pages = editions.book_pages(tmp_path)
    assert [p.parent.name[:2] for p in pages if p.stem == "x"] == ["12", "16", "11"]
    assert sorted(p.stem for p in pages if p.stem != "x") == sources
    assert pages[0].stem == "index" and pages[-1].stem == "course"
