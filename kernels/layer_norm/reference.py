"""Layer normalisation as the formula says, in NumPy or CuPy."""

from minillm.kernels.runtime.precision import float_like


def layer_norm_forward(x, weight, bias, eps):
    dtype, (x, weight, bias) = float_like(x, weight, bias)
    mean = x.mean(-1)
    rstd = ((x - mean[:, None]) ** 2).mean(-1)
    rstd = (rstd + eps) ** -0.5
    y = (x - mean[:, None]) * rstd[:, None] * weight + bias
    return y.astype(dtype), mean, rstd


def layer_norm_backward(dy, x, weight, mean, rstd):
    dtype, (dy, x, weight, mean, rstd) = float_like(dy, x, weight, mean, rstd)
    xhat = (x - mean[:, None]) * rstd[:, None]
    g = dy * weight
    dx = g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True)
    dx *= rstd[:, None]
    return dx.astype(dtype), (dy * xhat).sum(0).astype(dtype), dy.sum(0).astype(dtype)
