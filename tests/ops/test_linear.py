"""linear."""

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


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "shape, out", [((4,), 3), ((5, 4), 3), ((2, 3, 4), 1), ((0, 4), 3), ((3, 0), 2), ((2, 1), 0)]
)
def test_against_torch(shape, out, bias):
    torch = pytest.importorskip("torch")
    arrays = [RNG.normal(size=shape), RNG.normal(size=(out, shape[-1])), RNG.normal(size=out)]
    compare(F.linear, torch.nn.functional.linear, *arrays[: 2 + bias], name="linear")


def test_one_product_a_direction(monkeypatch):
    """However many leading dimensions, the kernel sees matrices: one GEMM forward, two back."""
    from minillm.ops import linear

    seen, matmul = [], linear.matmul

    def watched(a, b):
        seen.append((a.shape, b.shape))
        return matmul(a, b)

    monkeypatch.setattr(linear, "matmul", watched)
    x = Tensor(RNG.normal(size=(2, 3, 4)), requires_grad=True)
    weight = Tensor(RNG.normal(size=(5, 4)), requires_grad=True)
    F.linear(x, weight).sum().backward()
    F.linear(x.detach(), weight).sum().backward()  # no gradient of x: one product less
    forward, dx, dweight = ((6, 4), (4, 5)), ((6, 5), (5, 4)), ((5, 6), (6, 4))
    assert seen == [forward, dx, dweight, forward, dweight]


@given(st.data(), shapes(min_dims=1), st.integers(0, 3))
def test_gradients(data, shape, out):
    x, weight, bias = (data.draw(arrays(s)) for s in (shape, (out, shape[-1]), (out,)))
    gradcheck(F.linear, x, weight, bias)
    gradcheck(F.linear, x, weight)


def test_errors():
    x, weight = Tensor(np.zeros((2, 4))), Tensor(np.zeros((3, 4)))
    with pytest.raises(UserError, match=r"x \(2, 4\) needs weight \(out, 4\), got \(4, 3\)"):
        F.linear(x, weight.T)
    with pytest.raises(UserError, match=r"weight \(3, 4\) needs bias \(3,\), got \(4,\)"):
        F.linear(x, weight, Tensor(np.zeros(4)))
    with pytest.raises(UserError, match=r"x \(\) needs weight"):
        F.linear(Tensor(np.float64(1)), weight)
    with pytest.raises(UserError, match="one floating dtype, got float64 and float32"):
        F.linear(x, Tensor(np.zeros((3, 4), np.float32)))
    with pytest.raises(UserError, match="one floating dtype, got float64 and float32"):
        F.linear(x, weight, Tensor(np.zeros(3, np.float32)))
