"""Arithmetic, comparisons and casts: gradients over layouts, PyTorch's values and dtypes."""

import operator

import numpy as np
import pytest
from hypothesis import given

from minillm import Tensor, UserError, gradcheck
from tests.against_torch import compare
from tests.strategies import arrays, pairs

BINARY = [operator.add, operator.sub, operator.mul, operator.truediv]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


def named(functions):
    return [pytest.param(f, id=f.__name__) for f in functions]


@pytest.mark.parametrize("function", named(BINARY))
@given(xy=pairs(gap=0.3))
def test_gradient(function, xy):
    gradcheck(function, *xy)


@given(xy=pairs(low=0.2))
def test_pow_gradient(xy):
    gradcheck(operator.pow, *xy)


@given(x=arrays(low=0.3, high=0.7))
def test_remainder_gradient(x):
    gradcheck(lambda x: (3 * x) % 5 + 5 % (x + 4), x)  # away from the jumps


@pytest.mark.parametrize("number", [2, -1, 0, 0.5, 3.0])
@given(x=arrays(low=0.2))
def test_gradient_beside_a_number(number, x):
    gradcheck(lambda x: (x + number) * number - (number - x) + x**number + number / x - x / 2, x)


@given(x=arrays())
def test_number_to_a_power(x):
    gradcheck(lambda x: 2**x + (-x) * 0.5, x)


@pytest.mark.parametrize("function", named([*BINARY, operator.mod]))
@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 1), (4,)), ((), (2, 3)), ((0, 3), (3,))])
def test_against_torch(function, shapes, rng):
    compare(function, function, *(rng.uniform(0.5, 2, s) for s in shapes), name=function.__name__)


@pytest.mark.parametrize("number", [2, 0.5, -3])
@pytest.mark.parametrize("function", named([*BINARY, operator.pow]))
def test_reflected_against_torch(function, number, rng):
    x = rng.uniform(0.5, 2, (3, 4))
    compare(*[lambda x: function(x, number)] * 2, x, name=function.__name__)
    if function is not operator.pow or number > 0:  # no root of a negative number
        compare(*[lambda x: function(number, x)] * 2, x, name=function.__name__)


def test_pow_at_zero_against_torch():
    x, y = np.array([0.0, 0.0, 0.0, 2.0, 0.0]), np.array([0.0, 1.0, 2.0, 0.0, 3.0])
    compare(operator.pow, operator.pow, x, y, name="pow")
    for number in (0, 1, 2):
        compare(lambda x: x**number, lambda x: x**number, x, name="pow")  # noqa: B023


KINDS = ["bool", "uint8", "int32", "int64", "float32", "float64"]


@pytest.mark.parametrize("function", named([*BINARY[:3], operator.truediv, operator.lt]))
def test_dtypes_follow_torch(function):
    torch = pytest.importorskip("torch")
    values = [(np.ones(shape, kind)) for kind in KINDS for shape in ((), (2,))]
    for a in values:
        for b in [*values, 2, 0.5, True]:
            theirs = (torch.tensor(a), torch.tensor(b) if isinstance(b, np.ndarray) else b)
            try:
                want = function(*theirs)
            except RuntimeError:  # PyTorch does not subtract booleans
                continue
            got = function(Tensor(a), Tensor(b) if isinstance(b, np.ndarray) else b)
            here = f"{a.dtype}{a.shape} {function.__name__} {b!r}"
            assert str(want.dtype) == f"torch.{got.dtype}", here


@pytest.mark.parametrize("function", named([*COMPARISONS, operator.and_, operator.or_]))
def test_comparisons(function):
    a, b = np.array([[1], [2], [3]]), np.array([1, 2, 3])
    got = function(Tensor(a), Tensor(b))
    assert (got.numpy() == function(a, b)).all()
    assert (function(Tensor(a), 2).numpy() == function(a, 2)).all()
    assert got.dtype == function(a, b).dtype
    assert not function(Tensor(a), Tensor(b)).requires_grad


def test_invert():
    assert (~Tensor([True, False])).tolist() == [False, True]
    assert (~Tensor([0, 5])).tolist() == [-1, -6]


def test_floor_div_is_constant(rng):
    x = Tensor(rng.uniform(1, 9, 5), requires_grad=True)
    y = x // 2
    assert not y.requires_grad
    assert (y.numpy() == x.data // 2).all()


def test_arrays_and_tensors_mix_on_either_side(rng):
    a, x = rng.normal(size=(2, 3)), Tensor(rng.normal(size=3))
    for function in BINARY:
        left, right = function(a, x), function(x, a)
        assert isinstance(left, Tensor) and isinstance(right, Tensor)
        assert np.array_equal(left.numpy(), function(a, x.data))
        assert np.array_equal(right.numpy(), function(x.data, a))


@pytest.mark.parametrize("function", named([*BINARY, operator.pow, operator.lt]))
def test_mismatch_prints_both_shapes(function):
    with pytest.raises(UserError, match=r"\(2, 3\).*\(4,\)"):
        function(Tensor(np.ones((2, 3))), Tensor(np.ones(4)))


@given(x=arrays())
def test_cast(x):
    gradcheck(lambda x: x.to("float64") * 2, x)


def test_cast_gradient_comes_back_in_the_dtype_of_the_leaf():
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x.to("float64") * 3).sum().backward()
    assert x.grad.dtype == np.float32 and x.grad.tolist() == [3, 3]


def test_mixed_precision_gradients_come_back_in_each_dtype():
    x = Tensor(np.ones(3, "float32"), requires_grad=True)
    y = Tensor(np.ones(3, "float64"), requires_grad=True)
    z = x * y
    z.sum().backward()
    assert z.dtype == np.float64
    assert (x.grad.dtype, y.grad.dtype) == (np.float32, np.float64)


@pytest.mark.parametrize("number", [np.float64(0.5), np.int64(2), np.bool_(True)])
@pytest.mark.parametrize("x", [1.5, [1.5], 3, [3]])
def test_numpy_numbers_are_numbers(x, number):
    """A 0-d loss times np.sqrt(2) stays float32."""
    x = Tensor(x)
    for y in (x * number, number * x):
        assert y.dtype == (x * number.item()).dtype and (y == x * number.item()).all()


def test_lists_are_refused():
    for function in (operator.add, operator.mul, operator.lt):
        with pytest.raises(UserError, match="meets a list: make it a Tensor first"):
            function(Tensor([1.0, 2.0]), [1.0, 2.0])
