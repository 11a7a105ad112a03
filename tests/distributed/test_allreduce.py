"""Every all-reduce on threads: any ranks, operation, dtype and size; equal bits; little memory."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.distributed import (
    Group,
    SingleProcess,
    all_reduce,
    allreduce,
    doubling,
    reduce,
    reduce_scatter,
    reduction,
    run_threads,
)
from minillm.distributed.allreduce import ALGORITHMS, choose
from minillm.distributed.messages import Messages
from minillm.distributed.steps import Progress, run
from minillm.errors import UserError
from minillm.kernels.tolerances import tolerance
from tests import fake_cupy

DTYPES = [np.float64, np.float32, ml_dtypes.bfloat16, np.int64]
OPS = ["sum", "mean", "max", "min"]
cases = {
    "algorithm": st.sampled_from(["auto", *ALGORITHMS]),
    "op": st.sampled_from(OPS),
    "n": st.integers(0, 12) | st.integers(13, 400),
    "size": st.integers(1, 5),
    "dtype": st.sampled_from(DTYPES),
    "piece": st.sampled_from([8, 40, 1 << 20]),
    "hosts": st.integers(1, 3),
}


@pytest.fixture(autouse=True)
def restore(monkeypatch):
    monkeypatch.setattr(reduction, "PIECE_BYTES", reduction.PIECE_BYTES)
    monkeypatch.setattr(doubling, "KEPT_BYTES", doubling.KEPT_BYTES)


def inputs(n, size, dtype):
    rng = np.random.default_rng((n, size))
    return [(4 * rng.standard_normal(n)).astype(dtype) for _ in range(size)]


def expected(each, op):
    """In float64, and how far off a sum of rounded sums may be."""
    exact = np.array([x.astype(np.float64) for x in each])
    if op in ("max", "min"):
        return getattr(exact, op)(0), 0
    bound = tolerance("all_reduce", each[0].dtype.name).rtol * np.abs(exact).sum(0)
    return getattr(exact, op)(0), bound / (len(each) if op == "mean" else 1)


@settings(max_examples=200)
@given(**cases)
def test_what_numpy_says_in_the_same_bits_everywhere(algorithm, op, n, size, dtype, piece, hosts):
    if op == "mean" and dtype is np.int64:
        op = "sum"
    reduction.PIECE_BYTES = doubling.KEPT_BYTES = piece
    each = inputs(n, size, dtype)

    def work(comm):
        comm.host_of = [rank % hosts for rank in range(size)]
        array, again = each[comm.rank].copy(), each[comm.rank].copy()
        assert all_reduce(comm, array, op, algorithm) is None
        all_reduce(comm, again, op, algorithm)  # the second time, on what is kept
        assert again.tobytes() == array.tobytes()
        return array

    first, *others = run_threads(size, work)
    assert all(other.tobytes() == first.tobytes() for other in others)
    want, bound = expected(each, op)
    assert first.dtype == dtype and (np.abs(first.astype(np.float64) - want) <= bound).all()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_reduce_and_reduce_scatter_know_the_operations(op, dtype, size):
    reduction.PIECE_BYTES = 48
    each = inputs(101, size, dtype)
    want, bound = expected(each, op)
    for root in range(size):

        def work(comm, root=root):
            whole, parts = each[comm.rank].copy(), each[comm.rank].copy()
            reduce(comm, whole, op, root)
            return whole, reduce_scatter(comm, parts, op).copy()

        results = run_threads(size, work)
        for got in (results[root][0], np.concatenate([mine for _, mine in results])):
            assert (np.abs(got.astype(np.float64) - want) <= bound).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_nan_and_signed_zeros_are_the_same_everywhere(algorithm, size):
    specials = np.array([np.nan, -np.nan, 0.0, -0.0, np.inf, -np.inf, 1.0])

    def work(comm):
        arrays = [np.roll(specials, shift * comm.rank) for shift in range(7)]
        for array, op in zip(arrays, OPS * 2):
            with np.errstate(invalid="ignore"):
                all_reduce(comm, array, op, algorithm)
            assert np.isnan(array).any()
        return np.concatenate(arrays).tobytes()

    assert len(set(run_threads(size, work))) == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_many_under_way_at_once(algorithm, size, monkeypatch):
    monkeypatch.setattr(doubling, "MOST_KEPT", 2)  # fewer than are under way
    reduction.PIECE_BYTES = doubling.KEPT_BYTES = 64

    def work(comm):
        rng = np.random.default_rng(comm.rank)
        for repeat in range(3):
            arrays = [np.full(9 * i + 1, comm.rank + i + repeat) for i in range(6)]
            progress = Progress()
            for tag, array in enumerate(arrays):
                progress.start(all_reduce.steps(comm, array, "sum", algorithm, tag))
                for _ in range(rng.integers(3)):  # ranks look in at different moments
                    progress.poll()
            progress.wait()
            for i, array in enumerate(arrays):
                assert (array == size * (size - 1) // 2 + size * (i + repeat)).all()
        return len(comm.kept)

    assert max(run_threads(size, work)) <= 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_extra_memory_is_pieces_and_not_the_array(algorithm, size):
    reduction.PIECE_BYTES, n = 1 << 14, 1 << 18  # 2 MiB of float64, 128 pieces
    arrays = [np.ones(n) for _ in range(size)]
    run_threads(size, lambda comm: all_reduce(comm, np.ones(9), "sum", algorithm))
    tracemalloc.start()
    try:
        run_threads(size, lambda comm: all_reduce(comm, arrays[comm.rank], "sum", algorithm))
        peak = tracemalloc.get_traced_memory()[1] / size
    finally:
        tracemalloc.stop()
    assert peak < n * 8 / size  # the bound that is promised
    rounds = 2 * 2 * doubling.KEPT_BYTES if algorithm == "doubling" else 0
    assert peak < reduction.DEPTH * reduction.PIECE_BYTES + rounds + 150_000
    assert all((array == size).all() for array in arrays)


@pytest.mark.parametrize("size, factor", [(2, 1.0), (4, 1.5), (8, 1.75)])
def test_halving_sends_as_little_as_a_ring(size, factor):
    def sent(comm, algorithm):
        all_reduce(comm, np.ones(8 * 1000), algorithm=algorithm)
        return comm.bytes_sent

    for algorithm in ("halving", "ring"):
        assert run_threads(size, lambda c, a=algorithm: sent(c, a)) == [64_000 * factor] * size


def test_bfloat16_errs_by_its_own_rounding_a_message_deep():
    """256 + 1 is 256 in 8 bits: around a ring the ones are lost, in a tree they meet first."""
    each = [256, 1, 1, 1]

    def work(comm, algorithm):
        array = np.full(4, each[comm.rank], ml_dtypes.bfloat16)
        all_reduce(comm, array, algorithm=algorithm)
        return array.astype(float).tolist()

    assert run_threads(4, lambda comm: work(comm, "doubling"))[0] == [258] * 4
    assert min(run_threads(4, lambda comm: work(comm, "ring"))[0]) == 256


def test_auto_follows_the_table_for_this_layout():
    comm = SingleProcess()
    comm.size, comm.host_of = 4, [0] * 4
    assert (
        choose(comm, 0) == choose(comm, 1000) == "doubling" and choose(comm, 1 << 30) != "doubling"
    )
    comm.tables["4 ranks on 1 hosts"] = [(100, "ring"), (np.inf, "hierarchical")]
    assert [choose(comm, n) for n in (100, 101)] == ["ring", "hierarchical"]


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_at_once_on_what_is_kept_is_the_same_as_in_steps(size, n, monkeypatch):
    at_once = []
    redouble = allreduce.redouble
    monkeypatch.setattr(allreduce, "redouble", lambda *args: at_once.append(redouble(*args)))

    def work(comm):
        half, traced = Group(comm, range(size), context=1), Messages(comm)
        traced.recording = True
        for ranks in (comm, half, traced):
            for dtype in (np.float32, np.float64, ">f4"):  # of the same length, and bytes
                each = inputs(n, size, dtype)
                for op in ("sum", "max", "min", "mean", "sum"):
                    array, steps = each[comm.rank].copy(), each[comm.rank].copy()
                    run(all_reduce.steps(ranks, steps, op, "auto", 0))
                    before = comm.bytes_sent
                    all_reduce(ranks, array, op)
                    sent = comm.bytes_sent - before
                    assert array.tobytes() == steps.tobytes()
                    if size != 3:
                        assert sent == array.nbytes * (size.bit_length() - 1)
        assert comm.flight.under_way() == []
        return len(traced.noted)

    noted = run_threads(size, work)
    assert len(at_once) == (0 if size == 3 else size * 3 * 3 * 4)
    if size != 3:
        assert noted == [3 * 5 * 2 * 2 * (size.bit_length() - 1)] * size


def test_what_is_kept_serves_no_other_call():
    def work(comm):
        array = np.ones(8)
        for _ in range(2):
            all_reduce(comm, array)
        for wrong in (np.ones((2, 4)), np.ones(16)[::2]):
            with pytest.raises(ValueError, match="flat contiguous"):
                all_reduce(comm, wrong)
        with pytest.raises(UserError, match="no reduction 'avg'"):
            all_reduce(comm, array, "avg")
        sent = comm.bytes_sent
        all_reduce(comm, array, "sum", "ring")
        ring = comm.bytes_sent - sent
        comm.tables[comm.layout] = [(np.inf, "ring")]  # tuned meanwhile
        all_reduce(comm, array)
        return comm.bytes_sent - sent - ring, ring, array.tolist()

    assert run_threads(4, work) == [(96, 96, [4.0**4] * 8)] * 4


def refused(array, *args, kind=UserError):
    with pytest.raises(kind) as caught:
        run_threads(2, lambda comm: all_reduce(comm, array.copy("K"), *args))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_use():
    assert "'avg': choose one of sum, mean, max, min" in refused(np.ones(3), "avg")
    assert "'tree': choose one of auto, doubling" in refused(np.ones(3), "sum", "tree")
    assert "no mean of int64" in refused(np.ones(3, int), "mean")
    assert "under mpirun" in refused(np.ones(3), "sum", "mpi")
    assert "on the CPU" in refused(np.ones(3), "sum", "nccl")
    assert "(2, 2)" in refused(np.ones((2, 2)), kind=ValueError)
    with pytest.raises(UserError, match="choose one of"):
        all_reduce(SingleProcess(), np.ones(3), "avg")
    with pytest.raises(ValueError, match="flat contiguous"):
        all_reduce(SingleProcess(), np.ones(6)[::2])


def test_nccl_is_refused_where_cupy_comes_without_it():
    def work(comm):
        import cupy

        all_reduce(comm, cupy.ones(3), algorithm="nccl")

    with fake_cupy.installed(), pytest.raises(UserError, match="without NCCL"):
        run_threads(2, work)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("op", OPS)
def test_arrays_on_a_gpu(algorithm, op, capsys):
    each = inputs(33, 3, np.float32)

    def work(comm, put, get):
        array = put(each[comm.rank])
        all_reduce(comm, array, op, algorithm)
        return get(array).tobytes()

    with fake_cupy.installed():
        import cupy

        there = run_threads(3, lambda comm: work(comm, cupy.asarray, cupy.asnumpy))
    assert there == run_threads(3, lambda comm: work(comm, np.copy, np.copy))
