"""Root-mean-square normalisation in Numba CUDA: a block a row.

dweight is a sum over rows: each of at most PARTS blocks sums some rows, then one thread a channel
adds the parts, always in the same order.
"""

import math

from minillm.device import xp_of
from minillm.kernels.runtime.numba_blocks import THREADS, block_sum, sum_rows
from minillm.kernels.runtime.numba_gpu import cuda, float32, kernel

PARTS = 128


@kernel
def _forward(x, weight, eps, y, rstd):
    n, C = cuda.blockIdx.x, x.shape[1]
    total = float32(0)
    for c in range(cuda.threadIdx.x, C, THREADS):
        total += x[n, c] * x[n, c]
    r = float32(1) / math.sqrt(block_sum(total) / float32(C) + eps)

    for c in range(cuda.threadIdx.x, C, THREADS):
        y[n, c] = x[n, c] * r * weight[c]
    if cuda.threadIdx.x == 0:
        rstd[n] = r


def rms_norm_forward(x, weight, eps):
    xp, N = xp_of(x), len(x)
    y, rstd = xp.empty_like(x), xp.empty(N, x.dtype)
    _forward[N, THREADS](x, weight, eps, y, rstd)
    return y, rstd


@kernel
def _add_forward(x, residual, weight, eps, y, total, rstd):
    n, C = cuda.blockIdx.x, x.shape[1]
    squares = float32(0)
    for c in range(cuda.threadIdx.x, C, THREADS):
        total[n, c] = x[n, c] + residual[n, c]
        squares += total[n, c] * total[n, c]
    r = float32(1) / math.sqrt(block_sum(squares) / float32(C) + eps)

    for c in range(cuda.threadIdx.x, C, THREADS):
        y[n, c] = total[n, c] * r * weight[c]
    if cuda.threadIdx.x == 0:
        rstd[n] = r


def add_rms_norm_forward(x, residual, weight, eps):
    xp, N = xp_of(x), len(x)
    y, total, rstd = xp.empty_like(x), xp.empty_like(x), xp.empty(N, x.dtype)
    _add_forward[N, THREADS](x, residual, weight, eps, y, total, rstd)
    return y, total, rstd


@kernel
def _backward(dy, x, weight, rstd, dx):
    n, C = cuda.blockIdx.x, x.shape[1]
    r = rstd[n]
    gx_sum = float32(0)
    for c in range(cuda.threadIdx.x, C, THREADS):
        gx_sum += dy[n, c] * weight[c] * x[n, c] * r
    gx_mean = block_sum(gx_sum) / float32(C)

    for c in range(cuda.threadIdx.x, C, THREADS):
        dx[n, c] = r * (dy[n, c] * weight[c] - x[n, c] * r * gx_mean)


@kernel
def _backward_parts(dy, x, rstd, dweight):
    part, parts = cuda.blockIdx.x, cuda.gridDim.x
    for c in range(cuda.threadIdx.x, x.shape[1], THREADS):
        dw = float32(0)
        for n in range(part, x.shape[0], parts):
            dw += dy[n, c] * x[n, c] * rstd[n]
        dweight[part, c] = dw


def rms_norm_backward(dy, x, weight, rstd):
    dx = xp_of(x).empty_like(x)
    _backward[len(x), THREADS](dy, x, weight, rstd, dx)
    return dx, _dweight(dy, x, rstd)


def _dweight(dy, x, rstd):
    parts = min(len(x), PARTS)
    dweight = xp_of(x).empty((parts, x.shape[1]), x.dtype)
    _backward_parts[parts, THREADS](dy, x, rstd, dweight)
    return sum_rows(dweight)


@kernel
def _add_backward(dy, dtotal, total, weight, rstd, dx):
    n, C = cuda.blockIdx.x, total.shape[1]
    r = rstd[n]
    gx_sum = float32(0)
    for c in range(cuda.threadIdx.x, C, THREADS):
        gx_sum += dy[n, c] * weight[c] * total[n, c] * r
    gx_mean = block_sum(gx_sum) / float32(C)

    for c in range(cuda.threadIdx.x, C, THREADS):
        dx[n, c] = dtotal[n, c] + r * (dy[n, c] * weight[c] - total[n, c] * r * gx_mean)


def add_rms_norm_backward(dy, dtotal, total, weight, rstd):
    dx = xp_of(total).empty_like(total)
    _add_backward[len(total), THREADS](dy, dtotal, total, weight, rstd, dx)
    return dx, _dweight(dy, total, rstd)
