"""The Gaussian error linear unit as its formulas say, in NumPy or CuPy."""

import math

import numpy as np

from minillm.device import xp_of
from minillm.kernels.runtime.precision import float_like

_SLOPE, _CUBE = math.sqrt(2 / math.pi), 0.044715


def _erf(x):
    if xp_of(x) is np:  # which has no erf
        return np.vectorize(math.erf, otypes=[x.dtype])(x)
    from cupyx.scipy.special import erf

    return erf(x)


def gelu_forward(x, tanh):
    dtype, (x,) = float_like(x)
    if tanh:
        y = 0.5 * x * (1 + xp_of(x).tanh(_SLOPE * (x + _CUBE * x**3)))
    else:
        y = 0.5 * x * (1 + _erf(x * math.sqrt(0.5)))
    return y.astype(dtype)


def gelu_backward(dy, x, tanh):
    dtype, (dy, x) = float_like(dy, x)
    xp = xp_of(x)
    if tanh:
        t = xp.tanh(_SLOPE * (x + _CUBE * x**3))
        slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _SLOPE * (1 + 3 * _CUBE * x**2)
    else:
        density = xp.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
        slope = 0.5 * (1 + _erf(x * math.sqrt(0.5))) + x * density
    return (dy * slope).astype(dtype)
