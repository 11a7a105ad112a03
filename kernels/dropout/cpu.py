"""Dropout with Numba: the bits of a few hundred blocks into a buffer, then applied from there.

In two loops because each then vectorises; the buffer stays in the L1 cache.
"""

import numpy as np

from minillm.kernels.dropout import philox
from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.threads import parallel

_M0, _M1 = np.uint64(philox.MULTIPLIER_0), np.uint64(philox.MULTIPLIER_1)
_W0, _W1 = np.uint64(philox.WEYL_0), np.uint64(philox.WEYL_1)
_MASK, _HALF = np.uint64(philox.MASK), np.uint64(32)
_ROUNDS = philox.ROUNDS
_BLOCKS = 256  # of four words each


@jit
def _words(first, k0, k1, words):
    """The words of the blocks with counters from `first` on, four a block."""
    for i in range(words.size // 4):
        counter, key0, key1 = first + np.uint64(i), k0, k1
        c0, c1, c2, c3 = counter & _MASK, counter >> _HALF, np.uint64(0), np.uint64(0)
        for _ in range(_ROUNDS):
            product0, product1 = c0 * _M0, c2 * _M1
            c0, c2 = (product1 >> _HALF) ^ c1 ^ key0, (product0 >> _HALF) ^ c3 ^ key1
            c1, c3 = product1 & _MASK, product0 & _MASK
            key0, key1 = (key0 + _W0) & _MASK, (key1 + _W1) & _MASK
        words[4 * i], words[4 * i + 1] = np.uint32(c0), np.uint32(c1)
        words[4 * i + 2], words[4 * i + 3] = np.uint32(c2), np.uint32(c3)


@jit
def _dropout(start, stop, x, k0, k1, threshold, scale, y):
    zero, size = x.dtype.type(0), 4 * _BLOCKS
    words = np.empty(size, np.uint32)
    for part in range(start, stop):
        _words(np.uint64(part * _BLOCKS), k0, k1, words)
        xs, ys = x[part * size : (part + 1) * size], y[part * size : (part + 1) * size]
        for i in range(xs.size):
            ys[i] = xs[i] * scale if np.uint64(words[i]) >= threshold else zero


def dropout(x, p, key):
    y = np.empty(x.shape, x.dtype)  # not empty_like: elements count in row-major order
    k0, k1 = np.uint64(key & philox.MASK), np.uint64(key >> 32)
    threshold, scale = np.uint64(philox.threshold(p)), x.dtype.type(philox.scale(p))
    flat = (x.reshape(-1), k0, k1, threshold, scale, y.reshape(-1))
    parallel(_dropout, -(-x.size // (4 * _BLOCKS)), 16, *flat)
    return y
