"""Dropout in Numba CUDA: a thread computes one Philox block, four words for four elements.

Words are kept in 64 bits, so that the upper half of a product is a shift away.
"""

import numpy as np

from minillm.device import xp_of
from minillm.kernels.dropout import philox
from minillm.kernels.runtime.numba_blocks import THREADS, blocks
from minillm.kernels.runtime.numba_gpu import cuda, float32, kernel, uint64

M0, M1 = np.uint64(philox.MULTIPLIER_0), np.uint64(philox.MULTIPLIER_1)
W0, W1 = np.uint64(philox.WEYL_0), np.uint64(philox.WEYL_1)
MASK, HALF = np.uint64(philox.MASK), np.uint64(32)
ROUNDS = philox.ROUNDS


@kernel
def _dropout(x, k0, k1, threshold, scale, y):
    i = cuda.grid(1)
    if 4 * i >= x.size:
        return
    counter = uint64(i)
    c0, c1, c2, c3 = counter & MASK, counter >> HALF, uint64(0), uint64(0)
    for _ in range(ROUNDS):
        product0, product1 = c0 * M0, c2 * M1
        c0, c2 = (product1 >> HALF) ^ c1 ^ k0, (product0 >> HALF) ^ c3 ^ k1
        c1, c3 = product1 & MASK, product0 & MASK
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK

    words = cuda.local.array(4, uint64)
    words[0], words[1], words[2], words[3] = c0, c1, c2, c3
    for j in range(4):
        at = 4 * i + j
        if at < x.size:
            y[at] = x[at] * scale if words[j] >= threshold else float32(0)


def dropout(x, p, key):
    y = xp_of(x).empty(x.shape, x.dtype)  # not empty_like: elements count in row-major order
    k0, k1 = np.uint64(key & philox.MASK), np.uint64(key >> 32)
    threshold, scale = np.uint64(philox.threshold(p)), philox.scale(p)
    args = x.reshape(-1), k0, k1, threshold, scale, y.reshape(-1)
    _dropout[blocks(blocks(x.size, 4)), THREADS](*args)
    return y
