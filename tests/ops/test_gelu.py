"""gelu, both forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm.functional as F
from minillm.errors import UserError
from minillm.gradcheck import gradcheck
from minillm.tensor import Tensor
from tests.against_torch import compare
from tests.strategies import arrays


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3, 5)])
def test_against_torch(approximate, shape):
    torch = pytest.importorskip("torch")
    x = np.asarray(np.random.default_rng(0).normal(0, 3, shape))
    compare(
        lambda x: F.gelu(x, approximate),
        lambda x: torch.nn.functional.gelu(x, approximate=approximate),
        x,
        name="gelu",
    )


def test_far_from_zero():
    x = Tensor(np.array([-100.0, -40.0, 0.0, 40.0, 100.0]), requires_grad=True)
    for approximate in ("none", "tanh"):
        x.grad = None
        y = F.gelu(x, approximate)
        np.testing.assert_allclose(y.data, [0, 0, 0, 40, 100], atol=1e-12)
        y.backward(np.ones(5))
        np.testing.assert_allclose(x.grad.data, [0, 0, 0.5, 1, 1], atol=1e-12)


@given(arrays(low=-6, high=6), st.sampled_from(["none", "tanh"]))
def test_gradients(x, approximate):
    gradcheck(lambda x: F.gelu(x, approximate), x)


def test_errors():
    with pytest.raises(UserError, match="'none' or 'tanh', got 'erf'"):
        F.gelu(Tensor([1.0]), "erf")
    with pytest.raises(UserError, match="floating dtype, got int64"):
        F.gelu(Tensor([1]))
