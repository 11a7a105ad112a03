"""rms_norm over one or more last dimensions."""

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


@pytest.mark.parametrize(
    "shape, normalized",
    [((5,), (5,)), ((4, 6), (6,)), ((2, 3, 5), (3, 5)), ((3, 4), (3, 4)), ((0, 4), (4,)),
     ((7, 1), (1,))],
)  # fmt: skip
@pytest.mark.parametrize("eps", [None, 1e-5, 0.1])
def test_against_torch(shape, normalized, eps):
    torch = pytest.importorskip("torch")
    arrays = RNG.normal(1, 3, shape), RNG.normal(size=normalized)
    for n in (1, 2):  # input alone, with weight
        compare(
            lambda x, *weight: F.rms_norm(x, normalized, *weight, eps=eps),
            lambda x, *weight: torch.nn.functional.rms_norm(x, normalized, *weight, eps=eps),
            *arrays[:n],
            name="rms_norm",
        )


@given(st.data(), shapes(min_dims=1), st.integers(1, 2))
def test_gradients(data, shape, dims):
    normalized = shape[-dims:]
    x, weight = data.draw(arrays(shape)), data.draw(arrays(normalized))
    gradcheck(lambda x, w: F.rms_norm(x, normalized, w, 0.1), x, weight)
    gradcheck(lambda x: F.rms_norm(x, normalized, eps=0.1), x)


def test_errors():
    x = Tensor(np.zeros((2, 3, 4)))
    for normalized in (3, (2, 4), ()):
        with pytest.raises(UserError, match=r"rms_norm: normalized_shape .* \(2, 3, 4\)"):
            F.rms_norm(x, normalized)
    with pytest.raises(UserError, match=r"normalized_shape \(4,\) .*\[\(3,\)\]"):
        F.rms_norm(x, 4, Tensor(np.zeros(3)))
    with pytest.raises(UserError, match="rms_norm: needs inputs of one floating dtype"):
        F.rms_norm(Tensor([1, 2]), 2)
    with pytest.raises(UserError, match="got float64 and float32"):
        F.rms_norm(x, 4, Tensor(np.ones(4, "float32")))
