"""The SiLU-gated linear unit in Numba CUDA: a thread an element."""

import math

from minillm.device import xp_of
from minillm.kernels.runtime.numba_blocks import THREADS, blocks
from minillm.kernels.runtime.numba_gpu import cuda, float32, kernel


@kernel
def _forward(gate, up, y):
    i = cuda.grid(1)
    if i < gate.size:
        s = float32(1) / (float32(1) + math.exp(-gate[i]))
        y[i] = gate[i] * s * up[i]


def swiglu_forward(gate, up):
    y = xp_of(gate).empty_like(gate)
    _forward[blocks(gate.size), THREADS](gate.reshape(-1), up.reshape(-1), y.reshape(-1))
    return y


@kernel
def _backward(dy, gate, up, dgate, dup):
    i = cuda.grid(1)
    if i < gate.size:
        g = gate[i]
        s = float32(1) / (float32(1) + math.exp(-g))
        dgate[i] = dy[i] * up[i] * s * (float32(1) + g * (float32(1) - s))
        dup[i] = dy[i] * g * s


def swiglu_backward(dy, gate, up):
    xp = xp_of(gate)
    dgate, dup = xp.empty_like(gate), xp.empty_like(up)
    flat = (a.reshape(-1) for a in (dy, gate, up, dgate, dup))
    _backward[blocks(gate.size), THREADS](*flat)
    return dgate, dup
