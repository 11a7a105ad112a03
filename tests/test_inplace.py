"""Changes in place: which are refused, and which backward notices."""

import numpy as np
import pytest

from minillm import Tensor, no_grad


def leaf(*values):
    return Tensor(np.array(values, "float64"), requires_grad=True)


def test_change_of_a_saved_input_is_detected():
    x, w = leaf(1.0, 2.0), Tensor(np.array([3.0, 4.0]))
    y = (x * w).sum()
    w.add_(1)
    with pytest.raises(RuntimeError, match="mul: its input 1 .*version 1, saved at 0"):
        y.backward()


def test_change_of_a_saved_output_is_detected():
    x = leaf(1.0, 2.0)
    y = x.exp()
    z = y.sum()
    with no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="exp: its output .* changed in place"):
        z.backward()


@pytest.mark.parametrize(
    "view",
    [
        lambda w: w[0],
        lambda w: w.reshape(-1),
        lambda w: w.T,
        lambda w: w.T.reshape(2, 2)[1],
        lambda w: w.detach(),
    ],
)
def test_change_through_a_view_is_detected(view):
    x, w = leaf(1.0, 2.0), Tensor(np.ones((2, 2)))
    y = (x * w).sum()
    view(w).mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_change_of_the_whole_is_detected_by_a_saved_view():
    x, w = leaf(1.0, 2.0), Tensor(np.ones((2, 2)))
    y = (x * w.T[0]).sum()
    w[0, 0] = 5
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_change_of_what_was_not_saved_is_fine():
    x, b = leaf(1.0, 2.0), Tensor(np.ones(2))
    y = (x + b).sum()
    b.zero_()
    y.backward()
    assert x.grad.tolist() == [1, 1]
    z = (x * b.clone()).sum()
    b.fill_(7)
    z.backward()


def test_change_in_place_of_what_requires_a_gradient_is_refused():
    x = leaf(1.0)
    for change in (
        lambda x: x.add_(1), lambda x: x.mul_(2), lambda x: x.zero_(), lambda x: x.fill_(1),
        lambda x: x.copy_(x), lambda x: x.__setitem__(0, 1), lambda x: x.__iadd__(1),
        lambda x: x.__itruediv__(2), lambda x: (x * 2).add_(1),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="would change a tensor that requires a gradient"):
            change(x)
    assert x.tolist() == [1] and x.version.count == 0


def test_augmented_assignment_is_in_place_where_no_gradient_flows():
    x = Tensor(np.array([4.0]))
    same = x
    x += 2
    x -= 1
    x *= 4
    x /= 2
    assert x is same and x.tolist() == [10] and x.version.count == 4
    p = leaf(1.0)
    with no_grad():
        p -= 0.5
    assert p.is_leaf and p.tolist() == [0.5]


def test_augmented_assignment_is_differentiated_where_one_flows():
    x = leaf(3.0)
    total = Tensor(np.zeros(1))
    total += x
    total *= x
    total -= x
    total /= 2
    total.backward()
    assert x.grad.tolist() == [(2 * 3 - 1) / 2]


def test_writing_what_requires_a_gradient_is_refused():
    """The target would hold its values without the way back to it."""
    w, x = leaf(1.0), Tensor(np.zeros(1))
    for write in (
        lambda: x.add_(w), lambda: x.mul_(w), lambda: x.copy_(w * 2), lambda: x.fill_(w.sum()),
        lambda: x.__setitem__(0, w.sum()),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="would copy the values of a tensor that requires a"):
            write()
    assert x.tolist() == [0] and x.version.count == 0
    with no_grad():
        x.add_(w).fill_(w.sum() * 3)
    assert x.tolist() == [3] and not x.requires_grad


def test_a_tensor_of_a_tensor_counts_changes_with_it():
    x, w = leaf(1.0, 2.0), Tensor(np.ones(2))
    y = (x * w).sum()
    Tensor(w).mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    assert Tensor(w, dtype="float32").version is not w.version  # another array
