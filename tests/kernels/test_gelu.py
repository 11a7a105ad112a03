"""GELU and SwiGLU far from 0, where exponentials overflow, and against PyTorch."""

import numpy as np
import pytest

from minillm.kernels.gelu import gelu_backward, gelu_forward
from minillm.kernels.swiglu import swiglu_backward, swiglu_forward

FAR = np.array([-1e18, -500, -50, 50, 500, 1e18], np.float32)
ONES = np.ones_like(FAR)
NEGATIVE = FAR < 0
IMPLEMENTATIONS = ["reference", "cpu"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("tanh", [False, True])
def test_gelu_is_0_or_the_identity_far_from_0(implementation, tanh):
    with np.errstate(over="ignore"):
        y = gelu_forward.implementation(implementation)(FAR, tanh)
        dx = gelu_backward.implementation(implementation)(ONES, FAR, tanh)
    np.testing.assert_array_equal(y, np.where(NEGATIVE, 0, FAR))
    np.testing.assert_array_equal(dx, np.where(NEGATIVE, 0, 1))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("tanh", [False, True])
def test_nan_passes(implementation, tanh):
    x = np.array([1, np.nan, 2], np.float32)
    dy = np.ones_like(x)
    arrays = [
        gelu_forward.implementation(implementation)(x, tanh),
        gelu_backward.implementation(implementation)(dy, x, tanh),
        swiglu_forward.implementation(implementation)(x, dy),
        *swiglu_backward.implementation(implementation)(dy, x, dy),
    ]
    for array in arrays:
        np.testing.assert_array_equal(np.isnan(array), [False, True, False])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_swiglu_is_0_or_the_product_far_from_0(implementation):
    y = swiglu_forward.implementation(implementation)(FAR, 2 * ONES)
    dgate, dup = swiglu_backward.implementation(implementation)(ONES, FAR, 2 * ONES)
    np.testing.assert_allclose(y, np.where(NEGATIVE, 0, 2 * FAR), atol=1e-19)
    np.testing.assert_allclose(dgate, np.where(NEGATIVE, 0, 2), atol=1e-19)
    np.testing.assert_allclose(dup, np.where(NEGATIVE, 0, FAR), atol=1e-19)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("tanh", [False, True])
def test_gelu_same_as_pytorch(implementation, tanh):
    torch = pytest.importorskip("torch")
    x = np.linspace(-8, 8, 1001)
    dy = np.cos(x)
    t = torch.tensor(x, requires_grad=True)
    want = torch.nn.functional.gelu(t, approximate="tanh" if tanh else "none")
    want.backward(torch.tensor(dy))
    y = gelu_forward.implementation(implementation)(x, tanh)
    dx = gelu_backward.implementation(implementation)(dy, x, tanh)
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dx, t.grad.numpy(), rtol=1e-12, atol=1e-14)
