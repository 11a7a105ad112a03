"""Rotary embedding beside the generic test: the convention, layouts, the rotation's properties."""

import numpy as np

from minillm.kernels.instrument import compare
from minillm.kernels.rotary import cpu, rotary
from minillm.kernels.runtime.jit import jit


def drawn(B=2, H=3, T=7, D=8, dtype=np.float32):
    rng = np.random.default_rng(0)
    angle = np.outer(np.arange(T), 10000.0 ** (-np.arange(D // 2) / (D // 2)))
    x = rng.normal(size=(B, T, 3 * H, D)).astype(dtype)[:, :, H : 2 * H].transpose(0, 2, 1, 3)
    return x, np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


def test_rotate_half_convention():
    """Hugging Face: x cos + rotate_half(x) sin, with cos and sin repeated for both halves."""
    x, cos, sin = drawn(dtype=np.float64)
    a, b = np.split(x, 2, -1)
    want = x * np.tile(cos, 2) + np.concatenate((-b, a), -1) * np.tile(sin, 2)
    compare(rotary, "cpu", [cpu.rotary(x, cos, sin, False)], [want])


def test_layout_changes_nothing_and_compiles_once(monkeypatch):
    monkeypatch.setattr(cpu, "_rotary", jit(cpu._rotary.py_func))  # compiled for no other test
    x, cos, sin = drawn()
    want = cpu.rotary(x, cos, sin, False)
    strided = np.repeat(x, 2, -1)[..., ::2]
    for other in (np.ascontiguousarray(x), strided):
        np.testing.assert_array_equal(cpu.rotary(other, cos, sin, False), want)
    assert want.transpose(0, 2, 1, 3).flags.c_contiguous
    assert len([s for s in cpu._rotary.signatures if "float32" in str(s)]) == 1


def test_inverse_turns_back_and_products_depend_on_distance():
    x, cos, sin = drawn(dtype=np.float64)
    y = cpu.rotary(x, cos, sin, False)
    compare(rotary, "cpu", [cpu.rotary(y, cos, sin, True)], [x])
    same = np.broadcast_to(x[:, :, :1], x.shape)
    q = cpu.rotary(same, cos, sin, False)
    np.testing.assert_allclose((q[:, :, 1:] * q[:, :, :-1]).sum(-1).std(-1), 0, atol=1e-12)
