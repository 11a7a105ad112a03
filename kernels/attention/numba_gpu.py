"""Attention in Numba CUDA: a block a query, and backwards also a block a key.

A block meets the keys (backwards also the queries) THREADS at a time. Its threads first take one
each, and leave a weight in shared memory; then each takes every THREADS-th channel, and adds all of
those weights' rows to it. What is added up in steps stays in global memory, where its own thread
alone touches it, so that heads may have any size. Every sum has one order: results do not change.
"""

import math

from minillm.device import xp_of
from minillm.kernels.runtime.numba_blocks import THREADS, block_max, block_sum
from minillm.kernels.runtime.numba_gpu import cuda, device, float32, kernel


@device
def _dot(x, i, y, j, b, h, g):
    """Head h's row i of x times group g's row j of y."""
    total = float32(0)
    for d in range(x.shape[3]):
        total += x[b, h, i, d] * y[b, g, j, d]
    return total


@device
def _add_rows(weights, count, x, first, b, h, d):
    """sum of weights[n] x[b, h, first + n, d] over n < count."""
    total = float32(0)
    for n in range(count):
        total += weights[n] * x[b, h, first + n, d]
    return total


@kernel
def _forward(q, k, v, scale, causal, out, lse):
    weights = cuda.shared.array(THREADS, float32)
    i, h, b, t = cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z, cuda.threadIdx.x
    g = h // (q.shape[1] // k.shape[1])
    D, S = q.shape[3], k.shape[2]
    seen = min(S, i + 1) if causal else S
    for d in range(t, D, THREADS):
        out[b, h, i, d] = float32(0)

    m, total = float32(-math.inf), float32(0)
    for j0 in range(0, seen, THREADS):
        s = float32(-math.inf)
        if j0 + t < seen:
            s = scale * _dot(q, i, k, j0 + t, b, h, g)
        largest = max(m, block_max(s))
        p, keep = math.exp(s - largest), math.exp(m - largest)
        weights[t] = p
        total = keep * total + block_sum(p)  # whose barriers also show the weights to all
        m = largest
        count = min(THREADS, seen - j0)
        for d in range(t, D, THREADS):
            out[b, h, i, d] = keep * out[b, h, i, d] + _add_rows(weights, count, v, j0, b, g, d)

    for d in range(t, D, THREADS):
        out[b, h, i, d] /= total
    if t == 0:
        lse[b, h, i] = m + math.log(total)


def attention_forward(q, k, v, scale, causal):
    xp, (B, H, T, D) = xp_of(q), q.shape
    out = xp.empty((B, T, H, D), q.dtype).transpose(0, 2, 1, 3)
    lse = xp.empty((B, H, T), q.dtype)
    _forward[(T, H, B), THREADS](q, k, v, float(scale), bool(causal), out, lse)
    return out, lse


@kernel
def _backward_queries(dout, q, k, v, out, lse, scale, causal, dq, delta):
    weights = cuda.shared.array(THREADS, float32)
    i, h, b, t = cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z, cuda.threadIdx.x
    g = h // (q.shape[1] // k.shape[1])
    D, S = q.shape[3], k.shape[2]
    seen = min(S, i + 1) if causal else S
    total = float32(0)
    for d in range(t, D, THREADS):
        total += dout[b, h, i, d] * out[b, h, i, d]
        dq[b, h, i, d] = float32(0)
    delta_i = block_sum(total)
    if t == 0:
        delta[b, h, i] = delta_i

    for j0 in range(0, seen, THREADS):
        j = j0 + t
        if j < seen:
            p = math.exp(scale * _dot(q, i, k, j, b, h, g) - lse[b, h, i])
            weights[t] = scale * p * (_dot(dout, i, v, j, b, h, g) - delta_i)
        cuda.syncthreads()
        count = min(THREADS, seen - j0)
        for d in range(t, D, THREADS):
            dq[b, h, i, d] += _add_rows(weights, count, k, j0, b, g, d)
        cuda.syncthreads()


@kernel
def _backward_keys(dout, q, k, v, lse, delta, scale, causal, dk, dv):
    p_weights = cuda.shared.array(THREADS, float32)
    ds_weights = cuda.shared.array(THREADS, float32)
    j, g, b, t = cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z, cuda.threadIdx.x
    T, D = q.shape[2], q.shape[3]
    heads = q.shape[1] // k.shape[1]  # that read this group
    for d in range(t, D, THREADS):
        dk[b, g, j, d], dv[b, g, j, d] = float32(0), float32(0)

    first = j if causal else 0  # query that sees the key
    for h in range(g * heads, (g + 1) * heads):
        for i0 in range(first, T, THREADS):
            i = i0 + t
            if i < T:
                p = math.exp(scale * _dot(q, i, k, j, b, h, g) - lse[b, h, i])
                p_weights[t] = p
                ds_weights[t] = scale * p * (_dot(dout, i, v, j, b, h, g) - delta[b, h, i])
            cuda.syncthreads()
            count = min(THREADS, T - i0)
            for d in range(t, D, THREADS):
                dk[b, g, j, d] += _add_rows(ds_weights, count, q, i0, b, h, d)
                dv[b, g, j, d] += _add_rows(p_weights, count, dout, i0, b, h, d)
            cuda.syncthreads()


def attention_backward(dout, q, k, v, out, lse, scale, causal):
    xp, (B, H, T, D), (G, S) = xp_of(q), q.shape, k.shape[1:3]
    sizes = (B, T, H, D), (B, S, G, D), (B, S, G, D)
    dq, dk, dv = (xp.empty(size, q.dtype).transpose(0, 2, 1, 3) for size in sizes)
    delta, scale, causal = xp.empty((B, H, T), q.dtype), float(scale), bool(causal)
    _backward_queries[(T, H, B), THREADS](dout, q, k, v, out, lse, scale, causal, dq, delta)
    _backward_keys[(S, G, B), THREADS](dout, q, k, v, lse, delta, scale, causal, dk, dv)
    return dq, dk, dv
