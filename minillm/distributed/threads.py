"""Ranks as threads of one process: for tests, and for reading along without MPI.

    run_threads(4, lambda comm: all_reduce(comm, np.ones(3)))

As strict as MPI allows: every send waits for its receive, whatever its size, and an array of which
a message is still under way must not be received into, or sent from while it is received into. When
all ranks wait for one another, the run ends with an error that says for what.
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
        self.done = False  # the message has arrived
        self.seen = False  # and its rank has been told: its array is free again

    def __str__(self) -> str:
        return f"rank {self.rank} {self.what}"

    def test(self) -> bool:
        self.hub.check()
        self.seen = self.done
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
        super().__init__(rank, size)
        self._hub = hub
        self._under_way: list[tuple[str, _Request]] = []

    def _isend(self, data: np.ndarray, dest: int, tag: int) -> _Request:
        hub = self._hub
        request = _Request(hub, self.rank, data, f"sends to {dest} (tag {tag})")
        self._claim("send", request)
        return hub.post(request, hub.sends, hub.receives, (self.rank, dest, tag))

    def _irecv(self, data: np.ndarray, source: int, tag: int) -> _Request:
        hub = self._hub
        request = _Request(hub, self.rank, data, f"receives from {source} (tag {tag})")
        self._claim("receive", request)
        return hub.post(request, hub.receives, hub.sends, (source, self.rank, tag))

    def _claim(self, kind: str, request: _Request) -> None:
        """Refuse a message whose array belongs to one that this rank does not know to be done."""
        self._under_way = [(k, r) for k, r in self._under_way if not r.seen]
        for other_kind, other in self._under_way:
            if "receive" in (kind, other_kind) and np.may_share_memory(request.data, other.data):
                raise ValueError(f"{request} with an array in use: {other}, and has not waited")
        self._under_way.append((kind, request))

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
