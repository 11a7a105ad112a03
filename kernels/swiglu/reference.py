"""The SiLU-gated linear unit as its formulas say, in NumPy or CuPy."""

from minillm.device import xp_of
from minillm.kernels.runtime.precision import float_like


def _sigmoid(x):
    return 0.5 + 0.5 * xp_of(x).tanh(0.5 * x)  # the logistic function, without overflow


def swiglu_forward(gate, up):
    dtype, (gate, up) = float_like(gate, up)
    return (gate * _sigmoid(gate) * up).astype(dtype)


def swiglu_backward(dy, gate, up):
    dtype, (dy, gate, up) = float_like(dy, gate, up)
    s = _sigmoid(gate)
    dgate = dy * up * s * (1 + gate * (1 - s))
    return dgate.astype(dtype), (dy * gate * s).astype(dtype)
