"""Adam with decoupled weight decay, in one pass over flat arrays (Loshchilov & Hutter 2019, arXiv
1711.05101; Kingma & Ba 2015, arXiv 1412.6980). With g = grad_scale grad, at step t = 1, 2, ...

    m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
    param = (1 - lr weight_decay) param - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

grad_scale is the factor of gradient clipping: applied here, it costs no pass of its own.
"""

from minillm.kernels.registry import Cost, Kernel


def _inputs(rng, n):
    arrays = (rng.normal(size=n), rng.normal(0.0, 0.1, n), rng.normal(0.0, 0.1, n))
    return (*arrays, rng.uniform(1e-4, 1e-2, n), 1e-3, 0.9, 0.99, 1e-8, 0.1, 3, 0.5)


adamw = Kernel(
    __name__,
    "adamw",
    "param, grad, m, v (n,), lr, beta1, beta2, eps, weight_decay, step, grad_scale -> None",
    inputs=_inputs,
    shapes=[dict(n=0), dict(n=1), dict(n=17), dict(n=4099), dict(n=100_003)],
    bench=[dict(n=1 << 20)],
    bench_gpu=[dict(n=124_475_904)],  # GPT-2 small
    cost=lambda param, *rest: Cost(7 * param.nbytes, 15 * param.size),
    mutates=(0, 2, 3),
)
