"""The CPU's ladder of chapter 06, compiled by Numba: two orders of the three loops, and blocks.

All add a b to c, for a (M, K), b (K, N) and c (M, N), float32 and row-major, on one thread.
"""

from numba import njit


@njit
def ijk(a, b, c):
    """Element by element: a row of a times a column of b."""
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = c[i, j]
            for k in range(a.shape[1]):
                total += a[i, k] * b[k, j]
            c[i, j] = total


@njit
def ikj(a, b, c):
    """Row by row: a number of a times a row of b, added to a row of c."""
    for i in range(a.shape[0]):
        row = c[i]
        for k in range(a.shape[1]):
            x, other = a[i, k], b[k]
            for j in range(row.size):
                row[j] += x * other[j]


@njit
def blocks(a, b, c, depth=16, width=512):
    """As ikj, but with depth x width of b (32 KB) at a time, for all rows of a."""
    for k0 in range(0, a.shape[1], depth):
        for j0 in range(0, b.shape[1], width):
            for i in range(a.shape[0]):
                row = c[i, j0 : j0 + width]
                for k in range(k0, min(k0 + depth, a.shape[1])):
                    x, other = a[i, k], b[k, j0 : j0 + width]
                    for j in range(row.size):
                        row[j] += x * other[j]
