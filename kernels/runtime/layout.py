"""Strided arrays in compiled code: one compilation for all layouts, rows known to be contiguous.

Numba compiles a kernel anew for each combination of its arrays' layouts, and queries split off a
projection, a slice of a cache and a plain array all differ. Kernels that take such arrays see them
through `any_layout`, and their rows through `contiguous`.
"""

import numpy as np
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic


def any_layout(x: np.ndarray) -> np.ndarray:
    """`x` with a leading dimension, to be indexed with 0: the same Numba type whatever its layout.

    Stretched along a dimension no array is contiguous, nor writable. The last dimension of the
    result is contiguous; `x` is copied where its own is not.
    """
    if x.strides[-1] != x.itemsize:
        x = np.ascontiguousarray(x)
    return np.broadcast_to(x, (2, *x.shape))


@intrinsic
def contiguous(typingctx, row):
    """The one-dimensional array `row` as a type that says its elements are adjacent.

    Loops over it vectorise. The caller knows that they are; nothing is checked.
    """

    def generate(context, builder, signature, args):
        return impl_ret_borrowed(context, builder, signature.return_type, args[0])

    return row.copy(layout="C")(row), generate
