"""Every implementation of every kernel on CuPy arrays, against the float64 reference on the CPU.

The same cases as tests/kernels/test_kernels.py, with fresh random inputs in each session (the seed
is in the test's output) and outputs that hold NaN before the call.
"""

import secrets

import ml_dtypes  # noqa: F401  (registers bfloat16)
import numpy as np
import pytest

from minillm.device import to_device
from minillm.kernels.instrument import compare, outputs
from minillm.kernels.registry import declared

SEED = secrets.randbits(32)

# Rows that take more shared memory than a kernel has without asking, and than a block can have.
_LONG = [dict(N=5, C=20000), dict(N=3, C=120001)]
_LONG_CLASSES = [dict(N=n["N"], V=n["C"], label_smoothing=0.1) for n in _LONG]
LARGE = {
    "softmax_forward": _LONG,
    "softmax_backward": _LONG,
    "cross_entropy_forward": _LONG_CLASSES,
    "cross_entropy_forward_backward": [dict(shape, inplace=True) for shape in _LONG_CLASSES],
}


def on_gpu(args):
    return tuple(to_device(a, "cuda") if isinstance(a, np.ndarray) else a for a in args)


def widened(args, dtype):
    return tuple(
        a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == dtype else a for a in args
    )


def cases():
    for kernel in declared().values():
        for implementation in kernel.implementations():
            if implementation != "reference" and not kernel.for_gpu(implementation):
                continue
            for dtype in ("float32", "float64", "bfloat16"):
                if kernel.supports(implementation, dtype):
                    shapes = [*kernel.shapes, kernel.bench[0], *LARGE.get(kernel.name, [])]
                    for i, shape in enumerate(shapes):
                        name = f"{kernel.name}-{implementation}-{dtype}-{i}"
                        yield pytest.param(kernel, implementation, dtype, shape, id=name)


@pytest.mark.parametrize(("kernel", "implementation", "dtype", "shape"), list(cases()))
def test_agrees_with_the_float64_reference(poisoned, kernel, implementation, dtype, shape):
    print(f"seed {SEED}")
    args = kernel.drawn(dtype, SEED, **shape)
    wide = widened(args, np.dtype(dtype))
    want = outputs(kernel, kernel.implementation("reference")(*wide), wide)
    args = on_gpu(args)
    got = outputs(kernel, kernel.implementation(implementation)(*args), args)
    compare(kernel, implementation, got, want)


@pytest.mark.parametrize(
    "kernel", [k for k in declared().values() if k.cuda_steps()], ids=lambda k: k.name
)
def test_the_same_bits_every_time(kernel):
    results = []
    for _ in range(3):
        args = on_gpu(kernel.drawn("float32", **kernel.bench[0]))
        results.append(outputs(kernel, kernel.implementation("cuda")(*args), args))
    for again in results[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(results[0], again))
