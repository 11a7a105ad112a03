"""Sum of squares in float64, in NumPy or CuPy."""

from minillm.device import xp_of


def sum_of_squares(x):
    x = x.astype(xp_of(x).float64)
    return float((x * x).sum())
