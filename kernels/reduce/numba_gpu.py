"""Reductions in Numba CUDA.

The sum of squares: each of at most PARTS blocks sums in float64 what its threads meet
at steps of the whole grid; the few parts are added afterwards, in order.
"""

from minillm.device import xp_of
from minillm.kernels.runtime.numba_blocks import THREADS, blocks
from minillm.kernels.runtime.numba_gpu import cuda, float64, kernel

PARTS = 512


@kernel
def _sum_of_squares(x, sums):
    shared = cuda.shared.array(THREADS, float64)
    t = cuda.threadIdx.x
    total = float64(0)
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        value = float64(x[i])
        total += value * value
    shared[t] = total
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            shared[t] += shared[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        sums[cuda.blockIdx.x] = shared[0]


def sum_of_squares(x):
    xp = xp_of(x)
    sums = xp.empty(min(PARTS, blocks(x.size)), xp.float64)
    _sum_of_squares[sums.size, THREADS](x, sums)
    return float(sums.sum())


@kernel
def _accumulate(a, b):
    i = cuda.grid(1)
    if i < a.size:
        a[i] += b[i]


def accumulate(a, b):
    _accumulate[blocks(a.size), THREADS](a, b)
