"""The Gaussian error linear unit with Numba: one exponential and one or two divisions an element.

The exact form takes the normal distribution's smaller tail, e^(-x^2 / 2) erfcx(|x| / sqrt 2) / 2,
and the tanh form the logistic function: neither cancels where x is far below 0, as 1 + tanh does,
and the exact backward finds its density in the same exponential.
"""

import math

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.threads import parallel_elements
from minillm.kernels.runtime.vmath import erfcx, exp, sigmoid

_SLOPE, _CUBE = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715
_SQRT_HALF, _DENSITY = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)


@jit
def _forward_tanh(start, stop, x, y):
    x, y = x[start:stop], y[start:stop]
    slope, cube = x.dtype.type(_SLOPE), x.dtype.type(_CUBE)
    for i in range(x.size):
        v = x[i]
        y[i] = v * sigmoid(v * (slope + cube * v * v))


@jit
def _forward_erf(start, stop, x, y):
    x, y = x[start:stop], y[start:stop]
    half, one, sqrt_half = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(_SQRT_HALF)
    for i in range(x.size):
        v = x[i]
        tail = half * exp(-half * v * v) * erfcx(sqrt_half * abs(v))
        y[i] = v * (tail if v < 0 else one - tail)


@jit
def _backward_tanh(start, stop, dy, x, dx):
    dy, x, dx = dy[start:stop], x[start:stop], dx[start:stop]
    slope, cube = x.dtype.type(_SLOPE), x.dtype.type(_CUBE)
    one, three = x.dtype.type(1), x.dtype.type(3)
    least, most = x.dtype.type(-32), x.dtype.type(32)
    for i in range(x.size):
        v = min(max(x[i], least), most)  # beyond, s is 0 or 1 and a large factor could overflow
        curve = cube * v * v
        s = sigmoid(v * (slope + curve))
        dx[i] = dy[i] * (s + v * s * (one - s) * (slope + three * curve))


@jit
def _backward_erf(start, stop, dy, x, dx):
    dy, x, dx = dy[start:stop], x[start:stop], dx[start:stop]
    half, one, sqrt_half = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(_SQRT_HALF)
    density = x.dtype.type(_DENSITY)
    for i in range(x.size):
        v = x[i]
        e = exp(-half * v * v)
        tail = half * e * erfcx(sqrt_half * abs(v))
        dx[i] = dy[i] * ((tail if v < 0 else one - tail) + v * (density * e))


def gelu_forward(x, tanh):
    y = np.empty_like(x)
    function = _forward_tanh if tanh else _forward_erf
    parallel_elements(function, x.size, x.reshape(-1), y.reshape(-1))
    return y


def gelu_backward(dy, x, tanh):
    dx = np.empty_like(x)
    function = _backward_tanh if tanh else _backward_erf
    parallel_elements(function, x.size, dy.reshape(-1), x.reshape(-1), dx.reshape(-1))
    return dx
