"""The built site in Chromium, opened from the disk with the network cut off."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from book import editions

HTML = Path(__file__).resolve().parents[2] / "book" / "_build" / "html"
PAGES = sorted(path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html") if "_static" not in path.parts)
PAGES = PAGES or ["index.html"]  # not built: one test, which says so
ANIMATED = "index.html"
BARE = "article * { background: none !important }"
STILL = "* { transition: none !important; animation: none !important }"  # a colour that is still changing is no colour

# Words on the page that are not code.
RAW_TEX = r"""
const found = [], raw = /\\[a-zA-Z]{2,}|\\[(\[)\]]|\$\$|(^|\s)\$[^\s$][^$]*\$/;
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const near = walk.currentNode.parentElement;
  if (near.closest("pre, code, script, style, mjx-assistive-mml, dialog")) continue;
  if (raw.test(walk.currentNode.data)) found.push(walk.currentNode.data.trim().slice(0, 120));
}
for (const wrong of document.querySelectorAll("mjx-merror, [data-mjx-error]"))
  found.push("MathJax: " + (wrong.getAttribute("title") || wrong.textContent));
return found;
"""

# The contrast of all visible letters with the ground that is painted below them, after WCAG 2.
LOW_CONTRAST = r"""
const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const parse = text => { const n = text.match(/[\d.]+/g).map(Number); return [n.slice(0, 3), n[3] ?? 1]; };
const over = (top, alpha, below) => top.map((c, i) => alpha * c + (1 - alpha) * below[i]);
const ground = new Map();
const below = element => {
  if (!element) return [255, 255, 255];
  if (!ground.has(element)) {
    const style = getComputedStyle(element), [colour, alpha] = parse(style.backgroundColor);
    ground.set(element, alpha === 1 ? colour : over(colour, alpha, below(element.parentElement)));
  }
  return ground.get(element);
};
const found = new Set();
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const near = walk.currentNode.parentElement, words = walk.currentNode.data.trim();
  if (!words || near.closest("svg, script, style, option, dialog, mjx-assistive-mml")) continue;
  if (!near.checkVisibility()) continue;
  const style = getComputedStyle(near), [ink, alpha] = parse(style.color), paper = below(near);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700);
  const pair = [light(over(ink, alpha, paper)), light(paper)].sort((a, b) => a - b);
  const ratio = (pair[1] + 0.05) / (pair[0] + 0.05);
  if (ratio < (large ? 3 : 4.5))
    found.add([ratio.toFixed(2), near.tagName, near.className, style.color, "on", paper, words.slice(0, 30)].join(" "));
}
return [...found];
"""

WIDER = r"""
const wide = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= wide) return [];
const clipped = e => { for (e = e.parentElement; e; e = e.parentElement)
  if (getComputedStyle(e).overflowX !== "visible") return true; };
return ["page " + document.documentElement.scrollWidth, ...[...document.querySelectorAll("body *")].filter(
  e => e.getBoundingClientRect().right > wide + 1 && !clipped(e)).slice(0, 5).map(e => e.tagName + "." + e.className)];
"""


@pytest.mark.parametrize("name", PAGES)
def test_page(page, name):
    """Mathematics is set, the console silent; nothing leaves the disk or is too wide; letters have contrast."""
    page.open(name)
    page.run("document.head.append(Object.assign(document.createElement('style'), {textContent: arguments[0]}))", STILL)
    page.run("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert page.run(RAW_TEX) == []
    for width in (390, 1400):
        page.width(width)
        assert page.run(WIDER) == [], f"wider than {width} pixels"
        for mode in ("light", "dark"):
            page.mode(mode)
            assert page.run(LOW_CONTRAST) == [], f"low contrast, {mode}, {width} pixels"
    assert page.errors() == []
    assert {url for url in page.requests() if not url.startswith(("file://", "data:", "blob:"))} == set()


CUT = """
return [...document.querySelectorAll("article mjx-container[display=true], article pre")].filter(
  e => e.scrollWidth > e.clientWidth + 1).map(e => (e.closest("div.math") || e).id + " " + e.textContent.slice(0, 40));
"""


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("chapters/")] or PAGES[:1])
def test_no_equation_and_no_code_is_cut_on_a_wide_screen(page, name):
    """Folded ones neither, once they are opened: an equation a little too wide is set smaller, a long line goes on."""
    page.open(name)
    page.run("for (const fold of document.querySelectorAll('details')) fold.open = true")
    cut = page.run(CUT)
    for _ in range(100):  # the fonts are awaited first
        if not cut:
            break
        time.sleep(0.2)
        cut = page.run(CUT)
    assert cut == []


UNMARKED = """
return [...document.querySelectorAll("article mjx-container[display=true], article pre, .gm-scroll")].filter(
  e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1
       && !getComputedStyle(e).backgroundImage.includes("gradient")).map(e => e.textContent.trim().slice(0, 60));
"""


@pytest.mark.parametrize("name", ["chapters/04_glow/glow.html", "index.html"])
def test_what_is_cut_on_a_phone_shows_that_it_scrolls(page, name):
    """Equations with a number and without, code, and the map have a shadow at the side where more lies."""
    page.width(390)
    page.open(name)
    assert page.run(UNMARKED) == []
    page.run("document.head.append(Object.assign(document.createElement('style'), {textContent: arguments[0]}))", BARE)
    assert page.run(UNMARKED)  # so the question sees what it asks for


def test_the_page_test_sees_what_is_wrong(page):
    """Raw TeX, a grey on grey, a wide box: each is found when it is planted."""
    page.open("read.html")
    grey = '<b style="color:#777;background:#999">grey</b>'
    page.run("document.querySelector('article p').innerHTML += arguments[0]", f" <i>\\alpha</i> {grey}")
    page.run("document.querySelector('article').innerHTML += '<div style=\"width:3000px\">wide</div>'")
    assert any("alpha" in text for text in page.run(RAW_TEX))
    assert any("grey" in text for text in page.run(LOW_CONTRAST))
    assert page.run(WIDER)


def test_search_finds_score(page):
    """Over file://, from the index that a script carries; a result leads to its page."""
    from selenium.webdriver.support.ui import WebDriverWait

    page.open("search.html?q=score")
    links = "return [...document.querySelectorAll('#search-results ul.search li a')].map(a => a.href)"
    WebDriverWait(page.browser, 60).until(
        lambda _: page.run("return document.querySelector('.search-summary') !== null")
    )
    for place in ("/chapters/", "glossary"):  # the list grows while one looks
        WebDriverWait(page.browser, 60).until(lambda _, place=place: any(place in link for link in page.run(links)))
    assert page.errors() == []
    assert not [url for url in page.requests() if not url.startswith(("file://", "data:"))]


def frames(page) -> list[int]:
    """The numbers of the frames of the first animation that are shown."""
    return page.run(
        "return [...document.querySelector('.gm-frames').querySelectorAll('img')]"
        ".map((e, i) => e.checkVisibility() ? i : -1).filter(i => i >= 0)"
    )


def animated() -> list[str]:
    """The pages with an animation: the element itself, not the word in somebody's source."""
    element = '<figure class="gm-frames"'
    return [name for name in PAGES if (HTML / name).exists() and element in (HTML / name).read_text("utf-8")]


@pytest.mark.parametrize("name", animated() or [ANIMATED])
def test_slider_moves_the_frames(page, name):
    """By script, by the arrow keys, and by the button; on paper all frames are shown."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    page.open(name)
    last = page.run("return +document.querySelector('.gm-frames input').max")
    assert last > 5 and frames(page) == [last]
    slider = page.browser.find_element(By.CSS_SELECTOR, ".gm-frames input")
    slider.send_keys(Keys.HOME)
    assert frames(page) == [0]
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert frames(page) == [2]
    said = page.run("return document.querySelector('.gm-frames output').textContent")
    assert said == page.run("return document.querySelectorAll('.gm-frames img')[2].dataset.label")
    page.browser.find_element(By.CSS_SELECTOR, ".gm-frames button").send_keys(Keys.ENTER)
    WebDriverWait(page.browser, 60).until(lambda _: frames(page) == [last])
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert frames(page) == list(range(last + 1))
    finally:
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_keyboard_reaches_the_text_first(page):
    """The first stop is the link that skips the navigation, and it leads to the text."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page.open("read.html")
    page.browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    words = page.run("return document.activeElement.textContent.trim()")
    assert words == "Skip to main content"
    aim = page.run("return document.activeElement.hash || document.activeElement.getAttribute('href')")
    if aim:
        assert page.run("return document.querySelector(arguments[0]) !== null", aim)
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.run("return document.activeElement.closest('main') !== null || location.hash !== ''")


def test_the_map_is_a_map_of_links(page):
    """Each box has its name and a link; with the keyboard on a box, its own lines stand out."""
    page.open("index.html")
    boxes = page.run(
        "return [...document.querySelectorAll('.gm-map a')]"
        ".map(a => [a.dataset.key, a.textContent, a.getAttribute('href')])"
    )
    assert len(boxes) >= 18 and all(name and link for _, name, link in boxes)
    page.run("document.querySelector(\".gm-map a[data-key='ddpm']\").focus()")
    shown = page.run(
        "return [...document.querySelectorAll('.gm-map path.gm-on')].map(p => [p.dataset.older, p.dataset.newer])"
    )
    assert ["vae", "ddpm"] in shown and all("ddpm" in pair for pair in shown)


def test_a_wide_equation_fills_its_slide_and_no_more(page, html, tmp_path):
    """What is wider than a slide is made as wide as the room beside its number; it is not made tiny."""
    deck = editions.write_slides(html / "chapters" / "18_dc_ae" / "dc_ae.html", tmp_path)
    page.browser.get(deck.as_uri())
    page.browser.execute_async_script(editions.TYPESET)
    measure = """
    return [...document.querySelectorAll('mjx-container[display="true"]')].map(e => {
      const number = e.parentElement.querySelector('.eqno');
      return e.firstElementChild.getBoundingClientRect().width
             / (e.parentElement.clientWidth - (number ? number.offsetWidth + 12 : 0)); });
    """
    before = page.run(measure)
    page.run(editions.FIT)
    after = page.run(measure)
    assert max(before) > 1
    assert all(0.9 < new <= 1 if old > 1 else new == old for old, new in zip(before, after, strict=True))
