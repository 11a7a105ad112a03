"""Embedding beside the generic test: rows asked for often, and not at all; any view of a table."""

import numpy as np
import pytest

from minillm import env
from minillm.errors import UserError
from minillm.kernels.embedding import check_ids, embedding_backward, embedding_forward
from minillm.kernels.registry import use
from minillm.kernels.runtime import cuda, emulator
from tests import fake_cupy

needs_emulator = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")
STEPS = [pytest.param(step, marks=needs_emulator) for step in ("v1_naive", "v2_sorted")]


def test_repeated_ids_add_up_in_order_on_any_number_of_threads(monkeypatch):
    rng = np.random.default_rng(0)
    dy, ids = rng.normal(size=(4000, 200)).astype(np.float32), rng.integers(0, 3, 4000)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(env, "THREADS", threads)
        results.append(embedding_backward(dy, ids, 5))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    assert not results[0][3:].any()


@pytest.mark.parametrize("implementation", ["cpu", "reference", *STEPS])
@pytest.mark.parametrize("bad", [-1, 5])
def test_ids_outside_the_table_are_refused(implementation, bad):
    ids, message = np.array([0, bad]), f"id {bad} is outside the table of 5 rows"
    with use(implementation):
        with pytest.raises(UserError, match=message):
            embedding_forward(np.zeros((5, 3)), ids)
        with pytest.raises(UserError, match=message):
            embedding_backward(np.zeros((2, 3)), ids, 5)


def test_checking_ids_waits_for_a_gpu_once_and_knows_every_integer_type():
    for dtype in ("int8", "int32", "int64", "uint8", "uint64"):
        check_ids(np.array([0, 120], dtype), 300)
        V = 300 if dtype.startswith("i") else 200  # -1 as uint8 is 255
        with pytest.raises(UserError, match=f"is outside the table of {V} rows"):
            check_ids(np.array([0, 2, -1]).astype(dtype), V)
    with fake_cupy.installed():
        import cupy

        ids = cupy.asarray(np.array([3, 0, 4]))
        before = fake_cupy.waits()
        check_ids(ids, 5)
        assert fake_cupy.waits() == before + 1


def unaligned(shape):
    """A contiguous array of small whole numbers, one element after an aligned address."""
    count = shape[0] * shape[1]
    drawn = np.random.default_rng(0).integers(-8, 9, count + 1)
    return drawn.astype(np.float32)[1:].reshape(shape)


@pytest.mark.parametrize("C", [1, 3, 8, 132])
@pytest.mark.parametrize("step", STEPS)
def test_any_view_of_a_table(step, C):
    ids = np.random.default_rng(1).integers(0, 9, 50)
    forward = embedding_forward.implementation(step)
    for weight in (unaligned((9, C)), unaligned((C, 9)).T, unaligned((9, 2 * C))[:, ::2]):
        np.testing.assert_array_equal(forward(weight, ids), weight[ids])
    for same in (ids.astype(np.int32), np.repeat(ids, 2)[::2]):
        np.testing.assert_array_equal(forward(weight, same), weight[ids])


@pytest.mark.parametrize("step", STEPS)
def test_table_without_columns(step):
    ids = np.array([1, 0])
    assert embedding_forward.implementation(step)(np.zeros((3, 0)), ids).shape == (2, 0)
    assert embedding_backward.implementation(step)(np.zeros((2, 0)), ids, 3).shape == (3, 0)


def counted(ids, dy, V):
    """The gradient by its formula; whole numbers, so that the order of sums does not matter."""
    dweight = np.zeros((V, dy.shape[1]), dy.dtype)
    np.add.at(dweight, ids, dy)
    return dweight


@needs_emulator
@pytest.mark.parametrize("N", [1, 63, 64, 65, 128, 129, 2049])
@pytest.mark.parametrize("kind", ["one id", "all different", "runs of 64", "few", "one often"])
def test_sorted_sums_lose_no_row_at_the_edges_of_chunks(kind, N):
    rng = np.random.default_rng(0)
    ids = {
        "one id": np.full(N, 4),
        "all different": rng.permutation(N),
        "runs of 64": np.arange(N) // 64,
        "few": rng.integers(0, 7, N),
        "one often": np.where(rng.random(N) < 0.8, 3, rng.integers(0, N, N)),
    }[kind]
    V = int(ids.max()) + 2
    for dy in (unaligned((N, 5)), unaligned((N, 4)), unaligned((N, 4)).copy()):
        got = embedding_backward.implementation("v2_sorted")(dy, ids, V)
        np.testing.assert_array_equal(got, counted(ids, dy, V))


@needs_emulator
def test_small_grids_go_through_chunks_and_columns_in_turns(monkeypatch):
    program = cuda.program(embedding_backward.folder / "v2_sorted.cu")
    monkeypatch.setitem(program.constants, "MOST_BLOCKS_Y", 1)
    monkeypatch.setitem(program.constants, "COLUMNS", 100)
    ids = np.random.default_rng(0).integers(0, 9, 700)
    for C in (201, 300):
        dy = unaligned((700, C)).copy()
        got = embedding_backward.implementation("v2_sorted")(dy, ids, 9)
        np.testing.assert_array_equal(got, counted(ids, dy, 9))


@pytest.mark.parametrize("step", STEPS)
def test_nan_stays_in_the_row_that_asked_for_it(step):
    ids = np.arange(300) % 5
    dy = unaligned((300, 8)).copy()
    dy[ids == 2] = np.nan
    dweight = embedding_backward.implementation(step)(dy, ids, 6)
    assert np.isnan(dweight[2]).all()
    assert not np.isnan(np.delete(dweight, 2, 0)).any()


@pytest.mark.parametrize("step", STEPS)
def test_dtypes_that_no_kernel_takes_are_refused(step):
    with pytest.raises(UserError, match="no float16"):
        embedding_forward.implementation(step)(np.zeros((3, 4), np.float16), np.array([1]))
