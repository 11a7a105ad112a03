"""Sum of squares of a flat array: what the norm of all gradients is made of.

    s = sum_i x_i^2

Accumulated in float64 over fixed parts of the array, so that the result, and with it a clipped
training step, does not depend on the number of threads.
"""

from minillm.kernels.registry import Cost, Kernel

sum_of_squares = Kernel(
    __name__,
    "sum_of_squares",
    "x (n,) -> s, a Python float",
    inputs=lambda rng, n: (rng.normal(0.0, 0.1, n),),
    shapes=[dict(n=0), dict(n=1), dict(n=17), dict(n=4099), dict(n=100_003)],
    bench=[dict(n=1 << 20)],
    cost=lambda x: Cost(x.nbytes, 2 * x.size),
)
