"""Rotary embedding with Numba. The result lies in memory as (B, T, H, D), like the projections that
heads are cut from, and is seen as (B, H, T, D)."""

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.layout import any_layout, contiguous
from minillm.kernels.runtime.threads import parallel, rows_worth_a_thread


@jit
def _rotary(start, stop, x, cos, sin, sign, y):
    _, T, H, D = y.shape
    half = D // 2
    for row in range(start, stop):
        b, t = row // T, row % T
        c, s = cos[t], sin[t]
        for h in range(H):
            row_x = contiguous(x[0, b, h, t])
            x1, x2 = row_x[:half], row_x[half:]
            y1, y2 = y[b, t, h, :half], y[b, t, h, half:]
            for d in range(half):
                turned = sign * s[d]
                y1[d] = x1[d] * c[d] - x2[d] * turned
                y2[d] = x2[d] * c[d] + x1[d] * turned


def rotary(x, cos, sin, inverse):
    B, H, T, D = x.shape
    y = np.empty((B, T, H, D), x.dtype)
    sign = x.dtype.type(-1 if inverse else 1)
    if y.size:
        grain = rows_worth_a_thread(H * D)
        parallel(_rotary, B * T, grain, any_layout(x), cos, sin, sign, y)
    return y.transpose(0, 2, 1, 3)
