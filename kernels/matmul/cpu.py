"""Matrix product by the BLAS that NumPy carries; nothing written by hand on a CPU comes near it."""

import numpy as np


def matmul(a, b):
    if b.ndim == 2 and a.ndim > 2 and a.flags.c_contiguous:  # one product, not one a batch entry
        return np.matmul(a.reshape(-1, a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[-1])
    return np.matmul(a, b)
