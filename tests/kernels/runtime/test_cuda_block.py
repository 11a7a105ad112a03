"""A block of more threads than a kernel's __launch_bounds__: a GPU refuses it, no emulator would.

So Program does, before either."""

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.cuda import Program

SOURCE = """
constexpr int WARPS = 4, THREADS = 32 * WARPS;
template <typename T>
__global__ void __launch_bounds__(THREADS, sizeof(T) == 8 ? 2 : 3)
bounded(T* y) { y[threadIdx.y * blockDim.x + threadIdx.x] = T{}; }
template <typename T>
__global__ void unbounded(T* y) { y[threadIdx.x] = T{}; }
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "v1_block.cu"
    path.write_text(SOURCE)
    return Program(path)


def test_the_most_threads_are_read_from_the_source(program):
    assert program.kernels["bounded"].most_threads == 128
    assert program.kernels["unbounded"].most_threads == 1024


def test_more_are_refused(program):
    y = np.ones(1025, np.float32)
    for kernel, block in (("bounded", (32, 5)), ("bounded", 129), ("unbounded", 1025)):
        with pytest.raises(UserError, match=f"{kernel}: .* beyond .* in all"):
            program.launch(kernel, y.dtype, 1, y, block=block)


@pytest.mark.skipif(not emulator.available(), reason="no g++ to build the emulator with")
def test_as_many_run(program):
    y = np.ones(129, np.float32)
    program.launch("bounded", y.dtype, 1, y, block=(32, 4))
    assert not y[:128].any() and y[128] == 1


def test_bounds_that_cannot_be_read(tmp_path):
    path = tmp_path / "v1_block.cu"
    path.write_text(SOURCE.replace("(THREADS,", "(most(32),"))
    with pytest.raises(UserError, match=r"cannot read the number `most\(32\)` of bounded"):
        Program(path)
