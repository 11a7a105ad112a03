"""Dropout with Philox bits in 64-bit integers, in NumPy or CuPy."""

from minillm.device import xp_of
from minillm.kernels.dropout import philox
from minillm.kernels.runtime.precision import float_like


def _bits(xp, n, key):
    """Words of elements [0, n) as uint64 below 2^32."""
    u64, mask = xp.uint64, xp.uint64(philox.MASK)
    counter = xp.arange(-(-n // 4), dtype=u64)
    c0, c1, c2, c3 = counter & mask, counter >> u64(32), counter * u64(0), counter * u64(0)
    k0, k1 = key & philox.MASK, key >> 32
    for _ in range(philox.ROUNDS):
        product0, product1 = c0 * u64(philox.MULTIPLIER_0), c2 * u64(philox.MULTIPLIER_1)
        c0, c2 = (product1 >> u64(32)) ^ c1 ^ u64(k0), (product0 >> u64(32)) ^ c3 ^ u64(k1)
        c1, c3 = product1 & mask, product0 & mask
        k0, k1 = (k0 + philox.WEYL_0) & philox.MASK, (k1 + philox.WEYL_1) & philox.MASK
    return xp.stack([c0, c1, c2, c3], 1).reshape(-1)[:n]


def dropout(x, p, key):
    xp = xp_of(x)
    dtype, (x,) = float_like(x)
    kept = (_bits(xp, x.size, key) >= xp.uint64(philox.threshold(p))).reshape(x.shape)
    return xp.where(kept, x * philox.scale(p), 0).astype(dtype)
