"""Sphinx configuration of the website. `make book` lays out the sources (book/build.py) and calls Sphinx.

Three variables of the environment say what differs from one place to another:

    GMBOOK_SITE_EXECUTE=off   do not run the chapters: a quick look at the text, without outputs
    GMBOOK_REPOSITORY=...     the public home of the sources, such as https://github.com/OWNER/REPOSITORY: chapters then
                              get a button for Colab and one for Binder. Without it there is no button.
    GMBOOK_BRANCH=main        the branch that these buttons open
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BUILD = Path(__file__).resolve().parent / "_build"
SOURCE = BUILD / "source"

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
    "sphinxcontrib.bibtex",
    "book._ext.chapters",
    "book._ext.front",
    "book._ext.ledger",
    "book._ext.papers",
    "book._ext.reference",
]
# The first is made from the register; paths are relative to this folder.
bibtex_bibfiles = [str(SOURCE / "papers.bib"), "references.bib"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
numfig = True
math_numfig = False  # equations are numbered within their chapter, below
math_number_all = False
suppress_warnings = ["mystnb.unknown_mime_type"]

# A chapter is run when its code has changed, and from the cache otherwise (book/build.py empties it when the library or
# the records have). A cell that raises fails the build.
nb_execution_mode = "off" if os.environ.get("GMBOOK_SITE_EXECUTE") == "off" else "cache"
nb_execution_cache_path = str(BUILD / "executed")
nb_execution_timeout = 600  # of one cell: a busy laptop is no error
nb_execution_raise_on_error = True
nb_ipywidgets_js = {}  # no widgets, hence no script from a network

# MathJax 3 from the package that carries it (book/build.py lays it out): mathematics renders without a network, and
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
