"""Matrix product by the BLAS that NumPy carries, its rows spread over our own threads.

Nothing written by hand on a CPU comes near a BLAS on one core. On several, its own threads spin
while they wait for each other: beside anything else that wants a core they lose whole time slices.
So it runs single-threaded (see env.py), once for each of our threads, which sleep instead.
"""

import math

import numpy as np

from minillm import env
from minillm.kernels.runtime.threads import parallel

_WORK = 4_000_000  # operations worth a thread of their own
_ROWS = 64  # fewest rows, or columns, that a BLAS still multiplies at full speed


def matmul(a, b):
    if b.ndim == 2 and a.ndim > 2:  # one product, not one a batch entry: worth a copy of a
        rows = a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
        return matmul(rows, b).reshape(*a.shape[:-1], b.shape[-1])
    if env.BLAS_THREADS > 1 or env.THREADS == 1 or a.ndim != b.ndim:
        return np.matmul(a, b)
    if a.ndim > 2:
        return _stacked(a, b) if a.shape[:-2] == b.shape[:-2] else np.matmul(a, b)
    (M, K), N = a.shape, b.shape[1]
    c = np.empty((M, N), np.result_type(a, b))
    if M >= N:
        parallel(_by_rows, M, max(_ROWS, _WORK // max(2 * K * N, 1)), a, b, c)
    else:
        parallel(_by_columns, N, max(_ROWS, _WORK // max(2 * K * M, 1)), a, b, c)
    return c


def _by_rows(start, stop, a, b, c):
    np.matmul(a[start:stop], b, out=c[start:stop])


def _by_columns(start, stop, a, b, c):
    np.matmul(a, b[:, start:stop], out=c[:, start:stop])


def _stacked(a, b):
    (M, K), N = a.shape[-2:], b.shape[-1]
    c = np.empty((*a.shape[:-1], N), np.result_type(a, b))
    inner = math.prod(a.shape[1:-2]) * M * K * N  # of one entry of the first dimension
    parallel(_by_entries, a.shape[0], max(1, _WORK // max(2 * inner, 1)), a, b, c)
    return c


def _by_entries(start, stop, a, b, c):
    np.matmul(a[start:stop], b[start:stop], out=c[start:stop])
