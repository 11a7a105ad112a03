"""Sphinx's settings for the site of `make docs`; build.py lays out the pages and calls Sphinx.

Building needs no network. The pages load MathJax and Mermaid from their CDN when they are read.
"""

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import get_all_lexers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # autodoc documents this tree, not one installed elsewhere

project = "minillm"
author = "the minillm authors"
html_title = "minillm"
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
smartquotes = False

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinxcontrib.mermaid",
    "minillm.tutorials.site.docstrings",
    "minillm.tutorials.site.names",
    "minillm.tutorials.site.sources",
]
exclude_patterns = ["tutorials/site", "tests"]
nitpicky = True  # a reference to what does not exist is a warning, and build.py makes it an error
suppress_warnings = ["misc.highlighting_failure"]  # excerpts need not be whole statements

# GitHub's Markdown.
myst_enable_extensions = ["amsmath", "dollarmath", "html_image", "tasklist"]
myst_fence_as_directive = ["mermaid", "math"]
myst_heading_anchors = 6
myst_dmath_allow_digits = False  # "$5 or $6" is money
myst_dmath_allow_space = False
myst_dmath_double_inline = True

mermaid_height = "auto"  # as high as the diagram, not 500 pixels
mermaid_fullscreen = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"code-font-size": "75%"},
}

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

_LANGUAGES = {name for _, aliases, *_ in get_all_lexers() for name in aliases} | {"default", "none"}


def _as_on_github(app: Any, doctree: nodes.document) -> None:
    """Leave equations and fences of any language alone, and pages that no menu lists."""
    for block in doctree.findall(nodes.math_block):
        if not block.get("nowrap"):  # Sphinx would put several lines into an environment
            block.children = [nodes.Text(rf"\[{block.astext()}\]")]
            block["no-wrap"] = True
    for block in doctree.findall(nodes.literal_block):
        if block.get("language", "default") not in _LANGUAGES:
            block["language"] = "text"
    app.env.metadata[app.env.docname].setdefault("orphan", "")


def setup(app: Any) -> None:
    """Sphinx's hook."""
    app.connect("doctree-read", _as_on_github)


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Where [source] beside a name of the reference leads: to our own page of that file."""
    from minillm.tutorials.site import sources

    return sources.line_of(info["module"], info["fullname"]) if domain == "py" else None
