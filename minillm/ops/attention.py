"""Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762), fused.

    s = scale q k^T,   p = softmax(s) over the keys,   out = p v

With causal=True query i sees the keys j <= i. Heads of q may share keys and values: with G key
heads, head h reads group h // (H / G) (Ainslie et al. 2023, arXiv 2305.13245). The kernels work in
tiles with an online softmax and never hold the T x S matrices (Dao et al. 2022, arXiv 2205.14135).
Backward, by the product rule through softmax, with rows of delta = sum_d dout out (which equals
sum_j dp p):

    dv = p^T dout,   dp = dout v^T,   ds = p (dp - delta),   dq = scale ds k,   dk = scale ds^T q

and dk, dv summed over the heads of a group. p is computed again tile by tile as e^(s - lse).

Shapes: q, out `(..., H, T, D)`; k, v `(..., G, S, D)` with H a multiple of G. Saved: q, k, v, out
and lse `(..., H, T)`, the logarithm of each softmax's sum: D + 1 floats a row in place of S.
"""

from math import prod

from minillm.device import xp_of
from minillm.errors import UserError
from minillm.kernels.attention import attention_backward, attention_forward
from minillm.ops.inputs import floating
from minillm.ops.op import Op


def _four_dimensions(x):
    """`(..., H, T, D) -> (B, H, T, D)` with a contiguous last dimension, as the kernels need."""
    x = x.reshape(prod(x.shape[:-3]), *((1,) * (3 - x.ndim)), *x.shape[-3:])
    return x if x.strides[-1] == x.itemsize else xp_of(x).ascontiguousarray(x)


class ScaledDotProductAttention(Op):
    """out = softmax(scale q k^T) v, causal or not."""

    @staticmethod
    def forward(q, k, v, *, scale, causal):
        floating("scaled_dot_product_attention", q, k, v)
        q4, k4, v4 = map(_four_dimensions, (q, k, v))
        if (
            k.shape != v.shape
            or q.shape[:-3] != k.shape[:-3]
            or q.shape[-1] != k.shape[-1]
            or q4.shape[1] % max(k4.shape[1], 1)
        ):
            raise UserError(
                f"scaled_dot_product_attention: query {q.shape}, key {k.shape} and value {v.shape}"
                " do not fit (..., H, T, D), (..., G, S, D), (..., G, S, D) with H a multiple of G"
            )
        out, lse = attention_forward(q4, k4, v4, scale, causal)
        shapes = q.shape, k.shape, v.shape
        return out.reshape(q.shape), (q4, k4, v4, out, lse, scale, causal, shapes)

    @staticmethod
    def backward(dout, saved, needs):
        q, k, v, out, lse, scale, causal, shapes = saved
        grads = attention_backward(_four_dimensions(dout), q, k, v, out, lse, scale, causal)
        return tuple(g.reshape(shape) for g, shape in zip(grads, shapes))
