"""Attention: your file for chapter 07, exercises 7.1 to 7.4.

7.5 is CUDA C++, in flash.cu beside it. Shapes: q (..., T, D), k and v (..., S, D); leading
dimensions (batch, heads) are the same for all three. scale multiplies q . k; with `causal`, query i
sees the keys j <= i.
"""

import numpy as np


def attention(q, k, v, scale, causal=False):
    """softmax(scale q k^T) v with the (..., T, S) matrix in full, equations (1) and (2).

    Large scores must not overflow: subtract each row's largest.

    Returns:
        out: (..., T, D), of q's dtype.
    """
    # hole 1: scores; -inf where a query must not look; softmax over keys; weighted sum of values
    s = scale * (q @ k.swapaxes(-1, -2))  # (..., T, S)
    if causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return (p @ v).astype(q.dtype)  # (..., T, D)
    # end of hole


def start(q):
    """The state (m, l, o) of queries q (..., T, D) that have seen no key yet.

    m (..., T, 1) is the largest score so far, l (..., T, 1) the sum of e^(s - m), o (..., T, D) the
    sum of e^(s - m) v.
    """
    m = np.full((*q.shape[:-1], 1), -np.inf, q.dtype)
    return m, np.zeros_like(m), np.zeros_like(q)


def absorb(state, s, v):
    """The state after a block of keys, equations (8) to (10).

    Args:
        state: (m, l, o), not to be changed in place.
        s: (..., T, n), the scores of n keys; -inf for what a query does not see. A row may be all
            -inf, before or after keys that are seen.
        v: (..., n, D), their values.

    Returns:
        the new (m, l, o). A query that has seen no key keeps m = -inf, l = 0 and o = 0, not NaN.
    """
    m, l, o = state
    # hole 2: the new maximum; the block's weights relative to it; shrink what was there before
    largest = np.maximum(m, s.max(-1, keepdims=True))  # (..., T, 1)
    safe = np.where(largest == -np.inf, 0, largest)  # nothing seen: subtract nothing
    p, shrink = np.exp(s - safe), np.exp(m - safe)
    return largest, shrink * l + p.sum(-1, keepdims=True), shrink * o + p @ v
    # end of hole


def flash_forward(q, k, v, scale, causal=False, block=32):
    """As `attention`, but no array of T x S: a block of queries meets a block of keys.

    Takes the blocks of scores from `scores`, below, and none of a pair of blocks in which no query
    sees a key.

    Args:
        block: queries, and keys, a block. Neither T nor S need be a multiple.

    Returns:
        out: (..., T, D), and lse: (..., T), the logarithm of each softmax's sum, equation (11).
    """
    T, S = q.shape[-2], k.shape[-2]
    out, lse = np.empty_like(q), np.empty(q.shape[:-1], q.dtype)
    # hole 3: for each block of queries, absorb the blocks of keys that it sees; then divide once
    for i in range(0, T, block):
        q_i = scale * q[..., i : i + block, :]
        state = start(q_i)
        for j in range(0, min(S, i + block) if causal else S, block):
            s = scores(q_i, k[..., j : j + block, :], i, j, causal)
            state = absorb(state, s, v[..., j : j + block, :])
        m, l, o = state
        out[..., i : i + block, :] = o / l
        lse[..., i : i + block] = (m + np.log(l))[..., 0]
    # end of hole
    return out, lse


def scores(q_i, k_j, i, j, causal):
    """Scores of a block of scaled queries, of which the first is number i, and keys from j on."""
    s = q_i @ k_j.swapaxes(-1, -2)
    if causal:
        rows, columns = np.arange(s.shape[-2])[:, None], np.arange(s.shape[-1])
        s = np.where(j + columns <= i + rows, s, -np.inf)
    return s


def flash_backward(dout, q, k, v, out, lse, scale, causal=False, block=32):
    """The gradients of q, k and v, from dout (..., T, D) and what the forward pass returned.

    Computes each block of weights again from `scores` and lse, equation (12); delta, equation (7),
    from dout and out alone. No array of T x S, and no scores that `flash_forward` does not compute.

    Returns:
        dq (..., T, D), dk and dv (..., S, D).
    """
    T, S = q.shape[-2], k.shape[-2]
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    # hole 4: delta; then for each pair of blocks: p from lse, dp, ds, and five products in all
    delta = (dout * out).sum(-1, keepdims=True)  # (..., T, 1)
    for i in range(0, T, block):
        queries = slice(i, i + block)
        q_i, dout_i = q[..., queries, :], dout[..., queries, :]
        for j in range(0, min(S, i + block) if causal else S, block):
            keys = slice(j, j + block)
            k_j, v_j = k[..., keys, :], v[..., keys, :]
            p = np.exp(scores(scale * q_i, k_j, i, j, causal) - lse[..., queries, None])
            ds = p * (dout_i @ v_j.swapaxes(-1, -2) - delta[..., queries, :])
            dq[..., queries, :] += scale * (ds @ k_j)
            dk[..., keys, :] += scale * (ds.swapaxes(-1, -2) @ q_i)
            dv[..., keys, :] += p.swapaxes(-1, -2) @ dout_i
    # end of hole
    return dq, dk, dv
