"""Tensors: how they are made, shown, converted; functions that make them; what import costs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minillm
from minillm import Tensor, UserError


@pytest.mark.parametrize(
    "data",
    [1, 1.5, True, [1, 2], [1.0, 2], [[1.5], [2]], [True, False], np.float64(2), np.int32(3),
     np.ones(2, "float16"), np.ones(2), []],
    ids=repr,
)  # fmt: skip
def test_dtype_follows_torch(data):
    torch = pytest.importorskip("torch")
    want, got = torch.tensor(data), minillm.tensor(data)
    assert f"torch.{got.dtype}" == str(want.dtype)
    assert got.shape == tuple(want.shape) and got.tolist() == want.tolist()


def test_explicit_dtype_keeps_every_digit():
    assert Tensor([0.1], dtype="float64").item() == 0.1
    assert Tensor([1, 2], dtype="float32").dtype == np.float32


def test_tensor_shares_an_array_and_the_function_copies_it():
    a = np.ones(3)
    assert Tensor(a).data is a and Tensor(Tensor(a)).data is a
    assert not np.shares_memory(minillm.tensor(a).data, a)


def test_repr():
    assert repr(Tensor([[1.0, 2.0], [3.0, 4.5]])) == "tensor([[1. , 2. ],\n        [3. , 4.5]])"
    assert repr(Tensor(np.ones(1), requires_grad=True)) == (
        "tensor([1.], dtype=float64, requires_grad=True)"
    )
    assert repr(Tensor([1.0], requires_grad=True) * 2) == "tensor([2.], grad_fn=<mul backward>)"
    assert repr(Tensor([1, 2])) == "tensor([1, 2])"


def test_conversions():
    x = Tensor([2.5])
    assert (x.item(), float(x), int(x), bool(x), len(x)) == (2.5, 2.5, 2, True, 1)
    assert [10, 20, 30][Tensor(1)] == 20
    assert np.asarray(Tensor([1, 2])).tolist() == [1, 2]
    assert np.shares_memory(x.numpy(), x.data)
    with pytest.raises(RuntimeError, match="detach"):
        x.requires_grad_().numpy()
    with pytest.raises(TypeError, match="0-d"):
        len(Tensor(1.0))


def test_to():
    x = Tensor([1.0])
    assert x.to("cpu") is x and x.to("float32") is x
    assert x.to(np.float64).dtype == np.float64
    with pytest.raises(UserError, match="'tpu'"):
        Tensor([1.0], device="tpu")


def test_tensors_can_be_keys():
    x, y = Tensor([1.0]), Tensor([1.0])
    assert {x: "x", y: "y"}[x] == "x"


def test_constructors_follow_torch():
    torch = pytest.importorskip("torch")
    for make in (
        lambda lib: lib.zeros(2, 3), lambda lib: lib.ones((2, 3)), lambda lib: lib.eye(3),
        lambda lib: lib.arange(5), lambda lib: lib.arange(2, 7, 2),
        lambda lib: lib.arange(1.0, 2.0, 0.25), lambda lib: lib.full((2,), 7),
        lambda lib: lib.full((2,), 0.5), lambda lib: lib.full((), True),
        lambda lib: lib.zeros_like(lib.arange(3)), lambda lib: lib.ones_like(lib.zeros(2)),
        lambda lib: lib.zeros(()),
    ):  # fmt: skip
        got, want = make(minillm), make(torch)
        assert f"torch.{got.dtype}" == str(want.dtype)
        assert got.tolist() == want.tolist()
    assert minillm.zeros(2, requires_grad=True).requires_grad


def test_random_tensors_follow_the_seed():
    draws = []
    for seed in (1, 1, 2):
        minillm.manual_seed(seed)
        draws.append((minillm.randn(2, 3).tolist(), minillm.rand((4,), dtype="float64").tolist()))
    assert draws[0] == draws[1] != draws[2]
    x = minillm.rand(1000, dtype="float64").data
    assert x.min() >= 0 and x.max() < 1
    assert abs(minillm.randn(10_000).data.std() - 1) < 0.05


def test_functions_are_the_methods():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]])
    assert minillm.exp(x).tolist() == x.exp().tolist()
    assert minillm.sum(x, 0).tolist() == [4, 6]
    assert minillm.max(x, 1).indices.tolist() == [1, 1]
    assert minillm.transpose(x, 0, 1).tolist() == x.T.tolist()


def test_all_public_names_exist():
    for name in minillm.__all__:
        assert getattr(minillm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        minillm.nonsense  # noqa: B018


def test_environment_is_read_before_numpy():
    script = (
        "import sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'numpy':\n"
        "            import os\n"
        "            assert 'OPENBLAS_NUM_THREADS' in os.environ\n"
        "            print('set before')\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import minillm\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.stdout == "set before\n", done.stderr


def test_dtypes_by_name():
    code = """
import minillm
assert minillm.zeros(2, dtype="bfloat16").dtype == minillm.ones(2).to("bfloat16").dtype
assert str(minillm.Tensor([1.5], dtype="bfloat16").dtype) == "bfloat16"
"""  # in a process of its own, where nothing has told NumPy of bfloat16
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], timeout=60
    )
    for make in (Tensor, minillm.tensor, minillm.full):
        with pytest.raises(UserError, match="unknown dtype 'float33'"):
            make([1], *([2] if make is minillm.full else []), dtype="float33")
    with pytest.raises(UserError, match="holds numbers, not str of <U3"):
        Tensor("abc")
