"""Softmax where rows are not plain numbers, and rows of every length and alignment."""

import ml_dtypes
import numpy as np
import pytest

from minillm.kernels.instrument import compare
from minillm.kernels.runtime import emulator
from minillm.kernels.softmax import cuda, softmax_backward, softmax_forward

INF = np.inf


def run(kernel, implementation, *args):
    if kernel.for_gpu(implementation) and not emulator.available():
        pytest.skip("emulating GPU kernels needs g++")
    return kernel.implementation(implementation)(*args)


@pytest.mark.parametrize("implementation", softmax_forward.implementations())
def test_masked_and_infinite_entries(implementation):
    x = np.array([[0, -INF, 0], [-INF, 5, -INF], [-INF] * 3, [1e30, 0, -1e30], [INF, 0, 0]], "f4")
    with np.errstate(invalid="ignore"):
        y = run(softmax_forward, implementation, x)
    np.testing.assert_array_equal(y[:2], [[0.5, 0, 0.5], [0, 1, 0]])
    assert np.isnan(y[2]).all()
    np.testing.assert_array_equal(y[3], [1, 0, 0])
    assert np.isnan(y[4]).any()


@pytest.mark.parametrize("implementation", softmax_forward.implementations())
def test_same_as_pytorch_on_masked_rows(implementation):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(9, 33)).astype(np.float32)
    x[x > 0.5] = -INF
    x[4] = -INF
    with np.errstate(invalid="ignore"):
        y = run(softmax_forward, implementation, x)
    want = torch.softmax(torch.from_numpy(x), -1).numpy()
    np.testing.assert_allclose(y, want, rtol=2e-6)  # a few units in the last place


@pytest.mark.parametrize("implementation", softmax_forward.implementations())
def test_a_nan_spoils_its_row_alone(implementation):
    x = np.zeros((3, 300), np.float32)
    x[1] = -INF
    x[1, 40] = np.nan
    with np.errstate(invalid="ignore"):
        y = run(softmax_forward, implementation, x)
    np.testing.assert_allclose(y[::2], 1 / 300, rtol=1e-6)
    assert np.isnan(y[1]).all()


def at_offset(array, offset):
    """A copy that begins `offset` elements after where its memory begins."""
    memory = np.empty(array.size + offset, array.dtype)
    memory[offset:] = array.ravel()
    return memory[offset:].reshape(array.shape)


def against_reference(step, C, dtype, offsets=(0, 0)):
    for kernel in (softmax_forward, softmax_backward):
        args = kernel.drawn(dtype, N=3, C=C)
        want = run(kernel, "reference", *(a.astype(np.float64) for a in args))
        got = run(kernel, step, *map(at_offset, args, offsets))
        compare(kernel, step, [got], [want])


@pytest.mark.parametrize("offsets", [(1, 1), (0, 1), (3, 0)])
@pytest.mark.parametrize("C", [7, 8, 256, 513])
@pytest.mark.parametrize("dtype", ["float32", "float64", ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("step", softmax_forward.cuda_steps())
def test_rows_at_any_address(step, dtype, C, offsets):
    """In backward also rows of dy and y that lie unlike each other."""
    against_reference(step, C, dtype, offsets)


@pytest.mark.parametrize("dtype, C", [(ml_dtypes.bfloat16, 131072), ("float32", 60001)], ids=str)
def test_row_that_does_not_fit_on_the_chip(dtype, C):
    against_reference(softmax_forward.cuda_steps()[-1], C, dtype)


def test_gpu_with_less_shared_memory(monkeypatch):
    """99 KB a block, as GPUs for desks have: a thread's places are as few as they may be."""
    monkeypatch.setattr(cuda, "_HOPPER", 99 << 10)
    against_reference(softmax_forward.cuda_steps()[-1], 33000, "float32")


@pytest.mark.parametrize("kernel", [softmax_forward, softmax_backward], ids=lambda k: k.name)
def test_newest_step_reads_once(kernel):
    """Sectors of global memory, read and written, for rows of an even size."""
    args = kernel.drawn("float32", N=4, C=4096)
    with emulator.profiled() as log:
        run(kernel, kernel.cuda_steps()[-1], *args)
    lines = [line for line in log[0][-1] if line.space == 0]
    moved = [sum(line.units for line in lines if line.kind == kind) for kind in (0, 1)]
    assert moved == [len(args) * args[0].nbytes // 32, args[0].nbytes // 32]
    assert {line.size for line in lines} == {16}
