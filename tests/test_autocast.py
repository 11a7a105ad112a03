"""Mixed precision: which dtype each op runs in, gradients, casts made once, PyTorch's numbers."""

from threading import Barrier, Thread

import ml_dtypes
import numpy as np
import pytest

import minillm
import minillm.functional as F
from minillm import Tensor, UserError, autocast
from minillm.models.gpt import GPT, GPTConfig
from minillm.optim import AdamW
from tests import fake_cupy

NARROW = {
    "linear": lambda x: F.linear(x, x, x[0]),
    "matmul": lambda x: x @ x,
    "einsum": lambda x: minillm.einsum("ij,jk->ik", x, x),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "gelu of a product": lambda x: F.gelu(x @ x),
    "swiglu of products": lambda x: F.swiglu(x @ x, x @ x),
    "sum of products": lambda x: x @ x + x @ x,
    "rotary": lambda x: F.rotary((x @ x).reshape(1, 1, 4, 4), x.data[:, :2], x.data[:, 2:]),
}
WIDE = {
    "layer_norm": lambda x: F.layer_norm(x @ x, 4, x[0], x[1]),
    "rms_norm": lambda x: F.rms_norm(x @ x, 4, x[0]),
    "softmax": lambda x: F.softmax(x @ x, -1),
    "log_softmax": lambda x: F.log_softmax(x @ x, 0),
    "sum": lambda x: (x @ x).sum(),
    "mean": lambda x: (x @ x).mean(0),
    "std": lambda x: (x @ x).std(),
    "norm": lambda x: (x @ x).norm(),
    "exp": lambda x: (x @ x).exp(),
    "power": lambda x: (x @ x) ** 2,
    "cross_entropy": lambda x: F.cross_entropy(x @ x, Tensor(np.arange(4))),
    "mse_loss": lambda x: F.mse_loss(x @ x, x),
    "residual": lambda x: x + x @ x,
}


def matrix(dtype="float32"):
    return Tensor(np.random.default_rng(0).normal(size=(4, 4)), dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("name", [*NARROW, *WIDE])
def test_each_op_runs_in_its_dtype_and_gradients_are_float32(name):
    x, op = matrix(), {**NARROW, **WIDE}[name]
    want = op(x)
    with autocast():
        y = op(x)
    assert str(y.dtype) == ("bfloat16" if name in NARROW else "float32")
    y.backward(minillm.ones_like(y))
    assert x.grad.dtype == np.float32
    scale = abs(want.data).max()
    np.testing.assert_allclose(y.data.astype(float), want.data, rtol=0.03, atol=0.02 * scale)


def test_float64_is_left_alone():
    x = matrix("float64")
    with autocast():
        assert (x @ x).dtype == np.float64
        assert F.softmax(x, 0).dtype == np.float64


def test_blocks_nest_and_end():
    x = matrix()
    block = autocast("bfloat16")
    with block:
        with autocast(enabled=False):
            assert (x @ x).dtype == np.float32
            with block:
                assert (x @ x).dtype.name == "bfloat16"
        assert (x @ x).dtype.name == "bfloat16"
    assert (x @ x).dtype == np.float32
    assert block(lambda: x @ x)().dtype.name == "bfloat16"
    with pytest.raises(ZeroDivisionError), block:
        raise ZeroDivisionError
    assert (x @ x).dtype == np.float32
    with pytest.raises(UserError, match="float16"):
        autocast("float16")
    for dtype in (ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)):
        with autocast(dtype):
            assert (x @ x).dtype == dtype


@pytest.fixture
def casts(monkeypatch):
    """Counts casts to bfloat16 that are recorded or not."""
    from minillm.ops.arithmetic import Cast

    seen, forward = [], Cast.forward
    monkeypatch.setattr(
        Cast,
        "forward",
        staticmethod(lambda x, dtype: seen.append(dtype) or forward(x, dtype=dtype)),
    )
    return seen


def test_a_weight_is_cast_once_in_a_block(casts):
    w, x = matrix(), Tensor(np.ones((4, 4), "float32")).to("bfloat16")
    casts.clear()
    with autocast():
        F.linear(F.linear(x, w), w).sum().backward()
    assert [str(d) for d in casts] == ["bfloat16", "float32"]  # w, and the sum's input
    with autocast():
        F.linear(x, w)
    assert len(casts) == 3


def test_a_weight_is_cast_again_when_it_must_be():
    w, x = matrix(), Tensor(np.ones((1, 4)), dtype="float32")
    with autocast():
        first = F.linear(x, w)
        first.sum().backward()
        grad = w.grad.numpy().copy()
        F.linear(x, w).sum().backward()  # the first cast's graph is gone
        np.testing.assert_array_equal(w.grad.data, 2 * grad)
        with minillm.no_grad():
            w.mul_(2)  # the first cast's values are gone
            assert not F.linear(x, w).requires_grad
        again = F.linear(x, w)
        assert again.requires_grad  # the last cast was not recorded
        np.testing.assert_array_equal(again.data, 2 * first.data)


def test_losses_that_share_a_cast_weight_go_backward_one_by_one():
    """As PyTorch's may: the weight's one cast is in both graphs."""
    w, x = matrix(), Tensor(np.ones((1, 4)), dtype="float32")
    with autocast():
        losses = [F.linear(x * i, w).sum() for i in (1, 2)]
    for loss in losses:
        loss.backward()
    np.testing.assert_array_equal(w.grad.data, np.full((4, 4), 3.0))
    with pytest.raises(RuntimeError, match="second time"):
        losses[0].backward()


def test_a_block_of_many_threads_is_each_threads_own():
    block, turn, seen = autocast(), Barrier(2), {}

    def first():
        with autocast():
            with block:
                turn.wait(10)  # the other enters
                turn.wait(10)
            turn.wait(10)  # the other leaves
            turn.wait(10)
            seen["first"] = (matrix() @ matrix()).dtype.name

    def second():
        turn.wait(10)
        with block:
            turn.wait(10)
            turn.wait(10)
        seen["second"] = (matrix() @ matrix()).dtype.name
        turn.wait(10)

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"first": "bfloat16", "second": "float32"}


CONFIG = GPTConfig(block_size=16, vocab_size=31, n_layer=2, n_head=2, n_embd=32)


def loss_and_gradients(device="cpu", enabled=True):
    minillm.manual_seed(0)
    model = GPT(CONFIG).to(device)
    ids = np.random.default_rng(0).integers(0, 31, (4, 17))
    x, y = Tensor(ids[:, :-1], device=device), Tensor(ids[:, 1:], device=device)
    with autocast(enabled=enabled):
        logits, loss = model(x, y)
    assert logits.dtype.name == ("bfloat16" if enabled else "float32")
    loss.backward()
    assert loss.dtype == np.float32
    return loss.item(), {name: p.grad.numpy() for name, p in model.named_parameters()}


def test_a_gpt_in_bfloat16_is_near_float32_and_the_same_on_a_gpu():
    loss, grads = loss_and_gradients()
    exact, want = loss_and_gradients(enabled=False)
    with fake_cupy.installed(), minillm.kernels.use("reference"):
        there, grads_there = loss_and_gradients("cuda")
    assert abs(loss - exact) < 2e-3 * exact and abs(loss - there) < 1e-4 * exact
    for name, g in want.items():
        assert grads[name].dtype == grads_there[name].dtype == np.float32
        norm = np.linalg.norm(g)
        assert 0 < np.linalg.norm(grads[name] - g) < 0.02 * norm, name  # bfloat16 was used
        assert np.linalg.norm(grads_there[name] - grads[name]) < 0.01 * norm, name


def test_a_block_follows_torch_autocast():
    """Norm, qkv, attention, projection and residual, MLP: torch.autocast's dtypes and numbers."""
    torch = pytest.importorskip("torch")
    T, C = 6, 8
    rng = np.random.default_rng(1)
    arrays = {
        "x": rng.normal(size=(2, T, C)), "norm": rng.normal(1, 0.1, C),
        "qkv": rng.normal(0, 0.4, (3 * C, C)), "proj": rng.normal(0, 0.4, (C, C)),
        "up": rng.normal(0, 0.4, (4 * C, C)), "down": rng.normal(0, 0.4, (C, 4 * C)),
    }  # fmt: skip
    arrays = {name: a.astype(np.float32) for name, a in arrays.items()}
    targets = rng.integers(0, C, 2 * T)

    def block(f, x, norm, qkv, proj, up, down, targets):
        parts = f.linear(f.layer_norm(x, (C,), norm), qkv).reshape(2, T, 3, 2, C // 2)
        q, k, v = (parts[:, :, i].transpose(1, 2) for i in range(3))
        y = f.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + f.linear(y.transpose(1, 2).reshape(2, T, C), proj)
        x = x + f.linear(f.gelu(f.linear(f.layer_norm(x, (C,), norm), up)), down)
        return y, x, f.cross_entropy(x.reshape(-1, C), targets)

    ours = {name: Tensor(a, requires_grad=True) for name, a in arrays.items()}
    with autocast():
        got = block(F, **ours, targets=Tensor(targets))
    got[-1].backward()
    theirs = {name: torch.tensor(a, requires_grad=True) for name, a in arrays.items()}
    with torch.autocast("cpu", torch.bfloat16):
        want = block(torch.nn.functional, **theirs, targets=torch.tensor(targets))
    want[-1].backward()
    for a, b in zip(got, want):
        assert f"torch.{a.dtype}" == str(b.dtype)
        b = b.detach().float().numpy()
        np.testing.assert_allclose(a.data.astype("f4"), b, rtol=0.02, atol=0.02 * abs(b).max())
    for name, t in theirs.items():
        g, h = ours[name].grad.data, t.grad.numpy()
        assert np.linalg.norm(g - h) < 0.02 * np.linalg.norm(h), name


def test_training_in_bfloat16_learns():
    minillm.manual_seed(0)
    model = GPT(CONFIG)
    optimizer = AdamW(model.parameters(), 1e-2)
    ids = np.tile(np.arange(17) % 5, (4, 1))
    losses = []
    for _ in range(20):
        with autocast():
            loss = model(ids[:, :-1], ids[:, 1:])[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert all(p.dtype == np.float32 for p in model.parameters())
    states = [a for g in optimizer.groups for s in g.shards for a in s.state.values()]
    assert all(a.dtype == np.float32 for a in states)
