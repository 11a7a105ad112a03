"""Softmax over the last dimension, shifted by the row's maximum so that no exponential overflows.

    y = e^(x - max_c x) / sum_c e^(x - max_c x)
    dx = y (dy - sum_c dy y)

The shift changes nothing but the rounding (Bridle 1990 for the function, Milakov & Gimelshein 2018,
arXiv 1805.02867, for how it is computed). Entries of -inf get probability 0; a row of nothing else
has no distribution and gives NaN, as in PyTorch. Rows are independent.
"""

from minillm.kernels.registry import Cost, Kernel


def _forward_inputs(rng, N, C):
    return (rng.normal(0.0, 3.0, (N, C)),)


def _backward_inputs(rng, N, C):
    y = rng.exponential(size=(N, C)) ** 2
    return rng.normal(size=(N, C)), y / y.sum(-1, keepdims=True)


_SHAPES = [
    dict(N=1, C=1),
    dict(N=3, C=5),
    dict(N=37, C=65),
    dict(N=130, C=257),
    dict(N=3, C=4104),  # a row for two warps or more
    dict(N=0, C=8),
]
_BENCH = [dict(N=768, C=256), dict(N=2048, C=1024)]
_BENCH_GPU = [dict(N=16384, C=4096)]

softmax_forward = Kernel(
    __name__,
    "softmax_forward",
    "x (N, C) -> y (N, C)",
    inputs=_forward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda x: Cost(2 * x.nbytes, 5 * x.size),
)

softmax_backward = Kernel(
    __name__,
    "softmax_backward",
    "dy (N, C), y (N, C) -> dx (N, C)",
    inputs=_backward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda dy, y: Cost(3 * y.nbytes, 4 * y.size),
)
