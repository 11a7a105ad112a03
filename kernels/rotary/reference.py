"""Rotary embedding as the formula says, in NumPy or CuPy."""

from minillm.device import xp_of
from minillm.kernels.runtime.precision import float_like


def rotary(x, cos, sin, inverse):
    dtype, (x, cos, sin) = float_like(x, cos, sin)
    sin = -sin if inverse else sin
    half = x.shape[-1] // 2
    x1, x2 = x[..., :half], x[..., half:]
    return xp_of(x).concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(dtype)
