"""Affine map of the last dimension, the layer that most of a model's arithmetic goes into.

    y = x weight^T + bias

With all leading dimensions flattened to N rows each direction is one matrix product; transposed,
y_no = sum_i x_ni weight_oi + bias_o gives

    dx = dy weight,   dweight = dy^T x,   dbias = sum_n dy_n

Shapes: x `(..., I)`, weight `(O, I)`, bias `(O,)` or None, y `(..., O)`. Saved: x and weight, a
factor each of the other's gradient. The bias is added in place into the product.
"""

from math import prod

from minillm.errors import UserError
from minillm.kernels.matmul import matmul
from minillm.ops.inputs import floating
from minillm.ops.op import Op
from minillm.ops.reduce import total


class Linear(Op):
    """y = x weight^T + bias."""

    @staticmethod
    def forward(x, weight, bias):
        floating("linear", x, weight, *(() if bias is None else (bias,)))
        if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
            raise UserError(
                f"linear: x {x.shape} needs weight (out, {x.shape[-1] if x.ndim else '?'}),"
                f" got {weight.shape}"
            )
        O, I = weight.shape
        if bias is not None and bias.shape != (O,):
            raise UserError(f"linear: weight {weight.shape} needs bias ({O},), got {bias.shape}")
        flat = x.reshape(prod(x.shape[:-1]), I)  # (N, I)
        y = matmul(flat, weight.T)  # (N, O)
        if bias is not None:
            y += bias
        return y.reshape(*x.shape[:-1], O), (flat, weight, x.shape)

    @staticmethod
    def backward(dy, saved, needs):
        x, weight, shape = saved
        dy = dy.reshape(len(x), len(weight))  # (N, O)
        return (
            matmul(dy, weight).reshape(shape) if needs[0] else None,
            matmul(dy.T, x) if needs[1] else None,
            total(dy, (0,), False) if needs[2] else None,
        )
