"""Layers: initial values, and values and gradients against PyTorch's modules."""

import numpy as np
import pytest

import minillm.random
from minillm import nn
from minillm.nn.init import kaiming_uniform_
from minillm.nn.module import Parameter
from minillm.tensor import Tensor

RNG = np.random.default_rng(0)


def test_linear_starts_as_pytorch_does():
    minillm.random.manual_seed(3)
    layer = nn.Linear(400, 300)
    bound = 400**-0.5
    for p in (layer.weight, layer.bias):
        assert np.abs(p.data).max() <= bound
        assert np.abs(p.data).max() > 0.95 * bound
        assert abs(p.data.mean()) < 0.1 * bound
    assert layer.weight.data.std() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_embedding_starts_from_the_standard_normal():
    minillm.random.manual_seed(3)
    weight = nn.Embedding(300, 200).weight.data
    assert weight.mean() == pytest.approx(0, abs=0.02)
    assert weight.std() == pytest.approx(1, rel=0.02)


def test_kaiming_uniform_has_the_variance_of_the_paper():
    minillm.random.manual_seed(3)
    weight = kaiming_uniform_(Parameter(np.empty((200, 500), np.float32))).data
    assert weight.var() == pytest.approx(2 / 500, rel=0.02)


def test_one_seed_starts_all_dtypes_alike():
    minillm.random.manual_seed(7)
    single = nn.Linear(5, 4)
    minillm.random.manual_seed(7)
    double = nn.Linear(5, 4, dtype=np.float64)
    assert double.weight.dtype == np.float64
    np.testing.assert_array_equal(single.weight.data, double.weight.data)


def test_dropout_acts_in_training_only():
    minillm.random.manual_seed(0)
    layer, x = nn.Dropout(0.25), Tensor(np.ones((100, 100), np.float32))
    y = layer(x).data
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert (layer(x).data != y).any()
    assert layer.eval()(x) is x
    assert nn.Dropout(0.0)(x) is x


def _pairs():
    """Ours, PyTorch's maker, input."""
    x = RNG.normal(size=(2, 5, 6))
    ids = RNG.integers(0, 9, (2, 5))
    return {
        "linear": (nn.Linear(6, 4, dtype=np.float64), lambda t: t.nn.Linear(6, 4), x),
        "linear without bias": (
            nn.Linear(6, 4, bias=False, dtype=np.float64),
            lambda t: t.nn.Linear(6, 4, bias=False),
            x,
        ),
        "embedding": (nn.Embedding(9, 6, dtype=np.float64), lambda t: t.nn.Embedding(9, 6), ids),
        "layer_norm": (nn.LayerNorm(6, dtype=np.float64), lambda t: t.nn.LayerNorm(6), x),
        "layer_norm without bias": (
            nn.LayerNorm(6, 1e-3, bias=False, dtype=np.float64),
            lambda t: t.nn.LayerNorm(6, 1e-3, bias=False),
            x,
        ),
        "rms_norm": (nn.RMSNorm(6, 1e-4, dtype=np.float64), lambda t: t.nn.RMSNorm(6, 1e-4), x),
    }


@pytest.mark.parametrize("name", _pairs())
def test_values_and_gradients_against_pytorch(name):
    torch = pytest.importorskip("torch")
    ours, make, x = _pairs()[name]
    theirs = make(torch).double()
    state = {k: RNG.normal(size=v.shape) for k, v in ours.state_dict().items()}
    ours.load_state_dict(state)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    is_float = x.dtype.kind == "f"
    ours_x = Tensor(x, requires_grad=is_float)
    theirs_x = torch.tensor(x, requires_grad=is_float)
    y, want = ours(ours_x), theirs(theirs_x)
    np.testing.assert_allclose(y.data, want.detach().numpy(), rtol=1e-12, atol=1e-13)
    dy = RNG.normal(size=y.shape)
    y.backward(dy)
    want.backward(torch.tensor(dy))
    for k, p in theirs.named_parameters():
        got = dict(ours.named_parameters())[k].grad.data
        np.testing.assert_allclose(got, p.grad.numpy(), rtol=1e-11, atol=1e-12)
    if is_float:
        np.testing.assert_allclose(ours_x.grad.data, theirs_x.grad.numpy(), rtol=1e-11, atol=1e-12)
