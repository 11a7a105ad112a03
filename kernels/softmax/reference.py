"""Softmax as the formula says, in NumPy or CuPy."""

from minillm.device import xp_of
from minillm.kernels.runtime.precision import float_like


def softmax_forward(x):
    dtype, (x,) = float_like(x)
    y = xp_of(x).exp(x - x.max(-1, keepdims=True))
    return (y / y.sum(-1, keepdims=True)).astype(dtype)


def softmax_backward(dy, y):
    dtype, (dy, y) = float_like(dy, y)
    return (y * (dy - (dy * y).sum(-1, keepdims=True))).astype(dtype)
