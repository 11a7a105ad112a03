"""gradcheck finds planted mistakes, names them, and lets right gradients pass."""

import numpy as np
import pytest
from hypothesis import given

import minillm
from minillm import Tensor, UserError, gradcheck
from minillm.gradcheck import GradcheckError
from minillm.ops.op import Op
from minillm.tensor import apply
from tests.strategies import arrays, shapes


def planted(function, derivatives):
    """An op of f(x, y, z) = function(x, y, z) with the given derivatives, right or wrong."""

    class Planted(Op):
        @staticmethod
        def forward(*x):
            return function(*x), x

        @staticmethod
        def backward(dz, saved, needs):
            return tuple(d(dz, *saved) for d in derivatives)

    return lambda *x: apply(Planted, *x)


RIGHT = [lambda d, x, y, z: d * y, lambda d, x, y, z: d * x, lambda d, x, y, z: d * 2 * z]


def f(x, y, z):
    return x * y + z * z


@pytest.fixture
def xyz(rng):
    return [rng.normal(size=(3, 3)) for _ in range(3)]


def test_right_gradient_passes(xyz):
    gradcheck(planted(f, RIGHT), *xyz)


@pytest.mark.parametrize("wrong", [0, 1, 2])
@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(lambda d: d * 1.01, id="factor"),
        pytest.param(lambda d: d * 1.0001, id="small factor"),
        pytest.param(lambda d: d.T, id="transposed"),
        pytest.param(lambda d: d * 0, id="zero"),
        pytest.param(lambda d: None, id="missing"),
        pytest.param(lambda d: -d, id="sign"),
        pytest.param(lambda d: d + 1e-3, id="constant"),
        pytest.param(lambda d: d * np.nan, id="NaN"),
    ],
)
def test_a_mistake_in_any_one_input_is_found(mistake, wrong, xyz):
    derivatives = list(RIGHT)
    derivatives[wrong] = lambda *args: mistake(RIGHT[wrong](*args))
    with pytest.raises(GradcheckError, match=f"of input {wrong} at index"):
        gradcheck(planted(f, derivatives), *xyz)


def test_a_mistake_hidden_by_a_large_input_is_found(xyz):
    derivatives = [*RIGHT[:2], lambda d, x, y, z: d * 2.02 * z]
    xyz[0] *= 1e4
    with pytest.raises(GradcheckError, match="of input 2"):
        gradcheck(planted(f, derivatives), *xyz)


def test_the_message_names_op_input_index_and_both_numbers():
    def wrong(d, x):
        dx = d * 3 * x**2
        dx[1, 2] *= 1.5
        return dx

    x = np.ones((2, 3))
    with pytest.raises(GradcheckError) as error:
        gradcheck(planted(lambda x: x**3, [wrong]), x, name="cube")
    message = str(error.value)
    assert message.startswith("cube: derivative of input 0 at index (1, 2): analytic ")
    analytic, numeric = (float(part.split()[-1]) for part in message.split(", ")[-2:])
    assert analytic == pytest.approx(1.5 * numeric, rel=1e-6)


def test_missing_term_of_a_reduction_is_found(rng):
    def without_mean(d, x):  # forgets that the mean depends on x
        return np.broadcast_to(d[:, None], x.shape) * 2 * (x - x.mean(-1, keepdims=True))

    def third_moment(x):
        return ((x - x.mean(-1, keepdims=True)) ** 2).sum(-1)

    gradcheck(planted(third_moment, [without_mean]), rng.normal(size=(4, 5)))  # cancels: right

    def cubed(x):
        return ((x - x.mean(-1, keepdims=True)) ** 3).sum(-1)

    def wrong(d, x):
        return np.broadcast_to(d[:, None], x.shape) * 3 * (x - x.mean(-1, keepdims=True)) ** 2

    with pytest.raises(GradcheckError):
        gradcheck(planted(cubed, [wrong]), rng.normal(size=(4, 5)))


def test_backward_that_writes_into_what_it_was_given_is_found(xyz):
    def careless(d, x, y, z):
        d *= y
        return d

    with pytest.raises(GradcheckError, match="wrote into the gradient it was given"):
        gradcheck(planted(f, [careless, *RIGHT[1:]]), *xyz)


def test_forward_that_writes_into_its_input_is_found():
    def careless(x):
        x += 1
        return x * 1

    with pytest.raises(GradcheckError, match="input 0 was written into"):
        gradcheck(planted(careless, [lambda d, x: d]), np.ones(3))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_precisions_are_refused(dtype):
    with pytest.raises(UserError, match=f"input 1 is {dtype}; finite differences need float64"):
        gradcheck(lambda x, y: x * y, np.ones(2), Tensor(np.ones(2, dtype)))


def test_nothing_to_differentiate_is_refused():
    with pytest.raises(UserError, match="no floating input"):
        gradcheck(lambda i: i, np.arange(3))


def test_integers_and_other_arguments_are_passed_on(rng):
    def pick(x, ids, k):
        assert ids.dtype == np.int64 and k == 2
        return x[ids] * k

    gradcheck(pick, rng.normal(size=(4, 2)), np.array([0, 3, 3]), 2)


def test_several_outputs(rng):
    x = rng.normal(size=(3, 4))
    gradcheck(lambda x: (x.sin() if hasattr(x, "sin") else x.exp(), x.max(1).values), x)

    def wrong(d, x):
        return d * 1.1

    scaled = planted(lambda x: x * 1, [wrong])
    with pytest.raises(GradcheckError):
        gradcheck(lambda x: (x.exp(), scaled(x), x.argmax()), x)


@given(x=arrays(), y=arrays())
def test_every_layout_passes(x, y):
    gradcheck(lambda x, y: (x * 2).exp().sum() + y.tanh().sum(), x, y)


@given(shape=shapes(min_side=1))
def test_wrong_in_one_element_of_any_shape_is_found(shape):
    last = tuple(n - 1 for n in shape)

    def wrong(d, x):
        dx = d * 2
        dx = np.asarray(dx)
        dx[last] *= 1.01
        return dx

    with pytest.raises(GradcheckError, match="input 0 at index"):
        gradcheck(planted(lambda x: x * 2, [wrong]), np.ones(shape))


def test_it_is_public():
    assert minillm.gradcheck is gradcheck
