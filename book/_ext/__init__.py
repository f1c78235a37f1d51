"""The website's Sphinx extensions: directives and roles that put into pages what is made from data."""

from __future__ import annotations

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """A directive whose content is made from data: its page is read anew at every build."""

    def markdown(self) -> str:
        """The content, in MyST Markdown."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """The parsed content; headings in it are the page's."""
        self.env.note_reread()
        return self.parse_text_to_nodes(self.markdown(), allow_section_headings=True)


class Drawn(Generated):
    """One whose content is HTML."""

    def html(self) -> str:
        """The content."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """The content as it is."""
        self.env.note_reread()
        return [nodes.raw("", self.html(), format="html")]
