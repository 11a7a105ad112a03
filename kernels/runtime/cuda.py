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

import ctypes
import functools
import re
import struct
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minillm.device import Array, device_of
from minillm.errors import UserError

DTYPES = {"float32": "float", "float64": "double", "bfloat16": "bf16"}
MOST_THREADS = 1024
_GRID_LIMITS = (2**31 - 1, 65535, 65535)
# Numbers that a kernel may take by value: letter of the struct module, and dtype of an array of it.
_SCALARS = {
    "bool": ("?", "bool"), "int": ("i", "int32"), "unsigned": ("I", "uint32"),
    "unsigned int": ("I", "uint32"), "long long": ("q", "int64"),
    "unsigned long long": ("Q", "uint64"), "float": ("f", "float32"), "double": ("d", "float64"),
}  # fmt: skip

_CONSTANT = re.compile(r"^constexpr int (.+?);", re.M)
_KERNEL = re.compile(
    r"(?P<template>template\s*<\s*typename\s+T\s*>\s*)?__global__\s+void\s+"
    r"(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)"
)


class Strided(NamedTuple):
    """An array whose strides the kernel is told by other arguments: it need not be contiguous."""

    array: Array


class Parameter(NamedTuple):
    """One parameter of a kernel as its source declares it."""

    name: str
    type: str  # without const, * and __restrict__
    pointer: bool
    writable: bool


class _Kernel(NamedTuple):
    name: str
    parameters: tuple[Parameter, ...]
    template: bool  # on the element type T


def accum(dtype: Any) -> Any:
    """The dtype in which statistics and sums of `dtype` are kept: accum<T> in types.cuh."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


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
        text = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
        self.constants = _constants(text)
        self.kernels = {m["name"]: _kernel(m, path) for m in _KERNEL.finditer(text)}
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
        grid, block = _three(grid), _three(block or self.THREADS)
        if 0 in grid:
            return
        if block[0] * block[1] * block[2] > MOST_THREADS or any(
            n > most for n, most in zip(grid, _GRID_LIMITS)
        ):
            raise UserError(
                f"{self!r} {kernel}: grid {grid}, block {block} is beyond a GPU's limits:"
                f" {_GRID_LIMITS} blocks, {MOST_THREADS} threads a block"
            )
        device = arguments.fill(args)
        if device == "cpu":
            from minillm.kernels.runtime.emulator import launch

            launch(self.path, expressions, number, grid, block, arguments, arguments.arrays, shared)
        else:
            from minillm.kernels.runtime.gpu import launch

            launch(self.path, expression, grid, block, arguments.address, shared)

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


class Arguments:
    """The memory that a launch reads a kernel's arguments from: a value each, a pointer to each.

    Made once for a kernel and dtype, filled anew for each launch.
    """

    def __init__(self, where: str, parameters: tuple[Parameter, ...], dtype: Any):
        self.where, self.parameters = where, parameters
        self.arrays: list[tuple[int, str, np.ndarray, bool]] = []
        self._kinds = [_resolve(p, dtype, where) for p in parameters]
        self._values = ctypes.create_string_buffer(64 * max(len(parameters), 1))
        start = ctypes.addressof(self._values)
        places = (start + 64 * i for i in range(len(parameters)))
        self._pointers = (ctypes.c_void_p * max(len(parameters), 1))(*places)
        self.address = ctypes.addressof(self._pointers)

    def set_pointer(self, position: int, address: int) -> None:
        """Where the array at `position` is."""
        struct.pack_into("Q", self._values, 64 * position, address)

    def fill(self, args: tuple) -> str:
        """Check and store `args`; the device that the arrays are on."""
        if len(args) != len(self.parameters):
            names = ", ".join(p.name for p in self.parameters)
            raise UserError(f"{self.where}({names}) was given {len(args)} arguments")
        device = None
        self.arrays = []
        for i, (value, parameter, kind) in enumerate(zip(args, self.parameters, self._kinds)):
            if parameter.pointer:
                here = self._pointer(i, value, parameter, kind)
                if device not in (None, here):
                    raise UserError(f"{self.where}: {parameter.name} is on {here}, others {device}")
                device = here
            elif kind is None:
                self._struct(i, value, parameter)
            else:
                try:
                    struct.pack_into(kind, self._values, 64 * i, value)
                except (struct.error, TypeError, OverflowError):
                    raise UserError(
                        f"{self.where}: {parameter.name} = {value!r} is no {parameter.type}"
                    ) from None
        return device or "cpu"

    def _pointer(self, i: int, value: Any, parameter: Parameter, dtype: str) -> str:
        array = value.array if isinstance(value, Strided) else value
        if not hasattr(array, "dtype") or not hasattr(array, "strides"):
            raise UserError(f"{self.where}: {parameter.name} takes an array, not {value!r}")
        if str(array.dtype) != dtype:
            raise UserError(f"{self.where}: {parameter.name} takes {dtype}, not {array.dtype}")
        if array is value and not array.flags.c_contiguous:
            raise UserError(f"{self.where}: {parameter.name} must be contiguous")
        device = device_of(array)
        if device == "cpu":
            if parameter.writable and not array.flags.writeable:
                raise UserError(f"{self.where}: {parameter.name} is written, but is read-only")
            self.arrays.append((i, parameter.name, array, parameter.writable))
        else:
            self.set_pointer(i, array.data.ptr)
        return device

    def _struct(self, i: int, value: Any, parameter: Parameter) -> None:
        if not isinstance(value, ctypes.Structure) or ctypes.sizeof(value) > 64:
            raise UserError(f"{self.where}: {parameter.name} takes a small struct {parameter.type}")
        place = ctypes.addressof(self._values) + 64 * i
        ctypes.memmove(place, ctypes.addressof(value), ctypes.sizeof(value))


def _resolve(parameter: Parameter, dtype: Any, where: str) -> str | None:
    """A pointer's dtype; a number's letter for the struct module; None for a struct by value."""
    kind = parameter.type
    if kind == "T":
        if not parameter.pointer:
            raise UserError(f"{where}: pass {parameter.name} as accum<T>, not as T")
        return str(dtype)
    if kind == "accum<T>":
        kind = DTYPES[str(accum(dtype))]
    if parameter.pointer:
        if kind not in _SCALARS:
            raise UserError(f"{where}: a pointer to {kind} has no dtype")
        return _SCALARS[kind][1]
    return _SCALARS[kind][0] if kind in _SCALARS else None


def _three(sizes: "int | tuple[int, ...]") -> tuple[int, int, int]:
    if isinstance(sizes, int):
        return (sizes, 1, 1)
    return (*sizes, 1, 1)[:3]


def _constants(text: str) -> dict[str, int]:
    """`constexpr int A = 32, B = A * 4;` at the start of a line."""
    found: dict[str, int] = {}
    for match in _CONSTANT.finditer(text):
        for part in match[1].split(","):
            name, _, value = part.partition("=")
            if re.fullmatch(r"[\w\s+*/()-]+", value):
                try:
                    found[name.strip()] = int(eval(value.replace("/", "//"), {}, dict(found)))  # noqa: S307
                except NameError:  # made of something that only the compiler knows
                    continue
    return found


def _kernel(match: re.Match, path: Path) -> _Kernel:
    parameters = []
    for part in filter(str.strip, re.split(r",(?![^<]*>)", match["parameters"])):
        words = re.sub(r"__restrict__|__grid_constant__", "", part).replace("*", " * ").split()
        if words.count("*") > 1 or len(words) < 2:
            raise UserError(f"{path.name}: cannot read the parameter `{part.strip()}`")
        pointer, constant = "*" in words, words[0] == "const"
        kind = " ".join(w for w in words[:-1] if w not in ("*", "const"))
        parameters.append(Parameter(words[-1], kind, pointer, pointer and not constant))
    return _Kernel(match["name"], tuple(parameters), match["template"] is not None)


@functools.cache
def program(path: Path) -> Program:
    """The Program of a file, read once."""
    return Program(path)
