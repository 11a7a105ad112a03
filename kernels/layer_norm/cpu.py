"""Layer normalisation with Numba: rows over threads, each row read twice while it is in cache."""

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.threads import parallel, row_parts, rows_worth_a_thread


@jit
def _forward(start, stop, x, weight, bias, eps, y, mean, rstd):
    C = x.shape[1]
    one = x.dtype.type(1)
    for n in range(start, stop):
        row, out = x[n], y[n]
        total = x.dtype.type(0)
        for c in range(C):
            total += row[c]
        m = total / x.dtype.type(C)
        total = x.dtype.type(0)
        for c in range(C):
            d = row[c] - m
            total += d * d
        r = one / np.sqrt(total / x.dtype.type(C) + x.dtype.type(eps))
        for c in range(C):
            out[c] = (row[c] - m) * r * weight[c] + bias[c]
        mean[n], rstd[n] = m, r


def layer_norm_forward(x, weight, bias, eps):
    N, C = x.shape
    y, mean, rstd = np.empty_like(x), np.empty(N, x.dtype), np.empty(N, x.dtype)
    parallel(_forward, N, rows_worth_a_thread(C), x, weight, bias, eps, y, mean, rstd)
    return y, mean, rstd


@jit
def _backward(start, stop, bounds, dy, x, weight, mean, rstd, dx, dweight, dbias):
    C = x.shape[1]
    for part in range(start, stop):
        dw, db = dweight[part], dbias[part]
        dw[:] = 0
        db[:] = 0
        for n in range(bounds[part], bounds[part + 1]):
            row, d, out = x[n], dy[n], dx[n]
            m, r = mean[n], rstd[n]
            g_sum = gx_sum = x.dtype.type(0)
            for c in range(C):
                xhat = (row[c] - m) * r
                g = d[c] * weight[c]
                g_sum += g
                gx_sum += g * xhat
                dw[c] += d[c] * xhat
                db[c] += d[c]
            g_mean, gx_mean = g_sum / x.dtype.type(C), gx_sum / x.dtype.type(C)
            for c in range(C):
                xhat = (row[c] - m) * r
                out[c] = r * (d[c] * weight[c] - g_mean - xhat * gx_mean)


def layer_norm_backward(dy, x, weight, mean, rstd):
    N, C = x.shape
    bounds = row_parts(N)
    parts = len(bounds) - 1
    dx, dweight, dbias = (
        np.empty_like(x),
        np.empty((parts, C), x.dtype),
        np.empty((parts, C), x.dtype),
    )
    grain = max(1, rows_worth_a_thread(C) * parts // max(N, 1))
    parallel(_backward, parts, grain, bounds, dy, x, weight, mean, rstd, dx, dweight, dbias)
    return dx, dweight.sum(0), dbias.sum(0)
