"""AdamW with Numba: each element read and written once."""

from math import sqrt

import numpy as np

from minillm.kernels.runtime.jit import jit
from minillm.kernels.runtime.threads import parallel


@jit
def _adamw(start, stop, param, grad, m, v, constants):
    keep1, add1, keep2, add2, decay, rate, rescale, eps, scale = constants
    p, g, m, v = param[start:stop], grad[start:stop], m[start:stop], v[start:stop]
    for i in range(p.size):
        gi = g[i] * scale
        mi = keep1 * m[i] + add1 * gi
        vi = keep2 * v[i] + add2 * gi * gi
        m[i], v[i] = mi, vi
        p[i] = decay * p[i] - rate * mi / (np.sqrt(vi) * rescale + eps)


def adamw(param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, grad_scale):
    rate = lr / (1 - beta1**step)
    rescale = 1 / sqrt(1 - beta2**step)  # of sqrt(v)
    numbers = (beta1, 1 - beta1, beta2, 1 - beta2, 1 - lr * weight_decay, rate, rescale, eps)
    constants = tuple(param.dtype.type(number) for number in (*numbers, grad_scale))
    parallel(_adamw, param.size, 1 << 15, param, grad, m, v, constants)
