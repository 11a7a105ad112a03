"""Replicas that differ, and by whose numbers a sum is no number."""

import math

import ml_dtypes
import numpy as np
import pytest

from minillm.distributed import run_threads, split
from minillm.distributed.checksum import ReplicasDiffer, blame, check_replicas, checksums

DTYPES = [np.float32, np.float64, ml_dtypes.bfloat16, np.int64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 1001])
def test_every_bit_counts(dtype, n, rng):
    array = rng.standard_normal(n).astype(dtype)
    before = checksums([array])
    bits = array.view(np.uint8)
    for bit in range(8 * bits.size) if n < 4 else (0, 7, 4005):
        bits[bit // 8] ^= 1 << bit % 8
        assert checksums([array]) != before
        bits[bit // 8] ^= 1 << bit % 8
    assert checksums([array]) == before


def test_shapes_views_and_nothing():
    flat = np.arange(30, dtype=np.float32)
    sums = checksums([flat[3:15].reshape(3, 4), flat[3:15].copy(), np.zeros((0, 3))])
    assert sums.dtype == np.uint64 and sums[0] == sums[1] != 0 and sums[2] == 0


def arrays():
    return {"a": np.arange(7.0), "b.weight": np.ones((3, 5), np.float32), "c": np.zeros(0)}


def differing(size, wrong):
    """The error and what was printed when these ranks have another b.weight."""

    def work(comm):
        mine = arrays()
        if comm.rank in wrong:
            mine["b.weight"][1, 2] += comm.rank + 1
        check_replicas(comm, mine, 20)

    with pytest.raises(ReplicasDiffer) as raised:
        run_threads(size, work)
    return raised.value


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_equal_replicas(size, capfd):
    run_threads(size, lambda comm: check_replicas(comm, arrays(), 1))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size, wrong", [(3, [0]), (3, [2]), (4, [1]), (5, [1, 3])])
def test_the_few_are_named(size, wrong, capfd):
    error = differing(size, wrong)
    assert (error.ranks, error.name, error.code) == (wrong, "b.weight", 1)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "first in b.weight, in 1 of 3 arrays" in said
    assert f"rank{'s' * (len(wrong) > 1)} {' and '.join(map(str, wrong))} differ" in said


@pytest.mark.parametrize("size, wrong", [(2, [0]), (2, [1]), (4, [2, 3]), (4, [0, 1, 2, 3])])
def test_without_a_majority_all_are_named(size, wrong, capfd):
    assert differing(size, wrong).ranks == list(range(size))
    assert "differ from one another" in capfd.readouterr().err


def test_not_a_number_equals_itself():
    nan = {"a": np.full(3, np.nan)}
    run_threads(3, lambda comm: check_replicas(comm, nan, 1))


def test_a_group_has_its_ranks_named_as_in_the_run(capfd):
    def work(comm):
        group = split(comm, 0 if comm.rank else 1)  # ranks 1 to 3
        mine = arrays()
        mine["a"][0] += comm.rank == 3
        if comm.rank:
            check_replicas(group, mine, 2)

    with pytest.raises(ReplicasDiffer) as raised:
        run_threads(4, work)
    assert raised.value.ranks == [3]
    assert "rank 3 differs from ranks 1 and 2" in capfd.readouterr().err


def test_all_ranks_of_a_grid_end_together(capfd):
    """Those that hold other parts of the model waited for ranks that had ended, and failed."""
    ended = []

    def work(comm):
        row, mine = split(comm, comm.rank % 2), arrays()
        check_replicas(row, mine, 1, comm)
        mine["a"][0] += comm.rank == 3
        try:
            check_replicas(row, mine, 2, comm)
        except ReplicasDiffer as error:
            ended.append((comm.rank, error.ranks))

    run_threads(4, work)
    assert sorted(ended) == [(0, []), (1, [1, 3]), (2, []), (3, [1, 3])]
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "ranks 1 and 3 differ from one another" in said


def blamed(*numbers):
    results = run_threads(len(numbers), lambda comm: blame(comm, *numbers[comm.rank]))
    assert all(result == results[0] for result in results)
    return results[0]


def test_blame():
    fine = 1.0, 2.0
    assert blamed(fine, (math.nan, math.nan), fine) == (
        [1],
        "rank 1: its own loss is nan and its own gradient, before the sum, is nan;"
        " ranks 0 and 2: finite",
    )
    assert blamed((2.0, math.inf), fine) == (
        [0],
        "rank 0: its own gradient, before the sum, is inf; rank 1: finite",
    )
    assert blamed(fine, fine) == (
        [],
        "on each rank alone loss and gradient are finite: their sum is not",
    )
    assert blamed((math.nan, 0.0), (math.nan, 0.0)) == ([0, 1], "on all ranks: its own loss is nan")
    assert blamed((math.nan, 0.0)) == ([0], "rank 0: its own loss is nan")
