"""Root-mean-square normalisation as the formula says, in NumPy or CuPy."""

from minillm.kernels.runtime.precision import float_like


def rms_norm_forward(x, weight, eps):
    dtype, (x, weight) = float_like(x, weight)
    rstd = ((x**2).mean(-1) + eps) ** -0.5
    return (x * rstd[:, None] * weight).astype(dtype), rstd


def rms_norm_backward(dy, x, weight, rstd):
    dtype, (dy, x, weight, rstd) = float_like(dy, x, weight, rstd)
    dx, dweight = _backward(dy, x, weight, rstd)
    return dx.astype(dtype), dweight.astype(dtype)


def add_rms_norm_forward(x, residual, weight, eps):
    dtype, (x, residual) = float_like(x, residual)
    total = (x + residual).astype(dtype)
    y, rstd = rms_norm_forward(total, weight, eps)
    return y, total, rstd


def add_rms_norm_backward(dy, dtotal, total, weight, rstd):
    dtype, (dy, dtotal, total, weight, rstd) = float_like(dy, dtotal, total, weight, rstd)
    dx, dweight = _backward(dy, total, weight, rstd)
    return (dtotal + dx).astype(dtype), dweight.astype(dtype)


def _backward(dy, x, weight, rstd):
    xhat = x * rstd[:, None]
    g = dy * weight
    dx = rstd[:, None] * (g - xhat * (g * xhat).mean(-1, keepdims=True))
    return dx, (dy * xhat).sum(0)
