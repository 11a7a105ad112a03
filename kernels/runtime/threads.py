"""The thread pool of the CPU kernels: its size, and how a loop over rows is spread over it.

Kernels are compiled without the GIL and take a range of rows, so plain Python threads run them side
by side. There is one pool beside the BLAS's, both as large as `env.THREADS`, and a call too small
to gain from a second thread stays on the first. Kernels that reduce over rows cut the rows in a
fixed number of parts, so results do not depend on how many threads there are.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np

from minillm import env

_jobs: SimpleQueue = SimpleQueue()
_workers: list[threading.Thread] = []
_lock = threading.Lock()


def _work() -> None:
    while True:
        function, start, stop, args, done = _jobs.get()
        try:
            function(start, stop, *args)
            done.put(None)
        except BaseException as error:  # handed to the caller, who raises it
            done.put(error)


def _start_workers(count: int) -> None:
    with _lock:
        while len(_workers) < count:
            worker = threading.Thread(target=_work, name="minillm-kernel", daemon=True)
            worker.start()
            _workers.append(worker)


def parallel(function: Callable[..., None], n: int, grain: int, *args: Any) -> None:
    """Run `function(start, stop, *args)` over [0, n), one contiguous range for each thread.

    Args:
        function: a `jit` function that may run on several threads at once, each on its own rows.
        n: number of rows.
        grain: fewest rows worth a thread of their own: about 50 microseconds of work.
    """
    _run(function, _bounds(n, grain), args)


def parallel_elements(function: Callable[..., None], n: int, *args: Any) -> None:
    """`parallel` for loops over single elements, at a few operations an element.

    Ranges start at multiples of 64: the vector part of a loop and its scalar rest may round
    differently, and this way an element falls to the same one whatever the number of threads.
    """
    whole = [b // _VECTOR * _VECTOR for b in _bounds(n, rows_worth_a_thread(1))]
    _run(function, [*whole[:-1], n], args)


_VECTOR = 64  # elements that the widest vector loop takes at once


def _bounds(n: int, grain: int) -> list[int]:
    threads = max(1, min(env.THREADS, n // max(grain, 1)))
    return [n * i // threads for i in range(threads + 1)]


def _run(function: Callable[..., None], bounds: list[int], args: tuple) -> None:
    others = len(bounds) - 2
    if others == 0:
        function(*bounds, *args)
        return
    if len(_workers) < others:
        _start_workers(others)
    done: SimpleQueue = SimpleQueue()
    for start, stop in zip(bounds[1:-1], bounds[2:]):
        _jobs.put((function, start, stop, args, done))
    try:
        function(0, bounds[1], *args)
    finally:  # the workers write into the caller's arrays: never leave before they have finished
        errors = [done.get() for _ in range(others)]
    for error in filter(None, errors):
        raise error


def rows_worth_a_thread(row_elements: int) -> int:
    """The grain of a loop over rows that does a few operations an element."""
    return max(1, 16384 // max(row_elements, 1))


def row_parts(n: int, parts: int = 16) -> np.ndarray:
    """Bounds that cut [0, n) into at most `parts` ranges, the same whatever the number of threads.

    A kernel that sums over rows keeps one partial sum a part and adds them in order, so that its
    result does not depend on the machine's cores.
    """
    parts = max(1, min(parts, n))
    return np.array([n * i // parts for i in range(parts + 1)], np.int64)
