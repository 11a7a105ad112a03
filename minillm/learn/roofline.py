"""Where a learner's kernel stands on the roofline of this machine's GPU (Williams et al. 2009).

    return place(work.folder / "add.cu", "add", blocks(n), y, a, b, n, flops=n)

In: a launch with enough to do: arrays of several times the L2 cache, a tenth of a millisecond and
more. Out: a line for the learner, to be returned from a check; empty where there is no GPU. The
limits are a copy and a matrix product of CuPy's, measured here too: a data sheet knows nothing of
clocks and neighbours.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from minillm.device import module
from minillm.kernels.runtime.cuda import Program
from minillm.learn.gpu import gpu, mistakes, on_gpu

COPIED = 1 << 28  # bytes
PRODUCT = 4096  # rows and columns
CALLS, BATCHES = 10, 7  # calls between two events; how often


class Limits(NamedTuple):
    """What no kernel of the GPU can beat.

    Attributes:
        copy: bytes/s, read and written together.
        product: FLOP/s of a float32 matrix product, which tensor cores take no part in.
    """

    copy: float
    product: float

    @property
    def ridge(self) -> float:
        """FLOP a byte from which on arithmetic binds."""
        return self.product / self.copy


def place(
    file: Path,
    kernel: str,
    grid: int | tuple[int, ...],
    *args: Any,
    block: int | tuple[int, ...] = 0,
    shared: int = 0,
    dtype: str = "float32",
    flops: int = 0,
    nbytes: int | None = None,
) -> str:
    """Time `kernel` on the GPU and say what binds it; "" without a GPU, before anything is done.

    Args:
        grid, args, block, shared, dtype: as for `launch`.
        flops: floating-point operations of the launch.
        nbytes: that it must at least move; by default every array once.

    Raises:
        Mistake: CUDA objects.
    """
    if gpu() is None:
        return ""
    if nbytes is None:
        nbytes = sum(
            a.nbytes for a in {id(a): a for a in args if isinstance(a, np.ndarray)}.values()
        )
    program, copies = Program(file), on_gpu(list(args))
    with mistakes():
        once = seconds(
            lambda: program.launch(kernel, dtype, grid, *copies, block=block, shared=shared)
        )
    return describe(limits(), _name(), nbytes / once, flops / once)


def describe(limits: Limits, name: str, bytes_rate: float, flop_rate: float) -> str:
    """The line: rates, their share of the roof, and which side of the ridge that is."""
    intensity = flop_rate / bytes_rate
    memory = intensity < limits.ridge
    reached = bytes_rate / limits.copy if memory else flop_rate / limits.product
    return (
        f"{name}: {bytes_rate / 1e9:,.0f} GB/s, {flop_rate / 1e9:,.0f} GFLOP/s;"
        f" {intensity:.3g} FLOP a byte, {'left' if memory else 'right'} of the ridge at"
        f" {limits.ridge:.3g}: {reached:.0%} of its {'copy' if memory else 'product'} rate"
    )


@functools.cache
def limits() -> Limits:
    """Of the GPU in use."""
    xp = module("cuda")
    source, a = xp.ones(COPIED // 4, "float32"), xp.ones((PRODUCT, PRODUCT), "float32")
    target = xp.empty_like(source)
    return Limits(
        2 * COPIED / seconds(lambda: xp.negative(source, out=target)),
        2 * PRODUCT**3 / seconds(lambda: xp.matmul(a, a)),
    )


def seconds(call: Callable[[], Any]) -> float:
    """Median seconds of a call on the GPU, which must be busy for longer than the host takes to
    queue the next: 10 microseconds."""
    cuda, times = module("cuda").cuda, []
    call()  # compiles
    for _ in range(BATCHES):
        start, stop = cuda.Event(), cuda.Event()
        start.record()
        for _ in range(CALLS):
            call()
        stop.record()
        stop.synchronize()
        times.append(cuda.get_elapsed_time(start, stop) / 1e3 / CALLS)
    return median(times)


def _name() -> str:
    runtime = module("cuda").cuda.runtime
    return runtime.getDeviceProperties(module("cuda").cuda.Device().id)["name"].decode()
