"""The SiLU-gated linear unit with Numba: one exponential and one division an element."""

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.threads import parallel_elements
from minillm.kernels.runtime.vmath import sigmoid


@jit
def _forward(start, stop, gate, up, y):
    gate, up, y = gate[start:stop], up[start:stop], y[start:stop]
    for i in range(gate.size):
        y[i] = gate[i] * sigmoid(gate[i]) * up[i]


def swiglu_forward(gate, up):
    y = np.empty_like(gate)
    parallel_elements(_forward, gate.size, gate.reshape(-1), up.reshape(-1), y.reshape(-1))
    return y


@jit
def _backward(start, stop, dy, gate, up, dgate, dup):
    dy, gate, up = dy[start:stop], gate[start:stop], up[start:stop]
    dgate, dup = dgate[start:stop], dup[start:stop]
    one = gate.dtype.type(1)
    for i in range(gate.size):
        g = gate[i]
        s = sigmoid(g)
        dgate[i] = dy[i] * up[i] * (s * (one + g * (one - s)))
        dup[i] = dy[i] * (g * s)


def swiglu_backward(dy, gate, up):
    dgate, dup = np.empty_like(gate), np.empty_like(up)
    arrays = (a.reshape(-1) for a in (dy, gate, up, dgate, dup))
    parallel_elements(_backward, gate.size, *arrays)
    return dgate, dup
