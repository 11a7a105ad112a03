"""layer_norm and rms_norm in CUDA C++, where the steps differ: rows that are not aligned, too long
for registers, or walked by few blocks; and what each step moves."""

import importlib
from functools import partial

import ml_dtypes  # noqa: F401  (registers bfloat16)
import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels import layer_norm, rms_norm
from minillm.kernels.instrument import compare, outputs
from minillm.kernels.runtime import emulator
from minillm.kernels.runtime.cuda import Program
from minillm.kernels.runtime.emulator import report
from minillm.kernels.runtime.rows import row_block

pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")
KERNELS = [
    layer_norm.layer_norm_forward, layer_norm.layer_norm_backward, rms_norm.rms_norm_forward,
    rms_norm.rms_norm_backward, rms_norm.add_rms_norm_forward, rms_norm.add_rms_norm_backward,
]  # fmt: skip
FORWARD, BACKWARD = KERNELS[::2], KERNELS[1::2]
STEPS = ["v1_naive", "v2_warp", "v3_vector"]
every_step = pytest.mark.parametrize("step", STEPS)
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)


def on(kernel, step, **constants):
    """A step of a kernel, whose host sees other constants than the file's."""
    program = Program(kernel.folder / f"{step}.cu")
    program.constants.update(constants)
    return partial(getattr(importlib.import_module(f"{kernel.package}.cuda"), kernel.name), program)


def check(kernel, step, shape, dtype="float32", change=np.copy, **constants):
    """The step agrees with the reference in float64 on arrays that went through `change`."""
    args = kernel.drawn(dtype, **shape)
    wide = [a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in args]
    want = outputs(kernel, kernel.implementation("reference")(*wide), tuple(wide))
    args = tuple(change(a) if isinstance(a, np.ndarray) else a for a in args)
    compare(kernel, step, outputs(kernel, on(kernel, step, **constants)(*args), args), want)


def test_every_kernel_has_every_step():
    assert [kernel.cuda_steps() for kernel in KERNELS] == [STEPS] * len(KERNELS)


@every_kernel
@every_step
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_unaligned_arrays(kernel, step, dtype):
    """Each by itself: one is enough to rule out loads of 16 bytes."""
    shapes = [np.shape(a) for a in kernel.drawn(dtype, N=9, C=64)]
    for chosen in (i for i, shape in enumerate(shapes) if 64 in shape):
        count = iter(range(len(shapes)))

        def one_moved(a, chosen=chosen, count=count):
            moved = np.empty(a.size + 1, a.dtype)[int(next(count) == chosen) :][: a.size]
            moved[...] = a.ravel()
            return moved.reshape(a.shape)

        check(kernel, step, dict(N=9, C=64), dtype, one_moved)


@every_kernel
@every_step
def test_rows_that_are_not_contiguous(kernel, step):
    def every_other(a):
        return np.repeat(a, 2, -1)[..., ::2] if a.ndim == 2 else a

    check(kernel, step, dict(N=9, C=24), change=every_other)


@every_kernel
@pytest.mark.parametrize("implementation", ["cpu", *STEPS])
def test_arrays_that_may_not_be_written(kernel, implementation):
    args = kernel.drawn("float32", N=3, C=8)
    for a in args:
        if isinstance(a, np.ndarray):
            a.flags.writeable = False
    got = outputs(kernel, kernel.implementation(implementation)(*args), args)
    compare(
        kernel,
        implementation,
        got,
        outputs(kernel, kernel.implementation("reference")(*args), args),
    )


@every_kernel
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("C", [1032, 1033])
def test_rows_longer_than_registers(kernel, dtype, C):
    """As with 512 lanes from 16 KB on, here with 32: in packs and by elements, 8 rows a block."""
    check(kernel, "v3_vector", dict(N=11, C=C), dtype, MOST_LANES=32)
    check(kernel, "v3_vector", dict(N=11, C=C), dtype, MOST_LANES=32, THREADS=32)  # 1: 4 at a time


@pytest.mark.parametrize("kernel", BACKWARD, ids=lambda k: k.name)
@pytest.mark.parametrize("step", STEPS[1:])
@pytest.mark.parametrize("C", [40, 41, 1040])
def test_blocks_that_walk_many_rows(kernel, step, C):
    check(kernel, step, dict(N=75, C=C), PARTS=2)


@every_kernel
@every_step
def test_no_channels(kernel, step):
    args = kernel.drawn("float32", N=3, C=8)
    args = [a[..., :0].copy() if np.ndim(a) and a.shape[-1] == 8 else a for a in args]
    results = outputs(kernel, on(kernel, step)(*args), args)
    for result in results:  # statistics of nothing are NaN, as in the reference
        assert result.shape in ((3, 0), (0,)) or np.isnan(result).all()


@every_step
@pytest.mark.parametrize("kernel", FORWARD, ids=lambda k: k.name)
@pytest.mark.parametrize("C", [64, 65])
def test_nan_and_infinity_stay_in_their_rows(kernel, step, C):
    args = kernel.drawn("float32", N=37, C=C)
    clean = on(kernel, step)(*args)
    args[0][11, 3], args[0][20, C - 1] = np.nan, np.inf
    for before, after in zip(clean, on(kernel, step)(*args)):
        np.testing.assert_array_equal(np.delete(before, [11, 20], 0), np.delete(after, [11, 20], 0))
        assert np.isnan(after[11]).any()
    y = on(kernel, step)(*args)[0]
    assert np.isnan(y[11]).all() and np.isnan(y[20, C - 1])


@every_step
@pytest.mark.parametrize("kernel", BACKWARD, ids=lambda k: k.name)
def test_nan_reaches_the_gradient_of_the_weight(kernel, step):
    args = kernel.drawn("float32", N=37, C=64)
    args[0][11, 3] = np.nan
    dx, dweight = on(kernel, step)(*args)[:2]
    assert np.isnan(dx[11]).all() and np.isfinite(np.delete(dx, 11, 0)).all()
    assert np.isnan(dweight[3]) and np.isfinite(np.delete(dweight, 3)).all()


@every_step
@pytest.mark.parametrize("C", [64, 65])
def test_sum_is_rounded_before_it_is_normalised(step, C):
    kernel = rms_norm.add_rms_norm_forward
    bf16 = np.dtype("bfloat16")
    rng = np.random.default_rng(0)
    x, residual = (rng.normal(size=(5, C)).astype(bf16) for _ in range(2))
    weight = np.ones(C, bf16)
    y, total, rstd = on(kernel, step)(x, residual, weight, 1e-5)
    want = (x.astype("f4") + residual.astype("f4")).astype(bf16)
    np.testing.assert_array_equal(total, want)
    alone = on(rms_norm.rms_norm_forward, step)(want, weight, 1e-5)
    np.testing.assert_array_equal(y, alone[0])
    np.testing.assert_array_equal(rstd, alone[1])


@every_kernel
@every_step
def test_arguments_it_does_not_take(kernel, step):
    args = list(kernel.drawn("float32", N=4, C=8))
    with pytest.raises(UserError, match="no int32"):
        on(kernel, step)(args[0].astype("i4"), *(np.zeros_like(a, "i4") for a in args[1:]))
    at = next(i for i, a in enumerate(args) if np.shape(a) == (8,))
    args[at] = args[at].astype("f8")
    with pytest.raises(UserError, match="weight takes float32, not float64"):
        on(kernel, step)(*args)


@pytest.mark.parametrize(
    ("row_bytes", "block"),
    [(0, (8, 32)), (256, (8, 32)), (257, (16, 16)), (8192, (256, 1)), (8193, (512, 1)),
     (1 << 20, (512, 1))],
)  # fmt: skip
def test_threads_grow_with_the_row(row_bytes, block):
    for kernel in KERNELS:
        assert row_block(Program(kernel.folder / "v3_vector.cu"), row_bytes) == block


N, C = 64, 512
ARRAY = N * C * 4 // 32  # sectors of 32 bytes


def counted(step, kernel):
    """Accesses of each launch of a call on float32, by kind: report.Row."""
    args = kernel.drawn("float32", N=N, C=C)
    with emulator.profiled() as log:
        on(kernel, step)(*args)
    return {
        name.partition("<")[0]: {row.what: row for row in report.totals(rows)}
        for name, rows in report.rows(log).items()
    }


@pytest.mark.parametrize(
    ("step", "sectors_a_request", "layer", "rms", "add"),
    # Arrays loaded: the row three times or two, then once; weight and bias again for each row. In
    # step 1 rows eightfold, and one sector of weight or bias for the 32 rows of a warp: 1/4 array.
    [
        ("v1_naive", None, 3 * 8 + 2 / 4, 2 * 8 + 1 / 4, 3 * 8 + 1 / 4),
        ("v2_warp", 4, 3 + 2, 2 + 1, 3 + 1),
        ("v3_vector", 16, 1 + 2, 1 + 1, 2 + 1),
    ],
)
def test_what_forward_moves(step, sectors_a_request, layer, rms, add):
    for kernel, arrays, stored in zip(FORWARD, (layer, rms, add), (1, 1, 2)):
        count = counted(step, kernel)[kernel.name]
        load, store = count["global load"], count["global store"]
        assert load.units == arrays * ARRAY
        stored *= 8 if step == "v1_naive" else 1
        assert stored * ARRAY < store.units <= stored * ARRAY + 2 * N  # and the statistics
        if sectors_a_request:
            assert load.units == sectors_a_request * load.requests


@pytest.mark.parametrize(("kernel", "arrays", "sums"), [*zip(BACKWARD, (2, 2, 3), (2, 1, 1))])
def test_what_step_3_moves_backward(kernel, arrays, sums):
    """Each array once, and weight once for each row of a block; no bank conflicts."""
    count = counted("v3_vector", kernel)
    backward = count[kernel.name]
    total = count["layer_norm_total" if "layer" in kernel.name else "rms_norm_total"]
    assert (arrays + 1) * ARRAY < backward["global load"].units < (arrays + 1.1) * ARRAY  # and rstd
    partial_sums = sums * ARRAY // 4  # a row for the 4 of each block
    assert backward["global store"].units == ARRAY + partial_sums
    assert total["global load"].units == partial_sums
    for access in [*backward.values(), *total.values()]:
        if "shared" in access.what:
            assert access.units == access.best
