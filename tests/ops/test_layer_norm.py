"""layer_norm over one or more last dimensions."""

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
    [((5,), (5,)), ((4, 6), (6,)), ((2, 3, 5), (3, 5)), ((2, 3, 4, 5), (5,)), ((3, 4), (3, 4)),
     ((0, 4), (4,))],
)  # fmt: skip
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_against_torch(shape, normalized, eps):
    torch = pytest.importorskip("torch")
    arrays = RNG.normal(1, 3, shape), RNG.normal(size=normalized), RNG.normal(size=normalized)
    for n in (1, 2, 3):  # input alone, with weight, with bias
        compare(
            lambda x, *params: F.layer_norm(x, normalized, *params, eps=eps),
            lambda x, *params: torch.nn.functional.layer_norm(x, normalized, *params, eps=eps),
            *arrays[:n],
            name="layer_norm",
        )


def test_bias_without_weight_and_integer_shape():
    torch = pytest.importorskip("torch")
    compare(
        lambda x, bias: F.layer_norm(x, 6, bias=bias),
        lambda x, bias: torch.nn.functional.layer_norm(x, (6,), bias=bias),
        RNG.normal(size=(4, 6)),
        RNG.normal(size=6),
        name="layer_norm",
    )


@given(st.data(), shapes(min_dims=1), st.integers(1, 2))
def test_gradients(data, shape, dims):
    normalized = shape[-dims:]
    x, weight, bias = (data.draw(arrays(s)) for s in (shape, normalized, normalized))
    gradcheck(lambda x, w, b: F.layer_norm(x, normalized, w, b, 0.1), x, weight, bias)
    gradcheck(lambda x: F.layer_norm(x, normalized, eps=0.1), x)


def test_errors():
    x = Tensor(np.zeros((2, 3, 4)))
    for normalized in (3, (2, 4), (), (5, 2, 3, 4)):
        with pytest.raises(UserError, match=r"layer_norm: normalized_shape .* \(2, 3, 4\)"):
            F.layer_norm(x, normalized)
    with pytest.raises(UserError, match=r"normalized_shape \(3, 4\) .*\[\(4, 3\)\]"):
        F.layer_norm(x, (3, 4), Tensor(np.zeros((4, 3))))
    with pytest.raises(UserError, match="layer_norm: needs inputs of one floating dtype"):
        F.layer_norm(Tensor([1, 2]), 2)
    for weight, bias in ((np.ones(4, "float32"), None), (None, np.ones(4, "float32"))):
        with pytest.raises(UserError, match="got float64 and float32"):
            F.layer_norm(x, 4, *(p if p is None else Tensor(p) for p in (weight, bias)))
