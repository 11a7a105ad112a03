"""AdamW in CUDA C++: one launch over the flat arrays, its constants worked out on the host."""

from math import sqrt

from minillm.kernels.runtime.cuda import blocks


def adamw(program, param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, grad_scale):
    # lr (m / (1 - beta1^t)) / (sqrt(v / c) + eps)  =  rate m / (sqrt(v) + eps sqrt(c))
    correction = sqrt(1 - beta2**step)
    rate = lr * correction / (1 - beta1**step)
    program.launch(
        "adamw", param.dtype, blocks(param.size, program.THREADS * program.ITEMS),
        param, grad, m, v, grad_scale, beta1, 1 - beta1, beta2, 1 - beta2,
        1 - lr * weight_decay, rate, eps * correction, param.size,
    )  # fmt: skip
