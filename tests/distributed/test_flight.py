"""The flight recorder: numbers that agree, what is under way, who called."""

import gc

import numpy as np
import pytest

from minillm.distributed import SingleProcess, all_reduce, broadcast, on_root, run_threads, split
from minillm.distributed.flight import KEPT
from minillm.distributed.steps import Collective, Progress
from minillm.errors import UserError


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_all_ranks_count_alike(size):
    def work(comm):
        all_reduce(comm, np.ones(5, np.float32), tag=3)
        comm.barrier()
        on_root(comm, lambda: "x" * (1 + comm.rank))
        half = split(comm, comm.rank % 2)
        broadcast(half, np.zeros((7,), np.int64))
        all_reduce(comm, np.ones(2), "max", "ring", 4)
        return [(c.context, c.number, c.what, c.tag, c.size) for c in comm.flight.calls], [
            c.ended >= c.began for c in comm.flight.calls
        ]

    results = run_threads(size, work)
    told = [(0, 3, "broadcast of (1,) int64", 0, size)] if size > 1 else []
    calls, ended = results[0]
    assert calls[:2] == [(0, 1, "all_reduce of (5,) float32", 3, size), (0, 2, "barrier", 0, size)]
    assert calls[2 : 2 + len(told)] == told and all(ended)
    assert calls[-2:] == [
        (1, 1, "broadcast of (7,) int64", 0, -(-size // 2)),
        (0, calls[-1][1], "all_reduce of (2,) float64", 4, size),
    ]
    for other, _ in results[1:]:
        assert [call[:4] for call in other] == [call[:4] for call in calls]


def test_the_source_is_outside_of_the_package():
    comm = SingleProcess()
    all_reduce(comm, np.ones(3))
    here = test_the_source_is_outside_of_the_package.__code__.co_firstlineno + 2
    (call,) = comm.flight.calls
    where = f"tests/distributed/test_flight.py:{here} {here and 'test_the_source_is_outside'}"
    assert call.source.startswith(where)
    assert str(call) == f"all_reduce #1 of (3,) float64 at {call.source}"
    on_root(comm, lambda: comm.barrier())
    assert "test_flight.py" in comm.flight.calls[-1].source


def test_what_overlaps_is_under_way():
    def work(comm):
        progress, flight = Progress(), comm.flight
        arrays = [np.full(50, comm.rank + 1.0), np.full(3, comm.rank + 1.0)]
        for tag, array in enumerate(arrays):
            progress.start(all_reduce.steps(comm, array, algorithm="ring", tag=tag))
        under_way = [(c.number, c.shape, c.tag) for c in flight.under_way()]
        progress.wait()
        return under_way, flight.under_way()

    for under_way, after in run_threads(3, work):
        assert under_way == [(1, (50,), 0), (2, (3,), 1)]
        assert after == []


def test_one_that_was_never_driven_is_not_counted():
    comm = SingleProcess()
    all_reduce.steps(comm, np.ones(3))
    comm.barrier()
    assert [(c.name, c.number) for c in comm.flight.calls] == [("barrier", 1)]


@Collective
def fails(comm, array, error):
    yield from ()
    raise error


def test_a_refusal_ends_and_an_error_stays_under_way():
    comm = SingleProcess()
    with pytest.raises(UserError):
        all_reduce(comm, np.ones(2), "median")
    with pytest.raises(UserError):
        fails(comm, np.ones(2), UserError("no"))
    assert comm.flight.under_way() == []
    with pytest.raises(KeyError):
        fails(comm, np.ones(2), KeyError("sky"))
    assert [(c.name, c.number) for c in comm.flight.under_way()] == [("fails", 3)]
    assert not comm.tags_taken  # tags: whoever goes on may take them
    with pytest.raises(AttributeError):
        all_reduce(comm, [1.0])
    assert not comm.tags_taken


def test_one_given_up_has_ended():
    def work(comm):
        steps = all_reduce.steps(comm, np.ones(9), algorithm="ring")
        next(steps)
        under_way = len(comm.flight.under_way()), len(comm.tags_taken)
        steps.close()
        return under_way, len(comm.flight.under_way()), len(comm.tags_taken)

    assert run_threads(2, work) == [((1, 1), 0, 0)] * 2


def test_only_the_latest_are_kept_and_no_arrays():
    comm = SingleProcess()
    array = np.ones(1000)
    for _ in range(KEPT + 10):
        all_reduce(comm, array)
    assert len(comm.flight.calls) == KEPT and comm.flight.calls[-1].number == KEPT + 10
    gc.collect()
    assert not [r for r in gc.get_referrers(array) if r is not locals() and isinstance(r, dict)]


def test_arguments_by_name():
    comm = SingleProcess()
    all_reduce(comm, array=np.ones(4, np.float32), tag=9)
    (call,) = comm.flight.calls
    assert (call.shape, str(call.dtype), call.tag) == ((4,), "float32", 9)


def test_what_blocks_is_what_the_rank_is_in():
    comm = SingleProcess()
    flight, array = comm.flight, np.ones(2)
    first = flight.begin(comm, "all_reduce", array, 0, False)
    flight.begin(comm, "all_reduce", array, 1, False)
    assert flight.current() is first
    inside = flight.begin(comm, "barrier", None, 0, True)
    assert flight.current() is inside and inside.what == "barrier"
    flight.end(inside)
    assert flight.current() is first
