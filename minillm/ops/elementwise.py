"""Functions of each element alone; and choices between two arrays, element by element.

Where a derivative does not exist, PyTorch's choice: 0 for abs and relu at 0, half to each side
where maximum or minimum tie, 1 for clamp at its bounds.
"""

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.ops.activations import logistic
from minillm.ops.dtypes import DEFAULT_DTYPE, as_floating, promote
from minillm.ops.op import Op, broadcasting, shape_of, unbroadcast, where


def keep(dy, mask):
    """dy where `mask`, 0 elsewhere, even where dy is infinite."""
    return where(mask, dy, dy.dtype.type(0))


class Exp(Op):
    """y = e^x,  dx = dy y."""

    @staticmethod
    def forward(x):
        y = xp_of(x).exp(as_floating(x))
        return y, (y,)

    @staticmethod
    def backward(dy, saved, needs):
        (y,) = saved
        return (dy * y,)


class Log(Op):
    """y = log x,  dx = dy / x."""

    @staticmethod
    def forward(x):
        return xp_of(x).log(as_floating(x)), (x,)

    @staticmethod
    def backward(dy, saved, needs):
        (x,) = saved
        return (dy / x,)


class Sqrt(Op):
    """y = x^1/2,  dx = dy / 2y."""

    @staticmethod
    def forward(x):
        y = xp_of(x).sqrt(as_floating(x))
        return y, (y,)

    @staticmethod
    def backward(dy, saved, needs):
        (y,) = saved
        return (dy / (2 * y),)


class Rsqrt(Op):
    """y = x^-1/2,  dx = -dy y^3 / 2."""

    @staticmethod
    def forward(x):
        y = 1 / xp_of(x).sqrt(as_floating(x))
        return y, (y,)

    @staticmethod
    def backward(dy, saved, needs):
        (y,) = saved
        return (-0.5 * dy * (y * y * y),)


class Tanh(Op):
    """y = tanh x,  dx = dy (1 - y^2)."""

    @staticmethod
    def forward(x):
        y = xp_of(x).tanh(as_floating(x))
        return y, (y,)

    @staticmethod
    def backward(dy, saved, needs):
        (y,) = saved
        return (dy * (1 - y * y),)


class Sigmoid(Op):
    """y = 1 / (1 + e^-x),  dx = dy y (1 - y)."""

    @staticmethod
    def forward(x):
        y = logistic(as_floating(x))
        return y, (y,)

    @staticmethod
    def backward(dy, saved, needs):
        (y,) = saved
        return (dy * (y * (1 - y)),)


class Relu(Op):
    """y = max(x, 0),  dx = dy where x > 0."""

    @staticmethod
    def forward(x):
        y = xp_of(x).maximum(x, 0)
        return y, (y,)

    @staticmethod
    def backward(dy, saved, needs):
        (y,) = saved
        return (keep(dy, y > 0),)


class Abs(Op):
    """y = |x|,  dx = dy sign x."""

    @staticmethod
    def forward(x):
        return abs(x), (x,)

    @staticmethod
    def backward(dy, saved, needs):
        (x,) = saved
        return (dy * xp_of(x).sign(x),)


class Clamp(Op):
    """y = x limited to [min, max], numbers or None,  dx = dy where min <= x <= max."""

    @staticmethod
    def forward(x, *, min, max):
        if min is None and max is None:
            raise UserError("clamp: give min, max or both")
        y = x
        if min is not None:
            y = xp_of(x).maximum(*promote(y, min))
        if max is not None:
            y = xp_of(x).minimum(*promote(y, max))
        return y, (x, min, max)

    @staticmethod
    def backward(dy, saved, needs):
        x, min, max = saved
        if min is not None:
            dy = keep(dy, x >= min)
        if max is not None:
            dy = keep(dy, x <= max)
        return (dy,)


class Where(Op):
    """z = x where condition else y,  dx = dz where condition, 0 elsewhere;  dy the other way."""

    @staticmethod
    def forward(condition, x, y):
        xp, shapes = xp_of(condition), (shape_of(x), shape_of(y))
        if condition.dtype.kind != "b":
            raise UserError(f"where: the condition must be boolean, not {condition.dtype}")
        if not hasattr(x, "dtype") and not hasattr(y, "dtype"):
            x = xp.asarray(x)
            x = x.astype(DEFAULT_DTYPE) if x.dtype.kind == "f" else x
        x, y = promote(x, y)
        x = x if hasattr(x, "dtype") else xp.asarray(x, dtype=y.dtype)
        y = y if hasattr(y, "dtype") else xp.asarray(y, dtype=x.dtype)
        try:
            z = where(condition, x, y)
        except ValueError:
            raise UserError(
                f"where: shapes {condition.shape}, {shapes[0]} and {shapes[1]} do not broadcast"
            ) from None
        return z, (condition, *shapes)

    @staticmethod
    def backward(dz, saved, needs):
        condition, x_shape, y_shape = saved
        return (
            None,
            unbroadcast(keep(dz, condition), x_shape) if needs[1] else None,
            unbroadcast(keep(dz, ~condition), y_shape) if needs[2] else None,
        )


class Maximum(Op):
    """z = max(x, y),  dx = dz where x > y, dz / 2 where x = y;  dy the other way."""

    @staticmethod
    def forward(x, y):
        x, y = promote(x, y)
        return broadcasting("maximum", xp_of(x).maximum, x, y), (x, y)

    @staticmethod
    def backward(dz, saved, needs):
        x, y = saved
        return _to_winner(dz, x, y, x > y, x < y, needs)


class Minimum(Op):
    """z = min(x, y),  dx = dz where x < y, dz / 2 where x = y;  dy the other way."""

    @staticmethod
    def forward(x, y):
        x, y = promote(x, y)
        return broadcasting("minimum", xp_of(x).minimum, x, y), (x, y)

    @staticmethod
    def backward(dz, saved, needs):
        x, y = saved
        return _to_winner(dz, x, y, x < y, x > y, needs)


def _to_winner(dz, x, y, x_wins, y_wins, needs):
    half = where(x == y, dz / 2, dz)
    return (
        unbroadcast(keep(half, ~y_wins), shape_of(x)) if needs[0] else None,
        unbroadcast(keep(half, ~x_wins), shape_of(y)) if needs[1] else None,
    )
