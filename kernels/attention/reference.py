"""Attention as the formula says, in NumPy or CuPy: the T x S matrix in full."""

from minillm.device import xp_of
from minillm.kernels.runtime.precision import float_like


def _scores(q, k, scale, causal):
    """scale q k^T, (B, H, T, S), and k with a head for each of q's."""
    xp = xp_of(q)
    s = scale * (q @ k.swapaxes(-1, -2))
    if causal:
        s = xp.where(xp.tri(*s.shape[-2:], dtype=bool), s, -xp.inf)
    return s


def _per_head(x, H):
    return x.repeat(H // x.shape[1], axis=1)  # (B, G, S, D) -> (B, H, S, D)


def _per_group(dx, G):
    B, H, S, D = dx.shape
    return dx.reshape(B, G, H // G, S, D).sum(2)  # (B, H, S, D) -> (B, G, S, D)


def attention_forward(q, k, v, scale, causal):
    xp, H = xp_of(q), q.shape[1]
    dtype, (q, k, v) = float_like(q, k, v)
    s = _scores(q, _per_head(k, H), scale, causal)
    m = s.max(-1, keepdims=True)
    lse = m + xp.log(xp.exp(s - m).sum(-1, keepdims=True))
    return (xp.exp(s - lse) @ _per_head(v, H)).astype(dtype), lse[..., 0]


def attention_backward(dout, q, k, v, out, lse, scale, causal):
    xp, H, G = xp_of(q), q.shape[1], k.shape[1]
    dtype, (dout, q, k, v, out, lse) = float_like(dout, q, k, v, out, lse)
    k, v = _per_head(k, H), _per_head(v, H)
    p = xp.exp(_scores(q, k, scale, causal) - lse[..., None])
    ds = p * (dout @ v.swapaxes(-1, -2) - (dout * out).sum(-1, keepdims=True))
    dq, dk = scale * (ds @ k), scale * (ds.swapaxes(-1, -2) @ q)
    dk, dv = _per_group(dk, G), _per_group(p.swapaxes(-1, -2) @ dout, G)
    return dq.astype(dtype), dk.astype(dtype), dv.astype(dtype)
