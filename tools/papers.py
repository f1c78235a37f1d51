"""The papers of the book and the systems around them: the map that the front page shows, and the time line.

Everything is drawn from book/papers.toml. The map is an SVG within the page, so that its nodes are links, that it takes
its colours of text and lines from the page (light or dark), and that a search finds its words.
"""

from __future__ import annotations

import html
import tomllib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "book" / "papers.toml"
LANES = 6  # columns: latents, exact flows, diffusion, matching, its heirs and tokens of images, tokens of text
WIDE, HIGH, GAP_X, GAP_Y, LEFT, TOP = 112, 36, 16, 13, 46, 2  # of a node, between nodes, and around them, in pixels


@dataclass(frozen=True)
class Family:
    """A colour of the map, the colour of the letters on it, and what it stands for."""

    name: str
    colour: str
    ink: str


@dataclass(frozen=True)
class Paper:
    """One node: a paper of the book (it has a chapter, written or planned) or a system around them."""

    key: str
    name: str
    arxiv: str
    family: str
    lane: int
    claim: str
    chapter: str = ""
    builds_on: dict[str, str] = field(default_factory=dict)

    @property
    def month(self) -> tuple[int, int]:
        """(year, month), from the arXiv number."""
        return 2000 + int(self.arxiv[:2]), int(self.arxiv[2:4])

    @property
    def number(self) -> str:
        """The chapter's number, as "06"; empty for a system."""
        return self.chapter.partition("_")[0]

    def text(self, root: Path = ROOT) -> str:
        """The path of the chapter's text, "chapters/06_ddpm/ddpm.md", if it is written; empty otherwise."""
        path = Path("chapters", self.chapter, f"{self.chapter.partition('_')[2]}.md")
        return path.as_posix() if self.chapter and (root / path).exists() else ""


def read(path: Path = DATA) -> tuple[dict[str, Family], dict[str, Paper]]:
    """The families and the papers, each by its key."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    families = {key: Family(**entry) for key, entry in data["families"].items()}
    return families, {key: Paper(key, **entry) for key, entry in data["papers"].items()}


def in_time(papers: dict[str, Paper]) -> list[Paper]:
    """From the oldest to the newest."""
    return sorted(papers.values(), key=lambda paper: float(paper.arxiv))


# ---------------------------------------------------------------------------------------------------------- the map


def places(papers: dict[str, Paper]) -> tuple[dict[str, tuple[int, int]], dict[int, tuple[int, int]]]:
    """The upper left corner of every node, and (top, bottom) of every year that has one.

    Years follow each other downwards, each as high as its fullest lane needs.
    """
    cells: defaultdict[int, defaultdict[int, list[Paper]]] = defaultdict(lambda: defaultdict(list))
    for paper in in_time(papers):
        cells[paper.month[0]][paper.lane].append(paper)
    corners, years, top = {}, {}, TOP
    for year, lanes in cells.items():
        for lane, column in lanes.items():
            for row, paper in enumerate(column):
                corners[paper.key] = LEFT + lane * (WIDE + GAP_X), top + GAP_Y + row * (HIGH + GAP_Y)
        bottom = top + GAP_Y + max(map(len, lanes.values())) * (HIGH + GAP_Y)
        years[year] = top, bottom
        top = bottom
    return corners, years


def lines(words: str, most: int = 14) -> list[str]:
    """A name in one or two lines that fit into a node: broken at the space nearest to its middle."""
    spaces = [i for i, letter in enumerate(words) if letter == " "]
    if len(words) <= most or not spaces:
        return [words]
    middle = min(spaces, key=lambda i: abs(i - len(words) / 2))
    return [words[:middle], words[middle + 1 :]]


def edge(older: str, newer: str, corners: dict[str, tuple[int, int]]) -> str:
    """The curve from the foot of the older node to the head of the newer; beside both if they are one below another."""
    (x1, y1), (x2, y2) = corners[older], corners[newer]
    if y2 < y1 + HIGH:  # of one row: from side to side
        start, end = (x1 + WIDE, y1 + HIGH // 2), (x2, y2 + HIGH // 2)
        return f'<path d="M{start[0]} {start[1]}L{end[0]} {end[1]}" data-older="{older}" data-newer="{newer}"/>'
    start, end = (x1 + WIDE // 2, y1 + HIGH), (x2 + WIDE // 2, y2)
    if x1 == x2 and y2 - y1 > HIGH + GAP_Y:  # others lie between: go round them, through the gap on the left
        start, end, side = (x1, y1 + HIGH // 2), (x2, y2 + HIGH // 2), x1 - GAP_X
        path = f"M{start[0]} {start[1]}C{side} {start[1]} {side} {end[1]} {end[0]} {end[1]}"
    else:
        bend = max((end[1] - start[1]) // 2, 12)
        path = f"M{start[0]} {start[1]}C{start[0]} {start[1] + bend} {end[0]} {end[1] - bend} {end[0]} {end[1]}"
    return f'<path d="{path}" data-older="{older}" data-newer="{newer}"/>'


def node(paper: Paper, family: Family, corner: tuple[int, int], link: str) -> str:
    """A rounded box with the paper's name, as a link; systems around the eighteen papers have a dashed frame."""
    (x, y), words = corner, lines(f"{paper.number} {paper.name}".strip())
    at = y + HIGH // 2 + 4 - 7 * (len(words) - 1)
    spans = "".join(
        f'<tspan x="{x + WIDE // 2}" y="{at + 14 * i}">{html.escape(w)}</tspan>' for i, w in enumerate(words)
    )
    kind = "chapter" if paper.number else "system"
    year, month = paper.month
    title = html.escape(f"{paper.name}, {year}-{month:02}. {paper.claim}")
    return (
        f'<a href="{link}" class="gm-{kind}" data-key="{paper.key}"><title>{title}</title>'
        f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="6" fill="{family.colour}"/>'
        f'<text fill="{family.ink}" text-anchor="middle">{spans}</text></a>'
    )


def drawn(root: Path = ROOT) -> str:
    """The map as a figure in HTML: legend, SVG, caption. A node leads to its chapter, or else to the time line."""
    families, papers = read()
    corners, years = places(papers)
    width = LEFT + LANES * (WIDE + GAP_X)
    height = max(bottom for _, bottom in years.values()) + TOP
    rules = "".join(
        f'<line x1="0" x2="{width}" y1="{top}" y2="{top}"/><text x="0" y="{top + 16}">{year}</text>'
        for year, (top, _) in years.items()
    )
    edges = "".join(edge(older, paper.key, corners) for paper in papers.values() for older in paper.builds_on)
    nodes = "".join(
        node(paper, families[paper.family], corners[paper.key], link(paper, root)) for paper in in_time(papers)
    )
    legend = "".join(
        f'<li><span style="background:{family.colour}"></span>{html.escape(family.name)}</li>'
        for family in families.values()
    )
    return (
        f'<figure class="gm-map" id="the-map"><ul class="gm-legend">{legend}</ul>'
        f'<div class="gm-scroll" tabindex="0" role="group" aria-label="Map of the papers; the time line below says the '
        f'same in words"><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<g class="gm-years" aria-hidden="true">{rules}</g><g class="gm-edges" aria-hidden="true">{edges}</g>'
        f"{nodes}</svg></div><figcaption>Who builds on whom, from top to bottom. Numbered boxes are the eighteen "
        "papers of the book; dashed ones are systems between and after them. A box leads to its chapter where there is "
        "one, and to the time line otherwise. Point at a box to see its own lines.</figcaption></figure>"
    )


def link(paper: Paper, root: Path = ROOT) -> str:
    """Where a node of the map leads, seen from the front page."""
    text = paper.text(root)
    return text.removesuffix(".md") + ".html" if text else f"timeline.html#paper-{paper.key.replace('_', '-')}"


# ---------------------------------------------------------------------------------------------------- the time line


def timeline(root: Path = ROOT) -> str:
    """The page of the time line, in MyST Markdown: what the map shows, in words."""
    families, papers = read()
    parts = [
        "# Time line\n",
        "The papers of the book, and systems between and after them, by the month of their first version on arXiv. It",
        "says in words what [the map](index.md#the-map) draws. The order of publication is not the order of the",
        "chapters: NCSN came before DDPM, and Rectified Flow a month before Flow Matching.\n",
    ]
    year = 0
    for paper in in_time(papers):
        if paper.month[0] != year:
            year = paper.month[0]
            parts.append(f"\n## {year}\n")
        parts.append(row(paper, papers, families, root))
    return "\n".join(parts) + "\n"


def row(paper: Paper, papers: dict[str, Paper], families: dict[str, Family], root: Path) -> str:
    """One paper of the time line: month, name with its link, claim, and what it takes from whom."""
    text = paper.text(root)
    name = f"{paper.number} · {paper.name}" if paper.number else paper.name
    name = f"[{name}]({text})" if text else f"**{name}**" + (" (chapter planned)" if paper.number else "")
    taken = "; ".join(
        f"[{papers[older].name}](#paper-{older.replace('_', '-')}): {what}" for older, what in paper.builds_on.items()
    )
    source = f"[arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"
    return (
        f"(paper-{paper.key.replace('_', '-')})=\n{paper.month[0]}-{paper.month[1]:02}: {name}, {source}, "
        f"{families[paper.family].name}.\n{paper.claim}" + (f" *Builds on* {taken}.\n" if taken else "\n")
    )
