"""Time on a GPU: calls timed by events, the machine's limits, and what a launch costs.

In: functions that queue work, on arrays of CuPy or PyTorch. Out: seconds on the GPU.

A batch of calls stands between two events. Before it, a kernel that only spins keeps the GPU busy
while the host queues the whole batch, so that what is timed is the GPU's work and not Python's.
Calls take turns on several sets of inputs, more than the L2 cache holds together, so that no call
finds its inputs there.

This module must not import minillm, which PyTorch's side does without.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

BATCH = 0.004  # seconds of GPU work between two events, roughly
MOST_CALLS = 50  # in a batch
MOST_BATCHES = 20
MOST_SPIN = 0.01  # seconds
TOO_LONG = 2.0  # seconds: a call that takes more is timed once
L2_SHARE = 4  # inputs of all sets together, in sizes of the L2 cache


class Timing(NamedTuple):
    """Seconds of one call, over batches.

    Attributes:
        queued: the host was ahead of the GPU throughout. Else waits of the host are in the time.
    """

    seconds: float
    p20: float
    p80: float
    calls: int
    queued: bool


class CuPyGPU:
    """What the timing needs of a GPU, through CuPy. TorchGPU in gpu_torch.py is the same."""

    def __init__(self):
        from pathlib import Path

        import cupy

        from minillm.kernels.runtime.cuda import program

        self.cupy, self.rng = cupy, cupy.random.default_rng(0)
        self._probes = program(Path(__file__).with_name("gpu_probes.cu"))
        self._unused = cupy.zeros(1, "uint32")

    def event(self) -> Any:
        """An event, recorded now."""
        event = self.cupy.cuda.Event()
        event.record()
        return event

    def elapsed(self, start: Any, stop: Any) -> float:
        """Seconds between two events that have happened."""
        return self.cupy.cuda.get_elapsed_time(start, stop) / 1e3

    def happened(self, event: Any) -> bool:
        return event.done

    def spin(self, seconds: float) -> None:
        """Queue a delay: exact at 2 GHz, longer at lower clocks."""
        self._probes.launch("spin", "float32", 1, self._unused, int(seconds * 2e9))

    def wait(self) -> None:
        self.cupy.cuda.get_current_stream().synchronize()


def time_calls(
    gpu: Any, call: Callable[..., Any], sets: Sequence[tuple], seconds: float = 0.1
) -> Timing:
    """Time `call(*inputs)`, with `sets` of inputs by turns.

    Args:
        gpu: a CuPyGPU, or the like.
        call: compiled by a call before.
        seconds: to spend, roughly; at least three batches are timed.
    """
    for _ in range(2):  # the first may still have to find memory
        began, start = time.perf_counter(), gpu.event()
        call(*sets[0])
        stop, host = gpu.event(), time.perf_counter() - began
        gpu.wait()
        once = gpu.elapsed(start, stop)
        if once > TOO_LONG:
            return Timing(once, once, once, 1, True)
    batch = max(1, min(MOST_CALLS, int(BATCH / max(once, 1e-7))))
    rounds = max(3, min(MOST_BATCHES, int(seconds / max(once * batch, 1e-7))))
    delay = min(MOST_SPIN, 1e-4 + 1.5 * host * batch)
    times, queued, turn = [], True, 0
    for _ in range(1 + rounds):  # the first brings the clocks up
        gpu.spin(delay)
        start = gpu.event()
        for _ in range(batch):
            call(*sets[turn % len(sets)])
            turn += 1
        ahead = not gpu.happened(start)
        stop = gpu.event()
        gpu.wait()
        times.append(gpu.elapsed(start, stop) / batch)
        queued &= ahead or len(times) == 1
    times = sorted(times[1:])
    middle, last = len(times) // 2, len(times) - 1
    return Timing(
        times[middle], times[last // 5], times[math.ceil(last * 0.8)], rounds * batch, queued
    )


def sets_needed(nbytes: int, l2_bytes: int) -> int:
    """How many sets of inputs of `nbytes` fill the L2 cache L2_SHARE times; at least two."""
    return max(2, min(64, math.ceil(L2_SHARE * l2_bytes / max(nbytes, 1))))


# --- limits ---------------------------------------------------------------------------------------


def limits(gpu: CuPyGPU, megabytes: Sequence[int], sizes: Sequence[int]) -> dict[str, Any]:
    """What no kernel can beat, each the best of several sizes.

    Args:
        megabytes: sizes of the copies.
        sizes: of the square matrices.

    Returns:
        copy: bytes/s, read and written together; "gemm": FLOP/s of a product, by dtype; "copies",
        "products": each that was tried.
    """
    copies = [one for size in megabytes for one in _copies(gpu, size)]
    products = [_product(gpu, dtype, size) for dtype in ("bfloat16", "float32") for size in sizes]
    best: dict[str, float] = {}
    for one in products:
        best[one["dtype"]] = max(best.get(one["dtype"], 0.0), one["flops_per_second"])
    copy = max(one["bytes_per_second"] for one in copies)
    return {"copy": copy, "gemm": best, "copies": copies, "products": products}


def _copies(gpu: CuPyGPU, size: int) -> list[dict[str, Any]]:
    cupy = gpu.cupy
    source = gpu.rng.random((size << 20) // 4, dtype="float32")
    target = cupy.empty_like(source)
    ways = {
        "cudaMemcpy": lambda: target.data.copy_from_device_async(source.data, source.nbytes),
        "kernel": lambda: cupy.negative(source, out=target),
    }
    found = []
    for way, call in ways.items():
        call()
        seconds = time_calls(gpu, call, [()]).seconds
        rate = 2 * source.nbytes / seconds
        found.append({"megabytes": size, "way": way, "bytes_per_second": rate})
    return found


def _product(gpu: CuPyGPU, dtype: str, size: int) -> dict[str, Any]:
    """A product of random matrices by CuPy's cuBLAS, by default without TF32 in float32."""
    cupy = gpu.cupy
    a, b = (gpu.rng.standard_normal((size, size), dtype="float32").astype(dtype) for _ in "ab")
    cupy.dot(a, b)
    seconds = time_calls(gpu, lambda: cupy.dot(a, b), [()]).seconds
    return {"dtype": dtype, "size": size, "flops_per_second": 2 * size**3 / seconds}


# --- launches -------------------------------------------------------------------------------------


def launches(gpu: CuPyGPU, count: int = 200) -> dict[str, dict[str, float] | str]:
    """Microseconds of an empty launch by name: of Python, and from one to the next on the GPU."""
    cupy, probes, unused = gpu.cupy, gpu._probes, gpu._unused
    eight = (unused, unused, unused, unused, 1.0, 2.0, 3, 4)

    def of_cupy():
        kernel = cupy.RawKernel(
            'extern "C" __global__ void nothing(unsigned* unused) {}', "nothing"
        )
        return lambda: kernel((1,), (1,), (unused,))

    def of_numba():
        from minillm.kernels.runtime import numba_gpu

        @numba_gpu.kernel
        def nothing(unused):
            pass

        return lambda: nothing[1, 1](unused)

    ways = {
        "Program.launch, 1 argument": lambda: (
            lambda: probes.launch("nothing", "float32", 1, unused)
        ),
        "Program.launch, 8 arguments": lambda: (
            lambda: probes.launch("nothing_of_eight", "float32", 1, *eight)
        ),
        "cupy.RawKernel, 1 argument": of_cupy,
        "Numba CUDA, 1 argument": of_numba,
    }
    found: dict[str, dict[str, float] | str] = {}
    for way, make in ways.items():
        try:
            found[way] = _launch(gpu, make(), count)
        except Exception as error:  # one way that is not installed does not lose the others
            found[way] = f"{type(error).__name__}: {error}".partition("\n")[0]
    return found


def _launch(gpu: CuPyGPU, call: Callable[[], Any], count: int) -> dict[str, float]:
    for _ in range(20):
        call()
    gpu.wait()
    host, device = [], []
    for _ in range(20):
        gpu.spin(MOST_SPIN)
        start, began = gpu.event(), time.perf_counter()
        for _ in range(count):
            call()
        host.append(time.perf_counter() - began)
        stop = gpu.event()
        gpu.wait()
        device.append(gpu.elapsed(start, stop))
    micro = 1e6 / count
    return {"host_us": sorted(host)[10] * micro, "gpu_us": sorted(device)[10] * micro}
