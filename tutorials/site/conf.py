"""Sphinx's settings for the site of `make docs`; build.py lays out the pages and calls Sphinx.

Building needs no network. The pages load MathJax and Mermaid from their CDN when they are read.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # autodoc documents this tree, not one installed elsewhere
os.environ.setdefault("NO_COLOR", "1")

project = "minillm"
author = "the minillm authors"
html_title = "minillm"
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
templates_path: list[str] = []

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinxcontrib.mermaid",
    "minillm.tutorials.site.docstrings",
    "minillm.tutorials.site.names",
    "minillm.tutorials.site.sources",
]
exclude_patterns = ["tutorials/site", "tests"]
nitpicky = True  # a reference to what does not exist is a warning, and build.py makes it an error
# Fences of languages that Pygments does not know stay plain; not every page is in a menu.
suppress_warnings = ["misc.highlighting_failure", "toc.not_included"]

# GitHub's Markdown.
myst_enable_extensions = ["alert", "amsmath", "dollarmath", "html_image", "tasklist"]
myst_fence_as_directive = ["mermaid", "math"]
myst_heading_anchors = 6
myst_dmath_allow_digits = False  # "$5 or $6" is money
myst_dmath_allow_space = False
myst_dmath_double_inline = True

add_module_names = False
autodoc_default_options = {"member-order": "bysource", "show-inheritance": True}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
toc_object_entries_show_parents = "hide"


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Where [source] beside a name of the reference leads: to our own page of that file."""
    from minillm.tutorials.site import sources

    return sources.line_of(info["module"], info["fullname"]) if domain == "py" else None
