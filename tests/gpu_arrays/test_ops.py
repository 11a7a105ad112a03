"""Every op, forward and backward, on arrays of a GPU: the numbers that NumPy gives, nothing on the
host in between. The GPU is the stand-in of tests/fake_cupy."""

import numpy as np
import pytest

import minillm
import minillm.functional as F
from minillm import Tensor
from tests import fake_cupy
from tests.ops.test_bfloat16 import KEEPS

RNG = np.random.default_rng(0)
IDS = np.array([[0, 2], [3, 3]])


def _ids(x):
    return Tensor(IDS, device=x.device)


def _targets(x):
    return Tensor(np.array([1, -100, 3, 0]), device=x.device)


OPS = {
    **{name: f for name, f in KEEPS.items() if name not in ("selection", "bce", "nll")},
    "broadcasting": lambda x: x[0] * x + x[:, :1] / (x + 2) - x.sum(0, keepdim=True),
    "0-d": lambda x: x.sum() * x.mean() + x[1, 2] ** 2 + x[0, 0].exp().reshape(1).sum(),
    "integers": lambda x: (x * 10).to("int64").to(x.dtype) * x,
    "comparisons": lambda x: x * (x > 0.5).to(x.dtype) + x * ((x < 0.2) | (x >= 0.7)).to(x.dtype),
    "shapes": lambda x: x.reshape(2, 8).transpose(0, 1).unsqueeze(1).expand(8, 3, 2).flatten(1),
    "parts": lambda x: minillm.cat([p * i for i, p in enumerate(x.split([1, 3], 1), 1)], 1),
    "stack": lambda x: minillm.stack([x, x * 2], 1)[:, 0, 1:] + x[:, ::2][:, [0, 1, 0]],
    "rows by index": lambda x: x[[3, 0, 0]] + x[_ids(x)].sum(0)[0],
    "index of both": lambda x: x[_ids(x), _ids(x).T],
    "mask": lambda x: x[x > 0.5].sum() + x.masked_fill(x > 0.9, 0.0),
    "gather": lambda x: x.gather(1, _ids(x)) + x.index_select(0, _ids(x)[1])[:, :2],
    "triangles": lambda x: x.tril(-1) + x.triu(1),
    "maxima": lambda x: x.max(1).values + x.min(0).values + x.amax((0, 1)) + x[x.argmax(0), 0],
    "cumsum": lambda x: x.cumsum(0) + x.cumsum(1),
    "einsum": lambda x: minillm.einsum("ii->i", x) + minillm.einsum("ij,kj->i", x, x),
    "stacked products": lambda x: x.reshape(2, 2, 4) @ x + (x[None] @ x.reshape(2, 4, 2)).mT,
    "product with a vector": lambda x: x @ x[0] + x[0] @ x,
    "linear": lambda x: F.linear(x, x[:3], x[0, :3]),
    "embedding": lambda x: F.embedding(_ids(x), x, padding_idx=0),
    "gelu": lambda x: F.gelu(x),
    "cross entropy": lambda x: F.cross_entropy(x, _targets(x), label_smoothing=0.1),
    "cross entropy by rows": lambda x: F.cross_entropy(x, _targets(x), reduction="none"),
    "nll": lambda x: F.cross_entropy(x, _targets(x), weight=x.detach()[0], label_smoothing=0.1),
    "bce": lambda x: F.binary_cross_entropy_with_logits(x, x, pos_weight=x.detach()),
    "rotary": lambda x: F.rotary(x.reshape(1, 2, 2, 4), x.data[:2, :2], x.data[2:, :2]),
    "attention with a mask": lambda x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=x.detach() > 0.4, dropout_p=0.1
    ),
    "grouped attention": lambda x: F.scaled_dot_product_attention(
        x.reshape(1, 2, 2, 4), x.reshape(1, 1, 4, 4), x.reshape(1, 1, 4, 4), enable_gqa=True
    ),
}  # fmt: skip


def _run(op, device, dtype):
    minillm.manual_seed(1)
    values = np.random.default_rng(0).uniform(0.1, 1, (4, 4))
    x = Tensor(values, dtype=dtype, device=device).requires_grad_()
    y = op(x)
    assert y.device == device
    weights = np.random.default_rng(1).normal(size=y.shape)
    y.backward(Tensor(weights, dtype=y.dtype, device=device))
    assert x.grad.device == device and x.grad.dtype == x.dtype
    return y.numpy() if not y.requires_grad else y.detach().numpy(), x.grad.numpy()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", OPS)
def test_values_and_gradients_are_numpys(name, dtype):
    if (name, dtype) == ("einsum", "bfloat16"):
        pytest.skip("NumPy's own einsum of a diagonal has no bfloat16")
    with minillm.kernels.use("reference"):
        want = _run(OPS[name], "cpu", dtype)
        with fake_cupy.installed():
            got = _run(OPS[name], "cuda", dtype)
    tolerance = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2}[dtype]
    for a, b in zip(got, want):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            a.astype("float64"), b.astype("float64"), rtol=tolerance, atol=tolerance
        )
