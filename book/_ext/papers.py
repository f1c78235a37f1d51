"""The papers of the book and the systems around them: map, time line, table of notation, bibliography.

Everything is made from the register, src/gmbook/papers.toml. The map is an SVG within the page, so that its nodes are
links, that it takes its colours of text and lines from the page (light or dark), and that a search finds its words.
"""

from __future__ import annotations

import html
from collections import defaultdict
from pathlib import Path

from book._ext import Drawn, Generated
from sphinx.application import Sphinx

from gmbook import registry
from gmbook.registry import Family, Paper

ROOT = Path(__file__).resolve().parents[2]
LANES = 6  # columns: latents, exact flows, diffusion, matching, its heirs and tokens of images, tokens of text
WIDE, HIGH, GAP_X, GAP_Y, LEFT, TOP = 112, 36, 16, 13, 46, 2  # of a node, between nodes, and around them, in pixels


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


def bent(points: list[tuple[float, float]], radius: float = 5) -> str:
    """The path along straight pieces, with round corners."""
    told = "M{:g} {:g}".format(*points[0])
    for (x1, y1), (x2, y2), (x3, y3) in zip(points, points[1:], points[2:]):
        before, after = abs(x2 - x1) + abs(y2 - y1), abs(x3 - x2) + abs(y3 - y2)
        r, s = min(radius, before / 2), min(radius, after / 2)
        told += f"L{x2 + r * (x1 - x2) / before:g} {y2 + r * (y1 - y2) / before:g}"
        told += f"Q{x2:g} {y2:g} {x2 + s * (x3 - x2) / after:g} {y2 + s * (y3 - y2) / after:g}"
    return told + "L{:g} {:g}".format(*points[-1])


def edge(older: str, newer: str, corners: dict[str, tuple[int, int]], track: int) -> str:
    """The line from the foot of the older node to the head of the newer, through the gaps between rows and lanes.

    No line runs behind a node. Each paper has a track of its own within the gaps, of five, so that lines from one paper
    join and those of its neighbours lie beside them.
    """
    (x1, y1), (x2, y2) = corners[older], corners[newer]
    aside = 3 + 2 * (track % 5)  # within a gap between rows; at most 11 of 13
    if y1 == y2:  # of one row: from side to side if they are neighbours, through the gap above if not
        points = [(x1 + WIDE, y1 + HIGH / 2), (x2, y2 + HIGH / 2)]
        if x2 - x1 > WIDE + GAP_X:
            above = y1 - GAP_Y + aside
            points = [(x1 + WIDE / 2, y1), (x1 + WIDE / 2, above), (x2 + WIDE / 2, above), (x2 + WIDE / 2, y2)]
        return f'<path d="{bent(points)}" data-older="{older}" data-newer="{newer}"/>'
    foot, head = (x1 + WIDE / 2, y1 + HIGH), (x2 + WIDE / 2, y2)
    below = y1 + HIGH + aside
    if y2 - y1 <= 2 * GAP_Y + HIGH:  # the next row
        points = [foot, head] if x1 == x2 else [foot, (foot[0], below), (head[0], below), head]
    else:
        gutter = x2 - GAP_X + 3 + 2.5 * (track % 5) if x1 <= x2 else x2 + WIDE + 3 + 2.5 * (track % 5)
        above = y2 - GAP_Y + aside
        points = [foot, (foot[0], below), (gutter, below), (gutter, above), (head[0], above), head]
    return f'<path d="{bent(points)}" data-older="{older}" data-newer="{newer}"/>'


def node(paper: Paper, family: Family, corner: tuple[int, int], link: str) -> str:
    """A rounded box with the paper's name, as a link; systems without a chapter have a dashed frame."""
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
    families, papers = registry.read().families, registry.read().papers
    corners, years = places(papers)
    width = LEFT + LANES * (WIDE + GAP_X)
    height = max(bottom for _, bottom in years.values()) + TOP
    rules = "".join(
        f'<line x1="0" x2="{width}" y1="{top}" y2="{top}"/><text x="0" y="{top + 16}">{year}</text>'
        for year, (top, _) in years.items()
    )
    track = {key: k for k, key in enumerate(corners)}
    edges = "".join(
        edge(older, paper.key, corners, track[older]) for paper in papers.values() for older in paper.builds_on
    )
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
        f"{nodes}</svg></div><figcaption>Who builds on whom, from top to bottom. Numbered boxes are the "
        "papers of the book; dashed ones are systems between and after them. A box leads to its chapter where there is "
        "one, and to the time line otherwise. Point at a box to see its own lines.</figcaption></figure>"
    )


def link(paper: Paper, root: Path = ROOT) -> str:
    """Where a node of the map leads, seen from the front page."""
    text = paper.text(root)
    return text.removesuffix(".md") + ".html" if text else f"timeline.html#paper-{paper.key.replace('_', '-')}"


# ---------------------------------------------------------------------------------------------------- the time line


def timeline(root: Path = ROOT) -> str:
    """The time line, in MyST Markdown: what the map shows, in words."""
    families, papers = registry.read().families, registry.read().papers
    parts, year = [], 0
    for paper in in_time(papers):
        if paper.month[0] != year:
            year = paper.month[0]
            parts.append(f"\n## {year}\n")
        parts.append(row(paper, papers, families, root))
    return "\n".join(parts) + "\n"


def row(paper: Paper, papers: dict[str, Paper], families: dict[str, Family], root: Path) -> str:
    """One paper of the time line: month, name with its link, claim, and what it takes from whom."""
    text = paper.text(root)
    name = f"[{paper.heading}](/{text})" if text else f"**{paper.heading}**" + " (chapter planned)" * bool(paper.number)
    taken = "; ".join(
        f"[{papers[older].name}](#paper-{older.replace('_', '-')}): {what}" for older, what in paper.builds_on.items()
    )
    source = f"[arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"
    return (
        f"(paper-{paper.key.replace('_', '-')})=\n{paper.month[0]}-{paper.month[1]:02}: {name}, {source}, "
        f"{families[paper.family].name}.\n{paper.claim}" + (f" *Builds on* {taken}.\n" if taken else "\n")
    )


# ------------------------------------------------------------------------------------- the notation, the bibliography


def notation() -> str:
    """The table that says how each paper's conventions differ from the book's: a row for each paper with a chapter."""
    head = ("#", "paper", "time, direction", "signal and noise", "what is predicted, signs", "vectors, indices, code")
    chapters = sorted((chapter for chapter in registry.read().chapters if chapter.arxiv), key=lambda c: c.number)
    rows = [head, ["---"] * len(head), *((str(int(c.number)), c.name, *c.notation) for c in chapters)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def bibliography() -> str:
    """The papers of the chapters in BibTeX; titles keep their capitals."""
    entries = [
        f"@inproceedings{{{paper.key},\n  title = {{{{{paper.title}}}}},\n  author = {{{paper.authors}}},\n"
        f"  booktitle = {{{{{paper.venue}}}}},\n  year = {{{paper.year}}},\n  eprint = {{{paper.arxiv}}},\n"
        "  archiveprefix = {arXiv},\n}\n"
        for paper in registry.read().chapters
        if paper.title
    ]
    return "\n".join(entries)


class Map(Drawn):
    """`{papers-map}`: the map."""

    html = staticmethod(drawn)


class TimeLine(Generated):
    """`{papers-timeline}`: the time line, a heading for each year."""

    markdown = staticmethod(timeline)


class Notation(Generated):
    """`{papers-notation}`: the table of notation."""

    markdown = staticmethod(notation)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    for directive in (Map, TimeLine, Notation):
        app.add_directive(f"papers-{directive.__name__.lower()}", directive)
    return {"parallel_read_safe": True}
