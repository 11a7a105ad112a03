"""The matrix product with Numba, blocked as BLAS libraries are.

Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication":

    registers   4 rows of a by two registers of b's columns: `simd.product`
    L1 cache    a panel of b, as wide as that, DEPTH deep, stored so that it is read in order
    L2 cache    a block of a, HEIGHT rows by DEPTH, packed likewise
    threads     blocks of HEIGHT rows of c

Every element of c is summed in the same order whatever the number of threads.
"""

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.simd import COLUMNS, product
from minillm.kernels.runtime.threads import parallel

HEIGHT = 64
DEPTH = 256


@jit
def _pack(start, stop, b, panels):
    """Columns of b into panels (panel, K, width), the last one padded with zeros."""
    K, width = panels.shape[1:]
    for p in range(start, stop):
        columns = b[:, p * width : (p + 1) * width]
        for k in range(K):
            row, out = columns[k], panels[p, k]
            for n in range(row.size):
                out[n] = row[n]
            for n in range(row.size, width):
                out[n] = 0


@jit
def _multiply(start, stop, a, panels, c):
    """Blocks [start, stop) of HEIGHT rows of c = a b."""
    (M, K), N, width = a.shape, c.shape[1], panels.shape[2]
    block_a = np.zeros((HEIGHT, DEPTH), c.dtype)
    block_c = np.empty((HEIGHT, panels.shape[0] * width), c.dtype)
    for block in range(start, stop):
        m0 = block * HEIGHT
        rows = min(HEIGHT, M - m0)
        block_c[:] = 0
        for k0 in range(0, K, DEPTH):
            depth = min(DEPTH, K - k0)
            for r in range(rows):
                row, out = a[m0 + r, k0 : k0 + depth], block_a[r]
                for k in range(depth):
                    out[k] = row[k]
            for p in range(panels.shape[0]):
                columns = block_c[:, p * width : (p + 1) * width]
                product(columns, block_a, panels[p, k0 : k0 + depth])
        for r in range(rows):
            row, out = block_c[r], c[m0 + r]
            for n in range(N):
                out[n] = row[n]


def _matmul_2d(a, b, c):
    (M, K), N = a.shape, b.shape[1]
    width = COLUMNS // c.itemsize
    panels = np.empty((-(-N // width), K, width), c.dtype)
    worth_a_thread = 1 + 2_000_000 // max(HEIGHT * K * N, 1)
    parallel(_pack, len(panels), 1 + 16384 // max(K * width, 1), b, panels)
    parallel(_multiply, -(-M // HEIGHT), worth_a_thread, a, panels, c)


def matmul(a, b):
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    c = np.empty((*batch, a.shape[-2], b.shape[-1]), a.dtype)
    a, b = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    for i in np.ndindex(batch):
        _matmul_2d(a[i], b[i], c[i])
    return c
