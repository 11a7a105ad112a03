"""AdamW in Numba CUDA: a thread an element, read and written once."""

import math

from minillm.kernels.runtime.numba_blocks import THREADS, blocks
from minillm.kernels.runtime.numba_gpu import cuda, kernel


@kernel
def _adamw(param, grad, m, v, keep1, add1, keep2, add2, decay, rate, rescale, eps, scale):
    i = cuda.grid(1)
    if i < param.size:
        g = grad[i] * scale
        mi = keep1 * m[i] + add1 * g
        vi = keep2 * v[i] + add2 * g * g
        m[i], v[i] = mi, vi
        param[i] = decay * param[i] - rate * mi / (math.sqrt(vi) * rescale + eps)


def adamw(param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, grad_scale):
    rate = lr / (1 - beta1**step)
    rescale = 1 / math.sqrt(1 - beta2**step)  # of sqrt(v)
    numbers = beta1, 1 - beta1, beta2, 1 - beta2, 1 - lr * weight_decay, rate, rescale, eps
    constants = map(float, (*numbers, grad_scale))
    _adamw[blocks(param.size), THREADS](param, grad, m, v, *constants)
