"""Sums over dimensions and what is made of them: mean, var, std, norm, logsumexp, cumsum.

`dim` is an integer, a tuple, or None for all; the gradient of a reduced array is stretched back
over the dimensions that were summed. Sums of 16-bit floats are taken in float32; integers sum in
int64.
"""

import math
import operator

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.ops.dtypes import as_floating, is_floating, promote
from minillm.ops.op import Op, where


def one_dim(dim, ndim):
    """`dim` counted from 0; a 0-d array has a dimension 0 as in PyTorch."""
    n = max(ndim, 1)
    if not -n <= dim < n:
        raise UserError(f"dim {dim} is out of range for a tensor of {ndim} dimensions")
    return dim % n


def some_dims(dim, ndim):
    """`dim` (integer, tuple or None for all) as a tuple of dimensions counted from 0."""
    if dim is None:
        return tuple(range(ndim))
    dims = tuple(one_dim(d, ndim) for d in (dim if isinstance(dim, tuple | list) else (dim,)))
    if len(set(dims)) < len(dims):
        raise UserError(f"dim {dim} names a dimension twice")
    return dims if ndim else ()


def total(x, dims, keepdim):
    """Sum of `x` over `dims` (None for all), taken in a wide enough dtype, in that of x (int64 for
    integers)."""
    if not is_floating(x):
        return x.sum(axis=dims, keepdims=keepdim, dtype="int64")
    if x.dtype.itemsize >= 4:
        return x.sum(axis=dims, keepdims=keepdim)
    return x.sum(axis=dims, keepdims=keepdim, dtype="float32").astype(x.dtype)


def stretch(y, shape, dims):
    """`y`, reduced over `dims` with or without keepdim, as a read-only view of shape `shape`."""
    y = y.reshape(tuple(1 if i in dims else n for i, n in enumerate(shape)))
    return xp_of(y).broadcast_to(y, shape)


def count(shape, dims):
    """How many elements are reduced to one."""
    return math.prod(shape[d] for d in dims)


def _floating(name, x):
    if not is_floating(x):
        raise UserError(
            f"{name} needs a floating dtype, got {x.dtype}; convert with .to('float32')"
        )


class Sum(Op):
    """y = sum x,  dx = dy."""

    @staticmethod
    def forward(x, *, dim, keepdim):
        dims = some_dims(dim, x.ndim)
        return total(x, dims, keepdim), (x.shape, dims)

    @staticmethod
    def backward(dy, saved, needs):
        return (stretch(dy, *saved),)


class Mean(Op):
    """y = sum x / n,  dx = dy / n."""

    @staticmethod
    def forward(x, *, dim, keepdim):
        _floating("mean", x)
        dims = some_dims(dim, x.ndim)
        return total(x, dims, keepdim) / count(x.shape, dims), (x.shape, dims)

    @staticmethod
    def backward(dy, saved, needs):
        shape, dims = saved
        return (stretch(dy / count(shape, dims), shape, dims),)


def _variance(x, dims, correction):
    """The variance with kept dimensions, the deviations from the mean, and the divisor."""
    n = count(x.shape, dims)
    deviation = x - total(x, dims, True) / n
    divisor = max(0, n - correction)
    return total(deviation * deviation, dims, True) / divisor, deviation, divisor


def _drop(y, dims, keepdim):
    return y if keepdim else y.reshape(tuple(n for i, n in enumerate(y.shape) if i not in dims))


class Var(Op):
    """y = sum (x - mean)^2 / (n - correction),  dx = dy 2 (x - mean) / (n - correction)."""

    @staticmethod
    def forward(x, *, dim, keepdim, correction):
        _floating("var", x)
        dims = some_dims(dim, x.ndim)
        y, deviation, divisor = _variance(x, dims, correction)
        return _drop(y, dims, keepdim), (deviation, dims, divisor)

    @staticmethod
    def backward(dy, saved, needs):
        deviation, dims, divisor = saved
        return (stretch(dy * 2 / divisor, deviation.shape, dims) * deviation,)


class Std(Op):
    """y = var^1/2,  dx = dy (x - mean) / (y (n - correction)), and 0 where y = 0."""

    @staticmethod
    def forward(x, *, dim, keepdim, correction):
        _floating("std", x)
        dims = some_dims(dim, x.ndim)
        variance, deviation, divisor = _variance(x, dims, correction)
        y = xp_of(x).sqrt(_drop(variance, dims, keepdim))
        return y, (y, deviation, dims, divisor)

    @staticmethod
    def backward(dy, saved, needs):
        y, deviation, dims, divisor = saved
        scale = dy * (y != 0) / (where(y == 0, 1, y) * divisor)
        return (stretch(scale, deviation.shape, dims) * deviation,)


def _largest(x, dims, of_nothing):
    """The maximum with kept dimensions; `of_nothing` where there is nothing to choose from."""
    if count(x.shape, dims):
        return x.max(axis=dims, keepdims=True)
    shape = tuple(1 if i in dims else n for i, n in enumerate(x.shape))
    return xp_of(x).full(shape, of_nothing, x.dtype)


class LogSumExp(Op):
    """y = log sum e^x = m + log sum e^(x - m) with m = max x,  dx = dy e^(x - y)."""

    @staticmethod
    def forward(x, *, dim, keepdim):
        x, xp = as_floating(x), xp_of(x)
        dims = some_dims(dim, x.ndim)
        m = _largest(x, dims, -math.inf)
        m = where(abs(m) == math.inf, 0, m)  # inf - inf would be NaN
        y = xp.log(total(xp.exp(x - m), dims, True)) + m
        return _drop(y, dims, keepdim), (x, y, dims)

    @staticmethod
    def backward(dy, saved, needs):
        x, y, dims = saved
        xp = xp_of(x)
        weight = xp.exp(x - where(y == -math.inf, 0, y))  # of nothing but e^-inf: 0
        return (stretch(dy, x.shape, dims) * weight,)


class Norm(Op):
    """y = (sum |x|^p)^1/p,  dx = dy sign(x) (|x| / y)^(p-1), and 0 where y = 0.

    p = inf: y = max |x|, and the elements that reach it share dy.
    """

    @staticmethod
    def forward(x, *, p, dim, keepdim):
        _floating("norm", x)
        if p <= 0:
            raise UserError(f"norm: p must be positive, got {p}")
        xp, dims = xp_of(x), some_dims(dim, x.ndim)
        if p == math.inf:
            y = _largest(abs(x), dims, 0)
        elif p == 2:
            y = xp.sqrt(total(x * x, dims, True))
        else:
            y = operator.pow(*promote(total(abs(x) ** p, dims, True), 1 / p))
        return _drop(y, dims, keepdim), (x, y, dims, p)

    @staticmethod
    def backward(dy, saved, needs):
        x, y, dims, p = saved
        xp = xp_of(x)
        dy = stretch(dy, x.shape, dims)
        if p == math.inf:
            reached = (abs(x) == y) & (y != 0)
            share = xp.maximum(reached.sum(axis=dims, keepdims=True), 1)
            return (dy * xp.sign(x) * reached / share.astype(x.dtype),)
        y = where(y == 0, 1, y)
        if p == 2:
            return (dy * (x / y),)
        ratio = where(x == 0, 1, abs(x) / y)  # of 0 a power below 0 would be infinite
        return (dy * xp.sign(x) * ratio ** (p - 1),)


def _running_total(x, dim):
    """Sums up to each element, in the dtypes of `total`."""
    if not is_floating(x):
        return x.cumsum(axis=dim, dtype="int64")
    if x.dtype.itemsize >= 4:
        return x.cumsum(axis=dim)
    return x.cumsum(axis=dim, dtype="float32").astype(x.dtype)


class CumSum(Op):
    """y[i] = sum of x[j] over j <= i,  dx[j] = sum of dy[i] over i >= j."""

    @staticmethod
    def forward(x, *, dim):
        dim = one_dim(dim, x.ndim)
        if x.ndim == 0:
            return x.copy(), (None,)
        return _running_total(x, dim), (dim,)

    @staticmethod
    def backward(dy, saved, needs):
        (dim,) = saved
        if dim is None:
            return (dy,)
        xp = xp_of(dy)
        return (xp.flip(_running_total(xp.flip(dy, dim), dim), dim),)
