"""Smooth activations made of array operations: silu and softplus.

With s(x) = 1 / (1 + e^-x), the logistic function, whose derivative is s (1 - s),

    silu (Elfwing, Uchibe & Doya 2017, arXiv 1702.03118)   y = x s,   dx = dy s (1 + x (1 - s))
    softplus (Dugas et al. 2001)      y = log(1 + e^(beta x)) / beta,   dx = dy s(beta x)

Softplus is x itself, and dx is dy, where beta x > threshold. Shapes: x, y any, the same. Saved: x
alone; s is computed again rather than kept, as it is one exp an element.
"""

from minillm.device import Array, xp_of
from minillm.ops.inputs import floating
from minillm.ops.op import Op, where


def logistic(x: Array) -> Array:
    """1 / (1 + e^-x), by e^-|x| so that nothing overflows and small results keep their digits."""
    xp = xp_of(x)
    e = xp.exp(-abs(x))
    return where(x < 0, e, xp.ones_like(e)) / (1 + e)


def softplus(x: Array) -> Array:
    """log(1 + e^x), likewise by e^-|x|."""
    xp = xp_of(x)
    return xp.maximum(x, x.dtype.type(0)) + xp.log1p(xp.exp(-abs(x)))


class Silu(Op):
    """y = x s(x)."""

    @staticmethod
    def forward(x):
        floating("silu", x)
        return x * logistic(x), (x,)

    @staticmethod
    def backward(dy, saved, needs):
        (x,) = saved
        s = logistic(x)
        return (dy * s * (1 + x * (1 - s)),)


class Softplus(Op):
    """y = log(1 + e^(beta x)) / beta."""

    @staticmethod
    def forward(x, *, beta, threshold):
        floating("softplus", x)
        beta = x.dtype.type(beta)  # a Python number would turn bfloat16 into float32
        z = beta * x
        return where(z > threshold, x, softplus(z) / beta), (x, beta, threshold)

    @staticmethod
    def backward(dy, saved, needs):
        x, beta, threshold = saved
        z = beta * x
        return (where(z > threshold, dy, dy * logistic(z)),)
