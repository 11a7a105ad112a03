"""Numba CUDA kernels on NumPy arrays: everything they may use; and where CuPy's arrays go."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.runtime import emulator, numba_gpu
from minillm.kernels.runtime.numba_gpu import Kernel, cuda, device, float32, float64, int32, kernel

needs_compiler = pytest.mark.skipif(not emulator.available(), reason="no C++ compiler")
FULL = 0xFFFFFFFF
WIDTH = 4


# ---------------------------------------------------------------- what kernels may use


@kernel
def _places(places):
    x, y, z = cuda.grid(3)
    columns, rows, _ = cuda.gridsize(3)
    i, j = cuda.grid(2)
    at = (z * rows + y) * columns + x
    places[at, 0], places[at, 1], places[at, 2] = i, j, z
    places[at, 3] = cuda.threadIdx.x + 10 * cuda.threadIdx.y + 100 * cuda.threadIdx.z
    places[at, 4] = cuda.blockIdx.x + 10 * cuda.blockIdx.y + 100 * cuda.blockIdx.z
    places[at, 5] = cuda.gridDim.x + 10 * cuda.gridDim.y + 100 * cuda.gridDim.z


@needs_compiler
def test_each_thread_knows_its_place():
    grid, block = (2, 3, 2), (4, 2, 3)
    Z, Y, X = (g * b for g, b in zip(grid[::-1], block[::-1]))
    places = np.full((X * Y * Z, 6), -1, np.int64)
    _places[grid, block](places)
    z, y, x = np.unravel_index(np.arange(X * Y * Z), (Z, Y, X))
    np.testing.assert_array_equal(places[:, :3], np.stack([x, y, z], 1))
    np.testing.assert_array_equal(places[:, 3], x % 4 + 10 * (y % 2) + 100 * (z % 3))
    np.testing.assert_array_equal(places[:, 4], x // 4 + 10 * (y // 2) + 100 * (z // 3))
    assert (places[:, 5] == 2 + 30 + 200).all()


@device
def _reversed(value):
    """What the thread at the other end of the block brings."""
    line = cuda.shared.array(64, float32)
    cuda.syncthreads()
    line[cuda.threadIdx.x] = value
    cuda.syncthreads()
    return line[cuda.blockDim.x - 1 - cuda.threadIdx.x]


@kernel
def _mirror(x, y):
    i, t = cuda.grid(1), cuda.threadIdx.x
    square = cuda.shared.array((64 // WIDTH, WIDTH), int32)
    square[t // WIDTH, t % WIDTH] = t
    there = _reversed(x[i])
    back = _reversed(there)
    y[i, 0], y[i, 1] = there, back
    y[i, 2] = square[(63 - t) // WIDTH, (63 - t) % WIDTH]


@needs_compiler
@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_shared_memory_and_barriers(order):
    x, y = np.arange(192, dtype=np.float32), np.zeros((192, 3), np.float32)
    with emulator.options(order=order, seed=3):
        _mirror[3, 64](x, y)
    np.testing.assert_array_equal(y[:, 0], x.reshape(3, 64)[:, ::-1].ravel())
    np.testing.assert_array_equal(y[:, 1], x)
    np.testing.assert_array_equal(y[:, 2], np.tile(np.arange(64)[::-1], 3))


@kernel
def _warps(x, y, votes):
    i, lane = cuda.grid(1), cuda.laneid
    y[i, 0] = cuda.shfl_sync(FULL, x[i], 5)
    y[i, 1] = cuda.shfl_up_sync(FULL, x[i], 2)
    y[i, 2] = cuda.shfl_down_sync(FULL, x[i], 3)
    y[i, 3] = cuda.shfl_xor_sync(FULL, x[i], 1)
    cuda.syncwarp()
    votes[i] = cuda.ballot_sync(FULL, lane % 3 == 0)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_shuffles_and_ballots(dtype):
    x, lane = np.arange(100, 164).astype(dtype) * -3, np.arange(64) % 32
    first = np.arange(64) - lane
    y, votes = np.zeros((64, 4), dtype), np.zeros(64, np.int64)
    _warps[1, 64](x, y, votes)
    sources = (5, np.where(lane < 2, lane, lane - 2), np.where(lane > 28, lane, lane + 3), lane ^ 1)
    for column, source in enumerate(sources):
        np.testing.assert_array_equal(y[:, column], x[first + source])
    assert (votes == sum(1 << n for n in range(0, 32, 3))).all()


@kernel
def _histogram(ids, counts, before):
    i = cuda.grid(1)
    if i < ids.size:
        before[i] = cuda.atomic.add(counts, (ids[i], 0), 1)


@needs_compiler
def test_atomic_add():
    ids = np.random.default_rng(0).integers(0, 5, 300)
    counts, before = np.zeros((5, 2), np.float32), np.zeros(300, np.float32)
    _histogram[3, 128](ids, counts, before)
    np.testing.assert_array_equal(counts[:, 0], np.bincount(ids, minlength=5))
    for n in range(5):
        assert sorted(before[ids == n]) == list(range(int(counts[n, 0])))


@kernel
def _numbers(x, scale, count, negate, key, y):
    own = cuda.local.array((2, 3), float64)
    for j in range(3):
        own[0, j] = x[j]
        own[1, j] = 2 * own[0, j]
    total = float64(0)
    for k in range(2):
        for j in range(3):
            total += own[k, j]
    y[0] = -total if negate else total
    y[1] = scale * float32(10)
    y[2] = count // 2
    y[3] = math.exp(x[0]) + math.sqrt(x[1]) + math.erf(x[2]) + math.log(x[1])
    y[4] = x[0] / float32(0)
    y[5] = key >> 60
    y[6] = cuda.warpsize


@needs_compiler
def test_numbers_and_local_arrays():
    x, y = np.array([1, 4, 0.5], np.float32), np.zeros(7, np.float32)
    _numbers[1, 1](x, 0.1, 7, True, np.uint64(15 << 60), y)
    fourth = math.exp(1) + 2 + math.erf(0.5) + math.log(4)
    np.testing.assert_allclose(y, [-16.5, 1, 3, fourth, np.inf, 15, 32], rtol=1e-6)


@kernel
def _changes(x, y, log):
    n = cuda.atomic.add(log, 0, 1)
    x[n], y[n] = y[n], x[n]
    x[cuda.atomic.add(log, 0, 1)] += float32(10)  # the index is worked out once
    x[2] = y[2] = 7
    x[3] -= 0.5


@needs_compiler
def test_assignments_to_elements():
    x, y = np.arange(4, dtype=np.float32), np.arange(4, 8, dtype=np.float32)
    log = np.zeros(1, np.int64)
    _changes[1, 1](x, y, log)
    assert (x.tolist(), y.tolist()) == ([4, 11, 7, 2.5], [0, 5, 7, 7])
    assert log[0] == 2


@kernel
def _double(x, y):
    i, j = cuda.grid(2)
    if i < x.shape[0] and j < x.shape[1]:
        y[i, j] = float32(2) * x[i, j]


@needs_compiler
def test_any_layout_with_one_compilation():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(10, 14)).astype(np.float32)
    views = wide[:5, :7], wide[::2, ::2], wide.T[:5, :7], wide[::-2, 13:6:-1]
    for view in (*views, np.broadcast_to(wide[0, :7], (5, 7))):
        y = np.zeros((7, 5), np.float32).T
        _double[(2, 2), (4, 4)](view, y)
        np.testing.assert_array_equal(y, 2 * view)
    assert len(_double._built["fibers"]._compiled) == 1


@kernel
def _increment(x):
    x[()] += float32(1)


@needs_compiler
def test_an_array_of_no_dimensions_and_a_grid_of_no_blocks():
    x = np.float32([1])[0:1].reshape(())
    _increment[0, 32](x)
    assert x == 1
    _increment[1, 1](x)
    assert x == 2


@needs_compiler
def test_compiled_code_is_kept_on_disk():
    x, y = np.ones((3, 3), np.float32), np.zeros((3, 3), np.float32)
    Kernel(_double.function)[1, (4, 4)](x, y)
    again = Kernel(_double.function)
    again[1, (4, 4)](x, y)
    (compiled,) = again._built["fibers"]._compiled.values()
    assert compiled.cache_hits == 1


FACTOR = 2


@device
def _times_factor(x):
    return x * float32(FACTOR)


@kernel
def _scale(x):
    x[cuda.grid(1)] = _times_factor(x[cuda.grid(1)])


@needs_compiler
def test_kept_code_is_not_that_of_another_constant(monkeypatch):
    results = []
    for factor in (2, 3):
        monkeypatch.setitem(globals(), "FACTOR", factor)
        _times_factor._built.clear()
        x = np.ones(2, np.float32)
        Kernel(_scale.function)[1, 2](x)
        results.append(x.tolist())
    assert results == [[2, 2], [3, 3]]


# ---------------------------------------------------------------- the other ways to run


class _FakeNumba:
    """As much of numba.cuda as a launch touches; it writes down what it is told."""

    def __init__(self):
        self.said = []

    def jit(self, function, device):
        assert function.__globals__["cuda"] is self
        return self

    def __getitem__(self, launch):
        return lambda *args: self.said.append((launch, args))

    def external_stream(self, pointer):
        return f"stream {pointer}"


@pytest.mark.parametrize(("pointer", "stream"), [(0, 0), (77, "stream 77")])
def test_cupy_arrays_go_to_numba_cuda_on_cupys_stream(monkeypatch, pointer, stream):
    class Array:
        dtype, ndim = np.dtype("float32"), 1

    current = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=pointer))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=Array, cuda=current))
    fake, x = _FakeNumba(), Array()
    monkeypatch.setattr(numba_gpu, "_numba_cuda", lambda: fake)
    monkeypatch.setattr(numba_gpu.importlib.util, "find_spec", lambda name: name)
    Kernel(_numbers.function)[5, 32](x, 0.5, 3, False, 1, x)
    ((launch, args),) = fake.said
    assert launch == ((5, 1, 1), (32, 1, 1), stream)
    assert args == (x, np.float32(0.5), 3, False, 1, x)
    assert type(args[1]) is np.float32
    with pytest.raises(UserError, match="some arrays are NumPy's and some CuPy's"):
        _double[1, 1](x, np.zeros(1, np.float32))
