"""Attention beside the generic test: PyTorch, layouts, memory, extreme scores."""

import tracemalloc

import numpy as np
import pytest

from minillm import env
from minillm.errors import UserError
from minillm.kernels.attention import attention_backward, attention_forward, cpu, reference
from minillm.kernels.instrument import compare
from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.jit import jit

STEPS = [
    pytest.param(
        name, marks=pytest.mark.skipif(not emulator.available(), reason="emulation needs g++")
    )
    for name in attention_forward.cuda_steps()
]
implementations = pytest.mark.parametrize("name", ["cpu", *STEPS])
steps = pytest.mark.parametrize("name", STEPS)


def pair(name):
    """Forward and backward of an implementation."""
    return attention_forward.implementation(name), attention_backward.implementation(name)


def drawn(B=2, H=4, G=2, T=45, S=70, D=20, dtype=np.float32, seed=0):
    """dout, q, k, v cut from one array each of (B, T, heads, D), as a model's projections are."""
    rng = np.random.default_rng(seed)
    sizes = (H, T), (H, T), (G, S), (G, S)
    arrays = (rng.normal(size=(B, t, h, 2 * D)).astype(dtype) for h, t in sizes)
    return [x[..., :D].transpose(0, 2, 1, 3) for x in arrays]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("G", "T", "S"), [(4, 64, 64), (2, 45, 70), (1, 70, 45), (2, 1, 130)], ids=str
)
def test_matches_pytorch(G, T, S, causal):
    torch = pytest.importorskip("torch")
    dout, q, k, v = drawn(G=G, T=T, S=S, dtype=np.float64)
    tensors = [torch.tensor(x.copy(), requires_grad=True) for x in (q, k, v)]
    wide = [tensors[0], *(t.repeat_interleave(4 // G, 1) for t in tensors[1:])]
    want = torch.nn.functional.scaled_dot_product_attention(*wide, is_causal=causal, scale=0.3)
    grads = torch.autograd.grad(want, tensors, torch.tensor(dout.copy()))
    out, lse = attention_forward(q, k, v, 0.3, causal)
    got = attention_backward(dout, q, k, v, out, lse, 0.3, causal)
    compare(attention_forward, "cpu", [out], [want.detach().numpy()])
    compare(attention_backward, "cpu", list(got), [g.numpy() for g in grads])


@implementations
def test_results_lie_as_the_merged_heads(name):
    forward, backward = pair(name)
    dout, q, k, v = drawn()
    out, lse = forward(q, k, v, 0.2, True)
    for x in (out, *backward(dout, q, k, v, out, lse, 0.2, True)):
        assert x.transpose(0, 2, 1, 3).flags.c_contiguous


@implementations
def test_layout_of_the_inputs_changes_nothing(name):
    forward, backward = pair(name)
    dout, q, k, v = drawn()
    plain = [np.ascontiguousarray(x) for x in (dout, q, k, v)]
    odd = [np.repeat(x, 2, -1)[..., ::2] for x in plain]  # the last dimension strided too
    results = []
    for d, *qkv in ([dout, q, k, v], plain, odd):
        out, lse = forward(*qkv, 0.2, True)
        results.append([out, lse, *backward(d, *qkv, out, lse, 0.2, True)])
    for other in results[1:]:
        for x, y in zip(results[0], other):
            np.testing.assert_array_equal(x, y)


def test_layouts_are_compiled_once(monkeypatch):
    for name in ("_forward", "_backward"):  # compiled for no other test
        monkeypatch.setattr(cpu, name, jit(getattr(cpu, name).py_func))
    dout, *qkv = drawn()
    for views in (qkv, [np.ascontiguousarray(x) for x in qkv]):
        cpu.attention_backward(dout, *views, *cpu.attention_forward(*views, 0.2, True), 0.2, True)
    compiled = cpu._forward.signatures, cpu._backward.signatures
    assert all(len({s for s in found if "float32" in str(s)}) == 1 for found in compiled)


@pytest.mark.parametrize("threads", [2, 3])
def test_gradients_do_not_depend_on_threads(threads, monkeypatch):
    dout, q, k, v = drawn(H=6, G=3, T=130, S=130)
    results = []
    for count in (1, threads):
        monkeypatch.setattr(env, "THREADS", count)
        out, lse = cpu.attention_forward(q, k, v, 0.2, True)
        results.append([out, lse, *cpu.attention_backward(dout, q, k, v, out, lse, 0.2, True)])
    for x, y in zip(*results):
        np.testing.assert_array_equal(x, y)


def test_stores_no_matrix_of_queries_by_keys():
    dout, q, k, v = drawn(B=1, H=2, G=2, T=2048, S=2048, D=16)
    small = [x[:, :, :8] for x in (dout, q, k, v)]
    cpu.attention_backward(*small, *cpu.attention_forward(*small[1:], 0.2, True), 0.2, True)
    tracemalloc.start()
    out, lse = cpu.attention_forward(q, k, v, 0.2, True)
    cpu.attention_backward(dout, q, k, v, out, lse, 0.2, True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2048 * 2048 * 4 / 2  # half of one such matrix


@pytest.mark.parametrize("causal", [False, True])
@implementations
def test_scores_of_any_size(name, causal):
    """Scores of thousands neither overflow nor lose the softmax's sum."""
    _, q, k, v = drawn(dtype=np.float64)
    q = q * 300
    want = reference.attention_forward(q, k, v, 1.0, causal)
    got = pair(name)[0](q, k, v, 1.0, causal)
    compare(attention_forward, name, list(got), list(want))
    assert np.isfinite(got[0]).all()


@implementations
def test_nan_stays_with_its_query(name):
    forward, _ = pair(name)
    _, q, k, v = drawn()
    q = q.copy()
    clean = forward(q, k, v, 0.2, True)[0].copy()
    q[1, 2, 33, 4] = np.nan
    out = forward(q, k, v, 0.2, True)[0]
    assert np.isnan(out[1, 2, 33]).all()
    out[1, 2, 33] = clean[1, 2, 33]
    np.testing.assert_array_equal(out, clean)


@implementations
def test_later_keys_are_not_seen(name):
    forward, _ = pair(name)
    _, q, k, v = drawn(T=70, S=70)
    k, v = k.copy(), v.copy()
    before = forward(q, k, v, 0.2, True)[0][:, :, :40].copy()
    k[:, :, 40:] += 100
    v[:, :, 40:] -= 100
    after = forward(q, k, v, 0.2, True)[0][:, :, :40]
    np.testing.assert_array_equal(before, after)


@implementations
def test_keys_that_no_query_sees_have_no_gradient(name):
    forward, backward = pair(name)
    dout, q, k, v = drawn(T=3, S=140)
    out, lse = forward(q, k, v, 0.2, True)
    _, dk, dv = backward(dout, q, k, v, out, lse, 0.2, True)
    for x in (dk, dv):
        assert x[:, :, :3].any(-1).all()
        assert not x[:, :, 3:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(k=(1, 3, 5, 8), v=(1, 3, 5, 8)), "4 heads of q are no multiple of k's 3"),
        (dict(k=(1, 0, 5, 8), v=(1, 0, 5, 8)), "4 heads of q are no multiple of k's 0"),
        (dict(k=(2, 4, 5, 8)), "k .*must be .*B=1"),
        (dict(v=(1, 4, 6, 8)), "v .*must be .*S=5"),
        (dict(q=(1, 4, 5, 9)), "k .*must be .*D=9"),
    ],
    ids=str,
)
@steps
def test_bad_input_is_refused(name, change, message):
    shapes = dict(q=(1, 4, 5, 8), k=(1, 4, 5, 8), v=(1, 4, 5, 8))
    arrays = [np.ones(s, np.float32) for s in {**shapes, **change}.values()]
    with pytest.raises(UserError, match=message):
        pair(name)[0](*arrays, 0.2, True)
