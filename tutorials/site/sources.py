"""Pages for files and folders of the repository, so that links to them lead somewhere to read.

Markdown here links to `../../minillm/ops/layer_norm.py` or `../../kernels/layer_norm`, as GitHub
wants it. Each file that is linked becomes a highlighted page, each folder a list of what is in it
or, if it has a README.md among the pages, that.
"""

import html
import inspect
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes

from minillm.tutorials.site.names import find

ROOT = Path(__file__).resolve().parents[2]
_AS_THEY_ARE = {".gif", ".html", ".ipynb", ".jpg", ".pdf", ".png", ".svg"}
# Of this build, as each is a process of its own: paths from the root; menus by folder.
_linked: set[str] = set()
_menus: dict[str, str] = {}


def page_of(path: str) -> str:
    """The name of a file's or folder's page, which is made because of this call."""
    _linked.add(path)
    return f"source/{path}"


def line_of(module: str, name: str) -> str | None:
    """The address of a definition in its source page, from a page one folder deep."""
    for found in find(name, (module,)):
        found = inspect.unwrap(found.fget if isinstance(found, property) else found)
        try:
            file = Path(inspect.getsourcefile(found) or "").resolve()
            line = inspect.getsourcelines(found)[1]
        except (TypeError, OSError):  # a constant, or C
            return None
        if file.is_relative_to(ROOT):
            return f"../{page_of(file.relative_to(ROOT).as_posix())}.html#L-{max(line, 1)}"
    return None


def _rewrite(app: Any, doctree: nodes.document) -> None:
    """Let links to files and folders lead to their pages; those to nothing are left to MyST."""
    here = posixpath.dirname(app.env.docname)
    for node in list(doctree.findall(nodes.Element)):
        link = isinstance(node, addnodes.download_reference | addnodes.pending_xref)
        if not link or node.get("reftype") != "myst" or node.get("refdomain"):
            continue
        path = posixpath.normpath(posixpath.join(here, node["reftarget"]))
        file = app.srcdir / path
        if path.startswith("..") or not file.exists() or file.suffix in _AS_THEY_ARE:
            continue
        readme = posixpath.join(path, "README")
        page = readme if readme in app.env.found_docs else page_of(path)
        new = nodes.reference("", "", internal=True)
        new["refuri"] = app.builder.get_relative_uri(app.env.docname, page)
        new += node.children
        node.replace_self(new)


def _pages(app: Any) -> Iterator[tuple[str, dict[str, str], str]]:
    """Every linked file and folder, and what is in those folders."""
    for listener in list(app.events.listeners["html-page-context"]):
        if listener.handler.__module__.startswith("sphinxcontrib.mermaid"):
            app.disconnect(listener.id)  # no diagrams in these pages, and no script for them
    done: set[str] = set()
    while todo := sorted(_linked - done):
        for path in todo:
            done.add(path)
            file = app.srcdir / path
            body = _folder(app, path) if file.is_dir() else _file(app, file)
            title = f"<h1><code>{html.escape(path)}</code></h1>"
            yield f"source/{path}", {"title": path, "body": title + body}, "page.html"


def _file(app: Any, file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "<p>Not text.</p>"
    try:
        lexer = get_lexer_for_filename(file.name).aliases[0]
    except ClassNotFound:
        lexer = "text"
    return app.builder.highlighter.highlight_block(text, lexer, linespans="L")


def _folder(app: Any, path: str) -> str:
    rows = []
    for entry in sorted((app.srcdir / path).iterdir()):
        name = entry.name + "/" * entry.is_dir()
        target = posixpath.join(path, entry.name)
        document = app.env.project.path2doc(target)
        page = document if document in app.env.found_docs else page_of(target)
        uri = app.builder.get_relative_uri(f"source/{path}", page)
        rows.append(f'<li><a href="{html.escape(uri)}"><code>{html.escape(name)}</code></a></li>')
    return f"<ul>{''.join(rows)}</ul>"


def _share_menu(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Pages that are not in the menu share it with those of their folder: it takes long to make."""
    inside = {name for names in app.env.toctree_includes.values() for name in names}
    if "toctree" in context and page not in inside:
        menu, folder = context["toctree"], posixpath.dirname(page)
        context["toctree"] = lambda **options: (
            _menus[folder] if folder in _menus else _menus.setdefault(folder, menu(**options))
        )


def setup(app: Any) -> None:
    """Sphinx's hook: ahead of the collector of downloads and of the theme, whose place is 500."""
    app.connect("doctree-read", _rewrite, priority=400)
    app.connect("html-page-context", _share_menu, priority=400)
    app.connect("html-collect-pages", _pages)
