"""Gaussian error linear unit (Hendrycks & Gimpel 2016, arXiv 1606.08415), exact or by tanh.

Exact (`tanh=False`), with Phi and phi the distribution and density of the standard normal:

    y = x Phi(x) = x (1 + erf(x / sqrt 2)) / 2
    dx = dy (Phi(x) + x phi(x)),   phi(x) = e^(-x^2 / 2) / sqrt(2 pi)

GPT-2's approximation (`tanh=True`), with s the logistic function:

    u = sqrt(2 / pi) (x + 0.044715 x^3),   y = x (1 + tanh u) / 2 = x s(2 u)
    dx = dy (s + x s (1 - s) 2 u'),   u' = sqrt(2 / pi) (1 + 3 * 0.044715 x^2)

Arrays of any shape, contiguous; elements are independent.
"""

from minillm.kernels.registry import Cost, Kernel


def _forward_inputs(rng, shape, tanh):
    return rng.normal(0.0, 2.0, shape), tanh


def _backward_inputs(rng, shape, tanh):
    return rng.normal(size=shape), *_forward_inputs(rng, shape, tanh)


_SHAPES = [
    dict(shape=shape, tanh=tanh)
    for tanh in (False, True)
    for shape in ((), (7,), (3, 5, 65), (131, 257), (0, 4))
]
_BENCH = [dict(shape=(768, 512), tanh=True), dict(shape=(2048, 3072), tanh=True)]
_BENCH += [dict(shape=(2048, 3072), tanh=False)]
_BENCH_GPU = [dict(shape=(16384, 16384), tanh=True)]

gelu_forward = Kernel(
    __name__,
    "gelu_forward",
    "x (...), tanh -> y (...)",
    inputs=_forward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda x, tanh: Cost(2 * x.nbytes, 20 * x.size),
)

gelu_backward = Kernel(
    __name__,
    "gelu_backward",
    "dy (...), x (...), tanh -> dx (...)",
    inputs=_backward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda dy, x, tanh: Cost(3 * x.nbytes, 30 * x.size),
)
