"""relu, sigmoid, tanh, silu, softplus and swiglu as functions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm.functional as F
from minillm.errors import UserError
from minillm.gradcheck import gradcheck
from minillm.tensor import Tensor
from tests.against_torch import compare
from tests.strategies import arrays, shapes

SHAPES = [(), (0, 3), (1,), (2, 3, 5)]


def draw(shape):
    return np.asarray(np.random.default_rng(0).normal(0, 4, shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "silu", "softplus"])
def test_against_torch(name, shape):
    torch = pytest.importorskip("torch")
    compare(getattr(F, name), getattr(torch.nn.functional, name), draw(shape), name=name)


@pytest.mark.parametrize("beta, threshold", [(1.0, 20.0), (2.5, 3.0), (0.1, 0.2)])
def test_softplus_options(beta, threshold):
    torch = pytest.importorskip("torch")
    compare(
        lambda x: F.softplus(x, beta, threshold),
        lambda x: torch.nn.functional.softplus(x, beta, threshold),
        draw((40,)),
        name="softplus",
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_swiglu(shape):
    torch = pytest.importorskip("torch")
    up = np.asarray(np.random.default_rng(1).normal(size=shape))
    compare(
        F.swiglu,
        lambda gate, up: torch.nn.functional.silu(gate) * up,
        draw(shape),
        up,
        name="swiglu",
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("function, left, right", [(F.silu, 0, 1e4), (F.softplus, 0, 1e4)])
def test_far_from_zero(function, left, right):
    x = Tensor(np.array([-1e4, 1e4]), requires_grad=True)
    y = function(x)
    y.backward(np.ones(2))
    np.testing.assert_array_equal(y.data, [left, right])
    np.testing.assert_array_equal(x.grad.data, [0, 1])


def test_small_results_keep_their_digits():
    x = Tensor(np.array([-30.0], np.float32))
    np.testing.assert_allclose(F.silu(x).data, -30 * np.exp(-30.0), rtol=1e-6)
    np.testing.assert_allclose(F.softplus(x).data, np.exp(-30.0), rtol=1e-6)


@given(arrays(low=-6, high=6, gap=0.01))
def test_gradients(x):
    for function in (F.relu, F.sigmoid, F.tanh, F.silu, F.softplus):
        gradcheck(function, x)
    gradcheck(lambda x: F.softplus(x, 2.0, 0.0), x)  # linear for all x > 0


@given(st.data(), shapes())
def test_gradients_of_swiglu(data, shape):
    gradcheck(F.swiglu, *(data.draw(arrays(shape)) for _ in range(2)))


def test_errors():
    with pytest.raises(UserError, match=r"gate \(2,\) and up \(3,\)"):
        F.swiglu(Tensor(np.zeros(2)), Tensor(np.zeros(3)))
    with pytest.raises(UserError, match="one floating dtype, got float64 and float32"):
        F.swiglu(Tensor(np.zeros(2)), Tensor(np.zeros(2, np.float32)))
    for function in (F.silu, F.softplus):
        with pytest.raises(UserError, match="floating dtype, got int64"):
            function(Tensor([1]))
