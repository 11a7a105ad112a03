"""Python's names in the reference: which page a name stands for, wherever it is imported from.

Types in signatures carry the name of the module that defines them (`minillm.tensor.Tensor`), pages
the name that users import (`minillm.Tensor`). Both are the same object, and that is how a reference
finds its page. A name that exists without a page, such as `numpy.ndarray`, is plain code; one that
does not exist is an error.
"""

import functools
import importlib
import sys
from typing import Any

from sphinx.roles import XRefRole
from sphinx.util.nodes import make_refnode

_OBJECTS = {"class", "exception", "function", "method", "module"}  # an attribute may be just 1


@functools.cache
def find(target: str, scopes: tuple[str, ...]) -> list[Any]:
    """The object that `target` names, seen from the first of `scopes` that knows it; or none."""
    for scope in scopes:
        parts = [part for part in f"{scope}.{target}".split(".") if part]
        for cut in range(len(parts), 0, -1):
            found = _module(".".join(parts[:cut]))
            try:
                for name in parts[cut:]:
                    found = getattr(found, name)
            except AttributeError:
                continue
            if found is not None:
                return [found]
    return []


def _module(name: str) -> Any:
    """The module of that name, or None. Others' modules are not imported for being mentioned."""
    if name in sys.modules or not name.startswith("minillm."):
        return sys.modules.get(name)
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class Name(XRefRole):
    """What backticks mean in docstrings: a link if there is such a page."""

    def process_link(
        self, env: Any, refnode: Any, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        """Remember whose docstring it stands in."""
        refnode["py:module"] = env.ref_context.get("py:module")
        refnode["py:class"] = env.ref_context.get("py:class")
        return title, target.removesuffix("()")


class Resolver:
    """Resolves what Sphinx could not."""

    @functools.cached_property
    def entries(self) -> dict[int, Any]:
        """The reference's entries, by the identity of what they document."""
        return {
            id(found): entry
            for name, entry in self.env.get_domain("py").objects.items()
            if entry.objtype in _OBJECTS
            for found in find(name, ("",))
        }

    def __call__(self, app: Any, env: Any, node: Any, text: Any) -> Any:
        """A link, plain text, or None for what does not exist: Sphinx then complains."""
        soft = node["reftype"] == "name"
        if not soft and node.get("refdomain") != "py":
            return None
        self.env = env
        module, cls = node.get("py:module") or "", node.get("py:class") or ""
        scopes = (f"{module}.{cls}", module, "", "minillm", "builtins")
        if node["reftype"] == "exc":  # it may be raised far from the page
            scopes += tuple(sorted(name for name in sys.modules if name.startswith("minillm.")))
        found = find(node["reftarget"], scopes)
        entry = self.entries.get(id(found[0])) if found else None
        if entry is not None:
            here = node.get("refdoc", env.docname)
            return make_refnode(app.builder, here, entry.docname, entry.node_id, [text])
        return text if soft or found else None


def setup(app: Any) -> None:
    """Sphinx's hook."""
    app.add_role("name", Name())
    app.connect("missing-reference", Resolver())
