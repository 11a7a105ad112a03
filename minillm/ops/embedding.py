"""Rows of a table, one for each id (Bengio et al. 2003, JMLR 3).

    y_n = weight[ids_n],   dweight_v = sum over n with ids_n = v of dy_n

since row v of the table is copied to every n that asks for it. The row of `padding_idx` gets no
gradient.

Shapes: weight `(V, C)`; ids any `(...)` of integers; y `(..., C)`. Saved: the ids and V; the table
itself is not needed.
"""

from minillm.errors import UserError
from minillm.kernels.embedding import embedding_backward, embedding_forward
from minillm.ops.inputs import flat
from minillm.ops.op import Op


class Embedding(Op):
    """y = weight[ids]."""

    @staticmethod
    def forward(ids, weight, *, padding_idx):
        if weight.ndim != 2:
            raise UserError(f"embedding: weight must be (V, C), got shape {weight.shape}")
        V, C = weight.shape
        if ids.dtype.kind not in "iu":
            raise UserError(f"embedding: ids must be integers, got {ids.dtype}")
        if padding_idx is not None and not -V <= padding_idx < V:
            raise UserError(f"embedding: padding_idx {padding_idx} is outside the {V} rows")
        index = flat(ids).astype("int64", copy=False)  # (N,)
        y = embedding_forward(weight, index)  # (N, C)
        return y.reshape(*ids.shape, C), (index, V, padding_idx)

    @staticmethod
    def backward(dy, saved, needs):
        ids, V, padding_idx = saved
        dweight = embedding_backward(flat(dy).reshape(len(ids), dy.shape[-1]), ids, V)
        if padding_idx is not None:
            dweight[padding_idx] = 0
        return None, dweight
