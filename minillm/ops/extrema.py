"""Largest and smallest along dimensions, where they are, and the truth of any or all.

Elements that tie for amax or amin share the gradient equally, as in PyTorch. The positions, and any
and all, are not recorded: they are not floating.
"""

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.ops.op import Op
from minillm.ops.reduce import count, one_dim, some_dims, stretch


def _not_empty(name, x, dims):
    if count(x.shape, dims) == 0:
        raise UserError(f"{name} over dim {dims} of shape {x.shape}: nothing to choose from")


class Amax(Op):
    """y = max x,  dx = dy / (number of elements equal to y) at those elements."""

    @staticmethod
    def forward(x, *, dim, keepdim):
        dims = some_dims(dim, x.ndim)
        _not_empty("amax", x, dims)
        y = x.max(axis=dims, keepdims=keepdim)
        return y, (x, y, dims)

    @staticmethod
    def backward(dy, saved, needs):
        return (_share(dy, *saved),)


class Amin(Op):
    """y = min x,  dx = dy / (number of elements equal to y) at those elements."""

    @staticmethod
    def forward(x, *, dim, keepdim):
        dims = some_dims(dim, x.ndim)
        _not_empty("amin", x, dims)
        y = x.min(axis=dims, keepdims=keepdim)
        return y, (x, y, dims)

    @staticmethod
    def backward(dy, saved, needs):
        return (_share(dy, *saved),)


def _share(dy, x, y, dims):
    reached = x == stretch(y, x.shape, dims)
    ties = xp_of(x).maximum(reached.sum(axis=dims, keepdims=True), 1).astype(dy.dtype)  # 0 for NaN
    return stretch(dy, x.shape, dims) * reached / ties


class Argmax(Op):
    """Position of the first largest element along `dim`, or in the flattened array for None."""

    @staticmethod
    def forward(x, *, dim, keepdim):
        return _position("argmax", x, dim, keepdim), ()


class Argmin(Op):
    """Position of the first smallest element along `dim`, or in the flattened array for None."""

    @staticmethod
    def forward(x, *, dim, keepdim):
        return _position("argmin", x, dim, keepdim), ()


def _position(name, x, dim, keepdim):
    dim = None if dim is None or x.ndim == 0 else one_dim(dim, x.ndim)
    _not_empty(name, x, some_dims(dim, x.ndim))
    return getattr(xp_of(x), name)(x, axis=dim, keepdims=keepdim)


class Any(Op):
    """Whether any element along `dim` is true."""

    @staticmethod
    def forward(x, *, dim, keepdim):
        return x.any(axis=some_dims(dim, x.ndim), keepdims=keepdim), ()


class All(Op):
    """Whether all elements along `dim` are true."""

    @staticmethod
    def forward(x, *, dim, keepdim):
        return x.all(axis=some_dims(dim, x.ndim), keepdims=keepdim), ()
