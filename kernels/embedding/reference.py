"""Embedding by indexing, in NumPy or CuPy."""

from minillm.device import xp_of
from minillm.kernels.embedding import check_ids
from minillm.kernels.runtime.precision import float_like


def embedding_forward(weight, ids):
    check_ids(ids, len(weight))
    return weight[ids]


def embedding_backward(dy, ids, V):
    check_ids(ids, V)
    xp = xp_of(dy)
    dtype, (dy,) = float_like(dy)
    dweight = xp.zeros((V, dy.shape[1]), dy.dtype)
    xp.add.at(dweight, ids, dy)
    return dweight.astype(dtype)
