"""Dropout with Numba: four elements a Philox block, nothing stored but the result."""

import numpy as np

from minillm.kernels.dropout import philox
from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.threads import parallel

_M0, _M1 = np.uint64(philox.MULTIPLIER_0), np.uint64(philox.MULTIPLIER_1)
_W0, _W1 = np.uint64(philox.WEYL_0), np.uint64(philox.WEYL_1)
_MASK, _HALF = np.uint64(philox.MASK), np.uint64(32)
_ROUNDS = philox.ROUNDS


@jit
def _block(counter, k0, k1):
    """The four words of one block, each below 2^32."""
    c0, c1, c2, c3 = counter & _MASK, counter >> _HALF, np.uint64(0), np.uint64(0)
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _M0, c2 * _M1
        c0, c2 = (product1 >> _HALF) ^ c1 ^ k0, (product0 >> _HALF) ^ c3 ^ k1
        c1, c3 = product1 & _MASK, product0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


@jit
def _dropout(start, stop, x, k0, k1, threshold, scale, y):
    zero = x.dtype.type(0)
    whole = min(stop, x.size // 4)
    xs, ys = x[4 * start : 4 * whole], y[4 * start : 4 * whole]
    for i in range(xs.size // 4):
        w0, w1, w2, w3 = _block(np.uint64(start + i), k0, k1)
        ys[4 * i] = xs[4 * i] * scale if w0 >= threshold else zero
        ys[4 * i + 1] = xs[4 * i + 1] * scale if w1 >= threshold else zero
        ys[4 * i + 2] = xs[4 * i + 2] * scale if w2 >= threshold else zero
        ys[4 * i + 3] = xs[4 * i + 3] * scale if w3 >= threshold else zero
    if stop > whole:  # the last block, of fewer than four
        words = _block(np.uint64(whole), k0, k1)
        for i in range(4 * whole, x.size):
            y[i] = x[i] * scale if words[i - 4 * whole] >= threshold else zero


def dropout(x, p, key):
    y = np.empty_like(x)
    k0, k1 = np.uint64(key & philox.MASK), np.uint64(key >> 32)
    threshold, scale = np.uint64(philox.threshold(p)), x.dtype.type(philox.scale(p))
    flat = (x.reshape(-1), k0, k1, threshold, scale, y.reshape(-1))
    parallel(_dropout, -(-x.size // 4), 4096, *flat)
    return y
