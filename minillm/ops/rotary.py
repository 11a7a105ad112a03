"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), rotate-half convention.

With x = (a, b) the two halves of each head and one angle for each position and channel of a half,

    y = (a cos - b sin, b cos + a sin)

a rotation of every pair (a_i, b_i). The transpose of a rotation is its inverse, so dx is dy rotated
back: dx = (da cos + db sin, db cos - da sin) with dy = (da, db).

Shapes: x, y `(B, H, T, D)`, D even; cos, sin `(T, D/2)`, constants, of x's dtype or, for a 16-bit
x, of float32: eight bits are few for an angle. Saved: cos and sin, which all layers share; x is not
needed.
"""

import numpy as np

from minillm.errors import UserError
from minillm.kernels.rotary import rotary
from minillm.ops.inputs import floating
from minillm.ops.op import Op


class Rotary(Op):
    """Rotate the pairs (x_i, x_{i + D/2}) of position t by the angles of row t."""

    @staticmethod
    def forward(x, cos, sin):
        floating("rotary", x)
        floating("rotary: cos and sin", cos, sin)
        if cos.dtype not in (x.dtype, np.promote_types(x.dtype, "float32")):
            raise UserError(f"rotary: x of {x.dtype} does not go with cos and sin of {cos.dtype}")
        if x.ndim != 4 or x.shape[-1] % 2:
            raise UserError(f"rotary: x must be (B, H, T, D) with D even, got shape {x.shape}")
        angles = (x.shape[2], x.shape[3] // 2)
        if cos.shape != angles or sin.shape != angles:
            raise UserError(
                f"rotary: x {x.shape} needs cos and sin of shape {angles}, "
                f"got {cos.shape} and {sin.shape}"
            )
        return rotary(x, cos, sin, False), (cos, sin)

    @staticmethod
    def backward(dy, saved, needs):
        cos, sin = saved
        return rotary(dy, cos, sin, True), None, None
