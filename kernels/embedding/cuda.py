"""Embedding in CUDA C++: what the steps of the ladder are given.

The sorting backward step adds in levels: each turns every ROWS gradients, in the order of their
ids, into finished rows of dweight and two partial sums, until one chunk is all there is.
"""

from minillm.device import xp_of
from minillm.kernels.embedding import check_ids
from minillm.kernels.runtime.cuda import accum, blocks


def embedding_forward(program, weight, ids):
    xp, (V, C), N = xp_of(weight), weight.shape, len(ids)
    check_ids(ids, V)
    weight, ids = xp.ascontiguousarray(weight), xp.ascontiguousarray(ids, xp.int64)
    y = xp.empty((N, C), weight.dtype)
    grid = blocks(y.size, program.THREADS * program.ITEMS)
    program.launch("embedding_forward", weight.dtype, grid, y, weight, ids, y.size, C)
    return y


def embedding_backward(program, dy, ids, V):
    xp, (N, C) = xp_of(dy), dy.shape
    check_ids(ids, V)
    dy, ids = xp.ascontiguousarray(dy), xp.ascontiguousarray(ids, xp.int64)
    if not program.SORTS:
        dweight = xp.empty((V, C), dy.dtype)
        grid = blocks(dweight.size, program.THREADS)
        program.launch("embedding_backward", dy.dtype, grid, dweight, dy, ids, N, V, C)
        return dweight
    dweight = xp.zeros((V, C), dy.dtype)
    order = xp.argsort(ids, kind="stable")  # equal ids stay in the order of n
    ids, kernel, source = ids[order], "embedding_backward", (dy, order)
    while N:
        chunks = blocks(N, program.ROWS)
        partial = xp.empty((2 * chunks, C), accum(dy.dtype))
        partial_ids = xp.empty(2 * chunks, xp.int64)
        down = min(blocks(chunks, program.WARPS), program.MOST_BLOCKS_Y)
        grid = (blocks(C, 32 * program.COLUMNS), down)
        program.launch(
            kernel, dy.dtype, grid, dweight, partial, partial_ids, *source, ids, N, C, chunks
        )
        kernel, source, ids = "embedding_backward_level", (partial,), partial_ids
        N = 2 * chunks if chunks > 1 else 0
    return dweight
