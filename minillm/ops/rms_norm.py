"""Root mean square normalisation over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).

    rstd = (sum_c x^2 / C + eps)^-1/2,   xhat = x rstd,   y = xhat weight

With g = dy weight, and since rstd depends on every x of the row, d rstd / dx = -rstd^3 x / C,

    dx = rstd (g - xhat mean_c(g xhat)),   dweight = sum dy xhat

Shapes: x, y `(..., C)`; weight `(C,)` or None for ones; rstd `(N,)` with N the product of the
leading sizes. Saved: x, weight, rstd - not xhat, one multiplication an element to recompute and C
floats a row to keep. Statistics are in at least float32.
"""

import numpy as np

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.kernels.rms_norm import rms_norm_backward, rms_norm_forward
from minillm.ops.inputs import floating
from minillm.ops.op import Op, rows


class RmsNorm(Op):
    """y = x rstd weight, over the last dimension; eps None is the spacing of x's dtype at 1."""

    @staticmethod
    def forward(x, weight, *, eps):
        floating("rms_norm", x, *(() if weight is None else (weight,)))
        xp = xp_of(x)
        weight = xp.ones(x.shape[-1:], x.dtype) if weight is None else weight
        eps = float(np.spacing(x.dtype.type(1))) if eps is None else eps
        if not x.ndim or weight.shape != x.shape[-1:]:
            raise UserError(
                f"rms_norm: x {x.shape} needs weight of shape {x.shape[-1:]}, got {weight.shape}"
            )
        flat, weight = rows(x), xp.ascontiguousarray(weight)  # (N, C)
        y, rstd = rms_norm_forward(flat, weight, eps)
        return y.reshape(x.shape), (flat, weight, rstd, x.shape)

    @staticmethod
    def backward(dy, saved, needs):
        x, weight, rstd, shape = saved
        dx, dweight = rms_norm_backward(rows(dy), x, weight, rstd)
        return dx.reshape(shape), dweight
