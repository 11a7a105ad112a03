"""AdamW beside PyTorch's, the sum of squares beside an exact sum; and the GPU kernels' edges."""

import math

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.adamw import adamw
from minillm.kernels.instrument import compare
from minillm.kernels.reduce import accumulate, sum_of_squares
from minillm.kernels.runtime import cuda, emulator


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_matches_pytorch(weight_decay):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    param, scale = rng.normal(size=1000), 0.37
    m, v = np.zeros(1000), np.zeros(1000)
    tensor = torch.nn.Parameter(torch.tensor(param))
    settings = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay)
    optimizer = torch.optim.AdamW([tensor], **settings)
    for step in range(1, 8):
        grad = rng.normal(size=1000)
        tensor.grad = torch.tensor(grad * scale)
        optimizer.step()
        adamw(param, grad, m, v, 1e-2, 0.9, 0.95, 1e-8, weight_decay, step, scale)
    compare(adamw, "cpu", [param], [tensor.detach().numpy()])


def test_sum_of_squares_is_accumulated_in_float64():
    x = np.random.default_rng(0).normal(size=100_003).astype(np.float32)
    x[0] = 1e4
    exact = math.fsum(float(value) ** 2 for value in x)
    assert abs(sum_of_squares(x) - exact) < 1e-12 * exact
    assert isinstance(sum_of_squares(x), float)


STEPS = ["v1_naive", "v2_vector"]
needs_emulator = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")


def adamw_arguments(n, start=0):
    """Arrays of n elements that begin `start` elements after an aligned address."""
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.1, 1.0, n + start).astype(np.float32)[start:] for _ in range(4)]
    return [*arrays, 1e-2, 0.9, 0.999, 1e-8, 0.1, 2, 0.5]


@needs_emulator
@pytest.mark.parametrize("unaligned", [{0, 1, 2, 3}, {1}, {3}])
@pytest.mark.parametrize("step", STEPS)
def test_adamw_of_views_that_start_anywhere(step, unaligned):
    args, shifted = adamw_arguments(5000), adamw_arguments(5000, 1)
    for i in unaligned:
        shifted[i][:] = args[i]
        args[i] = shifted[i]
    want = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    adamw.implementation("reference")(*want)
    adamw.implementation(step)(*args)
    compare(adamw, step, args[:4], want[:4])


@needs_emulator
@pytest.mark.parametrize("step", STEPS)
def test_adamw_leaves_a_parameter_without_gradient_to_its_decay(step):
    args = adamw_arguments(9)
    args[1][:], args[2][:], args[3][:] = 0, 0, 0
    want = args[0] * np.float32(1 - 1e-2 * 0.1)
    adamw.implementation(step)(*args)
    np.testing.assert_allclose(args[0], want, rtol=1e-6)
    assert not args[2].any() and not args[3].any()


@needs_emulator
@pytest.mark.parametrize(
    ("position", "wrong", "words"),
    [
        (1, np.zeros(8, np.float32), r"grad \(8,\) must be \(n\) with n=9"),
        (1, np.zeros(9), "grad takes float32, not float64"),
        (2, np.zeros(18, np.float32)[::2], "m must be contiguous"),
        (0, np.zeros(9, np.float16), "no float16"),
    ],
)
@pytest.mark.parametrize("step", STEPS)
def test_adamw_refuses(step, position, wrong, words):
    args = adamw_arguments(9)
    args[position] = wrong
    with pytest.raises(UserError, match=words):
        adamw.implementation(step)(*args)


@needs_emulator
@pytest.mark.parametrize("step", STEPS)
def test_sum_of_squares_on_the_emulator(step):
    """Accumulated in float64, of any view; what is not a number is not lost."""
    run = sum_of_squares.implementation(step)
    x = np.random.default_rng(0).normal(size=20_011).astype(np.float32)
    x[0] = 1e4
    for view in (x, x[1:], x[::3]):
        exact = math.fsum(float(value) ** 2 for value in view)
        assert abs(run(view) - exact) < 1e-12 * exact
        assert isinstance(run(view), float)
    x[17] = np.nan
    assert math.isnan(run(x))


@needs_emulator
def test_few_blocks_sum_a_large_array_in_turns(monkeypatch):
    program = cuda.program(sum_of_squares.folder / "v2_vector.cu")
    x = np.random.default_rng(0).normal(size=50_001).astype(np.float32)
    exact = math.fsum(float(value) ** 2 for value in x)
    for most in (1, 3):
        monkeypatch.setitem(program.constants, "MOST_PARTS", most)
        assert abs(sum_of_squares.implementation("v2_vector")(x) - exact) < 1e-12 * exact


@needs_emulator
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("starts", [(0, 0), (1, 0), (0, 3), (2, 2)])
def test_accumulate_of_views_that_start_anywhere(step, starts):
    rng = np.random.default_rng(0)
    base = rng.normal(size=9000).astype(np.float32)
    a, b = base[starts[0] :][:8200], rng.normal(size=9000).astype(np.float32)[starts[1] :][:8200]
    a[7], b[8] = np.inf, np.nan
    want, outside = a + b, base[starts[0] + 8200 :].copy()
    assert accumulate.implementation(step)(a, b) is None
    np.testing.assert_array_equal(a, want)
    np.testing.assert_array_equal(base[starts[0] + 8200 :], outside)


@needs_emulator
@pytest.mark.parametrize("step", STEPS)
def test_accumulate_refuses_arrays_of_two_sizes(step):
    with pytest.raises(UserError, match=r"b \(1,\) must be \(n\) with n=4"):
        accumulate.implementation(step)(np.zeros(4), np.zeros(1))
