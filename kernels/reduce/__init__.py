"""Reductions of flat arrays: the norm of all gradients, and the sum of two ranks' gradients.

    sum_of_squares    s = sum_i x_i^2
    accumulate        a_i = a_i + b_i, in place

The squares are accumulated in float64 over fixed parts of the array, so that the result, and with
it a clipped training step, does not depend on the number of threads.
"""

from minillm.kernels.registry import Cost, Kernel

_SHAPES = [dict(n=0), dict(n=1), dict(n=17), dict(n=4096), dict(n=4099), dict(n=100_003)]

sum_of_squares = Kernel(
    __name__,
    "sum_of_squares",
    "x (n,) -> s, a Python float",
    inputs=lambda rng, n: (rng.normal(0.0, 0.1, n),),
    shapes=_SHAPES,
    bench=[dict(n=1 << 20)],
    bench_gpu=[dict(n=1 << 29)],
    cost=lambda x: Cost(x.nbytes, 2 * x.size),
)

accumulate = Kernel(
    __name__,
    "accumulate",
    "a (n,), b (n,) -> None",
    inputs=lambda rng, n: (rng.normal(size=n), rng.normal(size=n)),
    shapes=_SHAPES,
    bench=[dict(n=1 << 18), dict(n=1 << 20)],
    bench_gpu=[dict(n=1 << 28)],
    cost=lambda a, b: Cost(3 * a.nbytes, a.size),
    mutates=(0,),
)
