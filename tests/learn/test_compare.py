"""What a check says of a wrong result: the words are what the learner has to go on."""

import numpy as np
import pytest

import minillm
from minillm.learn import Mistake, expect, refuses, same


@pytest.mark.parametrize(
    "got, wanted, words",
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "y has shape (2, 3), expected (3, 2)"),
        (np.array([[1.0, 2], [3, 5]]), np.array([[1.0, 2], [3, 4]]), "y[1, 1] is 5, expected 4 (1"),
        (None, np.zeros(2), "is a `return` missing?"),
        ([[1.0], [1.0, 2.0]], np.zeros(2), "y is not an array"),
        ("one", np.zeros(()), "y holds no numbers, but 'one'"),
        (np.array([np.nan, 1]), np.ones(2), "y[0] is nan, expected 1"),
        (np.array([np.inf, 1]), np.array([-np.inf, 1]), "y[0] is inf, expected -inf"),
        ((1.0,), (1.0, 2.0), "y has 1 things, expected 2"),
        (1.0, (1.0, 2.0), "y is a float, expected 2 things"),
        ((1.0, 3.0), (1.0, 2.0), "y[1] is 3, expected 2"),
        (np.float32(1.1), 1, "y is 1.1, expected 1"),
        (7.5, 7, "y is 7.5, expected 7"),
        (False, True, "y is False, expected True"),
        (1 + 1e-4, 1.0, "y is 1.0001, expected 1"),
    ],
)
def test_same_says_what_differs(got, wanted, words):
    with pytest.raises(Mistake) as raised:
        same("y", got, wanted)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    "got, wanted",
    [
        (np.float32(0.1), 0.1),
        (minillm.tensor([1.0, 2.0]), np.array([1.0, 2.0])),
        (np.ones(2), minillm.tensor([1.0, 1.0])),
        (np.array([np.nan, np.inf]), np.array([np.nan, np.inf])),
        ([1, (2.0, 3)], (1, [2.0, 3])),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (3, 3),
    ],
)
def test_same_accepts(got, wanted):
    same("y", got, wanted)


def test_expect_and_refuses():
    expect(True, "not said")
    with pytest.raises(Mistake, match="the sum is off"):
        expect(0, "the sum is off")
    refuses("int('x')", int, "x")
    with pytest.raises(Mistake, match="abs of -1 must raise ValueError; it returned 1"):
        refuses("abs of -1", abs, -1)
