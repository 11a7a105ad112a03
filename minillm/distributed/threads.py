"""Ranks as threads of one process: for tests, and for reading along without MPI.

    run_threads(4, lambda comm: all_reduce(comm, np.ones(3)))

Stricter than MPI may be: every send waits for its receive, whatever its size, so code that works
here does not depend on buffers. When all ranks wait for one another, each is told so instead.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from minillm.distributed.comm import Communicator

T = TypeVar("T")


class _Hub:
    """Where sends meet receives."""

    def __init__(self, size: int):
        self.changed = threading.Condition()
        self.sends: dict[tuple, deque[_Request]] = defaultdict(deque)  # by (source, dest, tag)
        self.receives: dict[tuple, deque[_Request]] = defaultdict(deque)
        self.waiting: dict[int, _Request] = {}
        self.running = size
        self.error: BaseException | None = None

    def post(self, request: "_Request", mine: dict, theirs: dict, key: tuple) -> "_Request":
        with self.changed:
            if theirs[key]:
                send, receive = request, theirs[key].popleft()
                if mine is self.receives:
                    send, receive = receive, send
                self._deliver(send, receive)
            else:
                mine[key].append(request)
        return request

    def _deliver(self, send: "_Request", receive: "_Request") -> None:
        if send.data.size != receive.data.size:
            self.fail(ValueError(f"{receive} for {receive.data.size} bytes, {send} is not"))
            return
        receive.data[...] = send.data
        send.done = receive.done = True
        self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let every rank raise; the first error is the one to report."""
        with self.changed:
            self.error = self.error or error
            self.changed.notify_all()

    def check(self) -> None:
        if self.error is not None:
            raise _Stopped from self.error

    def look_for_deadlock(self) -> None:
        if len(self.waiting) == self.running and not any(r.done for r in self.waiting.values()):
            stuck = "; ".join(str(request) for _, request in sorted(self.waiting.items()))
            if stuck:
                self.fail(RuntimeError(f"deadlock: {stuck}"))


class _Stopped(BaseException):
    """Raised in the ranks that did nothing wrong when another failed."""


class _Request:
    def __init__(self, hub: _Hub, rank: int, data: np.ndarray, what: str):
        self.hub, self.rank, self.data, self.what = hub, rank, data, what
        self.done = False

    def __str__(self) -> str:
        return f"rank {self.rank} {self.what}"

    def test(self) -> bool:
        self.hub.check()
        return self.done

    def wait(self) -> None:
        hub = self.hub
        with hub.changed:
            hub.waiting[self.rank] = self
            hub.look_for_deadlock()
            while not self.test():
                hub.changed.wait()
            del hub.waiting[self.rank]


class ThreadCommunicator(Communicator):
    """One of the ranks of `run_threads`."""

    def __init__(self, hub: _Hub, rank: int, size: int):
        self._hub, self.rank, self.size = hub, rank, size

    def _isend(self, data: np.ndarray, dest: int, tag: int) -> _Request:
        hub = self._hub
        request = _Request(hub, self.rank, data, f"sends to {dest} (tag {tag})")
        return hub.post(request, hub.sends, hub.receives, (self.rank, dest, tag))

    def _irecv(self, data: np.ndarray, source: int, tag: int) -> _Request:
        hub = self._hub
        request = _Request(hub, self.rank, data, f"receives from {source} (tag {tag})")
        return hub.post(request, hub.receives, hub.sends, (source, self.rank, tag))

    def abort(self, code: int = 1) -> None:
        self._hub.fail(RuntimeError(f"rank {self.rank} of {self.size} aborted with code {code}"))
        self._hub.check()


def run_threads(size: int, fn: Callable[[Communicator], T]) -> list[T]:
    """Run `fn(comm)` on `size` ranks at once; what each returned, by rank.

    Raises:
        What the first failing rank raised, or RuntimeError for a deadlock, once all have ended.
    """
    hub = _Hub(size)
    results: list = [None] * size

    def work(rank: int) -> None:
        try:
            results[rank] = fn(ThreadCommunicator(hub, rank, size))
        except _Stopped:
            pass
        except BaseException as error:
            hub.fail(error)
        with hub.changed:
            hub.running -= 1
            hub.waiting.pop(rank, None)
            hub.look_for_deadlock()

    threads = [
        threading.Thread(target=work, args=(rank,), name=f"rank {rank}", daemon=True)
        for rank in range(size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if hub.error is not None:
        raise hub.error
    return results
