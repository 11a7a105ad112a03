"""What one core can do: multiply-adds of whole vector registers, with no memory in sight."""

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.simd import REGISTER, load, multiply_add, store

LANES = REGISTER // 4  # float32 numbers in a register


@jit
def one_chain(n, x, y):
    """n multiply-adds, each on the result of the one before."""
    factor, term, r = x[0], load(x, 0), load(y, 0)
    for _ in range(n):
        r = multiply_add(factor, r, term)
    store(y, 0, r)


@jit
def ten_chains(n, x, y):
    """10 n multiply-adds, in ten chains that know nothing of each other."""
    f, t, w = x[0], load(x, 0), x.size
    p, q, r, s, u = load(y, 0), load(y, w), load(y, 2 * w), load(y, 3 * w), load(y, 4 * w)
    v, z, d, e, g = load(y, 5 * w), load(y, 6 * w), load(y, 7 * w), load(y, 8 * w), load(y, 9 * w)
    for _ in range(n):
        p, q, r = multiply_add(f, p, t), multiply_add(f, q, t), multiply_add(f, r, t)
        s, u, v = multiply_add(f, s, t), multiply_add(f, u, t), multiply_add(f, v, t)
        z, d, e = multiply_add(f, z, t), multiply_add(f, d, t), multiply_add(f, e, t)
        g = multiply_add(f, g, t)
    store(y, 0, p)
    store(y, w, q)
    store(y, 2 * w, r)
    store(y, 3 * w, s)
    store(y, 4 * w, u)
    store(y, 5 * w, v)
    store(y, 6 * w, z)
    store(y, 7 * w, d)
    store(y, 8 * w, e)
    store(y, 9 * w, g)
