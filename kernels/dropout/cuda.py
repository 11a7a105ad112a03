"""Dropout in CUDA C++: what the steps of the ladder, the .cu files here, are given."""

import ctypes

from minillm.device import xp_of
from minillm.kernels.dropout import philox
from minillm.kernels.runtime.flat import flat_blocks


class Schedule(ctypes.Structure):
    """What one word of the key is in each round: `struct Schedule` in the .cu files."""

    _fields_ = [("word", ctypes.c_uint * philox.ROUNDS)]


def dropout(program, x, p, key):
    y = xp_of(x).empty_like(x)
    program.launch(
        "dropout", x.dtype, flat_blocks(x, program.THREADS, program.PACKS),
        y, x, philox.threshold(p), philox.scale(p), _schedule(key, philox.WEYL_0),
        _schedule(key >> 32, philox.WEYL_1), x.size,
    )  # fmt: skip
    return y


def _schedule(word, weyl):
    words = ((word + i * weyl) & philox.MASK for i in range(philox.ROUNDS))
    return Schedule((ctypes.c_uint * philox.ROUNDS)(*words))
