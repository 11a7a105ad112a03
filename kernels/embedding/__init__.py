"""Embedding: row ids[n] of a table, and the sum of the gradients of each row.

    y[n] = weight[ids[n]]
    dweight[i] = sum over n with ids[n] = i of dy[n]

The sum runs in the order of n, on a GPU in groups of fixed size first, whatever the number of
threads: the same bits at every run.
"""

from minillm.device import Array
from minillm.errors import UserError
from minillm.kernels.registry import Cost, Kernel


def check_ids(ids: Array, V: int) -> None:
    """Refuse an id that names no row, which a compiled kernel would use as an address.

    Raises:
        UserError: an id outside [0, V).
    """
    # Without a sign a negative id is huge, so that one maximum tells, and waits for a GPU, once.
    if ids.size and ids.astype("int64", copy=False).view("uint64").max() >= V:
        bad = ids[(ids < 0) | (ids >= V)][0]
        raise UserError(f"embedding: id {bad} is outside the table of {V} rows (ids from 0)")


def _forward_inputs(rng, N, C, V):
    return rng.normal(size=(V, C)), rng.integers(0, V, N)


def _backward_inputs(rng, N, C, V):
    return rng.normal(size=(N, C)), rng.integers(0, V, N), V


_SHAPES = [
    dict(N=1, C=1, V=1), dict(N=7, C=5, V=3), dict(N=130, C=65, V=1000), dict(N=0, C=4, V=2),
    dict(N=300, C=200, V=2), dict(N=2100, C=8, V=40),
]  # fmt: skip
_BENCH = [dict(N=768, C=128, V=65), dict(N=2048, C=768, V=50257)]
_BENCH_GPU = [dict(N=16384, C=4096, V=50304)]

embedding_forward = Kernel(
    __name__,
    "embedding_forward",
    "weight (V, C), ids (N,) -> y (N, C)",
    inputs=_forward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda weight, ids: Cost(2 * ids.size * weight.shape[1] * weight.itemsize, 0),
)

embedding_backward = Kernel(
    __name__,
    "embedding_backward",
    "dy (N, C), ids (N,), V -> dweight (V, C)",
    inputs=_backward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda dy, ids, V: Cost(2 * dy.nbytes + V * dy.shape[1] * dy.itemsize, dy.size),
)
