"""Python's names in the reference: which page a name stands for, wherever it is imported from.

Types in signatures carry the name of the module that defines them (`minillm.tensor.Tensor`), pages
the name that users import (`minillm.Tensor`). Both are the same object, and that is how a reference
finds its page. A name that exists without a page, such as `numpy.ndarray`, is plain code; one that
does not exist is an error.
"""

import builtins
import importlib
import sys
from typing import Any

from sphinx.roles import XRefRole
from sphinx.util.nodes import make_refnode


class Name(XRefRole):
    """A name that is a link if there is such a page: what backticks mean in docstrings."""

    def process_link(
        self, env: Any, refnode: Any, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        """Remember whose docstring it stands in."""
        refnode["py:module"] = env.ref_context.get("py:module")
        refnode["py:class"] = env.ref_context.get("py:class")
        return title, target.removesuffix("()")


def find(target: str, scopes: list[str]) -> list[Any]:
    """The object that `target` names, seen from each of `scopes`; empty if there is none."""
    for scope in scopes:
        parts = [part for part in f"{scope}.{target}".split(".") if part]
        for cut in range(len(parts), 0, -1):
            try:
                found = _module(".".join(parts[:cut]))
                for name in parts[cut:]:
                    found = getattr(found, name)
            except (ImportError, AttributeError):
                continue
            return [found]
    return []


def _module(name: str) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    return importlib.import_module(name)


def _pages(env: Any) -> dict[int, Any]:
    """The reference's entries by the identity of what they document."""
    entries: dict[int, Any] = {}
    for name, entry in env.get_domain("py").objects.items():
        for found in find(name, [""]):
            entries.setdefault(id(found), entry)
    return entries


class Resolver:
    """Resolves what Sphinx could not; the table of pages is made when first needed."""

    def __init__(self) -> None:
        self.pages: dict[int, Any] = {}

    def __call__(self, app: Any, env: Any, node: Any, text: Any) -> Any:
        soft = node["reftype"] == "name"
        if not soft and node.get("refdomain") != "py":
            return None
        self.pages = self.pages or _pages(env)
        module, cls = node.get("py:module") or "", node.get("py:class") or ""
        scopes = [f"{module}.{cls}", module, "minillm", builtins.__name__, ""]
        found = find(node["reftarget"], [s for s in scopes if s] if soft else scopes)
        entry = self.pages.get(id(found[0])) if found else None
        if entry is not None and not isinstance(found[0], int | str | float | None.__class__):
            docname = node.get("refdoc", env.docname)
            return make_refnode(app.builder, docname, entry.docname, entry.node_id, [text])
        return text if soft or found else None


def setup(app: Any) -> None:
    """Sphinx's hook."""
    app.add_role("name", Name())
    app.connect("missing-reference", Resolver())
