"""Rotary embedding in Numba CUDA: a thread a pair of channels. The result lies in memory as
(B, T, H, D), like the projections that heads are cut from, and is seen as (B, H, T, D)."""

from minillm.device import xp_of
from minillm.kernels.runtime.numba_blocks import THREADS, blocks
from minillm.kernels.runtime.numba_gpu import cuda, kernel


@kernel
def _rotary(x, cos, sin, sign, y):
    B, H, T, D = x.shape
    half = D // 2
    i = cuda.grid(1)
    if i < B * T * H * half:
        d, h, t, b = i % half, i // half % H, i // (half * H) % T, i // (half * H * T)
        x1, x2 = x[b, h, t, d], x[b, h, t, d + half]
        c, s = cos[t, d], sign * sin[t, d]
        y[b, h, t, d] = x1 * c - x2 * s
        y[b, h, t, d + half] = x2 * c + x1 * s


def rotary(x, cos, sin, inverse):
    B, H, T, D = x.shape
    y = xp_of(x).empty((B, T, H, D), x.dtype).transpose(0, 2, 1, 3)
    _rotary[blocks(x.size // 2), THREADS](x, cos, sin, -1.0 if inverse else 1.0, y)
    return y
