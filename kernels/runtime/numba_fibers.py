"""Numba CUDA kernels without a GPU: compiled for the CPU, each CUDA thread a fiber of the emulator.

What comes in: a kernel's Python function, a grid, a block, NumPy arrays and numbers. What goes out:
the arrays as the kernel left them, or a KernelFault: an index outside its array, a race, shared
memory that nothing has written, a barrier that not all threads reach, each with its source line.

The function is rewritten (numba_rewrite.py) and compiled by Numba as a C callback that runs one
thread, an emu_entry of emulator/runtime.h. Code is kept on disk, under all that it is made of.
All arrays are taken as strided, so that no layout needs a compilation of its own. A negative index
is an error here, though Numba counts it from the end: in a kernel it is a mistake.
"""

import ctypes
import hashlib
from collections.abc import Callable
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import cfunc, from_dtype, njit, types
from numba.core.errors import NumbaNotImplementedError

from minillm.errors import UserError
from minillm.kernels.runtime import numba_intrinsics
from minillm.kernels.runtime.emulator.build import runtime_library
from minillm.kernels.runtime.emulator.launch import TOO_FINE, KernelFault, Region, lock, run, spans
from minillm.kernels.runtime.numba_rewrite import located, rewrite, source

# As CUDA's compiler: multiply-adds may be fused, and a division by zero is an infinity.
_FLAGS = {"fastmath": {"contract"}, "error_model": "numpy"}
_ENTRY = types.void(types.CPointer(types.voidptr))


def device(function: FunctionType) -> Callable:
    """A device function, to be called by kernels and compiled with them."""
    made = njit(**_FLAGS)(rewrite(function, function.__qualname__, None))
    made.original = function
    return made


def _meaning(function: FunctionType) -> str:
    """All that the code of a function is made of: its text, its constants, what it calls."""
    parts = source(function)[0]
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, int | float | np.generic):
            parts.append(f"{name} = {value!r}")
        elif hasattr(value, "original"):
            parts.append(_meaning(value.original))
    return "\n".join(parts)


class FiberKernel:
    """A kernel and what it was compiled to, by the types of its arguments."""

    def __init__(self, function: FunctionType):
        self.function = function
        self.parameters = function.__code__.co_varnames
        self._compiled: dict[tuple, Any] = {}

    def run(self, grid: tuple, block: tuple, args: tuple) -> None:
        """Run every thread of the grid.

        Raises:
            KernelFault: the kernel did what a GPU forbids or leaves undefined.
            UserError: no g++; an argument, or something in the source, that kernels cannot have.
        """
        kinds = tuple(map(_kind, args))
        if kinds not in self._compiled:
            self._compiled[kinds] = self._compile(kinds)
        records = [_record(a) for a in args]
        pointers = (ctypes.c_void_p * len(args))(*(r.ctypes.data for r in records))
        regions, granule = _regions(args, self.parameters)
        address = self._compiled[kinds].address
        with lock:
            error = run(address, pointers, grid, block, 0, regions, granule)
        if error == TOO_FINE:
            raise UserError(
                f"{self.function.__name__}: it has shared memory of elements smaller than"
                " those of any array it is given, which the emulator cannot watch"
            )
        if error:
            raise KernelFault(f"{self.function.__name__}: {located(error)}")

    def _compile(self, kinds: tuple) -> Any:
        library = str(runtime_library())
        llvm.load_library_permanently(library)  # where LLVM finds the emulator's functions
        arguments = [numba_intrinsics.argument(kind, i) for i, kind in enumerate(kinds)]
        text = f"{kinds} {library} {_meaning(self.function)}"
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        entry = rewrite(self.function, f"{self.function.__qualname__}_{key}", arguments)
        return cfunc(_ENTRY, cache=True, **_FLAGS)(entry)


def _kind(value: Any) -> types.Type:
    """The Numba type of an argument; every array is strided."""
    if not isinstance(value, np.ndarray | np.generic | bool | int):
        raise UserError(f"a kernel takes arrays and numbers, not {type(value).__name__}: {value!r}")
    try:
        dtype = from_dtype(np.asarray(value).dtype)
    except NumbaNotImplementedError:
        raise UserError(f"Numba CUDA kernels do not know the dtype {value.dtype}") from None
    return types.Array(dtype, value.ndim, "A") if isinstance(value, np.ndarray) else dtype


def _record(value: Any) -> np.ndarray:
    """An argument's bytes as Numba lays them out: of an array, its description."""
    if not isinstance(value, np.ndarray):
        return np.array([value])
    start = value.ctypes.data
    nobody = 0  # whoever counts references to it, and its Python object: not the kernel's business
    fields = nobody, nobody, value.size, value.itemsize, start, *value.shape, *value.strides
    return np.array(fields, np.int64)


def _regions(args: tuple, names: tuple) -> tuple[list, int]:
    """The memory of the arrays, of views of the same memory together, and the smallest itemsize."""
    arrays = [(a, n) for a, n in zip(args, names) if isinstance(a, np.ndarray) and a.size]
    regions = []
    for low, high, members in spans([a for a, _ in arrays]):
        first, name = arrays[members[0]]
        writable = any(arrays[i][0].flags.writeable for i in members)
        regions.append(Region(low, high - low, name.encode(), first.itemsize, writable))
    return regions, min([4, *(a.itemsize for a, _ in arrays)])
