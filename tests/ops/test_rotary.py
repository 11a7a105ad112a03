"""rotary."""

import ml_dtypes
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


def angles(T, D):
    """Of position t and pair i: t / 10000^(2i / D) (Su et al. 2021, section 3.2.2)."""
    return np.outer(np.arange(T), 10000.0 ** (-np.arange(0, D, 2) / D))


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 5, 8), (2, 1, 0, 4), (0, 2, 3, 6)])
def test_against_torch(shape):
    torch = pytest.importorskip("torch")
    a = angles(*shape[2:])

    def theirs(x):  # transformers' apply_rotary_pos_emb
        first, second = x.chunk(2, -1)
        cos, sin = (torch.tensor(f(a)).to(x.dtype).repeat(1, 2) for f in (np.cos, np.sin))
        return x * cos + torch.cat([-second, first], -1) * sin

    def ours(x):
        return F.rotary(x, Tensor(np.cos(a).astype(x.dtype)), Tensor(np.sin(a).astype(x.dtype)))

    compare(ours, theirs, RNG.normal(size=shape), name="rotary")


def test_scores_depend_on_distance_only():
    q, k = (np.tile(RNG.normal(size=8), (1, 1, 20, 1)) for _ in range(2))
    cos, sin = Tensor(np.cos(angles(20, 8))), Tensor(np.sin(angles(20, 8)))
    q, k = F.rotary(Tensor(q), cos, sin).data[0, 0], F.rotary(Tensor(k), cos, sin).data[0, 0]
    scores = q @ k.T
    for distance in (-3, 0, 7):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-12)


@given(st.data(), shapes(min_dims=3, max_dims=3), st.sampled_from([2, 4, 6]))
def test_gradients(data, shape, D):
    a = angles(shape[2], D)
    x, cos, sin = data.draw(arrays((*shape, D))), Tensor(np.cos(a)), Tensor(np.sin(a))
    gradcheck(lambda x: F.rotary(x, cos, sin), x)


def test_errors():
    cos = Tensor(np.ones((5, 4)))
    with pytest.raises(UserError, match=r"D even, got shape \(1, 1, 5, 7\)"):
        F.rotary(Tensor(np.ones((1, 1, 5, 7))), cos, cos)
    with pytest.raises(UserError, match=r"D even, got shape \(5, 8\)"):
        F.rotary(Tensor(np.ones((5, 8))), cos, cos)
    with pytest.raises(UserError, match=r"of shape \(6, 4\), got \(5, 4\) and \(5, 4\)"):
        F.rotary(Tensor(np.ones((1, 1, 6, 8))), cos, cos)


def test_bfloat16_is_turned_by_float32_angles():
    a = angles(40, 8)
    x = RNG.normal(size=(1, 2, 40, 8)).astype(ml_dtypes.bfloat16)
    wide = F.rotary(Tensor(x.astype("f4")), *(Tensor(f(a).astype("f4")) for f in (np.cos, np.sin)))
    y = F.rotary(Tensor(x), *(Tensor(f(a).astype("f4")) for f in (np.cos, np.sin)))
    np.testing.assert_array_equal(y.data, wide.data.astype(ml_dtypes.bfloat16))
    with pytest.raises(UserError, match="float64"):
        F.rotary(Tensor(x), Tensor(np.cos(a)), Tensor(np.sin(a)))
