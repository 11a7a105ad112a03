"""Functions of single elements, where, maximum, minimum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm
from minillm import Tensor, UserError, gradcheck
from tests.against_torch import compare
from tests.strategies import arrays, pairs

SMOOTH = ["exp", "tanh", "sigmoid"]
POSITIVE = ["log", "sqrt", "rsqrt"]
KINKED = ["relu", "abs"]


@pytest.mark.parametrize("name", SMOOTH)
@given(x=arrays())
def test_gradient(name, x):
    gradcheck(getattr(Tensor, name), x)


@pytest.mark.parametrize("name", POSITIVE)
@given(x=arrays(low=0.3))
def test_gradient_of_positive(name, x):
    gradcheck(getattr(Tensor, name), x)


@pytest.mark.parametrize("name", KINKED)
@given(x=arrays(gap=0.01))
def test_gradient_beside_the_kink(name, x):
    gradcheck(getattr(Tensor, name), x)


@pytest.mark.parametrize("name", [*SMOOTH, *KINKED])
def test_against_torch(name, rng):
    torch = pytest.importorskip("torch")
    x = np.concatenate([[0.0, -0.0, 30, -30, 200, -200], rng.normal(0, 2, 50)])
    if name == "exp":
        x = x[6:]  # PyTorch and NumPy agree on inf, but it has no scale to compare with
    compare(getattr(Tensor, name), getattr(torch, name), x, name=name)


@pytest.mark.parametrize("name", POSITIVE)
def test_positive_against_torch(name, rng):
    torch = pytest.importorskip("torch")
    compare(getattr(Tensor, name), getattr(torch, name), rng.uniform(0.1, 5, (4, 5)), name=name)


@pytest.mark.parametrize("name", [*SMOOTH, *POSITIVE, "relu", "abs"])
def test_integers_become_floats_where_they_must(name):
    torch = pytest.importorskip("torch")
    want = getattr(torch, name)(torch.tensor([1, 2, 3]))
    got = getattr(Tensor([1, 2, 3]), name)()
    assert f"torch.{got.dtype}" == str(want.dtype)
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)


def test_sigmoid_does_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        assert Tensor([-1000.0, 0.0, 1000.0]).sigmoid().tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (None, 0.5), (0, None), (1.0, -1.0)])
def test_clamp_against_torch(bounds, rng):
    x = np.concatenate([[-1.0, 1.0, 0.5, 0.0], rng.normal(0, 2, 30)])  # bounds pass the gradient
    compare(lambda x: x.clamp(*bounds), lambda x: x.clamp(*bounds), x, name="clamp")


@given(x=arrays(gap=0.1))
def test_clamp_gradient(x):
    gradcheck(lambda x: x.clamp(-1.05, 0.05), np.where(abs(abs(x) - 1.05) < 1e-3, 0.7, x))


def test_infinite_gradients_stay_where_they_belong():
    """0 times infinity is NaN: what is not chosen must get 0 without a product."""
    for f in (
        lambda x: minillm.where(x > 0, x, 0.0), lambda x: x.relu(), lambda x: x.clamp(0, 9),
        lambda x: minillm.maximum(x, 0.0), lambda x: -minillm.minimum(-x, 0.0),
    ):  # fmt: skip
        x = Tensor([-1.0, 1.0], requires_grad=True)
        f(x).backward(np.full(2, np.inf))
        assert x.grad.tolist() == [0, np.inf]


@pytest.mark.parametrize("function", [minillm.maximum, minillm.minimum])
@given(data=st.data())
def test_choice_gradient(function, data):
    x, y = data.draw(pairs())
    gradcheck(function, x, y + 1e-3)  # ties by layout alone would be undone by any step


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_choice_against_torch_with_ties(name, rng):
    torch = pytest.importorskip("torch")
    x, y = rng.integers(-2, 3, (5, 6)).astype(float), rng.integers(-2, 3, (5, 1)).astype(float)
    compare(getattr(minillm, name), getattr(torch, name), x, y, name=name)


def test_maximum_takes_a_number():
    assert minillm.maximum(Tensor([1.0, 3.0]), 2).tolist() == [2, 3]


@given(xy=pairs(), seed=st.integers(0, 99))
def test_where_gradient(xy, seed):
    shape = np.broadcast_shapes(*(a.shape for a in xy))
    condition = np.random.default_rng(seed).random(shape) < 0.5
    gradcheck(minillm.where, condition, *xy)


def test_where_against_torch(rng):
    torch = pytest.importorskip("torch")
    condition = rng.random((3, 4)) < 0.5
    x, y = rng.normal(size=(3, 4)), rng.normal(size=4)
    compare(
        lambda x, y: minillm.where(Tensor(condition), x, y),
        lambda x, y: torch.where(torch.tensor(condition), x, y),
        x, y, name="where",
    )  # fmt: skip
    got = minillm.where(Tensor(condition), 1.0, 0)
    assert got.dtype == np.float32 and (got.numpy() == condition).all()


def test_refusals():
    with pytest.raises(UserError, match="min, max or both"):
        Tensor([1.0]).clamp()
    with pytest.raises(UserError, match="boolean"):
        minillm.where(Tensor([1, 0]), 1.0, 2.0)
    with pytest.raises(UserError, match=r"\(2,\).*\(3,\)"):
        minillm.where(Tensor([True, False]), Tensor(np.ones(3)), 2.0)


def test_masked_fill_against_torch(rng):
    torch = pytest.importorskip("torch")
    mask = rng.random((3, 1)) < 0.5
    for value in (0, -1.5, float("-inf")):
        compare(
            lambda x: x.masked_fill(Tensor(mask), value),  # noqa: B023
            lambda x: x.masked_fill(torch.tensor(mask), value),  # noqa: B023
            rng.normal(size=(2, 3, 4)), name="masked_fill",
        )  # fmt: skip


def test_masked_fill_refuses_a_mask_that_is_larger():
    with pytest.raises(UserError, match=r"\(3, 2\).*\(2,\)"):
        Tensor([1.0, 2.0]).masked_fill(Tensor(np.ones((3, 2), bool)), 0)
