"""AdamW as the equations say, in NumPy or CuPy."""

from minillm.device import xp_of
from minillm.kernels.runtime.precision import float_like


def adamw(param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, grad_scale):
    xp = xp_of(param)
    _, (p, g, new_m, new_v) = float_like(param, grad, m, v)
    g = g * grad_scale
    new_m = beta1 * new_m + (1 - beta1) * g
    new_v = beta2 * new_v + (1 - beta2) * g * g
    m_hat, v_hat = new_m / (1 - beta1**step), new_v / (1 - beta2**step)
    param[...] = (1 - lr * weight_decay) * p - lr * m_hat / (xp.sqrt(v_hat) + eps)
    m[...], v[...] = new_m, new_v
