"""Gaussian error linear unit (Hendrycks & Gimpel 2016, arXiv 1606.08415).

    erf form    y = x F(x),  F(x) = (1 + erf(x / sqrt 2)) / 2, the normal distribution function
    tanh form   y = x (1 + t) / 2,  t = tanh(u),  u = sqrt(2/pi) (x + 0.044715 x^3)

By the product rule, with F' = exp(-x^2 / 2) / sqrt(2 pi) and t' = (1 - t^2) u',

    erf form    dx = dy (F + x F')
    tanh form   dx = dy ((1 + t) / 2 + x (1 - t^2) u' / 2),  u' = sqrt(2/pi) (1 + 0.134145 x^2)

Shapes: x, y any, the same. Saved: x alone; erf or tanh is computed again, since a second array of
this size (four times the width of the model) costs more to write and read than to recompute.
"""

from minillm.kernels.gelu import gelu_backward, gelu_forward
from minillm.ops.inputs import flat, floating
from minillm.ops.op import Op


class Gelu(Op):
    """y = x F(x), element by element; `tanh=True` approximates F."""

    @staticmethod
    def forward(x, *, tanh):
        floating("gelu", x)
        y = gelu_forward(flat(x), tanh)
        return y.reshape(x.shape), (x, tanh)

    @staticmethod
    def backward(dy, saved, needs):
        x, tanh = saved
        dx = gelu_backward(flat(dy), flat(x), tanh)
        return (dx.reshape(x.shape),)
