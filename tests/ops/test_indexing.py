"""Keys of every kind, and gather."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from minillm import Tensor, UserError, gradcheck
from minillm.ops.indexing import _add_in_rounds, add_at
from tests.against_torch import compare
from tests.strategies import arrays

I = np.array([2, 0, 2])  # noqa: E741 - names an element twice
J = np.array([[1], [3]])
MASK = np.array([True, False, True])

# name: a key of a (3, 4, 5) tensor; those in BASIC give views
BASIC = {
    "integer": 1,
    "negative": -1,
    "slice": slice(1, 3),
    "step": (slice(None), slice(0, 4, 2)),
    "ellipsis": (..., 0),
    "none": (None, slice(None), None, 2),
    "one element": (1, 2, 3),
    "nothing": slice(2, 1),
    "whole": ...,
    "zero-dimensional tensor": Tensor(1),
    "slice of tensors": slice(Tensor(0), Tensor(2)),
}
ADVANCED = {
    "array": I,
    "list": [0, 2, 2],
    "empty list": [],
    "tensor": Tensor(I),
    "two arrays": (I, I),
    "two arrays that broadcast": (I, slice(None), J),
    "array after slice": (slice(None), J),
    "array between": (slice(1, 3), I, ...),
    "array and integer": (I, 1),
    "array and none": (None, I),
    "mask": MASK,
    "mask tensor": Tensor(MASK),
    "mask after slice": (..., np.array([True, False, True, False, True])),
    "whole mask": np.arange(60).reshape(3, 4, 5) % 7 < 3,
    "mask and array": (MASK, np.array([1, 3])),
    "nothing true": np.zeros(3, bool),
    "true": True,
    "false": (False, 1),
}
KEYS = {**BASIC, **ADVANCED}


def for_torch(torch, key):
    if isinstance(key, tuple):
        return tuple(for_torch(torch, k) for k in key)
    key = key.data if isinstance(key, Tensor) else key
    if isinstance(key, slice) and isinstance(key.stop, Tensor):
        return slice(0, 2)
    return torch.tensor(key) if isinstance(key, np.ndarray) else key


@pytest.mark.parametrize("name", KEYS)
def test_against_torch(name, rng):
    torch = pytest.importorskip("torch")
    key, x = KEYS[name], rng.normal(size=(3, 4, 5))
    theirs = for_torch(torch, key)
    compare(lambda x: x[key], lambda x: x[theirs], x, name="index")
    assert np.may_share_memory(Tensor(x)[key].data, x) == (name in BASIC and name != "nothing")


@pytest.mark.parametrize("name", KEYS)
@given(x=arrays(shape=(3, 4, 5)))
def test_gradient_over_layouts(name, x):
    gradcheck(lambda x: x[KEYS[name]] * 1, x)


@given(data=st.data())
def test_gradient_over_keys(data):
    x = data.draw(arrays(min_dims=1, min_side=1))
    key = data.draw(hypothesis_numpy.basic_indices(x.shape, allow_newaxis=True))
    gradcheck(lambda x: x[key] + 0, x)
    key = data.draw(hypothesis_numpy.integer_array_indices(x.shape))
    gradcheck(lambda x: x[key] + 0, x)


@given(data=st.data())
def test_rounds_add_as_numpy_does(data):
    """The way without atomics, for arrays that are not NumPy's, gives the same sums."""
    shape = data.draw(hypothesis_numpy.array_shapes(max_dims=3, max_side=4))
    key = data.draw(hypothesis_numpy.integer_array_indices(shape))
    dy = np.random.default_rng(0).normal(size=np.zeros(shape)[key].shape)
    a, b = np.ones(shape), np.ones(shape)
    _add_in_rounds(a, key, dy)
    add_at(b, key, dy)
    assert np.array_equal(a, b)  # in the same order: bit for bit


def test_slices_share_one_gradient():
    """q, k, v cut from one array: backward adds each into the same zeros."""
    x = Tensor(np.arange(12.0).reshape(2, 6), requires_grad=True)
    whole = x * 1
    parts = whole.split(2, dim=1)
    sum(((i + 1) * p).sum() for i, p in enumerate(parts)).backward()
    assert x.grad.tolist() == [[1, 1, 2, 2, 3, 3]] * 2


def test_whole_and_slice_of_it_both_used():
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    for order in (0, 1):
        x.grad = None
        y = x * 2
        parts = [lambda: y.sum(), lambda: y[0].sum() * 10, lambda: y[:, [1, 1]].sum() * 100]  # noqa: B023, E501
        sum(f() for f in (parts[::-1] if order else parts)).backward()
        assert x.grad.tolist() == [[22, 422, 22], [2, 402, 2]]


def test_a_key_changed_later_does_not_change_backward():
    x, ids = Tensor(np.zeros(3), requires_grad=True), np.array([0, 1])
    y = x[ids].sum()
    ids[:] = 2
    y.backward()
    assert x.grad.tolist() == [1, 1, 0]


def test_assignment():
    x = Tensor(np.zeros((3, 4)))
    x[1] = 5
    x[Tensor([0, 2]), 0] = Tensor([1.0, 2.0])
    x[Tensor(x.data == 5)] = 7
    assert x.tolist() == [[1, 0, 0, 0], [7, 7, 7, 7], [2, 0, 0, 0]]


def test_refusals():
    x = Tensor(np.zeros((3, 4)))
    with pytest.raises(UserError, match="integer or a boolean array, not float64"):
        x[np.array([0.0])]
    with pytest.raises(IndexError, match="out of bounds"):
        x[3]
    with pytest.raises(TypeError):
        x["a"]
    with pytest.raises(UserError, match=r"\(2, 5\) does not fit x of shape \(3, 4\)"):
        x.gather(0, np.zeros((2, 5), int))
    with pytest.raises(UserError, match="one dimension"):
        x.index_select(0, np.zeros((2, 2), int))


def test_iteration_stops():
    assert [row.tolist() for row in Tensor([[1, 2], [3, 4]])] == [[1, 2], [3, 4]]
    a, b = Tensor([1, 2])
    assert (a.item(), b.item()) == (1, 2)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shape", [(2, 3, 4), (7, 3, 4), (1, 2, 1), (0, 3, 4)])
def test_gather_against_torch(dim, shape, rng):
    torch = pytest.importorskip("torch")
    sizes = [3, 3, 4]
    sizes[dim] = 5
    shape = (*shape[1:2], *shape[:1], *shape[2:]) if dim == 1 else shape
    shape = (*shape[1:], shape[0]) if dim == -1 else shape
    shape = tuple(n if d == dim % 3 else min(n, m) for d, (n, m) in enumerate(zip(shape, sizes)))
    index = rng.integers(0, 5, shape)
    compare(
        lambda x: x.gather(dim, Tensor(index)),
        lambda x: x.gather(dim, torch.tensor(index)),
        rng.normal(size=sizes), name="gather",
    )  # fmt: skip


@given(data=st.data())
def test_gather_gradient(data):
    x = data.draw(arrays(min_dims=1, min_side=1))
    dim = data.draw(st.integers(-x.ndim, x.ndim - 1))
    index = np.random.default_rng(0).integers(0, x.shape[dim], x.shape)
    gradcheck(lambda x: x.gather(dim, index), x)


@pytest.mark.parametrize("dim", [0, -1])
def test_index_select_against_torch(dim, rng):
    torch = pytest.importorskip("torch")
    compare(
        lambda x: x.index_select(dim, Tensor(I)),
        lambda x: x.index_select(dim, torch.tensor(I)),
        rng.normal(size=(3, 4, 5)), name="index_select",
    )  # fmt: skip


def test_no_dimensions():
    torch = pytest.importorskip("torch")
    x, t = Tensor(np.array(5.0), requires_grad=True), torch.tensor(5.0)
    assert x.gather(0, Tensor(0)).shape == tuple(t.gather(0, torch.tensor(0)).shape) == ()
    largest = x.max(0)
    assert (largest.values.item(), largest.indices.item()) == (5, 0)
    largest.values.backward(np.array(3.0))
    assert x.grad.item() == 3
