"""A learner's CUDA C++ through `launch` and `place`: what is wrong with it is said in words that
help, on the emulator, and (on the stand-in for CuPy) on a GPU."""

import numpy as np
import pytest

from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.cuda import blocks
from minillm.learn import Mistake, gpu, roofline
from tests import fake_cupy
from tests.fake_cupy import array

pytestmark = pytest.mark.skipif(not emulator.available(), reason="no g++")
ADD = """
constexpr int THREADS = 64;
__global__ void add(float* y, const float* a, const float* b, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a[i] + b[i];
}
"""
SUM = """
constexpr int THREADS = 64;
__global__ void sum(float* y, const float* x) {
    __shared__ float s[THREADS];
    s[threadIdx.x] = x[threadIdx.x];
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) s[threadIdx.x] += s[threadIdx.x + half];
    }
    if (threadIdx.x == 0) *y = s[0];
}
"""
BARRIER_ONCE = SUM.replace("    for", "    __syncthreads();\n    for").replace(
    "        __syncthreads();\n", ""
)
ATOMIC = """
__global__ void sum(float* y, const float* x) { atomicAdd(y, x[threadIdx.x]); }
"""


@pytest.fixture
def source(tmp_path):
    """Writes a .cu file and returns its path."""

    def write(text):
        (tmp_path / "work.cu").write_text(text)
        return tmp_path / "work.cu"

    return write


def add(file, n=100):
    a, b = np.arange(n, dtype=np.float32), np.ones(n, np.float32)
    y = np.zeros(n, np.float32)
    return y, gpu.launch(file, "add", blocks(n, 64), y, a, b, n)


def test_changes_arrays_and_counts_what_moved(source):
    y, moved = add(source(ADD))
    assert np.array_equal(y, np.arange(1, 101))
    assert moved["global load"].bytes == 800 and moved["global load"].units == 26
    assert moved["global store"].units == moved["global store"].best == 13


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            ADD.replace("if (i < n) ", ""),
            "out of bounds: global read of 4 bytes at a[100], which has 100 elements",
        ),
        (ADD.replace("b[i];", "c[i];"), "work.cu:5:30: error: ‘c’ was not declared"),
        (ADD.replace("add(", "plus("), "has no kernel 'add': plus"),
        (ADD.replace("float* y", "const float* y"), "read-only"),
    ],
    ids=["no guard", "does not compile", "another name", "constant output"],
)
def test_mistake_in_an_elementwise_kernel(source, text, says):
    with pytest.raises(Mistake) as mistake:
        add(source(text))
    assert says in str(mistake.value), str(mistake.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SUM.replace("__syncthreads();", ""), "read of shared s at byte 128, which no thread"),
        (BARRIER_ONCE, "race on shared s at byte 4"),
        (
            SUM.replace("if (threadIdx.x < half)", "if (threadIdx.x >= half) return; else"),
            "divergent barrier: one thread waits at __syncthreads",
        ),
    ],
    ids=["no barrier", "one barrier", "divergent barrier"],
)
def test_mistake_in_a_kernel_of_many_threads(source, text, says):
    x, y = np.ones(64, np.float32), np.zeros(1, np.float32)
    gpu.launch(source(SUM), "sum", 1, y, x)
    assert y == 64
    with pytest.raises(Mistake) as mistake:
        gpu.launch(source(text), "sum", 1, y, x)
    assert says in str(mistake.value)


def test_result_must_not_depend_on_the_order_of_threads(source):
    x = np.array([1e8] + [1] * 31, np.float32)  # a 1 is lost beside 1e8, the sum of them is not
    with pytest.raises(Mistake, match="sum: the result depends on the order"):
        gpu.launch(source(ATOMIC), "sum", 1, np.zeros(1, np.float32), x, block=32)


def test_without_a_gpu_there_is_nothing_to_place(source, monkeypatch):
    monkeypatch.setattr(roofline, "gpu", lambda: None)
    assert roofline.place(source("no kernel"), "add", 1) == ""


def test_gpu_must_come_to_the_same_result(source, monkeypatch):
    with fake_cupy.installed():
        assert gpu.gpu() is not None
        add(source(ADD))
        monkeypatch.setattr(array.ndarray, "get", lambda self: self._memory + 1)
        with pytest.raises(Mistake, match=r"add: array 1, on the GPU,\[0\] is 2, expected 1"):
            add(source(ADD))


def test_gpu_in_another_word_is_a_mistake(source, monkeypatch):
    def refuse(self):
        raise RuntimeError("an illegal memory access was encountered")

    with fake_cupy.installed():
        monkeypatch.setattr(array.ndarray, "get", refuse)
        with pytest.raises(Mistake, match="illegal memory access"):
            add(source(ADD))


def test_place_on_the_roofline(source, monkeypatch):
    """Every call takes a millisecond, by the stand-in's clock."""
    monkeypatch.setattr(roofline, "COPIED", 1 << 12)
    monkeypatch.setattr(roofline, "PRODUCT", 8)
    roofline.limits.cache_clear()
    n = 1000
    y, a, b = (np.zeros(n, np.float32) for _ in range(3))
    with fake_cupy.installed():
        import cupy

        cupy.cuda.get_elapsed_time = lambda start, stop: roofline.CALLS * 1.0
        said = roofline.place(source(ADD), "add", blocks(n, 64), y, a, b, n, flops=n)
        assert roofline.limits() == pytest.approx((8_192_000, 1_024_000))
    roofline.limits.cache_clear()
    assert said == (
        "Stand-in GPU: 0 GB/s, 0 GFLOP/s; 0.0833 FLOP a byte, left of the ridge at 0.125:"
        " 146% of its copy rate"
    )


def test_line_says_which_side_of_the_ridge():
    limits = roofline.Limits(copy=4e12, product=48e12)
    assert roofline.describe(limits, "GPU", 2e12, 2e12) == (
        "GPU: 2,000 GB/s, 2,000 GFLOP/s; 1 FLOP a byte, left of the ridge at 12:"
        " 50% of its copy rate"
    )
    assert roofline.describe(limits, "GPU", 1e12, 24e12).endswith(
        "24 FLOP a byte, right of the ridge at 12: 50% of its product rate"
    )
