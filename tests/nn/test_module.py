"""Module: what is found inside, state, modes, hooks, printing."""

import numpy as np
import pytest

import minillm.random
from minillm.errors import UserError
from minillm.nn import Dropout, Linear, Module, ModuleList, Parameter, Sequential
from minillm.optim import SGD
from minillm.tensor import Tensor


class Tied(Module):
    """Two names for one weight, a parameter of its own, and a submodule used twice."""

    def __init__(self):
        self.scale = Parameter(np.ones(2, np.float32))
        self.first = Linear(3, 3)
        self.second = Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.again = ModuleList([self.first, Dropout(0.5)])

    def forward(self, x):
        return self.second(self.first(x))


def test_names_are_paths_and_shared_parameters_come_once():
    model = Tied()
    assert [name for name, _ in model.named_parameters()] == ["scale", "first.weight", "first.bias"]
    assert [name for name, _ in model.named_modules()] == [
        "",
        "first",
        "second",
        "again",
        "again.1",
    ]
    assert list(model.children()) == [model.first, model.second, model.again]
    assert model.num_parameters() == 2 + 9 + 3


def test_a_tied_weight_collects_both_gradients():
    model = Tied()
    x = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    model(x).sum().backward()
    weight, bias = model.first.weight.data, model.first.bias.data
    hidden = x.data @ weight.T + bias
    want = np.ones((2, 3)).T @ hidden + (np.ones((2, 3)) @ weight).T @ x.data
    np.testing.assert_allclose(model.first.weight.grad.data, want, rtol=1e-5)


def test_state_dict_round_trip_writes_into_the_existing_arrays():
    minillm.random.manual_seed(1)
    model, other = Tied(), Tied()
    optimizer = SGD(other.parameters(), lr=0.1)
    before = other.first.weight.version.count
    other.load_state_dict({name: array.copy() for name, array in model.state_dict().items()})
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])
        assert array.base is optimizer.groups[0].flat.data
    assert other.first.weight.version.count > before


def test_load_state_dict_takes_tensors_and_casts():
    model = Linear(2, 1, bias=False)
    model.load_state_dict({"weight": Tensor(np.array([[1.5, 2.0]]), dtype=np.float64)})
    assert model.weight.dtype == np.float32
    np.testing.assert_array_equal(model.weight.data, [[1.5, 2.0]])


def test_load_state_dict_lists_all_that_is_wrong_and_changes_nothing():
    model = Linear(2, 3)
    before = model.weight.data.copy()
    with pytest.raises(UserError) as error:
        model.load_state_dict({"weight": np.zeros((3, 4)), "extra": np.zeros(1)})
    message = str(error.value)
    assert "missing bias" in message
    assert "unexpected extra" in message
    assert "(3, 4)" in message
    assert "(3, 2)" in message
    with pytest.raises(UserError, match=r"weight has shape \(3, 4\)"):
        model.load_state_dict({"weight": np.zeros((3, 4)), "extra": 0}, strict=False)
    model.load_state_dict({"bias": np.ones(3), "extra": np.zeros(1)}, strict=False)
    np.testing.assert_array_equal(model.weight.data, before)
    np.testing.assert_array_equal(model.bias.data, np.ones(3))


def test_train_and_eval_reach_all_modules():
    model = Tied()
    assert model.training
    assert not any(module.training for _, module in model.eval().named_modules())
    assert all(module.training for _, module in model.train().named_modules())


def test_to_dtype_keeps_values_and_gradients():
    model = Linear(2, 2)
    model(Tensor(np.ones((1, 2), np.float32))).sum().backward()
    weight = model.weight.data.copy()
    assert model.to("float64") is model
    assert model.weight.dtype == model.weight.grad.dtype == np.float64
    assert model.weight.requires_grad
    np.testing.assert_array_equal(model.weight.data, weight)
    with pytest.raises(UserError, match="cannot be of dtype int64"):
        model.to("int64")
    model.bias.requires_grad_(False)
    assert not model.to("float32").bias.requires_grad


def test_to_is_refused_once_an_optimiser_holds_the_parameters():
    model = Linear(2, 2)
    SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="before the optimiser"):
        model.to("float64")


def test_zero_grad():
    model = Linear(2, 2)
    model(Tensor(np.ones((1, 2), np.float32))).sum().backward()
    model.zero_grad()
    assert model.weight.grad is None
    assert model.bias.grad is None


def test_hooks_see_and_replace_until_removed():
    model = Sequential(Linear(2, 2), Linear(2, 1))
    x = Tensor(np.ones((1, 2), np.float32))
    plain = model(x).data
    seen = []
    remove_look = model[0].register_forward_hook(lambda m, args, out: seen.append((m, args, out)))
    remove_pre = model.register_forward_pre_hook(lambda m, args: args[0] * 2)
    remove_out = model.register_forward_hook(lambda m, args, out: out * 0)
    np.testing.assert_array_equal(model(x).data, [[0]])
    assert seen[0][0] is model[0]
    np.testing.assert_array_equal(seen[0][1][0].data, [[2, 2]])
    remove_pre()
    remove_out()
    remove_look()
    np.testing.assert_array_equal(model(x).data, plain)
    assert len(seen) == 1


def test_apply_visits_inner_modules_first():
    model = Sequential(Linear(1, 1), Sequential(Linear(1, 1)))
    order = []
    model.apply(order.append)
    assert order[-1] is model
    assert order.index(model[1][0]) < order.index(model[1])
    assert len(order) == 4


def test_repr_is_a_tree_with_repeats_joined():
    model = Sequential(Linear(2, 2), Linear(2, 2), Linear(2, 1, bias=False))
    assert repr(model) == (
        "Sequential(\n  (0-1): 2 x Linear(2, 2, bias=True)\n  (2): Linear(2, 1, bias=False)\n)"
    )


def test_forward_must_be_defined():
    with pytest.raises(NotImplementedError, match="Module does not define forward"):
        Module()(1)


def test_a_list_of_modules_may_hold_more():
    class Scaled(ModuleList):
        def __init__(self):
            super().__init__([Linear(2, 2, bias=False)])
            self.scale = Parameter(np.ones(2, np.float32))

    assert [name for name, _ in Scaled().named_parameters()] == ["scale", "0.weight"]


def test_unknown_dtype_is_refused():
    with pytest.raises(UserError, match="unknown dtype 'gpu'"):
        Linear(2, 2).to("gpu")
