"""Sum of squares with Numba: blocks summed in float64, then the blocks in order."""

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.threads import parallel

_BLOCK = 1 << 14  # elements: a part of its own, whatever the number of threads


@jit
def _sum_of_squares(start, stop, x, sums):
    for block in range(start, stop):
        xs = x[block * _BLOCK : (block + 1) * _BLOCK]
        total = 0.0
        for i in range(xs.size):
            value = np.float64(xs[i])
            total += value * value
        sums[block] = total


def sum_of_squares(x):
    sums = np.empty(-(-x.size // _BLOCK))
    parallel(_sum_of_squares, sums.size, 8, x, sums)
    return float(sums.sum())


def accumulate(a, b):
    np.add(a, b, out=a)  # up to a core's cache, faster than threads of ours: a ring's pieces fit
