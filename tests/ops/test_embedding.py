"""embedding."""

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

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(7, 3))


@pytest.mark.parametrize("padding_idx", [None, 0, 2, -1])
@pytest.mark.parametrize("shape", [(), (0,), (50,), (2, 3, 4)])
def test_against_torch(shape, padding_idx):
    torch = pytest.importorskip("torch")
    ids = np.asarray(RNG.integers(0, 7, shape))
    compare(
        lambda weight: F.embedding(Tensor(ids), weight, padding_idx),
        lambda weight: torch.nn.functional.embedding(torch.tensor(ids), weight, padding_idx),
        WEIGHT,
        name="embedding",
    )


@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64"])
def test_dtypes_of_ids(dtype):
    ids = np.array([[6, 0], [3, 3]], dtype)
    weight = Tensor(WEIGHT, requires_grad=True)
    y = F.embedding(Tensor(ids), weight)
    y.backward(np.ones((2, 2, 3)))
    np.testing.assert_array_equal(y.data, WEIGHT[ids])
    np.testing.assert_array_equal(weight.grad.data[:, 0], [1, 0, 0, 2, 0, 0, 1])


@given(arrays((7, 3)), shapes(), st.sampled_from([None, 0, -3]))
def test_gradients(weight, shape, padding_idx):
    ids = np.asarray(np.random.default_rng(len(shape)).integers(0, 7, shape))
    y = Tensor(weight, requires_grad=True)
    F.embedding(ids, y, padding_idx).sum().backward()
    counts = np.bincount(ids.ravel(), minlength=7).astype(float)
    if padding_idx is not None:
        counts[padding_idx] = 0
    np.testing.assert_array_equal(y.grad.data, np.repeat(counts[:, None], 3, 1))
    gradcheck(lambda weight: F.embedding(ids, weight), weight)


def test_errors():
    weight = Tensor(WEIGHT)
    for bad in (7, -1):
        with pytest.raises(UserError, match=rf"id {bad} is outside the table of 7 rows"):
            F.embedding(Tensor([0, bad]), weight)
    with pytest.raises(UserError, match="ids must be integers, got float32"):
        F.embedding(Tensor([0.0]), weight)
    with pytest.raises(UserError, match=r"weight must be \(V, C\), got shape \(7,\)"):
        F.embedding(Tensor([0]), weight[:, 0])
    with pytest.raises(UserError, match="padding_idx 7 is outside the 7 rows"):
        F.embedding(Tensor([0]), weight, 7)
