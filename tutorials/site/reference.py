"""Writes the pages of the API reference: one for each public module, found by walking the package.

What a package exports (`__all__`) is on its page, under the name users import; a module's own page
has its docstring and whatever else is public in it. Each folder of kernels has a page with its
mathematics, the signatures of its kernels and the files that implement them.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import minillm
from minillm import Tensor, kernels
from minillm.kernels import registry

_ROOT = Path(__file__).resolve().parents[2]
# Commands have --help; ops are what functional wraps; kernels/ is walked on its own.
_ELSEWHERE = ("minillm.cli", "minillm.kernels", "minillm.ops", "minillm.tutorials")
_INDEX = """# API reference

Names are PyTorch's where PyTorch has one, MPI's for communication. `B` is batch, `T` time, `C`
channels, `H` heads, `D` head size, `V` vocabulary, `L` layers, `N` rows; `dx` is the gradient of
`x`. A package's page has what it exports; the pages of its modules say how that works.
"""
_KERNELS = """# minillm.kernels

A folder for each op. It declares its kernels once, and each file in it that defines a function of a
kernel's name implements that kernel: [how to read and add one](../kernels/README.md).
"""


def write(folder: Path) -> None:
    """Write all pages into `folder`, which must not exist."""
    folder.mkdir(parents=True)
    modules = {module.__name__: module for module in _walk()}
    exported = {id(member) for module in modules.values() for member in _exports(module).values()}
    packages = [m for m in modules.values() if hasattr(m, "__path__")]
    pages = {"minillm.kernels": _KERNELS + _contents(_kernel_modules())}
    for name, module in modules.items():
        children = [m for m in modules.values() if m.__name__.rpartition(".")[0] == name]
        if module is minillm:
            children = [m for m in children if m not in packages]  # those are beside it
        pages[name] = _page(module, exported) + _contents(children)
    for module in _kernel_modules():
        pages[module.__name__] = _page(module, exported)
    tops = [m for m in packages if m.__name__.count(".") <= 1]
    pages["index"] = _INDEX + _contents([*tops, kernels], menu=True)
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def _walk(package: ModuleType = minillm) -> Iterator[ModuleType]:
    """The package and every public module below it."""
    yield package
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if info.name not in _ELSEWHERE:
            module = importlib.import_module(info.name)
            yield from _walk(module) if info.ispkg else [module]


def _kernel_modules() -> list[ModuleType]:
    """The declarations of kernels/, and the modules beside them."""
    registry.declared()
    found = pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}.")
    return [importlib.import_module(m.name) for m in found if m.name != "minillm.kernels.runtime"]


def _exports(module: ModuleType) -> dict[str, Any]:
    members = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    # tensor_functions has an __all__ only for `import *`
    return members if hasattr(module, "__path__") else {}


def _members(module: ModuleType, exported: set[int]) -> dict[str, Any]:
    """What is documented on a module's page."""
    own = {
        name: member
        for name, member in vars(module).items()
        if not name.startswith("_")
        and getattr(member, "__module__", None) == module.__name__
        and id(member) not in exported
    }
    return {k: v for k, v in (_exports(module) or own).items() if _directive(v)}


def _directive(member: Any) -> str | None:
    """How autodoc is told to document it."""
    if inspect.isclass(member):
        return "autoclass"
    # a collective is an object that wraps a function
    if inspect.isfunction(member) or hasattr(member, "__wrapped__"):
        return "autofunction"
    return None


def _page(module: ModuleType, exported: set[int]) -> str:
    name = module.__name__
    file = Path(inspect.getsourcefile(module) or "").resolve().relative_to(_ROOT)
    package = name.rpartition(".")[0]
    above = f"[{package}]({package}.md) / " if name != "minillm" else ""
    lines = [f"# {name}", "", f"{above}[`{file}`](../{file})", ""]
    lines += ["```{eval-rst}", f".. automodule:: {name}"]
    if getattr(sys.modules.get(package), name.rpartition(".")[2], module) is not module:
        lines += ["   :no-index:"]  # the package exports something of the module's own name
    for member, value in _members(module, exported).items():
        lines += ["", f".. {_directive(value)}:: {name}.{member}"]
        if inspect.isclass(value):
            lines += ["   :members:"]
            lines += ["   :show-inheritance:"] if value.__bases__ != (object,) else []
        # PyTorch's names need no words; they live in the bases of Tensor, a file each
        lines += ["   :inherited-members:", "   :undoc-members:"] if value is Tensor else []
    declared = [k for k in registry.KERNELS.values() if k.package == name]
    for kernel in declared:
        lines += ["", f".. py:data:: {kernel.name}", "", "   ::", ""]
        lines += [f"       {part}" for part in _signature(kernel.signature)]
    lines += ["```", ""]
    if declared:
        folder = file.parent
        sources = sorted(p.name for p in folder.iterdir() if p.suffix in (".py", ".cu", ".cuh"))
        lines += ["## Files", "", *(f"- [`{name}`](../{folder}/{name})" for name in sources), ""]
    return "\n".join(lines)


def _signature(text: str) -> list[str]:
    """Arguments on a line, results on the next."""
    arguments, arrow, results = text.partition(" -> ")
    return [arguments, f"-> {results}"] if arrow else [arguments]


def _contents(modules: list[ModuleType], menu: bool = False) -> str:
    """A table of modules with their first lines; in the menu too, or that would be too long."""
    if not modules:
        return ""
    table = "\n|  |  |\n|---|---|\n"
    for module in modules:
        text = module.__doc__ or "The kernels: a folder for each op, declared in one place."
        first = " ".join(text.partition("\n\n")[0].split())
        table += f"| [{module.__name__}]({module.__name__}.md) | {first} |\n"
    names = "\n".join(module.__name__ for module in modules)
    return table + (f"\n```{{toctree}}\n:hidden:\n\n{names}\n```\n" if menu else "")
