"""Attention with Numba: one task a head (backward: a group of heads), a query in every vector lane.

A tile is QUERIES queries by KEYS keys. Scores are kept transposed, s[j, i], so that the softmax's
maxima and sums over the keys run down the rows, all queries of the tile at once, and every one of
the products (two forward, five backward) is `simd.product`. Sizes are padded to its tiles in
scratch memory: O(S D), allocated once a thread, and outside the compiled code, which halves the
time that takes to compile.
"""

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.layout import any_layout, contiguous
from minillm.kernels.runtime.simd import COLUMNS, ROWS, product
from minillm.kernels.runtime.threads import parallel
from minillm.kernels.runtime.vmath import exp

QUERIES = 32  # a multiple of COLUMNS bytes in every dtype
KEYS = 64
_LEAST = {4: -87.0, 8: -708.0}  # e^x of an itemsize is a normal number from here on


def _padded(S, D, itemsize):
    """S and D rounded up to whole tiles of `product`."""
    columns = COLUMNS // itemsize
    return -(-S // ROWS) * ROWS, -(-D // columns) * columns


def _tasks_worth_a_thread(T, S, D):
    return 2_000_000 // max(T * S * D, 1)


@jit
def _whole_tiles(n):
    return (n + ROWS - 1) // ROWS * ROWS


@jit
def _clear(x):
    for r in range(x.shape[0]):
        row = x[r]
        for c in range(row.size):
            row[c] = 0


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
        for d in range(to.shape[0]):
            for r in range(count, to.shape[1]):
                to[d, r] = 0


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
    """Scores s become e^(s - m) for n queries; m and l take them in, shrink = e^(old m - m)."""
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
def _forward(start, stop, q, k, v, scale, causal, out, lse, kv, tiles, rows_i, least):
    H, T, one = q.shape[2], q.shape[3], out.dtype.type(1)
    G, S = k.shape[2:4]
    (keys, values), (q_t, o, scores), (m, l, shrink) = kv, tiles, rows_i
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
            o_n = o[: _whole_tiles(n)]
            _pack_transposed(q_t, q[0, b, h], i0, n, scale)
            _clear(o_n)
            for i in range(n):
                m[i], l[i] = -np.inf, 0
            seen = min(S, i0 + n) if causal else S
            for j0 in range(0, seen, KEYS):
                rows = min(KEYS, seen - j0)
                padded = _whole_tiles(rows)
                s = scores[:padded]
                _clear(s)
                product(s, keys[j0 : j0 + padded], q_t)
                s = scores[:rows]
                if causal:
                    _mask(s, i0, j0)
                _online_softmax(n, s, m, l, shrink, least)
                for i in range(n):
                    row = o_n[i]
                    for d in range(row.size):
                        row[d] *= shrink[i]
                product(o_n, s.T, values[j0 : j0 + rows])
            for i in range(n):
                row = o_n[i]
                for d in range(row.size):
                    row[d] *= one / l[i]
                lse[b, h, i0 + i] = m[i] + np.log(l[i])
            _unpack(out[b, i0 : i0 + n, h], o, one)


def _forward_range(start, stop, q, k, v, scale, causal, out, lse):
    D, dtype = out.shape[-1], out.dtype
    rows, wide = _padded(k.shape[3], D, dtype.itemsize)
    kv = np.zeros((rows, wide), dtype), np.zeros((rows, wide), dtype)
    shapes = (D, QUERIES), (QUERIES, wide), (KEYS, QUERIES)
    tiles = tuple(np.zeros(shape, dtype) for shape in shapes)
    # An array each: LLVM does not vectorise a loop over several rows of one.
    rows_i = tuple(np.zeros(QUERIES, dtype) for _ in range(3))
    scale, least = dtype.type(scale), dtype.type(_LEAST[dtype.itemsize])
    _forward(start, stop, q, k, v, scale, causal, out, lse, kv, tiles, rows_i, least)


def attention_forward(q, k, v, scale, causal):
    (B, H, T, D), S = q.shape, k.shape[2]
    out, lse = np.empty((B, T, H, D), q.dtype), np.empty((B, H, T), q.dtype)
    if out.size:
        arrays, grain = map(any_layout, (q, k, v)), _tasks_worth_a_thread(T, S, D)
        parallel(_forward_range, B * H, grain, *arrays, scale, causal, out, lse)
    return out.transpose(0, 2, 1, 3), lse


@jit
def _backward(
    start, stop, dout, q, k, v, out, lse, scale, causal, dq, dk, dv, kv, tiles, rows_i, least
):
    (H, T, D), (G, S) = q.shape[2:], k.shape[2:4]
    zero, one = dq.dtype.type(0), dq.dtype.type(1)
    keys, values, dkeys, dvalues = kv
    (q_t, do_t, q_i, do_i, dq_i, scores, dscores), (lse_i, delta) = tiles, rows_i
    for task in range(start, stop):
        b, g = task // G, task % G
        _pack(keys, k[0, b, g], 0, S, one)
        _pack(values, v[0, b, g], 0, S, one)
        _clear(dkeys)
        _clear(dvalues)
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
                dq_n = dq_i[: _whole_tiles(n)]
                _clear(dq_n)
                seen = min(S, i0 + n) if causal else S
                for j0 in range(0, seen, KEYS):
                    rows = min(KEYS, seen - j0)
                    padded = _whole_tiles(rows)
                    p, ds = scores[:padded], dscores[:padded]
                    _clear(p)
                    _clear(ds)
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


def _backward_range(start, stop, dout, q, k, v, out, lse, scale, causal, dq, dk, dv):
    D, dtype = dq.shape[-1], dq.dtype
    rows, wide = _padded(k.shape[3], D, dtype.itemsize)
    kv = tuple(np.zeros((rows, wide), dtype) for _ in range(4))
    shapes = [(D, QUERIES)] * 2 + [(QUERIES, wide)] * 3 + [(KEYS, QUERIES)] * 2
    tiles = tuple(np.zeros(shape, dtype) for shape in shapes)
    rows_i = np.zeros(QUERIES, dtype), np.zeros(QUERIES, dtype)
    scale, least = dtype.type(scale), dtype.type(_LEAST[dtype.itemsize])
    inputs = dout, q, k, v, out, lse, scale, causal
    _backward(start, stop, *inputs, dq, dk, dv, kv, tiles, rows_i, least)


def attention_backward(dout, q, k, v, out, lse, scale, causal):
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    dq = np.empty((B, T, H, D), q.dtype)
    dk, dv = np.empty((2, B, S, G, D), q.dtype)
    if dq.size or dk.size:
        arrays = map(any_layout, (dout, q, k, v, out, lse))
        grain = _tasks_worth_a_thread(T * H // G, S, 2 * D)
        parallel(_backward_range, B * G, grain, *arrays, scale, causal, dq, dk, dv)
    return tuple(x.transpose(0, 2, 1, 3) for x in (dq, dk, dv))
