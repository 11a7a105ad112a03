"""Softmax where rows are not plain numbers."""

import numpy as np
import pytest

from minillm.kernels.softmax import softmax_forward

INF = np.inf


@pytest.mark.parametrize("implementation", softmax_forward.implementations())
def test_masked_and_infinite_entries(implementation):
    x = np.array([[0, -INF, 0], [-INF, 5, -INF], [-INF] * 3, [1e30, 0, -1e30], [INF, 0, 0]], "f4")
    with np.errstate(invalid="ignore"):
        y = softmax_forward.implementation(implementation)(x)
    np.testing.assert_array_equal(y[:2], [[0.5, 0, 0.5], [0, 1, 0]])
    assert np.isnan(y[2]).all()
    np.testing.assert_array_equal(y[3], [1, 0, 0])
    assert np.isnan(y[4]).any()


@pytest.mark.parametrize("implementation", softmax_forward.implementations())
def test_same_as_pytorch_on_masked_rows(implementation):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(9, 33)).astype(np.float32)
    x[x > 0.5] = -INF
    x[4] = -INF
    with np.errstate(invalid="ignore"):
        y = softmax_forward.implementation(implementation)(x)
    want = torch.softmax(torch.from_numpy(x), -1).numpy()
    np.testing.assert_allclose(y, want, rtol=2e-6)  # a few units in the last place
