"""Sum of squares and sum of two arrays in CUDA C++: what the steps of the ladder are given."""

from minillm.device import xp_of
from minillm.kernels.runtime.cuda import blocks


def sum_of_squares(program, x):
    xp, x = xp_of(x), xp_of(x).ascontiguousarray(x)
    # Which elements a part has depends on n alone, and so does the result, to the bit.
    parts = min(blocks(x.size, program.THREADS * program.ITEMS), program.MOST_PARTS)
    sums, total = xp.empty(parts, xp.float64), xp.empty((), xp.float64)
    program.launch("sum_of_squares", x.dtype, parts, sums, x, x.size)
    program.launch("sum_of_parts", x.dtype, 1, total, sums, parts)
    return float(total)


def accumulate(program, a, b):
    grid = blocks(a.size, program.THREADS * program.ITEMS)
    program.launch("accumulate", a.dtype, grid, a, b, a.size)
