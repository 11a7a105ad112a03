"""CausalSelfAttention against the formula written out, and its cache; the MLP against PyTorch."""

import numpy as np
import pytest

import minillm.random
from minillm.autograd import no_grad
from minillm.errors import UserError
from minillm.gradcheck import gradcheck
from minillm.nn import MLP, CausalSelfAttention, KVCache
from minillm.nn.attention import rotary_tables
from minillm.tensor import Tensor

B, T, C, H = 2, 7, 24, 4
D = C // H
RNG = np.random.default_rng(0)


def _attention(G, bias=True):
    minillm.random.manual_seed(1)
    return CausalSelfAttention(C, H, G, bias).to("float64")


def _rotate(x, theta=10000.0):
    """x (B, heads, T, D) as complex numbers x_i + i x_{i + D/2}, turned by position * frequency."""
    z = x[..., : D // 2] + 1j * x[..., D // 2 :]
    angle = np.arange(x.shape[2])[:, None] * theta ** (-np.arange(D // 2) * 2 / D)
    z = z * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], -1)


def _affine(linear, x):
    return x @ linear.weight.data.T + (0 if linear.bias is None else linear.bias.data)


def _written_out(layer, x, G, rotary):
    """Head by head, with the T x T matrix."""
    qkv = _affine(layer.qkv, x)
    q, k, v = np.split(qkv, [C, C + G * D], axis=-1)
    q, k, v = (a.reshape(B, T, -1, D).swapaxes(1, 2) for a in (q, k, v))
    if rotary:
        q, k = _rotate(q), _rotate(k)
    y = np.zeros((B, T, C))
    for h in range(H):
        g = h // (H // G)
        s = q[:, h] @ k[:, g].swapaxes(1, 2) / D**0.5
        s[:, np.triu_indices(T, 1)[0], np.triu_indices(T, 1)[1]] = -np.inf
        p = np.exp(s - s.max(-1, keepdims=True))
        y[..., h * D : (h + 1) * D] = p / p.sum(-1, keepdims=True) @ v[:, g]
    return _affine(layer.proj, y)


def _rotation(T=T):
    return rotary_tables(T, D, 10000.0, "float64", "cpu")


@pytest.mark.parametrize("G", [4, 2, 1])
@pytest.mark.parametrize("rotary", [False, True])
def test_against_the_formula(G, rotary):
    layer = _attention(G, bias=not rotary)
    x = RNG.normal(size=(B, T, C))
    y = layer(Tensor(x), _rotation() if rotary else None)
    np.testing.assert_allclose(y.data, _written_out(layer, x, G, rotary), rtol=1e-10, atol=1e-12)


def test_a_cache_refuses_to_swallow_gradients():
    cache = KVCache((B, 2, T, D), np.float64, "cpu")
    with pytest.raises(UserError, match="no_grad"):
        _attention(2)(Tensor(RNG.normal(size=(B, T, C))), None, cache)


@pytest.mark.parametrize("G", [4, 2])
@pytest.mark.parametrize("pieces", [[1] * T, [T], [3, 1, 3], [1, 4, 2]])
def test_cached_pieces_give_what_the_whole_gives(G, pieces):
    layer = _attention(G)
    x = Tensor(RNG.normal(size=(B, T, C)))
    cos, sin = _rotation()
    with no_grad():
        whole = layer(x, (cos, sin)).data
        cache, parts, start = KVCache((B, G, T, D), np.float64, "cpu"), [], 0
        for n in pieces:
            at = slice(start, start + n)
            parts.append(layer(x[:, at], (cos[at], sin[at]), cache).data)
            start += n
    assert cache.length == T
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-11, atol=1e-13)


def test_the_future_does_not_reach_the_past():
    layer = _attention(2)
    x = RNG.normal(size=(B, T, C))
    before = layer(Tensor(x)).data
    x[:, 5:] += 1
    after = layer(Tensor(x)).data
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).all()


def test_gradients():
    layer = _attention(2)

    def forward(x, qkv, proj):
        layer.qkv.weight, layer.proj.weight = qkv, proj
        return layer(x, _rotation())

    gradcheck(
        forward, RNG.normal(size=(B, T, C)), layer.qkv.weight, layer.proj.weight, name="attention"
    )


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_mlp_against_pytorch(activation):
    torch = pytest.importorskip("torch")
    minillm.random.manual_seed(1)
    mlp = MLP(6, 16, activation).to("float64")
    x = RNG.normal(size=(3, 6))
    w = {name: torch.tensor(array) for name, array in mlp.state_dict().items()}
    F = torch.nn.functional
    up = F.linear(torch.tensor(x), w["up.weight"], w["up.bias"])
    if activation == "gelu":
        hidden = F.gelu(up, approximate="tanh")
    else:
        hidden = F.silu(F.linear(torch.tensor(x), w["gate.weight"], w["gate.bias"])) * up
    want = F.linear(hidden, w["proj.weight"], w["proj.bias"])
    np.testing.assert_allclose(mlp(Tensor(x)).data, want.numpy(), rtol=1e-11, atol=1e-13)


def test_sizes_that_do_not_divide_and_unknown_activations_are_refused():
    with pytest.raises(UserError, match="n_head 3 must divide n_embd 10"):
        CausalSelfAttention(10, 3, 3)
    with pytest.raises(UserError, match="n_kv_head 4 n_head"):
        CausalSelfAttention(12, 6, 4)
    with pytest.raises(UserError, match="activation is 'relu': choose gelu or swiglu"):
        MLP(4, 8, "relu")
