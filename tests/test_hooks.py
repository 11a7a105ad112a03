"""Leaves and their gradients; hooks; observers: anomaly detection and DEBUG=3."""

import numpy as np
import pytest

import minillm
from minillm import Tensor, autograd
from minillm.ops.op import Op
from minillm.tensor import apply


def leaf(*values):
    return Tensor(np.array(values, "float64"), requires_grad=True)


def test_backward_of_a_leaf():
    x = leaf(1.0)
    x.backward()
    x.backward(Tensor([2.0]))
    assert x.grad.tolist() == [3]


def test_gradient_is_written_into_the_buffer():
    x = leaf(1.0, 2.0)
    x.grad_buffer = np.full(2, 9.0)
    (x * 2).sum().backward()
    assert x.grad.data is x.grad_buffer and x.grad_buffer.tolist() == [2, 2]  # not added to 9
    (x * 3).sum().backward()
    assert x.grad_buffer.tolist() == [5, 5]
    x.grad = None
    (x * 4).sum().backward()
    assert x.grad_buffer.tolist() == [4, 4]


def test_leaf_keeps_a_gradient_of_its_own():
    """Add hands on the array it was given: two leaves must not end up sharing it."""
    x, y, given = leaf(1.0), leaf(1.0), np.array([1.0])
    (x + y).backward(given)
    x.grad.data[0] = 7
    assert y.grad.tolist() == [1] and given.tolist() == [1]


def test_hooks_see_and_replace_gradients():
    x = leaf(1.0, 2.0)
    y = x * 2
    seen = []
    remove_y = y.register_hook(lambda g: seen.append(("y", g.tolist())))
    remove_x = x.register_hook(lambda g: g * 10)
    (y + y * 2).sum().backward()
    assert seen == [("y", [3, 3])] and x.grad.tolist() == [60, 60]
    remove_x()
    remove_y()
    (x * 1).sum().backward()
    assert x.grad.tolist() == [61, 61]


def test_post_accumulate_hook_runs_once_when_all_is_added():
    x, seen = leaf(1.0), []
    remove = x.register_post_accumulate_grad_hook(lambda x: seen.append(x.grad.tolist()))
    (x * 2 + x * 3 + x).backward()
    assert seen == [[6]]
    remove()
    (x * 2).backward()
    assert seen == [[6]]


def test_leaves_are_complete_before_the_pass_ends():
    """What overlapping communication with backward relies on."""
    first, last, order = leaf(1.0), leaf(1.0), []
    first.register_post_accumulate_grad_hook(lambda x: order.append("first layer"))
    last.register_post_accumulate_grad_hook(lambda x: order.append("last layer"))
    hidden = first * 2
    hidden.register_hook(lambda g: order.append("between"))
    (hidden * last).backward()
    assert order == ["last layer", "between", "first layer"]


# --- observers ------------------------------------------------------------------------------------


def test_anomaly_names_the_op_forward_and_backward():
    x = leaf(-1.0, 0.0)
    with np.errstate(all="ignore"), minillm.detect_anomaly():
        with pytest.raises(FloatingPointError, match="log forward: NaN in its result 0"):
            x.log()
        y = (x + 1).sqrt() * 0  # derivative of sqrt is infinite at 0
        with pytest.raises(FloatingPointError, match="sqrt backward: NaN in its result 0"):
            y.sum().backward()
    assert not autograd.observers
    with np.errstate(all="ignore"):
        assert np.isnan(x.log().data[0])


def test_debug_3_prints_ops(monkeypatch, capsys):
    monkeypatch.setattr(minillm.env, "DEBUG", 3)
    Tensor(np.ones((2, 3))) * 2
    assert "op mul((2, 3), 2) -> (2, 3)" in capsys.readouterr().err


def test_leaf_hook_runs_once_with_the_sum():
    """A tied weight: what the hook does need not be linear."""
    x, seen = leaf(1.0, 2.0), []
    x.register_hook(lambda g: seen.append(g.tolist()))
    x.register_hook(lambda g: g.clip(-1, 1))
    complete = []
    x.register_post_accumulate_grad_hook(lambda x: complete.append(x.grad.tolist()))
    (x * 3 - x * 2 + x[0]).sum().backward()
    assert seen == [[3, 1]] and x.grad.tolist() == [1, 1] and complete == [[1, 1]]
    (x * 0.25).sum().backward()
    assert seen[1:] == [[0.25, 0.25]] and x.grad.tolist() == [1.25, 1.25]


def test_leaf_hook_runs_when_the_last_of_its_consumers_gets_no_gradient():
    class Blocked(Op):
        """y = x,  no gradient."""

        @staticmethod
        def forward(x):
            return x.copy(), ()

        @staticmethod
        def backward(dy, saved, needs):
            return (None,)

    x, seen = leaf(1.0), []
    x.register_hook(lambda g: seen.append(g.tolist()))
    (apply(Blocked, x * 5) + x * 3).backward()  # the branch that is skipped is the older one
    (x * 3 + apply(Blocked, x * 5)).backward()
    assert seen == [[3], [3]] and x.grad.tolist() == [6]


def test_a_hook_registered_twice_is_removed_once():
    x = leaf(1.0)

    def double(g):
        return g * 2

    x.register_hook(double)
    remove = x.register_hook(double)
    remove()
    remove()
    (x * 1).backward()
    assert x.grad.tolist() == [2]
