"""GELU, SwiGLU, dropout and rotary in CUDA C++ beside the generic test, on the emulator: tails,
infinities, views that packs of 16 bytes do not fit, the CPU's random bits, what is counted."""

import math

import ml_dtypes
import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.dropout import dropout, philox
from minillm.kernels.gelu import gelu_backward, gelu_forward
from minillm.kernels.instrument import compare, outputs
from minillm.kernels.registry import declared
from minillm.kernels.rotary import cuda as rotary_cuda
from minillm.kernels.rotary import rotary
from minillm.kernels.runtime import emulator, flat
from minillm.kernels.runtime.flat import ENOUGH_BLOCKS, flat_blocks
from minillm.kernels.swiglu import swiglu_backward, swiglu_forward

pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")
STEPS = pytest.mark.parametrize("step", ["v1_naive", "v2_vector"])
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
FORMS = pytest.mark.parametrize("tanh", [False, True])
FAR = np.array([-1e30, -1e18, -500, -50, 50, 500, 1e18, 1e30], np.float32)
RNG = np.random.default_rng(0)


def drawn(n, dtype=np.float32):
    return RNG.normal(0.0, 2.0, n).astype(dtype)


@FORMS
def test_gelu_far_from_0(tanh):
    """1e30 too, whose square is infinite: 0 * inf must not make its slope NaN."""
    y = gelu_forward.implementation("v2_vector")(FAR, tanh)
    dx = gelu_backward.implementation("v2_vector")(np.ones_like(FAR), FAR, tanh)
    np.testing.assert_array_equal(y, np.where(FAR < 0, 0, FAR))
    np.testing.assert_array_equal(dx, np.where(FAR < 0, 0, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_keeps_its_digits_far_below_0(dtype):
    """x Phi(x) at -12 is 2e-32; the formula with 1 + erf gives 0 from -6 on in float32."""
    x = np.linspace(-12, -0.1, 999).astype(dtype)
    want = [float(v) * 0.5 * math.erfc(-float(v) * math.sqrt(0.5)) for v in x]
    y = gelu_forward.implementation("v2_vector")(x, False)
    np.testing.assert_allclose(y, want, rtol=2e-5 if dtype == np.float32 else 1e-12)


@STEPS
@FORMS
def test_nan_and_infinity_pass_as_in_the_reference(step, tanh):
    x = np.array([1, np.nan, np.inf, -np.inf, 2], np.float32)
    one = np.ones_like(x)
    calls = [
        (gelu_forward, (x, tanh)),
        (gelu_backward, (one, x, tanh)),
        (swiglu_forward, (x, one)),
        (swiglu_backward, (one, x, one)),
    ]
    for kernel, args in calls:
        with np.errstate(invalid="ignore"):
            want = kernel.implementation("reference")(*args)
        got = kernel.implementation(step)(*args)
        for g, w in zip(np.atleast_2d(got), np.atleast_2d(want)):
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


@STEPS
def test_swiglu_far_from_0(step):
    gate = np.array([-500, -50, 50, 500], np.float32)
    one = np.ones_like(gate)
    y = swiglu_forward.implementation(step)(gate, 2 * one)
    dgate, dup = swiglu_backward.implementation(step)(one, gate, 2 * one)
    np.testing.assert_allclose(y, np.where(gate < 0, 0, 2 * gate), atol=1e-19)
    np.testing.assert_allclose(dgate, np.where(gate < 0, 0, 2), atol=1e-19)
    np.testing.assert_allclose(dup, np.where(gate < 0, 0, gate), atol=1e-19)


@STEPS
@DTYPES
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1025])
def test_views_that_start_anywhere(step, dtype, n):
    """x[1:] of an array is not at a multiple of 16 bytes: the same numbers, one by one."""
    x, other, dy = (drawn(n + 1, dtype) for _ in range(3))
    calls = [
        lambda a, b, c: [gelu_forward.implementation(step)(a, True)],
        lambda a, b, c: [gelu_backward.implementation(step)(c, a, False)],
        lambda a, b, c: [swiglu_forward.implementation(step)(a, b)],
        lambda a, b, c: swiglu_backward.implementation(step)(c, a, b),
        lambda a, b, c: [dropout.implementation(step)(a, 0.3, 77)],
    ]
    for call in calls:
        aligned = call(x[1:].copy(), other[1:].copy(), dy[1:].copy())
        views = [call(x[1:], other[1:], dy[1:]), call(x[1:].copy(), other[1:], dy[1:].copy())]
        for got in views:
            for g, w in zip(got, aligned):
                assert g.tobytes() == w.tobytes()


CALLS = {
    "gelu_forward": lambda a, b, c: (a, True),
    "gelu_backward": lambda a, b, c: (a, b, False),
    "swiglu_forward": lambda a, b, c: (a, b),
    "swiglu_backward": lambda a, b, c: (a, b, c),
    "dropout": lambda a, b, c: (a, 0.3, 77),
}


@pytest.mark.parametrize("name", CALLS)
@DTYPES
@pytest.mark.parametrize("n", [128 * 4 * 8 * 2, 5003])
def test_threads_with_all_their_packs(name, dtype, n, monkeypatch):
    """Which takes arrays of millions of elements, unless one block is enough: the same bits."""
    kernel = declared()[name]
    args = CALLS[name](*(drawn(n, dtype) for _ in range(3)))
    spread = outputs(kernel, kernel.implementation("v2_vector")(*args), args)
    compare(kernel, "v2_vector", spread, outputs(kernel, wide_reference(kernel, args), args))
    monkeypatch.setattr(flat, "ENOUGH_BLOCKS", 1)
    dense = outputs(kernel, kernel.implementation("v2_vector")(*args), args)
    for s, d in zip(spread, dense):
        assert s.tobytes() == d.tobytes()


def wide_reference(kernel, args):
    """In float64, from the same rounded inputs."""
    wide = (a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in args)
    return kernel.implementation("reference")(*wide)


@STEPS
@pytest.mark.parametrize("n", [1, 3, 4, 9, 2047, 4099])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", [0, 41, (1 << 64) - 1])
def test_dropout_has_the_bits_of_the_cpu(step, n, dtype, key):
    x = drawn(n, dtype)
    for p in (0.0, 0.3, 1.0):
        got = dropout.implementation(step)(x, p, key)
        assert got.tobytes() == dropout.implementation("cpu")(x, p, key).tobytes()


@STEPS
def test_dropout_of_bfloat16_drops_the_same_elements(step):
    x = np.ones(3001, ml_dtypes.bfloat16)
    y = dropout.implementation(step)(x, 0.5, 9)
    want = dropout.implementation("reference")(x, 0.5, 9)
    np.testing.assert_array_equal(y.astype(np.float32), want.astype(np.float32))


@STEPS
def test_dropped_infinity_is_0(step):
    """Even where all is dropped, and the scale is 0 too."""
    x = np.full(9, np.inf, np.float32)
    np.testing.assert_array_equal(dropout.implementation(step)(x, 1.0, 5), np.zeros(9))
    assert philox.threshold(1.0) == 1 << 32  # does not fit the 32 bits of a word


def rotation(T, D, dtype=np.float32):
    angle = np.outer(np.arange(T), 10000.0 ** (-np.arange(D // 2) / max(D // 2, 1)))
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


@STEPS
@DTYPES
@pytest.mark.parametrize(
    ("B", "H", "T", "D"), [(2, 3, 7, 16), (1, 5, 70, 32), (3, 2, 4, 6), (1, 1, 3, 48)]
)
def test_rotary_of_heads_cut_from_a_projection(step, dtype, B, H, T, D):
    """(B, T, 3 H, D) in memory; also from an odd element on, and with a strided last dimension."""
    whole = RNG.normal(size=B * T * 3 * H * D + 1).astype(dtype)
    cos, sin = rotation(T, D, np.float64 if dtype == np.float64 else np.float32)
    for start in (0, 1):
        memory = whole[start : start + B * T * 3 * H * D].reshape(B, T, 3 * H, D)
        x = memory[:, :, H : 2 * H].transpose(0, 2, 1, 3)
        wide = [a.astype(np.float64) for a in (x, cos, sin)]
        for inverse in (False, True):
            want = rotary.implementation("reference")(*wide, inverse)
            for view in (x, x[::-1, :, ::-1][::-1, :, ::-1], np.repeat(x, 2, -1)[..., ::2]):
                got = rotary.implementation(step)(view, cos, sin, inverse)
                assert got.flags.c_contiguous and got.dtype == dtype
                compare(rotary, step, [got], [want])


@STEPS
@DTYPES
@pytest.mark.parametrize("enough", [1, 5, 8])
def test_rotary_with_several_heads_a_block(step, dtype, enough, monkeypatch):
    """4, 3 or 2 of the 15, and fewer in the last block; across the sequences of a batch."""
    monkeypatch.setattr(rotary_cuda, "ENOUGH_BLOCKS", enough)
    x = drawn((5, 3, 9, 32), dtype)
    cos, sin = rotation(9, 32, np.float64 if dtype == np.float64 else np.float32)
    wide = [a.astype(np.float64) for a in (x, cos, sin)]
    want = rotary.implementation("reference")(*wide, True)
    for memory in (x, x.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3)):
        got = rotary.implementation(step)(memory, cos, sin, True)
        compare(rotary, step, [got], [want])


def test_rotary_tables_in_the_dtype_of_x():
    """A model in bfloat16 has them so; the kernel takes float32."""
    x = drawn((1, 2, 3, 16), ml_dtypes.bfloat16)
    cos, sin = rotation(3, 16, ml_dtypes.bfloat16)
    want = rotary.implementation("reference")(x, cos, sin, False)
    compare(rotary, "v2", [rotary.implementation("v2_vector")(x, cos, sin, False)], [want])


@STEPS
def test_shapes_and_dtypes_that_do_not_fit(step):
    x, short = drawn((4, 6)), drawn((4, 5))
    with pytest.raises(UserError, match="gelu_backward: x"):
        gelu_backward.implementation(step)(short, x, True)
    with pytest.raises(UserError, match="swiglu_forward: up"):
        swiglu_forward.implementation(step)(x, short)
    with pytest.raises(UserError, match="swiglu_backward: "):
        swiglu_backward.implementation(step)(x, x, short)
    with pytest.raises(UserError, match="up takes float32, not float64"):
        swiglu_forward.implementation(step)(x, x.astype(np.float64))
    with pytest.raises(UserError, match="contiguous"):
        gelu_forward.implementation(step)(x[:, ::2], True)
    with pytest.raises(UserError, match="no float16"):
        dropout.implementation(step)(x.astype(np.float16), 0.5, 1)
    with pytest.raises(UserError, match="rotary: "):
        rotary.implementation(step)(drawn((1, 1, 3, 8)), *rotation(3, 6), False)
    with pytest.raises(UserError, match="D/2"):
        rotary.implementation(step)(drawn((1, 1, 3, 7)), *rotation(3, 6), False)


def test_blocks_for_flat_arrays():
    """A large array: PACKS packs a thread. A small one: a pack a thread. Step 1: an element."""
    large, small = np.empty((1 << 20, 16), np.float32), np.empty(98304, np.float32)
    assert flat_blocks(large, 128, 4) == large.size // (128 * 16)
    assert flat_blocks(small, 128, 4) == 98304 // (128 * 4)
    assert flat_blocks(np.empty(3 << 19, np.float32), 128, 4) == ENOUGH_BLOCKS
    assert flat_blocks(small, 256, 0) == 384
    assert flat_blocks(small[:0], 128, 4) == 0


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_packs_move_no_byte_twice_in_a_quarter_of_the_requests(dtype):
    """What the headers claim: 512 bytes a request, every sector of it wanted."""
    x = drawn(1 << 15, dtype)
    requests = {}
    for step in ("v1_naive", "v2_vector"):
        with emulator.profiled() as log:
            gelu_forward.implementation(step)(x, True)
        ((_, _, _, lines),) = log
        assert all(line.units == line.ideal for line in lines)
        assert sum(line.units for line in lines) == 2 * x.nbytes // 32
        requests[step] = sum(line.requests for line in lines)
    assert requests["v1_naive"] == requests["v2_vector"] * 16 // x.itemsize
