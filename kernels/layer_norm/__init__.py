"""Layer normalisation (Ba, Kiros & Hinton 2016, arXiv 1607.06450) over the last dimension.

    mean = sum_c x / C,   rstd = (sum_c (x - mean)^2 / C + eps)^-1/2,   xhat = (x - mean) rstd
    y = xhat weight + bias

    g = dy weight
    dx = rstd (g - mean_c(g) - xhat mean_c(g xhat)),   dweight = sum_n dy xhat,   dbias = sum_n dy

Rows are independent but for dweight and dbias, whose sums run over fixed parts of the rows.
"""

from minillm.kernels.registry import Cost, Kernel

# Large enough to be seen in the results, and to keep rstd near 1 where a row has no variance.
_EPS = 0.1


def _forward_inputs(rng, N, C):
    x = rng.normal(0.5, 2.0, (N, C))
    return x, rng.normal(1.0, 0.2, C), rng.normal(0.0, 0.2, C), _EPS


def _backward_inputs(rng, N, C):
    x, weight, _, eps = _forward_inputs(rng, N, C)
    mean = x.mean(-1)
    rstd = (x.var(-1) + eps) ** -0.5
    return rng.normal(size=(N, C)), x, weight, mean, rstd


_SHAPES = [dict(N=1, C=1), dict(N=3, C=5), dict(N=37, C=65), dict(N=130, C=128), dict(N=0, C=8)]
_SHAPES += [dict(N=5, C=1544), dict(N=2, C=1031)]  # rows of several warps: in packs, and not
_BENCH = [dict(N=768, C=128), dict(N=2048, C=768)]
_BENCH_GPU = [dict(N=16384, C=4096)]

layer_norm_forward = Kernel(
    __name__,
    "layer_norm_forward",
    "x (N, C), weight (C,), bias (C,), eps -> y (N, C), mean (N,), rstd (N,)",
    inputs=_forward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda x, weight, bias, eps: Cost(2 * x.nbytes, 8 * x.size),
)

layer_norm_backward = Kernel(
    __name__,
    "layer_norm_backward",
    "dy (N, C), x (N, C), weight (C,), mean (N,), rstd (N,) -> dx (N, C), dweight (C,), dbias (C,)",
    inputs=_backward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda dy, x, weight, mean, rstd: Cost(3 * x.nbytes, 14 * x.size),
    statistics=(3, 4),
)
