"""Attention with Numba: one task a head (backward: a group of heads), a query in every vector lane.

A tile is QUERIES queries by KEYS keys. Scores are kept transposed, s[j, i], so that the softmax's
maxima and sums over the keys run down the rows, all queries of the tile at once, and every one of
the products (two forward, five backward) is `simd.product`. Sizes are padded to its tiles in the
scratch memory, which is allocated once a thread and is O(S D).
"""

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.simd import COLUMNS, ROWS, contiguous, product
from minillm.kernels.runtime.threads import parallel
from minillm.kernels.runtime.vmath import exp

QUERIES = 32  # a multiple of COLUMNS bytes in every dtype
KEYS = 64
_LEAST = {4: -87.0, 8: -708.0}  # e^x of an itemsize is a normal number from here on


def _any_layout(x):
    """`x` with a leading dimension, as one Numba type whatever its layout: one compilation a dtype.

    Stretched, no array is contiguous or writable.
    """
    return np.broadcast_to(x, (2, *x.shape))


def _tasks_worth_a_thread(T, S, D):
    return 2_000_000 // max(T * S * D, 1)


@jit
def _round_up(n, multiple):
    return (n + multiple - 1) // multiple * multiple


@jit
def _pack(to, x, start, count, scale):
    """Rows [start, start + count) of x times scale, into the first rows of the padded `to`."""
    for r in range(count):
        row, out = contiguous(x[start + r]), to[r]
        for d in range(row.size):
            out[d] = row[d] * scale


@jit
def _pack_transposed(to, x, start, count, scale):
    """The same as columns of `to`; columns from `count` on become zeros."""
    for r in range(count):
        row = contiguous(x[start + r])
        for d in range(row.size):
            to[d, r] = row[d] * scale
    if count < to.shape[1]:
        to[:, count:] = 0


@jit
def _unpack(to, x, scale):
    """Rows of the padded x times scale, without their padding, into the strided rows of `to`."""
    for r in range(to.shape[0]):
        row, out = x[r], contiguous(to[r])
        for d in range(out.size):
            out[d] = row[d] * scale


@jit
def _mask(s, i0, j0):
    """-inf where key j0 + j is later than query i0 + i, in s[j, i]."""
    for j in range(max(i0 - j0, 0), s.shape[0]):
        s[j, : min(j0 + j - i0, s.shape[1])] = -np.inf


@jit
def _exp(x, least, zero):
    """e^x, but 0 below e^least: masked scores end there, and results too small to be normal numbers
    would cost a hundred times the time of others. NaN passes."""
    e = exp(least if x < least else x)
    return zero if x < least else e


@jit
def _online_softmax(n, s, m, l, shrink, least):
    """Scores s become e^(s - m), for the n queries; m and l take them in, and shrink = e^(m - m')."""
    zero = m.dtype.type(0)
    for i in range(n):
        shrink[i] = m[i]
    for j in range(s.shape[0]):
        row = s[j]
        for i in range(n):
            m[i] = row[i] if row[i] > m[i] else m[i]
    for i in range(n):
        shrink[i] = _exp(shrink[i] - m[i], least, zero)
        l[i] *= shrink[i]
    for j in range(s.shape[0]):
        row = s[j]
        for i in range(n):
            row[i] = _exp(row[i] - m[i], least, zero)
            l[i] += row[i]


@jit
def _forward(start, stop, q, k, v, scale, causal, least, out, lse):
    (H, T, D), (G, S) = q.shape[2:], k.shape[2:4]
    one, scale, least = out.dtype.type(1), out.dtype.type(scale), out.dtype.type(least)
    wide = _round_up(D, COLUMNS // out.itemsize)
    keys = np.zeros((_round_up(S, ROWS), wide), out.dtype)
    values = np.zeros_like(keys)
    q_t, o = np.zeros((D, QUERIES), out.dtype), np.empty((QUERIES, wide), out.dtype)
    scores = np.zeros((KEYS, QUERIES), out.dtype)
    # One array each: LLVM would not vectorise loops over several rows of one.
    m, l = np.empty(QUERIES, out.dtype), np.empty(QUERIES, out.dtype)
    shrink = np.empty(QUERIES, out.dtype)
    packed = -1
    for task in range(start, stop):
        b, h = task // H, task % H
        g = h // (H // G)
        if packed != b * G + g:
            _pack(keys, k[0, b, g], 0, S, one)
            _pack(values, v[0, b, g], 0, S, one)
            packed = b * G + g
        for i0 in range(0, T, QUERIES):
            n = min(QUERIES, T - i0)
            o_n = o[: _round_up(n, ROWS)]
            _pack_transposed(q_t, q[0, b, h], i0, n, scale)
            m[:] = -np.inf
            l[:] = 0
            o_n[:] = 0
            seen = min(S, i0 + n) if causal else S
            for j0 in range(0, seen, KEYS):
                rows = min(KEYS, seen - j0)
                padded = _round_up(rows, ROWS)
                s = scores[:padded]
                s[:] = 0
                product(s, keys[j0 : j0 + padded], q_t)
                s = scores[:rows]
                if causal:
                    _mask(s, i0, j0)
                _online_softmax(n, s, m, l, shrink, least)
                for i in range(n):
                    row = o_n[i]
                    for d in range(wide):
                        row[d] *= shrink[i]
                product(o_n, s.T, values[j0 : j0 + rows])
            for i in range(n):
                row = o_n[i]
                for d in range(wide):
                    row[d] *= one / l[i]
                lse[b, h, i0 + i] = m[i] + np.log(l[i])
            _unpack(out[b, i0 : i0 + n, h], o, one)


def attention_forward(q, k, v, scale, causal):
    (B, H, T, D), S = q.shape, k.shape[2]
    out, lse = np.empty((B, T, H, D), q.dtype), np.empty((B, H, T), q.dtype)
    if out.size:
        grain, least = _tasks_worth_a_thread(T, S, D), _LEAST[q.dtype.itemsize]
        arrays = map(_any_layout, (q, k, v))
        parallel(_forward, B * H, grain, *arrays, scale, causal, least, out, lse)
    return out.transpose(0, 2, 1, 3), lse


@jit
def _backward(start, stop, dout, q, k, v, out, lse, scale, causal, least, dq, dk, dv):
    (H, T, D), (G, S) = q.shape[2:], k.shape[2:4]
    zero, one = dq.dtype.type(0), dq.dtype.type(1)
    scale, least = dq.dtype.type(scale), dq.dtype.type(least)
    wide = _round_up(D, COLUMNS // dq.itemsize)
    shape = _round_up(S, ROWS), wide
    keys, dkeys = np.zeros(shape, dq.dtype), np.empty(shape, dq.dtype)
    values, dvalues = np.zeros(shape, dq.dtype), np.empty(shape, dq.dtype)
    q_i, do_i = np.zeros((QUERIES, wide), dq.dtype), np.zeros((QUERIES, wide), dq.dtype)
    q_t, do_t = np.zeros((D, QUERIES), dq.dtype), np.zeros((D, QUERIES), dq.dtype)
    dq_i = np.empty((QUERIES, wide), dq.dtype)
    scores, dscores = np.zeros((KEYS, QUERIES), dq.dtype), np.zeros((KEYS, QUERIES), dq.dtype)
    lse_i, delta = np.empty(QUERIES, dq.dtype), np.empty(QUERIES, dq.dtype)
    for task in range(start, stop):
        b, g = task // G, task % G
        _pack(keys, k[0, b, g], 0, S, one)
        _pack(values, v[0, b, g], 0, S, one)
        dkeys[:] = 0
        dvalues[:] = 0
        for h in range(g * (H // G), (g + 1) * (H // G)):
            for i0 in range(0, T, QUERIES):
                n = min(QUERIES, T - i0)
                _pack(q_i, q[0, b, h], i0, n, scale)
                _pack(do_i, dout[0, b, h], i0, n, one)
                _pack_transposed(q_t, q_i[:, :D], 0, n, one)
                _pack_transposed(do_t, do_i[:, :D], 0, n, one)
                for i in range(n):
                    lse_i[i] = lse[0, b, h, i0 + i]
                    row, do_row, total = contiguous(out[0, b, h, i0 + i]), do_i[i], zero
                    for d in range(D):
                        total += do_row[d] * row[d]
                    delta[i] = total
                dq_n = dq_i[: _round_up(n, ROWS)]
                dq_n[:] = 0
                seen = min(S, i0 + n) if causal else S
                for j0 in range(0, seen, KEYS):
                    rows = min(KEYS, seen - j0)
                    padded = _round_up(rows, ROWS)
                    p, ds = scores[:padded], dscores[:padded]
                    p[:] = 0
                    ds[:] = 0
                    product(p, keys[j0 : j0 + padded], q_t)
                    product(ds, values[j0 : j0 + padded], do_t)
                    if causal:
                        _mask(p, i0, j0)
                    for j in range(padded):
                        p_j, ds_j = p[j], ds[j]
                        for i in range(n):
                            p_j[i] = _exp(p_j[i] - lse_i[i], least, zero)
                            ds_j[i] = p_j[i] * (ds_j[i] - delta[i])
                    product(dvalues[j0 : j0 + padded], p, do_i[:n])
                    product(dkeys[j0 : j0 + padded], ds, q_i[:n])
                    product(dq_n, ds.T, keys[j0 : j0 + rows])
                _unpack(dq[b, i0 : i0 + n, h], dq_i, scale)
        _unpack(dk[b, :, g], dkeys, one)
        _unpack(dv[b, :, g], dvalues, one)


def attention_backward(dout, q, k, v, out, lse, scale, causal):
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    dq = np.empty((B, T, H, D), q.dtype)
    dk, dv = np.empty((2, B, S, G, D), q.dtype)
    if dq.size or dk.size:
        grain, least = _tasks_worth_a_thread(T * H // G, S, 2 * D), _LEAST[q.dtype.itemsize]
        arrays = map(_any_layout, (dout, q, k, v, out, lse))
        parallel(_backward, B * G, grain, *arrays, scale, causal, least, dq, dk, dv)
    return tuple(x.transpose(0, 2, 1, 3) for x in (dq, dk, dv))
