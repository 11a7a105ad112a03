"""What Numba CUDA kernels over rows share: sums and maxima over a block, sums over rows.

What comes in: one number of each thread of a block of THREADS. What goes out: their sum or maximum,
to every thread. Each halves the numbers in shared memory until one is left (Harris 2007,
"Optimizing Parallel Reduction in CUDA", with sequential addressing): log2(THREADS) barriers.
"""

from minillm.device import Array, xp_of
from minillm.kernels.runtime.numba_gpu import cuda, device, float32, kernel

THREADS = 128  # of every block that uses these; a power of two


def blocks(n: int, threads: int = THREADS) -> int:
    """How many blocks of `threads` it takes for n threads."""
    return -(-n // threads)


@device
def block_sum(value):
    """The sum of `value` over the block. Every thread must call it."""
    parts = cuda.shared.array(THREADS, float32)
    t = cuda.threadIdx.x
    cuda.syncthreads()  # all have read the sum before this one
    parts[t] = value
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            parts[t] += parts[t + half]
        cuda.syncthreads()
        half //= 2
    return parts[0]


@device
def block_max(value):
    """The largest `value` of the block. Every thread must call it."""
    parts = cuda.shared.array(THREADS, float32)
    t = cuda.threadIdx.x
    cuda.syncthreads()  # all have read the maximum before this one
    parts[t] = value
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            parts[t] = max(parts[t], parts[t + half])
        cuda.syncthreads()
        half //= 2
    return parts[0]


@kernel
def _sum_rows(x, y):
    c = cuda.grid(1)
    if c < x.shape[1]:
        total = float32(0)
        for n in range(x.shape[0]):
            total += x[n, c]
        y[c] = total


def sum_rows(x: Array) -> Array:
    """`x (N, C) -> (C,)`: the second stage of a sum over many rows, a thread a column, in order."""
    C = x.shape[1]
    y = xp_of(x).empty(C, x.dtype)
    _sum_rows[blocks(C), THREADS](x, y)
    return y
