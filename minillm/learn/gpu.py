"""A learner's CUDA C++ kernel, launched: on the emulator always, and on the GPU where there is one.

    moved = launch(work.folder / "sum.cu", "block_sums", grid, sums, x, n, block=256)
    moved["global load"].units      sectors of 32 bytes: what it would move on a GPU

The emulator runs the kernel three times, with the threads of a block in three orders: a race, a
stray access or a forgotten barrier is a Mistake that names threads and line, and results that
depend on the order are one too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minillm.errors import UserError
from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.cuda import Program
from minillm.kernels.runtime.emulator import report
from minillm.learn.compare import Mistake

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
        Mistake: it does not compile, or the emulator found something wrong, or its order matters.
    """
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    before, results, moved = [a.copy() for a in arrays], [], {}
    with mistakes():
        program = Program(file)  # not the cached one: the learner edits the file
        for order, seed in _ORDERS:
            for array, original in zip(arrays, before):
                array[...] = original
            with emulator.options(order, seed), emulator.profiled() as log:
                program.launch(kernel, dtype, grid, *args, block=block, shared=shared)
            results.append([a.copy() for a in arrays])
            moved = {row.what: row for of in report.rows(log).values() for row in report.totals(of)}
    for other in results[1:]:
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(results[0], other)):
            raise Mistake(f"{kernel}: the result depends on the order in which the threads run")
    return moved


@contextmanager
def mistakes() -> Iterator[None]:
    """What the compiler and the emulator object to, as a Mistake."""
    try:
        yield
    except (emulator.KernelFault, UserError) as error:
        raise Mistake(str(error)) from None
