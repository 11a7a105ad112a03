"""bfloat16, whose eight bits stop a sum of ones at 256, and which NumPy widens where it can."""

import ml_dtypes
import numpy as np
import pytest

import minillm
import minillm.functional as F
from minillm import Tensor

N = 2000
BF16 = ml_dtypes.bfloat16


def ones(*shape, **options):
    return Tensor(np.ones(shape, BF16), **options)


@pytest.mark.parametrize(
    "total",
    [
        lambda x: x.sum(),
        lambda x: x.cumsum(0)[-1],
        lambda x: F.mse_loss(x, x * 0, "sum"),
        lambda x: F.mse_loss(x, x * 0) * N,
        lambda x: F.nll_loss(-x[:, None], Tensor(np.zeros(N, int)), reduction="sum"),
        lambda x: F.nll_loss(-x[:, None], Tensor(np.zeros(N, int)), weight=x[:1]) * N,
        lambda x: F.binary_cross_entropy_with_logits(x * 0, x, reduction="sum") / np.log(2),
        lambda x: (-F.log_softmax(x, 0)[0]).exp(),
        lambda x: (-F.log_softmax(x, 0)).exp().mean(),
    ],
)
def test_sums_do_not_stop_growing(total):
    y = total(ones(N))
    assert y.dtype == BF16 and abs(float(y) - N) <= 0.02 * N


def test_sums_in_gradients_do_not_stop_growing():
    bias, x, z = (ones(1, requires_grad=True) for _ in range(3))
    F.linear(ones(N, 3), ones(1, 3), bias).sum().backward()
    (x + ones(N)).sum().backward()
    z.expand(N).cumsum(0).sum().backward()
    assert bias.grad.item() == x.grad.item() == N
    assert abs(z.grad.item() / (N * (N + 1) / 2) - 1) < 0.01
    logits = Tensor(np.zeros(N, BF16), requires_grad=True)
    F.log_softmax(logits, 0).sum().backward()  # each 1 - N / N
    assert abs(logits.grad.data.astype(float)).max() < 0.02


def _ones_like(x):
    return Tensor(np.ones(4, x.dtype))


TARGET = Tensor(np.zeros(4, int))
KEEPS = {
    "numbers": lambda x: 1 - (2 / (x + 0.5) * 3) % 100,
    "powers": lambda x: x**2 + 2**x + x**x,
    "elementwise": lambda x: x.exp().log().sqrt().rsqrt().tanh().sigmoid().relu().abs(),
    "choices": lambda x: minillm.maximum(x.clamp(0.2, 0.8), 0.5) + minillm.where(x > 0.5, x, 0.0),
    "masks": lambda x: x.masked_fill(x > 0.5, -1.0).tril(),
    "moments": lambda x: x.mean(0) + x.var(1) + x.std() + x.logsumexp(1),
    "norms": lambda x: x.norm() + x.norm(3, 0) + x.norm(1) + x.norm(float("inf"), 1),
    "extrema": lambda x: x.amax(1) + x.min(1).values + x.max(),
    "products": lambda x: minillm.einsum("ij,jk->ik", x, x) @ x + F.linear(x, x, x[0]),
    "activations": lambda x: F.gelu(x) + F.gelu(x, "tanh") + F.silu(F.softplus(x)) + F.swiglu(x, x),
    "rows": lambda x: (
        F.softmax(x, -1) + F.log_softmax(x, 0) + F.layer_norm(x, 4) + F.rms_norm(x, 4)
    ),
    "dropout": lambda x: F.dropout(x),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "selection": lambda x: minillm.cat([x[[0, 0, 1]], F.embedding(TARGET, x)]),
    "mse": lambda x: F.mse_loss(x, x * 2),
    "bce": lambda x: F.binary_cross_entropy_with_logits(x, x, pos_weight=_ones_like(x)),
    "nll": lambda x: F.cross_entropy(x, TARGET, weight=_ones_like(x), label_smoothing=0.1),
}


@pytest.mark.parametrize("name", KEEPS)
def test_results_and_gradients_keep_the_dtype_and_are_near_float64(name):
    values = np.random.default_rng(0).uniform(0.1, 1, (4, 4)).astype(BF16)
    got = []
    for dtype in (BF16, "float64"):
        minillm.manual_seed(0)
        x = Tensor(values.astype(dtype), requires_grad=True)
        y = KEEPS[name](x)
        assert y.dtype == dtype
        y.sum().backward()
        assert x.grad.dtype == dtype
        got.append((y.data.astype(float), x.grad.data.astype(float)))
    for ours, want in zip(*got):
        np.testing.assert_allclose(ours, want, rtol=0.1, atol=0.1 * abs(want).max())


def test_cross_entropy_has_losses_in_float32_and_a_gradient_in_bfloat16():
    x = Tensor(np.zeros((N, 4), BF16), requires_grad=True)
    loss = F.cross_entropy(x, Tensor(np.zeros(N, int)), reduction="sum")
    loss.backward()
    assert loss.dtype == np.float32 and abs(loss.item() / (N * np.log(4)) - 1) < 1e-3
    assert x.grad.dtype == BF16 and x.grad.data[0].tolist() == [-0.75, 0.25, 0.25, 0.25]
