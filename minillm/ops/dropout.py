"""Dropout (Srivastava et al. 2014, JMLR 15) without a stored mask.

    y_i = x_i m_i / (1 - p),   m_i = 1 with probability 1 - p, else 0,   dx_i = dy_i m_i / (1 - p)

m_i is drawn from a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3") as a function of the key and of i alone, so the backward is the forward run on dy.

Shapes: x, y any, the same; i counts elements in row-major order whatever the strides. Saved: the
key and p, instead of one mask byte an element.
"""

from minillm.device import xp_of
from minillm.kernels.dropout import dropout
from minillm.ops.inputs import flat, floating
from minillm.ops.op import Op


def _drop(x, p, key):
    if p == 1:  # nothing is left to scale up
        return xp_of(x).zeros_like(x)
    return dropout(flat(x), p, key).reshape(x.shape)


class Dropout(Op):
    """y = x m / (1 - p) with m drawn from `key`."""

    @staticmethod
    def forward(x, *, p, key):
        floating("dropout", x)
        return _drop(x, p, key), (p, key)

    @staticmethod
    def backward(dy, saved, needs):
        p, key = saved
        return (_drop(dy, p, key),)
