"""Other shapes of the same elements, and tensors put together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm
from minillm import Tensor, UserError, gradcheck
from tests.against_torch import compare
from tests.strategies import arrays

# name: what to do to a tensor of shape (2, 3, 4), and whether the result is a view of it
CHANGES = {
    "reshape": (lambda x: x.reshape(4, 6), True),
    "reshape with -1": (lambda x: x.reshape((-1, 2)), True),
    "view": (lambda x: x.view(6, -1), True),
    "flatten": (lambda x: x.flatten(), True),
    "flatten some": (lambda x: x.flatten(1, 2), True),
    "flatten one": (lambda x: x.flatten(1, 1), True),
    "transpose": (lambda x: x.transpose(0, -1), True),
    "mT": (lambda x: x.mT, True),
    "permute": (lambda x: x.permute(2, 0, 1), True),
    "permute tuple": (lambda x: x.permute((1, -1, 0)), True),
    "unsqueeze": (lambda x: x.unsqueeze(1), True),
    "unsqueeze last": (lambda x: x.unsqueeze(-1), True),
    "squeeze": (lambda x: x.unsqueeze(0).unsqueeze(2).squeeze(), True),
    "squeeze one": (lambda x: x.unsqueeze(0).unsqueeze(2).squeeze(2), True),
    "squeeze two": (lambda x: x.unsqueeze(0).unsqueeze(2).squeeze((0, -3)), True),
    "squeeze nothing": (lambda x: x.squeeze(1), True),
    "expand": (lambda x: x.expand(5, 2, 3, 4), True),
    "expand with -1": (lambda x: x.unsqueeze(1).expand(-1, 7, -1, 4), True),
    "broadcast_to": (lambda x: x.broadcast_to((2, 2, 3, 4)), True),
    "clone": (lambda x: x.clone(), False),
    "transposed reshape": (lambda x: x.transpose(0, 2).reshape(12, 2), False),
    "contiguous": (lambda x: x.mT.contiguous(), False),
    "contiguous already": (lambda x: x.contiguous(), True),
    "tril": (lambda x: x.tril(), False),
    "tril above": (lambda x: x.tril(1), False),
    "triu": (lambda x: x.triu(), False),
    "triu below": (lambda x: x.triu(diagonal=-1), False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_against_torch(name, rng):
    f, is_view = CHANGES[name]
    x = rng.normal(size=(2, 3, 4))
    compare(f, f, x, name=name)
    assert np.shares_memory(f(Tensor(x)).data, x) == is_view


@pytest.mark.parametrize("name", CHANGES)
@given(x=arrays(shape=(2, 3, 4)))
def test_gradient_over_layouts(name, x):
    if "view" not in name:
        gradcheck(CHANGES[name][0], x)


@given(data=st.data())
def test_gradient_over_shapes(data):
    x = data.draw(arrays())
    dims = data.draw(st.permutations(range(x.ndim)))
    gradcheck(lambda x: x.permute(dims).reshape(-1) * 1, x)
    gradcheck(lambda x: x.flatten().T, x)
    gradcheck(lambda x: x.expand((2, *x.shape)), x)


def test_zero_dimensional():
    x = Tensor(3.0)
    assert x.flatten().shape == x.reshape(1).shape == x.unsqueeze(0).shape == (1,)
    assert x.squeeze().shape == x.T.shape == x.permute().shape == x.transpose(0, -1).shape == ()
    assert x.unsqueeze(0).squeeze(0).shape == ()


def test_T_reverses_all_dims():
    assert Tensor(np.ones((2, 3, 4))).T.shape == (4, 3, 2)


def test_view_refuses_to_copy():
    x = Tensor(np.ones((2, 3)))
    with pytest.raises(UserError, match=r"view: \(3, 2\) with strides .* reshape\(\)"):
        x.T.view(6)
    assert x.T.view(3, 2, 1).shape == (3, 2, 1)
    assert Tensor(np.ones((0, 3))).T.view(3, 0).shape == (3, 0)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.reshape(4), r"\(2, 3\) has 6 elements"),
        (lambda x: x.reshape(-1, 4), r"\(2, 3\) has 6 elements"),
        (lambda x: x.reshape(-1, -1), r"do not fill \(-1, -1\)"),
        (lambda x: x.expand(4, 3), r"\(2, 3\) does not broadcast to \(4, 3\)"),
        (lambda x: x.expand(3), "does not broadcast"),
        (lambda x: x.permute(0), "do not name each dimension"),
        (lambda x: x.permute(0, 0), r"of shape \(2, 3\) once"),
        (lambda x: x.flatten(1, 0), "comes after"),
        (lambda x: x.unsqueeze(4), "dim 4 is out of range"),
        (lambda x: x[0].tril(), "at least 2 dimensions"),
        (lambda x: x.split([1, 2, 3]), "do not add up to 2"),
        (lambda x: x.split(0), "must be positive"),
        (lambda x: x.chunk(0), "must be positive"),
        (lambda x: minillm.cat([]), "no tensors"),
        (lambda x: minillm.stack([]), "no tensors"),
        (lambda x: minillm.cat([x, x.T]), r"\(2, 3\), \(3, 2\)"),
        (lambda x: minillm.stack([x, x[0]]), r"\(2, 3\), \(3,\)"),
        (lambda x: minillm.cat([x.sum()]), "do not fit together"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(UserError, match=message):
        change(Tensor(np.ones((2, 3))))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_cat_and_stack_against_torch(dim, rng):
    torch = pytest.importorskip("torch")
    sizes = [(2, 3, 4)] * 3
    for i, n in enumerate((1, 0, 5)):
        sizes[i] = tuple(n if d == dim % 3 else m for d, m in enumerate(sizes[i]))
    parts = [rng.normal(size=s) for s in sizes]
    compare(lambda *x: minillm.cat(x, dim), lambda *x: torch.cat(x, dim), *parts, name="cat")
    parts = [rng.normal(size=(2, 3)) for _ in range(3)]
    compare(lambda *x: minillm.stack(x, dim), lambda *x: torch.stack(x, dim), *parts, name="stack")
    twice = lambda lib: lambda x: lib.cat([x, x * 2, x], dim)  # noqa: E731
    compare(twice(minillm), twice(torch), parts[0], name="cat")


@given(x=arrays(shape=(2, 3)), y=arrays(shape=(2, 1)))
def test_cat_and_stack_gradient(x, y):
    gradcheck(lambda x, y: minillm.cat([x, y, x], 1), x, y)
    gradcheck(lambda x, y: minillm.stack([x, y.expand(2, 3)], -1), x, y)


def test_cat_promotes_like_torch():
    torch = pytest.importorskip("torch")
    for a in ("bool", "int64", "float32"):
        for b in ("int32", "float32", "float64"):
            want = torch.cat([torch.tensor(np.ones(2, k)) for k in (a, b)])
            got = minillm.cat([Tensor(np.ones(2, k)) for k in (a, b)])
            assert str(want.dtype) == f"torch.{got.dtype}"


@pytest.mark.parametrize(
    "parts",
    [
        lambda x: x.split(2, 1),
        lambda x: x.split([1, 0, 4], 1),
        lambda x: x.split(9, -1),
        lambda x: x.chunk(3, dim=1),
        lambda x: x.chunk(4, dim=1),
        lambda x: x.unbind(1),
        lambda x: x.unbind(),
    ],
)
def test_parts_against_torch(parts, rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(3, 5, 2))
    assert len(parts(Tensor(x))) == len(parts(torch.tensor(x)))
    for i in range(len(parts(Tensor(x)))):
        compare(lambda x: parts(x)[i], lambda x: parts(x)[i], x, name="split")  # noqa: B023
    assert all(np.shares_memory(p.data, x) or not p.data.size for p in parts(Tensor(x)))
