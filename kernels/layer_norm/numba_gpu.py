"""Layer normalisation in Numba CUDA: a block a row, whose threads take every THREADS-th channel.

dweight and dbias are sums over rows: each of at most PARTS blocks sums some rows, then one thread a
channel adds the parts. Nothing depends on which thread is first, so the result never changes.
"""

import math

from minillm.device import xp_of
from minillm.kernels.runtime.numba_blocks import THREADS, block_sum, sum_rows
from minillm.kernels.runtime.numba_gpu import cuda, float32, kernel

PARTS = 128


@kernel
def _forward(x, weight, bias, eps, y, mean, rstd):
    n, C = cuda.blockIdx.x, x.shape[1]
    total = float32(0)
    for c in range(cuda.threadIdx.x, C, THREADS):
        total += x[n, c]
    m = block_sum(total) / float32(C)

    total = float32(0)
    for c in range(cuda.threadIdx.x, C, THREADS):
        d = x[n, c] - m
        total += d * d
    r = float32(1) / math.sqrt(block_sum(total) / float32(C) + eps)

    for c in range(cuda.threadIdx.x, C, THREADS):
        y[n, c] = (x[n, c] - m) * r * weight[c] + bias[c]
    if cuda.threadIdx.x == 0:
        mean[n], rstd[n] = m, r


def layer_norm_forward(x, weight, bias, eps):
    xp, N = xp_of(x), len(x)
    y, mean, rstd = xp.empty_like(x), xp.empty(N, x.dtype), xp.empty(N, x.dtype)
    _forward[N, THREADS](x, weight, bias, eps, y, mean, rstd)
    return y, mean, rstd


@kernel
def _backward(dy, x, weight, mean, rstd, dx):
    n, C = cuda.blockIdx.x, x.shape[1]
    m, r = mean[n], rstd[n]
    g_sum, gx_sum = float32(0), float32(0)
    for c in range(cuda.threadIdx.x, C, THREADS):
        g = dy[n, c] * weight[c]
        g_sum += g
        gx_sum += g * (x[n, c] - m) * r
    g_mean = block_sum(g_sum) / float32(C)
    gx_mean = block_sum(gx_sum) / float32(C)

    for c in range(cuda.threadIdx.x, C, THREADS):
        xhat = (x[n, c] - m) * r
        dx[n, c] = r * (dy[n, c] * weight[c] - g_mean - xhat * gx_mean)


@kernel
def _backward_parts(dy, x, mean, rstd, dweight, dbias):
    part, parts = cuda.blockIdx.x, cuda.gridDim.x
    for c in range(cuda.threadIdx.x, x.shape[1], THREADS):
        dw, db = float32(0), float32(0)
        for n in range(part, x.shape[0], parts):
            dw += dy[n, c] * (x[n, c] - mean[n]) * rstd[n]
            db += dy[n, c]
        dweight[part, c], dbias[part, c] = dw, db


def layer_norm_backward(dy, x, weight, mean, rstd):
    xp, (N, C) = xp_of(x), x.shape
    dx, parts = xp.empty_like(x), min(N, PARTS)
    dweight, dbias = xp.empty((parts, C), x.dtype), xp.empty((parts, C), x.dtype)
    _backward[N, THREADS](dy, x, weight, mean, rstd, dx)
    _backward_parts[parts, THREADS](dy, x, mean, rstd, dweight, dbias)
    return dx, sum_rows(dweight), sum_rows(dbias)
