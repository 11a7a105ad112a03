"""Softmax and its logarithm over any dimension (Bridle 1990).

    softmax       y_c = e^(x_c - m) / sum_k e^(x_k - m),   m = max_k x_k
    log_softmax   y_c = x_c - m - log sum_k e^(x_k - m)

Every y depends on every x of its row: dy_c/dx_k = y_c ([c = k] - y_k), and for the logarithm
[c = k] - e^(y_k); summed over c against dy,

    softmax       dx_k = y_k (dy_k - sum_c dy_c y_c)
    log_softmax   dx_k = dy_k - e^(y_k) sum_c dy_c

Shapes: x, y any, the same; the kernels take rows, so `dim` is moved to the end, which copies unless
it is the last. Saved: y, from which the gradient follows without x.
"""

from minillm.device import xp_of
from minillm.kernels.softmax import softmax_backward, softmax_forward
from minillm.ops.inputs import floating
from minillm.ops.op import Op, rows
from minillm.ops.reduce import one_dim, total


def _over(dim, kernel, *arrays):
    """`kernel` on the rows of `arrays` that run along `dim`."""
    xp, shape = xp_of(arrays[0]), arrays[0].shape
    if arrays[0].size == 0:
        return xp.empty_like(arrays[0])
    arrays = [xp.moveaxis(a.reshape(shape or (1,)), dim, -1) for a in arrays]
    y = kernel(*map(rows, arrays)).reshape(arrays[0].shape)
    return xp.moveaxis(y, -1, dim).reshape(shape)


class Softmax(Op):
    """y = e^x / sum e^x along `dim`."""

    @staticmethod
    def forward(x, *, dim):
        floating("softmax", x)
        dim = one_dim(dim, x.ndim)
        y = _over(dim, softmax_forward, x)
        return y, (y, dim)

    @staticmethod
    def backward(dy, saved, needs):
        y, dim = saved
        return (_over(dim, softmax_backward, dy, y),)


class LogSoftmax(Op):
    """y = x - log sum e^x along `dim`."""

    @staticmethod
    def forward(x, *, dim):
        floating("log_softmax", x)
        xp, dim = xp_of(x), one_dim(dim, x.ndim)
        axis = (dim,) if x.ndim else ()
        if x.size == 0:
            return x.copy(), (x, axis)
        y = x - x.max(axis=axis, keepdims=True)
        y = y - xp.log(total(xp.exp(y), axis, True))
        return y, (y, axis)

    @staticmethod
    def backward(dy, saved, needs):
        y, axis = saved
        return (dy - xp_of(y).exp(y) * total(dy, axis, True),)
