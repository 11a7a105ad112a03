"""Root-mean-square normalisation with Numba: rows over threads, each read twice while in cache."""

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.threads import parallel, row_parts, rows_worth_a_thread


@jit
def _forward(start, stop, x, weight, eps, y, rstd):
    C = x.shape[1]
    one = x.dtype.type(1)
    for n in range(start, stop):
        row, out = x[n], y[n]
        total = x.dtype.type(0)
        for c in range(C):
            total += row[c] * row[c]
        r = one / np.sqrt(total / x.dtype.type(C) + x.dtype.type(eps))
        for c in range(C):
            out[c] = row[c] * r * weight[c]
        rstd[n] = r


def rms_norm_forward(x, weight, eps):
    N, C = x.shape
    y, rstd = np.empty_like(x), np.empty(N, x.dtype)
    parallel(_forward, N, rows_worth_a_thread(C), x, weight, eps, y, rstd)
    return y, rstd


@jit
def _backward(start, stop, bounds, dy, x, weight, rstd, dx, dweight):
    C = x.shape[1]
    for part in range(start, stop):
        dw = dweight[part]
        dw[:] = 0
        for n in range(bounds[part], bounds[part + 1]):
            row, d, out = x[n], dy[n], dx[n]
            r = rstd[n]
            gx_sum = x.dtype.type(0)
            for c in range(C):
                dyxhat = d[c] * (row[c] * r)
                gx_sum += dyxhat * weight[c]
                dw[c] += dyxhat
            gx_mean = gx_sum / x.dtype.type(C)
            for c in range(C):
                out[c] = r * (d[c] * weight[c] - row[c] * r * gx_mean)


def rms_norm_backward(dy, x, weight, rstd):
    N, C = x.shape
    bounds = row_parts(N)
    parts = len(bounds) - 1
    dx, dweight = np.empty_like(x), np.empty((parts, C), x.dtype)
    grain = max(1, rows_worth_a_thread(C) * parts // max(N, 1))
    parallel(_backward, parts, grain, bounds, dy, x, weight, rstd, dx, dweight)
    return dx, dweight.sum(0)
