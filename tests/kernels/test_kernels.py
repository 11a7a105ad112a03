"""Every implementation of every declared kernel, against the reference in float64.

A new kernel, or a new file beside one, is tested here without another line. The oracle is the
reference run on float64 copies of the same rounded inputs, so what is measured is the error of the
implementation and not that of its inputs.
"""

import ml_dtypes  # noqa: F401  (registers bfloat16)
import numpy as np
import pytest

from minillm import env
from minillm.kernels.instrument import compare, outputs
from minillm.kernels.registry import declared
from minillm.kernels.runtime import emulator

KERNELS = declared()


def drawn(kernel, shape, dtype):
    return kernel.drawn(dtype, **shape)


def run(kernel, implementation, args):
    """Everything a call produced, in the caller's copies of `args`."""
    if kernel.for_gpu(implementation) and not emulator.available():
        pytest.skip("emulating GPU kernels needs g++")
    return outputs(kernel, kernel.implementation(implementation)(*args), args)


def widened(args, dtype):
    """Copies of `args` with arrays of `dtype` in float64."""
    return tuple(
        a.astype(np.float64 if a.dtype == dtype else a.dtype) if isinstance(a, np.ndarray) else a
        for a in args
    )


def _cases():
    for kernel in KERNELS.values():
        for implementation in kernel.implementations():
            for dtype in ("float32", "float64", "bfloat16"):
                if not kernel.supports(implementation, dtype):
                    continue
                if (implementation, dtype) == ("reference", "float64"):  # the oracle itself
                    continue
                for i, shape in enumerate(kernel.shapes):
                    name = f"{kernel.name}-{implementation}-{dtype}-{i}"
                    yield pytest.param(kernel, implementation, dtype, shape, id=name)


@pytest.mark.parametrize(("kernel", "implementation", "dtype", "shape"), list(_cases()))
def test_agrees_with_the_float64_reference(kernel, implementation, dtype, shape):
    args = drawn(kernel, shape, dtype)
    want = run(kernel, "reference", widened(args, np.dtype(dtype)))
    dtypes = [a.dtype for a in run(kernel, "reference", drawn(kernel, shape, dtype))]
    got = run(kernel, implementation, args)
    compare(kernel, implementation, got, want)
    assert [a.dtype for a in got] == dtypes


def _emulated():
    for kernel in KERNELS.values():
        for implementation in filter(kernel.for_gpu, kernel.implementations()):
            for dtype in ("float32", "float64", "bfloat16"):
                if kernel.supports(implementation, dtype):
                    for i, shape in enumerate(kernel.shapes):
                        name = f"{kernel.name}-{implementation}-{dtype}-{i}"
                        yield pytest.param(kernel, implementation, dtype, shape, id=name)


@pytest.mark.parametrize(("kernel", "implementation", "dtype", "shape"), list(_emulated()))
def test_result_does_not_depend_on_the_order_of_gpu_threads(kernel, implementation, dtype, shape):
    want = run(kernel, implementation, drawn(kernel, shape, dtype))
    for order, seed in (("reverse", 0), ("random", 1)):
        with emulator.options(order, seed):
            got = run(kernel, implementation, drawn(kernel, shape, dtype))
        for forward, other in zip(want, got):
            assert forward.tobytes() == other.tobytes(), order


def _threaded():
    for kernel in KERNELS.values():
        for implementation in kernel.implementations()[1:]:
            if kernel.for_gpu(implementation):
                continue
            for i, shape in enumerate([*kernel.shapes, kernel.bench[0]]):
                name = f"{kernel.name}-{implementation}-{i}"
                yield pytest.param(kernel, implementation, shape, id=name)


@pytest.mark.parametrize(("kernel", "implementation", "shape"), list(_threaded()))
def test_result_does_not_depend_on_the_number_of_threads(
    kernel, implementation, shape, monkeypatch
):
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(env, "THREADS", threads)
        results.append(run(kernel, implementation, drawn(kernel, shape, "float32")))
    for alone, together in zip(*results):
        assert alone.tobytes() == together.tobytes()


ROWWISE = ("layer_norm", "rms_norm", "softmax", "cross_entropy")


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
@pytest.mark.parametrize(
    "kernel", [k for k in KERNELS.values() if k.op in ROWWISE], ids=lambda k: k.name
)
def test_nan_stays_in_its_row(kernel, implementation):
    shape = next(s for s in kernel.shapes if s["N"] == 37)
    row = 11
    clean = drawn(kernel, shape, "float32")
    bad = drawn(kernel, shape, "float32")
    bad[0][row, 3] = np.nan
    if kernel.op == "cross_entropy":
        bad[1][row] = clean[1][row] = 2
    for before, after in zip(run(kernel, implementation, clean), run(kernel, implementation, bad)):
        if before.shape[0] != 37:  # summed over rows: the gradient of a weight
            assert np.isnan(after).any()
            continue
        np.testing.assert_array_equal(np.delete(before, row, 0), np.delete(after, row, 0))
        assert np.isnan(after[row]).any()


@pytest.mark.parametrize("kernel", list(KERNELS.values()), ids=lambda k: k.name)
def test_declaration_is_complete(kernel):
    """Shapes for tests and benchmarks, a reference, and a cost that is not nothing."""
    assert kernel.implementations()[0] == "reference"
    assert kernel.shapes
    for shape in kernel.bench:
        cost = kernel.cost(*drawn(kernel, shape, "float32"))
        assert cost.bytes > 0
        assert cost.flops >= 0
    assert kernel.bench
    assert "->" in kernel.signature
