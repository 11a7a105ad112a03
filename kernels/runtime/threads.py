"""The thread pool of the CPU kernels: its size, and how a loop over rows is spread over it.

Kernels are compiled without the GIL and take a range of rows, so plain Python threads run them
side by side. A loop is cut into a piece a thread, and whoever is free takes the next: the caller
too, so that it never waits for a thread that the system has not let run yet. On a busy machine
that wait is a whole time slice, 4 ms at each of a step's hundred loops; this way such a step
merely runs on one thread. Nothing spins. The pool has `env.THREADS` threads, the caller included.

The pieces depend on the number of threads alone, never on who runs them. Kernels that reduce over
rows cut the rows in a fixed number of parts, so results do not depend on that number either.
"""

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np

from minillm import env


class _Loop:
    """One call of `parallel`: the pieces nobody has taken yet, and word of those that are done."""

    __slots__ = ("args", "done", "function", "pieces")

    def __init__(self, function: Callable[..., None], bounds: list[int], args: tuple):
        self.function, self.args = function, args
        self.pieces = deque(zip(bounds[:-1], bounds[1:]))
        self.done: SimpleQueue = SimpleQueue()  # of pieces that workers ran: None, or their error

    def take(self) -> tuple[int, int] | None:
        """The next piece, for one thread alone."""
        try:
            return self.pieces.popleft()
        except IndexError:
            return None


_loops: SimpleQueue = SimpleQueue()
_workers: list[threading.Thread] = []
_lock = threading.Lock()


def _work() -> None:
    while True:
        loop = _loops.get()
        while (piece := loop.take()) is not None:
            try:
                loop.function(*piece, *loop.args)
                loop.done.put(None)
            except BaseException as error:  # handed to the caller, who raises it
                loop.done.put(error)
        del loop  # its arrays must not live until the next one comes


def _start_workers(count: int) -> None:
    with _lock:
        while len(_workers) < count:
            worker = threading.Thread(target=_work, name="minillm-kernel", daemon=True)
            worker.start()
            _workers.append(worker)


def parallel(function: Callable[..., None], n: int, grain: int, *args: Any) -> None:
    """Run `function(start, stop, *args)` over [0, n), cut into contiguous ranges.

    Args:
        function: a `jit` function that may run on several threads at once, each on its own rows.
        n: number of rows.
        grain: fewest rows worth a piece of their own: about 50 microseconds of work.
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
    pieces = max(1, min(env.THREADS, n // max(grain, 1)))
    return [n * i // pieces for i in range(pieces + 1)]


def _run(function: Callable[..., None], bounds: list[int], args: tuple) -> None:
    pieces = len(bounds) - 1
    if pieces == 1:
        function(*bounds, *args)
        return
    helpers = min(env.THREADS, pieces) - 1
    if len(_workers) < helpers:
        _start_workers(helpers)
    loop = _Loop(function, bounds, args)
    for _ in range(helpers):
        _loops.put(loop)
    own = 0
    try:
        while (piece := loop.take()) is not None:
            own += 1
            function(*piece, *args)
    finally:  # the workers write into the caller's arrays: never leave before they have finished
        while loop.take() is not None:  # only after an error of our own
            own += 1
        errors = [loop.done.get() for _ in range(pieces - own)]
        loop.args = ()  # a worker that comes too late still finds the loop in its queue
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
