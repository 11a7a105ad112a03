"""The tape: the order of the pass, what it keeps and frees, modes, errors."""

import gc
import threading
import weakref

import numpy as np
import pytest

import minillm
from minillm import Tensor, autograd, no_grad
from minillm.ops.op import Op
from minillm.tensor import apply


def leaf(*values, dtype="float64"):
    return Tensor(np.array(values, dtype), requires_grad=True)


def grads(*leaves):
    return [x.grad.tolist() for x in leaves]


# --- the order of the pass ------------------------------------------------------------------------


def test_chain_of_50000_additions():
    x = leaf(1.0)
    y = x
    for _ in range(50_000):
        y = y + 1
    y.backward()
    assert y.tolist() == [50_001] and x.grad.tolist() == [1]


def test_long_chain_is_deleted_without_recursion():
    y = leaf(1.0)
    for _ in range(50_000):
        y = y + 1
    del y  # never differentiated: all its nodes go at once
    gc.collect()


def test_diamond_waits_for_both_sides():
    x = leaf(3.0)
    y = x * x
    long = ((y + 1) * 2 - 2) * 0.5  # the other way round the diamond is longer
    (y * long).sum().backward()
    assert x.grad.tolist() == [4 * 3.0**3]  # y long = x^4


def test_shared_subgraph_is_walked_once():
    calls = []

    class Counted(Op):
        @staticmethod
        def forward(x):
            return x * 2, ()

        @staticmethod
        def backward(dy, saved, needs):
            calls.append(dy.copy())
            return (dy * 2,)

    x = leaf(1.0, 2.0)
    y = apply(Counted, x)
    (y * 3 + y.sum() + y[0]).sum().backward()
    assert len(calls) == 1
    assert grads(x) == [[2 * (3 + 2 + 2), 2 * (3 + 2)]]


def test_input_used_twice_by_one_op():
    x = leaf(3.0)
    (x * x).backward()
    assert x.grad.tolist() == [6]


def test_branch_without_gradient_does_not_block_the_rest():
    class Half(Op):  # gives a gradient to its first input only
        @staticmethod
        def forward(x, y):
            return x + y, ()

        @staticmethod
        def backward(dz, saved, needs):
            return dz, None

    x, y = leaf(1.0), leaf(1.0)
    shared = y * 2
    (apply(Half, x, (shared + 1) * 1) + shared).backward()
    assert grads(x, y) == [[1], [2]]
    z = leaf(1.0)
    done = []
    z.register_post_accumulate_grad_hook(done.append)
    apply(Half, x, z * 1).backward()
    assert z.grad is None and done == [z]


def test_gradient_accumulates_over_passes_in_the_same_array():
    x = leaf(1.0, 2.0)
    (x * 2).sum().backward()
    first = x.grad.data
    (x * 3).sum().backward()
    assert x.grad.data is first and x.grad.tolist() == [5, 5]


def test_gradients_that_meet_do_not_change_what_ops_handed_over():
    """Add hands the same array to both inputs; summing into it in place would change the other."""
    x, y = leaf(1.0), leaf(1.0)
    a, b = x * 1, y * 1
    s = a + b
    (s + a + a).backward()
    assert grads(x, y) == [[3], [1]]


# --- memory ---------------------------------------------------------------------------------------


class Watched(Op):
    """Identity that saves a fresh array, and records how many such arrays live during backward."""

    alive: list = []
    seen: list = []

    @staticmethod
    def forward(x):
        saved = x.copy()
        Watched.alive.append(weakref.ref(saved))
        return x * 1, (saved,)

    @staticmethod
    def backward(dy, saved, needs):
        Watched.seen.append(sum(ref() is not None for ref in Watched.alive))
        return (dy * 1,)


def test_saved_arrays_are_freed_as_backward_passes():
    Watched.alive, Watched.seen = [], []
    y = leaf(1.0)
    for _ in range(5):
        y = apply(Watched, y)
    y.backward()
    assert Watched.seen == [5, 4, 3, 2, 1]
    assert all(ref() is None for ref in Watched.alive)


def test_retain_graph_keeps_saved_arrays():
    Watched.alive, Watched.seen = [], []
    x = leaf(1.0)
    y = apply(Watched, apply(Watched, x))
    y.backward(retain_graph=True)
    y.backward()
    assert Watched.seen == [2, 2, 2, 1] and x.grad.tolist() == [2]


def test_gradients_of_intermediates_are_freed():
    kept = []
    x = leaf(*[1.0] * 4)
    y = x * 2
    y.register_hook(lambda g: kept.append(weakref.ref(g)))
    (y * 3).sum().backward()
    assert kept and kept[0]() is None


def test_second_backward_is_an_error():
    x = leaf(2.0)
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match="backward through mul a second time.*retain_graph"):
        y.backward()


def test_second_backward_through_a_shared_part_is_an_error():
    x = leaf(2.0)
    shared = x.exp()
    (shared * 2).backward()
    with pytest.raises(RuntimeError, match="backward through exp a second time"):
        (shared * 3).backward()


# --- modes ----------------------------------------------------------------------------------------


def test_no_grad_and_enable_grad():
    x = leaf(1.0)
    with no_grad():
        assert not (x * 2).requires_grad
        with minillm.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
    with minillm.set_grad_enabled(False):
        assert not (x * 2).requires_grad


def test_no_grad_as_decorator_and_after_an_error():
    x = leaf(1.0)

    @no_grad()
    def f(x):
        return x * 2

    assert not f(x).requires_grad and not f(x).requires_grad and (x * 2).requires_grad
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert autograd.is_grad_enabled()


def test_mode_belongs_to_the_thread():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(autograd.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_detach():
    x = leaf(2.0)
    y = x * 3
    (y.detach() * x).backward()
    assert x.grad.tolist() == [6]
    assert np.shares_memory(y.detach().data, y.data) and not y.detach().requires_grad


def test_integers_and_booleans_never_require_a_gradient():
    x = leaf(1.5, -2.0)
    for y in (x > 0, x == x, x.argmax(), x.to("int64"), x.any(), x // 1):
        assert not y.requires_grad and y.is_leaf
    with pytest.raises(RuntimeError, match="only floating-point tensors .* int64"):
        Tensor([1, 2], requires_grad=True)
    with pytest.raises(RuntimeError, match="detach"):
        (x * 2).requires_grad_(False)


def test_backward_refuses():
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="does not depend on any"):
        Tensor([1.0]).backward()
    with pytest.raises(RuntimeError, match=r"shape \(2,\) needs a gradient"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match=r"shape \(3,\) for tensor of shape \(2,\)"):
        (x * 2).backward(np.ones(3))


def test_wrong_shape_from_an_op_is_caught():
    class Wrong(Op):
        @staticmethod
        def forward(x):
            return x * 1, ()

        @staticmethod
        def backward(dy, saved, needs):
            return (dy.sum(keepdims=True),)

    with pytest.raises(RuntimeError, match=r"shape \(1,\) for tensor of shape \(2,\)"):
        apply(Wrong, leaf(1.0, 2.0)).sum().backward()


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)])
def test_zero_size(shape):
    x = Tensor(np.zeros(shape), requires_grad=True)
    (x * 2 + x[..., :0].sum()).exp().sum().backward()
    assert x.grad.shape == shape


def test_zero_dimensional_gradients_stay_arrays():
    x = Tensor(np.float64(2.0), requires_grad=True)
    y = x * 1
    (y[...] + y * 2 + y[None].sum() + y[...]).backward()
    assert isinstance(x.grad.data, np.ndarray) and x.grad.item() == 5
