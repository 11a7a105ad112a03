"""Matrix multiplication: your file for chapter 06, exercises 6.1 and 6.4.

6.2 and 6.3 are CUDA C++, in naive.cu and tiled.cu beside it.
"""

import numpy as np


class Slow:
    """A matrix in slow memory: `x[i:i2, j:j2]` fetches a copy of a tile, and is counted.

    Attributes:
        shape, dtype: as an array's.
        fetched: elements fetched so far.
        largest: elements of the largest tile among them.
    """

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.fetched = self.largest = 0

    def __getitem__(self, place):
        tile = np.array(self.array[place])
        self.fetched += tile.size
        self.largest = max(self.largest, tile.size)
        return tile


def blocked(a, b, tile=64):
    """c = a b, by tiles that fit into fast memory.

    Args:
        a: (M, K), an array or Slow: index it by two slices, nothing else.
        b: (K, N), likewise.
        tile: no fetched piece may have more than tile * tile elements. None of M, N and K
            need be a multiple of it; slices that reach over an edge end there by themselves.

    Returns:
        (M, N), an array of a's dtype. Elements fetched: M K ceil(N / tile) of a, K N ceil(M / tile)
        of b, equation (3).
    """
    (M, K), N = a.shape, b.shape[1]
    c = np.zeros((M, N), a.dtype)
    # hole 1: for each tile of c, over all tiles of k: fetch a tile of a, one of b; add their `@`
    for i in range(0, M, tile):
        for j in range(0, N, tile):
            for k in range(0, K, tile):
                left = a[i : i + tile, k : k + tile]
                right = b[k : k + tile, j : j + tile]
                c[i : i + tile, j : j + tile] += left @ right
    # end of hole
    return c


def matmul_backward(dc, a, b):
    """The gradients of a and b, where c = a b went into a loss whose gradient is dc.

    Args:
        dc: (..., M, N). Leading dimensions are rows that all meet the same b.
        a: (..., M, K).
        b: (K, N).

    Returns:
        da (..., M, K) and db (K, N), equations (5) and (6).
    """
    # hole 4: two products; for db, make one matrix of all rows first
    da = dc @ b.T
    rows, drows = a.reshape(-1, a.shape[-1]), dc.reshape(-1, dc.shape[-1])
    return da, rows.T @ drows
    # end of hole
