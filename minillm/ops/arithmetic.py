"""Arithmetic of two arrays or an array and a number, with broadcasting; and change of dtype.

Where an input was stretched to the output's shape, its gradient is summed back over the stretched
dimensions (`unbroadcast`). Numbers take part by their kind only (see dtypes.py).
"""

import operator

import numpy as np

from minillm.device import xp_of
from minillm.ops.dtypes import as_floating, promote
from minillm.ops.op import Op, broadcasting, shape_of, unbroadcast, where


class Add(Op):
    """z = x + y,  dx = dz,  dy = dz."""

    @staticmethod
    def forward(x, y):
        z = broadcasting("add", operator.add, *promote(x, y))
        return z, (shape_of(x), shape_of(y))

    @staticmethod
    def backward(dz, saved, needs):
        x_shape, y_shape = saved
        return (
            unbroadcast(dz, x_shape) if needs[0] else None,
            unbroadcast(dz, y_shape) if needs[1] else None,
        )


class Sub(Op):
    """z = x - y,  dx = dz,  dy = -dz."""

    @staticmethod
    def forward(x, y):
        z = broadcasting("sub", operator.sub, *promote(x, y))
        return z, (shape_of(x), shape_of(y))

    @staticmethod
    def backward(dz, saved, needs):
        x_shape, y_shape = saved
        return (
            unbroadcast(dz, x_shape) if needs[0] else None,
            -unbroadcast(dz, y_shape) if needs[1] else None,
        )


class Neg(Op):
    """y = -x,  dx = -dy."""

    @staticmethod
    def forward(x):
        return -x, ()

    @staticmethod
    def backward(dy, saved, needs):
        return (-dy,)


class Mul(Op):
    """z = x y,  dx = dz y,  dy = dz x. Beside a number, which has no gradient, x is not saved."""

    @staticmethod
    def forward(x, y):
        x, y = promote(x, y)
        z = broadcasting("mul", operator.mul, x, y)
        keep_x = x if hasattr(y, "dtype") or not hasattr(x, "dtype") else None
        keep_y = y if hasattr(x, "dtype") or not hasattr(y, "dtype") else None
        return z, (keep_x, keep_y, shape_of(x), shape_of(y))

    @staticmethod
    def backward(dz, saved, needs):
        x, y, x_shape, y_shape = saved
        return (
            unbroadcast(dz * y, x_shape) if needs[0] else None,
            unbroadcast(dz * x, y_shape) if needs[1] else None,
        )


class Div(Op):
    """z = x / y,  dx = dz / y,  dy = -dz z / y. Integers divide in the default floating dtype."""

    @staticmethod
    def forward(x, y):
        x, y = promote(x, y)
        x = as_floating(x) if hasattr(x, "dtype") else x
        y = as_floating(y) if hasattr(y, "dtype") else y
        z = broadcasting("div", operator.truediv, x, y)
        return z, (z if hasattr(y, "dtype") else None, y, shape_of(x), shape_of(y))

    @staticmethod
    def backward(dz, saved, needs):
        z, y, x_shape, y_shape = saved
        return (
            unbroadcast(dz / y, x_shape) if needs[0] else None,
            unbroadcast(-dz * z / y, y_shape) if needs[1] else None,
        )


class FloorDiv(Op):
    """z = floor(x / y). Not recorded: constant wherever it has a derivative."""

    @staticmethod
    def forward(x, y):
        return broadcasting("floor_div", operator.floordiv, *promote(x, y)), ()


class Remainder(Op):
    """z = x - floor(x / y) y,  dx = dz,  dy = -dz floor(x / y)."""

    @staticmethod
    def forward(x, y):
        x, y = promote(x, y)
        return broadcasting("remainder", operator.mod, x, y), (x, y)

    @staticmethod
    def backward(dz, saved, needs):
        x, y = saved
        return (
            unbroadcast(dz, shape_of(x)) if needs[0] else None,
            unbroadcast(-dz * (x // y), shape_of(y)) if needs[1] else None,
        )


class Pow(Op):
    """z = x^y,  dx = dz y x^(y-1),  dy = dz z log x;  0 where y = 0, or x = 0 and y >= 0."""

    @staticmethod
    def forward(x, y):
        power = y.item() if isinstance(y, np.generic) else y
        x, y = promote(x, y)
        z = broadcasting("pow", operator.pow, x, y)
        if not hasattr(power, "dtype"):
            return z, (x, power, None)
        if not hasattr(x, "shape") or isinstance(x, np.generic):
            x = xp_of(y).asarray(x, dtype=z.dtype)
        return z, (x, y, z)

    @staticmethod
    def backward(dz, saved, needs):
        x, y, z = saved
        xp, dx, dy = xp_of(x), None, None
        if needs[0] and z is None:  # y is a number
            dx = dz * (y * x ** (y - 1)) if y != 0 else xp.zeros_like(dz)
        elif needs[0]:
            dx = unbroadcast(dz * (y * x ** (where(y == 0, 1, y) - 1)), x.shape)
        if needs[1]:
            log_x = xp.log(where((x == 0) & (y >= 0), 1, x))
            dy = unbroadcast(dz * z * log_x, y.shape)
        return dx, dy


class Compare(Op):
    """z = function(x, y) for a comparison or a bitwise operator. Not recorded: not floating."""

    @staticmethod
    def forward(x, y, *, function):
        return broadcasting(function.__name__.strip("_"), function, *promote(x, y)), ()


class Cast(Op):
    """y = x in another dtype,  dx = dy in x's."""

    lasting = True  # autocast uses one cast of a weight in many graphs

    @staticmethod
    def forward(x, *, dtype):
        return x.astype(dtype), (x.dtype,)

    @staticmethod
    def backward(dy, saved, needs):
        return (dy.astype(saved[0]),)
