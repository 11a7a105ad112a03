"""Learning-rate schedules: their shape, and what is refused."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from minillm.errors import UserError
from minillm.optim import schedule
from minillm.optim.schedules import SCHEDULES


@given(st.sampled_from(SCHEDULES), st.integers(0, 50), st.integers(1, 100), st.floats(0, 1))
def test_rises_to_one_then_falls_to_the_floor(name, warmup, more, floor):
    total = warmup + more
    factor = schedule(name, warmup, total, floor)
    values = [factor(step) for step in range(total + 10)]
    assert all(0 < a < b for a, b in zip(values[:warmup], values[1:warmup]))
    assert values[warmup] == pytest.approx(1)
    assert all(a >= b - 1e-12 for a, b in zip(values[warmup:], values[warmup + 1 :]))
    assert min(values[warmup:]) >= floor - 1e-12
    if name in ("cosine", "linear", "wsd"):
        assert values[total:] == pytest.approx([floor] * 10)


def test_cosine_is_that_of_nanogpt():
    """Its get_lr, with learning rate 1."""
    warmup, total, floor = 100, 2000, 0.1
    factor = schedule("cosine", warmup, total, floor)
    for step in (0, 57, 99, 100, 101, 777, 1999, 2000, 3000):
        if step < warmup:
            want = (step + 1) / (warmup + 1)
        elif step > total:
            want = floor
        else:
            ratio = (step - warmup) / (total - warmup)
            want = floor + 0.5 * (1 + math.cos(math.pi * ratio)) * (1 - floor)
        assert factor(step) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "step", "want"),
    [
        ("constant", 80, 1.0),
        ("linear", 55, 0.6),
        ("wsd", 81, 1.0),
        ("wsd", 91, 0.6),
        ("inverse_sqrt", 40, 0.5),
        ("inverse_sqrt", 99, 10 / 99),
    ],
)
def test_values_by_hand(name, step, want):
    got = schedule(name, 10, 100, 0.2)(step)
    want = math.sqrt(want) if (name, step) == ("inverse_sqrt", 99) else want
    assert got == pytest.approx(want)


def test_bad_arguments_are_refused():
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        schedule("cosin", 1, 2)
    with pytest.raises(UserError, match="warmup is 3"):
        schedule("cosine", 3, 2)
    with pytest.raises(UserError, match="floor is 1.5"):
        schedule("cosine", 1, 2, 1.5)
