"""Numba CUDA kernels that are wrong: refused before they run, or reported with their lines."""

import ml_dtypes
import numpy as np
import pytest
from numba.core.errors import TypingError

from minillm.errors import UserError
from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.emulator import KernelFault
from minillm.kernels.runtime.numba_gpu import cuda, device, float32, kernel

needs_compiler = pytest.mark.skipif(not emulator.available(), reason="no C++ compiler")
X = np.zeros(8, np.float32)


# ---------------------------------------------------------------- what is refused


@device
def _reversed(value):
    line = cuda.shared.array(64, float32)
    line[cuda.threadIdx.x] = value
    cuda.syncthreads()
    return line[cuda.blockDim.x - 1 - cuda.threadIdx.x]


@device
def _sum_of_reversed(value):
    return value + _reversed(value)


@kernel
def _two_paths(x):
    x[cuda.grid(1)] = _reversed(x[cuda.grid(1)]) + _sum_of_reversed(float32(1))


@kernel
def _add_one(x):
    x[()] += float32(1)


@kernel
def _unknown(x):
    x[0] = cuda.clock()


@kernel
def _slices(x):
    x[1:] = 0


@kernel
def _variable_shape(x):
    n = x.size
    y = cuda.shared.array(n, float32)
    y[0] = x[0]


@kernel
def _much_of_its_own(x):
    y = cuda.local.array((100, 100), float32)
    y[0, 0] = x[0]


REFUSED = {
    "takes 2 arguments (x, y), got 1": lambda: _copy[1, 1](X),
    "a block of (1025, 1, 1) threads; CUDA takes 1 to 1024": lambda: _add_one[1, 1025](X),
    "a block of (0, 1, 1) threads": lambda: _add_one[1, 0](X),
    "a grid of (1, 65536, 1)": lambda: _add_one[(1, 65536), 1](X),
    "has 4 dimensions; CUDA has 3": lambda: _add_one[(1, 1, 1, 1), 1](X),
    "arrays and numbers, not str": lambda: _add_one[1, 1]("x"),
    "do not know the dtype bfloat16": lambda: _add_one[1, 1](X.astype(ml_dtypes.bfloat16)),
    "_reversed has shared memory and is called from": lambda: _two_paths[1, 8](X),
    "cuda.clock() is not known": lambda: _unknown[1, 1](X),
    "x[1:]: kernels take elements, not slices": lambda: _slices[1, 1](X),
    "n must be a constant": lambda: _variable_shape[1, 1](X),
    "more than 16384 bytes of a thread's own": lambda: _much_of_its_own[1, 1](X),
}


@kernel
def _row(x, y):
    y[0] = x[0][1]


@needs_compiler
def test_a_row_of_an_array_is_refused_with_its_line():
    with pytest.raises(TypingError) as caught:
        _row[1, 1](np.zeros((2, 2), np.float32), X)
    assert "index this array by 2 integers, one a dimension" in str(caught.value)
    assert "y[0] = x[0][1]" in str(caught.value)


@needs_compiler
def test_a_kernel_without_a_file_is_refused():
    names = {"cuda": cuda}
    exec("def lost(x):\n    x[cuda.grid(1)] = 1", names)
    with pytest.raises(UserError, match="lost: write kernels in a file"):
        kernel(names["lost"])[1, 1](X)


@needs_compiler
@pytest.mark.parametrize("message", list(REFUSED))
def test_refused(message):
    with pytest.raises(UserError) as caught:
        REFUSED[message]()
    assert message in str(caught.value)


def test_cuda_means_nothing_outside_a_kernel():
    with pytest.raises(AttributeError, match="inside a @kernel"):
        cuda.grid(1)


# ---------------------------------------------------------------- what goes wrong while it runs


@kernel
def _copy(x, y):
    y[cuda.grid(1)] = x[cuda.grid(1)]


@kernel
def _before_the_first(x):
    x[cuda.threadIdx.x - 1, 2] = float32(1)


@device
def _far(x):
    return x[cuda.threadIdx.x + 5]


@kernel
def _calls_far(x):
    x[cuda.threadIdx.x] = _far(x)


@kernel
def _race(x):
    x[0] = cuda.threadIdx.x


@kernel
def _no_barrier(x):
    line = cuda.shared.array(8, float32)
    line[cuda.threadIdx.x] = x[cuda.threadIdx.x]
    if cuda.threadIdx.x > 3:
        x[cuda.threadIdx.x] = line[7 - cuda.threadIdx.x]


@kernel
def _unwritten(x):
    line = cuda.shared.array(8, float32)
    x[cuda.threadIdx.x] = line[cuda.threadIdx.x]


@kernel
def _divergent(x):
    if cuda.threadIdx.x == 3:
        return
    cuda.syncthreads()
    x[0] = 1


@kernel
def _divergent_warp(x):
    v = x[cuda.threadIdx.x]
    if cuda.threadIdx.x < 4:
        v = cuda.shfl_xor_sync(0xFFFFFFFF, v, 1)
    x[cuda.threadIdx.x] = v


FAULTS = {
    "index 8 of dimension 0, which has 8 elements": lambda: _copy[1, 9](np.zeros(9), X),
    "index -1 of dimension 0": lambda: _before_the_first[1, 2](np.zeros((4, 3))),
    "x[cuda.threadIdx.x + 5]": lambda: _calls_far[1, 4](X),
    "write-write race on global x[0]": lambda: _race[1, 2](X),
    "race on shared line": lambda: _no_barrier[1, 8](X),
    "read of shared line at byte 0, which no thread": lambda: _unwritten[1, 8](X),
    "divergent barrier": lambda: _divergent[1, 8](X),
    "__syncthreads": lambda: _divergent[1, 8](X),
    "warp operation": lambda: _divergent_warp[1, 8](X),
}


@needs_compiler
@pytest.mark.parametrize("message", list(FAULTS))
def test_faults_are_reported_with_their_lines(message):
    with pytest.raises(KernelFault) as caught:
        FAULTS[message]()
    assert message in str(caught.value)
    assert "tests/kernels/runtime/test_numba_fibers.py:" in str(caught.value)
