"""The Gaussian error linear unit in Numba CUDA: a thread an element."""

import math

from minillm.device import xp_of
from minillm.kernels.runtime.numba_blocks import THREADS, blocks
from minillm.kernels.runtime.numba_gpu import cuda, float32, kernel

SQRT_HALF, DENSITY = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)
SLOPE, CUBE = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715  # of 2 u
SATURATED = 10  # beyond it the tanh form is x or 0 to the last bit


@kernel
def _forward_erf(x, y):
    i = cuda.grid(1)
    if i < x.size:
        phi = float32(0.5) * math.erfc(-float32(SQRT_HALF) * x[i])  # 1 + erf would cancel
        y[i] = x[i] * phi


@kernel
def _forward_tanh(x, y):
    i = cuda.grid(1)
    if i < x.size:
        v = x[i]
        u2 = v * (float32(SLOPE) + float32(CUBE) * v * v)
        y[i] = v / (float32(1) + math.exp(-u2))


@kernel
def _backward_erf(dy, x, dx):
    i = cuda.grid(1)
    if i < x.size:
        v = x[i]
        phi = float32(0.5) * math.erfc(-float32(SQRT_HALF) * v)
        density = float32(DENSITY) * math.exp(float32(-0.5) * v * v)
        dx[i] = dy[i] * (phi + v * density)


@kernel
def _backward_tanh(dy, x, dx):
    i = cuda.grid(1)
    if i < x.size:
        v = x[i]
        if abs(v) > float32(SATURATED):  # where a large factor times nothing could be NaN
            slope = float32(1) if v > float32(0) else float32(0)
        else:
            curve = float32(CUBE) * v * v
            s = float32(1) / (float32(1) + math.exp(-v * (float32(SLOPE) + curve)))
            slope = s + v * s * (float32(1) - s) * (float32(SLOPE) + float32(3) * curve)
        dx[i] = dy[i] * slope


def gelu_forward(x, tanh):
    y = xp_of(x).empty_like(x)
    forward = _forward_tanh if tanh else _forward_erf
    forward[blocks(x.size), THREADS](x.reshape(-1), y.reshape(-1))
    return y


def gelu_backward(dy, x, tanh):
    dx = xp_of(x).empty_like(x)
    backward = _backward_tanh if tanh else _backward_erf
    backward[blocks(x.size), THREADS](dy.reshape(-1), x.reshape(-1), dx.reshape(-1))
    return dx
