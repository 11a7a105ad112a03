"""Dropout (Srivastava et al. 2014) with counter-based random bits, so that no mask is stored.

    y[i] = x[i] / (1 - p) where bits(key, i) >= p 2^32, else 0

bits are the words of Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"): element i takes word i mod 4 of the block with counter i div 4 and the given 64-bit key. They
follow from (key, i) alone, so any number of threads, and any device, makes the same choice; the
backward pass is the same call on dy.
"""

from minillm.kernels.registry import Cost, Kernel


def _inputs(rng, shape, p):
    return rng.normal(size=shape), p, 0x9E3779B97F4A7C15


dropout = Kernel(
    __name__,
    "dropout",
    "x (...), p, key -> y (...)",
    inputs=_inputs,
    shapes=[
        dict(shape=(1,), p=0.5),
        dict(shape=(3, 5), p=0.1),
        dict(shape=(7, 65), p=0.9),
        dict(shape=(0, 4), p=0.5),
        dict(shape=(2, 3, 4099), p=0.2),
        dict(shape=(8,), p=0.0),
        dict(shape=(9,), p=1.0),
    ],  # fmt: skip
    bench=[dict(shape=(768, 128), p=0.1), dict(shape=(2048, 768), p=0.1)],
    bench_gpu=[dict(shape=(16384, 4096), p=0.1)],
    cost=lambda x, p, key: Cost(2 * x.nbytes, x.size),
)
