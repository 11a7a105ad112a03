"""Gated linear unit with SiLU, the middle of Llama's MLP (Shazeer 2020, arXiv 2002.05202).

    s = 1 / (1 + e^-gate),   silu(gate) = gate s
    y = silu(gate) up

    dgate = dy up s (1 + gate (1 - s)),   dup = dy silu(gate)

Arrays of one shape, contiguous; elements are independent.
"""

from minillm.kernels.registry import Cost, Kernel


def _forward_inputs(rng, shape):
    return rng.normal(0.0, 2.0, shape), rng.normal(size=shape)


def _backward_inputs(rng, shape):
    return rng.normal(size=shape), *_forward_inputs(rng, shape)


_SHAPES = [dict(shape=shape) for shape in ((), (7,), (3, 5, 65), (131, 257), (0, 4))]
_BENCH = [dict(shape=(768, 384)), dict(shape=(2048, 2048))]
_BENCH_GPU = [dict(shape=(16384, 11008))]

swiglu_forward = Kernel(
    __name__,
    "swiglu_forward",
    "gate (...), up (...) -> y (...)",
    inputs=_forward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda gate, up: Cost(3 * gate.nbytes, 17 * gate.size),
)

swiglu_backward = Kernel(
    __name__,
    "swiglu_backward",
    "dy (...), gate (...), up (...) -> dgate (...), dup (...)",
    inputs=_backward_inputs,
    shapes=_SHAPES,
    bench=_BENCH,
    bench_gpu=_BENCH_GPU,
    cost=lambda dy, gate, up: Cost(5 * gate.nbytes, 22 * gate.size),
)
