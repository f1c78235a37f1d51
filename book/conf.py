"""Sphinx configuration of the website. `make book` lays out the sources (tools/site.py) and calls Sphinx.

Three variables of the environment say what differs from one place to another:

    GMBOOK_SITE_EXECUTE=off   do not run the chapters: a quick look at the text, without outputs
    GMBOOK_REPOSITORY=...     the public home of the sources, such as https://github.com/OWNER/REPOSITORY: chapters then
                              get a button for Colab and one for Binder. Without it there is no button.
    GMBOOK_BRANCH=main        the branch that these buttons open
"""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sphinx.domains.math import MathDomain
from tools import ledger, reference

BUILD = Path(__file__).resolve().parent / "_build"
SOURCE = BUILD / "source"
REPOSITORY = os.environ.get("GMBOOK_REPOSITORY", "").rstrip("/")
BRANCH = os.environ.get("GMBOOK_BRANCH", "main")

project = "gmbook"
author = "the gmbook authors"
copyright = "the gmbook authors. Text CC BY 4.0, code MIT"
language = "en"

extensions = [
    "myst_nb",
    "sphinx_design",
    "sphinx_proof",
    "sphinx.ext.mathjax",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
bibtex_bibfiles = []
if (SOURCE / "references.bib").exists():
    extensions.append("sphinxcontrib.bibtex")
    bibtex_bibfiles = ["references.bib"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
numfig = True
math_numfig = False  # equations are numbered within their chapter, below
math_number_all = False
suppress_warnings = ["mystnb.unknown_mime_type"]

# A chapter is run when its code has changed, and from the cache otherwise (tools/site.py empties it when the library or
# the records have). A cell that raises fails the build.
nb_execution_mode = "off" if os.environ.get("GMBOOK_SITE_EXECUTE") == "off" else "cache"
nb_execution_cache_path = str(BUILD / "executed")
nb_execution_timeout = 600  # of one cell: a busy laptop is no error
nb_execution_raise_on_error = True
nb_ipywidgets_js = {}  # no widgets, hence no script from a network

# MathJax 3 from the package that carries it (tools/site.py lays it out): mathematics renders without a network, and
# from file:// too.
mathjax_path = "mathjax/tex-chtml-full.js"
mathjax3_config = {
    "tex": {"macros": {"E": r"\mathbb{E}", "R": r"\mathbb{R}", "N": r"\mathcal{N}", "KL": r"\mathrm{KL}"}}
}

# The API reference: public members, in the order of their file. Types stand in the signature.
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True
maximum_signature_line_length = 88
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = "gmbook"
html_static_path = [str(SOURCE / "_static")]
html_css_files = ["gmbook.css"]
html_js_files = ["gmbook.js"]
html_copy_source = True
html_show_sourcelink = False
html_domain_indices = False  # the API reference has its own list of modules
html_context = {"default_mode": "auto"}  # without it the theme complains of an invalid mode on a first visit
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": True,
    "home_page_in_toc": True,
    "max_navbar_depth": 1,  # the modules of the API reference are listed on its own page
    "navbar_persistent": [],  # the search field stands in the sidebar
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
exclude_patterns = ["**.ipynb_checkpoints", "README.md"]


def chapter_number(page: str) -> str:
    """ "chapters/06_ddpm/ddpm" -> "6"; empty for a page that is no chapter."""
    found = re.match(r"chapters/(\d+)_", page)
    return str(int(found[1])) if found else ""


class ChapterMath(MathDomain):
    """Equations numbered within their chapter: (6.3) stays (6.3) when another chapter gains one."""

    def note_equation(self, docname, labelid, location=None):
        super().note_equation(docname, labelid, location)
        count = sum(page == docname for page, _ in self.equations.values())
        self.equations[labelid] = (docname, f"{chapter_number(docname)}.{count}".removeprefix("."))


def number_figures(app, env):
    """Figures numbered within their chapter, as equations are."""
    for page, kinds in env.toc_fignumbers.items():
        if number := chapter_number(page):
            for numbers in kinds.values():
                numbers.update({name: (int(number), i) for i, name in enumerate(numbers, 1)})


def how_to_have(page: str, up: str) -> str:
    """The line below a chapter's title: the notebook with its outputs, JupyterLab, and what runs elsewhere."""
    name = page.rpartition("/")[2]
    if name.startswith("exercises"):
        return f'<p class="gm-have"><a href="{name}.ipynb" download>Notebook with blanks (.ipynb)</a></p>'
    parts = [
        f'<a href="{name}.ipynb" download>Executed notebook (.ipynb)</a>',
        f'<span><a href="{up}read.html#in-jupyterlab">In JupyterLab</a>: <code>make lab</code>, then '
        f"<code>{page.removeprefix('chapters/')}.md</code></span>",
    ]
    if REPOSITORY:
        home = REPOSITORY.removeprefix("https://github.com/")
        parts += [
            f'<a href="https://colab.research.google.com/github/{home}/blob/{BRANCH}/{page}.ipynb">Colab</a>',
            f'<a href="https://mybinder.org/v2/gh/{home}/{BRANCH}?urlpath=lab/tree/{page}.ipynb">Binder</a>',
        ]
    return f'<p class="gm-have">{"".join(parts)}</p>'


def add_how_to_have(app, pagename, templatename, context, doctree):
    """Put that line into a chapter's page."""
    if pagename.startswith("chapters/") and "body" in context:
        line = how_to_have(pagename, "../" * pagename.count("/"))
        context["body"] = context["body"].replace("</h1>", f"</h1>\n{line}", 1)


def setup(app):
    """Read docstrings as plain text with Unicode mathematics; number by chapter; put the links above a chapter."""
    labels = {entry.label for entry in ledger.collect().values() if entry.chapters}

    def prepare(app, what, name, obj, options, lines):
        lines[:] = reference.restructured("\n".join(lines), labels).split("\n")

    app.connect("autodoc-process-docstring", prepare, priority=400)
    app.connect("html-page-context", add_how_to_have)
    app.add_domain(ChapterMath, override=True)
    app.connect("env-check-consistency", number_figures)
