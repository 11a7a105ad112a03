"""Kernels with planted bugs, for the tests of the emulator: write one, run it, read the report."""

import numpy as np
import pytest

from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.cuda import Program

needs_compiler = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")
ORDERS = ("forward", "reverse", "random")


def program(folder, body, parameters="float* y, const float* x, int n", before=""):
    """A Program of one kernel `k`; its body starts on line 5."""
    path = folder / "planted.cu"
    path.write_text(
        f'#include "reduce.cuh"\nconstexpr int THREADS = 64;\n{before}\n'
        f"__global__ void k({parameters}) {{\n{body}\n}}\n"
    )
    return Program(path)


def run(planted, n=256, grid=4, order="forward", **how):
    """Launch on `n` elements; what it wrote."""
    x, y = np.arange(n, dtype=np.float32), np.full(n, np.nan, np.float32)
    with emulator.options(order):
        planted.launch("k", x.dtype, grid, y, x, n, **how)
    return y


def fault(planted, order="forward", **how):
    """The report of a launch that must fail."""
    with pytest.raises(emulator.KernelFault) as error:
        run(planted, order=order, **how)
    return str(error.value)
