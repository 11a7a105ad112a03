"""Softmax with Numba: rows over threads, one exponential an element."""

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.threads import parallel, rows_worth_a_thread
from minillm.kernels.runtime.vmath import amax, exp


@jit
def _forward(start, stop, x, y):
    C = x.shape[1]
    for n in range(start, stop):
        row, out = x[n], y[n]
        shift = amax(row)
        total = x.dtype.type(0)
        for c in range(C):
            e = exp(row[c] - shift)
            out[c] = e
            total += e
        scale = x.dtype.type(1) / total
        for c in range(C):
            out[c] *= scale


def softmax_forward(x):
    N, C = x.shape
    y = np.empty_like(x)
    parallel(_forward, N, rows_worth_a_thread(C), x, y)
    return y


@jit
def _backward(start, stop, dy, y, dx):
    C = y.shape[1]
    for n in range(start, stop):
        d, row, out = dy[n], y[n], dx[n]
        total = y.dtype.type(0)
        for c in range(C):
            total += d[c] * row[c]
        for c in range(C):
            out[c] = row[c] * (d[c] - total)


def softmax_backward(dy, y):
    N, C = y.shape
    dx = np.empty_like(y)
    parallel(_backward, N, rows_worth_a_thread(C), dy, y, dx)
    return dx
