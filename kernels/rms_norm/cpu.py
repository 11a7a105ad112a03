"""Root-mean-square normalisation with Numba: rows over threads, each read twice while in cache."""

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.threads import parallel, row_parts, rows_worth_a_thread


@jit
def _normalise(row, weight, eps, out):
    """The reciprocal of the row's root mean square; `out` is the row times that and the weight."""
    C = row.size
    squares = row.dtype.type(0)
    for c in range(C):
        squares += row[c] * row[c]
    r = row.dtype.type(1) / np.sqrt(squares / row.dtype.type(C) + row.dtype.type(eps))
    for c in range(C):
        out[c] = row[c] * r * weight[c]
    return r


@jit
def _forward(start, stop, x, weight, eps, y, rstd):
    for n in range(start, stop):
        rstd[n] = _normalise(x[n], weight, eps, y[n])


@jit
def _add_forward(start, stop, x, residual, weight, eps, y, total, rstd):
    for n in range(start, stop):
        a, b, row = x[n], residual[n], total[n]
        for c in range(row.size):
            row[c] = a[c] + b[c]
        rstd[n] = _normalise(row, weight, eps, y[n])


def rms_norm_forward(x, weight, eps):
    N, C = x.shape
    y, rstd = np.empty_like(x), np.empty(N, x.dtype)
    parallel(_forward, N, rows_worth_a_thread(C), x, weight, eps, y, rstd)
    return y, rstd


def add_rms_norm_forward(x, residual, weight, eps):
    N, C = x.shape
    y, total, rstd = np.empty_like(x), np.empty_like(x), np.empty(N, x.dtype)
    grain = rows_worth_a_thread(C)
    parallel(_add_forward, N, grain, x, residual, weight, eps, y, total, rstd)
    return y, total, rstd


@jit
def _backward(start, stop, bounds, add, dy, dtotal, x, weight, rstd, dx, dweight):
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
            if add:  # otherwise dtotal stands for nothing
                more = dtotal[n]
                for c in range(C):
                    out[c] += more[c]


def rms_norm_backward(dy, x, weight, rstd):
    return _gradients(False, dy, dy, x, weight, rstd)


def add_rms_norm_backward(dy, dtotal, total, weight, rstd):
    return _gradients(True, dy, dtotal, total, weight, rstd)


def _gradients(add, dy, dtotal, x, weight, rstd):
    N, C = x.shape
    bounds = row_parts(N)
    parts = len(bounds) - 1
    dx, dweight = np.empty_like(x), np.empty((parts, C), x.dtype)
    grain = max(1, rows_worth_a_thread(C) * parts // max(N, 1))
    parallel(_backward, parts, grain, bounds, add, dy, dtotal, x, weight, rstd, dx, dweight)
    return dx, dweight.sum(0)
