"""Sums and what is made of them."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm import Tensor, UserError, gradcheck
from tests.against_torch import compare
from tests.strategies import arrays, with_dim

DIMS = [None, 0, -1, (0, 2), (1,), (-1, 0, 1)]
REDUCTIONS = {
    "sum": {},
    "mean": {},
    "var": {},
    "var population": dict(correction=0),
    "std": {},
    "logsumexp": {},
    "norm": dict(p=2),
    "norm 1": dict(p=1),
    "norm 3": dict(p=3),
    "norm inf": dict(p=math.inf),
}


def reducer(name, **given):
    options = {**REDUCTIONS[name], **given}
    return lambda x: getattr(x, name.split()[0])(**options)


@pytest.mark.parametrize("name", REDUCTIONS)
@given(data=st.data())
def test_gradient(name, data):
    x = data.draw(arrays(min_side=2, gap=0.1, distinct=True))
    dim = data.draw(st.sampled_from([None, *range(-x.ndim, x.ndim)]))
    if x.ndim or name.split()[0] not in ("var", "std"):  # one element has no variance
        gradcheck(reducer(name, dim=dim, keepdim=data.draw(st.booleans())), x)


@pytest.mark.parametrize("name", ["sum", "mean", "norm", "logsumexp"])
@given(x_dim=with_dim(min_side=0, gap=0.1), keepdim=st.booleans())
def test_gradient_over_odd_layouts(name, x_dim, keepdim):
    x, dim = x_dim
    if x.shape[dim]:  # of nothing: a mean is NaN
        gradcheck(reducer(name, dim=dim, keepdim=keepdim), x)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_against_torch(name, dim, keepdim, rng):
    if name == "logsumexp" and dim is None:
        dim = (0, 1, 2)  # PyTorch wants them named
    f = reducer(name, dim=dim, keepdim=keepdim)
    compare(f, f, rng.normal(1, 2, (3, 4, 2)), name=name)


@pytest.mark.parametrize("name", ["sum", "mean", "logsumexp", "norm", "norm inf"])
@pytest.mark.parametrize("dim", [0, -1])
def test_zero_dimensional_against_torch(name, dim):
    f = reducer(name, dim=dim)
    compare(f, f, np.array(1.5), name=name)


@pytest.mark.parametrize("name", ["sum", "norm", "logsumexp"])
@pytest.mark.parametrize("dim", [0, 1])
def test_empty_against_torch(name, dim):
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.simplefilter("ignore")  # PyTorch and NumPy each warn of log 0
        f = reducer(name, dim=dim)
        compare(f, f, np.zeros((0, 3)), name=name)


@pytest.mark.parametrize("name", ["std", "norm", "norm 1", "norm inf"])
def test_constant_and_zero_rows_against_torch(name):
    f = reducer(name, dim=1)
    compare(f, f, np.array([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [3.0, -3.0, 0.0]]), name=name)


def test_logsumexp_of_infinities():
    x = Tensor([[-np.inf, -np.inf], [np.inf, 1], [-np.inf, 2], [1000, 1000]], requires_grad=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = x.logsumexp(1)
        (y[0] + y[2:].sum()).backward()
    np.testing.assert_allclose(y.data, [-np.inf, np.inf, 2, 1000 + math.log(2)])
    np.testing.assert_allclose(x.grad.data[[0, 2, 3]], [[0, 0], [0, 1], [0.5, 0.5]], rtol=1e-4)


@pytest.mark.parametrize("kind", ["bool", "uint8", "int32", "int64", "float32", "float64"])
def test_dtypes_follow_torch(kind):
    torch = pytest.importorskip("torch")
    x = np.array([[1, 0, 1], [1, 1, 1]]).astype(kind)
    for f in (lambda x: x.sum(), lambda x: x.sum(0), lambda x: x.cumsum(0)):
        want, got = f(torch.tensor(x)), f(Tensor(x))
        assert f"torch.{got.dtype}" == str(want.dtype)
        assert got.tolist() == want.tolist()


@pytest.mark.parametrize("name", ["mean", "var", "std", "norm"])
def test_integers_have_no_mean(name):
    with pytest.raises(UserError, match=f"{name} needs a floating dtype, got int64"):
        getattr(Tensor([1, 2]), name)()


def test_variance_of_one_element_is_nan_and_of_its_population_zero():
    with np.errstate(invalid="ignore"):
        assert math.isnan(Tensor([3.0]).var().item())
    assert Tensor([3.0]).var(correction=0).item() == 0


@given(x_dim=with_dim())
def test_cumsum_gradient(x_dim):
    x, dim = x_dim
    gradcheck(lambda x: x.cumsum(dim), x)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_cumsum_against_torch(dim, rng):
    f = lambda x: x.cumsum(dim)  # noqa: E731
    compare(f, f, rng.normal(size=(3, 4, 2)), name="cumsum")
    if dim != 1:
        compare(f, f, np.array(2.0), name="cumsum")


def test_sixteen_bit_sums_do_not_stop_growing():
    x = Tensor(np.ones(5000, "float16"))
    assert x.sum().item() == 5000  # 2048 + 1 is 2048 in float16
    assert x.mean().item() == 1 and x.mean().dtype == np.float16


@pytest.mark.parametrize("dim", [2, -3, (0, 5)])
def test_dim_out_of_range(dim):
    with pytest.raises(UserError, match="out of range for a tensor of 2 dimensions"):
        Tensor(np.ones((2, 3))).sum(dim)
    with pytest.raises(UserError, match="twice"):
        Tensor(np.ones((2, 3))).sum((0, -2))


def test_norm_below_one_at_zero_against_torch():
    f = lambda x: x.norm(0.5)  # noqa: E731
    compare(f, f, np.array([0.0, 1.0, -2.0]), name="norm")
