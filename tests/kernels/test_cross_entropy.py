"""Cross-entropy: targets that name no class, ignored rows, PyTorch's meaning of smoothing, the
gradient in place of the logits, and rows of every length and alignment."""

import ml_dtypes
import numpy as np
import pytest

from minillm.errors import UserError
from minillm.kernels.cross_entropy import cross_entropy_forward, cross_entropy_forward_backward
from minillm.kernels.instrument import compare
from minillm.kernels.runtime import emulator
from minillm.kernels.softmax import cuda

BOTH = [cross_entropy_forward, cross_entropy_forward_backward]
IMPLEMENTATIONS = cross_entropy_forward.implementations()
CUDA = cross_entropy_forward.cuda_steps()
needs_compiler = pytest.mark.skipif(not emulator.available(), reason="emulating CUDA needs g++")


def call(kernel, implementation, logits, targets, ignore_index, label_smoothing, inplace=False):
    """(losses,) or (losses, dlogits)."""
    if kernel.for_gpu(implementation) and not emulator.available():
        pytest.skip("emulating GPU kernels needs g++")
    if not kernel.supports(implementation, str(logits.dtype)):
        pytest.skip(f"{implementation} has no {logits.dtype}")
    args = logits, targets, ignore_index, label_smoothing
    if kernel is cross_entropy_forward:
        return (kernel.implementation(implementation)(*args),)
    return kernel.implementation(implementation)(*args, inplace)


@pytest.mark.parametrize("target", [-1, 5, -101, 2**40])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kernel", BOTH, ids=lambda k: k.name)
def test_target_that_names_no_class(kernel, implementation, target):
    logits, targets = np.zeros((3, 5), np.float32), np.array([0, -100, target])
    with pytest.raises(UserError, match=rf"target {target} \(row 2\) is outside \[0, 5\)"):
        call(kernel, implementation, logits, targets, -100, 0.0)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("ignore_index", [-100, 3])
def test_ignored_rows_are_zero_whatever_they_hold(implementation, ignore_index, inplace):
    logits = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    logits[1] = np.nan
    losses, dlogits = call(
        cross_entropy_forward_backward, implementation, logits, np.array([4, ignore_index, 0]),
        ignore_index, 0.1, inplace,
    )  # fmt: skip
    assert losses[1] == 0
    assert not dlogits[1].any()
    assert np.isfinite(losses).all()
    assert losses[[0, 2]].all()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_same_as_pytorch(implementation, label_smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 5, (20, 7)), rng.integers(0, 7, 20)
    targets[::6] = -100
    if not label_smoothing:
        logits[:, 2] = -np.inf  # a masked class costs nothing unless it is a target
        targets[targets == 2] = 3
    x = torch.tensor(logits, requires_grad=True)
    want = torch.nn.functional.cross_entropy(
        x, torch.tensor(targets), reduction="none", label_smoothing=label_smoothing
    )
    want.sum().backward()
    losses, dlogits = call(
        cross_entropy_forward_backward, implementation, logits, targets, -100, label_smoothing
    )
    np.testing.assert_allclose(losses, want.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dlogits, x.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_logits_far_apart(implementation):
    """A loss of nothing keeps its digits, and one beyond e^88 does not overflow."""
    logits = np.array([[0, -20], [0, -1000], [1e30, -1e30], [3e4, 3e4 - 20]], np.float32)
    targets = np.array([1, 1, 0, 1])
    (losses,) = call(cross_entropy_forward, implementation, logits, targets, -100, 0.0)
    np.testing.assert_allclose(losses, [20, 1000, 0, 20], rtol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_infinities_and_nan(implementation):
    """A part of a row that is all -inf, as one thread may see it, must not spoil the rest."""
    x = np.zeros((4, 300), np.float32)
    x[0, :270] = -np.inf
    x[1, 50] = np.nan
    x[1, 51:80] = -np.inf
    x[2] = -np.inf
    x[3, 299] = -np.inf
    with np.errstate(invalid="ignore"):
        losses, dlogits = call(
            cross_entropy_forward_backward, implementation, x, np.full(4, 299), -100, 0.0
        )
    np.testing.assert_allclose(losses[0], np.log(30), rtol=1e-6)
    np.testing.assert_allclose(dlogits[0], [0] * 270 + [1 / 30] * 29 + [1 / 30 - 1], rtol=1e-5)
    assert np.isnan(losses[1:3]).all() and np.isnan(dlogits[1:3]).all()
    assert losses[3] == np.inf and dlogits[3, 299] == -1


def at_offset(array, offset):
    """A copy that begins `offset` elements after where its memory begins."""
    memory = np.empty(array.size + offset, array.dtype)
    memory[offset:] = array.ravel()
    return memory[offset:].reshape(array.shape)


def against_reference(implementation, x, targets, label_smoothing=0.0):
    """Both kernels, the second also in place, against the reference in float64."""
    args = targets, -100, label_smoothing
    want = call(cross_entropy_forward_backward, "reference", x.astype(np.float64), *args)
    before = x.copy()
    for kernel, inplace in ((BOTH[0], False), (BOTH[1], False), (BOTH[1], True)):
        got = call(kernel, implementation, x, *args, inplace)
        compare(kernel, implementation, list(got), list(want[: len(got)]))
        if inplace:
            assert got[1] is x
        else:
            np.testing.assert_array_equal(x, before)


@needs_compiler
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("V", [7, 8, 15, 255, 256, 513])
@pytest.mark.parametrize("dtype", ["float32", "float64", ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("step", CUDA)
def test_rows_at_any_address(step, dtype, V, offset):
    rng = np.random.default_rng(V)
    x = at_offset(rng.normal(0, 3, (5, V)).astype(dtype), offset)
    against_reference(step, x, rng.integers(0, V, 5), label_smoothing=0.1 * (offset == 1))


@needs_compiler
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype, V", [("float32", 60001), ("float64", 40000)])
def test_row_that_does_not_fit_on_the_chip(dtype, V, label_smoothing):
    """Longer than 224 KB: what has not stayed is read again, here after the rest of the row."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (2, V)).astype(dtype)
    against_reference(CUDA[-1], x, np.array([3, V - 1]), label_smoothing)


@needs_compiler
def test_gpu_with_less_shared_memory(monkeypatch):
    """99 KB a block, as GPUs for desks have: a thread's places are as few as they may be."""
    monkeypatch.setattr(cuda, "_HOPPER", 99 << 10)
    x = np.random.default_rng(0).normal(0, 3, (2, 33001)).astype(np.float32)
    against_reference(CUDA[-1], x, np.array([0, 33000]))


@needs_compiler
@pytest.mark.parametrize("kernel", BOTH, ids=lambda k: k.name)
def test_newest_step_reads_once(kernel):
    """The logits' sectors in global memory, read and written, for rows of an even size."""
    x, targets = np.zeros((8, 4096), np.float32), np.zeros(8, np.int64)
    with emulator.profiled() as log:
        call(kernel, CUDA[-1], x, targets, -100, 0.0)
    (*_, lines), sectors = log[0], x.nbytes // 32
    wide = [line for line in lines if line.space == 0 and line.size == 16]
    read = sum(line.units for line in wide if line.kind == 0)
    written = sum(line.units for line in wide if line.kind == 1)
    assert (read, written) == (sectors, sectors * (kernel is not cross_entropy_forward))


@needs_compiler
@pytest.mark.parametrize("step", CUDA)
def test_bad_arguments(step):
    run = cross_entropy_forward.implementation(step)
    x, targets = np.zeros((2, 4), np.float32), np.zeros(2, np.int64)
    with pytest.raises(UserError, match="no float16"):
        run(x.astype(np.float16), targets, -100, 0.0)
    with pytest.raises(UserError, match="targets takes int64, not int32"):
        run(x, targets.astype(np.int32), -100, 0.0)
    with pytest.raises(UserError, match="logits must be contiguous"):
        run(np.zeros((4, 2), np.float32).T, targets, -100, 0.0)
