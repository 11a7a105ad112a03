"""The pool: every piece once, errors reach the caller, callers do not wait for each other."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from minillm import env
from minillm.kernels.runtime import threads
from minillm.kernels.runtime.threads import parallel, parallel_elements, row_parts


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    monkeypatch.setattr(env, "THREADS", 3)


def add_one(start, stop, x):
    x[start:stop] += 1


@pytest.mark.parametrize("n", [0, 1, 5, 6, 1000])
@pytest.mark.parametrize("grain", [0, 1, 7, 5000])
def test_each_row_is_run_once(n, grain):
    x = np.zeros(n)
    parallel(add_one, n, grain, x)
    assert (x == 1).all()


@pytest.mark.parametrize("n", [0, 63, 64, 65, 200_001])
def test_elements_are_cut_at_whole_vectors(n):
    x, starts = np.zeros(n), []

    def run(start, stop, x):
        starts.append(start)
        add_one(start, stop, x)

    parallel_elements(run, n, x)
    assert (x == 1).all() and all(start % 64 == 0 for start in starts)


def test_an_error_reaches_the_caller_after_all_pieces_have_ended():
    me, running, raised = threading.get_ident(), [], []

    def fail(start, stop, only_here):
        running.append(start)
        try:
            if (threading.get_ident() == me) == only_here:
                raised.append(start)
                raise ZeroDivisionError(start)
        finally:
            running.remove(start)

    for only_here in (True, False):
        for _ in range(50):
            raised.clear()
            if only_here:  # the caller leaves the other pieces, and waits for those taken
                with pytest.raises(ZeroDivisionError):
                    parallel(fail, 6, 1, only_here)
            else:  # whether a worker took any piece is up to the system
                try:
                    parallel(fail, 6, 1, only_here)
                    assert not raised
                except ZeroDivisionError:
                    assert raised
            assert not running
    x = np.zeros(100)
    parallel(add_one, 100, 1, x)  # the pool goes on
    assert (x == 1).all()


def test_many_callers_at_once_and_loops_within_loops():
    def outer(start, stop, x):
        for row in x[start:stop]:
            parallel(add_one, row.size, 1, row)

    def caller(seed):
        x = np.full((20, 50), seed)
        for _ in range(10):
            parallel(outer, len(x), 1, x)
        return (x == seed + 10).all()

    with ThreadPoolExecutor(6) as callers:
        assert all(callers.map(caller, range(24), timeout=60))


def test_busy_workers_neither_stop_a_caller_nor_keep_its_arrays(monkeypatch):
    """A loop that its caller ran alone is still in the workers' queue; its arrays must not be."""
    here, busy, release = threading.get_ident(), threading.Semaphore(0), threading.Event()

    def block(start, stop):
        busy.release()
        assert release.wait(30)

    everybody = len(threads._workers) + 2  # those that earlier tests started, one more, a caller
    monkeypatch.setattr(env, "THREADS", everybody)
    blocker = threading.Thread(target=parallel, args=(block, everybody, 1))
    try:
        blocker.start()
        for _ in range(everybody):
            assert busy.acquire(timeout=30)
        x, ran_by = np.zeros(100), set()
        alive = weakref.ref(x)

        def run(start, stop, x):
            ran_by.add(threading.get_ident())
            add_one(start, stop, x)

        parallel(run, 100, 1, x)
        assert (x == 1).all() and ran_by == {here}
        del x
        assert alive() is None
    finally:
        release.set()
        blocker.join(30)


def test_parts_of_a_sum_do_not_depend_on_threads(monkeypatch):
    for n in (0, 1, 15, 16, 1000):
        bounds = row_parts(n)
        assert bounds[0] == 0 and bounds[-1] == n and len(bounds) <= 17
        monkeypatch.setattr(env, "THREADS", 1)
        np.testing.assert_array_equal(bounds, row_parts(n))
