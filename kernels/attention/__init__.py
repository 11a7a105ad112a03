"""Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762), grouped heads.

    s_ij = scale q_i . k_j   (-inf where causal and j > i),   lse_i = log sum_j e^s_ij
    p_ij = e^(s_ij - lse_i),   out_i = sum_j p_ij v_j

    delta_i = dout_i . out_i,   ds_ij = p_ij (dout_i . v_j - delta_i)
    dq_i = scale sum_j ds_ij k_j,   dk_j = scale sum_i ds_ij q_i,   dv_j = sum_i p_ij dout_i

Tiled so that no T x S matrix is ever stored (FlashAttention: Dao et al. 2022, arXiv 2205.14135; Dao
2023, arXiv 2307.08691). Keys come in blocks; the sum of exponentials l and the output are kept
relative to the largest score m so far and rescaled when it grows (Milakov & Gimelshein 2018, arXiv
1805.02867):

    m' = max(m, max_j s_ij),   l' = e^(m - m') l + sum_j e^(s_ij - m'),
    o' = e^(m - m') o + sum_j e^(s_ij - m') v_j;     at the end out = o / l, lse = m + log l

The backward recomputes p from q, k and lse instead of reading it.

Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245): q has H heads, k and v have G, and
head h reads group h // (H / G). All inputs may be strided as long as their last dimension is not;
out, dq, dk and dv are views of (B, T, H, D) memory, so that merging the heads copies nothing.
"""

from minillm.kernels.registry import Cost, Kernel


def _forward_inputs(rng, B, H, G, T, S, D, causal):
    q, k, v = (rng.normal(size=(B, n, t, D)) for n, t in ((H, T), (G, S), (G, S)))
    return q, k, v, D**-0.5, causal


def _backward_inputs(rng, B, H, G, T, S, D, causal):
    from minillm.kernels.attention.reference import attention_forward

    inputs = _forward_inputs(rng, B, H, G, T, S, D, causal)
    return rng.normal(size=(B, H, T, D)), *inputs[:3], *attention_forward(*inputs), *inputs[3:]


def _cost(products, arrays):
    """Cost of `products` matrix products of T x S x D and of reading or writing `arrays` once."""

    def cost(*args):
        q, k = args[-5:-3] if products == 2 else args[1:3]
        pairs, S = q.size * k.shape[2], k.shape[2]
        if args[-1]:  # causal: query i sees min(i + 1, S) keys
            T, seen = q.shape[2], min(q.shape[2], S)
            pairs = q.size // max(T, 1) * (seen * (seen + 1) // 2 + (T - seen) * S)
        return Cost(sum(a.nbytes for a in arrays(*args)), 2 * products * pairs)

    return cost


def _shape(B=1, H=1, G=1, T=1, S=1, D=1, causal=False):
    return dict(B=B, H=H, G=G, T=T, S=S, D=D, causal=causal)


_SHAPES = [
    _shape(),
    _shape(B=2, H=3, G=3, T=5, S=7, D=3),
    _shape(B=1, H=2, G=1, T=65, S=65, D=20, causal=True),
    _shape(B=2, H=4, G=2, T=33, S=130, D=32),
    _shape(B=1, H=4, G=1, T=100, S=37, D=65, causal=True),
    _shape(B=1, H=2, G=2, T=1, S=200, D=16),
    _shape(B=1, H=2, G=1, T=140, S=9, D=5, causal=True),
    _shape(T=3, S=5, D=130),
    _shape(B=0, H=2, G=2, T=4, S=4, D=8),
]
_BENCH = [
    _shape(B=12, H=4, G=4, T=64, S=64, D=32, causal=True),
    _shape(B=8, H=6, G=6, T=256, S=256, D=64, causal=True),
]
_BENCH_GPU = [_shape(B=8, H=16, G=16, T=1024, S=1024, D=64, causal=True)]

attention_forward = Kernel(
    __name__,
    "attention_forward",
    "q (B, H, T, D), k, v (B, G, S, D), scale, causal -> out (B, H, T, D), lse (B, H, T)",
    inputs=_forward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=_cost(2, lambda q, k, v, scale, causal: (q, k, v, q)),
)

attention_backward = Kernel(
    __name__,
    "attention_backward",
    "dout, q (B, H, T, D), k, v (B, G, S, D), out (B, H, T, D), lse (B, H, T), scale, causal"
    " -> dq (B, H, T, D), dk, dv (B, G, S, D)",
    inputs=_backward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=_cost(5, lambda dout, q, k, v, out, *_: (dout, q, k, v, out, q, k, v)),
    statistics=(5,),
)
