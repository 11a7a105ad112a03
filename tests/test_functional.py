"""The public face as a whole: PyTorch's signatures, a network of all of it, either kernels."""

import inspect

import numpy as np
import pytest

import minillm.functional as F
from minillm import random
from minillm.gradcheck import gradcheck
from minillm.kernels import registry
from minillm.tensor import Tensor

RNG = np.random.default_rng(0)
OUR_OWN = {"rotary", "swiglu"}
# PyTorch writes these in C++, without a signature that Python can read: from its documentation.
BUILTIN = {
    "gelu": dict(approximate="none"),
    "linear": dict(bias=None),
    "scaled_dot_product_attention": dict(
        attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ),
    "softplus": dict(beta=1, threshold=20),
}
ADDED = {"cross_entropy": ["inplace"]}  # switches of our own, off by default
REQUIRED = inspect.Parameter.empty


@pytest.mark.parametrize("name", sorted(set(F.__all__) - OUR_OWN))
def test_arguments_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    ours = inspect.signature(getattr(F, name)).parameters
    defaults = {n: p.default for n, p in ours.items() if p.default is not REQUIRED}
    if name in BUILTIN:
        assert defaults == BUILTIN[name]
        return
    theirs = inspect.signature(getattr(torch.nn.functional, name)).parameters
    order = [n for n in theirs if n in ours] + ADDED.get(name, [])
    assert list(ours) == order
    for n, default in defaults.items():
        assert default == (theirs[n].default if n in theirs else False), n


def network(x, ids, targets, p):
    """One transformer block and a loss, of everything in F that a model uses."""
    B, T, H, G, D = *ids.shape, 4, 2, 6
    x = x + F.embedding(ids, p["table"])  # (B, T, C)
    h = F.rms_norm(x, 24, p["norm"], eps=1e-5)
    q = F.linear(h, p["q"]).reshape(B, T, H, D).transpose(1, 2)  # (B, H, T, D)
    k, v = (F.linear(h, p[n]).reshape(B, T, G, D).transpose(1, 2) for n in "kv")  # (B, G, T, D)
    angle = np.outer(np.arange(T), 0.1 ** np.arange(D // 2))
    cos, sin = Tensor(np.cos(angle)), Tensor(np.sin(angle))
    q, k = F.rotary(q, cos, sin), F.rotary(k, cos, sin)
    a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    x = x + a.transpose(1, 2).reshape(B, T, H * D)
    h = F.layer_norm(x, 24, p["norm"], p["bias"])
    h = F.swiglu(F.linear(h, p["gate"], p["bias"]), F.linear(h, p["up"]))
    random.manual_seed(0)  # the same dropout at every call: a function that can be differentiated
    x = x + F.dropout(F.gelu(h, "tanh"), 0.2)
    return F.cross_entropy(F.linear(x, p["table"]).transpose(1, 2), targets, ignore_index=0)


def problem():
    B, T, C, V = 2, 5, 24, 7
    sizes = dict(
        table=(V, C), norm=C, bias=C, q=(C, C), k=(12, C), v=(12, C), gate=(C, C), up=(C, C)
    )
    p = {n: RNG.normal(0, 0.3, size) for n, size in sizes.items()}
    ids, targets = (RNG.integers(0, V, (B, T)) for _ in range(2))
    return RNG.normal(size=(B, T, C)), ids, targets, p


def test_gradients_of_a_network():
    x, ids, targets, p = problem()

    def loss(x, *params):
        return network(x, Tensor(ids), targets, dict(zip(p, params)))

    gradcheck(loss, x, *p.values())


def test_reference_kernels_agree():
    x, ids, targets, p = problem()
    results = []
    for choice in ("cpu", "reference"):
        with registry.use(choice):
            params = {n: Tensor(a, requires_grad=True) for n, a in p.items()}
            loss = network(Tensor(x), Tensor(ids), targets, params)
            loss.backward()
        results.append([loss.item(), *(t.grad.data for t in params.values())])
    for got, want in zip(*results):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
