"""The matrix product in CUDA C++: what the steps of the ladder, the .cu files here, are given."""

import ctypes
from math import prod

import numpy as np

from minillm.device import xp_of
from minillm.kernels.runtime.cuda import MOST_BLOCKS, Strided, blocks


class MatrixStrides(ctypes.Structure):
    """Elements between neighbours in a stack of matrices (strides.cuh)."""

    _fields_ = [
        ("batch", ctypes.c_longlong * 3), ("row", ctypes.c_longlong), ("column", ctypes.c_longlong)
    ]  # fmt: skip


class Batch(ctypes.Structure):
    """Sizes of a stack's three leading dimensions (strides.cuh)."""

    _fields_ = [("size", ctypes.c_int * 3)]


def matmul(program, a, b):
    xp, M, N = xp_of(a), a.shape[-2], b.shape[-1]
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    c = xp.empty((*lead, M, N), a.dtype)
    # The kernels know three leading dimensions; of more, the outer ones are launches.
    a, b = (xp.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (a, b))
    for outer in np.ndindex(lead[:-3]):
        _product(program, c[outer], a[outer], b[outer])
    return c


def _product(program, c, a, b):
    (M, K), N, lead = a.shape[-2:], b.shape[-1], (1, 1, 1, *a.shape[:-2])[-3:]
    batches, tiles = prod(lead), blocks(M, program.ROWS) * blocks(N, program.COLUMNS)
    program.launch(
        "matmul", a.dtype, (tiles, 1, min(batches, MOST_BLOCKS[2])), c, Strided(a), Strided(b),
        _strides(a), _strides(b), Batch(lead), batches, M, N, K,
    )  # fmt: skip


def _strides(x):
    *lead, row, column = (stride // x.itemsize for stride in x.strides)
    return MatrixStrides((0, 0, 0, *lead)[-3:], row, column)
