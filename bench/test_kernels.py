"""One benchmark for every kernel, implementation and `bench` shape that the declarations name."""

import math
import time
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import pytest

from minillm import env
from minillm.kernels.instrument import compare, outputs
from minillm.kernels.registry import Kernel, declared

DTYPE = "float32"
SECONDS = 0.4  # to spend on the timing of one benchmark, roughly
ROUND = 1e-4  # shortest round: the clock and the loop around it cost about a microsecond


def _cases() -> Iterator[object]:
    for kernel in sorted(declared().values(), key=lambda k: (k.op, k.name)):
        for case, shape in enumerate(kernel.bench):
            for name in kernel.implementations():
                if kernel.for_gpu(name):  # emulated on a CPU: nothing to time
                    continue
                words = "-".join(f"{key}{value}" for key, value in shape.items())
                yield pytest.param(kernel, case, name, id=f"{kernel.name}-{words}-{name}")


@pytest.mark.parametrize(("kernel", "case", "implementation"), list(_cases()))
def test_kernel(benchmark, bench_session, kernel, case, implementation):
    words = " ".join(f"{key}={value}" for key, value in kernel.bench[case].items())
    benchmark.group = f"{kernel.name} {words}"
    function = kernel.implementation(implementation)
    args = _drawn(kernel, case)
    cost = kernel.cost(*args)
    rounds, iterations = _plan(function, args)
    result = benchmark.pedantic(function, args, rounds=rounds, iterations=iterations)
    if kernel.mutates:  # its arguments have drifted: check it on fresh ones
        args = _drawn(kernel, case)
        result = function(*args)
    error = _check(kernel, implementation, case, outputs(kernel, result, args))
    if benchmark.stats is None:  # --benchmark-disable: only checked
        return
    seconds = benchmark.stats.stats.median
    _refuse_the_impossible(bench_session, cost.flops / seconds)
    benchmark.extra_info.update(
        op=kernel.op,
        kernel=kernel.name,
        implementation=implementation,
        shape=words,
        dtype=DTYPE,
        threads=env.THREADS,
        seconds=seconds,
        bytes=cost.bytes,
        flops=cost.flops,
        gbs=cost.bytes / seconds / 1e9,
        gflops=cost.flops / seconds / 1e9,
        max_error=error,
    )
    bench_session.results.append(benchmark.extra_info)


def _refuse_the_impossible(session: object, rate: float) -> None:
    """Fail if `rate`, in FLOP/s, is above that of a matrix product."""
    for _ in range(4):
        if rate <= 1.05 * session.limits.gemm:
            return
        session.measure_again()  # the limit may have been measured while something else was running
    raise AssertionError(
        f"{rate / 1e9:.1f} GFLOP/s, more than the {session.limits.gemm / 1e9:.1f} of a GEMM: not"
        " all of the work was done, or the declared cost is wrong"
    )


def _drawn(kernel: Kernel, case: int) -> tuple:
    return kernel.drawn(DTYPE, **kernel.bench[case])


def _plan(function: Callable, args: tuple) -> tuple[int, int]:
    """Rounds and calls a round that fill SECONDS; also compiles and warms up."""
    function(*args)
    began = time.perf_counter()
    function(*args)
    once = max(time.perf_counter() - began, 1e-7)
    iterations = math.ceil(ROUND / once)
    fewest = 3 if once < SECONDS else 1
    return min(max(fewest, int(SECONDS / (once * iterations))), 500), iterations


def _check(kernel: Kernel, implementation: str, case: int, got: list) -> float:
    """Compare with the reference in float64 on the same rounded inputs.

    Returns:
        The largest error of any output, relative to the largest element of that output.
    """
    want = _exact(kernel, case)
    compare(kernel, implementation, got, want)
    return max(
        float(np.abs(g - w).max() / max(np.abs(w).max(), np.finfo(DTYPE).tiny))
        for g, w in zip(got, want)
    )


@lru_cache(maxsize=1)  # the implementations of a case follow one another
def _exact(kernel: Kernel, case: int) -> list[np.ndarray]:
    args = tuple(
        a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == DTYPE else a
        for a in _drawn(kernel, case)
    )
    return outputs(kernel, kernel.implementation("reference")(*args), args)
