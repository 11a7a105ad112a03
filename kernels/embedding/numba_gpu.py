"""Embedding in Numba CUDA: a block a row, of the result forwards and of the table backwards.

Backwards, several rows of dy may belong to one row of the table. They are sorted by it first, and
the block of a row adds its own in their order: no atomics, and the same sum every time.
"""

from minillm.device import xp_of
from minillm.kernels.embedding import check_ids
from minillm.kernels.runtime.numba_blocks import THREADS
from minillm.kernels.runtime.numba_gpu import cuda, float32, kernel


@kernel
def _forward(weight, ids, y):
    n = cuda.blockIdx.x
    for c in range(cuda.threadIdx.x, y.shape[1], THREADS):
        y[n, c] = weight[ids[n], c]


def embedding_forward(weight, ids):
    check_ids(ids, len(weight))
    y = xp_of(weight).empty((ids.size, weight.shape[1]), weight.dtype)
    _forward[ids.size, THREADS](weight, ids, y)
    return y


@kernel
def _backward(dy, order, starts, dweight):
    i = cuda.blockIdx.x
    for c in range(cuda.threadIdx.x, dweight.shape[1], THREADS):
        total = float32(0)
        for k in range(starts[i], starts[i + 1]):
            total += dy[order[k], c]
        dweight[i, c] = total


def embedding_backward(dy, ids, V):
    check_ids(ids, V)
    xp = xp_of(dy)
    order = xp.argsort(ids, kind="stable")  # rows of dy, those of one id together, in their order
    starts = xp.searchsorted(ids[order], xp.arange(V + 1))  # where those of each id begin
    dweight = xp.empty((V, dy.shape[1]), dy.dtype)
    _backward[V, THREADS](dy, order, starts, dweight)
    return dweight
