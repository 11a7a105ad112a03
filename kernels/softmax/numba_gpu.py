"""Softmax in Numba CUDA: a block a row; its maximum, its sum, then the quotients."""

import math

from minillm.device import xp_of
from minillm.kernels.runtime.numba_blocks import THREADS, block_max, block_sum
from minillm.kernels.runtime.numba_gpu import cuda, float32, kernel


@kernel
def _forward(x, y):
    n, C = cuda.blockIdx.x, x.shape[1]
    largest = float32(-math.inf)
    for c in range(cuda.threadIdx.x, C, THREADS):
        largest = max(largest, x[n, c])
    shift = block_max(largest)

    total = float32(0)
    for c in range(cuda.threadIdx.x, C, THREADS):
        e = math.exp(x[n, c] - shift)
        y[n, c] = e
        total += e
    scale = float32(1) / block_sum(total)

    for c in range(cuda.threadIdx.x, C, THREADS):
        y[n, c] *= scale


def softmax_forward(x):
    y = xp_of(x).empty_like(x)
    _forward[len(x), THREADS](x, y)
    return y


@kernel
def _backward(dy, y, dx):
    n, C = cuda.blockIdx.x, y.shape[1]
    total = float32(0)
    for c in range(cuda.threadIdx.x, C, THREADS):
        total += dy[n, c] * y[n, c]
    dot = block_sum(total)

    for c in range(cuda.threadIdx.x, C, THREADS):
        dx[n, c] = y[n, c] * (dy[n, c] - dot)


def softmax_backward(dy, y):
    dx = xp_of(y).empty_like(y)
    _backward[len(y), THREADS](dy, y, dx)
    return dx
