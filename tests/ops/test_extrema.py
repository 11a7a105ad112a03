"""Largest and smallest, where they are, any and all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm import Tensor, UserError, gradcheck
from tests.against_torch import compare
from tests.strategies import arrays


@pytest.mark.parametrize("name", ["amax", "amin"])
@given(data=st.data())
def test_gradient(name, data):
    x = data.draw(arrays(min_side=1, distinct=True))
    dim = data.draw(st.sampled_from([None, *range(-x.ndim, x.ndim)]))
    keepdim = data.draw(st.booleans())
    gradcheck(lambda x: getattr(x, name)(dim, keepdim), x)


@pytest.mark.parametrize("name", ["max", "min"])
@given(data=st.data())
def test_gradient_of_values(name, data):
    x = data.draw(arrays(min_dims=1, min_side=1, distinct=True))
    dim, keepdim = data.draw(st.integers(-x.ndim, x.ndim - 1)), data.draw(st.booleans())
    gradcheck(lambda x: getattr(x, name)(dim, keepdim).values, x)


@pytest.mark.parametrize("name", ["amax", "amin"])
@pytest.mark.parametrize("dim", [0, -1, (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_ties_share_as_in_torch(name, dim, keepdim, rng):
    f = lambda x: getattr(x, name)(dim, keepdim)  # noqa: E731
    compare(f, f, rng.integers(0, 3, (3, 4, 5)).astype(float), name=name)


@pytest.mark.parametrize("name", ["max", "min"])
def test_whole_against_torch(name, rng):
    f = lambda x: getattr(x, name)()  # noqa: E731
    compare(f, f, rng.integers(0, 3, (3, 4)).astype(float), name=name)
    compare(f, f, np.array(2.0), name=name)


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_along_a_dim_against_torch(name, dim, keepdim, rng):
    torch = pytest.importorskip("torch")
    x = rng.permutation(24).reshape(2, 3, 4).astype(float)
    f = lambda x: getattr(x, name)(dim, keepdim)  # noqa: E731
    compare(lambda x: f(x).values, lambda x: f(x).values, x, name=name)
    got, want = f(Tensor(x)).indices, f(torch.tensor(x)).indices
    assert got.tolist() == want.tolist() and got.dtype == np.int64


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("dim", [None, 0, 1, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_positions_against_torch(name, dim, keepdim, rng):
    torch = pytest.importorskip("torch")
    for x in (rng.permutation(24).reshape(2, 3, 4), np.array(1.0)):
        if dim == 1 and x.ndim == 0:
            continue
        got = getattr(Tensor(x), name)(dim, keepdim)
        want = getattr(torch.tensor(x), name)(dim, keepdim)
        assert got.tolist() == want.tolist() and got.dtype == np.int64


@pytest.mark.parametrize("name", ["any", "all"])
@pytest.mark.parametrize("dim", [None, 0, -1])
def test_truth_against_torch(name, dim, rng):
    torch = pytest.importorskip("torch")
    for x in (rng.integers(0, 2, (3, 4)), rng.random((3, 2)) < 0.9, np.zeros((0, 2), bool)):
        args = () if dim is None else (dim,)
        want = getattr(torch.tensor(x), name)(*args)
        got = getattr(Tensor(x), name)(*args)
        assert got.tolist() == want.tolist() and got.dtype == np.bool_


@pytest.mark.parametrize("name", ["amax", "amin", "argmax", "argmin", "max", "min"])
def test_nothing_to_choose_from(name):
    with pytest.raises(UserError, match="nothing to choose from"):
        getattr(Tensor(np.zeros((3, 0))), name)()
