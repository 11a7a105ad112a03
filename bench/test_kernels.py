"""One benchmark for every kernel, implementation and `bench` shape that the declarations name."""

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from minillm import env
from minillm.kernels.instrument import compare, outputs
from minillm.kernels.registry import Kernel, cast, declared

DTYPE = "float32"
SECONDS = 0.4  # to spend on the timing of one benchmark, roughly
ROUND = 1e-4  # shortest round: the clock and the loop around it cost about a microsecond


def _cases() -> Iterator[object]:
    for kernel in sorted(declared().values(), key=lambda k: (k.op, k.name)):
        for shape in kernel.bench:
            for name in kernel.implementations():
                words = "-".join(f"{key}{value}" for key, value in shape.items())
                yield pytest.param(kernel, name, shape, id=f"{kernel.name}-{words}-{name}")


@pytest.mark.parametrize(("kernel", "implementation", "shape"), list(_cases()))
def test_kernel(benchmark, limits, results, kernel, implementation, shape):
    words = " ".join(f"{key}={value}" for key, value in shape.items())
    benchmark.group = f"{kernel.name} {words}"
    function = kernel.implementation(implementation)
    args = _drawn(kernel, shape)
    cost = kernel.cost(*args)
    rounds, iterations = _plan(function, args)
    result = benchmark.pedantic(function, args, rounds=rounds, iterations=iterations)
    if kernel.mutates:  # its arguments have drifted: check it on fresh ones
        args = _drawn(kernel, shape)
        result = function(*args)
    error = _check(kernel, implementation, shape, outputs(kernel, result, args))
    if benchmark.stats is None:  # --benchmark-disable: only checked
        return
    seconds = benchmark.stats.stats.median
    gflops = cost.flops / seconds / 1e9
    if gflops * 1e9 > 1.05 * limits.value.gemm:
        limits.measure_again()  # it may have been measured while something else was running
    assert gflops * 1e9 <= 1.05 * limits.value.gemm, (
        f"{gflops:.1f} GFLOP/s, more than the {limits.value.gemm / 1e9:.1f} of a GEMM: not all of"
        " the work was done, or the declaration's cost is wrong"
    )
    share, bound = limits.value.share(cost.bytes, cost.flops, seconds)
    copy_share = cost.bytes / seconds / limits.value.copy
    benchmark.extra_info.update(
        op=kernel.op,
        kernel=kernel.name,
        implementation=implementation,
        shape=words,
        dtype=DTYPE,
        threads=env.THREADS,
        gbs=cost.bytes / seconds / 1e9,
        gflops=gflops,
        copy_gbs=limits.value.copy / 1e9,
        gemm_gflops=limits.value.gemm / 1e9,
        copy_share=copy_share,
        gemm_share=cost.flops / seconds / limits.value.gemm,
        limit_share=share,
        bound=bound,
        cached=copy_share > 1,  # faster than memory: the data stayed in a cache between calls
        max_error=error,
    )
    results.append({**benchmark.extra_info, "seconds": seconds})


def _drawn(kernel: Kernel, shape: dict) -> tuple:
    return cast(kernel.inputs(np.random.default_rng(0), **shape), np.dtype(DTYPE))


def _plan(function: Callable, args: tuple) -> tuple[int, int]:
    """Rounds and calls a round that fill SECONDS; also compiles and warms up."""
    function(*args)
    began = time.perf_counter()
    function(*args)
    once = max(time.perf_counter() - began, 1e-7)
    iterations = math.ceil(ROUND / once)
    return min(max(3, int(SECONDS / (once * iterations))), 500), iterations


def _check(kernel: Kernel, implementation: str, shape: dict, got: list) -> float:
    """Compare with the reference in float64 on the same rounded inputs.

    Returns:
        The largest error of any output, relative to the largest element of that output.
    """
    exact = tuple(
        a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == DTYPE else a
        for a in _drawn(kernel, shape)
    )
    want = outputs(kernel, kernel.implementation("reference")(*exact), exact)
    compare(kernel, implementation, got, want)
    return max(
        float(np.abs(g - w).max() / max(np.abs(w).max(), np.finfo(DTYPE).tiny))
        for g, w in zip(got, want)
    )
