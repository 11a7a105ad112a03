"""dropout."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm.functional as F
from minillm import random
from minillm.errors import UserError
from minillm.gradcheck import gradcheck
from minillm.tensor import Tensor
from tests.strategies import arrays

N = 40_000


def dropped(p, seed=0, x=None):
    """A tensor of ones, what dropout makes of it, and the gradient of its sum."""
    random.manual_seed(seed)
    x = Tensor(np.ones(N, np.float32), requires_grad=True) if x is None else x
    y = F.dropout(x, p)
    y.backward(np.ones_like(y.data))
    return y.data, x.grad.data


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_the_right_share_and_scales_the_rest(p):
    y, dx = dropped(p)
    kept = y != 0
    assert abs(kept.mean() - (1 - p)) < 5 * (p * (1 - p) / N) ** 0.5
    np.testing.assert_allclose(y[kept], 1 / (1 - p), rtol=1e-6)
    np.testing.assert_array_equal(dx, y)  # the backward draws the same elements again


def test_neighbours_are_independent():
    kept = dropped(0.5)[0] != 0
    for lag in (1, 2, 4, 64):
        assert abs((kept[lag:] == kept[:-lag]).mean() - 0.5) < 5 * 0.5 / N**0.5


def test_seed_decides():
    np.testing.assert_array_equal(dropped(0.3, seed=1)[0], dropped(0.3, seed=1)[0])
    assert (dropped(0.3, seed=1)[0] != dropped(0.3, seed=2)[0]).any()
    random.manual_seed(0)
    x = Tensor(np.ones(N))
    assert (F.dropout(x, 0.3).data != F.dropout(x, 0.3).data).any()  # each call its own key


def test_layout_does_not_matter():
    x = np.random.default_rng(0).normal(size=(6, 35))
    strided = Tensor(np.repeat(x.T, 2, axis=0)[::2].T, requires_grad=True)
    y, dx = dropped(0.4, x=strided)
    y2, dx2 = dropped(0.4, x=Tensor(x, requires_grad=True))
    np.testing.assert_array_equal(y, y2)
    np.testing.assert_array_equal(dx, dx2)


@pytest.mark.parametrize("shape", [(), (0, 3), (1, 1)])
def test_small_shapes(shape):
    x = Tensor(np.ones(shape), requires_grad=True)
    y = F.dropout(x, 0.5)
    y.backward(np.ones(shape))
    assert y.shape == x.grad.shape == shape
    np.testing.assert_array_equal(y.data, x.grad.data)


def test_nothing_and_everything():
    x = Tensor(np.array([1.0, np.inf]), requires_grad=True)
    assert F.dropout(x, 0.0) is x
    assert F.dropout(x, 0.5, training=False) is x
    y = F.dropout(x, 1.0)
    y.backward(np.ones(2))
    np.testing.assert_array_equal(y.data, [0, 0])
    np.testing.assert_array_equal(x.grad.data, [0, 0])


@given(arrays(), st.sampled_from([0.3, 1.0]))
def test_gradients(x, p):
    def fixed(x):  # the same elements at every call: a function that can be differentiated
        random.manual_seed(0)
        return F.dropout(x, p)

    gradcheck(fixed, x)


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_errors(p):
    with pytest.raises(UserError, match=f"dropout: p must be between 0 and 1, got {p}"):
        F.dropout(Tensor([1.0]), p, training=False)
