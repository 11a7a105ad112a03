"""Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv 1910.07467) over the last dimension.

    rstd = (sum_c x^2 / C + eps)^-1/2,   xhat = x rstd
    y = xhat weight

    g = dy weight
    dx = rstd (g - xhat mean_c(g xhat)),   dweight = sum_n dy xhat

Rows are independent but for dweight, whose sum runs over fixed parts of the rows.

The `add_` kernels take the addition before it along: of a residual x + f(x) both the sum and its
norm are wanted, and neither is then read again to make the other.

    total = x + residual, rounded;   y, rstd = rms_norm(total)
    dx = dtotal + (dx of rms_norm),  the gradient of x and of residual alike
"""

from minillm.kernels.registry import Cost, Kernel

# Large enough to be seen in the results, and to keep rstd near 1 where a row is near 0.
_EPS = 0.1


def _forward_inputs(rng, N, C):
    return rng.normal(0.5, 2.0, (N, C)), rng.normal(1.0, 0.2, C), _EPS


def _backward_inputs(rng, N, C):
    x, weight, eps = _forward_inputs(rng, N, C)
    rstd = ((x**2).mean(-1) + eps) ** -0.5
    return rng.normal(size=(N, C)), x, weight, rstd


def _add_forward_inputs(rng, N, C):
    # Sums that bfloat16 holds exactly: the reference in float64 normalises the same numbers.
    x, residual = (rng.integers(-64, 64, (N, C)) / 16 for _ in range(2))
    return x, residual, rng.normal(1.0, 0.2, C), _EPS


def _add_backward_inputs(rng, N, C):
    dy, total, weight, rstd = _backward_inputs(rng, N, C)
    return dy, rng.normal(size=(N, C)), total, weight, rstd


_SHAPES = [dict(N=1, C=1), dict(N=3, C=5), dict(N=37, C=65), dict(N=130, C=128), dict(N=0, C=8)]
_SHAPES += [dict(N=5, C=1544), dict(N=2, C=1031)]  # rows of several warps: in packs, and not
_BENCH = [dict(N=768, C=128), dict(N=2048, C=768)]
_BENCH_GPU = [dict(N=16384, C=4096)]

rms_norm_forward = Kernel(
    __name__,
    "rms_norm_forward",
    "x (N, C), weight (C,), eps -> y (N, C), rstd (N,)",
    inputs=_forward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda x, weight, eps: Cost(2 * x.nbytes, 4 * x.size),
)

rms_norm_backward = Kernel(
    __name__,
    "rms_norm_backward",
    "dy (N, C), x (N, C), weight (C,), rstd (N,) -> dx (N, C), dweight (C,)",
    inputs=_backward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda dy, x, weight, rstd: Cost(3 * x.nbytes, 10 * x.size),
    statistics=(3,),
)

add_rms_norm_forward = Kernel(
    __name__,
    "add_rms_norm_forward",
    "x (N, C), residual (N, C), weight (C,), eps -> y (N, C), total (N, C), rstd (N,)",
    inputs=_add_forward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda x, residual, weight, eps: Cost(4 * x.nbytes, 5 * x.size),
)

add_rms_norm_backward = Kernel(
    __name__,
    "add_rms_norm_backward",
    "dy (N, C), dtotal (N, C), total (N, C), weight (C,), rstd (N,) -> dx (N, C), dweight (C,)",
    inputs=_add_backward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda dy, dtotal, total, weight, rstd: Cost(4 * dy.nbytes, 11 * dy.size),
    statistics=(4,),
)
