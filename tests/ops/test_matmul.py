"""Matrix product in all of PyTorch's shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm.ops.matmul as op
from minillm import Tensor, UserError, gradcheck
from tests.against_torch import compare
from tests.strategies import arrays

SHAPES = [
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((3,), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((5, 2, 3), (3, 4)),
    ((6, 5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
    ((6, 1, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (6, 1, 3, 4)),
    ((6, 5, 2, 3), (1, 1, 3, 4)),
    ((2, 0), (0, 4)),
    ((0, 3), (3, 4)),
    ((5, 0, 3), (3, 4)),
    ((0, 2, 3), (0, 3, 4)),
    ((1, 1), (1, 1)),
    ((6, 5, 2, 3), (5, 3, 1)),
    ((4, 3), (2, 3, 3), ),
]  # fmt: skip


@pytest.mark.parametrize("a, b", SHAPES)
def test_against_torch(a, b, rng):
    product = lambda a, b: a @ b  # noqa: E731
    compare(product, product, rng.normal(size=a), rng.normal(size=b), name="matmul")


@given(data=st.data(), shapes=st.sampled_from(SHAPES))
def test_gradient_over_layouts(data, shapes):
    gradcheck(lambda a, b: a @ b, *(data.draw(arrays(shape=s)) for s in shapes))


@given(a=arrays(shape=(2, 3, 4)), b=arrays(shape=(5, 4)))
def test_gradient_of_transposed_views(a, b):
    gradcheck(lambda a, b: a @ b.T + (b @ a.mT).mT, a, b)


def test_batched_rows_are_one_product(monkeypatch, rng):
    """(B, T, K) @ (K, N) and its two gradients: one GEMM each, not B."""
    calls = []

    def counted(a, b):
        calls.append((a.shape, b.shape))
        return a @ b

    monkeypatch.setattr(op, "matmul", counted)
    a = Tensor(rng.normal(size=(7, 5, 3)), requires_grad=True)
    b = Tensor(rng.normal(size=(3, 4)), requires_grad=True)
    (a @ b).sum().backward()
    assert calls == [((35, 3), (3, 4)), ((35, 4), (4, 3)), ((3, 35), (35, 4))]


def test_only_needed_gradients_are_computed(monkeypatch, rng):
    a, b = Tensor(rng.normal(size=(2, 3))), Tensor(rng.normal(size=(3, 4)), requires_grad=True)
    c = (a @ b).sum()
    calls = []
    monkeypatch.setattr(op, "matmul", lambda a, b: calls.append(1) or a @ b)
    c.backward()
    assert len(calls) == 1


def test_integers():
    assert (Tensor([[1, 2]]) @ Tensor([3, 4])).tolist() == [11]


def test_arrays_on_the_left():
    assert (np.eye(2, dtype="float32") @ Tensor([1.0, 2.0])).tolist() == [1, 2]


@pytest.mark.parametrize(
    "a, b, message",
    [
        ((2, 3), (4, 2), r"\(2, 3\) and \(4, 2\) do not fit"),
        ((3,), (4,), r"\(3,\) and \(4,\) do not fit"),
        ((), (3,), r"\(\) and \(3,\) do not fit"),
        ((2, 2, 3), (3, 3, 4), r"leading dimensions of \(2, 2, 3\) and \(3, 3, 4\)"),
    ],
)
def test_mismatch_prints_both_shapes(a, b, message):
    with pytest.raises(UserError, match=message):
        Tensor(np.ones(a)) @ Tensor(np.ones(b))


def test_dtypes_must_agree():
    with pytest.raises(UserError, match="float32 and float64 differ"):
        Tensor(np.ones((2, 2), "float32")) @ Tensor(np.ones((2, 2), "float64"))


def test_numbers_are_refused():
    for left, right in ((Tensor([1.0]), 2), (2, Tensor([1.0]))):
        with pytest.raises(UserError, match="both sides must be Tensors or arrays"):
            left @ right
