"""CUDA C++: a .cu file as a Program, whose kernels are launched on NumPy or CuPy arrays.

CuPy arrays run on their GPU (gpu.py), NumPy arrays on the emulator (emulator/), from the same file.
What goes in is checked here against the kernel's own parameter list, before any launch: dtypes,
devices, layout, ranges of numbers, sizes of grid and block.

A kernel is a template on its element type T; its file says how it wants to be launched:

    constexpr int THREADS = 256;    // program.THREADS: threads a block
    template <typename T>
    __global__ void scale(T* y, const T* x, float factor, long long n) { ... }

    program.launch("scale", x.dtype, blocks(x.size, program.THREADS), y, x, 2.0, x.size)
"""

import functools
import importlib
import operator
import re
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from minillm.errors import UserError
from minillm.kernels.runtime.arguments import DTYPES, Arguments, Parameter, Strided, accum

__all__ = ["Arguments", "Program", "Strided", "accum", "blocks", "program"]

MOST_THREADS = 1024  # of a block
MOST_BLOCKS = (2**31 - 1, 65535, 65535)  # of a grid
_BLOCK_LIMITS = (1024, 1024, 64)
_CONSTANT = re.compile(r"^constexpr int (.+?);", re.M)
_KERNEL = re.compile(
    r"(?P<template>template\s*<\s*typename\s+T\s*>\s*)?__global__\s+void\s+"
    r"(?:__launch_bounds__\((?P<bounds>(?:[^()]|\([^()]*\))*)\)\s*)?"
    r"(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)"
)
_TYPE = re.compile(r"\w+( \w+)*(<[^<>]*>)?")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)


class _Kernel(NamedTuple):
    name: str
    parameters: tuple[Parameter, ...]
    template: bool  # on the element type T
    most_threads: int  # a block: its __launch_bounds__, else what CUDA allows


def blocks(items: int, each: int) -> int:
    """How many blocks of `each` items cover `items`."""
    return -(-items // each)


class Program:
    """A .cu file: its constants as attributes, its kernels to launch.

    Attributes:
        path: the file.
        kernels: the parameter lists of its `__global__` functions, by name.
    """

    def __init__(self, path: Path):
        self.path = path
        text = _COMMENT.sub(" ", path.read_text(encoding="utf-8"))
        self.constants = _constants(text)
        found = (_kernel(m, path, self.constants) for m in _KERNEL.finditer(text))
        self.kernels = {kernel.name: kernel for kernel in found}
        if unread := re.search(r"__global__[^{;]*", _KERNEL.sub("", text)):
            raise UserError(
                f"{path.name}: cannot read the kernel `{' '.join(unread[0].split())}`: write"
                " [template <typename T>] __global__ void [__launch_bounds__(N)] NAME(PARAMETERS)"
            )
        self._prepared = threading.local()  # each thread fills argument memory of its own

    def __repr__(self) -> str:
        return f"Program({self.path.parent.name}/{self.path.name})"

    def __getattr__(self, name: str) -> int:
        try:
            return self.__dict__["constants"][name]
        except KeyError:
            raise AttributeError(f"{self!r} has no `constexpr int {name} = ...;`") from None

    def launch(
        self,
        kernel: str,
        dtype: Any,
        grid: "int | tuple[int, ...]",
        *args: Any,
        block: "int | tuple[int, ...]" = 0,
        shared: int = 0,
    ) -> None:
        """Launch `kernel` for the element type `dtype`; does nothing where the grid is empty.

        Args:
            grid, block: up to three sizes (x, y, z); block 0 means the file's THREADS.
            args: arrays (contiguous, or as Strided) and numbers, in the order of its parameters.
            shared: bytes of dynamic shared memory.

        Raises:
            UserError: arguments that the kernel does not take, or sizes that no GPU has.
            KernelFault: found by the emulator.
        """
        known = self._prepared.__dict__
        key = (kernel, dtype)
        if key not in known:
            known[key] = self._prepare(kernel, dtype)
        expression, number, expressions, arguments = known[key]
        grid, block = _three(grid), _three(block or self.constants.get("THREADS") or self.THREADS)
        most = self.kernels[kernel].most_threads
        if not (_within(grid, 0, MOST_BLOCKS) and _within(block, 1, _BLOCK_LIMITS)) or (
            block[0] * block[1] * block[2] > most
        ):
            raise UserError(
                f"{self!r} {kernel}: grid {grid}, block {block} is beyond a GPU's limits or the"
                f" kernel's: {MOST_BLOCKS} blocks, {_BLOCK_LIMITS} threads a block, {most} in all"
            )
        device = arguments.fill(args)
        if 0 in grid:
            return
        if device == "cpu":
            _runtime("emulator").launch(
                self.path, expressions, number, grid, block, arguments, arguments.arrays, shared
            )
        else:
            _runtime("gpu").launch(self.path, expression, grid, block, arguments.address, shared)

    def expressions(self, dtype: Any) -> tuple[str, ...]:
        """The C++ names of all its kernels for an element type, `layer_norm_forward<float>`."""
        T = DTYPES[str(dtype)]
        return tuple(f"{k.name}<{T}>" if k.template else k.name for k in self.kernels.values())

    def _prepare(self, kernel: str, dtype: Any) -> tuple:
        if kernel not in self.kernels:
            raise UserError(f"{self!r} has no kernel {kernel!r}: {', '.join(self.kernels)}")
        if str(dtype) not in DTYPES:
            raise UserError(f"{self!r} {kernel}: no {dtype}; CUDA kernels take {', '.join(DTYPES)}")
        number, expressions = list(self.kernels).index(kernel), self.expressions(dtype)
        arguments = Arguments(f"{self!r} {kernel}", self.kernels[kernel].parameters, dtype)
        return expressions[number], number, expressions, arguments


def _within(sizes: tuple[int, ...], least: int, most: tuple[int, int, int]) -> bool:
    if len(sizes) != 3:
        return False
    x, y, z = sizes
    return least <= x <= most[0] and least <= y <= most[1] and least <= z <= most[2]


def _three(sizes: "int | tuple[int, ...]") -> tuple[int, ...]:
    if type(sizes) is int:
        return (sizes, 1, 1)
    sizes = tuple(map(operator.index, sizes if isinstance(sizes, tuple) else (sizes,)))
    return sizes + (1,) * (3 - len(sizes))


@functools.cache
def _runtime(name: str) -> ModuleType:
    """The module that launches on a device, imported as late as possible."""
    return importlib.import_module(f"minillm.kernels.runtime.{name}")


def _constants(text: str) -> dict[str, int]:
    """`constexpr int A = 32, B = A * 4;` at the start of a line."""
    found: dict[str, int] = {}
    for match in _CONSTANT.finditer(text):
        for part in match[1].split(","):
            name, _, value = part.partition("=")
            number = _number(value, found)
            if number is not None:
                found[name.strip()] = number
    return found


def _number(expression: str, constants: dict[str, int]) -> int | None:
    """Of `THREADS / 32`; None for what only the compiler knows."""
    if not re.fullmatch(r"[\w\s+*/%<>()-]+", expression):
        return None
    try:
        return int(eval(expression.strip().replace("/", "//"), {}, dict(constants)))  # noqa: S307
    except (NameError, SyntaxError, TypeError):
        return None


def _kernel(match: re.Match, path: Path, constants: dict[str, int]) -> _Kernel:
    parameters = []
    for part in filter(str.strip, re.split(r",(?![^<]*>)", match["parameters"])):
        words = re.sub(r"__restrict__|__grid_constant__", "", part).replace("*", " * ").split()
        kind = " ".join(w for w in words[:-1] if w not in ("*", "const"))
        if words.count("*") > 1 or not words[-1].isidentifier() or not _TYPE.fullmatch(kind):
            raise UserError(
                f"{path.name}: cannot read the parameter `{' '.join(part.split())}` of"
                f" {match['name']}"
            )
        pointer = "*" in words
        constant = pointer and "const" in words[: words.index("*")]
        parameters.append(Parameter(words[-1], kind, pointer, pointer and not constant))
    bounds = (match["bounds"] or str(MOST_THREADS)).partition(",")[0]
    most = _number(bounds, constants)
    if most is None:
        raise UserError(f"{path.name}: cannot read the number `{bounds}` of {match['name']}")
    return _Kernel(match["name"], tuple(parameters), match["template"] is not None, most)


@functools.cache
def program(path: Path) -> Program:
    """The Program of a file, read once."""
    return Program(path)
