"""Attention in CUDA C++: what the steps of the ladder, the .cu files here, are given."""

import ctypes

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.kernels.runtime.cuda import Strided, accum, blocks


class HeadStrides(ctypes.Structure):
    """Elements between neighbours in (B, H, T, D), the last contiguous (strides.cuh)."""

    _fields_ = [(name, ctypes.c_longlong) for name in ("batch", "head", "time")]


def attention_forward(program, q, k, v, scale, causal):
    (B, H, T, D), (G, S) = _sizes(q, k)
    xp, (q, k, v) = xp_of(q), map(_rows_whole, (q, k, v))
    out, lse = xp.empty((B, T, H, D), q.dtype), xp.empty((B, H, T), accum(q.dtype))
    program.launch(
        "attention_forward", q.dtype, B * H * T, out, lse, *_given(q, k, v),
        scale, causal, H, G, T, S, D,
    )  # fmt: skip
    return out.transpose(0, 2, 1, 3), lse


def attention_backward(program, dout, q, k, v, out, lse, scale, causal):
    (B, H, T, D), (G, S) = _sizes(q, k)
    xp, (dout, q, k, v, out) = xp_of(q), map(_rows_whole, (dout, q, k, v, out))
    lse, delta = xp.ascontiguousarray(lse), xp.empty((B, H, T), accum(q.dtype))
    dq, (dk, dv) = xp.empty((B, T, H, D), q.dtype), xp.empty((2, B, S, G, D), q.dtype)
    program.launch(
        "attention_delta", q.dtype, blocks(delta.size, program.THREADS), delta,
        *_given(dout, out), H, T, D, delta.size,
    )  # fmt: skip
    given = *_given(dout, q, k, v), lse, delta, scale, causal, H, G, T, S, D
    program.launch("attention_backward", q.dtype, B * H * T, dq, *given)
    program.launch("attention_backward_keys", q.dtype, B * G * S, dk, dv, *given)
    return tuple(x.transpose(0, 2, 1, 3) for x in (dq, dk, dv))


def _sizes(q, k):
    """(B, H, T, D), (G, S)."""
    H, G = q.shape[1], k.shape[1]
    if H and (not G or H % G):
        raise UserError(f"attention: {H} heads of q are no multiple of k's {G}")
    return q.shape, k.shape[1:3]


def _rows_whole(x):
    """x with a contiguous last dimension."""
    return x if x.strides[-1] == x.itemsize else xp_of(x).ascontiguousarray(x)


def _given(*arrays):
    """The arrays as kernels take them, then where their elements are."""
    strides = ((stride // x.itemsize for stride in x.strides[:3]) for x in arrays)
    return *map(Strided, arrays), *(HeadStrides(*each) for each in strides)
