"""The collectives on threads: right sums, equal bits, any size, little memory."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.distributed import (
    all_gather,
    all_reduce,
    broadcast,
    chunk,
    reduce_scatter,
    reduction,
    run_threads,
)
from minillm.distributed.steps import Progress
from minillm.errors import UserError
from minillm.kernels.tolerances import tolerance

DTYPES = [np.float64, np.float32, ml_dtypes.bfloat16, np.int64]
cases = {
    "n": st.integers(0, 12) | st.integers(13, 400),
    "size": st.integers(1, 5),
    "dtype": st.sampled_from(DTYPES),
    "piece": st.sampled_from([8, 40, 1 << 20]),
}


@pytest.fixture(autouse=True)
def restore():
    before = reduction.PIECE_BYTES
    yield
    reduction.PIECE_BYTES = before


def inputs(n, size, dtype):
    rng = np.random.default_rng((n, size))
    return [(4 * rng.standard_normal(n)).astype(dtype) for _ in range(size)]


@given(**cases)
def test_all_reduce_is_the_sum_in_the_same_bits_everywhere(n, size, dtype, piece):
    reduction.PIECE_BYTES = piece
    each = inputs(n, size, dtype)

    def work(comm):
        array = each[comm.rank].copy()
        assert all_reduce(comm, array, algorithm="ring") is None
        return array

    first, *others = run_threads(size, work)
    assert all(other.tobytes() == first.tobytes() for other in others)
    assert run_threads(size, work)[0].tobytes() == first.tobytes()
    exact = np.array([x.astype(np.float64) for x in each])
    bound = tolerance("all_reduce", np.dtype(dtype).name).rtol * np.abs(exact).sum(0)
    assert (np.abs(first.astype(np.float64) - exact.sum(0)) <= bound).all()


@given(**cases)
def test_reduce_scatter_and_all_gather_are_its_halves(n, size, dtype, piece):
    reduction.PIECE_BYTES = piece
    each = inputs(n, size, dtype)

    def work(comm):
        whole, parts = each[comm.rank].copy(), each[comm.rank].copy()
        all_reduce(comm, whole, algorithm="ring")
        mine = reduce_scatter(comm, parts)
        assert mine.tobytes() == chunk(comm, whole).tobytes()
        parts = np.zeros_like(parts)
        chunk(comm, parts)[...] = mine
        all_gather(comm, parts)
        assert parts.tobytes() == whole.tobytes()
        return mine.size

    sizes = run_threads(size, work)
    assert sum(sizes) == n and max(sizes) - min(sizes) <= 1


@given(st.integers(1, 9), st.integers(0, 8), st.integers(0, 50))
def test_broadcast(size, root, n):
    root %= size

    def work(comm):
        array = np.full(n, comm.rank, np.float32)
        broadcast(comm, array, root=root)
        return array.tolist()

    assert run_threads(size, work) == [[root] * n] * size


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
def test_many_under_way_at_once(size, count, seed):
    reduction.PIECE_BYTES = 64

    def work(comm):
        rng = np.random.default_rng((seed, comm.rank))
        arrays = [np.full(30 * i + 1, comm.rank + i) for i in range(count)]
        progress = Progress()
        for tag, array in enumerate(arrays):
            progress.start(all_reduce.steps(comm, array, tag=tag))
            for _ in range(rng.integers(3)):  # ranks look in at different moments
                progress.poll()
        progress.wait()
        return [array[0] for array in arrays if (array == array[0]).all()]

    ranks = size * (size - 1) // 2
    assert run_threads(size, work) == [[ranks + size * i for i in range(count)]] * size


def test_large_arrays_do_not_deadlock():
    def work(comm):
        array = np.ones(3_000_001, np.float32)
        all_reduce(comm, array)
        return (array == comm.size).all()

    assert all(run_threads(4, work))


def test_what_it_sends_and_what_memory_it_takes():
    reduction.PIECE_BYTES = 1 << 16
    n, size = 1 << 20, 4  # 8 MiB, 32 pieces a chunk
    arrays = [np.ones(n) for _ in range(size)]
    tracemalloc.start()
    try:
        sent = run_threads(
            size, lambda comm: all_reduce(comm, arrays[comm.rank], "sum", "ring") or comm.bytes_sent
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sent == [2 * (size - 1) * n * 8 // size] * size
    assert peak < size * reduction.DEPTH * reduction.PIECE_BYTES + 500_000


def test_a_tag_under_way_is_refused():
    """Ranks balanced by speed gathered their times while gradients were on their way, both with
    tag 0: now and then a rank took one message for the other."""

    def work(comm):
        sums, array = Progress(), np.ones(10)
        sums.start(all_reduce.steps(comm, array, tag=3))
        with pytest.raises(UserError, match="all_gather with tag 3, which a collective .* uses"):
            all_gather(comm, np.ones(10), tag=3)
        all_gather(comm, np.ones(10), tag=4)
        sums.wait()
        all_gather(comm, array, tag=3)
        return array.sum()

    assert run_threads(3, work) == [30.0] * 3


def test_a_barrier_may_come_while_a_sum_is_under_way():
    def work(comm):
        sums, array = Progress(), np.ones(10)
        sums.start(all_reduce.steps(comm, array))
        comm.barrier()
        sums.wait()
        return array.sum()

    assert run_threads(3, work) == [30.0] * 3
