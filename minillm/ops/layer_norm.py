"""Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016, arXiv 1607.06450).

    mean = sum_c x / C,   rstd = (sum_c (x - mean)^2 / C + eps)^-1/2,   xhat = (x - mean) rstd
    y = xhat weight + bias

With g = dy weight, and since mean and rstd depend on every x of the row,

    dx = rstd (g - mean_c(g) - xhat mean_c(g xhat)),   dweight = sum dy xhat,   dbias = sum dy

Shapes: x, y `(..., C)`; weight, bias `(C,)`, or None for ones and zeros; mean, rstd `(N,)` with N
the product of the leading sizes. Saved: x, weight, mean, rstd - not xhat, which costs two
operations an element to recompute and C floats a row to keep. Statistics are in at least float32.
"""

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.kernels.layer_norm import layer_norm_backward, layer_norm_forward
from minillm.ops.inputs import floating
from minillm.ops.op import Op, rows


class LayerNorm(Op):
    """y = (x - mean) rstd weight + bias, over the last dimension."""

    @staticmethod
    def forward(x, weight, bias, *, eps):
        floating("layer_norm", x, *(p for p in (weight, bias) if p is not None))
        xp, shape = xp_of(x), x.shape[-1:]
        weight = xp.ones(shape, x.dtype) if weight is None else weight
        bias = xp.zeros(shape, x.dtype) if bias is None else bias
        if not shape or weight.shape != shape or bias.shape != shape:
            raise UserError(
                f"layer_norm: x {x.shape} needs weight and bias of shape {shape}, "
                f"got {weight.shape} and {bias.shape}"
            )
        flat, weight = rows(x), xp.ascontiguousarray(weight)  # (N, C)
        bias = xp.ascontiguousarray(bias)
        y, mean, rstd = layer_norm_forward(flat, weight, bias, eps)
        return y.reshape(x.shape), (flat, weight, mean, rstd, x.shape)

    @staticmethod
    def backward(dy, saved, needs):
        x, weight, mean, rstd, shape = saved
        dx, dweight, dbias = layer_norm_backward(rows(dy), x, weight, mean, rstd)
        return dx.reshape(shape), dweight, dbias
