"""Matrix product, with all of PyTorch's shapes.

    c = a b,   da = dc b^T,   db = a^T dc

a `(..., M, K)`, b `(..., K, N)`, c `(..., M, N)`; leading dimensions broadcast, and a gradient is
summed back over those that were stretched. A 1-D a is a row `(1, K)`, a 1-D b a column `(K, 1)`,
and the added dimension is dropped from c. Where b is one matrix, the leading dimensions of a are
more rows: forward, da and db are then one GEMM each. Transposes are views, flags to a BLAS.
"""

import math

import numpy as np

from minillm.errors import UserError
from minillm.kernels.matmul import matmul
from minillm.ops.op import Op, unbroadcast


class MatMul(Op):
    """c = a b."""

    @staticmethod
    def forward(a, b):
        if not (hasattr(a, "dtype") and hasattr(b, "dtype")):
            raise UserError("matmul: both sides must be Tensors or arrays; a number scales by *")
        if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
            raise UserError(f"matmul: shapes {a.shape} and {b.shape} do not fit")
        if a.dtype != b.dtype:
            raise UserError(f"matmul: dtypes {a.dtype} and {b.dtype} differ; convert one with to()")
        A = a if a.ndim > 1 else a[None]  # (..., M, K)
        B = b if b.ndim > 1 else b[:, None]  # (..., K, N)
        if B.ndim == 2:
            lead = A.shape[:-2]
            c = matmul(_rows(A), B)  # (lead M, N)
        else:
            lead = _lead(a, b)
            c = matmul(A, B)  # (lead, M, N)
        rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
        return c.reshape((*lead, *rows, *columns)), (a, b, lead)

    @staticmethod
    def backward(dc, saved, needs):
        a, b, lead = saved
        A = a if a.ndim > 1 else a[None]  # (..., M, K)
        B = b if b.ndim > 1 else b[:, None]  # (..., K, N)
        dC = dc.reshape((*lead, A.shape[-2], B.shape[-1]))  # (..., M, N)
        da = db = None
        if B.ndim == 2:
            dC = _rows(dC)  # (lead M, N)
            if needs[0]:
                da = matmul(dC, B.T).reshape(a.shape)  # (lead M, K)
            if needs[1]:
                db = matmul(_rows(A).T, dC).reshape(b.shape)  # (K, N)
            return da, db
        if needs[0]:
            da = unbroadcast(matmul(dC, B.swapaxes(-1, -2)), A.shape).reshape(a.shape)
        if needs[1]:
            db = unbroadcast(matmul(A.swapaxes(-1, -2), dC), B.shape).reshape(b.shape)
        return da, db


def _lead(a, b):
    """The leading dimensions of the product of stacks."""
    try:
        return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise UserError(
            f"matmul: leading dimensions of {a.shape} and {b.shape} do not broadcast"
        ) from None


def _rows(x):
    """(..., M, K) -> (rows, K)."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
