"""NaN and infinity go through softmax, cross-entropy and attention as through their references.

A GPU's max(NaN, x) is x, as on the emulator: what is not a number has to come out by the sums.
"""

import numpy as np
import pytest

from minillm.kernels.attention import attention_backward, attention_forward
from minillm.kernels.cross_entropy import cross_entropy_forward_backward
from minillm.kernels.runtime import emulator
from minillm.kernels.softmax import softmax_forward

pytestmark = pytest.mark.skipif(not emulator.available(), reason="emulating CUDA needs g++")
NAN, INF = float("nan"), float("inf")


def implementations(kernel):
    return [name for name in kernel.implementations() if kernel.for_gpu(name)]


def rows(C):
    """(n, C): rows of ordinary numbers, each with a few others at its start, middle or end."""
    made = []
    for others in ((NAN,), (INF,), (-INF,), (NAN, INF), (-INF, INF), (-INF, NAN)):
        for at in (0, C // 2, C - 1):
            row = np.random.default_rng(len(made)).normal(size=C)
            for i, other in enumerate(others):
                row[(at + 7 * i) % C] = other
            made.append(row)
    made += [np.full(C, other) for other in (NAN, INF, -INF)]
    return np.stack(made).astype(np.float32)


def assert_alike(kernel, implementation, *args):
    """Finite where the reference is and close; the same NaN and infinities elsewhere."""
    with np.errstate(all="ignore"):
        want, got = (kernel.implementation(n)(*args) for n in ("reference", implementation))
    for g, w in zip(got, want) if isinstance(want, tuple) else [(got, want)]:
        np.testing.assert_allclose(g, w, 1e-4, 1e-5)


@pytest.mark.parametrize("C", [9, 70, 1100])
@pytest.mark.parametrize("implementation", implementations(softmax_forward))
def test_softmax(implementation, C):
    assert_alike(softmax_forward, implementation, rows(C))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("C", [9, 1100])
@pytest.mark.parametrize("implementation", implementations(cross_entropy_forward_backward))
def test_cross_entropy(implementation, C, smoothing):
    x = rows(C)
    targets = np.arange(len(x)) % C
    kernel = cross_entropy_forward_backward
    assert_alike(kernel, implementation, x, targets, -100, smoothing, False)


@pytest.mark.parametrize("implementation", implementations(attention_forward))
def test_attention(implementation):
    """Not causal: there the reference has 0 times what is not to be seen, which may be NaN."""
    rng = np.random.default_rng(0)
    q, k, v, dout = (rng.normal(size=(1, 1, 150, 3)).astype(np.float32) for _ in range(4))
    q[0, 0, 2, 0], v[0, 0, 149, 2] = NAN, INF
    out, lse = attention_forward.implementation("reference")(q, k, v, 0.5, False)
    assert_alike(attention_forward, implementation, q, k, v, 0.5, False)
    assert_alike(attention_backward, implementation, dout, q, k, v, out, lse, 0.5, False)
    k[0, 0, 140, 1] = NAN
    assert_alike(attention_forward, implementation, q, k, v, 0.5, False)
