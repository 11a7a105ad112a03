"""Writes the pages of the API reference: one for each public module, found by walking the package.

What a package exports (`__all__`) is on its page, under the name users import; a module's own page
has its docstring and whatever else is public in it. Each folder of kernels has a page with its
mathematics, the signatures of its kernels and the files that implement them.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import minillm
from minillm import Tensor, kernels

_ELSEWHERE = ("minillm.cli", "minillm.kernels", "minillm.tutorials")  # and ops, for its own reasons
_ROOT = Path(__file__).resolve().parents[2]
_INDEX = """# API reference

Names are PyTorch's where PyTorch has one, MPI's for communication. `B` is batch, `T` time, `C`
channels, `H` heads, `D` head size, `V` vocabulary, `L` layers, `N` rows; `dx` is the gradient of
`x`. A package's page has what it exports; its modules' pages say how that works.
"""
_KERNELS = """# minillm.kernels

One folder an op. It declares its kernels once, and every file in it that defines a function of a
kernel's name implements that kernel; [how to read and add one](../kernels/README.md).
"""


def write(folder: Path) -> None:
    """Write all pages into `folder`, which is new."""
    folder.mkdir(parents=True)
    modules = list(_modules(minillm)) + list(_modules(kernels))
    exported = {id(member) for module in modules for _, member in _exports(module)}
    for module in modules:
        children = [m for m in modules if m.__name__.rpartition(".")[0] == module.__name__]
        page = _page(module, exported) + _contents(children)
        (folder / f"{module.__name__}.md").write_text(page, encoding="utf-8")
    (folder / "index.md").write_text(_INDEX + _contents(...), encoding="utf-8")


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    """The package and all public modules below it."""
    yield package
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if info.name.startswith(_ELSEWHERE):
            continue
        module = importlib.import_module(info.name)
        if info.ispkg:
            yield from _modules(module)
        else:
            yield module
