"""Sum of squares in float64, and a sum in place, in NumPy or CuPy."""

from minillm.device import xp_of


def sum_of_squares(x):
    x = x.astype(xp_of(x).float64)
    return float((x * x).sum())


def accumulate(a, b):
    xp_of(a).add(a, b, out=a)
