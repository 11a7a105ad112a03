"""Launches a kernel on the emulator: arrays go into memory of its own, and come back.

Each array is copied between zones that belong to no one, as far from 256-byte alignment as it is
from the start of the memory it views (GPU allocations start so aligned): a step over its end never
lands in a neighbour. Arrays that share memory share it here too.
"""

import ctypes
import functools
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.kernels.runtime.emulator import build

_ORDERS = ("forward", "reverse", "random")
_ZONE = 64 << 10  # of no one's memory between arrays, bytes
TOO_FINE = "granule"  # what the runtime says of an access smaller than its shadow memory watches
_granules: dict[tuple[Path, int], int] = {}  # of the kernels that have such accesses
lock = threading.Lock()  # held for a launch: the runtime runs one at a time
os.register_at_fork(after_in_child=lock._at_fork_reinit)  # another thread's launch stays behind


class KernelFault(RuntimeError):
    """What the emulator found wrong with a kernel: kind, block, thread, source line."""


class Region(ctypes.Structure):
    """One array of a kernel (struct emu_region)."""

    _fields_ = [
        ("begin", ctypes.c_void_p), ("bytes", ctypes.c_long), ("name", ctypes.c_char_p),
        ("itemsize", ctypes.c_long), ("writable", ctypes.c_long),
    ]  # fmt: skip


class _Options(ctypes.Structure):
    _fields_ = [
        ("order", ctypes.c_int), ("seed", ctypes.c_uint), ("granule", ctypes.c_int),
        ("profile", ctypes.c_int), ("regions", ctypes.c_long), ("region", ctypes.POINTER(Region)),
    ]  # fmt: skip


class Line(ctypes.Structure):
    """Counts of one load or store instruction (struct emu_line)."""

    _fields_ = [
        ("pc", ctypes.c_void_p), ("space", ctypes.c_int), ("kind", ctypes.c_int),
        ("size", ctypes.c_int), ("threads", ctypes.c_long), ("requests", ctypes.c_long),
        ("units", ctypes.c_long), ("ideal", ctypes.c_long),
    ]  # fmt: skip


class Launched(NamedTuple):
    """The counts of one launch: the kernel, its library, where that was loaded, its accesses."""

    kernel: str
    file: Path
    base: int
    lines: list[Line]


class _Settings(threading.local):
    order, seed = "forward", 0
    profile: list[Launched] | None = None


_settings = _Settings()


@contextmanager
def options(order: str = "forward", seed: int = 0) -> Iterator[None]:
    """In which order the emulator runs a block's threads: forward, reverse or random (`seed`).

    A correct kernel gives the same result in each.
    """
    if order not in _ORDERS:
        raise ValueError(f"order {order!r}: choose one of {', '.join(_ORDERS)}")
    before = _settings.order, _settings.seed
    _settings.order, _settings.seed = order, seed
    try:
        yield
    finally:
        _settings.order, _settings.seed = before


@contextmanager
def profiled() -> Iterator[list[Launched]]:
    """Count the accesses of the launches inside, one entry each; report.table() prints them."""
    before, _settings.profile = _settings.profile, []
    try:
        yield _settings.profile
    finally:
        _settings.profile = before


def available() -> bool:
    """Whether there is a C++ compiler to build the emulator with."""
    try:
        return bool(build.compiler())
    except build.UserError:
        return False


@functools.cache
def runtime() -> ctypes.CDLL:
    """The runtime library (runtime.h), built if need be.

    Raises:
        UserError: there is no g++.
    """
    library = ctypes.CDLL(str(build.runtime_library()))
    library.emu_error.restype = ctypes.c_char_p
    library.emu_profile.restype = ctypes.c_long
    library.emu_profile.argtypes = [ctypes.POINTER(Line), ctypes.c_long]
    three = ctypes.POINTER(ctypes.c_uint)
    library.emu_launch.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, three, three, ctypes.c_long, ctypes.POINTER(_Options),
    ]  # fmt: skip
    return library


@functools.cache
def _library(path: Path, expressions: tuple[str, ...], changed: int) -> tuple[ctypes.CDLL, Path]:
    runtime()  # which the library asks for by name
    file = build.kernel_library(path, expressions)
    return ctypes.CDLL(str(file)), file


def run(entry: int, args: int, grid, block, shared: int, regions, granule: int) -> str:
    """Run an emu_entry at an address; "" or what went wrong, with {pc:...} for source lines."""
    count = len(regions)
    how = _Options(
        _ORDERS.index(_settings.order), _settings.seed, granule, _settings.profile is not None,
        count, (Region * max(count, 1))(*regions),
    )  # fmt: skip
    size = ctypes.c_uint * 3
    failed = runtime().emu_launch(entry, args, size(*grid), size(*block), shared, how)
    return runtime().emu_error().decode() if failed else ""


def launch(path, expressions, kernel, grid, block, arguments, arrays, shared=0) -> None:
    """Run kernel number `kernel` of a .cu file on NumPy arrays.

    Args:
        path: the file. expressions: its kernels to compile together, "layer_norm_forward<float>".
        grid, block: three sizes each.
        arguments: the packed arguments (cuda.Arguments), whose pointers are set here.
        arrays: (position among the arguments, name, array, whether the kernel may write) of each.
        shared: bytes of dynamic shared memory.

    Raises:
        KernelFault: the kernel did something that a GPU forbids or leaves undefined.
    """
    library, file = _library(path, expressions, path.stat().st_mtime_ns)
    entry = ctypes.cast(getattr(library, f"emu_entry_{kernel}"), ctypes.c_void_p).value
    granule, error = _granules.get((file, kernel), 4), TOO_FINE
    with lock:
        while error == TOO_FINE:
            memory = _Memory(arrays)
            for (position, *_), address in zip(arrays, memory.addresses):
                arguments.set_pointer(position, address)
            error = run(entry, arguments.address, grid, block, shared, memory.regions, granule)
            if error == TOO_FINE:
                granule = _granules[file, kernel] = granule // 2
        if not error:
            memory.copy_back()
            if _settings.profile is not None:
                _settings.profile.append(
                    Launched(expressions[kernel], file, _base_address(library), _lines())
                )
    if error:
        where = f"{path.parent.name}/{path.name}: {expressions[kernel]}"
        raise KernelFault(f"{where}: {_located(error, library, file)}")


def _lines() -> list[Line]:
    buffer = (Line * 4096)()
    return list(buffer[: min(4096, runtime().emu_profile(buffer, 4096))])


def _base_address(library: ctypes.CDLL) -> int:
    """Where a kernel library was loaded."""
    entry = ctypes.cast(library.emu_entry_0, ctypes.c_void_p).value
    info = (ctypes.c_void_p * 4)()
    ctypes.CDLL(None).dladdr(ctypes.c_void_p(entry), ctypes.byref(info))
    return info[1]


def _located(error: str, library: ctypes.CDLL, file: Path) -> str:
    """The message with source lines in the place of addresses."""
    base = _base_address(library)
    found = re.findall(r"\{pc:(0x[0-9a-f]+)\}", error)
    lines = build.source_lines(file, [int(pc, 16) - base for pc in found])
    for pc, line in zip(found, lines):
        error = error.replace(f"{{pc:{pc}}}", line)
    return error


def _extent(a: np.ndarray) -> tuple[int, int]:
    low, high = np.lib.array_utils.byte_bounds(a) if a.size else (a.ctypes.data, a.ctypes.data)
    return low, high


def spans(arrays: Sequence[np.ndarray]) -> list[tuple[int, int, list[int]]]:
    """The memory of `arrays`, what overlaps together: (begin, end, which of them are there)."""
    found: list[tuple[int, int, list[int]]] = []
    for low, high, i in sorted((*_extent(array), i) for i, array in enumerate(arrays)):
        if found and low < found[-1][1]:
            begin, end, members = found[-1]
            found[-1] = begin, max(end, high), [*members, i]
        else:
            found.append((low, high, [i]))
    return found


def _owner(a: np.ndarray) -> int:
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a.ctypes.data


class _Memory:
    """Copies of the arrays' bytes in one block, with zones between, and where each begins."""

    def __init__(self, arrays):
        places = spans([array for _, _, array, _ in arrays])
        self._spans, self.addresses, self.regions = [], [0] * len(arrays), []
        total = sum(high - low + _ZONE + 512 for low, high, _ in places) + _ZONE
        self._block = _pool(total)
        at = (self._block.ctypes.data + _ZONE + 255) & ~255
        for low, high, members in places:
            owner = min(_owner(arrays[i][2]) for i in members)
            begin = at + (low - owner) % 256
            ctypes.memmove(begin, low, high - low)
            writable = any(arrays[i][3] for i in members)
            self._spans.append((begin, low, high - low, writable))
            for i in members:
                start = arrays[i][2].ctypes.data
                self.addresses[i] = begin + start - low
            _, name, array, _ = arrays[members[0]]
            self.regions.append(Region(begin, high - low, name.encode(), array.itemsize, writable))
            at = (begin + high - low + _ZONE + 255) & ~255

    def copy_back(self) -> None:
        for begin, low, size, writable in self._spans:
            if writable:
                ctypes.memmove(low, begin, size)


_pools: dict[str, np.ndarray] = {}


def _pool(size: int) -> np.ndarray:
    """At least `size` bytes, the same again while they suffice: fresh pages cost more than work."""
    if "block" not in _pools or _pools["block"].size < size:
        _pools["block"] = np.empty(size * 3 // 2, np.uint8)
    return _pools["block"]
