"""Einstein summation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm
from minillm import Tensor, UserError, gradcheck
from tests.against_torch import compare
from tests.strategies import arrays

CASES = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("bij,bjk->bik", (5, 2, 3), (5, 3, 4)),
    ("bij,kj->bik", (5, 2, 3), (4, 3)),
    ("ji", (2, 3)),
    ("ij->ji", (2, 3)),
    ("ij->i", (2, 3)),
    ("ij->", (2, 3)),
    ("i,j->ij", (2,), (3,)),
    ("i,i", (3,), (3,)),
    ("i,i->i", (3,), (3,)),
    ("ii->i", (3, 3)),
    ("ii", (3, 3)),
    ("iij->ji", (3, 3, 2)),
    ("iij,jk->ik", (3, 3, 2), (2, 4)),
    ("ii,jj->ij", (3, 3), (2, 2)),
    ("iii->i", (2, 2, 2)),
    ("ij,kl->ik", (2, 3), (4, 5)),
    ("ij,j->", (2, 3), (3,)),
    ("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5)),
    ("ab,ab,ab->b", (2, 3), (2, 3), (2, 3)),
    ("...ij,...jk->...ik", (6, 5, 2, 3), (5, 3, 4)),
    ("...ij,jk->...ik", (6, 5, 2, 3), (3, 4)),
    ("...i->...", (2, 3, 4)),
    ("...", (2, 3)),
    ("i...->...i", (2, 3, 4)),
    ("...i,...i", (5, 2, 3), (2, 3)),
    ("b...,b...->b", (2, 3, 4), (2, 3, 4)),
    ("...,...->...", (), (2, 3)),
    ("ij,jk->ik", (2, 3), (1, 4)),
    ("ij,ij->j", (1, 3), (2, 3)),
    ("...i,...i->...", (1, 3), (5, 3)),
    ("ij,j", (0, 3), (3,)),
    ("ij,jk->ik", (2, 0), (0, 4)),
    (" b h q d , b h k d -> b h q k ", (2, 3, 4, 5), (2, 3, 6, 5)),
    (",", (), ()),
    ("aB,Bc", (2, 3), (3, 4)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]} {c[1:]}")
def test_against_torch(case, rng):
    torch = pytest.importorskip("torch")
    equation, *shapes = case
    compare(
        lambda *x: minillm.einsum(equation, *x),
        lambda *x: torch.einsum(equation, *x),
        *(np.asarray(rng.normal(size=s)) for s in shapes), name="einsum",
    )  # fmt: skip


@given(data=st.data(), case=st.sampled_from(CASES))
def test_gradient_over_layouts(data, case):
    equation, *shapes = case
    x = [data.draw(arrays(shape=s)) for s in shapes]
    gradcheck(lambda *x: minillm.einsum(equation, *x) * 1, *x)


@pytest.mark.parametrize(
    "equation, shapes, message",
    [
        ("ij,jk->ik", [(2, 3)], "names 2 operands, got 1"),
        ("ij->ij", [(2, 3, 4)], r"operand 0 has shape \(2, 3, 4\)"),
        ("ijk->i", [(2, 3)], r"operand 0 has shape \(2, 3\)"),
        ("ij,jk->ik", [(2, 3), (4, 5)], r"'j' has sizes 3 and 4 .*\(2, 3\), \(4, 5\)"),
        ("ij->ii", [(2, 3)], "once in the output"),
        ("ij->ik", [(2, 3)], "once in the output and in an operand"),
        ("i1->i", [(2, 3)], "may hold letters"),
        ("i->i->i", [(2,)], "once in the output"),
    ],
)
def test_refusals(equation, shapes, message):
    with pytest.raises(UserError, match=message):
        minillm.einsum(equation, *(Tensor(np.ones(s)) for s in shapes))


def test_dtypes_must_agree():
    with pytest.raises(UserError, match="float32, float64 differ"):
        minillm.einsum("i,i", Tensor([1.0]), Tensor(np.ones(1)))
