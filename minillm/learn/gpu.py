"""A learner's CUDA C++ kernel, launched: on the emulator always, and on the GPU where there is one.

    moved = launch(work.folder / "sum.cu", "block_sums", grid, sums, x, n, block=256)
    moved["global load"].units      sectors of 32 bytes: what it would move on a GPU

The emulator runs the kernel three times, with the threads of a block in three orders: a race, a
stray access or a forgotten barrier is a Mistake that names threads and line, and results that
depend on the order are one too. A GPU must then come to the same result; roofline.py says how fast.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minillm.device import module
from minillm.errors import UserError
from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.cuda import Program
from minillm.kernels.runtime.emulator import report
from minillm.kernels.tolerances import tolerance
from minillm.learn.compare import Mistake, same

_ORDERS = (("forward", 0), ("reverse", 0), ("random", 1))


def launch(
    file: Path,
    kernel: str,
    grid: int | tuple[int, ...],
    *args: Any,
    block: int | tuple[int, ...] = 0,
    shared: int = 0,
    dtype: str = "float32",
) -> dict[str, report.Row]:
    """Launch `kernel` of a .cu file on NumPy arrays, which it changes; what it moved, by kind.

    Args:
        grid, block: up to three sizes each; block 0 is the file's THREADS.
        args: arrays and numbers, as the kernel's parameters.
        shared: bytes of dynamic shared memory.
        dtype: element type T, where the kernel is a template.

    Returns:
        {"global load": Row(requests, bytes, units, best), "shared store": ...}; units are sectors
        of global, wavefronts of shared memory.

    Raises:
        Mistake: it does not compile, or the emulator found something wrong, or its order matters,
            or a GPU comes to another result.
    """
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    before, results = [a.copy() for a in arrays], []
    with mistakes():
        program = Program(file)  # not the cached one: the learner edits the file
        for order, seed in _ORDERS:
            for array, original in zip(arrays, before):
                array[...] = original
            with emulator.options(order, seed), emulator.profiled() as log:
                program.launch(kernel, dtype, grid, *args, block=block, shared=shared)
            results.append([a.copy() for a in arrays])
    for other in results[1:]:
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(results[0], other)):
            raise Mistake(f"{kernel}: the result depends on the order in which the threads run")
    if gpu() is not None:
        copies = on_gpu([before.pop(0) if isinstance(a, np.ndarray) else a for a in args])
        with mistakes():
            program.launch(kernel, dtype, grid, *copies, block=block, shared=shared)
            found = [copy.get() for copy in copies if hasattr(copy, "get")]
        for i, (got, wanted) in enumerate(zip(found, results[0])):
            _same(f"{kernel}: array {i + 1}, on the GPU,", got, wanted)
    return {row.what: row for of in report.rows(log).values() for row in report.totals(of)}


def gpu() -> ModuleType | None:
    """CuPy, where it finds a GPU."""
    if "cupy" not in sys.modules and not _driver():  # importing it takes half a second
        return None
    try:
        return module("cuda")
    except UserError:
        return None


def on_gpu(args: list[Any]) -> list[Any]:
    """A kernel's arguments with copies of the arrays on the GPU; one that occurs twice, once."""
    made: dict[int, Any] = {}
    for a in args:
        if isinstance(a, np.ndarray) and id(a) not in made:
            made[id(a)] = module("cuda").asarray(a)
    return [made.get(id(a), a) for a in args]


@contextmanager
def mistakes() -> Iterator[None]:
    """What the compiler, the emulator and CUDA object to, as a Mistake."""
    try:
        yield
    except (RuntimeError, UserError) as error:  # an emulator.KernelFault is a RuntimeError
        raise Mistake(str(error)) from None


def _same(what: str, got: np.ndarray, wanted: np.ndarray) -> None:
    """A GPU fuses multiplications with additions, so that floats may differ in their last bits."""
    if got.dtype.kind in "iub":
        return same(what, got, wanted)
    near = tolerance("", str(got.dtype))
    finite = np.abs(wanted[np.isfinite(wanted)], dtype=np.float64)
    return same(what, got, wanted, near.rtol, near.atol * finite.max(initial=0))


def _driver() -> bool:
    try:
        return bool(ctypes.CDLL("libcuda.so.1"))
    except OSError:
        return False
