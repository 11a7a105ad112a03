"""The matrix product in Numba CUDA, in tiles, so that memory is read TILE times less.

A block computes TILE x TILE elements of c, a thread one. Its threads carry a tile of a and one of b
into shared memory, multiply them from there, and go on along K (CUDA C++ Programming Guide, "Shared
Memory").
"""

import math

import numpy as np

from minillm.device import xp_of
from minillm.kernels.runtime.numba_blocks import blocks
from minillm.kernels.runtime.numba_gpu import cuda, float32, kernel

TILE = 16


@kernel
def _matmul(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), float32)
    b_tile = cuda.shared.array((TILE, TILE), float32)
    batch, M, K = a.shape
    N = b.shape[2]
    column, row = cuda.threadIdx.x, cuda.threadIdx.y  # neighbouring threads, neighbouring columns
    i, j, z = cuda.blockIdx.x * TILE + row, cuda.blockIdx.y * TILE + column, cuda.blockIdx.z
    total = float32(0)
    for k0 in range(0, K, TILE):
        inside_a, inside_b = i < M and k0 + column < K, k0 + row < K and j < N
        a_tile[row, column] = a[z, i, k0 + column] if inside_a else float32(0)
        b_tile[row, column] = b[z, k0 + row, j] if inside_b else float32(0)
        cuda.syncthreads()  # the tiles are there
        for k in range(TILE):
            total += a_tile[row, k] * b_tile[k, column]
        cuda.syncthreads()  # nobody needs them any more
    if i < M and j < N:
        c[z, i, j] = total


def matmul(a, b):
    (M, K), N = a.shape[-2:], b.shape[-1]
    xp = xp_of(a)
    if b.ndim == 2:  # one product, not one a batch entry
        batch, M = (), math.prod(a.shape[:-1])
        shape = (*a.shape[:-1], N)
    else:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (xp.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
        shape = (*batch, M, N)
    size = math.prod(batch)
    a, b = a.reshape(size, M, K), b.reshape(size, K, N)
    c = xp.empty((size, M, N), a.dtype)
    _matmul[(blocks(M, TILE), blocks(N, TILE), size), (TILE, TILE)](a, b, c)
    return c.reshape(shape)
