"""Matrix product, of two matrices or of stacks of them.

    c[..., i, j] = sum_k a[..., i, k] b[..., k, j]

Leading dimensions broadcast. Transposed views are fine: a BLAS takes them by a flag.
"""

from math import prod

from minillm.kernels.registry import Cost, Kernel


def _inputs(rng, a, b, transpose=""):
    a, b = (rng.normal(size=shape) for shape in (a, b))
    a = a.swapaxes(-1, -2) if "a" in transpose else a
    return a, b.swapaxes(-1, -2) if "b" in transpose else b


def _cost(a, b):
    batch = max(prod(a.shape[:-2]), prod(b.shape[:-2]))
    rows, inner, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    moved = a.size + b.size + batch * rows * columns
    return Cost(moved * a.itemsize, 2 * batch * rows * inner * columns)


matmul = Kernel(
    __name__,
    "matmul",
    "a (..., M, K), b (..., K, N) -> c (..., M, N)",
    inputs=_inputs,
    shapes=[
        dict(a=(1, 1), b=(1, 1)),
        dict(a=(3, 5), b=(5, 7)),
        dict(a=(65, 130), b=(130, 33)),
        dict(a=(5, 3), b=(5, 7), transpose="a"),
        dict(a=(3, 5), b=(7, 5), transpose="b"),
        dict(a=(20, 70), b=(130, 20), transpose="ab"),
        dict(a=(2, 3, 17, 9), b=(9, 12)),
        dict(a=(2, 1, 4, 9), b=(3, 9, 5)),
        dict(a=(0, 4), b=(4, 3)),
        dict(a=(3, 0), b=(0, 2)),
    ],  # fmt: skip
    bench=[
        dict(a=(768, 128), b=(512, 128), transpose="b"),
        dict(a=(2048, 384), b=(384, 1536)),
        dict(a=(1024, 1024), b=(1024, 1024)),
    ],  # fmt: skip
    bench_gpu=[
        dict(a=(4096, 4096), b=(4096, 4096)),
        dict(a=(8192, 768), b=(3072, 768), transpose="b"),  # an MLP of GPT-2 small
    ],
    cost=_cost,
)
