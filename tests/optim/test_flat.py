"""Flat groups: parameters and gradients as views of two arrays."""

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.nn import Linear, Parameter
from minillm.optim import SGD
from minillm.optim.flat import FlatGroup
from minillm.tensor import Tensor


def _parameters(*shapes):
    return [Parameter(np.full(shape, i + 1, np.float32)) for i, shape in enumerate(shapes)]


def test_the_last_parameter_comes_first_and_values_stay():
    params = _parameters((2, 3), (), (4,))
    flat = FlatGroup(params)
    np.testing.assert_array_equal(flat.data, [3] * 4 + [2] + [1] * 6)
    assert flat.offsets == [0, 4, 5, 11]
    for p in params:
        assert p.data.base is flat.data
    flat.data[:] = np.arange(11)
    np.testing.assert_array_equal(params[0].data, [[5, 6, 7], [8, 9, 10]])


def test_gradients_land_in_the_flat_array_and_accumulate():
    a, b = _parameters((2,), (3,))
    flat = FlatGroup([a, b])
    (a * 2).sum().backward()
    (b * 3).sum().backward()
    np.testing.assert_array_equal(flat.grad, [3, 3, 3, 2, 2])
    (a * 2).sum().backward()
    np.testing.assert_array_equal(flat.grad, [3, 3, 3, 4, 4])
    flat.zero_grad()
    (a * 5).sum().backward()  # overwrites what is left of the old gradient
    flat.fill_missing_grads()
    np.testing.assert_array_equal(flat.grad, [0, 0, 0, 5, 5])


def test_a_gradient_from_before_moves_along():
    (a,) = _parameters((2,))
    (a * 2).sum().backward()
    flat = FlatGroup([a])
    np.testing.assert_array_equal(flat.grad, [2, 2])
    assert a.grad.data.base is flat.grad


def test_no_parameters_and_mixed_dtypes_are_refused():
    with pytest.raises(UserError, match="no parameters"):
        FlatGroup([])
    with pytest.raises(UserError, match=r"float32.*float64"):
        FlatGroup([Parameter(np.zeros(2, np.float32)), Parameter(np.zeros(2))])


def test_a_step_is_seen_by_graphs_that_saved_the_old_values():
    layer = Linear(2, 2)
    optimizer = SGD(layer.parameters(), lr=0.1)
    loss = layer(Tensor(np.ones((1, 2), np.float32), requires_grad=True)).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_a_parameter_that_left_is_noticed():
    layer = Linear(2, 2)
    optimizer = SGD(layer.parameters(), lr=0.1)
    layer.weight.data = layer.weight.data.copy()
    with pytest.raises(UserError, match="left the optimiser's flat array"):
        optimizer.step()


def test_an_assigned_gradient_is_the_one_that_counts():
    a, b = _parameters((2,), (3,))
    optimizer = SGD([a, b], lr=1.0)
    flat = optimizer.groups[0].flat
    (a * 2 + b.sum()).sum().backward()
    a.grad = a.grad * 0.5  # another array than the buffer
    optimizer.step()
    assert a.tolist() == [0, 0] and a.grad.data is a.grad_buffer
    np.testing.assert_array_equal(flat.grad, [2, 2, 2, 1, 1])


def test_a_computed_tensor_is_refused():
    (a,) = _parameters((2, 3))
    for params in (a, [a * 1]):  # a Tensor in place of a list is a list of its rows
        with pytest.raises(UserError, match="computed tensor"):
            SGD(params, lr=0.1)
