"""Our side of bench/gpu.py, a worker: every kernel's implementations on CuPy arrays, checked and
timed; the machine's limits; the cost of a launch.

A job of JSON in, an answer out (gpu_worker.py):

    {"what": "limits"}                                        -> gpu_measure.limits
    {"what": "launches"}                                      -> gpu_measure.launches
    {"what": "kernel", "kernel", "case", "dtype", "name"}     -> seconds, error, bytes, flops
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `minillm` and `bench` of this checkout

import ml_dtypes  # noqa: E402, F401  (registers bfloat16)
import numpy as np  # noqa: E402

from bench import gpu_measure, gpu_worker  # noqa: E402
from minillm.device import device_of, to_device  # noqa: E402
from minillm.kernels.registry import Kernel, declared  # noqa: E402
from minillm.kernels.tolerances import tolerance  # noqa: E402

MEGABYTES, SIZES = (256, 1024, 4096), (4096, 8192)  # of the limits' copies and products
CHUNK = 1 << 26  # elements that are compared at a time


class Draws:
    """numpy.random.Generator, as far as the declarations use it, on top of CuPy's, which lacks
    `normal`."""

    def __init__(self, generator: Any):
        self._generator = generator

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: Any = None) -> Any:
        x = self._generator.standard_normal(size)
        x *= scale
        x += loc
        return x

    def integers(self, low: int, high: int, size: Any) -> Any:
        x = self._generator.integers(
            0, high - low, size
        )  # CuPy's are unsigned before they are cast
        x += low
        return x

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


def drawn(kernel: Kernel, dtype: str, rng: Any, shape: dict[str, Any]) -> tuple:
    """Arguments of a call, drawn where they are needed, as Kernel.drawn does it on the host."""

    def cast(i: int, a: Any) -> Any:
        if not hasattr(a, "dtype"):
            return a
        a = to_device(a, "cuda")
        if a.dtype != np.float64 or dtype == "float64":
            return a
        a = a.astype(np.float32)
        return a if i in kernel.statistics else a.astype(np.dtype(dtype), copy=False)

    return tuple(cast(i, a) for i, a in enumerate(kernel.inputs(rng, **shape)))


def copied(args: tuple) -> tuple:
    """The arguments with arrays of their own, in the same layout."""
    return tuple(a.copy(order="K") if hasattr(a, "dtype") else a for a in args)


def results(kernel: Kernel, result: Any, args: tuple) -> list[Any]:
    """Everything a call produced, where it is: what it returned and what it changed in place."""
    arrays = list(result) if isinstance(result, tuple) else [] if result is None else [result]
    return arrays + [args[i] for i in kernel.mutates]


class Case:
    """A kernel's arguments at one shape and dtype, with what the reference makes of them."""

    def __init__(self, kernel: Kernel, shape: dict[str, Any], dtype: str, rng: Any):
        self.kernel = kernel
        self.args = drawn(kernel, dtype, rng, shape)
        self.cost = kernel.cost(*self.args)
        wide = tuple(
            a.astype(np.float32).astype(np.float64)
            if hasattr(a, "dtype") and a.dtype == np.dtype(dtype)
            else a
            for a in self.args
        )
        result = kernel.implementation("reference")(*wide)
        self.want = results(kernel, result, wide)

    def check(self, name: str) -> tuple[float, str]:
        """The largest error of implementation `name`, relative to the largest element of that
        output, and what is wrong with it, if it is outside the tolerance."""
        args = copied(self.args)
        with poisoned():
            result = self.kernel.implementation(name)(*args)
        got = results(self.kernel, result, args)
        shapes = [[getattr(x, "shape", ()) for x in arrays] for arrays in (got, self.want)]
        if shapes[0] != shapes[1]:
            return float("inf"), f"outputs of shapes {shapes[0]}, the reference's are {shapes[1]}"
        found = [difference(self.kernel.name, g, w) for g, w in zip(got, self.want)]
        wrong = [f"output {i}: {words}" for i, (_, words) in enumerate(found) if words]
        return max(error for error, _ in found), "; ".join(wrong)


@contextmanager
def poisoned() -> Iterator[None]:
    """New arrays hold NaN, so that what the run before left there cannot pass for a result."""
    cupy = sys.modules["cupy"]
    before = {name: getattr(cupy, name) for name in ("empty", "empty_like")}

    def filled(make: Any) -> Any:
        def fresh(*args: Any, **kwargs: Any) -> Any:
            array = make(*args, **kwargs)
            if array.nbytes:
                array.data.memset(0xFF, array.nbytes)  # NaN in every floating dtype
            return array

        return fresh

    for name, make in before.items():
        setattr(cupy, name, filled(make))
    try:
        yield
    finally:
        for name, make in before.items():
            setattr(cupy, name, make)


def difference(kernel: str, got: Any, want: Any) -> tuple[float, str]:
    """Largest error relative to the largest element of `want`, and what is outside the tolerance:
    instrument.compare, without bringing gigabytes to the host."""
    if np.isscalar(got) or device_of(got) == "cpu":
        got, want = np.asarray(got), np.asarray(want)
    tol = tolerance(kernel, str(got.dtype))
    got, want = got.reshape(-1), want.reshape(-1)
    pieces = [slice(i, i + CHUNK) for i in range(0, got.size, CHUNK)]
    largest = max((float(abs(_wide(want[p])).max()) for p in pieces), default=0.0)
    scale, worst, wrong = max(largest, tol.floor), 0.0, 0
    for p in pieces:
        g, w = _wide(got[p]), _wide(want[p])
        apart = abs(g - w)
        outside = ~(apart <= tol.atol * scale + tol.rtol * abs(w))  # NaN is outside
        wrong += int(outside.sum())
        worst = max(worst, float(apart.max()))
    words = f"{wrong} of {got.size} outside {tol}" if wrong else ""
    return worst / (largest or 1.0), words


def _wide(x: Any) -> Any:
    return (x.astype(np.float32) if x.dtype.itemsize < 4 else x).astype(np.float64)


@contextmanager
def unchecked(kernel: Kernel) -> Iterator[None]:
    """Without the checks of ids and targets, which wait for the GPU and are no part of a kernel."""
    modules = [m for n, m in sys.modules.items() if n.startswith(f"{kernel.package}.") and m]
    names = ("check_ids", "check_targets")
    found = [(m, n, getattr(m, n)) for m in modules for n in names if hasattr(m, n)]
    for module, name, _ in found:
        setattr(module, name, lambda *args: None)
    try:
        yield
    finally:
        for module, name, check in found:
            setattr(module, name, check)


_case: dict[tuple, Case] = {}  # the last one only: the implementations of a case follow each other


def measure_kernel(gpu: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Check one implementation on one case, then time it, also if it is wrong: it is then said."""
    kernel = declared()[job["kernel"]]
    key = (job["kernel"], job["case"], job["dtype"])
    if key not in _case:
        _case.clear()
        gpu.cupy.get_default_memory_pool().free_all_blocks()
        shape = kernel.bench_gpu[job["case"]]
        _case[key] = Case(kernel, shape, job["dtype"], Draws(gpu.rng))
    case = _case[key]
    error, wrong = case.check(job["name"])
    nbytes = sum(a.nbytes for a in case.args if hasattr(a, "nbytes"))
    count = gpu_measure.sets_needed(nbytes, _l2_bytes(gpu.cupy))
    sets = [copied(case.args) for _ in range(count)]
    with unchecked(kernel):
        timing = gpu_measure.time_calls(gpu, kernel.implementation(job["name"]), sets)
    answer = {**timing._asdict(), "max_error": error, **case.cost._asdict()}
    return {**answer, "wrong": wrong} if wrong else answer


@cache
def _l2_bytes(cupy: Any) -> int:
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    return int(properties.get("l2CacheSize", 64 << 20))


@cache
def _gpu() -> gpu_measure.CuPyGPU:
    return gpu_measure.CuPyGPU()


def run(job: dict[str, Any]) -> dict[str, Any]:
    """The answer to a job."""
    if job["what"] == "limits":
        return gpu_measure.limits(_gpu(), MEGABYTES, SIZES)
    if job["what"] == "launches":
        return gpu_measure.launches(_gpu())
    return measure_kernel(_gpu(), job)


def broken() -> bool:
    """Whether CUDA refuses everything since an error."""
    _case.clear()
    try:
        _gpu().wait()
        return int(_gpu().cupy.ones(8).sum()) != 8
    except Exception:
        return True


if __name__ == "__main__":
    gpu_worker.serve(run, broken)
