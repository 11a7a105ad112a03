"""softmax and log_softmax over any dimension."""

import numpy as np
import pytest
from hypothesis import given

import minillm.functional as F
from minillm.errors import UserError
from minillm.gradcheck import gradcheck
from minillm.tensor import Tensor
from tests.against_torch import compare
from tests.strategies import with_dim

BOTH = ["softmax", "log_softmax"]


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    "shape, dim",
    [((), 0), ((), -1), ((5,), 0), ((2, 3, 5), 0), ((2, 3, 5), 1), ((2, 3, 5), -1), ((4, 1), 1),
     ((0, 3), 1), ((3, 0), 1), ((3, 0), 0)],
)  # fmt: skip
def test_against_torch(name, shape, dim):
    torch = pytest.importorskip("torch")
    compare(
        lambda x: getattr(F, name)(x, dim),
        lambda x: getattr(torch.nn.functional, name)(x, dim),
        np.asarray(np.random.default_rng(0).normal(0, 3, shape)),
        name=name,
    )


@pytest.mark.parametrize("name", BOTH)
def test_masked_and_large_scores(name):
    torch = pytest.importorskip("torch")
    x = np.array([[0.0, -np.inf, 1.0], [1e4, -1e4, 1e4]])
    compare(
        lambda x: getattr(F, name)(x, -1),
        lambda x: getattr(torch.nn.functional, name)(x, -1),
        x,
        name=name,
    )


def test_log_softmax_keeps_small_probabilities():
    x = Tensor(np.array([0.0, 200.0], np.float32))
    np.testing.assert_array_equal(F.log_softmax(x, 0).data, [-200, 0])


@pytest.mark.parametrize("name", BOTH)
@given(with_dim())
def test_gradients(name, x_dim):
    x, dim = x_dim
    gradcheck(lambda x: getattr(F, name)(x, dim), x)


@pytest.mark.parametrize("name", BOTH)
def test_errors(name):
    with pytest.raises(UserError, match="dim 2 is out of range"):
        getattr(F, name)(Tensor(np.zeros((2, 3))), 2)
    with pytest.raises(UserError, match=f"{name}: needs inputs of one floating dtype, got int64"):
        getattr(F, name)(Tensor([1, 2]), 0)
